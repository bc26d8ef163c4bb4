"""Reads augmentation policies as a user types them, `course:rotation=30,shear=0.1`, and builds their functions.

The policies themselves are plugins; see `zoo.plugin.Augmentation`. `zoo.report.augment_preview` draws what they do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from zoo import backend
from zoo.errors import InvalidPluginData, UnknownName, UsageError, reason
from zoo.plugin import Augmentation
from zoo.plugin.registry import Registry

SHAPE = "write a policy as NAME or NAME:PARAMETER=VALUE,PARAMETER=VALUE"

Augment = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def parse(text: str, registry: Registry) -> tuple[Augmentation, dict[str, Any]]:
    """Read an augmentation policy and its parameters from the text that a user typed.

    Args:
        text: `NAME` or `NAME:PARAMETER=VALUE,...`; each value has the type of the parameter's default.
        registry: The loaded plugins.

    Returns:
        The policy, and the value of each of its parameters, defaults included.

    Raises:
        UnknownName: No plugin provides the policy, or the policy does not have the parameter.
        DuplicateName: Two plugins provide the policy.
        UsageError: The text is not of this form, or a value does not have the type of the parameter.
    """
    name, colon, rest = text.partition(":")
    policy = registry.augmentation(name)
    parameters, given = dict(policy.parameters), set()
    for part in rest.split(",") if colon else ():
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key and equals and value):
            raise UsageError(f"{SHAPE}. Received: {text!r}, in which {part!r} is not PARAMETER=VALUE.")
        if key not in parameters:
            hint = f"`zoo info {name}` shows their defaults."
            raise UnknownName(f"parameter of the policy {name}", key, parameters, hint)
        if key in given:
            raise UsageError(f"the parameter {key} is given twice. Received: {text!r}. Give it once.")
        given.add(key)
        parameters[key] = _value(key, value, policy.parameters[key])
    return policy, parameters


def _value(key: str, text: str, default: object) -> object:
    """Read a value of the same type as a default value; raises UsageError."""
    if isinstance(default, bool):
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        wanted = "true or false"
    elif isinstance(default, (int, float)):
        wanted = "a whole number" if isinstance(default, int) else "a number"
        try:
            number = type(default)(text)
        except ValueError:
            number = math.nan
        if math.isfinite(number):
            return number
    elif isinstance(default, str):
        return text
    else:
        raise UsageError(f"{key} cannot be changed here, because its value {default!r} is neither a number nor a text.")
    raise UsageError(f"{key} must be {wanted}, such as {_written(default)}. Received: {text!r}.")


def _written(value: object) -> str:
    """Write a parameter's value as a user would type it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def describe(policy: Augmentation, parameters: Mapping[str, Any]) -> str:
    """Write a policy with all parameters as a user would type it. Numbers are rounded to four digits."""
    listed = ",".join(f"{key}={_written(value)}" for key, value in parameters.items())
    return f"{policy.name}:{listed}" if listed else policy.name


def build(policy: Augmentation, parameters: Mapping[str, Any]) -> Augment:
    """Build the function that alters training pictures. Starts Keras, because a plugin's `build` may import it.

    Args:
        policy: The policy.
        parameters: The value of each parameter, as `parse` returns them.

    Raises:
        UsageError: The policy does not accept the parameters that the user gave.
        InvalidPluginData: The policy cannot be built although all parameters have their default values.
    """
    backend.start()
    try:
        return policy.build(**parameters)
    except Exception as error:
        if dict(parameters) != dict(policy.parameters):
            why = str(error) if isinstance(error, ValueError) else reason(error)
            raise UsageError(
                f"the policy {policy.name} does not accept {describe(policy, parameters)}: {why}"
            ) from error
        raise InvalidPluginData(f"augmentation {policy.name!r} cannot be built: {reason(error)}") from error


def picture_seeds(seed: int, epoch: int, pictures: np.ndarray) -> np.ndarray:
    """Derive one seed per picture from the seed of the run, the epoch and the picture, by splitmix64's finalizer.

    The same three numbers give the same seed, whatever the order and the batches of the pictures. splitmix64 is by
    Steele, Lea and Flood 2014, https://doi.org/10.1145/2660193.2660195.

    Args:
        seed: The seed of the run.
        epoch: The epoch, from 0.
        pictures: Indices of the pictures, an integer array (pictures,).

    Returns:
        A uint64 array (pictures,).
    """
    with np.errstate(over="ignore"):
        start = np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(epoch) * np.uint64(0xD1B54A32D192ED03)
        z: np.ndarray = start + (pictures.astype(np.uint64) + np.uint64(1)) * np.uint64(0x8CB92BA72F3D8DD7)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
