"""Draws the charts of the report page as SVG: learning curves, reliability diagrams, coverage against precision.

The colors are variables of the page's style sheet, so that a chart fits a light page, a dark page and paper. A chart is
360 units wide, and a page shows it no narrower than 300 pixels, so that letters are at least 10 pixels high on a phone.

Each `svg` says how its axes map values to units (`data-x` and `data-y`: the two values, then their two places). Points
carry the name of their value. A test reads both and compares every point with the files of the run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

WIDTH, HEIGHT = 360, 236
LEFT, RIGHT, TOP, BOTTOM = 46, 348, 24, 190
# The loss axis becomes logarithmic if the greatest loss exceeds this multiple of the median.
SKEWED = 20
# The height of the strip with the counts below a reliability diagram.
STRIP = 44


@dataclass(frozen=True)
class Axis:
    """Maps values to places.

    Args:
        low: The value at `start`.
        high: The value at `end`.
        start: A place, in units of the chart.
        end: The other place.
        log: Whether the axis is logarithmic.
        whole: Whether labels are whole numbers.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    whole: bool = False

    def __call__(self, value: float) -> float:
        low, high, here = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return round(self.start + (here - low) / (high - low) * (self.end - self.start), 2)

    def ticks(self) -> list[float]:
        """Return values for the labels, at round numbers."""
        if self.log:
            powers = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            return [10.0**power for power in powers][:: max(1, math.ceil(len(powers) / 6))]
        step = nice_step((self.high - self.low) / (7 if self.whole else 5))
        if self.whole:
            step = max(1.0, step)
        first = math.ceil(self.low / step - 1e-9)
        return [round(n * step, 10) for n in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def described(self) -> str:
        """Return the values and the places for a test."""
        return f"{self.low!r} {self.high!r} {self.start} {self.end}{' log' if self.log else ''}"


def nice_step(least: float) -> float:
    """Return the smallest of 1, 2, 5, 10, 20, 50 and so on (or 0.5, 0.2, ...) that is at least `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return float(next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9)))


def _frame(kind: str, x: Axis, y: Axis, described: str, xlabel: str, content: str, height: int = HEIGHT) -> Markup:
    """Return a chart: grid, ticks and labels around its content."""
    parts = []
    for value in y.ticks():
        place = y(value)
        parts.append(f'<path class="grid" data-grid="y" d="M{x.start} {place}H{x.end}"/>')
        parts.append(f'<text class="tick" data-tick="y" x="{x.start - 6}" y="{place + 4}">{value:g}</text>')
    for value in x.ticks():
        place = x(value)
        parts.append(f'<path class="mark" data-grid="x" d="M{place} {BOTTOM}v4"/>')
        parts.append(f'<text class="tick mid" data-tick="x" x="{place}" y="{BOTTOM + 18}">{value:g}</text>')
    parts.append(f'<path class="axis" d="M{x.start} {BOTTOM}H{x.end}"/>')
    parts.append(f'<text class="label mid" x="{(x.start + x.end) / 2}" y="{BOTTOM + 38}">{escape(xlabel)}</text>')
    return Markup(
        f'<svg class="chart" data-chart="{escape(kind)}" role="img" aria-label="{escape(described)}" '
        f'viewBox="0 0 {WIDTH} {height}" data-x="{x.described()}" data-y="{y.described()}">'
        f"{''.join(parts)}{content}</svg>"
    )


def _line(points: Sequence[tuple[float, float]], style: str) -> str:
    """Return a line through points; nothing if there is only one."""
    if len(points) < 2:
        return ""
    return f'<polyline class="{style}" points="{" ".join(f"{x:g},{y:g}" for x, y in points)}"/>'


def _dot(source: str, x: float, y: float, style: str, radius: float = 3) -> str:
    return f'<circle class="{style}" data-point="{escape(source)}" cx="{x:g}" cy="{y:g}" r="{radius:g}"/>'


def _finite(text: Any) -> float:
    """Return a value of history.csv as a number; NaN if it is not a finite one."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return math.nan
    return value if math.isfinite(value) else math.nan


def curves(
    history: Sequence[Mapping[str, Any]], metric: str, best_epoch: int | None, held_out: str = "validation"
) -> Markup | None:
    """Draw a metric of training and validation pictures over the epochs, with the phases.

    Args:
        history: The rows of history.csv.
        metric: "accuracy" or "loss".
        best_epoch: The epoch whose weights were kept; it gets a ring. None if it is not known.
        held_out: What the pictures of the columns `val_*` are called, such as "validation".

    Returns:
        The chart. None if there are fewer than two epochs, or no finite values.
    """
    epochs = [_finite(row.get("epoch")) for row in history]
    columns = {column: [_finite(row.get(column)) for row in history] for column in (metric, f"val_{metric}")}
    known = [value for values in columns.values() for value in values if not math.isnan(value)]
    if len(history) < 2 or not known or any(map(math.isnan, epochs)) or epochs[-1] <= epochs[0]:
        return None
    x = Axis(epochs[0], epochs[-1], LEFT + 8, RIGHT - 8, whole=True)
    y = _value_axis(known, metric)
    content = [_phases(history, epochs, x)]
    for column, style in ((metric, "other"), (f"val_{metric}", "main")):
        rows = [(i, v) for i, v in enumerate(columns[column]) if not math.isnan(v)]
        content.append(_line([(x(epochs[i]), y(v)) for i, v in rows], f"line {style}"))
        radius = 2.6 if len(rows) <= 40 else 1.4
        content += [_dot(f"history.{i}.{column}", x(epochs[i]), y(v), f"dot {style}", radius) for i, v in rows]
        content += [
            f'<circle class="ring" cx="{x(epochs[i]):g}" cy="{y(v):g}" r="6.5"/>'
            for i, v in rows
            if style == "main" and epochs[i] == best_epoch
        ]
    described = f"{metric.capitalize()} by epoch, on training and on {held_out} pictures. A table below has the values."
    return _frame(metric, x, y, described, "epoch", "".join(content))


def _value_axis(values: Sequence[float], metric: str) -> Axis:
    """Return the y axis of learning curves: to round numbers, logarithmic if half of the values would be flat."""
    low, high = min(values), max(values)
    if metric == "loss" and low > 0 and high > SKEWED * sorted(values)[len(values) // 2]:
        return Axis(10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high)), BOTTOM, TOP, log=True)
    step = nice_step(max(high - low, 0.02 if metric == "accuracy" else abs(high) / 10 or 0.01) / 5)
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    if high <= low:
        low, high = low - step, high + step
    return Axis(round(low, 10), round(min(high, 1.0) if metric == "accuracy" else high, 10), BOTTOM, TOP)


def _phases(history: Sequence[Mapping[str, Any]], epochs: Sequence[float], x: Axis) -> str:
    """Return a line between phases, and their names above, where there is room."""
    starts = [i for i, row in enumerate(history) if i == 0 or row.get("phase") != history[i - 1].get("phase")]
    ends = [*(i - 1 for i in starts[1:]), len(history) - 1]
    parts, free = [], 0.0
    for start, end in zip(starts, ends, strict=True):
        left = x(epochs[start] - 0.5) if start else LEFT
        right = x(epochs[end] + 0.5) if end < len(history) - 1 else RIGHT
        if start:
            parts.append(f'<path class="phase" d="M{left:g} {TOP - 8}V{BOTTOM}"/>')
        name = str(history[start].get("phase", ""))
        room = 7 * len(name) + 10
        if left >= free and room <= max(right - left, RIGHT - left if end == len(history) - 1 else 0):
            parts.append(
                f'<text class="note" data-figure="history.{start}.phase" x="{left + 4:g}" y="{TOP - 10}">'
                f"{escape(name)}</text>"
            )
            free = left + room
        elif not start and len(starts) > 1 and right - 4 - 7 * len(name) >= 0:
            # The first phase may also use the room above the labels of the y axis.
            parts.append(
                f'<text class="note" data-figure="history.{start}.phase" text-anchor="end" x="{right - 4:g}" '
                f'y="{TOP - 10}">{escape(name)}</text>'
            )
            free = right
    return "".join(parts)


def reliability(kind: str, source: str, bins: Sequence[Mapping[str, Any]]) -> Markup:
    """Draw accuracy against confidence, with the interval of each bin and a strip with the number of decisions.

    The strip is logarithmic, because most decisions of a good network are in the last bin.

    Args:
        kind: The name of the chart.
        source: Where the bins come from, such as "trust.reliability.after".
        bins: The entry `bins` of `zoo.evaluate.calibration.reliability`.
    """
    # The likeliest of two classes has at least 0.5, and so has a decision about a label.
    least = 0.5 if all(each["confidence"] >= 0.5 for each in bins) else 0.0
    x, y = Axis(least, 1.0, LEFT + 8, RIGHT - 8), Axis(0.0, 1.0, BOTTOM, TOP - 14)
    floor = BOTTOM + 48 + STRIP
    most = max((each["decisions"] for each in bins), default=1)
    content = [f'<path class="ideal" d="M{x(least):g} {y(least):g}L{x(1):g} {y(1):g}"/>']
    points = [(x(each["confidence"]), y(each["accuracy"])) for each in bins]
    for each, (place, _) in zip(bins, points, strict=True):
        low, high = each["accuracy_interval"]
        content.append(f'<path class="whisker" d="M{place:g} {y(low):g}V{y(high):g}"/>')
    content.append(_line(points, "line main"))
    content += [_dot(f"{source}.{i}", *place, "dot main", 3.4) for i, place in enumerate(points)]
    for i, (each, (place, _)) in enumerate(zip(bins, points, strict=True)):
        tall = round(max(1.0, STRIP * math.log1p(each["decisions"]) / math.log1p(most)), 2)
        content.append(
            f'<rect class="count" data-bar="{escape(source)}.{i}" x="{place - 5:g}" y="{floor - tall:g}" width="10" '
            f'height="{tall:g}"/>'
        )
    content.append(f'<path class="axis" d="M{x.start} {floor}H{x.end}"/>')
    strip = "decisions at this confidence, logarithmic"
    content.append(f'<text class="label" x="{LEFT + 8}" y="{floor + 16}">{strip}</text>')
    described = "Fraction of right answers against the confidence, in bins. A table below has the values."
    return _frame(kind, x, y, described, "confidence", "".join(content), floor + 22)


def coverage(curve: Sequence[Mapping[str, float]], chosen: float | None, wanted: float | None) -> Markup | None:
    """Draw the precision of the answers, and its lower bound, against the fraction of pictures that get an answer.

    Args:
        curve: The entry `unknown.curve` of trust.json.
        chosen: The coverage of the chosen threshold; None if there is none.
        wanted: The precision that was asked for; None if there is none.

    Returns:
        The chart. None if the curve has fewer than two points.
    """
    if len(curve) < 2:
        return None
    least = min([each["precision"] for each in curve] + [curve[-1]["lower"]] + ([wanted] if wanted else []))
    step = nice_step(max(1 - least, 0.01) / 4)
    x, y = Axis(0.0, 1.0, LEFT + 8, RIGHT - 8), Axis(round(max(0.0, 1 - 5 * step), 10), 1.0, BOTTOM, TOP - 14)
    lower = [(x(each["coverage"]), y(each["lower"])) for each in curve if each["lower"] >= y.low]
    precision = [(x(each["coverage"]), y(each["precision"])) for each in curve]
    content = []
    if wanted is not None:
        content.append(f'<path class="ideal" data-line="wanted" d="M{x.start} {y(wanted):g}H{x.end}"/>')
    if chosen is not None:
        content.append(f'<path class="phase" data-line="chosen" d="M{x(chosen):g} {TOP - 14}V{BOTTOM}"/>')
    content += [_line(lower, "line other"), _line(precision, "line main")]
    content += [_dot(f"trust.unknown.curve.{i}", *place, "dot main", 2) for i, place in enumerate(precision)]
    described = "Precision of the answers against the fraction of pictures that get one. A table below has the values."
    return _frame("coverage", x, y, described, "fraction of pictures that get an answer", "".join(content))


def heat_map(labels: Sequence[str], matrix: Sequence[Sequence[int]]) -> Markup:
    """Draw a confusion matrix of many classes: only cells with pictures, and names that show when it is enlarged.

    Args:
        labels: The names of the classes, as the page shows them. They stand outside of the drawing's box.
        matrix: Counts of pictures. Rows are true classes, and columns are predicted ones.
    """
    cell, size = 10, 10 * len(labels)
    names = [name if len(name) <= 22 else f"{name[:21]}…" for name in labels]
    parts = []
    for i, row in enumerate(matrix):
        total = max(1, sum(row))
        middle = cell * i + 8
        parts.append(f'<text class="end" data-figure="classes.{i}" x="-4" y="{middle}">{escape(names[i])}</text>')
        parts.append(
            f'<text data-figure="classes.{i}" transform="translate({middle} -4) rotate(-90)">{escape(names[i])}</text>'
        )
        parts += [
            f'<rect class="{"hit" if i == j else "miss"}" style="--s:{0.25 + 0.75 * count / total:.2f}" '
            f'x="{cell * j}" y="{cell * i}" width="{cell}" height="{cell}">'
            f'<title data-figure="test.confusion_matrix.{i}.{j}">{escape(labels[i])} → {escape(labels[j])}: {count}'
            "</title></rect>"
            for j, count in enumerate(row)
            if count
        ]
    return Markup(
        f'<svg class="heat" role="img" aria-label="Confusion matrix. The list above has its largest entries." '
        f'viewBox="0 0 {size} {size}" style="--units:{size}">'
        f'<rect class="paper" width="{size}" height="{size}"/>{"".join(parts)}</svg>'
    )
