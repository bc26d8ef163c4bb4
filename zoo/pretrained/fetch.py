"""Finds files of pretrained weights in the mirror, zoo's cache or Keras's cache, or downloads them; checks each file.

`zoo.pretrained.select` chooses the weights, and `zoo.train.network` loads them. Importing this module is cheap, because
pooch is imported only for a download.
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
    """A weights file that is available locally and has been checked.

    Args:
        path: The path of the file.
        place: Where it was found: "mirror", "cache", "Keras's cache" or "download".
        entry: The published weights that the file contains.
        wanted: The published weights that fit the size best. They differ from `entry` if they are not available.
        reason: Why `wanted` is not available; empty if it is.
        sha256: Digest of the file, in hex.
    """

    path: Path
    place: str
    entry: Weights
    wanted: Weights
    reason: str
    sha256: str


def find_local(entry: Weights | ClassIndex) -> tuple[Path, str] | None:
    """Find a file locally, without reading it and without the network.

    Returns:
        The path and the name of the place ("mirror", "cache" or "Keras's cache"), or None if the file is in none.
    """
    mirror = files.mirror()
    places = [(mirror, "mirror")] if mirror else []
    places += [(files.cache() / "weights", "cache"), (files.keras_cache(), "Keras's cache")]
    for folder, place in places:
        path = folder / entry.filename
        # Path.is_file raises an error if the folder may not be entered.
        if os.path.isfile(path):
            return path, place
    return None


def progress_label(entry: Weights | ClassIndex, what: str) -> str:
    """Name the step in which `find` or `find_file` gets a file, for a progress line.

    Args:
        entry: The file.
        what: What it contains, such as "weights" or "class names".

    Returns:
        "checking weights" if the file is available locally or must not be downloaded, else "downloading weights".
    """
    return f"{'checking' if find_local(entry) or files.offline() else 'downloading'} {what}"


def by_fit(entries: Sequence[Weights], size: tuple[int, int]) -> list[Weights]:
    """Sort entries by how near their resolution is to a size (height, width). The larger of two is first."""
    pixels = (size[0] * size[1]) ** 0.5

    def distance(entry: Weights) -> tuple[float, float]:
        side = (entry.input_size[0] * entry.input_size[1]) ** 0.5
        return abs(side - pixels), -side

    return sorted(entries, key=distance)


def find(entries: Sequence[Weights], size: tuple[int, int], progress: Progress | None = None) -> WeightsFile:
    """Find or download the weights whose resolution fits a size best.

    If the best file is neither available locally nor can be downloaded, the nearest local one is taken instead.

    Args:
        entries: Entries of one architecture and tag that differ only by resolution.
        size: (height, width) in pixels of the network.
        progress: Called with (bytes downloaded, bytes in total) during a download.

    Returns:
        The file.

    Raises:
        WeightsUnavailable: The best file cannot be downloaded, and no other one is available locally.
        HashMismatch: A local file is not the published one.
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
    """Find or download a class index file, and check it.

    Args:
        entry: The file.
        progress: Called with (bytes downloaded, bytes in total) during a download.

    Raises:
        WeightsUnavailable: The file is not available locally and cannot be downloaded.
        HashMismatch: The local file is not the published one.
    """
    return _get(entry, progress)[0]


def read_class_index(path: Path) -> list[str]:
    """Read class names from a class index file.

    Returns:
        One name per class, in the order of the network's output, such as "n01440764_tench". The identifier is part of
        the name, because two ImageNet classes are called "crane".

    Raises:
        HashMismatch: The file is not a class index.
    """
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        rows = [index[str(i)] for i in range(len(index))]
        if not rows or not all(isinstance(row, list) for row in rows):
            raise ValueError('not of the form {"0": [identifier, name], ...}')
        return ["_".join(row) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HashMismatch(f"{str(path)!r} is not a class index file: {error!r}. Remove it and try again.") from None


def mirror_problem() -> str:
    """Say in a sentence what is wrong with the folder that ZOO_WEIGHTS_DIR names; "" if it may hold weights."""
    folder = files.mirror()
    if folder is None:
        return ""
    if not os.path.isdir(folder):
        return f"ZOO_WEIGHTS_DIR names {str(folder)!r}, which is not a folder."
    try:
        empty = not any(name.endswith((".h5", ".keras")) for name in os.listdir(folder))
    except OSError as error:
        return f"ZOO_WEIGHTS_DIR names {str(folder)!r}, which cannot be read: {error.strerror}."
    return f"ZOO_WEIGHTS_DIR names {str(folder)!r}, which holds no weights files." if empty else ""


def advice(entry: Weights | ClassIndex) -> str:
    """Say how a user can supply a file by hand: where to download it, and into which folder to put it."""
    named = "" if entry.url.endswith("/" + entry.filename) else f"as {entry.filename} "
    return (
        f"Download {entry.url}\n"
        f"{named}into a folder and set ZOO_WEIGHTS_DIR to that folder, or put the file into {files.cache() / 'weights'}"
    )


def digest_of(path: Path, algorithm: str = "sha256") -> str:
    """Return the digest of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def _get(entry: Weights | ClassIndex, progress: Progress | None) -> tuple[Path, str, str]:
    """Return (path, place, sha256) of a checked file. Download it if it is not available locally."""
    found = find_local(entry)
    if found:
        path, place = found
        return path, place, _checked(path, entry, _recorded(path) if place == "cache" else None)
    if files.offline():
        raise WeightsUnavailable(f"{entry.filename} is not available locally, and ZOO_OFFLINE=1 forbids downloads")
    path = files.cache() / "weights" / entry.filename
    return path, "download", _download(entry, path, progress)


def _checked(path: Path, entry: Weights | ClassIndex, recorded: str | None) -> str:
    """Compare a file with its published or recorded hash, and return its sha256 in hex.

    Raises:
        HashMismatch: The hashes differ.
        WeightsUnavailable: The file cannot be read.
    """
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
            f"{str(path)!r} has {algorithm} {received}, but {wanted} was {origin}. The file is damaged, or it is "
            "another file of the same name. Remove it and try again."
        )
    return digest


def _recorded(path: Path) -> str | None:
    """Return the digest that was recorded beside a file when it was downloaded, as "sha256:...", or None."""
    try:
        digest = path.with_name(path.name + RECORDED).read_text(encoding="utf-8").split()[0]
    except (OSError, ValueError, IndexError):
        return None
    return f"sha256:{digest}"


def _download(entry: Weights | ClassIndex, path: Path, progress: Progress | None) -> str:
    """Download a file with pooch into a temporary folder, check it, and move it to its place.

    The digest is recorded beside the file in the format of `sha256sum`. If no hash is published, a later download must
    have the recorded digest, because there is nothing else to compare with.

    Returns:
        The file's sha256, in hex.

    Raises:
        WeightsUnavailable: The server cannot be reached within CONNECT_SECONDS, it sends something else than the file,
            or the transfer breaks off.
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
            # Only their owner may read the files that pooch creates, but several users may share a cache.
            file.chmod(temporary.stat().st_mode & 0o666)
            digest = digest_of(file)
            record = path.with_name(path.name + RECORDED)
            known = _recorded(path)
            if known not in (None, f"sha256:{digest}") and not entry.hash:
                raise ValueError(
                    f"the received file has sha256:{digest}, but an earlier download had {known}; "
                    f"remove {str(record)!r} if the publisher has replaced the file"
                )
            draft = temporary / record.name
            draft.write_text(f"{digest}  {path.name}\n", encoding="utf-8")
            # The record is moved first, because a file without a record would never be checked.
            os.replace(draft, record)
            os.replace(file, path)
    except (requests.RequestException, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsUnavailable(f"downloading {entry.url} failed: {reason}") from error
    return digest


def _refuse_other_files(file: Path, entry: Weights | ClassIndex) -> None:
    """Check that a download is the kind of file that its name says; raises ValueError.

    The login page of a hotel's network, for example, also has the status 200.
    """
    size = file.stat().st_size
    # A published hash has already been checked, and it is more reliable than a published length.
    if entry.bytes and not entry.hash and size != entry.bytes:
        raise ValueError(f"the server sent {size} bytes instead of {entry.bytes}")
    if file.suffix == ".h5":
        import h5py

        try:
            h5py.File(file).close()
        except OSError as error:
            # h5py also notices a truncated file, even if the server sent no Content-Length.
            raise ValueError(f"the received file is not a complete HDF5 file ({error})") from None
    if file.suffix == ".json":
        json.loads(file.read_bytes())


def _unreachable(url: str) -> str:
    """Try to reach a server, and return the reason why it cannot be reached; "" if it can.

    The attempts run in threads of their own, because no timeout of a socket covers the lookup of a name. Two attempts
    run at once. The patient one is for slow lines. The impatient one gives each address of the server little time:
    where IPv6 addresses do not respond, a patient attempt would never get to the IPv4 address.
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
    """Return the innermost reason of a connection error, without the object addresses that urllib3 prints."""
    cause: BaseException = error
    while cause.args and isinstance(cause.args[0], BaseException):
        cause = cause.args[0]
    reason = getattr(cause, "reason", None)
    text = str(reason or cause)
    return text.partition("): ")[2] or text if "Connection(" in text else text.rpartition(">: ")[2]


class _Bar:
    """Has the methods that pooch calls on a progress bar, and reports (bytes done, bytes in total) to a function."""

    def __init__(self, progress: Progress):
        self._progress, self._done, self.total = progress, 0, 0

    def update(self, amount: int) -> None:
        self._done += amount
        self._progress(self._done, self.total)

    def reset(self) -> None:
        self._done = 0

    def close(self) -> None:
        pass
