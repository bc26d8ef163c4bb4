"""Checks the fields of the plugin API's data classes. The data classes call these functions for each new instance."""

from __future__ import annotations

import math
import re

from zoo.errors import InvalidPluginData

# Names are parts of names of folders, which may have 255 characters.
LONGEST_NAME = 100
NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


def require(condition: bool, owner: object, problem: str, received: object) -> None:
    """Raise InvalidPluginData if a field has a value that is not allowed.

    Args:
        condition: Whether the value is allowed.
        owner: The object whose field is checked. The message begins with the name of its class.
        problem: The rule that the value breaks, such as "grid must be a positive whole number". It is part of the
            message.
        received: The value of the field. It is also part of the message.
    """
    if not condition:
        raise InvalidPluginData(f"{type(owner).__name__}: {problem}. Received: {received!r}.")


def require_name(owner: object, name: object) -> None:
    require(
        isinstance(name, str) and NAME.fullmatch(name) is not None and len(name) <= LONGEST_NAME,
        owner,
        f"a name may hold {LONGEST_NAME} lower-case letters, digits, '_' and '-', and begins with a letter or a digit",
        name,
    )


def require_text(owner: object, label: str, text: object) -> None:
    require(isinstance(text, str) and bool(text.strip()), owner, f"{label} must be a text that is not empty", text)


def is_count(value: object, minimum: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
