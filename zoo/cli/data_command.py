"""Defines `DataCommand`, a command whose pictures are given with --data.

If --data or ARCH is missing, the error message shows the command to type.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.console import quoted
from zoo.errors import DataError, DataLayout, UnknownName, UsageError

if TYPE_CHECKING:
    from zoo.plugin.registry import Registry

# The architecture that suggested commands name.
EXAMPLE = "mobilenetv2"


class ReadingCommand(click.Command):
    """A command that reads pictures. If they can be understood in two ways, the error shows the command for each."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        context.meta[__name__] = list(args)
        return super().parse_args(context, args)

    def invoke(self, context: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(context)
        except DataLayout as error:
            if not error.remedies:
                raise
            raise DataError(error.with_commands(lambda options: _with_options(context, options))) from None


class DataCommand(ReadingCommand):
    """A command whose pictures are given with --data.

    If the user gives a path without --data, the error message shows the command with --data in the right place.
    """

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        context.allow_extra_args = True
        try:
            extra = super().parse_args(context, args)
        except click.MissingParameter as error:
            if error.param is None or error.param.name != "architecture":
                raise
            typed = " ".join(map(quoted, [EXAMPLE, *context.meta[__name__]]))
            raise click.UsageError(
                f"ARCH is missing. Name an architecture, such as {EXAMPLE}: `{_command_name(context)} {typed}`. "
                "`zoo list` shows all architectures.",
                context,
            ) from None
        if not extra or context.resilient_parsing:
            return extra
        if len(extra) > 1 or _has_data(context):
            shown = ", ".join(extra[:3]) + (" …" if len(extra) > 3 else "")
            raise click.UsageError(
                f"unexpected arguments: {shown}. Give all pictures with one --data, such as a folder that has a folder "
                "for each class.",
                context,
            )
        command = self.with_data(context, extra[0]) or self._swapped(context, extra[0])
        advice = f"--data: `{command}`" if command else "--data, such as a folder that has a folder for each class."
        raise click.UsageError(f"unexpected argument {extra[0]!r}. Give pictures with {advice}", context)

    def _swapped(self, context: click.Context, last: str) -> str | None:
        """Return the command with its two arguments exchanged, and with --data before the path of the pictures.

        For example, `zoo finetune photos mobilenetv2` becomes `zoo finetune mobilenetv2 --data photos`.

        Args:
            context: The context of the command, after its arguments were parsed.
            last: The second argument, which the command does not expect.

        Returns:
            The command, quoted for a shell. None if the first argument does not look like pictures, or if the user
            typed one of the two words more than once.
        """
        (name,) = [str(each.name) for each in self.params if isinstance(each, click.Argument)]
        pictures = context.params[name]
        typed: list[str] = context.meta[__name__]
        if not _names_pictures(pictures) or typed.count(pictures) != 1 or typed.count(last) != 1:
            return None
        words = [word for each in typed for word in ([last] if each == pictures else [] if each == last else [each])]
        return " ".join([_command_name(context), *map(quoted, [*words, "--data", pictures])])

    def with_data(self, context: click.Context, pictures: str, **changes: str) -> str | None:
        """Return the command that the user probably meant, with --data before the path of the pictures.

        For example, `zoo finetune mobilenetv2 photos` becomes `zoo finetune mobilenetv2 --data photos`.

        Args:
            context: The context of the command, after its arguments were parsed.
            pictures: The path of the pictures, as the user typed it.
            changes: Maps the name of an argument to the value that it should have. This is needed if the user omitted
                the argument, so that it received the path of the pictures. For example, architecture="mobilenetv2"
                turns `zoo finetune photos` into `zoo finetune mobilenetv2 --data photos`.

        Returns:
            The command, quoted for a shell. None if the user typed --data, or if the path does not look like pictures.
            Also None if inserting --data would change the value of another option or argument.
        """
        if _has_data(context) or not _names_pictures(pictures):
            return None
        typed: list[str] = context.meta[__name__]
        for position in (i for i, word in enumerate(typed) if word == pictures):
            words = [*typed[:position], *changes.values(), "--data", *typed[position:]]
            given: dict[str, Any] = {"allow_extra_args": True, "default_map": context.default_map}
            tried = self.context_class(self, context.parent, context.info_name, **given)
            with contextlib.suppress(click.ClickException), tried.scope(cleanup=False):
                extra = super().parse_args(tried, list(words))
                if not extra and tried.params == {**context.params, "data": pictures, **changes}:
                    return " ".join([_command_name(context), *map(quoted, words)])
        return None


def _with_options(context: click.Context, options: Sequence[str]) -> str:
    """Return the command that the user typed, with other options, quoted for a shell.

    Args:
        context: The context of the command, after its arguments were parsed.
        options: The options to add, with their values. --classes and --data replace those that the user typed. If the
            command takes the pictures as an argument, --data replaces this argument.
    """
    typed: list[str] = context.meta[__name__]
    if options[0] == "--data" and any(
        isinstance(each, click.Argument) and each.name == "data" for each in context.command.params
    ):
        given = context.params["data"]
        return " ".join(
            [_command_name(context), *map(quoted, (options[1] if word == given else word for word in typed))]
        )
    words, replaced = list[str](), {name for name in options if name in ("--classes", "--data")}
    skip = False
    for word in typed:
        if not skip and word.split("=")[0] not in replaced:
            words.append(word)
        skip = not skip and word in replaced
    return " ".join([_command_name(context), *map(quoted, [*words, *options])])


def _has_data(context: click.Context) -> bool:
    return context.get_parameter_source("data") == click.core.ParameterSource.COMMANDLINE


def _names_pictures(text: str) -> bool:
    """Return whether a word looks like a value of --data: "digits", a folder, a .csv file or an .npz file.

    A run folder and a folder that holds an exported file do not count, and neither does a path that does not exist.
    """
    path = os.path.expanduser(text)
    if text == "digits":
        return True
    if os.path.isdir(path):
        of_zoo = ("run.json", "model.onnx", "model.tflite", "model.xml")
        return not any(os.path.isfile(os.path.join(path, name)) for name in of_zoo)
    return os.path.isfile(path) and path.lower().endswith((".csv", ".npz"))


def _command_name(context: click.Context) -> str:
    """Return the words of a command as a user types them, such as "zoo augment preview"."""
    names: list[str] = []
    while context.parent is not None:
        names.insert(0, context.info_name or "")
        context = context.parent
    return " ".join(["zoo", *names])


def check_architecture(text: str, registry: Registry) -> None:
    """Check that a plugin provides an architecture. Commands call this before they import large packages.

    Args:
        text: `architecture` or `architecture.tag`, as the user typed it.
        registry: The loaded plugins.

    Raises:
        UnknownName: No plugin provides the architecture, or it has no weights with the tag.
        DuplicateName: More than one plugin provides the architecture or the weights.
        UsageError: The text is the path of a file or folder.
    """
    try:
        registry.resolve(text)
    except UnknownName:
        if not os.path.exists(text):
            raise
        from zoo.plugin import Architecture

        known = {architecture.name for architecture in registry.all(Architecture)}
        advice = "Name an architecture, and give pictures with --data"
        context = click.get_current_context()
        if isinstance(context.command, DataCommand) and EXAMPLE in known:
            (name,) = [str(each.name) for each in context.command.params if isinstance(each, click.Argument)]
            command = context.command.with_data(context, text, **{name: EXAMPLE})
            advice += f": `{command}`" if command else ""
        raise UsageError(
            f"{text!r} is a path, not an architecture. {advice}. `zoo list` shows all architectures."
        ) from None
