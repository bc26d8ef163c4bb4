"""What a module can change in a process when it is imported: how it is read, compared and put back.

`zoo.plugin.guard` uses this around each plugin. Reading everything takes about 0.1 ms, so that many plugins stay quick.
"""

from __future__ import annotations

import _locale
import gc
import operator
import os
import signal
import sys
import threading
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

GUARDED = ("zoo", "zoo_plugins", "zoo_runtime", "pluggy", "click", "builtins")
"""The packages whose names a plugin must not replace."""
# Python itself adds these to classes and modules.
OWN_NAMES = {"__annotations__", "__annotations_cache__", "__signature__", "__warningregistry__", "__path__"}


@dataclass(frozen=True)
class State:
    """One thing that belongs to the whole process.

    Args:
        what: What a message calls it.
        read: Returns its present value.
        write: Puts a value back.
    """

    what: str
    read: Callable[[], Any]
    write: Callable[[Any], object]

    def put_back(self, value: Any) -> bool:
        """Put a value back if the present one differs. Return whether it did. What cannot be put back stays."""
        try:
            if self.read() == value:
                return False
            self.write(value)
        except Exception:
            return False
        return True


def _write_folder(folder: str | None) -> None:
    if folder is not None:
        os.chdir(folder)


def _folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        # Somebody removed it.
        return None


SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM", "SIGPIPE", "SIGCHLD", "SIGQUIT", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
)


def _write_handlers(before: list[Any]) -> None:
    for number, handler in zip(SIGNALS, before, strict=True):
        # None stands for a handler that C code has set.
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)


def _write_paths(before: list[tuple[Any, list[Any]]]) -> None:
    for name, (kept, items) in zip(PATHS, before, strict=True):
        kept[:] = items
        setattr(sys, name, kept)


PATHS = ("path", "meta_path", "path_hooks", "argv")


def _write_environment(before: dict[str, str]) -> None:
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


def _logging() -> tuple[Any, ...]:
    module = sys.modules.get("logging")
    if module is None:
        return (30, [], [], False, 0)
    root = module.getLogger()
    return (root.level, list(root.handlers), list(root.filters), root.disabled, root.manager.disable)


def _write_logging(before: tuple[Any, ...]) -> None:
    root = sys.modules["logging"].getLogger()
    level, handlers, filters, root.disabled, root.manager.disable = before
    root.setLevel(level)
    root.handlers[:], root.filters[:] = handlers, filters


# `sys.stdout` is a matter of `zoo.plugin.guard`.
SYSTEM = ("excepthook", "displayhook", "unraisablehook", "breakpointhook", "stdin", "stderr", "exit", "settrace")


def _write_system(before: list[Any]) -> None:
    for name, kept in zip(SYSTEM, before, strict=True):
        setattr(sys, name, kept)


def _write_timeout(before: float | None) -> None:
    sys.modules["socket"].setdefaulttimeout(before)


def _timeout() -> float | None:
    module = sys.modules.get("socket")
    return None if module is None else module.getdefaulttimeout()


STATES = (
    State("the working folder", _folder, _write_folder),
    State("handlers of signals", lambda: [signal.getsignal(each) for each in SIGNALS], _write_handlers),
    State(
        "the locale", lambda: _locale.setlocale(_locale.LC_ALL), lambda text: _locale.setlocale(_locale.LC_ALL, text)
    ),
    State(
        "sys.path or what belongs to it",
        lambda: [(getattr(sys, name), list(getattr(sys, name))) for name in PATHS],
        _write_paths,
    ),
    State("environment variables", lambda: dict(os.environ), _write_environment),
    State("the root logger", _logging, _write_logging),
    State("hooks of sys", lambda: [getattr(sys, name) for name in SYSTEM], _write_system),
    State("the hook of threads", lambda: threading.excepthook, lambda hook: setattr(threading, "excepthook", hook)),
    State("the limit of recursion", sys.getrecursionlimit, sys.setrecursionlimit),
    State("the function that traces", sys.gettrace, sys.settrace),
    State("the function that profiles", sys.getprofile, sys.setprofile),
    State("the collection of garbage", gc.isenabled, lambda on: gc.enable() if on else gc.disable()),
    State("the timeout of connections", _timeout, _write_timeout),
)


class Namespaces:
    """The names of the modules and classes of `GUARDED`, to find out what a plugin has replaced in them."""

    def __init__(self) -> None:
        self._kept: list[tuple[str, Any, dict[str, Any]]] = []
        self._code: list[tuple[str, types.FunctionType, tuple[Any, ...]]] = []
        self._tables: list[tuple[str, Any, Any]] = []
        seen: set[int] = set()
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] in GUARDED and isinstance(module, types.ModuleType):
                self._add(name, module, seen)

    def _add(self, name: str, owner: Any, seen: set[int]) -> None:
        if id(owner) in seen:
            return
        seen.add(id(owner))
        names = dict(vars(owner))
        self._kept.append((name, owner, names))
        for key, value in names.items():
            value = getattr(value, "__func__", value)
            if isinstance(value, types.FunctionType):
                self._code.append((f"{name}.{key}", value, _code(value)))
            elif isinstance(value, type) and value.__module__.partition(".")[0] in GUARDED and name != "builtins":
                self._add(f"{value.__module__}.{value.__qualname__}", value, seen)
            elif isinstance(value, (dict, list, set)) and key.isupper():
                self._tables.append((f"{name}.{key}", value, value.copy()))

    def put_back(self) -> list[str]:
        """Put back what was replaced, added or removed, and return its names."""
        changed: list[str] = []
        for name, owner, before in self._kept:
            now = vars(owner)
            if len(now) == len(before) and all(map(operator.is_, now.values(), before.values())):
                continue
            differing = _differing(dict(now), before)
            if name == "builtins":
                # C libraries and gettext add names there. They replace none.
                differing = [key for key in differing if key in before]
            changed += [f"{name}.{key}" for key in differing if _restore(owner, key, before)]
        for name, function, code in self._code:
            if function.__code__ is not code[0] or function.__defaults__ is not code[1]:
                function.__code__, function.__defaults__, function.__kwdefaults__ = code
                changed.append(name)
        for name, table, content in self._tables:
            if table != content:
                table.clear()
                table.extend(content) if isinstance(table, list) else table.update(content)
                changed.append(name)
        return list(dict.fromkeys(changed))


def _code(function: types.FunctionType) -> tuple[Any, ...]:
    return (function.__code__, function.__defaults__, function.__kwdefaults__)


def _differing(now: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """Return the names that differ. A module that was imported meanwhile is a new name in its package."""
    missing = object()
    return [
        key
        for key in [*before, *(now.keys() - before.keys())]
        if key not in OWN_NAMES
        and now.get(key, missing) is not before.get(key, missing)
        and not (key not in before and (isinstance(now[key], types.ModuleType) or key.startswith("__protocol")))
    ]


def _restore(owner: Any, key: str, before: dict[str, Any]) -> bool:
    """Put one name back, and return True. Return False if Python does not allow that."""
    try:
        if key in before:
            setattr(owner, key, before[key])
        else:
            delattr(owner, key)
    except (AttributeError, TypeError):
        return False
    return True
