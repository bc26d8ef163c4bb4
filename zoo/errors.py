"""The errors that zoo raises on purpose.

Each class says when it is raised. Each message says what is wrong, what was received, what is allowed and what to do
next. Exit codes are decided in `zoo/cli/__init__.py` alone. The predictor (`zoo_runtime`) has errors of its own.

    ZooError
    ├── UsageError                 the command line or an argument is wrong: exit code 2
    │   └── UnknownName            no plugin provides that name
    ├── PluginError
    │   ├── InvalidPluginData      a plugin returns something that the contract does not allow
    │   ├── BrokenPluginError      a plugin cannot be used (only raised when ZOO_STRICT_PLUGINS=1)
    │   └── DuplicateName          two plugins provide the same name
    ├── WeightsError
    │   ├── WeightsUnavailable     weights are not available locally and cannot be downloaded
    │   ├── HashMismatch           a file is not the published or recorded one
    │   └── WeightsIncompatible    a file does not fit the network
    ├── DataError
    │   ├── DataNotFound           the path does not exist or cannot be read
    │   ├── DataLayout             the folder, CSV or .npz is not arranged as zoo reads it
    │   ├── UnreadablePictures     more than a fifth of the pictures cannot be read
    │   ├── EmptyClass             a class has no pictures, or there are too few classes
    │   └── SplitLeak              the same picture is in two parts of a given split
    ├── TrainingError              training cannot continue (the loss is not finite, nothing is trainable)
    ├── RunError                   a run folder is missing, incomplete or of an unknown version
    ├── WriteError                 a result cannot be written (full disk, no permission)
    ├── ExportError
    │   ├── ConversionFailed       the network cannot be converted to ONNX
    │   └── ParityFailed           the exported file does not compute what the trained network computes
    └── InstallationError          a part of the installation is missing
"""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable


def _squeezed(name: str) -> str:
    """Return a name in lower case and without hyphens and underscores, so that names can be compared."""
    return name.lower().replace("-", "").replace("_", "")


def reason(error: BaseException) -> str:
    """Describe an exception of foreign code in one line: its type, its text, and the place that raised it."""
    try:
        text = (str(error).strip().splitlines() or [""])[0]
    except Exception:
        # The exception comes from a plugin, and even its __str__ may fail.
        text = ""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}{': ' if text else ''}{text}{place}"


class ZooError(Exception):
    """Base of all errors that a user of zoo can act on."""


class UsageError(ZooError):
    """An option or argument has a value that zoo cannot use."""


class UnknownName(UsageError):
    """No loaded plugin provides the requested name.

    Args:
        kind: What was looked for, in the singular ("architecture").
        received: The name as the user typed it.
        allowed: All names that would have been accepted.
        hint: A sentence with the command that shows the allowed names; it ends the message.
    """

    def __init__(self, kind: str, received: str, allowed: Iterable[str], hint: str = ""):
        self.kind, self.received, self.allowed = kind, received, sorted(allowed)
        # A name that is cut off, such as mobilenetv3, means the whole family.
        start = _squeezed(received)
        nearest = [name for name in self.allowed if start and _squeezed(name).startswith(start)][:6]
        nearest = nearest or difflib.get_close_matches(received, self.allowed, n=3, cutoff=0.5)
        shown = ", ".join(self.allowed[:12]) + (", …" if len(self.allowed) > 12 else "")
        message = f"There is no {kind} called {received!r}."
        if nearest:
            message += f" Did you mean {', '.join(nearest[:-1])}{' or ' * (len(nearest) > 1)}{nearest[-1]}?"
        message += f" Known: {shown or 'none'}."
        super().__init__(f"{message} {hint}".rstrip())


class PluginError(ZooError):
    """Base of all errors that a plugin causes."""


class InvalidPluginData(PluginError):
    """A plugin's hook or data class has a value that the contract does not allow."""


class BrokenPluginError(PluginError):
    """A plugin cannot be used, and ZOO_STRICT_PLUGINS=1 makes that an error."""


class DuplicateName(PluginError):
    """Two plugins provide the same name. The name cannot be used until one of them is uninstalled."""


class WeightsError(ZooError):
    """Base of all errors with pretrained weights."""


class WeightsUnavailable(WeightsError):
    """The weights are not available locally and cannot be downloaded."""


class HashMismatch(WeightsError):
    """A file is not the published one: its hash differs, or its content is not of the expected kind.

    Where no hash is published, the hash that was recorded at the first download counts.
    """


class WeightsIncompatible(WeightsError):
    """A weights file does not fit the network into which it should be loaded."""


class DataError(ZooError):
    """Base of all errors with a user's pictures."""


class DataNotFound(DataError):
    """The path does not exist, or the user may not read it."""


class DataLayout(DataError):
    """The folder, CSV or .npz file does not have one of the layouts that zoo reads."""


class UnreadablePictures(DataError):
    """More than a fifth of the files cannot be decoded as pictures.

    So many bad files suggest a wrong path, so that zoo does not simply leave them out.
    """


class EmptyClass(DataError):
    """A class has too few pictures, or there are too few classes."""


class SplitLeak(DataError):
    """The same picture is in two parts of a given split.

    A test on training pictures would measure what the network remembers, not what it has learned.
    """


class TrainingError(ZooError):
    """Training cannot start or cannot continue."""


class RunError(ZooError):
    """A run folder is missing or incomplete, or an unknown version of zoo wrote it."""


class WriteError(ZooError):
    """A file or folder of results cannot be written, because the disk is full or writing is not permitted."""


class ExportError(ZooError):
    """Base of all errors that prevent an export. An existing export is not replaced."""


class ConversionFailed(ExportError):
    """tf2onnx cannot convert the network, or onnxruntime cannot run the converted graph."""


class ParityFailed(ExportError):
    """The exported file runs, but its outputs differ from those of the trained network."""


class InstallationError(ZooError):
    """A package that zoo needs is missing, or was removed together with another distribution."""
