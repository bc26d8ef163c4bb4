"""Tools for writing augmentation policies: parameter checks, a random generator per picture, random horizontal flips.

Plugins import these names from `zoo.plugin`. The policies themselves are in plugins; see `zoo.plugin.Augmentation`.
Importing this module imports neither numpy nor Keras.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo.errors import InvalidPluginData

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class ParameterRange:
    """Describes the numbers that a parameter of an augmentation policy accepts.

    Args:
        minimum: The smallest value accepted.
        maximum: The largest value accepted.
        unit: The unit of the number ("degrees", "a fraction of the area"). Error messages quote it.
        integer: True accepts only whole numbers.

    Raises:
        InvalidPluginData: `minimum` is above `maximum`.
    """

    minimum: float
    maximum: float
    unit: str
    integer: bool = False

    def __post_init__(self) -> None:
        if not self.minimum <= self.maximum:
            raise InvalidPluginData(
                f"ParameterRange: minimum must not be above maximum. Received: {self.minimum!r} and {self.maximum!r}."
            )


def check_parameters(ranges: Mapping[str, ParameterRange | type[bool]], /, **parameters: Any) -> None:
    """Check that the parameters of an augmentation policy are in their ranges. A policy's `build` function calls this.

        RANGES = {"flip": bool, "rotation": ParameterRange(0, 180, "degrees")}

        def build(*, flip, rotation):
            check_parameters(RANGES, flip=flip, rotation=rotation)

    Args:
        ranges: Maps the name of each parameter to a `ParameterRange`, or to `bool` for a parameter that is True or
            False.
        parameters: The values to check.

    Raises:
        ValueError: A value has the wrong type or is out of its range. zoo shows the message to the user who typed it.
        InvalidPluginData: `ranges` has no entry for a parameter.
    """
    for name, value in parameters.items():
        if name not in ranges:
            raise InvalidPluginData(f"check_parameters: no range is given for {name!r}. Known: {', '.join(ranges)}.")
        allowed = ranges[name]
        if not isinstance(allowed, ParameterRange):
            if not isinstance(value, bool):
                raise ValueError(f"{name} must be true or false. Received: {value!r}.")
            continue
        kinds = int if allowed.integer else (int, float)
        # Python counts True as the number 1.
        is_number = isinstance(value, kinds) and not isinstance(value, bool)
        if not is_number or not allowed.minimum <= value <= allowed.maximum:
            kind = "a whole number" if allowed.integer else "a number"
            raise ValueError(
                f"{name} must be {kind} from {allowed.minimum:g} to {allowed.maximum:g} ({allowed.unit}). "
                f"Received: {value!r}."
            )


def picture_generators(seeds: np.ndarray) -> list[np.random.Generator]:
    """Make one random generator per picture, so that a picture's augmentation does not depend on the rest of its batch.

    Args:
        seeds: One seed per picture, a uint64 array (batch,), as a policy receives them.

    Returns:
        One numpy generator per picture, in the order of the seeds.
    """
    import numpy as np

    return [np.random.default_rng(int(seed)) for seed in seeds]


def random_horizontal_flip(
    images: np.ndarray, generators: list[np.random.Generator], *, enabled: bool = True
) -> np.ndarray:
    """Mirror each picture left to right with a probability of one half.

    Args:
        images: Pictures, an array (batch, height, width, channels) of any dtype; it is not changed.
        generators: One generator per picture. One number is drawn from each.
        enabled: False mirrors no picture. The numbers are still drawn, so that later draws from the generators do not
            change.

    Returns:
        A new array of the same shape and dtype.
    """
    flipped = images.copy()
    for picture, generator in zip(flipped, generators, strict=True):
        if generator.random() < 0.5 and enabled:
            picture[:] = picture[:, ::-1].copy()
    return flipped
