"""Defines the exceptions that zoo raises on purpose.

Each class says when it is raised. Each message says what is wrong, what was received, what is allowed and what to do
next. `zoo/cli/__init__.py` translates exceptions into exit codes. The package `zoo_runtime` has exceptions of its own.

    ZooError
    ├── UsageError                 the command line or an argument is wrong: exit code 2
    │   └── UnknownName            a name does not exist
    ├── PluginError
    │   ├── InvalidPluginData      a plugin breaks the rules of the plugin API
    │   ├── BrokenPluginError      a plugin cannot be used (only raised if ZOO_STRICT_PLUGINS is set)
    │   ├── OutdatedZoo            a plugin was written for a newer plugin API than that of this zoo
    │   ├── OutdatedPlugin         a plugin was written for a plugin API that zoo no longer has
    │   ├── PluginMissing          a run needs a plugin that is not installed
    │   └── DuplicateName          two or more plugins provide the same name
    ├── WeightsError
    │   ├── WeightsUnavailable     a weights file cannot be read or downloaded
    │   ├── HashMismatch           a file is not the published or recorded one
    │   └── WeightsIncompatible    a file does not fit the network
    ├── DataError
    │   ├── DataNotFound           the path does not exist or cannot be read
    │   ├── DataLayout             the folder, CSV or .npz does not have a layout that zoo reads
    │   ├── UnreadablePictures     more than a fifth of the pictures cannot be read
    │   ├── EmptyClass             a class has too few pictures, or there are too few classes
    │   ├── DamagedArchive         a tar or Parquet file of pictures is truncated or damaged
    │   └── SplitLeak              the same picture is in two parts of a given split
    ├── TrainingError              training cannot start or continue (for example, the loss is not finite)
    ├── RunError                   a run folder is missing, incomplete, damaged or of an unknown version
    ├── WriteError                 a result cannot be written (full disk, no permission)
    ├── ExportError
    │   ├── ConversionFailed       the network cannot be converted to ONNX
    │   └── ParityFailed           the exported file does not compute what the trained network computes
    │       └── ConstantOutput     the trained network computes the same for every picture
    └── InstallationError          a part of the installation is missing
"""

from __future__ import annotations

import difflib
import shlex
import traceback
from collections.abc import Callable, Iterable, Sequence


def _squeezed(name: str) -> str:
    """Return a name in lower case and without hyphens and underscores, so that names can be compared."""
    return name.lower().replace("-", "").replace("_", "")


def reason(error: BaseException) -> str:
    """Describe in one line an exception that was raised outside zoo, such as in a plugin.

    The line has the type of the exception, the first line of its text, and the file and line that raised it.
    """
    try:
        text = (str(error).strip().splitlines() or [""])[0]
    except BaseException:
        # The exception comes from a plugin, and even its __str__ may fail or end the process.
        text = ""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}{': ' if text else ''}{text}{place}"


class ZooError(Exception):
    """Base class of all errors that a user of zoo can act on."""


class UsageError(ZooError):
    """An option or argument is missing, has a value that zoo cannot use, or contradicts another one."""


class UnknownName(UsageError):
    """The user gave a name that does not exist, such as a misspelled architecture, schedule or parameter.

    The message suggests up to three similar names.

    Args:
        kind: The kind of thing that the user wanted to name, in the singular, such as "architecture".
        received: The name that the user typed.
        allowed: All names that exist.
        hint: A sentence at the end of the message, usually with the command that shows the allowed names.
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
    """Base class of all errors that a plugin causes."""


class InvalidPluginData(PluginError):
    """A function, a returned value or a field of a plugin breaks the rules of the plugin API; see `zoo.plugin`."""


class BrokenPluginError(PluginError):
    """A plugin cannot be used, and the environment variable ZOO_STRICT_PLUGINS is set.

    The variable counts as set if its value is neither empty nor 0. If it is not set, zoo warns about the plugin and
    continues without it.
    """


class OutdatedZoo(PluginError):
    """A plugin was written for a newer version of the plugin API than this zoo has."""


class OutdatedPlugin(PluginError):
    """A plugin was written for a version of the plugin API that is so old that zoo no longer supports it."""


class PluginMissing(PluginError):
    """A run was made with a plugin that is no longer installed, and the request cannot be met without it.

    The message names the plugin, its distribution and version, and the command that installs it.
    """


class DuplicateName(PluginError):
    """Two or more plugins provide the same name. Until all but one are uninstalled, the name cannot be used.

    The error is raised when the name is used. If ZOO_STRICT_PLUGINS is set (see `BrokenPluginError`), the error is
    raised as soon as the plugins are loaded.
    """


class WeightsError(ZooError):
    """Base class of all errors about pretrained weights."""


class WeightsUnavailable(WeightsError):
    """A file of weights or class names cannot be read, or it is not available locally and cannot be downloaded."""


class HashMismatch(WeightsError):
    """A file is not the published one: its hash differs, or its content is not of the expected kind.

    If no hash is published, the file is compared with the hash that zoo recorded when it first downloaded the file.
    """


class WeightsIncompatible(WeightsError):
    """A file does not hold weights, or its weights do not fit the network."""


class DataError(ZooError):
    """Base class of all errors about a user's pictures."""


class DataNotFound(DataError):
    """The path does not exist, or the user has no permission to read it."""


class DataLayout(DataError):
    """The folder, CSV or .npz file does not have one of the layouts that zoo reads, or it can be read in two ways.

    Args:
        message: What was found, and why it is not read.
        remedies: What the user can do, each with the options that do it, such as ("to leave it out", ["--exclude",
            "test"]). The command line shows them as whole commands.
    """

    def __init__(self, message: str, remedies: Sequence[tuple[str, Sequence[str]]] = ()):
        self.message, self.remedies = message, tuple(remedies)
        super().__init__(self.with_commands(shlex.join))

    def with_commands(self, command: Callable[[Sequence[str]], str]) -> str:
        """Return the message with a line for each remedy.

        Args:
            command: Turns the options of a remedy into what the user types.
        """
        width = max((len(what) for what, _ in self.remedies), default=0) + 1
        lines = [f"  {what + ':':{width}} {command(options)}" for what, options in self.remedies]
        return "\n".join([self.message, *lines])


class UnreadablePictures(DataError):
    """More than a fifth of the files cannot be decoded as pictures.

    zoo leaves a few unreadable files out and warns about them. More than a fifth suggests that the path is wrong.
    """


class EmptyClass(DataError):
    """A class has too few pictures, or there are too few classes."""


class DamagedArchive(DataError):
    """A tar or Parquet file of pictures is truncated or damaged. The pictures before the damage are good."""


class SplitLeak(DataError):
    """The user's data define a split that has the same picture in two parts.

    Test metrics on training pictures would measure what the network remembers, not what it has learned.
    """


class TrainingError(ZooError):
    """Training cannot start or continue, for example because the loss is not finite."""


class HostsError(ZooError):
    """The processes of a training on several hosts do not find each other, do different things, or one has ended."""


class RunError(ZooError):
    """A run folder cannot be used.

    The folder is missing, incomplete or damaged, another version of zoo wrote it, or the run's pictures have changed.
    """


class WriteError(ZooError):
    """A file or folder of results cannot be written, because the disk is full or writing is not permitted."""


class ExportError(ZooError):
    """Base class of all errors that prevent an export. A file that was exported earlier is not replaced."""


class ConversionFailed(ExportError):
    """tf2onnx cannot convert the network, or onnxruntime cannot run or quantize the converted graph."""


class ConverterMissing(ConversionFailed):
    """TensorFlow or tf2onnx, which convert a network to ONNX, is not installed here. Training does without them."""


class ParityFailed(ExportError):
    """The exported file runs, but it does not compute what the trained network computes.

    The error is also raised if the outputs are NaN or infinite, or do not depend on the picture. And it is raised if
    the written file fails its self-test.
    """


class ConstantOutput(ParityFailed):
    """The trained network computes the same for every picture, so that the exported file cannot be compared with it."""


class InstallationError(ZooError):
    """A package that zoo needs is missing or cannot be imported, or KERAS_BACKEND names an unknown backend."""
