"""Parses the values of options: callbacks and types for click. `zoo.cli.options` uses them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import click


class WholeNumber(click.IntRange):
    """A click type for whole numbers in a range. Its error message says what is allowed and what was received."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> int:
        try:
            return int(super().convert(value, parameter, context))
        except click.BadParameter:
            allowed = f"of {self.min} or more" if self.max is None else f"from {self.min} to {self.max}"
            self.fail(f"must be a whole number {allowed}. Received: {value!r}.", parameter, context)


def parse_names(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
    """Split names at commas. The tuple is empty if the option is not given.

    Raises:
        click.BadParameter: There is no name in the value, for example because a variable of the shell is empty.
    """
    names = tuple(name.strip() for name in (value or "").split(",") if name.strip())
    if value is not None and not names:
        raise click.BadParameter(f"must be names, separated by commas. Received: {value!r}. To take all, leave it out.")
    return names


def parse_size(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """Parse the value of --size, which is SIDE or HEIGHTxWIDTH in pixels.

    Returns:
        (height, width), or None if the option is not given.

    Raises:
        click.BadParameter: The value has another form, or a side is not in 1..4096.
    """
    if value is None:
        return None
    sides = value.lower().split("x")
    try:
        height, width = (int(side) for side in (sides * 2 if len(sides) == 1 else sides))
    except ValueError:
        raise click.BadParameter(
            f"must be SIDE or HEIGHTxWIDTH in pixels, such as 160 or 120x160. Received: {value!r}."
        ) from None
    if not (1 <= height <= 4096 and 1 <= width <= 4096):
        raise click.BadParameter(f"must be 1 to 4096 pixels. Received: {value!r}.")
    return height, width


def parse_numbers(kind: type, minimum: float, limit: float) -> Callable:
    """Return a callback for click that parses numbers separated by commas, such as "0.001,0.0001".

    The callback returns a tuple of numbers, or None if the option is not given.

    Args:
        kind: The type of the numbers: int or float.
        minimum: The smallest number that is allowed.
        limit: Every number must be smaller than this limit.
    """

    def parse(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple | None:
        if value is None:
            return None
        try:
            numbers = tuple(kind(part) for part in value.split(","))
        except ValueError:
            numbers = ()
        if not numbers or not all(minimum <= number < limit for number in numbers):
            what = (
                f"whole numbers from {minimum} to {limit - 1}"
                if kind is int
                else f"numbers above 0 and below {limit:g}"
            )
            raise click.BadParameter(f"must be {what}, separated by commas. Received: {value!r}.")
        return numbers

    return parse


UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {unit[0] + "iB": 1024**power for power, unit in enumerate(("KB", "MB", "GB", "TB"), start=1)}


def parse_bytes(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """Parse a number of bytes, such as 500MB, 8GB or 0."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", value.strip(), re.IGNORECASE)
    units = {unit.upper(): size for unit, size in UNITS.items()}
    if not match or match[2].upper() not in units:
        raise click.BadParameter(f"must be a number of bytes, such as 500MB, 8GB or 0. Received: {value!r}.")
    return int(float(match[1]) * units[match[2].upper()])


def parse_pool(context: click.Context, parameter: click.Parameter, value: str | None) -> dict[str, Any] | None:
    """Parse the value of --pool: the fields of `zoo.plugin.Head` that it sets, or None if it is not given."""
    from zoo.plugin.types import POOLS

    if value is None:
        return None
    pool, _, grid = value.partition(":")
    if pool not in POOLS or (grid and not (pool == "roi" and grid.isdecimal() and 1 <= int(grid) <= 64)):
        raise click.BadParameter(f"must be {', '.join(POOLS)} or roi:GRID, such as roi:4. Received: {value!r}.")
    return {"pool": pool, **({"grid": int(grid)} if grid else {})}


def parse_hidden(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Parse the value of --hidden: numbers of units, or "none"."""
    return () if value == "none" else parse_numbers(int, 1, 65537)(context, parameter, value)


def parse_loggers(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """Parse the values of --log: names of loggers, separated by commas, or "none".

    Raises:
        click.BadParameter: A name is empty, or "none" stands beside a name.
    """
    names = [name.strip() for each in value for name in each.split(",")]
    if not all(names):
        raise click.BadParameter(
            f"a name is empty. Separate names with commas, such as tensorboard,mlflow. Received: {','.join(value)!r}."
        )
    if "none" in names and len(set(names)) > 1:
        raise click.BadParameter(f"'none' cannot stand beside other names. Received: {','.join(value)!r}.")
    return tuple(dict.fromkeys(name for name in names if name != "none"))


def parse_export_formats(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """Parse the values of --as: names of formats, separated by commas. The plugins are not loaded yet.

    Raises:
        click.BadParameter: A name is empty.
    """
    names = [name.strip() for each in value for name in each.split(",")]
    if not all(names):
        raise click.BadParameter(
            f"a name is empty. Separate names with commas, such as litert,openvino. Received: {','.join(value)!r}."
        )
    return tuple(dict.fromkeys(names))


def parse_provider_names(context: click.Context, parameter: click.Parameter, value: str | None) -> list[str] | None:
    """Parse the value of --providers: names of execution providers of ONNX Runtime, separated by commas.

    Returns:
        The names, or None if the option is not given.

    Raises:
        click.BadParameter: The installed ONNX Runtime lacks at least one of the named providers.
    """
    if value is None:
        return None
    from zoo_runtime.workshop import parse_providers

    try:
        return parse_providers(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def parse_precision(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """Parse a wanted precision, such as "0.99" or "99%". "none" becomes 0, and None stays None.

    Raises:
        click.BadParameter: It is not a number between 0 and 1.
    """
    if value is None:
        return None
    if value == "none":
        return 0.0
    if value in ("float32", "bfloat16"):
        raise click.BadParameter(f"{value} is a number format: use --compute {value}.")
    text = value.strip()
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        number = 0.0
    if not 0 < number < 1:
        raise click.BadParameter(f"it must be a number between 0 and 1, such as 0.99 or 99%. Received: {value!r}.")
    return number


def parse_max_pixels(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """Parse the value of --max-pixels, such as 200M or 200000000.

    Returns:
        The number of pixels, or None if the option is not given.

    Raises:
        click.BadParameter: The value has another form.
    """
    if value is None:
        return None
    from zoo_runtime.workshop import parse_pixels

    try:
        return parse_pixels(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def parse_formats(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Parse the value of --formats, such as default,jpeg2000.

    Returns:
        The names of the formats, or None if the option is not given.

    Raises:
        click.BadParameter: A name is unknown.
    """
    if value is None:
        return None
    from zoo_runtime.workshop import parse_formats

    try:
        return parse_formats(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def refuse_nan(context: click.Context, parameter: click.Parameter, value: float) -> float:
    """Refuse NaN, which click accepts as a number in a range."""
    if value != value:
        raise click.BadParameter("must be a number. Received: nan.")
    return value
