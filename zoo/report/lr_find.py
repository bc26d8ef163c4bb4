"""Draws learning-rate range tests as a PNG: how the loss changes with the learning rate, one panel per phase.

`zoo.train.lr_find` runs the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo import files
from zoo.report import lettering
from zoo.report.curves import DPI, TRAINING, VALIDATION, WIDTH

PANEL_HEIGHT = 3.0  # inches


@dataclass(frozen=True)
class Panel:
    """Holds the result of the range test of one phase.

    Args:
        phase: The name of the phase.
        rates: The learning rates of the test, in ascending order.
        changes: For each learning rate, the loss at that rate minus the loss before the test, smoothed over the rates.
        scheduled: The learning rate that the schedule has for this phase.
        suggested: The learning rate that the test suggests. None if it suggests none.
        note: Why the test suggests this learning rate, or why it suggests none.
    """

    phase: str
    rates: Sequence[float]
    changes: Sequence[float]
    scheduled: float
    suggested: float | None
    note: str


def draw(panels: Sequence[Panel], path: Path) -> None:
    """Draw the results of range tests and write them to a PNG file. An existing file is replaced in one step.

    Args:
        panels: The range tests, one per phase, in order.
        path: The path of the PNG.

    Raises:
        WriteError: The file cannot be written.
    """
    # pyplot would keep every figure in memory and look for a screen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(WIDTH, PANEL_HEIGHT * len(panels) + 0.5), layout="constrained")
    FigureCanvasAgg(drawn)
    for axes, panel in zip(drawn.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
        axes.axhline(0, color="#b0b0b0", linewidth=0.8)
        axes.plot(panel.rates, panel.changes, color="#000000", linewidth=1.5)
        axes.axvline(panel.scheduled, color=TRAINING, linestyle="--", label=f"schedule: {panel.scheduled:g}")
        if panel.suggested is not None:
            axes.axvline(panel.suggested, color=VALIDATION, label=f"suggested: {panel.suggested:g}")
        axes.set_xscale("log")
        axes.set_ylabel("change of loss")
        lettering.set_font(axes.set_title(f"{panel.phase}: {panel.note}", fontsize=9, parse_math=False))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
    axes.set_xlabel("learning rate")
    with files.atomic_write(path) as temporary:
        drawn.savefig(temporary, format="png", dpi=DPI)
