"""Finds files of pretrained weights locally or downloads them, and checks their hashes.

Files are looked up in the mirror, zoo's cache, Keras's cache and the places of `zoo.pretrained.places`, in this order.
`zoo.pretrained.select` chooses the weights, `zoo.train.weights_file` loads them, and `zoo.pretrained.download`
transfers them. Importing this module is quick, because the packages for the network are imported only for a download.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

from zoo import files
from zoo.errors import HashMismatch, WeightsUnavailable
from zoo.plugin import ClassIndex, Weights, readers
from zoo.pretrained import download, network, places

RECORDED = ".sha256"
YOURS = " If the file is right and the plugin is yours, state this hash in its `Weights`."
WEIGHTS_SUFFIXES = (".h5", ".hdf5", ".keras", ".safetensors", ".pt", ".pth", ".bin", ".npz")
Progress = Callable[[int, int], None]
Say = Callable[[str], None]


@dataclass(frozen=True)
class OtherFile:
    """Describes a published file that holds neither weights nor class names. Mirror and cache keep it like weights.

    Args:
        url: The address of the file.
        filename: The name of the file in a mirror or cache.
        hash: "ALGORITHM:HEX" of the file, with an algorithm that `hashlib` knows.
        bytes: The size of the file in bytes.
    """

    url: str
    filename: str
    hash: str
    bytes: int


PublicFile: TypeAlias = Weights | ClassIndex | OtherFile


@dataclass(frozen=True)
class WeightsFile:
    """A weights file that is available locally and has been checked.

    Args:
        path: The path of the file.
        place: Where the file was found: "mirror", "cache", "Keras's cache", "package", "folder", "Hugging Face's
            cache", "Kaggle's cache" or "download".
        entry: The published weights that the file contains.
        wanted: The published weights whose input size is nearest to the size of the pictures. If these weights are
            available, `entry` is the same object.
        reason: Why `wanted` is not available; empty if it is available.
        sha256: The sha256 of the file, in hex.
    """

    path: Path
    place: str
    entry: Weights
    wanted: Weights
    reason: str
    sha256: str


def find_local(entry: PublicFile) -> tuple[Path, str] | None:
    """Look for a file in the mirror, zoo's cache, Keras's cache and the place that its origin names.

    The file is not read, and nothing is downloaded.

    Args:
        entry: Describes the file.

    Returns:
        The path and the name of the place, as in `WeightsFile`, or None if the file is in none of them.
    """
    mirror = files.mirror()
    folders = [(mirror, "mirror")] if mirror else []
    folders += [(files.cache() / "weights", "cache"), (files.keras_cache(), "Keras's cache")]
    for folder, place in folders:
        path = folder / entry.filename
        # Path.is_file raises an error if the user has no permission to enter the folder.
        if os.path.isfile(path):
            return path, place
    return places.find(entry) if isinstance(entry, Weights) else None


def _download_of(entry: PublicFile) -> places.Download | None:
    """Return how a file is downloaded; None if its origin has no address."""
    return places.download_of(entry) if isinstance(entry, Weights) else places.Download(entry.url, {})


def waiting_label(entry: PublicFile, what: str) -> str:
    """Return what to show until the first bytes of a file arrive that `find` or `find_file` will get.

    Args:
        entry: Describes the file.
        what: What the file contains, such as "weights" or "class names".

    Returns:
        "checking WHAT" if the file is available locally or downloads are forbidden, else "asking SERVER for WHAT".
    """
    source = _download_of(entry)
    if source is None or find_local(entry) or files.offline():
        return f"checking {what}"
    return f"asking {urlsplit(source.address).hostname or 'the server'} for {what}"


def by_fit(entries: Sequence[Weights], size: tuple[int, int]) -> list[Weights]:
    """Sort published weights by the distance of their input size from a given size, the nearest first.

    The distance is the difference between the square roots of the numbers of pixels. If two distances are equal, the
    weights with the larger input size come first.

    Args:
        entries: The published weights.
        size: The given size, (height, width) in pixels.
    """
    pixels = (size[0] * size[1]) ** 0.5

    def distance(entry: Weights) -> tuple[float, float]:
        side = (entry.input_size[0] * entry.input_size[1]) ** 0.5
        return abs(side - pixels), -side

    return sorted(entries, key=distance)


def find(
    entries: Sequence[Weights], size: tuple[int, int], progress: Progress | None = None, say: Say | None = None
) -> WeightsFile:
    """Find or download the weights whose input size is nearest to the size of the pictures.

    If these weights cannot be read or downloaded, other weights are used: of those that are available locally, the ones
    with the nearest input size.

    Args:
        entries: Published weights of one architecture and tag, at least one. They differ only in their input size.
        size: (height, width) in pixels of the pictures.
        progress: A function to call with (bytes downloaded, bytes in total) during a download, or None.
        say: A function that receives lines of text about waits and further attempts, or None.

    Returns:
        The file.

    Raises:
        WeightsUnavailable: The weights with the nearest input size cannot be read or downloaded, and neither can any
            other weights of the architecture be read locally.
        HashMismatch: A local file is not the published one.
    """
    wanted, *others = by_fit(entries, size)
    try:
        path, place, digest = _get(wanted, progress, say)
        return _in_use(WeightsFile(path, place, wanted, wanted, "", digest))
    except WeightsUnavailable as error:
        for other in others:
            if find_local(other):
                path, place, digest = _get(other, progress, say)
                return _in_use(WeightsFile(path, place, other, wanted, str(error), digest))
        raise


def _in_use(found: WeightsFile) -> WeightsFile:
    """Keep `zoo cache prune` from removing a file as long as its description exists."""
    files.mark_used(found.path, found)
    return found


def find_file(entry: ClassIndex | OtherFile, progress: Progress | None = None, say: Say | None = None) -> Path:
    """Find or download a file that holds no weights, and check its hash.

    Args:
        entry: Describes the file.
        progress: A function to call with (bytes downloaded, bytes in total) during a download, or None.
        say: A function that receives lines of text about waits and further attempts, or None.

    Returns:
        The path of the file.

    Raises:
        WeightsUnavailable: The file cannot be read, or it is not available locally and cannot be downloaded.
        HashMismatch: The local file is not the published one.
    """
    return _get(entry, progress, say)[0]


def read_class_index(path: Path) -> list[str]:
    """Read class names from a class index file; see `zoo.plugin.ClassIndex`.

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
    """Return a sentence that says what is wrong with the mirror, or "" if nothing is wrong.

    The mirror is the folder that the environment variable ZOO_WEIGHTS_DIR names. It must exist, be readable and contain
    weights files. If the variable is not set, there is no mirror, and the result is "".
    """
    folder = files.mirror()
    if folder is None:
        return ""
    if not os.path.isdir(folder):
        return f"ZOO_WEIGHTS_DIR names {str(folder)!r}, which is not a folder."
    try:
        empty = not any(name.endswith(WEIGHTS_SUFFIXES) for name in os.listdir(folder))
    except OSError as error:
        return f"ZOO_WEIGHTS_DIR names {str(folder)!r}, which cannot be read: {error.strerror}."
    return f"ZOO_WEIGHTS_DIR names {str(folder)!r}, which holds no weights files." if empty else ""


def advice(entry: PublicFile) -> str:
    """Return a sentence that tells the user where to get a file by hand, and into which folder to put it."""
    source = _download_of(entry)
    if source is None and isinstance(entry, Weights):
        return f"{places.advice(entry)}, or put {entry.filename} into a folder and set ZOO_WEIGHTS_DIR to that folder"
    address = source.address if source else entry.url
    named = "" if address.endswith("/" + entry.filename) else f"as {entry.filename} "
    facts = [files.size_text(entry.bytes)] if entry.bytes else []
    facts += [entry.hash.replace(":", " ", 1)] if entry.hash else []
    described = f" ({', '.join(facts)})" if facts else ""
    return (
        f"Download {address}{described}\n"
        f"{named}into a folder and set ZOO_WEIGHTS_DIR to that folder, or put the file into {files.cache() / 'weights'}"
    )


def digest_of(path: Path, algorithm: str = "sha256") -> str:
    """Return the digest of a file's bytes, in hex.

    Args:
        path: The file.
        algorithm: A name that `hashlib` knows, such as "sha256" or "md5".

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def _get(entry: PublicFile, progress: Progress | None, say: Say | None) -> tuple[Path, str, str]:
    """Find a file locally or download it, and check it.

    Returns:
        The path, the place (as in `WeightsFile`) and the sha256 in hex.

    Raises:
        WeightsUnavailable: The file cannot be read, or it is not available locally and cannot be downloaded.
        HashMismatch: The local file does not have the published or recorded hash.
    """
    found = find_local(entry)
    if found:
        path, place = found
        return path, place, _checked(path, entry, _recorded(path) if place == "cache" else None)
    if isinstance(entry, Weights) and not places.download_of(entry):
        raise WeightsUnavailable(places.missing(entry))
    if files.offline():
        raise WeightsUnavailable(f"{entry.filename} is not available locally, and ZOO_OFFLINE=1 forbids downloads")
    path = files.cache() / "weights" / entry.filename
    return path, "download", _download(entry, path, progress, say)


def _checked(path: Path, entry: PublicFile, recorded: str | None) -> str:
    """Check the hash of a file, and return the sha256 of the file in hex.

    The file must have the published hash. If no hash is published, the file must have the recorded hash. If there is no
    recorded hash either, the file is not checked.

    Args:
        path: The file.
        entry: Describes the file.
        recorded: The hash that zoo recorded when it downloaded the file; None if there is no record.

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
            f"another file of the same name. Move it away and try again.{YOURS if entry.hash else ''}"
        )
    return digest


def _recorded(path: Path) -> str | None:
    """Return the digest that zoo recorded when it downloaded a file, as "sha256:...", or None if there is no record."""
    try:
        digest = path.with_name(path.name + RECORDED).read_text(encoding="utf-8").split()[0]
    except (OSError, ValueError, IndexError):
        return None
    return f"sha256:{digest}"


def _download(entry: PublicFile, path: Path, progress: Progress | None, say: Say | None) -> str:
    """Download a file, check it, and move it to its final path.

    If another process downloads the same file, this one waits and uses the result.

    Args:
        entry: Describes the file.
        path: The final path of the file.
        progress: A function to call with (bytes downloaded, bytes in total), or None.
        say: A function that receives lines about waits and further attempts, or None.

    Returns:
        The sha256 of the file, in hex.

    Raises:
        WeightsUnavailable: The server cannot be reached, it sends something other than the file, the transfer breaks
            off again and again, or the file cannot be written.
        HashMismatch: Another process has downloaded the file, and it does not have the published or recorded hash.
    """
    source = _download_of(entry)
    assert source is not None  # `_get` has refused origins without an address.
    address = source.address
    try:
        with download.alone(path, say) as unfinished:
            if os.path.isfile(path):
                return _checked(path, entry, _recorded(path))
            reason = network.unreachable(address)
            if reason:
                raise WeightsUnavailable(f"{address} cannot be reached: {reason}")
            transfer = download.Transfer(
                address,
                unfinished,
                checked=bool(entry.hash),
                progress=progress,
                say=say,
                headers=source.headers,
                most=download.most_of(entry.bytes),
            )
            return _transferred(transfer, unfinished, entry, path)
    except (download.TransferError, ValueError) as error:
        hint = _gated_hint(entry, str(error))
        raise WeightsUnavailable(f"downloading {address} failed: {error}{hint}") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise WeightsUnavailable(
            f"downloading {address} failed: {str(path.parent)!r} cannot be written: {reason}. {_other_folder(error)}"
        ) from error


def _gated_hint(entry: PublicFile, problem: str) -> str:
    """Return what helps where a hub refuses a file, or ""."""
    kind = entry.origin.kind if isinstance(entry, Weights) else ""
    if not re.search(r"answers 40[134]\b", problem):
        return ""
    if kind == "hf":
        return (
            ". If the repository asks for consent, accept its terms on its page, and let HF_TOKEN hold a token that "
            "may read it"
        )
    if kind == "keras-hub":
        return ". If the model asks for consent, download it with keras-hub or kagglehub; zoo finds it in their cache"
    return ""


def _other_folder(error: OSError) -> str:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    advice = "Free some space, or let" if full else "Let"
    return f"{advice} ZOO_CACHE name a folder {'on a larger disk' if full else 'that you may write to'}"


def _transferred(transfer: download.Transfer, unfinished: Path, entry: PublicFile, path: Path) -> str:
    """Run a transfer, check the file, and move it to its final path. Return its sha256 in hex.

    An unfinished file that turns out to be wrong is removed, so that it cannot spoil the next attempt. A file that was
    put together from several transfers is downloaded a second time, as a whole.
    """
    try:
        transfer.run()
        try:
            digest = _accepted(unfinished, entry, path, transfer.md5)
        except ValueError:
            if not transfer.resumed:
                raise
            transfer.discard()
            transfer.run()
            digest = _accepted(unfinished, entry, path, transfer.md5)
        # The record is moved first, because a file without a record would never be checked.
        record = path.with_name(path.name + RECORDED)
        with files.scratch_folder(path.parent) as temporary:
            draft = temporary / record.name
            draft.write_text(f"{digest}  {path.name}\n", encoding="utf-8")
            os.replace(draft, record)
        os.replace(unfinished, path)
        download.sync_folder(path.parent)
    except ValueError:
        transfer.discard()
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            # The part would only take up space on the full disk.
            transfer.discard()
        raise
    transfer.discard()
    return digest


def _accepted(file: Path, entry: PublicFile, path: Path, md5: str) -> str:
    """Check a downloaded file before it gets its final name. Return its sha256 in hex.

    Args:
        file: The downloaded file.
        entry: Describes the file.
        path: The final path. Its record of an earlier download counts if no hash is published.
        md5: The MD5 that the server sent with the file, or "". It counts if no hash is published.

    Raises:
        ValueError: The file is not the published one.
        OSError: The file cannot be read.
    """
    digest = digest_of(file)
    algorithm, _, wanted = (entry.hash or (f"md5:{md5}" if md5 else "")).partition(":")
    received = digest if algorithm in ("", "sha256") else digest_of(file, algorithm)
    if wanted and received != wanted:
        # The wrong page is named as such, rather than by its hash.
        _refuse_other_files(file, entry)
        whose = "published" if entry.hash else "announced by the server"
        raise ValueError(
            f"the received file has the hash {algorithm}:{received}, but {wanted} was {whose}. "
            "Either the file was altered on the way, or the publisher has replaced it, or the plugin has a wrong hash"
        )
    _refuse_other_files(file, entry)
    known = _recorded(path)
    if known not in (None, f"sha256:{digest}") and not entry.hash:
        raise ValueError(
            f"the received file has sha256:{digest}, but an earlier download had {known}; "
            f"remove {str(path.with_name(path.name + RECORDED))!r} if the publisher has replaced the file"
        )
    return digest


def _refuse_other_files(file: Path, entry: PublicFile) -> None:
    """Check that a downloaded file has the expected size and format.

    A server can send a different file with the status 200, such as the login page of a hotel's network.

    Raises:
        ValueError: The file is a web page, its size differs from the published one, or it is not valid HDF5 or JSON
            although its name ends in .h5 or .json. The size is compared only if no hash is published.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        begins = stream.read(1000).lstrip().lower()
    if begins.startswith((b"<!doctype html", b"<html")):
        raise ValueError(
            "the received file is not a complete HDF5 file but a web page. Perhaps this network asks for a login: "
            "open any page in a browser, and try again"
            if file.suffix == ".h5"
            else "the server sent a web page. Perhaps this network asks for a login: open any page in a browser, and "
            "try again"
        )
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
    if file.suffix in (".safetensors", ".pt", ".pth") and readers.format_of(file) not in readers.TENSOR_FORMATS:
        raise ValueError("the received file is neither safetensors nor a file of PyTorch")
    if file.suffix == ".json":
        json.loads(file.read_bytes())
