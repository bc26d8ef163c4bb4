"""Defines the option --config of `zoo finetune`: settings from a file, which typed options override.

The values of the file become click's default map, so that each option checks its value as if it were typed.
`zoo.workflow.config_file` reads the files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from zoo.workflow.config_file import Settings

config_option = click.option(
    "--config",
    multiple=True,
    expose_value=False,
    metavar="FILE",
    help="Take the options from a TOML file, a run.json or a run, and repeat it. Typed options replace them.",
)

# These say how the command works, not what comes out.
ONLY_TYPED = (
    *("config", "resume", "dry-run", "profile", "processes", "process-index", "coordinator", "help"),
    *("hold-out", "judge-only"),
)
# Options whose values are paths; but `data` can also be "digits", and `weights` and `schedule` can be names.
PATHS = ("data", "weights", "schedule", "root", "runs", "exported")
# What zoo chose depends on these. If one is typed, zoo chooses again.
DEPENDS = {
    "size": ("architecture", "weights"),
    "weights": ("architecture",),
    "schedule": ("architecture", "weights", "pool", "hidden", "reduce", "weight_l1", "epochs", "learning_rate"),
}
_META = __name__


def settings_of(context: click.Context) -> Settings | None:
    """Return the settings that --config named, or None if it was not given."""
    return context.meta.get(_META)


def apply(command: click.Command, context: click.Context, args: list[str]) -> None:
    """Read the file of --config, and give its values to the options that the user has not typed.

    Args:
        command: The command.
        context: Its context, before its arguments are parsed.
        args: The arguments of the command.

    Raises:
        UsageError: The file cannot be read, or it has an unknown key or a value of a wrong type.
        RunError: A run.json is damaged.
    """
    if not any(word == "--config" or word.startswith("--config=") for word in args):
        return
    opts, _, _ = command.make_parser(context).parse_args(args=list(args))
    typed = {name for name, value in opts.items() if isinstance(value, (str, list, tuple, bool))}
    files = opts.get("config") or []
    if len(files) != 1:
        raise UsageError(f"give --config once. Received: {', '.join(map(repr, files))}.")
    from zoo.workflow import config_file

    settings = config_file.read(files[0])
    parameters = _parameters(command)
    values = _values(parameters, settings.values, settings)
    architecture = opts.get("architecture") if "architecture" in typed else None
    chosen = _values(parameters, settings.chosen, settings)
    for name, needed in DEPENDS.items():
        changed = set(needed) & (typed - {"architecture"})
        if architecture and architecture.partition(".")[0] != str(values.get("architecture")).partition(".")[0]:
            changed.add("architecture")
        if changed & set(needed):
            chosen.pop(name, None)
    values = {**chosen, **values}
    if architecture and "." in architecture:
        # The typed name has a tag, which replaces the weights of the file.
        values.pop("weights", None)
    elif "weights" in typed:
        values["architecture"] = str(values.get("architecture", "")).partition(".")[0]
    context.default_map = {name: value for name, value in values.items() if name not in typed and value != ""}
    context.meta[_META] = settings


def explain(context: click.Context, error: click.BadParameter) -> UsageError | None:
    """Return the error for a value that the file of --config holds, or None if the value was typed."""
    settings, parameter = settings_of(context), error.param
    if settings is None or parameter is None or not _from_file(context, str(parameter.name)):
        return None
    colon = "" if error.message.startswith("must ") else ":"
    return UsageError(f"{str(settings.path)!r}: {_key(parameter)}{colon} {error.message}")


def with_origin(context: click.Context, error: UsageError) -> UsageError:
    """Return an error whose message also says which of the options that it names come from the file of --config."""
    settings = settings_of(context)
    if settings is None:
        return error
    named = dict.fromkeys(re.findall(r"--([a-z0-9][a-z0-9-]*)", str(error)))
    keys = {_key(each): str(each.name) for each in context.command.params}
    found = [key for key in named if key in keys and _from_file(context, keys[key])]
    if not found:
        return error
    text = " and ".join(f"--{key}" for key in found)
    verb = "comes" if len(found) == 1 else "come"
    return UsageError(f"{error}\n{text} {verb} from {str(settings.path)!r}. Type another value, or change the file.")


def moved_text(context: click.Context) -> str:
    """Return what to do if the pictures that the file of --config names are gone; empty if it does not name them."""
    settings = settings_of(context)
    if settings is None or not _from_file(context, "data"):
        return ""
    return f"\n{str(settings.path)!r} names these pictures. If they have moved, type --data and their new place."


def _from_file(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) == click.core.ParameterSource.DEFAULT_MAP


def _key(parameter: click.Parameter) -> str:
    return max(parameter.opts, key=len).lstrip("-")


def _parameters(command: click.Command) -> dict[str, tuple[click.Parameter, bool]]:
    """Return the keys that a file may have: the parameter of each, and whether it is the negative form of a flag."""
    found: dict[str, tuple[click.Parameter, bool]] = {}
    for parameter in command.params:
        found |= {name.lstrip("-"): (parameter, False) for name in parameter.opts if len(name.lstrip("-")) > 1}
        found |= {name.lstrip("-"): (parameter, True) for name in parameter.secondary_opts}
    return found


def _values(
    parameters: Mapping[str, tuple[click.Parameter, bool]], content: Mapping[str, Any], settings: Settings
) -> dict[str, Any]:
    """Return the values of a file as words of a command line: the name of each parameter -> a word, a list or a flag.

    Raises:
        UnknownName: A key does not exist.
        UsageError: A key is given twice, or a value has a wrong type.
    """
    values: dict[str, Any] = {}
    where = repr(str(settings.path))
    for given, value in content.items():
        key = given.replace("_", "-")
        if key in ONLY_TYPED:
            raise UsageError(f"{where}: {given} says how the command works, and cannot be in a file. Type --{key}.")
        if key not in parameters:
            allowed = [name for name in parameters if name not in ONLY_TYPED]
            hint = (
                "Phases stand in [[schedule.phase]] tables."
                if key == "phase"
                else "`zoo finetune --help` explains them."
            )
            raise UnknownName(f"option in {where}", given, allowed, hint)
        parameter, negative = parameters[key]
        name = str(parameter.name)
        if name in values:
            raise UsageError(f"{where}: {given} is given twice, in two forms. Keep one of them.")
        try:
            values[name] = _word(parameter, key, value, settings.folder)
        except ValueError as error:
            raise UsageError(f"{where}: {given} must be {error}. Received: {_shown(value)}.") from None
        if negative:
            values[name] = not values[name]
    return values


def _shown(value: Any) -> str:
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _word(parameter: click.Parameter, key: str, value: Any, folder: Path | None) -> Any:
    """Return a value of a file as it is typed on a command line.

    Raises:
        ValueError: The value has a wrong type. The text says what is allowed.
    """
    if getattr(parameter, "is_flag", False):
        if not isinstance(value, bool):
            raise ValueError("true or false")
        return value
    if parameter.multiple:  # type: ignore[attr-defined]
        return _texts(key, value)
    if key in ("epochs", "learning-rate", "hidden", "size") and isinstance(value, (list, tuple)):
        if not all(_is_number(each) for each in value):
            raise ValueError("a list of numbers")
        if not value and key != "hidden":
            raise ValueError("a list of at least one number")
        return ("x" if key == "size" else ",").join(map(str, value)) or "none"
    if isinstance(value, str):
        return _place(key, value, folder)
    if not _is_number(value) or not _takes_numbers(parameter, key):
        raise ValueError(_expected(parameter, key))
    return str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _takes_numbers(parameter: click.Parameter, key: str) -> bool:
    numbers = ("epochs", "learning-rate", "hidden", "size", "cache-size", "max-pixels", "precision")
    return key in numbers or isinstance(parameter.type, (click.types.IntParamType, click.types.FloatParamType))


def _expected(parameter: click.Parameter, key: str) -> str:
    if isinstance(parameter.type, click.Choice):
        return f"one of {', '.join(map(repr, parameter.type.choices))}"
    if key in ("epochs", "learning-rate", "hidden"):
        return "a number or a list of numbers"
    return "a number" if _takes_numbers(parameter, key) else "text in quotes"


def _texts(key: str, value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, (list, tuple)) or not all(isinstance(each, str) for each in value):
        raise ValueError("text in quotes, or a list of such texts")
    if key == "exclude":
        return list(value)
    from zoo.data.reading import format_names

    # Each item is one name, which may contain a comma.
    return [format_names([each]) for each in value]


def _place(key: str, value: str, folder: Path | None) -> str:
    """Return the path that a value means: a relative one counts from the folder of the TOML file."""
    path = os.path.expanduser(value)
    if key not in PATHS or folder is None or os.path.isabs(path) or "://" in value or not value:
        return value
    if key == "data" and value == "digits":
        return value
    if key == "schedule" and not value.lower().endswith(".toml"):
        return value
    if key == "weights" and not _is_weights_path(value, folder):
        return value
    return os.path.join(folder, path)


def _is_weights_path(value: str, folder: Path) -> bool:
    from zoo.pretrained.select import FILE_SUFFIXES

    return "/" in value or "\\" in value or value.lower().endswith(FILE_SUFFIXES) or (folder / value).is_file()
