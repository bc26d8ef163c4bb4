"""Defines the command `zoo`: the group of all commands, and the exit codes.

The commands themselves are in the other modules of this package, and those of plugins in `plugin_commands`. A module is
imported when one of its commands is used. That is quick, because Keras, numpy and other large packages are imported
inside the commands that need them.

The exit codes are 0 (success), 1 (a failure that the user can act on), 2 (wrong usage), 130 (interrupted by Ctrl-C),
143 (ended by SIGTERM) and 129 (ended by SIGHUP, because the terminal was closed).
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import warnings
from collections.abc import Iterator, MutableMapping
from typing import NoReturn

import click

from zoo import interrupts
from zoo.cli import ending, plugin_commands
from zoo.errors import InstallationError, UsageError, ZooError, reason
from zoo.interrupts import exit_code

# What other programs call our commands.
OTHER_NAMES = {
    "train": "finetune",
    "fit": "finetune",
    "fine-tune": "finetune",
    "test": "evaluate",
    "eval": "evaluate",
    "classify": "predict",
    "label": "predict",
    "convert": "export",
    "show": "info",
}


def _use_utf8() -> None:
    """Start Python again in its UTF-8 mode if it can name files and print in ASCII only, as in the C locale.

    Class names are names of folders. Without this, those that are not ASCII would be read and printed as escapes.
    """
    if sys.getfilesystemencoding() == "ascii" and not sys.flags.utf8_mode:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def main() -> None:
    """Run the command that the user typed, and exit with its exit code. Errors are printed to stderr."""
    _use_utf8()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A file name may hold bytes that are not valid text. Printing it must not end the program.
            stream.reconfigure(errors="backslashreplace")
    # Pillow's warnings about odd but readable files mean nothing to a user.
    warnings.filterwarnings("ignore", module="PIL")
    try:
        with interrupts.handled():
            code = _run()
    except KeyboardInterrupt as error:
        code = exit_code(error)
    sys.exit(code)


def run() -> NoReturn:
    """Run `main` as the script `zoo`, and then end the process."""
    code = 1
    try:
        main()
    except SystemExit as request:
        if request.code is None or isinstance(request.code, int):
            code = request.code or 0
        else:
            # A plugin may end with a text, which Python prints.
            click.echo(request.code, err=True)
    except Exception:
        sys.excepthook(*sys.exc_info())
    ending.end(code)


def _run() -> int:
    try:
        return cli.main(standalone_mode=False) or 0
    except click.exceptions.Exit as request:
        return request.exit_code
    except click.Abort as error:
        return _interrupted(error.__cause__)
    except click.ClickException as error:
        if isinstance(error, click.NoSuchOption) and error.option_name == "--lr" and _has_learning_rate(error.ctx):
            # The name that other programs use; click would suggest --l1 and --l2.
            error = click.UsageError("No such option '--lr'. Did you mean '--learning-rate'?", error.ctx)
        elif isinstance(error, click.NoSuchOption) and error.option_name == "--no-plugins":
            error = click.UsageError(plugin_commands.stands_first(), error.ctx)
        elif isinstance(error, click.NoSuchOption) and error.possibilities:
            # Options that continue what was typed are nearer than those that only look similar.
            begins = [option for option in error.possibilities if option.startswith(error.option_name)]
            if begins:
                error = click.NoSuchOption(error.option_name, possibilities=begins, ctx=error.ctx)
        error.show()
        return error.exit_code
    except SystemExit as request:
        if _of_click(request):
            raise
        # A plugin would end zoo without a word.
        click.echo(
            f"error: the command ended before it was done, by {reason(request)}. That is code of a plugin or another "
            "package: show this to its authors. `zoo list plugins` shows the plugins.",
            err=True,
        )
        return 1
    except ZooError as error:
        click.echo(f"error: {error}", err=True)
        return 2 if isinstance(error, UsageError) else 1
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "zoo_runtime":
            raise
        from zoo.cli.doctor import missing_text

        click.echo(f"error: {InstallationError(missing_text('zoo_runtime'))}", err=True)
        return 1
    except Exception as error:
        interruption = interrupts.hidden(error) if isinstance(error, (ImportError, SystemError)) else None
        if interruption is not None:
            return _interrupted(interruption)
        runtime = sys.modules.get("zoo_runtime")
        message: object = error
        if runtime is None or not isinstance(error, runtime.ZooRuntimeError):
            from zoo.cli import shortages

            message = shortages.explained(error)
            if message is None:
                raise
        click.echo(f"error: {message}", err=True)
        return 1


def _of_click(request: SystemExit) -> bool:
    """Return whether click ends the program, as it does after the completion of a shell."""
    trace = request.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    name = str(trace.tb_frame.f_globals.get("__name__")) if trace is not None else ""
    return name.partition(".")[0] == "click"


def _interrupted(error: BaseException | None) -> int:
    """Say that the command was interrupted, and return its exit code."""
    code = exit_code(error)
    click.echo("interrupted" if code == 130 else "terminated", err=True)
    return code


def _has_learning_rate(context: click.Context | None) -> bool:
    """Return whether the command of a context has the option --learning-rate."""
    return context is not None and any("--learning-rate" in parameter.opts for parameter in context.command.params)


class _Commands(MutableMapping[str, click.Command]):
    """The commands of zoo by their names. The module of a command is imported when the command is asked for."""

    def __init__(self, places: dict[str, str]) -> None:
        self._places: dict[str, str | click.Command] = dict(places)

    def __getitem__(self, name: str) -> click.Command:
        found = self._places[name]
        if isinstance(found, str):
            module, _, function = found.partition(":")
            found = getattr(importlib.import_module(f"zoo.cli.{module}"), function)
            self._places[name] = found
        return found

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._places[name] = command

    def __delitem__(self, name: str) -> None:
        del self._places[name]

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class _Group(click.Group):
    """The command `zoo`. If a command is unknown, the error message suggests similar names."""

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name in self.commands:
            return self.commands[name]
        found = plugin_commands.find(context, self.commands).get(name)
        return found.command if found else None

    def list_commands(self, context: click.Context) -> list[str]:
        # The completion of the shell asks for them.
        return sorted([*self.commands, *plugin_commands.find(context, self.commands)])

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        found = plugin_commands.find(context, self.commands)
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.commands[name].get_short_help_str(100)) for name in sorted(self.commands)])
        plugin_commands.write_help(formatter, found)

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name and not name.startswith("-") and self.get_command(context, name) is None:
            nearest = difflib.get_close_matches(name, self.list_commands(context), n=1)
            meant = OTHER_NAMES.get(name) or (nearest[0] if nearest else "")
            hint = f"Did you mean `zoo {meant}`?" if meant else "`zoo --help` lists the commands."
            raise click.UsageError(f"there is no command {name!r}. {hint}", context)
        return super().resolve_command(context, args)


# The module of each command in this package, and its function there.
COMMANDS = {
    "list": "catalog:list_command",
    "info": "catalog:info",
    "weights": "weights:weights",
    "finetune": "train:finetune",
    "resume": "train:resume",
    "lr-find": "train:lr_find",
    "schedule": "train:schedule",
    "evaluate": "evaluate:evaluate",
    "export": "export:export",
    "verify": "export:verify",
    "predict": "evaluate:predict",
    "augment": "train:augment",
    "plot": "evaluate:plot",
    "report": "report:report",
    "runs": "runs:runs",
    "cache": "cache:cache",
    "data": "data:data",
    "doctor": "doctor:doctor",
    "check": "plugins:check",
    "new-plugin": "plugins:new_plugin",
    "compare": "compare:compare",
    "sweep": "sweep:sweep",
}


@click.group(cls=_Group, commands=_Commands(COMMANDS), context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="finezoo", prog_name="zoo")
@click.option(
    "--no-plugins", is_flag=True, is_eager=True, help="Load only the plugins of zoo itself, whatever is installed."
)
def cli(no_plugins: bool) -> None:
    """Fine-tune an image classifier on your own pictures and run it on a device.

    \b
    zoo list                                  list the networks
    zoo finetune mobilenetv2                  try it on embedded digits
    zoo finetune mobilenetv2 --data photos/   your pictures, a folder per class
    zoo predict mobilenetv2-photos cat.jpg    name what a picture shows
    """
