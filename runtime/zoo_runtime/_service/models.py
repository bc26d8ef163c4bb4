"""Exported files that the service runs by name: opens them, tests them, and replaces them while requests go on."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._engine import ENGINES, FILES, exported_in, size_of
from .._errors import CorruptModel, ModelError, ModelNotFound, ZooRuntimeError
from .._network import LARGEST_TWICE
from .._predictor import Predictor
from .._selftest import check, tolerance_of
from .._session import regular_model_file
from .._trust import Trust

Signature = tuple[int, ...]
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"


class StillChanging(ModelError):
    """The file was written to while it was being opened. A later attempt may succeed."""


@dataclass(frozen=True)
class Opened:
    """An exported file that is open and has passed its self-test.

    Args:
        alone: Runs one picture on all threads. It is the fastest while only one request is being answered.
        shared: Runs one picture on a single thread. It is the fastest while several threads use it. The same object as
            `alone` if a second session would not help.
        version: The first 12 hexadecimal digits of the file's sha256.
        signature: Modification time in nanoseconds, size in bytes, and number of the file on the disk. If files must
            be signed, those of the file of the signature follow.
        trust: The thresholds of the file.
        opened_at: When it was opened, in seconds since 1970.
    """

    alone: Predictor
    shared: Predictor
    version: str
    signature: Signature
    trust: Trust
    opened_at: float


class Model:
    """A name of the service, with the file that answers for it.

    Args:
        name: The name in paths.
        path: The file, or the folder that holds it.
        concurrency: How many threads will use it at the same time.
        options: Keyword arguments of `Predictor`.
        self_test: Whether a file must pass its self-test before it answers.

    Raises:
        ZooRuntimeError: If the file cannot be opened, or fails its self-test.

    Attributes:
        current: The `Opened` file that answers. It is replaced as a whole, so that a request never sees two files.
        problem: Why the file on the disk is not the one that answers. None if it is.
    """

    def __init__(
        self, name: str, path: str, *, concurrency: int, options: Mapping[str, Any], self_test: bool = True
    ) -> None:
        self.name = name
        self.path = path
        self.problem: str | None = None
        self._concurrency = concurrency
        self._options = dict(options)
        self._self_test = self_test
        self.current = self._open()
        self._seen: Signature | None = self.current.signature
        self._refused: Signature | None = None

    def _open(self) -> Opened:
        path = regular_model_file(self.path)
        before = self._signature(path)
        digest = _sha256(path)
        alone = Predictor(path, **self._options)
        shared = alone
        # A second session takes the memory of the weights again. See `Predictor.predict_each`.
        if self._concurrency > 1 and alone.settings.providers == ("cpu",) and size_of(path) <= LARGEST_TWICE:
            shared = Predictor(path, tuned=False, **{**self._options, "threads": 1})
        if before is None or self._signature(path) != before or alone.info != shared.info:
            raise StillChanging(f"{path!r} was written to while it was being opened.")
        if self._self_test:
            for predictor in {id(alone): alone, id(shared): shared}.values():
                _check(predictor, path)
        return Opened(alone, shared, digest[:12], before, Trust.from_json(alone.info.trust), time.time())

    def _signature(self, path: str) -> Signature | None:
        """Return what tells the file at a path from another. A signature that arrives later makes another one, too."""
        found = signature(path)
        if found is None or self._options.get("require_signature") is None:
            return found
        return (*found, *(signature(f"{path}.sig") or ()))

    def changed(self) -> bool:
        """Look at the disk. Return whether there is another file that has stopped changing and was not yet tried."""
        now, why = None, "the file is not there any more"
        try:
            now = self._signature(regular_model_file(self.path))
        except ModelNotFound as error:
            if exported_in(self.path) if os.path.isdir(self.path) else os.path.exists(self.path):
                why = f"the file was replaced by something else: {str(error).rstrip('.')}"
        settled = now == self._seen
        self._seen = now
        if now is None:
            self.problem = f"{why}; the one that was opened goes on answering"
        elif now == self.current.signature:
            self.problem = None
        return settled and now is not None and now not in (self.current.signature, self._refused)

    def take_up(self) -> str:
        """Open the file on the disk, test it, and let it answer from now on. If it fails, the old one goes on.

        Returns:
            "taken" if another file answers now, "same" if the content is that of the old one, "refused" if the file
            cannot be used (then `problem` says why), or "changing" if it is still being written.
        """
        try:
            opened = self._open()
        except StillChanging:
            return "changing"
        except (ZooRuntimeError, OSError, ValueError) as error:
            self._refused = self._seen
            self.problem = f"the new file is not used, and the old one goes on answering: {error}"
            return "refused"
        same = opened.version == self.current.version
        self.current = opened
        self._seen, self._refused, self.problem = opened.signature, None, None
        return "same" if same else "taken"


def _check(predictor: Predictor, path: str) -> None:
    if tolerance_of(predictor.info) is None:
        raise CorruptModel(
            f"{path!r} has no self-test, so nothing shows that it works here. Export it again, or use --skip-self-test."
        )
    result = check(predictor)
    if not result.passed:
        raise CorruptModel(
            f"{path!r} fails its self-test: probabilities differ by {result.probability_difference:.2g} from those of "
            f"the machine that exported it (allowed: {result.tolerance:g}). `zoo-runtime check` says more. Copy the "
            "file again, or use --skip-self-test."
        )


def signature(path: str) -> Signature | None:
    """Return what tells one file at a path from another, or None if there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def return_memory() -> None:
    """Return to the system the memory of files that have been closed, and of large requests that have ended.

    The allocator of glibc keeps it: without this, the process takes twice its memory after ten new files, and 1 GB
    more after many requests of 20 MB.
    """
    with contextlib.suppress(ImportError, OSError, AttributeError, TypeError):
        import ctypes

        ctypes.CDLL(None).malloc_trim(0)


def _sha256(path: str) -> str:
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except (OSError, ValueError):
        # Opening the predictor fails too, with a better message.
        return ""


def names_of(arguments: Sequence[str]) -> dict[str, str]:
    """Turn the arguments of the command into names and paths, in order.

    Args:
        arguments: Each is a path, or NAME=PATH. Without a name, it is that of the folder for a file such as
            `model.onnx`, and otherwise that of the file without its ending.

    Raises:
        ValueError: If two have the same name, or a name cannot be part of an address. The message says what to type.
    """
    found: dict[str, str] = {}
    for argument in arguments:
        name, equals, path = argument.partition("=")
        if not equals or os.path.exists(argument) or os.sep in name:
            name, path = _default_name(argument), argument
        if not re.fullmatch(_NAME, name):
            raise ValueError(
                f"{name!r} cannot be the name of a model in an address: use letters, digits, and . _ - between them. "
                f"Type a name before the path: photos={path}."
            )
        if name in found:
            raise ValueError(
                f"two models are called {name!r}: {found[name]} and {path}. Type another name before one of them: "
                f"{name}-2={path}."
            )
        found[name] = path
    return found


def _default_name(path: str) -> str:
    full = os.path.abspath(os.path.expanduser(path))
    stem, ending = os.path.splitext(os.path.basename(full))
    if os.path.basename(full) in FILES:
        return os.path.basename(os.path.dirname(full))
    return stem if ending in [engine.suffix for engine in ENGINES] else stem + ending
