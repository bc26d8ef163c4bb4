"""Pretrained weights files: found in the mirror, the cache or Keras's cache, or downloaded; and checked.

Loading a file into a network is `train.model`'s part. Importing this module is cheap; pooch comes in with a download.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo import files
from zoo.errors import HashMismatch, WeightsUnavailable
from zoo.plugin import ClassIndex, Weights

CONNECT_SECONDS = 5
IMPATIENT_SECONDS = 1
READ_SECONDS = 30
RECORDED = ".sha256"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class WeightsFile:
    """A weights file at hand.

    Args:
        path: Where it is.
        place: "mirror", "cache", "Keras's cache" or "download".
        entry: The published entry it answers.
        wanted: The entry that fits the size best; another than `entry` where that could not be had.
        reason: Why `wanted` could not be had, if so.
        sha256: Digest of the file, hex.
    """

    path: Path
    place: str
    entry: Weights
    wanted: Weights
    reason: str
    sha256: str


def find_local(entry: Weights | ClassIndex) -> tuple[Path, str] | None:
    """Find a file without reading it and without the network.

    Returns:
        The path and the name of the place, or None.
    """
    mirror = files.mirror()
    places = [(mirror, "mirror")] if mirror else []
    places += [(files.cache() / "weights", "cache"), (files.keras_cache(), "Keras's cache")]
    for folder, place in places:
        path = folder / entry.filename
        # Not Path.is_file, which raises where a folder may not be entered.
        if os.path.isfile(path):
            return path, place
    return None


def by_fit(entries: Sequence[Weights], size: tuple[int, int]) -> list[Weights]:
    """Order entries by how near their resolution is to a size (height, width); of two as near, the larger first."""
    pixels = (size[0] * size[1]) ** 0.5

    def distance(entry: Weights) -> tuple[float, float]:
        side = (entry.input_size[0] * entry.input_size[1]) ** 0.5
        return abs(side - pixels), -side

    return sorted(entries, key=distance)


def find(entries: Sequence[Weights], size: tuple[int, int], progress: Progress | None = None) -> WeightsFile:
    """Get the weights that fit a size best.

    The exact resolution if it is at hand or can be downloaded, else the nearest one that is at hand.

    Args:
        entries: Entries of one architecture and tag that differ by resolution only.
        size: (height, width) in pixels of the network to be.
        progress: Called with (bytes done, bytes in all) while downloading.

    Returns:
        The file.

    Raises:
        WeightsUnavailable: None is at hand and the best could not be downloaded.
        HashMismatch: A file at hand is not the published one.
    """
    wanted, *others = by_fit(entries, size)
    try:
        path, place, digest = _get(wanted, progress)
        return WeightsFile(path, place, wanted, wanted, "", digest)
    except WeightsUnavailable as error:
        for other in others:
            if find_local(other):
                path, place, digest = _get(other, progress)
                return WeightsFile(path, place, other, wanted, str(error), digest)
        raise


def find_file(entry: ClassIndex, progress: Progress | None = None) -> Path:
    """Get a class index file; raises as `find`."""
    return _get(entry, progress)[0]


def read_class_index(path: Path) -> list[str]:
    """Read class names from a class index file.

    Returns:
        One name a class, in the order of the network's output, such as "n01440764_tench": the identifier too,
        because two ImageNet classes are called "crane".

    Raises:
        HashMismatch: The file is no class index.
    """
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        rows = [index[str(i)] for i in range(len(index))]
        if not rows or not all(isinstance(row, list) for row in rows):
            raise ValueError('not of the form {"0": [identifier, name], ...}')
        return ["_".join(row) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HashMismatch(f"{str(path)!r} is no class index file: {error!r}. Remove it and try again.") from None


def advice(entry: Weights | ClassIndex) -> str:
    """What a user can do to supply a file."""
    named = "" if entry.url.endswith("/" + entry.filename) else f"as {entry.filename} "
    return (
        f"Download {entry.url}\n"
        f"{named}into a folder and set ZOO_WEIGHTS_DIR to that folder, or put the file into {files.cache() / 'weights'}"
    )


def digest_of(path: Path, algorithm: str = "sha256") -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def _get(entry: Weights | ClassIndex, progress: Progress | None) -> tuple[Path, str, str]:
    """Return (path, place, sha256) of a checked file, downloading it where it is not at hand."""
    found = find_local(entry)
    if found:
        path, place = found
        return path, place, _checked(path, entry, _recorded(path) if place == "cache" else None)
    if files.offline():
        raise WeightsUnavailable(f"{entry.filename} is not at hand and ZOO_OFFLINE=1 forbids the network")
    path = files.cache() / "weights" / entry.filename
    return path, "download", _download(entry, path, progress)


def _checked(path: Path, entry: Weights | ClassIndex, recorded: str | None) -> str:
    """Return a file's sha256, or raise HashMismatch; WeightsUnavailable where the file may not be read."""
    expected = entry.hash or recorded
    algorithm, _, wanted = expected.partition(":") if expected else ("sha256", "", "")
    try:
        digest = digest_of(path)
        received = digest if algorithm == "sha256" else digest_of(path, algorithm)
    except OSError as error:
        raise WeightsUnavailable(f"{str(path)!r} cannot be read: {error.strerror}") from error
    if wanted and received != wanted:
        origin = "published" if entry.hash else f"recorded in {path.name + RECORDED!r} when it was first downloaded"
        raise HashMismatch(
            f"{str(path)!r} has {algorithm} {received}, but {wanted} was {origin}. The file is damaged or another; "
            "remove it and try again."
        )
    return digest


def _recorded(path: Path) -> str | None:
    """The digest that a download left beside a file, as "sha256:...", or None."""
    try:
        digest = path.with_name(path.name + RECORDED).read_text(encoding="utf-8").split()[0]
    except (OSError, ValueError, IndexError):
        return None
    return f"sha256:{digest}"


def _download(entry: Weights | ClassIndex, path: Path, progress: Progress | None) -> str:
    """Download through pooch: into a temporary folder, moved to its name only when complete and right.

    The file's digest is recorded beside it, as `sha256sum` writes it, and a later download must have it too: that is
    all there is to go by where no hash is published.

    Returns:
        The file's sha256, hex.

    Raises:
        WeightsUnavailable: No connection within CONNECT_SECONDS, an answer other than the file, or a cut transfer.
    """
    import logging

    import pooch
    import requests

    reason = _unreachable(entry.url)
    if reason:
        raise WeightsUnavailable(f"{entry.url} cannot be reached: {reason}")
    bar = _Bar(progress) if progress else False
    http = pooch.HTTPDownloader(progressbar=bar, chunk_size=1 << 18, timeout=(CONNECT_SECONDS, READ_SECONDS))
    pooch.get_logger().setLevel(logging.WARNING)
    try:
        with files.scratch_folder(path.parent) as temporary:
            file = Path(pooch.retrieve(entry.url, entry.hash, fname=path.name, path=temporary, downloader=http))
            _refuse_other_files(file, entry)
            # pooch closes its files to all others, and a cache may be shared.
            file.chmod(temporary.stat().st_mode & 0o666)
            digest = digest_of(file)
            record = path.with_name(path.name + RECORDED)
            known = _recorded(path)
            if known not in (None, f"sha256:{digest}") and not entry.hash:
                raise ValueError(
                    f"what came back has sha256:{digest}, but an earlier download had {known}; "
                    f"remove {str(record)!r} if the publisher has replaced the file"
                )
            draft = temporary / record.name
            draft.write_text(f"{digest}  {path.name}\n", encoding="utf-8")
            # The record first: a file without one would never be checked.
            os.replace(draft, record)
            os.replace(file, path)
    except (requests.RequestException, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsUnavailable(f"downloading {entry.url} failed: {reason}") from error
    return digest


def _refuse_other_files(file: Path, entry: Weights | ClassIndex) -> None:
    """Raise ValueError if a download is not what its name says: a hotel's login page answers 200 too."""
    size = file.stat().st_size
    # A published hash has been checked by now and knows better than a length.
    if entry.bytes and not entry.hash and size != entry.bytes:
        raise ValueError(f"{size} bytes came back, not {entry.bytes}")
    if file.suffix == ".h5":
        import h5py

        try:
            h5py.File(file).close()
        except OSError as error:
            # h5py sees a missing end too, which a server without a Content-Length cannot tell.
            raise ValueError(f"what came back is not a whole HDF5 file ({error})") from None
    if file.suffix == ".json":
        json.loads(file.read_bytes())


def _unreachable(url: str) -> str:
    """Try once to reach a server; return why it cannot be reached, or "".

    The attempts run beside, because looking a name up can take longer than any time-out that sockets know. There are
    two at once: a patient one, for slow lines, and one that gives each of a server's addresses little time, for lines
    on which IPv6 leads nowhere and that would never come to the IPv4 address.
    """
    import requests

    outcomes: queue.SimpleQueue[str] = queue.SimpleQueue()

    def attempt(connect_seconds: float) -> None:
        try:
            requests.head(url, timeout=(connect_seconds, CONNECT_SECONDS), allow_redirects=True)
            outcomes.put("")
        except Exception as error:
            outcomes.put(_brief(error))

    reason = ""
    end = time.monotonic() + CONNECT_SECONDS
    waits = (IMPATIENT_SECONDS, CONNECT_SECONDS)
    for seconds in waits:
        threading.Thread(target=attempt, args=[seconds], daemon=True).start()
    for _ in waits:
        try:
            reason = outcomes.get(timeout=max(0, end - time.monotonic()))
        except queue.Empty:
            return f"no answer within {CONNECT_SECONDS} s"
        if not reason:
            break
    return reason


def _brief(error: Exception) -> str:
    """The innermost reason of a connection error, without the object addresses that urllib3 prints."""
    cause: BaseException = error
    while cause.args and isinstance(cause.args[0], BaseException):
        cause = cause.args[0]
    reason = getattr(cause, "reason", None)
    text = str(reason or cause)
    return text.partition("): ")[2] or text if "Connection(" in text else text.rpartition(">: ")[2]


class _Bar:
    """What pooch expects of a progress bar, handed on as (done, total)."""

    def __init__(self, progress: Progress):
        self._progress, self._done, self.total = progress, 0, 0

    def update(self, amount: int) -> None:
        self._done += amount
        self._progress(self._done, self.total)

    def reset(self) -> None:
        self._done = 0

    def close(self) -> None:
        pass
