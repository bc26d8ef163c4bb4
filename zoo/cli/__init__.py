"""The command `zoo`: its group of commands and its exit codes.

Each module of this package holds the commands of one kind. A command parses its options, calls one function and prints
the result. Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import sys

import click

from zoo.cli import catalog, doctor, evaluate, export, train
from zoo.errors import InstallationError, UsageError, ZooError

RUNTIME_HINT = (
    "zoo_runtime is missing though zoo is here. The distributions finezoo and finezoo-runtime bring the same package, "
    "and removing one takes the other's files: reinstall with `pip install --force-reinstall --no-deps finezoo` "
    "(from a clone: `pip install --force-reinstall --no-deps .`)."
)


def main() -> None:
    """Run the command; every exit code is decided here."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # File names need not be valid text; printing one must not end the run.
            stream.reconfigure(errors="backslashreplace")
    try:
        sys.exit(_run())
    except KeyboardInterrupt:
        sys.exit(130)


def _run() -> int:
    try:
        return cli.main(standalone_mode=False) or 0
    except click.exceptions.Exit as request:
        return request.exit_code
    except click.Abort:
        click.echo("interrupted", err=True)
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except ZooError as error:
        click.echo(f"error: {error}", err=True)
        return 2 if isinstance(error, UsageError) else 1
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "zoo_runtime":
            raise
        click.echo(f"error: {InstallationError(RUNTIME_HINT)}", err=True)
        return 1
    except Exception as error:
        runtime = sys.modules.get("zoo_runtime")
        if runtime is None or not isinstance(error, runtime.ZooRuntimeError):
            raise
        click.echo(f"error: {error}", err=True)
        return 1


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="finezoo", prog_name="zoo")
def cli() -> None:
    """Fine-tune an image classifier on your own pictures and run it on a device.

    \b
    zoo list                                  networks, weights, schedules ...
    zoo finetune mobilenetv2                  try it, on embedded pictures of digits
    zoo finetune mobilenetv2 --data photos/   your own: a folder for each class
    zoo predict mobilenetv2-photos cat.jpg
    """


for command in (
    catalog.list_command,
    catalog.info,
    train.finetune,
    train.lr_find,
    train.schedule,
    evaluate.evaluate,
    export.export,
    export.verify,
    evaluate.predict,
    train.augment,
    evaluate.plot,
    doctor.doctor,
):
    cli.add_command(command)
