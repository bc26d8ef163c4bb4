"""Draws learning-rate range tests as a PNG: how the loss changes with the learning rate, one panel per phase.

`zoo.train.lr_find` runs the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo import files
from zoo.report.curves import DPI, TRAINING, VALIDATION, WIDTH

PANEL_HEIGHT = 3.0  # inches


@dataclass(frozen=True)
class Panel:
    """Holds the range test of one phase.

    Args:
        phase: Name of the phase.
        rates: Learning rates, ascending.
        changes: For each rate, its loss minus the loss before the test.
        scheduled: The learning rate of the schedule.
        suggested: The learning rate that the test suggests, or None.
        note: The reason for the suggestion, or for its absence.
    """

    phase: str
    rates: Sequence[float]
    changes: Sequence[float]
    scheduled: float
    suggested: float | None
    note: str


def draw(panels: Sequence[Panel], path: Path) -> None:
    """Draw range tests into a PNG, atomically.

    Args:
        panels: One per phase, in order.
        path: Where to write the PNG.

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
        axes.set_title(f"{panel.phase}: {panel.note}", fontsize=9, parse_math=False)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
    axes.set_xlabel("learning rate")
    with files.atomic_write(path) as temporary:
        drawn.savefig(temporary, format="png", dpi=DPI)
