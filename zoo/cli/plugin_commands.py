"""The commands that plugins add to `zoo`, by the hook `zoo_commands`.

They are looked up for `zoo --help`, and for a command that is not one of zoo's own. All other commands start without
them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from zoo import installed
from zoo.errors import ZooError, reason

if TYPE_CHECKING:
    from zoo.plugin.faults import Plugin

NAME = re.compile("[a-z][a-z0-9]*(-[a-z0-9]+)*")
HEADING = "Commands of plugins"


@dataclass(frozen=True)
class PluginCommand:
    """A command of a plugin.

    Args:
        command: What the plugin returned.
        plugin: The plugin.
    """

    command: click.Command
    plugin: Plugin


def find(context: click.Context, own: Collection[str]) -> dict[str, PluginCommand]:
    """Return the commands of all plugins by their names.

    A command that cannot be used is left out, with a warning: one without a legal name, one that has the name of a
    command of zoo, and all that have the same name.

    Args:
        context: The context of `zoo`. It keeps the result, so that plugins are loaded once.
        own: The names of zoo's own commands.
    """
    kept: dict[str, PluginCommand] | None = context.meta.get(__name__)
    if kept is None:
        kept = context.meta[__name__] = _find(context, own)
    return kept


def _find(context: click.Context, own: Collection[str]) -> dict[str, PluginCommand]:
    # Without other plugins, the plugin system is not even imported.
    if context.params.get("no_plugins") or not installed.strangers():
        return {}
    from zoo.cli.console import plugin_warning
    from zoo.plugin import registry, selection

    try:
        points = [point for point in selection.selected(plugin_warning) if not point.builtin]
        made = registry.load(points, plugin_warning, commands=True).commands
    except ZooError as error:
        plugin_warning(f"the commands of plugins are left out: {error}")
        return {}
    usable, problems = sorted_out(made, own)
    for problem in problems:
        plugin_warning(problem)
    return {name: _guarded(command) for name, command in usable.items()}


def sorted_out(
    made: Sequence[tuple[Plugin, object]], own: Collection[str]
) -> tuple[dict[str, PluginCommand], list[str]]:
    """Return the commands that can be used, by their names, and what is wrong with the others.

    Args:
        made: What the plugins returned: `zoo.plugin.registry.Registry.commands`.
        own: The names of zoo's own commands.
    """
    by_name: dict[str, list[PluginCommand]] = {}
    problems = []
    for plugin, command in made:
        problem = _problem(command, own)
        if problem:
            problems.append(f"plugin {plugin}: {problem}")
        elif isinstance(command, click.Command):
            by_name.setdefault(str(command.name), []).append(PluginCommand(command, plugin))
    for name, commands in by_name.items():
        if len(commands) > 1:
            plugins = " and ".join(str(each.plugin) for each in commands)
            problems.append(
                f"the command {name!r} is brought by {len(commands)} plugins: {plugins}. zoo uses none of them. "
                "Uninstall all but one, or leave them out with ZOO_PLUGINS."
            )
    return {name: commands[0] for name, commands in by_name.items() if len(commands) == 1}, problems


def _problem(command: object, own: Collection[str]) -> str:
    """Return why a command of a plugin cannot be used; an empty text if it can."""
    if not isinstance(command, click.Command):
        received = type(command).__name__
        return f"zoo_commands must return click.Command objects. Received: one of {received}. It is left out."
    name = command.name
    if type(name) is not str or not NAME.fullmatch(name):
        return (
            "the name of a command has lower-case letters, digits and single hyphens, and begins with a letter. "
            f"Received: {name!r:.60}. The command is left out."
        )
    if name in own:
        return f"it brings the command {name!r}, but `zoo {name}` is a command of zoo. That of the plugin is left out."
    return ""


def _guarded(found: PluginCommand) -> PluginCommand:
    """Make a command name its plugin if it fails."""
    invoke = found.command.invoke
    if getattr(invoke, "names_plugin", False):
        return found

    def invoke_and_name(context: click.Context) -> int:
        try:
            result: Any = invoke(context)
        except (ZooError, click.ClickException, click.exceptions.Exit, click.Abort, KeyboardInterrupt):
            raise
        except SystemExit as request:
            # A command may end so. Elsewhere in a plugin, it is a mistake.
            if request.code is not None and not isinstance(request.code, int):
                click.echo(request.code, err=True)
                return 1
            return request.code or 0
        except BaseException as error:
            import traceback

            traceback.print_exc()
            click.echo(
                f"error: `zoo {found.command.name}` is a command of the plugin {found.plugin}, and it failed: "
                f"{reason(error)}. `pip install --upgrade {found.plugin.distribution}` may bring a mended version; "
                "otherwise show the lines above to its authors.",
                err=True,
            )
            return 1
        # Everything else that a command returns would be printed, or become a strange exit code.
        return result if type(result) is int else 0

    invoke_and_name.names_plugin = True  # type: ignore[attr-defined]
    found.command.invoke = invoke_and_name  # type: ignore[method-assign,assignment]
    return found


def write_help(formatter: click.HelpFormatter, found: dict[str, PluginCommand]) -> None:
    """Write the section of `zoo --help` that lists the commands of plugins."""
    rows = []
    for name in sorted(found):
        each = found[name]
        try:
            text = " ".join(each.command.get_short_help_str(60).split())
        except Exception as error:
            text = f"(no help: {reason(error)})"
        rows.append((name, f"{text} (plugin {each.plugin.name})".strip()))
    if rows:
        with formatter.section(HEADING):
            formatter.write_dl(rows)


def stands_first() -> str:
    """Return a hint for a user who typed --no-plugins after the command."""
    others = " ".join(word for word in sys.argv[1:] if word != "--no-plugins")
    return f"--no-plugins stands before the command: `zoo --no-plugins {others}`."
