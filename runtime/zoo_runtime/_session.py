"""Opens exported files in their engine, and saves and reads the settings that `zoo-runtime tune` chooses.

Settings say on which execution providers and on how many threads a network runs. `_engine` names the engines. This
module is also the one that runs ONNX Runtime.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from ._checked import checked
from ._cores import is_limited, usable_cores
from ._engine import ONNXRUNTIME, engine_of, only_file_in
from ._errors import ModelNotFound, NotWritten, ProviderNotStarted
from ._onnxruntime import Session, built_providers, load

if TYPE_CHECKING:
    from ._engine import Engine, EngineModule

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
"""Maps short names of execution providers to the names that ONNX Runtime uses. Both are accepted."""

MAX_THREADS = 256
TUNED_SCHEMA = 2
# See benchmarks/threads.py. Versions of ONNX Runtime before 1.26 ignore it, and spin much longer.
SPIN_MICROSECONDS = "10"
# Work is handed out in smaller and smaller blocks: a thread whose core another program uses then holds up less of it.
BLOCKS_PER_THREAD = "4"

Provider: TypeAlias = "str | tuple[str, Mapping[str, Any]]"


@dataclass(frozen=True)
class Settings:
    """Describes how a network runs.

    LiteRT uses `threads` alone. OpenVINO uses `threads`, and options of the processor among `providers`.

    Args:
        threads: Number of threads on which the network runs, 1 to 256. None means one per core that the process may
            use; see `usable_cores`.
        spinning: How idle threads of the network wait for work. True means in a busy loop, which is fast on free cores,
            and slow beside other programs. False means asleep. None means in a busy loop for 10 microseconds, long
            enough from one operation of a network to the next, and then asleep.
        arena: Whether ONNX Runtime keeps memory for the next picture. If False, it returns the memory to the system.
        providers: Execution providers on which the network runs, best first. Each is a short name from `PROVIDERS`, a
            name that ONNX Runtime uses, or a pair of a name and options. Operations that a provider cannot run go
            to the next provider. The processor runs the operations that remain.

    Raises:
        ValueError: If `threads` or `providers` has a value that is not allowed. The message says what is allowed.
    """

    threads: int | None = None
    spinning: bool | None = None
    arena: bool = True
    providers: tuple[Provider, ...] = ("cpu",)

    def __post_init__(self) -> None:
        if isinstance(self.providers, str):
            raise ValueError(f"providers must be a list of names, such as ['cpu']. Received: {self.providers!r}.")
        object.__setattr__(self, "providers", tuple(map(_short, self.providers)))
        if self.threads is not None and not (type(self.threads) is int and 1 <= self.threads <= MAX_THREADS):
            raise ValueError(f"threads must be a whole number from 1 to {MAX_THREADS}. Received: {self.threads!r}.")
        if not self.providers:
            raise ValueError("providers must have at least one name, such as 'cpu'. Received: an empty list.")

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a dictionary that `json.dumps` accepts."""
        return asdict(self)


def _short(provider: Provider) -> Provider:
    """Replace the name of an execution provider with its short name, if it has one in `PROVIDERS`.

    Returns:
        The name, or (name, options) if there are options.

    Raises:
        ValueError: If the provider is neither a name nor a pair of a name and options.
    """
    try:
        name, given = (provider, {}) if isinstance(provider, str) else provider
        options = dict(given)
        if not isinstance(name, str):
            raise TypeError
    except (TypeError, ValueError):
        raise ValueError(
            f"providers must be names, or pairs of a name and a dictionary of options. Received: {provider!r}."
        ) from None
    short = _short_name(name)
    return (short, options) if options else short


def _short_name(name: str) -> str:
    short = {full: short for short, full in PROVIDERS.items()}.get(name, name)
    return short.lower() if short.lower() in PROVIDERS else short


def available_providers() -> list[str]:
    """Return the names of the execution providers of the installed ONNX Runtime, and of packages that add some.

    A name is the provider's short name if `PROVIDERS` has one, and otherwise the name that ONNX Runtime uses.
    """
    from ._plugin_providers import plugin_providers

    built = [_short_name(name) for name in built_providers()]
    added = [_short_name(name) for name, provider in plugin_providers().items() if not provider.why_not()]
    return list(dict.fromkeys(built + added))


def parse_providers(text: str) -> list[str]:
    """Split a comma-separated list of execution providers, such as "openvino,cpu", and check each name.

    Raises:
        ValueError: If the installed ONNX Runtime lacks one of the providers. The message lists the available ones.
    """
    names = [name.strip() for name in text.split(",")]
    full_providers(names)
    return names


def full_providers(providers: Sequence[Provider]) -> list[tuple[str, dict[str, str]]]:
    """Convert execution providers to the pairs (name, options) that ONNX Runtime expects.

    Each name is the one that ONNX Runtime uses, such as "CPUExecutionProvider". The values of the options are strings.

    Raises:
        ValueError: If the installed ONNX Runtime lacks one of the providers.
    """
    built = built_providers()
    found = []
    for entry in providers:
        name, options = (entry, {}) if isinstance(entry, str) else entry
        full = PROVIDERS.get(name.lower(), name)
        if full not in built and full not in _added_providers():
            raise ValueError(
                f"providers must be among those that this onnxruntime has: {', '.join(available_providers())}. "
                f"Received: {name!r}."
            )
        found.append((full, {key: str(value) for key, value in options.items()}))
    return found


def _added_providers() -> Mapping[str, Any]:
    """Return the execution providers that packages beside ONNX Runtime add."""
    from ._plugin_providers import plugin_providers

    return plugin_providers()


def open_session(model: str | os.PathLike[str] | bytes, settings: Settings, callers: int = 1) -> Session:
    """Open an exported file in its engine: ONNX Runtime, or LiteRT or OpenVINO by the file's suffix.

    If "cpu" is among the providers, a provider that cannot start causes a warning instead of an error.

    Args:
        model: Path of the file, or its bytes.
        settings: Threads, memory and providers. `Settings()` has the default values.
        callers: How many threads will run the session at the same time, each with the threads of `settings`.

    Raises:
        ValueError: If the installed ONNX Runtime lacks one of the requested providers.
        ModelNotFound: If there is no file at the path, or the file cannot be read.
        CorruptModel: If the file is damaged, or ONNX Runtime cannot load it, not even on the processor.
        NotAnExport: If the file is of another kind, such as a picture or a PyTorch file.
        UnsafeModel: If the file has what an exported file never has, such as external data.
        ProviderNotStarted: If a provider cannot start and "cpu" is not among the providers, or if ONNX Runtime can
            load the file on the processor, but not on the requested providers.
        EngineNotInstalled: If the engine of the file is not installed.
    """
    given = model if isinstance(model, bytes) else os.fsdecode(model)
    engine = engine_of(given)
    if engine is not ONNXRUNTIME:
        return _open_elsewhere(engine, given, settings, callers)
    providers = full_providers(settings.providers)
    onnxruntime = load()
    options = session_options(settings)
    # A file that is called ONNX must not be read as ONNX Runtime's own format, which is not checked here.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # ONNX Runtime prints why a provider cannot start; on standard output, that would mix with the answers.
    quiet: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if settings.providers != ("cpu",):
        quiet = contextlib.redirect_stdout(sys.stderr)
    chosen, refused = _choose(options, providers)
    # Otherwise it would try the processor a second time, and print that on standard output.
    fallback = {"enable_fallback": 0} if settings.providers == ("cpu",) else {}
    with checked(given, same_file=settings.providers == ("cpu",)) as content:
        try:
            with quiet:
                session: Session = onnxruntime.InferenceSession(content, options, **chosen, **fallback)
        except Exception as error:
            # ONNX Runtime's exceptions have no common base class.
            from ._foreign import explain_failure

            if settings.providers == ("cpu",):
                raise explain_failure(given, str(error)) from None
            # If the processor cannot load it either, the file is at fault.
            open_session(model, replace(settings, providers=("cpu",)))
            reason = str(error).strip().splitlines()[0]
            raise ProviderNotStarted(
                f"onnxruntime cannot load {name_of(given)} on {_named(providers)}: {reason}"
            ) from None
    # If a provider cannot start because a library or a device is missing, ONNX Runtime prints that and continues.
    started = session.get_providers()
    missing = [(full, given) for full, given in providers if full not in started and full not in refused]
    if missing:
        text = (
            f"{_named(missing)} could not be started, although this onnxruntime was built with it: a driver, a library "
            "or a device is missing"
            + (", or it does not accept the options given" if any(given for _, given in missing) else "")
        )
        if PROVIDERS["cpu"] not in [full for full, _ in providers]:
            raise ProviderNotStarted(f"{text}. Add 'cpu' after it to run on the processor instead.")
        warnings.warn(f"{text}; continuing without it.", stacklevel=4)
    return session


def _choose(options: Any, providers: Sequence[tuple[str, dict[str, str]]]) -> tuple[dict[str, Any], list[str]]:
    """Choose the providers of a session. Those of packages are added to its options.

    Returns:
        The arguments of the session for the others, and the providers that were left out with a warning.

    Raises:
        ProviderNotStarted: If one finds no device, and the processor is not among them.
    """
    from ._plugin_providers import add_to, found_so_far

    # After its registration, ONNX Runtime lists a provider among those that it was built with.
    if not any(full in found_so_far() for full, _ in providers):
        return {"providers": providers}, []
    refused = []
    for full, given in providers:
        if full not in found_so_far():
            if full != PROVIDERS["cpu"]:
                options.add_provider(full, given)
            continue
        try:
            add_to(options, full, given)
        except ProviderNotStarted as error:
            if PROVIDERS["cpu"] not in [each for each, _ in providers]:
                raise ProviderNotStarted(f"{error} Add 'cpu' after it to run on the processor instead.") from None
            warnings.warn(f"{error} Continuing without it.", stacklevel=5)
            refused.append(full)
    return {}, refused


def _open_elsewhere(engine: Engine, model: str | bytes, settings: Settings, callers: int) -> Session:
    """Open a file in another engine than ONNX Runtime. The check of the file comes before that of the engine."""
    from importlib import import_module

    module: EngineModule = import_module(f".{engine.module}", __package__)
    return module.open_file(model, settings, callers)


def session_options(settings: Settings) -> Any:
    """Return the `onnxruntime.SessionOptions` of settings: threads, how they wait, and memory."""
    options = load().SessionOptions()
    options.log_severity_level = 3
    if settings.threads is not None:
        options.intra_op_num_threads = settings.threads
    elif is_limited():
        # ONNX Runtime counts the cores of the machine, and does not know quotas.
        options.intra_op_num_threads = usable_cores()
    if settings.spinning is None:
        options.add_session_config_entry("session.intra_op.spin_duration_us", SPIN_MICROSECONDS)
        options.add_session_config_entry("session.dynamic_block_base", BLOCKS_PER_THREAD)
    elif not settings.spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not settings.arena:
        options.enable_cpu_mem_arena = False
    return options


def _named(providers: Sequence[tuple[str, dict[str, str]]]) -> str:
    return ", ".join(_short_name(full) for full, _ in providers)


def name_of(model: str | bytes) -> str:
    """Return how messages call an exported file: its quoted path, or "the file given as bytes"."""
    return "the file given as bytes" if isinstance(model, bytes) else repr(model)


def model_file(model: str | os.PathLike[str]) -> str:
    """Return the path of an exported file: the one inside `model` if that is a folder, and otherwise `model`.

    In a folder, it is `model.onnx`, `model.tflite` or `model.xml`. A `~` at the start stands for the home folder.

    Raises:
        ModelNotFound: If `model` is a folder that has no exported file or several ones, or something that is no file,
            such as a pipe.
        TypeError: If `model` is not a path.
    """
    try:
        path = os.fsdecode(model)
    except TypeError:
        hint = " Pass its content: file.read()." if hasattr(model, "read") else ""
        raise TypeError(
            f"model must be the path of an exported file, or the bytes of one. Received: {type(model).__name__}.{hint}"
        ) from None
    if path.startswith("~") and not os.path.lexists(path):
        path = os.path.expanduser(path)
    if not os.path.isdir(path):
        return _checked_kind(path)
    return _checked_kind(only_file_in(path))


def _checked_kind(path: str) -> str:
    """Return a path. Refuse a device there, because reading it might never end."""
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path) or is_pipe(path)):
        raise ModelNotFound(_NO_FILE.format(path))
    return path


def regular_model_file(model: str | os.PathLike[str]) -> str:
    """Return the path of an exported file that can be read again and again; see `model_file`.

    Raises:
        ModelNotFound: Also if it is a pipe, because opening that might never end.
    """
    path = model_file(model)
    if is_pipe(path):
        raise ModelNotFound(_NO_FILE.format(path))
    return path


def is_pipe(path: str) -> bool:
    """Return whether there is a pipe at a path, such as the shell's <(...)."""
    return os.path.exists(path) and stat.S_ISFIFO(os.stat(path).st_mode)


_NO_FILE = "{!r} is a pipe or a device, not an exported file. Give the path of a model.onnx."


# Tuned settings


def tuned_file(path: str) -> str:
    """Return the path where the tuned settings of an exported file are saved.

    For `folder/model.onnx`, this is `folder/model.tuned.json`. Files of other engines keep their suffix, because they
    may stand beside a `model.onnx`: `folder/model.tflite.tuned.json`.
    """
    return (os.path.splitext(path)[0] if engine_of(path) is ONNXRUNTIME else path) + ".tuned.json"


def write_tuned(path: str, settings: Settings, table: Sequence[Mapping[str, Any]]) -> str:
    """Save tuned settings beside an exported file. Settings that were saved before are replaced in one step.

    Args:
        path: Path of the exported file.
        settings: The settings to save.
        table: The measurements from which the settings were chosen.

    Returns:
        The path of the file that holds the settings.

    Raises:
        NotWritten: If the folder is write-protected, or the disk is full.
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
    """Read the tuned settings of an exported file.

    Tuned settings that cannot be read cause a warning, but no error, because they change only the speed.

    Args:
        path: Path of the exported file.

    Returns:
        The tuned settings, or None in each of these cases:

        - There are no tuned settings.
        - They cannot be read, or the installed ONNX Runtime lacks their provider.
        - They were tuned for another file, another machine or another version of the engine (see `_key`).
        - The file in which they are saved does not have the schema `TUNED_SCHEMA`.
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
            f"{target!r} cannot be read, so the default settings are used ({type(error).__name__}: {error}). "
            "Run `zoo-runtime tune` to write it again.",
            stacklevel=3,
        )
        return None


def _key(path: str) -> dict[str, Any]:
    """Return the conditions under which tuned settings are valid.

    These are the size and the modification time of the exported file, the processor, the number of usable cores, and
    the version of the engine. `write_tuned` saves these conditions with the settings. `read_tuned` ignores the
    settings if a condition has changed since then.

    Args:
        path: Path of the exported file.
    """
    status, engine = os.stat(path), engine_of(path)
    return {
        "bytes": status.st_size,
        "modified": status.st_mtime_ns,
        "processor": _processor(),
        "cores": usable_cores(),
        engine.name: engine.version(),
    }


def _processor() -> str:
    """Return the model name and the feature flags of the processor, as far as the system reports them."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as stream:
            text = stream.read()
    except OSError:
        import platform

        return f"{platform.machine()} {platform.processor()}"
    reported: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "flags", "Features", "CPU implementer", "CPU part"):
            reported.setdefault(key.strip(), value.strip())
    return " ".join(reported.values())
