"""Checks schedules: their phases fit a network."""

from __future__ import annotations

from zoo.errors import UsageError
from zoo.plugin import Architecture, Schedule


def check_schedule(schedule: Schedule, architecture: Architecture) -> None:
    """Check that the phases of a schedule fit an architecture.

    The check builds the network at its smallest size, and selects the layers that each phase would train.

    Args:
        schedule: The schedule.
        architecture: The architecture.

    Raises:
        AssertionError: A phase names stages or layers that do not exist, or the last phase trains a network with fewer
            stages than the architecture has.
        InvalidPluginData: The schedule gives no phases for the architecture, or the network cannot be built.
    """
    from zoo.train import schedule as schedule_tools

    try:
        # `show` builds the network and selects, for every phase, the layers that it would train.
        schedule_tools.show(schedule, architecture, size=(architecture.min_size,) * 2, classes=3)
    except UsageError as error:
        raise AssertionError(f"{schedule.name}: {error}") from error
