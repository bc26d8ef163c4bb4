"""Opening an exported file in onnxruntime: where it runs, how many threads, and what was tuned for this machine."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import onnxruntime

from ._errors import CorruptModel, ModelNotFound, NotWritten, ProviderNotStarted

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "nnapi": "NnapiExecutionProvider",
    "qnn": "QNNExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
    "webgpu": "WebGpuExecutionProvider",
}
"""Short names of onnxruntime's execution providers; onnxruntime's own names are taken too."""

MAX_THREADS = 256
TUNED_SCHEMA = 1

Provider = "str | tuple[str, Mapping[str, Any]]"


@dataclass(frozen=True)
class Settings:
    """How onnxruntime runs a network.

    Args:
        threads: Threads of the network, 1 to 256; None leaves it to onnxruntime (one a core).
        spinning: Whether its threads wait for work by spinning, which is quicker where the cores are free and takes
            them from others where they are not.
        arena: Whether memory is kept for the next picture instead of being given back.
        providers: Where it runs, best first: names of `PROVIDERS` or of onnxruntime, or pairs of a name and options.
            What a provider cannot run goes to the next, and at last to the processor.

    Raises:
        ValueError: A value is not allowed.
    """

    threads: int | None = None
    spinning: bool = True
    arena: bool = True
    providers: tuple[Provider, ...] = ("cpu",)

    def __post_init__(self) -> None:
        if isinstance(self.providers, str):
            raise ValueError(f"providers must be a list of names. Received: {self.providers!r}.")
        object.__setattr__(self, "providers", tuple(map(_short, self.providers)))
        if self.threads is not None and not (type(self.threads) is int and 1 <= self.threads <= MAX_THREADS):
            raise ValueError(f"threads must be a whole number, 1 to {MAX_THREADS}. Received: {self.threads!r}.")
        if not self.providers:
            raise ValueError("providers must name one at least, such as 'cpu'.")

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, for JSON."""
        return asdict(self)


def _short(provider: Provider) -> Provider:
    """The short name where there is one; with options, where there are any."""
    try:
        name, options = (provider, {}) if isinstance(provider, str) else provider
        options = dict(options)
        if not isinstance(name, str):
            raise TypeError
    except (TypeError, ValueError):
        raise ValueError(
            f"providers must be names, or pairs of a name and a dictionary of options. Received: {provider!r}."
        ) from None
    short = {full: short for short, full in PROVIDERS.items()}.get(name, name)
    short = short.lower() if short.lower() in PROVIDERS else short
    return (short, options) if options else short


def available_providers() -> list[str]:
    """Names of the providers that the installed onnxruntime was built with, the short ones where there are."""
    return [_short(name) for name in onnxruntime.get_available_providers()]


def full_providers(providers: Sequence[Provider]) -> list[tuple[str, dict[str, Any]]]:
    """onnxruntime's own names, with options.

    Raises:
        ValueError: The installed onnxruntime has no such provider.
    """
    here = onnxruntime.get_available_providers()
    found = []
    for entry in providers:
        name, options = (entry, {}) if isinstance(entry, str) else entry
        full = PROVIDERS.get(name.lower(), name)
        if full not in here:
            raise ValueError(
                f"providers must be of those that the installed onnxruntime has: {', '.join(available_providers())}. "
                f"Received: {name!r}."
            )
        found.append((full, {key: str(value) for key, value in options.items()}))
    return found


def open_session(model: str | os.PathLike | bytes, settings: Settings) -> onnxruntime.InferenceSession:
    """Open an exported file.

    Args:
        model: Path of the file, or its bytes.
        settings: How it is run.

    Raises:
        ValueError: The installed onnxruntime has no such provider.
        ModelNotFound: No file at the path.
        CorruptModel: onnxruntime cannot load it.
        ProviderNotStarted: A provider that was asked for cannot work here, and "cpu" is not behind it.
    """
    providers = full_providers(settings.providers)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if settings.threads is not None:
        options.intra_op_num_threads = settings.threads
    if not settings.spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not settings.arena:
        options.enable_cpu_mem_arena = False
    name = "the bytes given" if isinstance(model, bytes) else repr(os.fsdecode(model))
    content = model if isinstance(model, bytes) else _readable(os.fsdecode(model))
    # What onnxruntime prints of a provider that cannot start would stand between answers.
    quiet = contextlib.nullcontext() if settings.providers == ("cpu",) else contextlib.redirect_stdout(sys.stderr)
    try:
        with quiet:
            session = onnxruntime.InferenceSession(content, options, providers=providers)
    except Exception as error:
        # onnxruntime's exceptions share no base class.
        reason = str(error).strip().splitlines()[0]
        if settings.providers == ("cpu",):
            raise CorruptModel(f"onnxruntime cannot load {name}: {reason}") from None
        # Where the processor cannot load it either, it is the file.
        open_session(model, replace(settings, providers=("cpu",)))
        raise ProviderNotStarted(f"onnxruntime cannot load {name} for {_named(providers)}: {reason}") from None
    # Where one cannot start, for want of a library or a device, onnxruntime prints that and goes on without it.
    missing = [(full, given) for full, given in providers if full not in session.get_providers()]
    if missing:
        text = (
            f"{_named(missing)} could not be started, though this onnxruntime was built with it: a driver, a library "
            "or a device is missing"
            + (", or it does not take the options given" if any(given for _, given in missing) else "")
        )
        if PROVIDERS["cpu"] not in [full for full, _ in providers]:
            raise ProviderNotStarted(f"{text}. Name 'cpu' behind it to go on without it.")
        warnings.warn(f"{text}; going on without it.", stacklevel=3)
    return session


def _named(providers: Sequence[tuple[str, dict[str, Any]]]) -> str:
    return ", ".join(_short(full) for full, _ in providers)


def _readable(path: str) -> str | bytes:
    """The path, or the content where onnxruntime cannot open it.

    Raises:
        ModelNotFound: No file is there, or it may not be read.
    """
    try:
        with open(path, "rb") as stream:
            # onnxruntime opens no file whose name is not UTF-8; Python marks such bytes with these characters.
            return stream.read() if any("\udc80" <= letter <= "\udcff" for letter in path) else path
    except (OSError, ValueError) as error:
        raise ModelNotFound(f"{path!r} cannot be read: {getattr(error, 'strerror', None) or error}.") from None


def model_file(model: str | os.PathLike) -> str:
    """Path of the file, also where the folder is named that holds it as `model.onnx`."""
    path = os.fsdecode(model)
    return os.path.join(path, "model.onnx") if os.path.isdir(path) else path


# What was tuned


def tuned_file(path: str) -> str:
    """Where the tuned settings of an exported file are kept: `model.tuned.json` beside `model.onnx`."""
    return os.path.splitext(path)[0] + ".tuned.json"


def write_tuned(path: str, settings: Settings, table: Sequence[Mapping[str, Any]]) -> str:
    """Keep settings beside an exported file, in one atomic replace; returns where.

    Raises:
        NotWritten: The folder may not be written to, or the disk is full.
    """
    target = tuned_file(path)
    content = {
        "schema": TUNED_SCHEMA,
        "for": _key(path),
        "settings": settings.to_json(),
        "table": list(table),
    }
    temporary = f"{target}.{os.getpid()}.tmp"
    try:
        try:
            with open(temporary, "w", encoding="utf-8") as stream:
                json.dump(content, stream, indent=1)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, target)
        finally:
            if os.path.exists(temporary):
                os.remove(temporary)
    except OSError as error:
        raise NotWritten(f"{target!r} cannot be written: {error.strerror}.") from None
    return target


def read_tuned(path: str) -> Settings | None:
    """What was tuned for this file on this machine; None where nothing was, or for another file, machine or version.

    What cannot be read costs a warning and nothing else, for it changes the speed alone.
    """
    target = tuned_file(path)
    if not os.path.exists(target):
        return None
    try:
        with open(target, encoding="utf-8") as stream:
            content = json.load(stream)
        if content["schema"] != TUNED_SCHEMA or content["for"] != _key(path):
            return None
        settings = Settings(**content["settings"])
        full_providers(settings.providers)
        return settings
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        warnings.warn(
            f"{target!r} cannot be read, and the usual settings are used ({type(error).__name__}: {error}). "
            "`zoo-runtime tune` writes it anew.",
            stacklevel=3,
        )
        return None


def _key(path: str) -> dict[str, Any]:
    """What tuned settings hold for: a file of this size and time, on this processor, in this onnxruntime."""
    status = os.stat(path)
    return {
        "bytes": status.st_size,
        "modified": status.st_mtime_ns,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "onnxruntime": onnxruntime.__version__,
    }


def _processor() -> str:
    """Its name and features, so far as the system tells them."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as stream:
            text = stream.read()
    except OSError:
        import platform

        return f"{platform.machine()} {platform.processor()}"
    told = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "flags", "Features", "CPU implementer", "CPU part"):
            told.setdefault(key.strip(), value.strip())
    return " ".join(told.values())
