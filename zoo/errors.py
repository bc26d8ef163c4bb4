"""The errors that zoo raises on purpose, drawn once as a tree.

Each class says when it happens; each message says what was wrong, what was received, what is allowed and what to do
next. Exit codes are decided in `cli.py` alone. Errors of the predictor (`zoo_runtime`) have a tree of their own.

    ZooError
    ├── UsageError                 the request itself cannot be meant: exit code 2
    │   └── UnknownName            no plugin brings that name
    ├── PluginError
    │   ├── InvalidPluginData      a plugin returned something the contract does not allow
    │   ├── BrokenPluginError      a plugin cannot be used (only raised when ZOO_STRICT_PLUGINS=1)
    │   └── DuplicateName          two plugins bring the same name
    ├── WeightsError
    │   ├── WeightsUnavailable     neither at hand nor to be downloaded
    │   ├── HashMismatch           a file is not the one that was published or recorded
    │   └── WeightsIncompatible    a file does not fit the network
    ├── DataError
    │   ├── DataNotFound           the path does not exist, or holds nothing that zoo reads
    │   ├── DataLayout             the folder, CSV or .npz is not arranged as zoo reads it
    │   ├── UnreadablePictures     more than a fifth of the pictures cannot be read
    │   ├── EmptyClass             a class is left without pictures
    │   └── SplitLeak              the same picture stands in two of the given splits
    ├── TrainingError              training cannot go on (loss is not finite, nothing to train)
    ├── RunError                   a run folder is missing, incomplete or of another schema
    ├── WriteError                 a result cannot be written: full disk, no permission
    ├── ExportError
    │   ├── ConversionFailed       the graph could not be brought to ONNX
    │   └── ParityFailed           the exported file does not do what the trained network does
    └── InstallationError          a part of the installation is missing
"""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable


def reason(error: BaseException) -> str:
    """One line on a foreign exception: its type, its text, and the place in the code that raised it."""
    try:
        text = (str(error).strip().splitlines() or [""])[0]
    except Exception:
        # A plugin's exception may be broken too.
        text = ""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}{': ' if text else ''}{text}{place}"


class ZooError(Exception):
    """Base of every error that a user of zoo can act on."""


class UsageError(ZooError):
    """An option or argument has a value that cannot be used."""


class UnknownName(UsageError):
    """A name that no loaded plugin brings.

    Args:
        kind: What was looked for, in the singular ("architecture").
        received: The name as typed.
        allowed: Every name that would have been accepted.
        hint: The command that shows the allowed names.
    """

    def __init__(self, kind: str, received: str, allowed: Iterable[str], hint: str = ""):
        self.kind, self.received, self.allowed = kind, received, sorted(allowed)
        nearest = difflib.get_close_matches(received, self.allowed, n=3, cutoff=0.5)
        shown = ", ".join(self.allowed[:12]) + (", …" if len(self.allowed) > 12 else "")
        message = f"There is no {kind} called {received!r}."
        if nearest:
            message += f" Did you mean {' or '.join(nearest)}?"
        message += f" Known: {shown or 'none'}."
        super().__init__(f"{message} {hint}".rstrip())


class PluginError(ZooError):
    """Base of everything that is wrong with a plugin."""


class InvalidPluginData(PluginError):
    """A plugin's hook, or the author of a data class, gave a value that the contract does not allow."""


class BrokenPluginError(PluginError):
    """A plugin could not be loaded and ZOO_STRICT_PLUGINS=1 asks for that to be fatal."""


class DuplicateName(PluginError):
    """Two plugins bring the same name; neither wins, and the name cannot be used until one is gone."""


class WeightsError(ZooError):
    """Base of everything that is wrong with pretrained weights."""


class WeightsUnavailable(WeightsError):
    """The weights are not at hand and could not be downloaded."""


class HashMismatch(WeightsError):
    """A file's digest differs from the published one, or from the one recorded when it was first downloaded."""


class WeightsIncompatible(WeightsError):
    """A weights file does not fit the network it was meant for."""


class DataError(ZooError):
    """Base of everything that is wrong with a user's pictures."""


class DataNotFound(DataError):
    """Nothing is at that path, or nothing that zoo can read."""


class DataLayout(DataError):
    """The folder, CSV or .npz is not arranged in a way that zoo reads."""


class UnreadablePictures(DataError):
    """More than a fifth of the pictures are corrupt, empty or no pictures; a typing error is likelier than bad luck."""


class EmptyClass(DataError):
    """A class has no picture, or only one class has any."""


class SplitLeak(DataError):
    """A picture stands in two of the given splits; a test on it would measure memory."""


class TrainingError(ZooError):
    """Training cannot start or cannot go on."""


class RunError(ZooError):
    """A run folder is missing, incomplete, or written by a version that this one does not know."""


class WriteError(ZooError):
    """A file or folder of results cannot be written: the disk is full, or writing is not permitted."""


class ExportError(ZooError):
    """Base of everything that keeps a file from being put in place."""


class ConversionFailed(ExportError):
    """tf2onnx, or onnxruntime on its result, refused the graph."""


class ParityFailed(ExportError):
    """The exported file loads, but does not give what the trained network gives."""


class InstallationError(ZooError):
    """A package that zoo needs is not there, or was removed together with another distribution."""
