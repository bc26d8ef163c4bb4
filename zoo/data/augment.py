"""Parses augmentation policies and builds the functions that alter training pictures.

A user types a policy as a string, such as `course:rotation=30,shear=0.1`. Plugins provide the policies; see
`zoo.plugin.Augmentation`. `zoo.report.augment_preview` draws altered pictures.
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
    """Parse the augmentation policy that a user typed.

    Args:
        text: `NAME` or `NAME:PARAMETER=VALUE,...`. Each value must have the type of the parameter's default value.
        registry: The loaded plugins.

    Returns:
        The policy, and a dictionary that maps the name of each parameter to its value. A parameter that `text` does not
        mention has its default value.

    Raises:
        UnknownName: No plugin provides the policy, or the policy does not have the parameter.
        DuplicateName: Two plugins provide the policy.
        UsageError: `text` does not have this form, or sets a parameter twice. A value has the wrong type or is not
            finite. A parameter cannot be set here, because its default value is not a bool, a number or a string.
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
    """Convert the value that a user typed for a parameter to the type of the parameter's default value.

    Args:
        key: The name of the parameter, for error messages.
        text: The value that the user typed.
        default: The default value of the parameter.

    Raises:
        UsageError: `text` is not a finite value of that type, or the default value is not a bool, a number or a string.
    """
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
    """Format the value of a parameter as a user would type it. Floats have up to four significant digits."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def describe(policy: Augmentation, parameters: Mapping[str, Any]) -> str:
    """Format a policy and all its parameters as a user would type them. Floats have up to four significant digits."""
    listed = ",".join(f"{key}={_written(value)}" for key, value in parameters.items())
    return f"{policy.name}:{listed}" if listed else policy.name


def build(policy: Augmentation, parameters: Mapping[str, Any]) -> Augment:
    """Build the function that alters training pictures.

    This function imports Keras first (see `zoo.backend.start`), because the policy's `build` function may use it.

    Args:
        policy: The policy.
        parameters: Maps the name of each parameter to its value, as `parse` returns it.

    Returns:
        A function `f(images, labels, seeds) -> (images, labels)`. `zoo.plugin.Augmentation` states its shapes and
        dtypes. It raises InvalidPluginData if the policy fails, or returns something else.

    Raises:
        InstallationError: Keras cannot be imported.
        UsageError: The policy's `build` function fails, and a parameter differs from its default value.
        InvalidPluginData: The policy's `build` function fails although all parameters have their default values.
    """
    backend.start()
    try:
        function = policy.build(**parameters)
    except Exception as error:
        if dict(parameters) != dict(policy.parameters):
            why = str(error) if isinstance(error, ValueError) else reason(error)
            raise UsageError(
                f"the policy {policy.name} does not accept {describe(policy, parameters)}: {why}"
            ) from error
        raise InvalidPluginData(f"augmentation {policy.name!r} cannot be built: {reason(error)}") from error
    if not callable(function):
        raise InvalidPluginData(
            f"augmentation {policy.name!r}: `build` must return a function f(images, labels, seeds). Received: "
            f"{function!r:.60}."
        )
    return _guarded(policy.name, function)


def _guarded(name: str, function: Callable[..., Any]) -> Augment:
    """Return a policy whose mistakes become errors that name it. Otherwise Keras would fail far from their cause."""

    def augment(images: np.ndarray, labels: np.ndarray, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        wanted = images.shape, labels.shape
        try:
            altered, marks = function(images, labels, seeds)
            made = np.asarray(altered, "float32"), np.asarray(marks, "float32")
        except Exception as error:
            raise InvalidPluginData(
                f"augmentation {name!r} failed: {reason(error)}. `zoo check {name}` says more"
            ) from error
        if (made[0].shape, made[1].shape) != wanted:
            raise InvalidPluginData(
                f"augmentation {name!r} must keep the shapes of pictures and labels, {wanted[0]} and {wanted[1]}. "
                f"Received: {made[0].shape} and {made[1].shape}. `zoo check {name}` says more."
            )
        # A sum shows what is not a number, and costs less than a look at each pixel.
        if not math.isfinite(float(made[0].sum()) + float(made[1].sum())):
            raise InvalidPluginData(
                f"augmentation {name!r} makes pixels or labels that are not finite. `zoo check {name}` says more."
            )
        return made

    return augment


def picture_seeds(seed: int, epoch: int, pictures: np.ndarray) -> np.ndarray:
    """Derive one seed per picture from the run's seed, the epoch and the index of the picture.

    The seed depends only on these three numbers, not on the order of the pictures or on the batch size. The numbers are
    mixed by the finalizer of splitmix64 (Steele, Lea and Flood 2014, https://doi.org/10.1145/2660193.2660195).

    Args:
        seed: The seed of the run.
        epoch: The epoch, counted from 0.
        pictures: Indices of the pictures, an integer array (pictures,).

    Returns:
        The seeds, a uint64 array (pictures,).
    """
    with np.errstate(over="ignore"):
        start = np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(epoch) * np.uint64(0xD1B54A32D192ED03)
        z: np.ndarray = start + (pictures.astype(np.uint64) + np.uint64(1)) * np.uint64(0x8CB92BA72F3D8DD7)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
