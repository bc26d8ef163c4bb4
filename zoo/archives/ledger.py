"""Keeps what is done in the folder of answers: a Parquet file and a marker for each shard, and what the job is.

    DIR/part-ID.parquet     the answers of a shard, put in place whole
    DIR/_done/ID.json       its marker, written afterwards: name and fingerprint of the shard, and its figures
    DIR/_job.json           the exported file and the options, so that answers of two networks are never mixed up

Programs that read a folder of Parquet leave out names that begin with an underscore. One process writes all of this,
and holds a lock meanwhile; workers send it their files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
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
    schema: int = 1

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
            # What a killed process has left is worth nothing.
            for leftover in self.folder.glob(".*.partial"):
                leftover.unlink(missing_ok=True)
            self._check(job)
            with files.atomic_write(self.folder / JOB) as path:
                path.write_text(json.dumps(job.to_json(), indent=1), "utf-8")
            yield
        finally:
            for _, temporary, stream in self._open.values():
                stream.close()
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
            others = [name for name in sorted(os.listdir(self.folder)) if name not in (DONE, LOCK)]
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

    def finished(self) -> dict[str, str]:
        """Return the fingerprint of each finished shard by its id.

        Raises:
            UsageError: A marker cannot be read.
        """
        return {path.stem: str(values["fingerprint"]) for path, values in self._markers()}

    def totals(self) -> Figures:
        """Add up the figures of all finished shards. The damage is that of one of them."""
        total = Figures()
        for _, values in self._markers():
            figures = Figures.from_json(values["figures"])
            total.add(figures)
            total.damage = total.damage or (f"{values['name']}: {figures.damage}" if figures.damage else "")
        return total

    def _markers(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        with os.scandir(self.folder / DONE) as entries:
            for entry in entries:
                # An atomic write begins with a name of its own.
                if entry.name.startswith(".") or not entry.name.endswith(".json"):
                    continue
                try:
                    yield Path(entry.path), json.loads(Path(entry.path).read_text("utf-8"))
                except (OSError, ValueError) as error:
                    raise UsageError(
                        f"the marker {entry.path!r} cannot be read: {error}. Remove it, and its part is scored again."
                    ) from None

    def has(self, shard: str) -> bool:
        """Return whether a shard is finished: its marker and its answers are there."""
        return (self.folder / DONE / f"{shard}.json").exists() and self.part(shard).exists()

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
        marker = {"name": shard.name, "fingerprint": shard.fingerprint, "figures": figures.to_json()}
        with files.atomic_write(self.folder / DONE / f"{shard.id}.json") as path:
            path.write_text(json.dumps(marker), "utf-8")
        return figures


def _difference(found: Any, wanted: dict[str, Any]) -> str:
    found = found if isinstance(found, dict) else {}
    keys = [key for key in wanted if found.get(key) != wanted[key]]
    return f": {', '.join(f'{key} was {found.get(key)!r}, and is {wanted[key]!r}' for key in keys)}"


def digest_of(content: bytes) -> str:
    """Return the SHA-256 of an exported file."""
    return hashlib.sha256(content).hexdigest()
