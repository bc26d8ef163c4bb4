"""The processes that train together: they meet, agree, hear of each other's end, and end themselves in time."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zoo import interrupts
from zoo.errors import HostsError
from zoo.hosts import aborting, devices
from zoo.hosts.channel import DONE, FAILED, INTERRUPTED, LOST, Channel, Ending, Message
from zoo.hosts.meeting import difference, meet, timeout
from zoo.hosts.place import Place

if TYPE_CHECKING:
    import numpy as np

# How long a process may compute on before it ends when another one is gone, and how long its end may take, in seconds.
GRACE, END = 20.0, 60.0
# How long process 0 waits until all others have ended after an error, in seconds.
LAST = 10.0
# How long the news of a lost process may take to arrive after JAX has noticed it, in seconds.
NEWS = 5.0
# How often processes ask each other whether a signal has arrived, in seconds.
PERIOD = 0.5
# What is said if JAX ends this process, and no other one is known to be lost.
ENDED_BY_JAX = "JAX has ended this process. The lines above say why."
# The text of another process's end that is already a whole message.
RELAYED = "relayed"
_ABANDONED = "abandoned"


class Abandoned(Exception):
    """Raised in other processes when process 0 has given a training up and goes on without it."""


class Team:
    """The processes of a training, as one of them sees them.

    Args:
        place: Which of them this process is.
        names: The names of their hosts, by index.
        channels: The connections: to all others in process 0, to process 0 in the others.

    Attributes:
        at_end: Called with the error if this process must end although its main thread computes on; None does nothing.
    """

    def __init__(self, place: Place, names: Sequence[str] = ("",)):
        self.place, self.names = place, tuple(names)
        self.at_end: Callable[[HostsError], None] | None = None
        self._channels: dict[int, Channel] = {}
        self._lock, self._news, self._closed = threading.Lock(), threading.Event(), threading.Event()
        self._problem: tuple[int, Ending] | None = None
        self._heard, self._said, self._stopping = False, False, False
        self._steps, self._countdown, self._checked = 0, 1, time.perf_counter()

    @property
    def index(self) -> int:
        """The index of this process."""
        return self.place.index

    @property
    def count(self) -> int:
        """The number of processes."""
        return self.place.count

    @property
    def leads(self) -> bool:
        """Whether this is process 0."""
        return self.place.index == 0

    def connect(self, sockets: Mapping[int, socket.socket]) -> None:
        """Take over the connections to the other processes."""
        for index, each in sockets.items():
            self._channels[index] = Channel(each, functools.partial(self._ended, index))
        for channel in self._channels.values():
            channel.listen()

    def share(self, label: str, facts: Any = None, arrays: Mapping[str, np.ndarray] | None = None) -> Message:
        """Send what process 0 has to all others, and return it in all of them. Others ignore their arguments.

        Raises:
            HostsError: Another process has ended.
            Abandoned: Process 0 has given the training up; see `abandon`.
        """
        if not self.leads:
            return self._receive(0, label)
        message = Message(label, facts, arrays or {})
        self._check()
        for channel in self._channels.values():
            channel.send(message)
        return message

    def exchange(self, label: str, facts: Any) -> list[Any]:
        """Return what all processes have given, by their indices.

        Raises:
            HostsError: Another process has ended.
            Abandoned: Process 0 has given the training up; see `abandon`.
        """
        if not self.leads:
            self._channels[0].send(Message(label, facts))
            return list(self._receive(0, label).facts)
        everything = [facts, *(self._receive(index, label).facts for index in sorted(self._channels))]
        return list(self.share(label, everything).facts)

    def gather(self, label: str, arrays: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
        """Return the arrays that all processes have given, by their indices.

        Raises:
            HostsError: Another process has ended.
            Abandoned: Process 0 has given the training up; see `abandon`.
        """
        if self.leads:
            given = [arrays, *(self._receive(index, label).arrays for index in sorted(self._channels))]
            together = {f"{i}/{name}": value for i, each in enumerate(given) for name, value in each.items()}
        else:
            self._channels[0].send(Message(label, None, arrays))
            together = {}
        everything = self.share(label, None, together).arrays
        found: list[dict[str, np.ndarray]] = [{} for _ in range(self.count)]
        for key, value in everything.items():
            index, _, name = key.partition("/")
            found[int(index)][name] = value
        return found

    def require_same(self, what: str, facts: Mapping[str, Any]) -> None:
        """Check that all processes have the same facts.

        Args:
            what: Describes the facts for the message, such as "the pictures".
            facts: Anything that JSON has, by a text that names it.

        Raises:
            HostsError: They differ. The message says in what.
        """
        everything = self.exchange(f"same {what}", dict(facts))
        for index, other in enumerate(everything):
            text = difference(everything[0], other, self.name(index))
            if text:
                raise HostsError(f"{what} must be the same in all processes, but {text}")

    def abandon(self) -> None:
        """In process 0: let the others leave the training that has failed here. They wait for the next one."""
        self.share(_ABANDONED)

    def name(self, index: int) -> str:
        """Describe a process for messages."""
        return f"process {index} on {self.names[index]!r}"

    def signal_waits(self, *, now: bool = False) -> bool:
        """Return whether a signal waits in any process; all processes return the same in the same call.

        They ask each other about every half second. After True, the signal waits in this process too.

        Args:
            now: True asks in any case.
        """
        self._steps += 1
        self._countdown -= 1
        if self._countdown > 0 and not now:
            return False
        if self.count == 1:
            return interrupts.waiting()
        moment = time.perf_counter()
        seconds = (moment - self._checked) / self._steps
        wait = max(1, min(1000, int(PERIOD / max(seconds, 1e-6))))
        answers = self.exchange("signals", [interrupts.waiting_number(), wait])
        # All must ask again at the same step, so that process 0 chooses it.
        self._steps, self._countdown, self._checked = 0, answers[0][1], moment
        number = max(answer[0] for answer in answers)
        if number:
            interrupts.note(number)
            # All end now. Process 0 writes a safe point before, which may take long.
            self._stopping = True
        return bool(number)

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """If JAX fails inside this context because another process is gone, raise the error that says so.

        Raises:
            HostsError: Another process has ended.
            KeyboardInterrupt: Another process was interrupted.
        """
        try:
            yield
        except Exception as error:
            if devices.is_network_error(error) and self._channels:
                self._news.wait(NEWS)
                self._check()
                raise HostsError(
                    f"the processes cannot reach each other any more: {str(error).splitlines()[0]}"
                ) from error
            raise

    def end(self, error: BaseException | None) -> None:
        """Tell all others that this process ends, and why.

        Args:
            error: What has ended it; None if all is done.
        """
        self._closed.set()
        if error is None:
            ending = Ending(DONE)
        elif isinstance(error, KeyboardInterrupt):
            ending = Ending(INTERRUPTED, number=interrupts.number_of(error) or signal.SIGTERM)
        elif isinstance(error, HostsError) and self._problem is not None:
            ending = Ending(RELAYED, str(error))
        else:
            ending = Ending(FAILED, str(error) or type(error).__name__)
        for channel in self._channels.values():
            channel.end(ending)
        if self.leads and error is not None:
            # JAX ends a process without a word of ours when process 0 is gone.
            until = time.monotonic() + LAST
            for channel in self._channels.values():
                channel.gone.wait(max(0.0, until - time.monotonic()))

    def _receive(self, index: int, label: str) -> Message:
        inbox = self._channels[index].inbox
        while True:
            # What arrived before the end of the other process counts.
            with contextlib.suppress(Exception):
                message = inbox.get_nowait() if self._news.is_set() else inbox.get(timeout=0.1)
                break
            if inbox.empty():
                self._check()
        if message.label == label:
            return message
        if message.label == _ABANDONED:
            raise Abandoned
        raise HostsError(
            f"{self.name(index)} is at {message.label!r}, and this process is at {label!r}. Their code differs: "
            "install the same versions of zoo and of its plugins on all hosts."
        )

    def _check(self) -> None:
        """Raise the error of another process that has ended."""
        if self._problem is None:
            return
        self._heard = True
        index, ending = self._problem
        if ending.how == INTERRUPTED:
            interrupts.note(ending.number)
            interrupts.check()
        raise self._error(index, ending)

    def _error(self, index: int, ending: Ending) -> HostsError:
        if ending.how == RELAYED:
            return HostsError(ending.text)
        if ending.how == FAILED:
            return HostsError(f"{self.name(index)} has failed: {ending.text}")
        if ending.how == INTERRUPTED:
            return HostsError(f"{self.name(index)} was interrupted")
        how = ending.text or "it was killed or has crashed"
        return HostsError(f"{self.name(index)} is lost: {how}, or its host or the network has failed.{self._hint()}")

    def _hint(self) -> str:
        return "" if self.leads else " If the run has begun, `zoo resume RUN` continues it, on any number of processes."

    def _ended(self, index: int, ending: Ending) -> None:
        """Note that another process has ended. A thread calls this."""
        with self._lock:
            if self._closed.is_set() or self._problem is not None:
                return
            if ending.how == DONE:
                ending = Ending(FAILED, "it has ended before the others")
            self._problem = (index, ending)
        if self.leads:
            interrupted = ending.how == INTERRUPTED
            relayed = ending if interrupted else Ending(RELAYED, str(self._error(index, ending)))
            for other, channel in self._channels.items():
                if other != index:
                    channel.end(relayed)
        self._news.set()
        if ending.how == INTERRUPTED and self._stopping:
            return
        threading.Thread(target=self._watch, daemon=True, name="end of training").start()
        # Ctrl-C often reaches all processes at once. A second signal would end one before it has said how to go on.
        handled = callable(signal.getsignal(ending.number)) if ending.how == INTERRUPTED else False
        if handled and not interrupts.waiting():
            # What this process does alone must end too.
            interrupts.send(ending.number)

    def _watch(self) -> None:
        """End this process if its main thread does not do so in time, as when it waits for a lost process in JAX."""
        index, ending = self._problem or (0, Ending(LOST))
        error = self._error(index, ending)
        if self._closed.wait(GRACE):
            return
        code = 128 + ending.number if ending.how == INTERRUPTED else 1
        # A main thread that has heard of it has more time to end.
        if not self._heard or not self._closed.wait(END):
            self._say_and_exit(error, code)

    def aborted(self) -> None:
        """Say why this process ends, if JAX ends it. A thread calls this."""
        # JAX often notices that a process is lost in the same moment as zoo.
        self._news.wait(NEWS)
        if self._heard or self._closed.is_set():
            # The main thread is about to say it.
            time.sleep(END)
            return
        if self._problem is None:
            self._say_and_exit(HostsError(ENDED_BY_JAX + self._hint()), 1)
        else:
            self._say_and_exit(self._error(*self._problem), 1)

    def _say_and_exit(self, error: HostsError, code: int) -> None:
        """Print why this process ends, and end it. Only the first call does so."""
        with self._lock:
            if self._said:
                return
            self._heard = self._said = True
        with contextlib.suppress(Exception):
            if self.at_end is not None:
                self.at_end(error)
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(code)


_team: Team | None = None
_deserted = False


def current() -> Team | None:
    """Return the processes that train together with this one; None if it trains alone on one device."""
    return _team


def leads() -> bool:
    """Return whether this process decides, writes and prints: process 0, or one that is alone."""
    return _team is None or _team.leads


def deserted() -> bool:
    """Return whether this process still has JAX's connections, whose end at exit would wait for other processes."""
    return _deserted


@contextlib.contextmanager
def start(place: Place, facts: Mapping[str, Any], say: Callable[[str], None]) -> Iterator[Team]:
    """Meet the other processes, start JAX on the devices of all, and tell the others how this process has ended.

    Args:
        place: Which process this is.
        facts: What all processes must have in common, such as their options and versions; see `Team.require_same`.
        say: Receives messages, in process 0 alone.

    Raises:
        HostsError: The others do not come, or do something else. JAX cannot start.
        InstallationError: JAX is not installed, or it has started already.
    """
    global _team, _deserted
    team = met(place, facts, say) if place.count > 1 else Team(place, (socket.gethostname(),))
    try:
        if place.count > 1:
            _deserted = True
            # After a failure, this stays: JAX may still notice it before the process has said why it ends.
            aborting.announce(team.aborted)
        devices.start(place, timeout())
        _team = team
        yield team
    except BaseException as error:
        team.end(error)
        raise
    finally:
        _team = None
    team.end(None)


def met(place: Place, facts: Mapping[str, Any], say: Callable[[str], None]) -> Team:
    """Meet the other processes, and return them. The arguments and errors are those of `start`."""
    names, sockets = meet(place, facts, say)
    team = Team(place, names)
    team.connect(sockets)
    return team


def finish() -> None:
    """End training together: from here on, this process is alone. All processes must call this."""
    global _team, _deserted
    team, _team = _team, None
    if team is not None and team.count > 1:
        # The end of a process that is done is no loss.
        team.exchange("end", None)
        team._closed.set()
        devices.stop()
        aborting.forget()
        _deserted = False
