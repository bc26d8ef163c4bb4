"""Draws the accuracy and loss of one or more runs over their epochs, as a PNG.

Dots show the measured values. The lines are exponentially smoothed, as in the plots of F. Chollet, "Deep Learning with
Python" (1st edition, section 5.3), with two differences:

- The book starts the mean with the first value. With a factor of 0.8, the first value enters with the weight 1, and
  every later value with the weight 0.2. Here the mean starts at 0 and is divided by the sum of the weights so far.
  Every value therefore enters with the same weight. Adam corrects its moments in the same way
  (https://arxiv.org/abs/1412.6980, section 3).
- The mean restarts in each phase. A new phase can train different layers, at a different learning rate. It starts
  from the best weights so far. The metrics may therefore jump. Without a restart, the line would show the jump as a
  slow drift.
"""

from __future__ import annotations

import csv
import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import files, runs
from zoo.errors import RunError, UsageError
from zoo.report import lettering

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FILE = "curves.png"
SMOOTH = 0.8
PANELS = ("accuracy", "loss")
COLUMNS = ("accuracy", "val_accuracy", "loss", "val_loss")

# People with any kind of color vision can distinguish Okabe and Ito's colors (https://jfly.uni-koeln.de/color/).
# Their yellow is missing, because it is hard to see on white. When all colors are in use, runs differ by the markers
# on their lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SHAPES = ("", "s", "^", "D")
TRAINING, VALIDATION = "#D55E00", "#0072B2"

WIDTH, HEIGHT = 9.0, 6.5  # inches
DPI = 120
LONGEST_LABEL = 24  # characters of a phase's name
LONGEST_NAME = 90  # characters of a run's name
SKEWED = 20  # The loss axis becomes logarithmic if the greatest loss exceeds this multiple of the median.


@dataclass(frozen=True)
class Curves:
    """Holds the metrics of one run after each epoch.

    Args:
        name: The name of the run in the drawing.
        epochs: The number of each epoch, in ascending order.
        phases: (name, number of epochs) of each phase, in order. The numbers add up to the number of all epochs.
        values: Maps each column to one number per epoch, NaN if there is none. The columns are accuracy and
            val_accuracy, in 0..1, and loss and val_loss.
        best_epoch: The number of the epoch whose weights were kept. None if this is not known.
    """

    name: str
    epochs: tuple[int, ...]
    phases: tuple[tuple[str, int], ...]
    values: dict[str, tuple[float, ...]]
    best_epoch: int | None

    def points(self, column: str) -> list[tuple[int, float]]:
        """Return (epoch, value) for each finite value of a column."""
        return [(x, y) for x, y in zip(self.epochs, self.values[column], strict=True) if math.isfinite(y)]

    def line(self, column: str, factor: float) -> list[tuple[int, float]]:
        """Return (epoch, smoothed value) for each finite value of a column. The smoothing restarts in each phase.

        Args:
            column: The name of the column.
            factor: The smoothing factor; see `smooth`.
        """
        line: list[tuple[int, float]] = []
        rows = iter(zip(self.epochs, self.values[column], strict=True))
        for _, count in self.phases:
            phase = [(x, y) for x, y in itertools.islice(rows, count) if math.isfinite(y)]
            line += zip((x for x, _ in phase), smooth([y for _, y in phase], factor), strict=True)
        return line


def smooth(values: Sequence[float], factor: float) -> list[float]:
    """Smooth values with an exponential moving average: a weighted mean of each value and all values before it.

    Older values have smaller weights. The weights are divided by their sum, so they always add up to 1.

    Args:
        values: Finite numbers.
        factor: How slowly the weights fall from each value to the value before it, in [0, 1). With 0.8, a value has 0.8
            times the weight of the value after it. 0 means no smoothing.

    Returns:
        One number per value. The first number equals the first value, and a constant series stays the same.
    """
    smoothed, total, weight = [], 0.0, 0.0
    for value in values:
        total = factor * total + (1 - factor) * value
        weight = factor * weight + (1 - factor)
        smoothed.append(total / weight)
    return smoothed


def of_run(run: runs.Run, record: runs.RunRecord, name: str) -> Curves:
    """Read the metrics of a run from its folder.

    Args:
        run: The run folder.
        record: The content of its run.json. It states the number of epochs of each phase, and the best epoch.
        name: The name of the run in the drawing.

    Raises:
        UsageError: history.csv is missing or empty, because no epoch has ended.
        RunError: history.csv is damaged.
    """
    path = run.folder / "history.csv"
    try:
        history = run.read_history()
        epochs = tuple(int(row["epoch"]) for row in history)
        values = {column: tuple(float(row.get(column) or "nan") for row in history) for column in COLUMNS}
        named = [str(row["phase"]) for row in history]
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise RunError(f"{str(path)!r} is damaged: {type(error).__name__}: {error}.") from None
    if not history:
        raise UsageError(
            f"the run {run.id!r} has no epochs to draw. history.csv gets a row when an epoch has ended, and the "
            f"status of this run is {record.status!r}."
        )
    # The record comes first, because two consecutive phases may have the same name. A phase that was skipped has no
    # epochs to show.
    counted = ((str(phase["name"]), int(phase["epochs_run"])) for phase in record.phases)
    phases = tuple((name, count) for name, count in counted if count)
    if sum(count for _, count in phases) != len(history):
        phases = tuple((phase, len(list(rows))) for phase, rows in itertools.groupby(named))
    return Curves(name, epochs, phases, values, record.best_epoch)


def draw(curves: Sequence[Curves], path: Path, factor: float = SMOOTH) -> None:
    """Draw the curves of one or more runs and write them to a PNG file. An existing file is replaced in one step.

    Args:
        curves: The metrics of one or more runs.
        path: The path of the PNG.
        factor: The smoothing factor; see `smooth`.

    Raises:
        WriteError: The file cannot be written.
    """
    drawn = figure(curves, factor)
    with files.atomic_write(path) as temporary:
        drawn.savefig(temporary, format="png", dpi=DPI)


def figure(curves: Sequence[Curves], factor: float = SMOOTH) -> Figure:
    """Draw one or more runs in two panels. The upper one shows the accuracy of each epoch, the lower one the loss.

    Training lines are dashed and validation lines are solid. A ring marks the epoch whose weights were kept. For one
    run, training and validation have different colors, and phases are named and separated by lines. For several runs,
    each run has its own combination of color and marker, and phases are not shown.

    Args:
        curves: The metrics of one or more runs.
        factor: The smoothing factor; see `smooth`.

    Returns:
        A matplotlib figure with two axes. It is not shown in a window.
    """
    # pyplot would keep every figure in memory and look for a screen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    columns, rows = _legend_shape(curves)
    drawn = Figure(figsize=(WIDTH, HEIGHT + 0.2 * max(0, rows - 1)), layout="constrained")
    FigureCanvasAgg(drawn)
    panels = drawn.subplots(2, 1, sharex=True)
    dot = 5 if max(len(run.epochs) for run in curves) <= 40 else 3
    for panel, metric in zip(panels, PANELS, strict=True):
        for number, run in enumerate(curves):
            _draw_run(panel, run, metric, factor, number if len(curves) > 1 else None, dot)
        panel.set_ylabel(metric)
        # Matplotlib would write the offset of the axis over the names of the phases.
        panel.ticklabel_format(axis="y", useOffset=False)
        panel.grid(axis="y", color="#e4e4e4", linewidth=0.8)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    if _is_skewed([y for run in curves for column in ("loss", "val_loss") for _, y in run.points(column)]):
        panels[1].set_yscale("log")
        panels[1].set_ylabel("loss (log scale)")
    panels[1].set_xlim(min(run.epochs[0] for run in curves) - 0.5, max(run.epochs[-1] for run in curves) + 0.5)
    panels[1].xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    dots = "each epoch" if len(curves) == 1 else "validation, each epoch"
    lines = f"smoothed by {factor:g} within each phase" if factor else "not smoothed"
    panels[1].set_xlabel(f"epoch    (dots: {dots}; lines: {lines})", fontsize=9)
    drawn.align_ylabels(panels)
    _add_legend(drawn, curves, columns, dot)
    if len(curves) == 1:
        lettering.set_font(drawn.suptitle(curves[0].name, fontsize=10, parse_math=False))
        _mark_phases(drawn, panels, curves[0])
    return drawn


def _draw_run(panel: Axes, run: Curves, metric: str, factor: float, number: int | None, dot: float) -> None:
    """Draw the training and validation curves of one run into one panel.

    Args:
        panel: The axes to draw into.
        run: The metrics of the run.
        metric: "accuracy" or "loss".
        factor: The smoothing factor; see `smooth`.
        number: The index of the run among several runs. None if it is the only one.
        dot: The diameter of the dots, in points.
    """
    for column, label in ((metric, "training"), (f"val_{metric}", "validation")):
        training = label == "training"
        colour, shape = _look(number, training)
        faint = training and number is not None
        points, line = run.points(column), run.line(column, factor)
        # With several runs, training dots would hide one another. A single dot is drawn all the same, because a line
        # needs two points.
        if not faint or len(points) == 1:
            panel.plot(
                *zip(*points, strict=True),
                linestyle="none",
                marker="o",
                markersize=dot,
                markeredgewidth=0,
                color=colour,
                alpha=0.5,
                label=f"{run.name} {label} dots",
            )
        panel.plot(
            *zip(*line, strict=True),
            linestyle="--" if training else "-",
            linewidth=1.2 if faint else 1.8,
            marker=shape,
            markersize=5,
            markevery=max(1, len(line) // 8),
            color=colour,
            alpha=0.6 if faint else 1,
            label=f"{run.name} {label} line",
        )
        kept = [(x, y) for x, y in points if x == run.best_epoch and not training]
        # Without points this draws nothing. Two empty lists would put a ring at the figure's corner, and the layout
        # would make room for it.
        panel.plot(*zip(*kept, strict=True), **_ring(colour), label=f"{run.name} kept")


def _look(number: int | None, training: bool) -> tuple[str, str]:
    """Return the color and the marker of a line, in matplotlib's notation.

    Args:
        number: The index of the run among several runs. None if it is the only one.
        training: True for a training line, False for a validation line. This affects the color only if there is one
            run.
    """
    if number is None:
        return (TRAINING if training else VALIDATION), ""
    return COLOURS[number % len(COLOURS)], SHAPES[number // len(COLOURS) % len(SHAPES)]


def _ring(colour: str) -> dict[str, Any]:
    """Return the style of the ring around the epoch whose weights were kept, as keyword arguments of `Axes.plot`."""
    style = {"linestyle": "none", "marker": "o", "markersize": 12, "markerfacecolor": "none"}
    return {**style, "markeredgecolor": colour, "markeredgewidth": 1.8, "zorder": 5, "clip_on": False}


def _is_skewed(losses: Sequence[float]) -> bool:
    """Return whether the loss axis should be logarithmic.

    This is the case if all losses are positive and the greatest loss is more than 20 times the median. On a linear
    axis, half of the losses would then lie near the bottom.
    """
    return bool(losses) and min(losses) > 0 and max(losses) > SKEWED * sorted(losses)[len(losses) // 2]


def _legend_shape(curves: Sequence[Curves]) -> tuple[int, int]:
    """Return (columns, rows) of the legend. Long names need more space and leave room for fewer columns."""
    entries = len(curves) + 3
    if len(curves) == 1:
        return entries, 1
    columns = max(1, min(entries, int(WIDTH / (0.7 + 0.075 * max(len(run.name) for run in curves)))))
    return columns, -(-entries // columns)


def _add_legend(drawn: Figure, curves: Sequence[Curves], columns: int, dot: float) -> None:
    """Add the legend below the panels, so that it does not hide any lines.

    Args:
        drawn: The figure.
        curves: The runs in the figure.
        columns: The number of columns of the legend.
        dot: The diameter of the dots, in points.
    """
    from matplotlib.lines import Line2D

    handles = []
    grey = "#555555"
    if len(curves) > 1:
        for number, run in enumerate(curves):
            colour, shape = _look(number, False)
            handles.append(Line2D([], [], color=colour, marker=shape, markersize=5, linewidth=1.8, label=run.name))
    for training in (True, False):
        colour = grey if len(curves) > 1 else _look(None, training)[0]
        handles.append(
            Line2D(
                [],
                [],
                color=colour,
                linestyle="--" if training else "-",
                marker="o" if len(curves) == 1 else "",
                markersize=dot,
                linewidth=1.8,
                label="training" if training else "validation",
            )
        )
    if len(curves) > 1:
        handles.append(Line2D([], [], **_ring(grey), label="epoch that was kept"))
    elif curves[0].best_epoch is not None:
        handles.append(Line2D([], [], **_ring(VALIDATION), label=f"kept: epoch {curves[0].best_epoch}"))
    legend = drawn.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    for text in legend.get_texts():
        # A dollar sign in a name must not start a formula.
        text.set_parse_math(False)
        lettering.set_font(text)


def _mark_phases(drawn: Figure, panels: Sequence[Axes], run: Curves) -> None:
    """Draw a vertical line between phases, and write the names of the phases above the upper panel.

    If names would overlap, all names are rotated by 90 degrees. Names that still overlap are left out.
    """
    labels, start = [], 0
    for name, count in run.phases:
        first, last = run.epochs[start], run.epochs[start + count - 1]
        if start:
            for panel in panels:
                panel.axvline(first - 0.5, color="#999999", linewidth=0.8, linestyle=":", zorder=1)
        start += count
        labels.append(
            panels[0].text(
                (first + last) / 2,
                1.03,
                name if len(name) <= LONGEST_LABEL else f"{name[: LONGEST_LABEL // 2]}…{name[-LONGEST_LABEL // 2 :]}",
                transform=panels[0].get_xaxis_transform(),
                horizontalalignment="center",
                verticalalignment="bottom",
                fontsize=8,
                color="#444444",
                parse_math=False,
            )
        )
    for label in labels:
        lettering.set_font(label)
    # The widths of the names are known only after the layout.
    drawn.draw_without_rendering()
    if _overlapping(labels, 8):
        for label in labels:
            label.set_rotation(90)
        drawn.draw_without_rendering()
        for label in _overlapping(labels, 1):
            label.remove()


def _overlapping(labels: Sequence[Any], gap: float) -> list[Any]:
    """Return the labels to remove, so that at least `gap` pixels are free between the remaining labels.

    The labels are checked from left to right. A label is returned if it starts less than `gap` pixels after the end of
    the last label that is not returned.
    """
    near, edge = [], -math.inf
    for label in labels:
        box = label.get_window_extent()
        if box.x0 < edge + gap:
            near.append(label)
        else:
            edge = box.x1
    return near


def plot(wanted: Sequence[str], runs_folder: Path, output: Path | None = None, factor: float = SMOOTH) -> Path:
    """Draw one or more finished runs into one PNG.

    Args:
        wanted: Run folders, or ids of runs in `runs_folder`. A run that is named twice is drawn once.
        runs_folder: The folder that holds the runs.
        output: The path of the PNG. None means curves.png in the run folder for one run, and ./curves.png for several.
        factor: The smoothing factor; see `smooth`.

    Returns:
        The path of the PNG.

    Raises:
        UsageError: A run does not exist or has not finished training. `output` does not end in .png. `factor` is out of
            range. There are more runs than combinations of color and marker. Several runs would be drawn into
            ./curves.png, but the current folder is a run folder, whose own curves.png would be replaced.
        RunError: A run folder is damaged, or its schema is not known.
        WriteError: The PNG cannot be written.
    """
    folders = list(
        {os.path.realpath(folder): folder for folder in (runs.find(each, runs_folder) for each in wanted)}.values()
    )
    if len(folders) > len(COLOURS) * len(SHAPES):
        raise UsageError(f"one picture can show at most {len(COLOURS) * len(SHAPES)} runs. Received: {len(folders)}.")
    if not 0 <= factor < 1:
        # click accepts nan as a number.
        raise UsageError(f"--smooth must be at least 0 and below 1. Received: {factor:g}.")
    if output is not None and output.suffix.lower() != ".png":
        raise UsageError(f"--output must end in .png. Received: {str(output)!r}.")
    if output is None:
        output = folders[0] / FILE if len(folders) == 1 else Path(FILE)
        if len(folders) > 1 and os.path.isfile("run.json"):
            raise UsageError(
                "the current folder is a run folder, and its curves.png shows that run alone. "
                "Name another file with --output."
            )
    found = [(run, run.read_record()) for run in map(runs.Run, folders)]
    curves = [of_run(run, record, name) for (run, record), name in zip(found, names(found), strict=True)]
    draw(curves, output, factor)
    return output


def names(found: Sequence[tuple[runs.Run, runs.RunRecord]]) -> list[str]:
    """Return a name for each run, as short as possible and different for all runs.

    The runs are named by their architectures. If two names are equal, or a name is longer than 90 characters, the
    augmentation is added to each name. If that is not enough, the runs are named by their ids. If two ids are equal,
    because a run was copied, all ids are numbered. A single run is always named by its id.
    """
    if len(found) == 1:
        return [found[0][0].id]
    plain = [record.architecture["name"] for _, record in found]
    augment = [record.options["augment"] for _, record in found]
    augmented = [
        f"{name}, {'no' if policy == 'none' else policy} augmentation"
        for name, policy in zip(plain, augment, strict=True)
    ]
    ids = [run.id for run, _ in found]
    # Copies of a run have the same id.
    numbered = [f"{name} ({number})" for number, name in enumerate(ids, start=1)]
    for names in (plain, augmented, ids):
        if len(set(names)) == len(names) and max(map(len, names)) <= LONGEST_NAME:
            return names
    return numbered
