"""Draws a comparison of networks as a PNG: accuracy over time for a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo import files
from zoo.report import lettering
from zoo.report.curves import DPI, TRAINING, VALIDATION, WIDTH

HEIGHT = 5.0  # inches


@dataclass(frozen=True)
class Point:
    """A network in the plot.

    Args:
        name: Its name.
        milliseconds: The time for a picture.
        accuracy: Its accuracy, in 0..1.
        interval: The bounds of the 95 % confidence interval of the accuracy.
        state: "take", "open" (worth fine-tuning), "other", or "out" (breaks a limit).
    """

    name: str
    milliseconds: float
    accuracy: float
    interval: tuple[float, float]
    state: str


LOOKS = {
    "take": (VALIDATION, "o", "the one to take"),
    "open": (TRAINING, "o", "worth fine-tuning"),
    "other": ("#808080", "o", "others"),
    "out": ("#b0b0b0", "x", "too slow or too large"),
}


def draw(points: Sequence[Point], path: Path, title: str) -> None:
    """Draw networks and write them to a PNG file. An existing file is replaced in one step.

    Args:
        points: The networks.
        path: The path of the PNG.
        title: The title.

    Raises:
        WriteError: The file cannot be written.
    """
    # pyplot would keep every figure in memory and look for a screen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    drawn = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    FigureCanvasAgg(drawn)
    axes = drawn.subplots()
    for state, (color, marker, label) in LOOKS.items():
        here = [point for point in points if point.state == state]
        if not here:
            continue
        below = [point.accuracy - point.interval[0] for point in here]
        above = [point.interval[1] - point.accuracy for point in here]
        axes.errorbar(
            [point.milliseconds for point in here],
            [point.accuracy for point in here],
            yerr=[below, above],
            fmt=marker,
            color=color,
            label=label,
            elinewidth=0.8,
            capsize=2,
        )
        for point in here:
            text = axes.annotate(
                point.name,
                (point.milliseconds, point.accuracy),
                xytext=(5, 4),
                textcoords="offset points",
                fontsize=8,
                parse_math=False,
            )
            lettering.set_font(text)
    axes.set_xscale("log")
    # Powers of ten alone would leave one number on most of these axes.
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.15)
    axes.set_xlabel("milliseconds for a picture, on this computer")
    axes.set_ylabel("accuracy on held-out pictures")
    lettering.set_font(axes.set_title(title, fontsize=10, parse_math=False))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e0e0e0", linewidth=0.6)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    with files.atomic_write(path) as temporary:
        drawn.savefig(temporary, format="png", dpi=DPI)
