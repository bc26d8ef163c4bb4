"""Pretrained weights files: found in the mirror, the cache or Keras's cache, or downloaded; and checked.

Loading a file into a network is `train.model`'s part. Importing this module is cheap; pooch comes in with a download.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo import paths
from zoo.errors import HashMismatch, WeightsUnavailable
from zoo.plugin import ClassIndex, Weights

CONNECT_SECONDS = 5
READ_SECONDS = 30
RECORDED = "digests.json"
HDF5 = b"\x89HDF\r\n\x1a\n"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Found:
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


def at_hand(entry: Weights | ClassIndex) -> tuple[Path, str] | None:
    """Find a file without reading it and without the network.

    Returns:
        The path and the name of the place, or None.
    """
    mirror = paths.mirror()
    places = [(mirror, "mirror")] if mirror else []
    places += [(paths.cache() / "weights", "cache"), (paths.keras_cache(), "Keras's cache")]
    for folder, place in places:
        path = folder / entry.filename
        if path.is_file():
            return path, place
    return None


def by_fit(entries: Sequence[Weights], size: tuple[int, int]) -> list[Weights]:
    """Order entries by how near their resolution is to a size (height, width); of two as near, the larger first."""
    pixels = (size[0] * size[1]) ** 0.5

    def distance(entry: Weights) -> tuple[float, float]:
        side = (entry.input_size[0] * entry.input_size[1]) ** 0.5
        return abs(side - pixels), -side

    return sorted(entries, key=distance)


def find(entries: Sequence[Weights], size: tuple[int, int], progress: Progress | None = None) -> Found:
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
        return Found(path, place, wanted, wanted, "", digest)
    except WeightsUnavailable as error:
        for other in others:
            if at_hand(other):
                path, place, digest = _get(other, progress)
                return Found(path, place, other, wanted, str(error), digest)
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
        return ["_".join(index[str(i)]) for i in range(len(index))]
    except (ValueError, KeyError, TypeError) as error:
        raise HashMismatch(f"{str(path)!r} is no class index file: {error!r}. Remove it and try again.") from None


def advice(entry: Weights) -> str:
    """What a user can do to supply a file."""
    return (
        f"Download {entry.url}\n"
        f"into a folder and set ZOO_WEIGHTS_DIR to that folder, or put the file into {paths.cache() / 'weights'}, "
        "or pass its path: --weights FILE."
    )


def digest_of(path: Path, algorithm: str = "sha256") -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def _get(entry: Weights | ClassIndex, progress: Progress | None) -> tuple[Path, str, str]:
    """Return (path, place, sha256) of a checked file, downloading it where it is not at hand."""
    found = at_hand(entry)
    if found:
        path, place = found
        recorded = _recorded(path) if place == "cache" else None
        return path, place, _checked(path, entry, recorded)
    if paths.offline():
        raise WeightsUnavailable(f"{entry.filename} is not at hand and ZOO_OFFLINE=1 forbids the network")
    path = paths.cache() / "weights" / entry.filename
    _download(entry, path, progress)
    digest = _checked(path, entry, None)
    _record(path, digest)
    return path, "download", digest


def _checked(path: Path, entry: Weights | ClassIndex, recorded: str | None) -> str:
    """Return a file's sha256, or raise HashMismatch."""
    digest = digest_of(path)
    expected = entry.hash or (f"sha256:{recorded}" if recorded else None)
    if expected:
        algorithm, _, wanted = expected.partition(":")
        received = digest if algorithm == "sha256" else digest_of(path, algorithm)
        if received != wanted:
            origin = "published" if entry.hash else "recorded when it was first downloaded"
            raise HashMismatch(
                f"{str(path)!r} has {algorithm} {received}, but {wanted} was {origin}. The file is damaged or another; "
                "remove it and try again."
            )
    return digest


def _recorded(path: Path) -> str | None:
    try:
        return json.loads((path.parent / RECORDED).read_text()).get(path.name)
    except (OSError, ValueError, AttributeError):
        return None


def _record(path: Path, digest: str) -> None:
    file = path.parent / RECORDED
    try:
        known = json.loads(file.read_text())
    except (OSError, ValueError):
        known = {}
    known[path.name] = digest
    temporary = file.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(known, indent=1, sort_keys=True))
    os.replace(temporary, file)


def _download(entry: Weights | ClassIndex, path: Path, progress: Progress | None) -> None:
    """Download through pooch: into a temporary file, moved to its name only when complete and right.

    Raises:
        WeightsUnavailable: No connection within CONNECT_SECONDS, an answer other than the file, or a cut transfer.
    """
    import logging

    import pooch
    import requests

    reason = _unreachable(entry.url)
    if reason:
        raise WeightsUnavailable(f"{entry.url} cannot be reached: {reason}")

    def download(url: str, output: str, pooch_object: object) -> None:
        bar = _Bar(progress) if progress else False
        http = pooch.HTTPDownloader(progressbar=bar, chunk_size=1 << 18, timeout=(CONNECT_SECONDS, READ_SECONDS))
        http(url, output, pooch_object)
        with open(output, "rb") as stream:
            head = stream.read(len(HDF5))
        if path.suffix == ".h5" and head != HDF5:
            # A hotel's login page answers 200 too.
            raise ValueError("what came back is not an HDF5 file")

    pooch.get_logger().setLevel(logging.WARNING)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pooch.retrieve(entry.url, entry.hash, fname=path.name, path=path.parent, downloader=download)
    except (requests.RequestException, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsUnavailable(f"downloading {entry.url} failed: {reason}") from error


def _unreachable(url: str) -> str:
    """Try once to reach a server; return why it cannot be reached, or "".

    The attempt runs beside, because looking a name up can take longer than any time-out that sockets know.
    """
    import requests

    outcome: list[str] = []

    def attempt() -> None:
        try:
            requests.head(url, timeout=CONNECT_SECONDS, allow_redirects=True)
            outcome.append("")
        except requests.RequestException as error:
            outcome.append(_brief(error))

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    return outcome[0] if outcome else f"no answer within {CONNECT_SECONDS} s"


def _brief(error: Exception) -> str:
    """The innermost reason of a connection error, without the object addresses that urllib3 prints."""
    cause: BaseException = error
    while cause.args and isinstance(cause.args[0], BaseException):
        cause = cause.args[0]
    reason = getattr(cause, "reason", None)
    text = str(reason or cause)
    return text.rsplit(": ", 1)[-1] if ">: " in text or "HTTPConnection" in text else text


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
