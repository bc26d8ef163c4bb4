"""Finds the formats that a user names, and checks that the modules they need are installed."""

from __future__ import annotations

from collections.abc import Sequence

from zoo.errors import UsageError
from zoo.plugin.formats import Format
from zoo.plugin.registry import Registry


def check_formats(names: Sequence[str], registry: Registry) -> tuple[Format, ...]:
    """Return the formats that a user names, each once, in their order.

    Raises:
        UsageError: No plugin provides a format of that name, or a module that it needs is not installed.
        DuplicateName: Two plugins provide a format of that name.
    """
    formats = []
    for name in dict.fromkeys(names):
        found = registry.format(name)
        if missing := found.missing():
            verb = "is" if len(missing) == 1 else "are"
            raise UsageError(
                f"--as {name} needs {' and '.join(missing)}, which {verb} not installed. Install it: {found.install}"
            )
        formats.append(found)
    return tuple(formats)
