"""Keeps what is done in the folder of answers: a Parquet file and a marker for each shard, and what the job is.

    DIR/part-ID.parquet     the answers of a shard, put in place whole
    DIR/_done/ID.json       its marker, written afterwards: name and fingerprint of the shard, its figures, and the
                            size of its Parquet file
    DIR/_job.json           the exported file and the options, so that answers of two networks are never mixed up

Programs that read a folder of Parquet leave out names that begin with an underscore. One process writes all of this,
and holds a lock meanwhile; workers send it their files.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from zoo import files
from zoo.archives.parts import Figures, Piece
from zoo.archives.sources import Shard
from zoo.archives.stores import JOB
from zoo.errors import UsageError, WriteError

DONE, LOCK = "_done", "_lock"


@dataclass(frozen=True)
class Job:
    """What makes answers comparable: if any of it differs, they must not lie in one folder.

    Args:
        model: The SHA-256 of the exported file.
        classes: Its classes, in the order of the probabilities.
        sources: The absolute paths and addresses of the pictures. They are only noted: the fingerprints of the shards
            tell whether the pictures are the same.
        options: The options that change answers or the division into shards.
        schema: The version of the files in the folder.
    """

    model: str
    classes: Sequence[str]
    sources: Sequence[str]
    options: dict[str, Any]
    schema: int = 2

    def to_json(self) -> dict[str, Any]:
        """Return the job as its file holds it."""
        return json.loads(json.dumps(asdict(self)))


class Ledger:
    """The folder of answers.

    Args:
        folder: Its path. It need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: dict[str, tuple[str, Path, BinaryIO]] = {}
        self._done: dict[str, str] = {}
        self._total = Figures()

    @contextlib.contextmanager
    def held(self, job: Job) -> Iterator[None]:
        """Hold the folder for a job. Meanwhile no other process can write to it.

        Raises:
            UsageError: The folder has answers of another job or other files, or another process writes to it.
            WriteError: It cannot be written.
        """
        import filelock

        files.check_writable(self.folder, "--out DIR")
        self._check(job)
        try:
            (self.folder / DONE).mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(self.folder / LOCK)
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise UsageError(
                f"another `zoo predict` writes to {str(self.folder)!r} now. Wait for its end, or choose another --out."
            ) from None
        except OSError as error:
            raise WriteError(
                f"{str(self.folder)!r} cannot be written: {error.strerror}. Choose another --out."
            ) from None
        try:
            self._check(job)
            self._read_markers()
            self._remove_leftovers()
            with files.atomic_write(self.folder / JOB) as path:
                path.write_text(json.dumps(job.to_json(), indent=1), "utf-8")
            yield
        finally:
            for _, temporary, stream in self._open.values():
                # On a full disk, closing tries once more to write what is left.
                with contextlib.suppress(OSError):
                    stream.close()
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
            self._open.clear()
            lock.release()

    def _check(self, job: Job) -> None:
        """Refuse a folder that holds something else."""
        if not self.folder.exists():
            return
        try:
            found = json.loads((self.folder / JOB).read_text("utf-8"))
        except FileNotFoundError:
            # A process that was killed at its beginning leaves a file that is not renamed yet.
            names = [name for name in sorted(os.listdir(self.folder)) if name not in (DONE, LOCK)]
            others = [name for name in names if not (name.startswith(".") and name.endswith(f"-{JOB}"))]
            if others:
                raise UsageError(
                    f"{str(self.folder)!r} holds other files, such as {others[0]!r}. Give a new folder: --out DIR."
                ) from None
            return
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{str(self.folder / JOB)!r} cannot be read: {error}. Give a new folder: --out DIR."
            ) from None
        if not any((self.folder / DONE).glob("*.json")) and not any(self.folder.glob("part-*.parquet")):
            # A command that found no picture has left the folder. It must not bind the next one.
            return
        wanted = job.to_json()
        words = {
            "model": "of another exported file",
            "classes": "of another exported file",
            "options": "made with other options",
            "schema": "written by another version of zoo",
        }
        for key, what in words.items():
            if found.get(key) != wanted[key]:
                detail = _difference(found.get(key), wanted[key]) if key == "options" else ""
                same = "Give the same options to go on, or a new folder" if detail else "Give a new folder"
                raise UsageError(
                    f"the answers in {str(self.folder)!r} are {what}{detail}. {same} with --out DIR, so that they are "
                    "not mixed up."
                )

    @property
    def finished(self) -> Mapping[str, str]:
        """The fingerprint of each finished shard by its id."""
        return self._done

    @property
    def total(self) -> Figures:
        """The figures of all finished shards together."""
        return self._total

    def has(self, shard: str) -> bool:
        """Return whether a shard is finished: its marker is there, and its answers are as long as the marker says."""
        return shard in self._done

    def _read_markers(self) -> None:
        """Find out what is finished.

        Raises:
            UsageError: A marker cannot be read.
        """
        self._done, self._total = {}, Figures()
        with os.scandir(self.folder / DONE) as entries:
            for entry in entries:
                # An atomic write begins with a name of its own.
                if entry.name.startswith(".") or not entry.name.endswith(".json"):
                    continue
                shard = entry.name.removesuffix(".json")
                try:
                    marker = json.loads(Path(entry.path).read_text("utf-8"))
                    fingerprint, figures = str(marker["fingerprint"]), Figures.from_json(marker["figures"])
                    size = int(marker["bytes"])
                except (OSError, ValueError, LookupError, TypeError) as error:
                    raise UsageError(
                        f"the marker {entry.path!r} cannot be read: {error!r}. Remove it, and its part is scored again."
                    ) from None
                # The disk may have lost the end of a file in a power failure.
                if self.part(shard).exists() and self.part(shard).stat().st_size == size:
                    self._done[shard] = fingerprint
                    self._total.add(figures)

    def _remove_leftovers(self) -> None:
        """Remove what a killed process has left, and answers without a marker: their shard may not come again."""
        files.remove_leftovers(self.folder)
        files.remove_leftovers(self.folder / DONE)
        with os.scandir(self.folder) as entries:
            names = [entry.name for entry in entries]
        for name in names:
            is_part = name.startswith("part-") and name.endswith(".parquet")
            if name.endswith(".partial") or (is_part and not self.has(name[len("part-") : -len(".parquet")])):
                (self.folder / name).unlink(missing_ok=True)

    def part(self, shard: str) -> Path:
        """Return the path of the answers of a shard."""
        return self.folder / f"part-{shard}.parquet"

    def receive(self, piece: Piece, shard: Shard) -> Figures | None:
        """Add a piece of the answers of a shard. The last one puts the file in place, and then the marker.

        Pieces of an attempt that broke off are forgotten as soon as another attempt begins.

        Returns:
            The figures, if the shard is finished by this piece; else None.

        Raises:
            WriteError: The disk is full, for example.
        """
        if self.has(shard.id):
            return None
        attempt, temporary, stream = self._open.get(shard.id, ("", Path(), None))
        try:
            if attempt != piece.attempt:
                if stream is not None:
                    stream.close()
                    temporary.unlink(missing_ok=True)
                temporary = self.folder / f".{shard.id}-{piece.attempt}.partial"
                stream = temporary.open("wb")
                self._open[shard.id] = (piece.attempt, temporary, stream)
            assert stream is not None
            if stream.tell() != piece.offset:
                # An earlier piece of this attempt went elsewhere; the shard is scored again.
                return None
            stream.write(piece.data)
            if stream.tell() < piece.total:
                return None
            stream.flush()
            os.fsync(stream.fileno())
            stream.close()
            del self._open[shard.id]
            os.replace(temporary, self.part(shard.id))
        except OSError as error:
            raise WriteError(
                f"{str(self.part(shard.id))!r} cannot be written: {error.strerror}. What is done stays. Free some "
                "space, and give the command again."
            ) from error
        figures = Figures.from_json(json.loads(piece.figures))
        marker = {
            "name": shard.name,
            "fingerprint": shard.fingerprint,
            "bytes": piece.total,
            "figures": figures.to_json(),
        }
        with files.atomic_write(self.folder / DONE / f"{shard.id}.json") as path:
            path.write_text(json.dumps(marker), "utf-8")
        self._done[shard.id] = shard.fingerprint
        self._total.add(figures)
        return figures


def _difference(found: Any, wanted: dict[str, Any]) -> str:
    found = found if isinstance(found, dict) else {}
    keys = [key for key in wanted if found.get(key) != wanted[key]]
    return f": {', '.join(f'{key} was {found.get(key)!r}, and is {wanted[key]!r}' for key in keys)}"
