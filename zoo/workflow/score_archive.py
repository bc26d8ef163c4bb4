"""Scores an archive of pictures into a folder of Parquet files: finds the shards, runs an engine, keeps what is done.

A shard that is finished has a marker, so that the same command goes on where an earlier one was stopped. A shard that
fails because a machine or a network is lost is tried again after all others.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

from zoo.archives.in_process import InProcess
from zoo.archives.ledger import Job, Ledger
from zoo.archives.parts import Figures, Piece
from zoo.archives.scoring import Scorer
from zoo.archives.sources import SLICE, PassedOver, Shard, roots_of, shards_of
from zoo.errors import DataNotFound, InstallationError, UsageError
from zoo.reporter import Reporter, counted

# How long to wait before what failed is tried again, in seconds: a server may start again meanwhile.
PAUSES = (5.0, 30.0)
# Where no bar is drawn, a line says so often how far the work is, in seconds.
LINE_SECONDS = 30


class Engine(AbstractContextManager, Protocol):
    """Declares what runs shards: this process, or Ray.

    Attributes:
        workers: How many shards are scored at the same time.
        problem: Why shards were lost in the last call of `run`. Empty if none was.
    """

    workers: int
    problem: str

    def window(self) -> int:
        """Return how many shards are given to `run` at once."""
        ...

    def run(self, shards: Iterable[Shard]) -> Iterator[Piece]:
        """Yield the pieces of shards, in any order."""
        ...


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Describes the scoring that a user requests.

    Args:
        sources: Folders, tar files, Parquet files and pictures: paths, addresses and patterns.
        out: The folder for the answers.
        ray: Whether Ray runs the work.
        address: The address of a Ray cluster; None starts Ray on this machine.
        workers: The number of workers of Ray; None uses all processors.
        threads: The number of threads of each worker. None means 1 with Ray, and else one per core.
        providers: As for `zoo_runtime.Predictor`, without Ray alone.
        max_pixels: As for `zoo_runtime.Predictor`.
        formats: As for `zoo_runtime.Predictor`.
        coverage: As for `zoo.archives.scoring.Scorer`.
        column: The column of Parquet files that holds the pictures; None finds it.
        slice: How many pictures of a folder make a shard.
    """

    sources: Sequence[str]
    out: Path
    ray: bool = False
    address: str | None = None
    workers: int | None = None
    threads: int | None = None
    providers: Sequence[str] | None = None
    max_pixels: int | None = None
    formats: Sequence[str] | None = None
    coverage: float | None = None
    column: str | None = None
    slice: int = SLICE


@dataclass
class Scored:
    """The result of a scoring.

    Args:
        total: The figures of all finished shards, those of earlier commands included.
        parts: The number of finished shards.
        now: The number of pictures that this command has scored.
        seconds: How long that took, without the start of the workers' machines.
        workers: The number of workers.
        failed: Why shards are not finished, by the name of the shard.
        passed_over: Says which files are neither pictures nor archives.
    """

    total: Figures = field(default_factory=Figures)
    parts: int = 0
    now: int = 0
    seconds: float = 0.0
    workers: int = 1
    failed: dict[str, str] = field(default_factory=dict)
    passed_over: str = ""


def score_archive(model: Path, requested: ScoreConfig, reporter: Reporter) -> Scored:
    """Score all pictures of an archive that are not scored yet.

    Args:
        model: The path of the exported file.
        requested: What the user requested.
        reporter: Receives the progress, and warnings.

    Raises:
        UsageError: The folder of answers belongs to another job, or an option cannot be meant.
        DataNotFound: A source does not exist or cannot be read, or there is no picture in it.
        InstallationError: A package is missing.
        ModelError: The exported file cannot be used.
        WriteError: The answers cannot be written.
    """
    _need_pyarrow(requested.ray)
    options = {key: getattr(requested, key) for key in ("max_pixels", "formats", "coverage")}
    # With Ray, this one only checks the file and the options.
    threads = 1 if requested.ray else requested.threads
    scorer = Scorer(model, threads=threads, providers=requested.providers, **options)
    roots = roots_of(requested.sources)
    ledger = Ledger(Path(os.path.abspath(requested.out)))
    kept = {**options, "column": requested.column, "slice": requested.slice}
    job = Job(scorer.digest, scorer.info.classes, roots, kept)
    with ledger.held(job):
        if ledger.finished:
            _refuse_changes(ledger.finished, shards_of(roots, requested.slice), roots)
        passed_over = PassedOver()
        engine: Engine = InProcess(scorer, requested.column)
        if requested.ray:
            from zoo.archives.on_ray import OnRay

            content = _content(model)
            options["threads"] = requested.threads or 1
            engine = OnRay(content, options, requested.column, requested.address, requested.workers)
        waiting = (shard for shard in shards_of(roots, requested.slice, passed_over) if not ledger.has(shard.id))
        scored = _run(waiting, engine, ledger, reporter)
        scored.total, scored.parts = ledger.total, len(ledger.finished)
        scored.passed_over = str(passed_over)
    if not scored.parts and not scored.failed:
        others = f" Passed over: {passed_over}." if passed_over.endings else ""
        raise DataNotFound(f"no picture was found in {', '.join(map(repr, roots))}.{others}")
    return scored


def _need_pyarrow(ray: bool) -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise InstallationError(
            f"--out writes Parquet through pyarrow, which is not installed ({error}). "
            + (
                "Install it together with Ray: pip install 'finezoo[ray]'"
                if ray
                else "Install it: pip install 'finezoo[tables]', or pip install pyarrow"
            )
        ) from None


def _content(model: Path) -> bytes:
    """Return the bytes of an exported file, which are all that a worker gets."""
    if model.suffix.lower() == ".xml":
        raise UsageError(
            f"{str(model)!r} is an OpenVINO model, which consists of two files. --ray takes model.onnx or model.tflite."
        )
    return model.read_bytes()


def _refuse_changes(finished: Mapping[str, str], shards: Iterator[Shard], roots: Sequence[str]) -> None:
    """Compare what is finished with what is there now.

    Raises:
        UsageError: Something was changed or removed after it was scored. New archives are no change.
    """
    gone = set(finished)
    for shard in shards:
        if shard.id in finished:
            gone.discard(shard.id)
            if finished[shard.id] != shard.fingerprint:
                raise UsageError(
                    f"{shard.name!r} has changed since it was scored: files were added, removed or written again. "
                    "Score into a new folder with --out DIR. New archives beside the old ones are no change."
                )
    if gone:
        raise UsageError(
            f"{len(gone)} of {len(finished)} scored parts are not in {', '.join(map(repr, roots))}: pictures were "
            "removed, or these answers belong to another source. Score into a new folder with --out DIR."
        )


def _run(waiting: Iterator[Shard], engine: Engine, ledger: Ledger, reporter: Reporter) -> Scored:
    """Run all shards that wait, some at a time."""
    scored = Scored()
    first = next(waiting, None)
    if first is None:
        return scored
    waiting = chain([first], waiting)
    with engine, reporter.progress("pictures") as progress:
        scored.workers = engine.workers
        meter = _Meter(scored, progress, reporter)
        try:
            for pause in (*PAUSES, None):
                failed = _run_once(waiting, engine, ledger, meter)
                if not failed or pause is None:
                    break
                reporter.say(
                    f"  {counted(len(failed), 'part')} failed: {scored.failed[failed[0].name]}\n"
                    f"  {'They are' if len(failed) > 1 else 'It is'} tried again in {pause:.0f} s."
                )
                time.sleep(pause)
                waiting = iter(failed)
        except KeyboardInterrupt:
            reporter.warn(
                f"stopped after {scored.now:,} pictures of this command. Nothing that is done is lost: the same "
                "command goes on from there."
            )
            raise
        scored.seconds = time.monotonic() - meter.started
    return scored


def _run_once(waiting: Iterator[Shard], engine: Engine, ledger: Ledger, meter: _Meter) -> list[Shard]:
    """Run all shards that wait, some at a time. Return those that failed and may be tried again."""
    failed: list[Shard] = []
    while window := list(islice(waiting, engine.window())):
        pending = {shard.id: shard for shard in window}
        final: set[str] = set()
        problems: dict[str, str] = {}
        for piece in engine.run(window):
            shard = pending.get(piece.shard)
            if shard is None:
                continue
            if piece.problem:
                problems[shard.id] = piece.problem
                if not piece.again:
                    final.add(shard.id)
                continue
            figures = ledger.receive(piece, shard)
            if figures is not None:
                del pending[shard.id]
                meter.scored.failed.pop(shard.name, None)
                meter.add(figures)
        lost = engine.problem or "its worker was lost each time. The memory may be full, or a picture ends the process"
        meter.scored.failed |= {shard.name: problems.get(shard.id, lost) for shard in pending.values()}
        failed += [shard for shard in pending.values() if shard.id not in final]
    return failed


class _Meter:
    """Counts what this command has scored, and shows it."""

    def __init__(self, scored: Scored, progress: Any, reporter: Reporter) -> None:
        self.scored, self._progress, self._reporter = scored, progress, reporter
        self.started = self._last = time.monotonic()

    def add(self, figures: Figures) -> None:
        """Count a finished shard."""
        self.scored.now += figures.pictures
        self._progress(self.scored.now, 0)
        now = time.monotonic()
        if now - self._last >= LINE_SECONDS:
            self._last = now
            self._reporter.say(f"  {self.scored.now:,} pictures, {self.scored.now / (now - self.started):.1f}/s")
