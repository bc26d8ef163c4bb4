"""Keeps a plugin, while it is imported and its hooks are called, from spoiling the process for everybody else.

This is no sandbox: a plugin is code with the rights of the user. It is a net under mistakes: what a module changes at
import is put back, what it prints goes to stderr, and what would end the process becomes an error. docs/plugins.md says
what is promised and what is not. `zoo.plugin.registry` decides what happens to the plugin.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

from zoo.installed import EntryPoint
from zoo.plugin.process_state import STATES, Namespaces

NOTICE_SECONDS = 10.0
"""After this time, one line names the plugin that zoo waits for."""
LIMIT_SECONDS = 120.0
"""After this time, the loading of a plugin is broken off."""


class TookTooLong(BaseException):
    """A plugin was not loaded within `LIMIT_SECONDS`. Plugins often catch Exception, which this is not."""


class EndedProcess(BaseException):
    """A plugin tried to end or to replace the process."""


@dataclass
class Watched:
    """What happened while a plugin was loaded.

    Args:
        seconds: How long it took.
        modules: The names of the modules that were imported meanwhile.
        changed: What the plugin changed in the process, such as "the working folder". It has been put back.
        patched: The names in zoo or pluggy that the plugin replaced. They have been put back.
    """

    seconds: float = 0.0
    modules: frozenset[str] = frozenset()
    changed: list[str] = field(default_factory=list)
    patched: list[str] = field(default_factory=list)


class Guard:
    """Watches plugins, one after the other, and puts back what they change.

    Making a guard remembers how the process is now. It takes about a millisecond.

    Args:
        tell: Receives the line that names a plugin that takes long. None prints it to stderr.
    """

    def __init__(self, tell: Callable[[str], None] | None = None) -> None:
        self._tell = tell or (lambda text: print(text, file=sys.stderr))
        self._namespaces = Namespaces()

    @contextlib.contextmanager
    def watch(self, name: str) -> Iterator[Watched]:
        """Load one plugin inside this context.

        Args:
            name: What messages call the plugin.

        Yields:
            What happened. It is filled when the context ends.

        Raises:
            TookTooLong: The plugin was not loaded in time.
            EndedProcess: The plugin called `os._exit` or a function like it.
        """
        watched, before, modules = Watched(), [(state, state.read()) for state in STATES], dict(sys.modules)
        started = time.perf_counter()
        try:
            with (
                warnings.catch_warnings(),
                _output_to_stderr(),
                _process_goes_on(),
                _time_limit(name, self._tell),
            ):
                yield watched
        finally:
            watched.seconds = time.perf_counter() - started
            watched.modules = frozenset(sys.modules.keys() - modules.keys())
            for state, value in before:
                if state.put_back(value):
                    watched.changed.append(state.what)
            if _put_back_modules(modules):
                watched.changed.append("modules that were imported before")
            watched.patched = self._namespaces.put_back()


def forget(point: EntryPoint, watched: Watched) -> None:
    """Remove the modules of a plugin that is not used, so that loading it again runs them again, with the same end."""
    package = point.module.partition(".")[0]
    for name in watched.modules:
        if name.partition(".")[0] == package:
            sys.modules.pop(name, None)


def _put_back_modules(before: dict[str, types.ModuleType]) -> bool:
    """Put modules back that were exchanged or removed. Return whether there were any."""
    gone = {name: module for name, module in before.items() if sys.modules.get(name) is not module}
    sys.modules.update(gone)
    return bool(gone)


@contextlib.contextmanager
def _output_to_stderr() -> Iterator[None]:
    """Send what Python, C code and other programs print to stderr: stdout may hold the JSON of a command."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    saved = []
    for number in (1, 2):
        # A program without a terminal may have neither.
        with contextlib.suppress(OSError):
            saved.append((number, os.dup(number)))
    try:
        if len(saved) == 2:
            os.dup2(2, 1)
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        for number, copy in saved:
            os.dup2(copy, number)
            os.close(copy)


@contextlib.contextmanager
def _process_goes_on() -> Iterator[None]:
    """Make functions that end or replace the process raise EndedProcess, if a plugin calls them in this process.

    Code of zoo, such as the handler of Ctrl-C, and processes that a plugin has forked still end.
    """
    own, names = os.getpid(), ("_exit", "abort", "execv", "execve")
    originals = {name: getattr(os, name) for name in names}

    def instead(name: str) -> Callable[..., NoReturn]:
        def refuse(*arguments: Any, **named: Any) -> NoReturn:
            caller = str(sys._getframe(1).f_globals.get("__name__", ""))
            if os.getpid() != own or caller.partition(".")[0] == "zoo":
                originals[name](*arguments, **named)
            raise EndedProcess(f"it called os.{name} while it was loaded, which would end zoo")

        return refuse

    for name in names:
        setattr(os, name, instead(name))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(os, name, original)


@contextlib.contextmanager
def _time_limit(name: str, tell: Callable[[str], None]) -> Iterator[None]:
    """Break off what takes longer than LIMIT_SECONDS, and say before that what zoo waits for.

    There is no limit on Windows, and none in other threads than the main one, because signals are needed.
    """
    available = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    if not available or signal.getitimer(signal.ITIMER_REAL)[0]:
        yield
        return
    started, told = time.monotonic(), False

    def ring(number: int, frame: types.FrameType | None) -> None:
        nonlocal told
        passed = time.monotonic() - started
        if passed >= LIMIT_SECONDS:
            raise TookTooLong(f"it was not loaded after {passed:.0f} seconds")
        if not told and passed >= NOTICE_SECONDS:
            told = True
            tell(f"zoo waits for the plugin {name}, which is still loading. Ctrl-C ends zoo.")

    before = signal.signal(signal.SIGALRM, ring)
    # Again and again, because code between two bytecodes of a plugin may swallow one.
    first = max(0.01, min(NOTICE_SECONDS, LIMIT_SECONDS))
    signal.setitimer(signal.ITIMER_REAL, first, min(1.0, first))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if before is None else before)


@contextlib.contextmanager
def trusted() -> Iterator[Watched]:
    """Load a plugin of zoo inside this context, which only measures the time."""
    watched, started = Watched(), time.perf_counter()
    # What a plugin prints must not get into the output of `--json`.
    with contextlib.redirect_stdout(sys.stderr):
        yield watched
    watched.seconds = time.perf_counter() - started


def interrupted(error: BaseException) -> bool:
    """Return whether an error comes from Ctrl-C, rather than from a plugin that raises KeyboardInterrupt itself."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        if isinstance(cause, KeyboardInterrupt):
            handler = signal.getsignal(signal.SIGINT)
            if callable(handler) and getattr(handler, "__module__", "") != "zoo.interrupts":
                # Python's own handler leaves no trace. A job in the background has none, and no Ctrl-C either.
                return cause is error
            trace = cause.__traceback__
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            if trace is not None and trace.tb_frame.f_globals.get("__name__") == "zoo.interrupts":
                return True
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__
    return False
