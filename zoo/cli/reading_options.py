"""Defines the options that say how pictures are read: which classes and files count, and how large they may be.

The values become `zoo.data.reading.ReadingOptions`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.values import parse_formats, parse_max_pixels

if TYPE_CHECKING:
    from zoo.data.reading import ReadingOptions


def _class_names(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    from zoo.data.reading import parse_names

    try:
        return parse_names(values) or ()
    except ValueError as error:
        raise click.BadParameter(
            f"must be names separated by commas, such as cats,dogs. A name with a comma needs double quotes inside "
            f"single ones: 'cats,\"dogs, small\"'. Received: {error}."
        ) from None


def _patterns(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    if values:
        from zoo.data.reading import check_patterns

        try:
            check_patterns(values)
        except ValueError as error:
            raise click.BadParameter(
                f"must be a name or a pattern as in .gitignore, such as raw, '*.png' or 'cats/old'. Received: {error}."
            ) from None
    return values


def _columns(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    from zoo.data.reading import parse_names

    try:
        parts = parse_names(values) or ()
    except ValueError:
        parts = ("",)
    if not all(all(side.strip() for side in part.partition("=")[::2]) for part in parts):
        raise click.BadParameter(
            "must say what the columns of the list hold, such as path=filename,label=class or, without a header, "
            f"path=1,label=2. Received: {','.join(values)!r}."
        )
    return parts


def _root(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    # A run records the folder, so that its pictures can be found again from any working directory.
    return None if value is None else os.path.abspath(os.path.expanduser(value))


max_pixels_option = click.option(
    "--max-pixels",
    callback=parse_max_pixels,
    metavar="N",
    help="The largest picture to decode, width x height, such as 200M (default: 89 million pixels).",
)

formats_option = click.option(
    "--formats",
    callback=parse_formats,
    metavar="F,...",
    help="The picture formats to read, such as jpeg,png. Default: jpeg, png, webp, gif, bmp, tiff, avif, heic, ppm. "
    "default,jpeg2000,ico,tga,dib also reads the rare ones.",
)

# The options that say how pictures are read. Each value is a field of `zoo.data.reading.ReadingOptions`.
READING_OPTIONS = (
    click.option(
        "--classes",
        multiple=True,
        callback=_class_names,
        metavar="A,B,...",
        help="The classes to use; pictures of others are left out. In a folder, these names say which folders are "
        "classes.",
    ),
    click.option(
        "--exclude",
        multiple=True,
        callback=_patterns,
        metavar="GLOB",
        help="Leave out files or folders, as in .gitignore: raw, '*.png', 'cats/old'. Can be repeated.",
    ),
    click.option(
        "--columns",
        multiple=True,
        callback=_columns,
        metavar="PATH=NAME,...",
        help="The columns of a list: path=filename,label=class,split=set. labels=... if a picture may have several. "
        "Numbers count columns from 1. In an .npz file: x_train=a,y_train=b.",
    ),
    click.option(
        "--root",
        callback=_root,
        metavar="FOLDER",
        help="The folder from which paths in a list count. Default: the folder of the list.",
    ),
    max_pixels_option,
    formats_option,
)


def reading_options(command: Callable) -> Callable:
    """Give a command the options that say how pictures are read."""
    for option in reversed(READING_OPTIONS):
        command = option(command)
    return command


def reading_values(values: dict[str, Any]) -> ReadingOptions:
    """Make `ReadingOptions` from the values of the options in `READING_OPTIONS`.

    Args:
        values: Maps the name of each option to its value. This function removes these options from the dictionary.
    """
    from zoo.data.reading import ReadingOptions

    return ReadingOptions(
        classes=values.pop("classes") or None,
        exclude=values.pop("exclude"),
        columns=values.pop("columns"),
        root=values.pop("root"),
        max_pixels=values.pop("max_pixels"),
        formats=values.pop("formats"),
    )


def format_reading(option: str, value: Any) -> list[str] | None:
    """Return the words that give a value of one of these options again, or None if it is not one of them.

    Args:
        option: The name of the option, such as "--classes".
        value: Its parsed value.
    """
    if option == "--exclude":
        return [word for pattern in value for word in (option, pattern)]
    if option == "--max-pixels":
        from zoo_runtime.workshop import format_pixels

        return [option, format_pixels(value)]
    if option == "--formats" and isinstance(value, tuple):
        return [option, ",".join(value)]
    if option in ("--classes", "--columns") and isinstance(value, tuple):
        from zoo.data.reading import format_names

        return [option, format_names(value)]
    return None
