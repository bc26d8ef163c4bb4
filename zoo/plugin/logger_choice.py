"""Finds the loggers that a run names, and checks that the modules they need are installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zoo.errors import PluginError, UsageError
from zoo.plugin.loggers import Logger
from zoo.plugin.registry import Registry


def check_loggers(names: Sequence[str], registry: Registry) -> tuple[Logger, ...]:
    """Return the loggers that a user names. `history` is left out, because every run has it.

    Raises:
        UsageError: No plugin provides a logger of that name, or a module that it needs is not installed.
        DuplicateName: Two plugins provide a logger of that name.
    """
    loggers = []
    for name in dict.fromkeys(("history", *names)):
        logger = registry.logger(name)
        if missing := logger.missing():
            raise UsageError(
                f"--log {name} needs {' and '.join(missing)}, which is not installed. Install it: {logger.install}"
            )
        loggers.append(logger)
    return tuple(each for each in loggers if each.name != "history")


def loggers_of(
    names: Sequence[str], registry: Registry, warn: Callable[[str], None], *, resumed: bool
) -> tuple[Logger, ...]:
    """Return the loggers of a run; see `check_loggers`. A run that is resumed continues without those that are gone."""
    if not resumed:
        return check_loggers(names, registry)
    found = list(check_loggers((), registry))
    for name in names:
        try:
            found += check_loggers([name], registry)
        except (UsageError, PluginError) as error:
            warn(f"the run continues without its logger {name!r}: {error}")
    return tuple(found)
