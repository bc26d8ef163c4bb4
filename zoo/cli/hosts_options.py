"""Defines the options that let several processes train together: --processes, --process-index and --coordinator."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import click

from zoo import hosts

# Options whose values may differ between processes: they name folders of a host, or say what is printed.
OWN = ("process_index", "coordinator", "data", "runs", "exported", "profile", "run")


class _Processes(click.ParamType):
    """A number of processes, or "auto"."""

    name = "N|auto"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        if value == hosts.AUTO or (str(value).isdecimal() and int(value) > 0):
            return value if value == hosts.AUTO else int(value)
        self.fail(f"{value!r} is neither a number of processes, from 1, nor {hosts.AUTO}.", parameter, context)


_OPTIONS = (
    click.option(
        "--processes",
        type=_Processes(),
        metavar="N|auto",
        help="Train with N processes on one or more hosts, or on all GPUs of this one (1); needs KERAS_BACKEND=jax.",
    ),
    click.option(
        "--process-index",
        type=click.IntRange(min=0),
        metavar="I",
        help="Which of the processes this is, from 0 (default: from the environment).",
    ),
    click.option(
        "--coordinator",
        metavar="HOST:PORT",
        help="Host of process 0, and a free port there (default: from the environment).",
    ),
)


def hosts_options(command: Callable) -> Callable:
    """Give a command the options that say which of several processes it is."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@contextlib.contextmanager
def together(
    processes: int | str | None,
    process_index: int | None,
    coordinator: str | None,
    facts: Mapping[str, Any],
    say: Callable[[str], None],
) -> Iterator[None]:
    """Run the command together with other processes inside this context, if the options ask for it.

    Args:
        processes: The value of --processes.
        process_index: The value of --process-index.
        coordinator: The value of --coordinator.
        facts: What all processes must have in common, besides the options and versions.
        say: Receives messages.
    """
    place = hosts.find_place(processes, process_index, coordinator)
    if place is None:
        yield
        return
    from zoo import runs
    from zoo.hosts import devices

    devices.check()
    context = click.get_current_context()
    options = {f"--{key.replace('_', '-')}": repr(x) for key, x in context.params.items() if key not in OWN}
    options["--processes"] = str(place.count)
    versions = {f"version of {name}": version for name, version in {**runs.versions(), **_versions()}.items()}
    with hosts.start(place, {**options, **versions, "command": context.info_name, **facts}, say):
        yield


def _versions() -> dict[str, str]:
    """Return the versions that `zoo.runs.versions` lacks: of zoo if it is not installed, and of JAX."""
    from importlib import metadata

    import zoo_runtime

    found = {"zoo": zoo_runtime.__version__}
    for name in ("jax", "jaxlib"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
