"""Scores shards with Ray Data: a fixed pool of actors, each with one `Predictor`, on one machine or on a cluster.

A row of the data set is a shard, and a task of an actor scores one. If an actor or a machine is lost, Ray gives its
shards to another one. The answers travel to this process, which alone writes them, so no machine needs a shared folder
for them. The exported file travels once into Ray's memory, from where the actors take it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO, cast

from zoo import interrupts
from zoo.archives.parts import PIECE_BYTES, Piece, pieces
from zoo.archives.scoring import Scorer
from zoo.archives.sources import Shard
from zoo.errors import InstallationError, UsageError

# How often a shard is begun. Ray gives the shards of a lost actor to another one without end, but if that happens so
# often to one shard, a picture of it ends the process.
BEGINNINGS = 4
# The fewest shards that Ray gets at once, and how many for each actor.
SHARDS, SHARDS_PER_WORKER = 1000, 16
# The thread of Ray that prints what it does about lost workers.
LISTENER = "ray_listen_error_messages"
# How long a cluster may take to answer, in seconds.
KNOCK_SECONDS = 10


class ShardScorer:
    """What an actor runs: it loads the exported file once, and scores the shards that it gets.

    Args:
        desk: Ray's handle of the actor `Desk`.
        options: The arguments of `Scorer`.
        column: As for `InProcess`.
    """

    def __init__(self, desk: Any, options: dict[str, Any], column: str | None) -> None:
        import ray

        (model,) = ray.get(desk.model.remote())
        self._scorer = Scorer(ray.get(model), **options)
        self._desk, self._column = desk, column

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, list[Any]]]:
        for text in batch["shard"]:
            for piece in self.pieces(Shard.from_json(str(text))):
                yield {key: [value] for key, value in asdict(piece).items()}

    def pieces(self, shard: Shard) -> Iterator[Piece]:
        """Yield the pieces of a shard, unless it has ended too many workers."""
        import ray

        if ray.get(self._desk.begin.remote(shard.id)) > BEGINNINGS:
            yield Piece(shard.id, "", problem=f"its worker was lost {BEGINNINGS} times: a picture may end the process.")
        else:
            yield from pieces(self._scorer, shard, self._column)


class Desk:
    """An actor that knows where the exported file is in Ray's memory, and counts how often each shard was begun.

    Args:
        model: A list with Ray's reference to the bytes of the file. Ray would replace a reference outside a list.
    """

    def __init__(self, model: list[Any]) -> None:
        self._model = model
        self._counts: Counter[str] = Counter()

    def model(self) -> list[Any]:
        """Return the list with the reference."""
        return self._model

    def begin(self, shard: str) -> int:
        """Count another beginning of a shard, and return how many there are."""
        self._counts[shard] += 1
        return self._counts[shard]


class OnRay:
    """Runs shards on Ray.

    Args:
        model: The bytes of the exported file.
        options: The arguments of `Scorer`; `threads` is the number of threads, and of processors, of an actor.
        column: As for `InProcess`.
        address: The address of a cluster, such as "auto" or "10.0.0.1:6379". None starts Ray on this machine, unless
            the environment variable RAY_ADDRESS names a cluster.
        workers: The number of actors; None means as many as there are processors for.

    Raises:
        InstallationError: Ray is not installed.
        UsageError: There is no cluster at the address, or it has too few processors.
    """

    actor: type[ShardScorer] = ShardScorer

    def __init__(
        self, model: bytes, options: dict[str, Any], column: str | None, address: str | None, workers: int | None
    ) -> None:
        self._model, self._options, self._column = model, options, column
        self._address = address or os.environ.get("RAY_ADDRESS") or "local"
        self._asked = workers
        self._quiet = contextlib.ExitStack()
        self.workers = workers or 1
        self.problem = ""

    def window(self) -> int:
        """Return how many shards are given to `run` at once."""
        return max(SHARDS, SHARDS_PER_WORKER * self.workers)

    def __enter__(self) -> OnRay:
        ray = _ray()
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._quiet.enter_context(_without_foreign_lines())
        try:
            with interrupts.same_handlers():
                _start(ray, self._address, self._asked, self._options["threads"], len(self._model))
            able = int(ray.cluster_resources().get("CPU", 0)) // self._options["threads"]
            self.workers = self._asked or able
            if able < self.workers or not able:
                raise UsageError(
                    f"the cluster has processors for {able} workers with {self._options['threads']} threads each. "
                    f"Received: --workers {self.workers}. Ask for fewer workers, or give the cluster more machines."
                )
            # The desk must not be lost with another machine.
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            desk = ray.remote(num_cpus=0, scheduling_strategy=here)(Desk)
            self._desk = desk.remote([ray.put(self._model)])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        with self._quiet, interrupts.same_handlers():
            _ray().shutdown()

    def run(self, shards: Iterable[Shard]) -> Iterator[Piece]:
        """Yield the pieces of shards in the order in which they are done. What Ray gives up is missing.

        `problem` says why something is missing.
        """
        import ray.data
        from ray.exceptions import RayError

        rows = [{"shard": shard.to_json()} for shard in shards]
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            self.actor,
            batch_size=1,
            fn_constructor_args=(self._desk, self._options, self._column),
            compute=ray.data.ActorPoolStrategy(size=min(self.workers, len(rows))),
            num_cpus=self._options["threads"],
        )
        try:
            for row in dataset.iter_rows():
                yield Piece(**row)
        except (RayError, OSError) as error:
            self.problem = _line(error)


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InstallationError(
            f"--ray needs Ray Data, which is not installed ({error}). Install it: pip install 'finezoo[ray]', or "
            "pip install 'ray[data]'. Without --ray, the same command works in one process."
        ) from None
    return ray


def _start(ray: Any, address: str, workers: int | None, threads: int, model_bytes: int) -> None:
    """Start Ray on this machine, or connect to a cluster."""
    if ray.is_initialized():
        raise UsageError("this process already uses Ray. Call ray.shutdown() first.")
    # Ray would report to its makers that it was used.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # It would warn about the value of this variable in a future version; processors alone are used here.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        from zoo_runtime.workshop import usable_cores

        options["num_cpus"] = max(workers * threads if workers else 0, usable_cores())
        # Ray would take a third of the memory. Besides the file, only answers and paths lie there.
        options["object_store_memory"] = 4 * model_bytes + 8 * PIECE_BYTES
        options["include_dashboard"] = False
    else:
        # The machines of a cluster need the packages that zoo_runtime needs, but not zoo: it travels.
        options["runtime_env"] = {"py_modules": [str(folder) for folder in _own_packages()]}
    try:
        _knock(address)
        ray.init(address=address, **options)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise UsageError(
            f"Ray cannot be reached at the address {address!r}: {_line(error)}. `ray start --head` starts a cluster "
            "and shows its address. Without --address, Ray runs on this machine alone."
        ) from None
    except Exception as error:
        # Ray gives itself 30 seconds, and raises an error of no particular kind.
        raise InstallationError(
            f"Ray did not start: {_line(error)}. This machine may be too busy. Give the command again, or leave --ray "
            "out: the same command then works in one process."
        ) from None
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # A shard that is lost for good must not end the others.
    context.max_errored_blocks = -1
    for name in ("ray.data", "ray.data._internal"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextlib.contextmanager
def _without_foreign_lines() -> Iterator[None]:
    """Keep lines that Ray prints for itself off the terminal: they mean nothing to a user, and are in its log files.

    Its C++ code prints to stderr, and a thread of it prints to stdout that a worker was lost and is replaced. What zoo
    prints still arrives.
    """
    out = sys.stdout
    sys.stdout = cast(TextIO, _WithoutThread(out))
    try:
        with _own_stderr():
            yield
    finally:
        sys.stdout = out


class _WithoutThread:
    """A stream that drops what the listening thread of Ray writes.

    Args:
        stream: Where everything else goes.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text, unless it is Ray's."""
        if threading.current_thread().name == LISTENER:
            return len(text)
        return int(self._stream.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _own_stderr() -> Iterator[None]:
    """Lead the descriptor of stderr nowhere, and `sys.stderr` to where it led before."""
    try:
        shown = os.dup(2)
    except OSError:
        # There is no stderr.
        yield
        return
    before, encoding = sys.stderr, getattr(sys.stderr, "encoding", None) or "utf-8"
    with tempfile.TemporaryFile() as nowhere, _text(shown, encoding) as own:
        before.flush()
        os.dup2(nowhere.fileno(), 2)
        try:
            # A test, or another program, may have put something else in place of stderr.
            is_plain = _descriptor(before) == 2
            sys.stderr = own if is_plain else before
            yield
        finally:
            sys.stderr = before
            own.flush()
            os.dup2(shown, 2)


def _text(descriptor: int, encoding: str) -> Any:
    return os.fdopen(descriptor, "w", 1, encoding=encoding, errors="backslashreplace")


def _descriptor(stream: Any) -> int | None:
    try:
        return int(stream.fileno())
    except (AttributeError, OSError, ValueError):
        return None


def _knock(address: str) -> None:
    """Check that something listens at an address such as 10.0.0.1:6379. Ray itself would try for many minutes.

    Raises:
        OSError: Nothing does.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_SECONDS).close()


def _own_packages() -> list[Path]:
    """Return the folders of the packages that workers import: zoo and zoo_runtime."""
    specs = [find_spec(name) for name in ("zoo", "zoo_runtime")]
    return [Path(str(spec.origin)).resolve().parent for spec in specs if spec is not None]


def _line(error: BaseException) -> str:
    """Return the line of an error of Ray that says most: the last one that names an error, else the first."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()] or [type(error).__name__]
    named = [line for line in lines if line.partition(":")[0].endswith(("Error", "Exception"))]
    return (named[-1] if named else lines[0])[:400].rstrip(".")
