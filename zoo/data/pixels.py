"""Every picture decoded once, by zoo_runtime's decoder, into a memory-mapped uint8 cache on disk.

The cache is keyed by the digests of the pictures, the image spec and the decoder's version, so that a second run over
the same pictures decodes nothing. It is bounded: the least recently used sets give way.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import zoo_runtime
from zoo.data.sources import Picture
from zoo.errors import DataError, UnreadablePictures
from zoo_runtime import ImageSpec, PictureError

BAD_SHARE = 0.20
CACHE_BYTES = 8 << 30
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Pixels:
    """Decoded pictures of a source.

    Args:
        array: uint8 array (pictures, height, width, channels), values 0..255, memory-mapped; rows of pictures that
            could not be decoded are black.
        digests: sha256 of each picture, hex; empty where the file could not be read.
        bad: Index of each picture that could not be decoded -> why.
        cached: Whether an earlier run had decoded them.
    """

    array: np.ndarray
    digests: tuple[str, ...]
    bad: dict[int, str]
    cached: bool

    @property
    def usable(self) -> list[int]:
        """Indices of the pictures that could be decoded."""
        return [i for i in range(len(self.digests)) if i not in self.bad]


def load_pixels(
    pictures: Sequence[Picture], spec: ImageSpec, folder: Path, progress: Progress | None = None
) -> Pixels:
    """Decode pictures, or find them decoded.

    Args:
        pictures: What to decode.
        spec: Size, channels and way of resizing.
        folder: Where the cache lives.
        progress: Called with (pictures done, pictures in all).

    Returns:
        The pixels.

    Raises:
        DataError: The disk is too small.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests = list(pool.map(_digest, pictures))
        key = _key(digests, spec)
        found = _find(folder / key, digests)
        if found:
            return found
        shape = (len(pictures), *spec.size, spec.channels)
        _make_room(folder, int(np.prod(shape)))
        temporary = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
        try:
            array = np.lib.format.open_memmap(temporary / "pixels.npy", "w+", np.uint8, shape)
            bad: dict[int, str] = {}

            def work(index: int) -> None:
                try:
                    array[index] = zoo_runtime.decode(pictures[index].content, spec)
                except PictureError as error:
                    bad[index] = f"{type(error).__name__}: {error}"

            for done, _ in enumerate(pool.map(work, range(len(pictures))), start=1):
                if progress:
                    progress(done, len(pictures))
            array.flush()
            del array
            (temporary / "bad.json").write_text(json.dumps(bad))
            os.replace(temporary, folder / key)
        except OSError as error:
            if not (folder / key).exists():
                raise DataError(f"the decoded pictures cannot be written to {str(folder)!r}: {error}.") from error
            # Another run has just put the same pictures there.
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    found = _find(folder / key, digests)
    if found is None:
        raise DataError(f"the decoded pictures in {str(folder / key)!r} cannot be read back; remove that folder.")
    return Pixels(found.array, found.digests, found.bad, cached=False)


def check_readable(pictures: Sequence[Picture], pixels: Pixels) -> None:
    """Raise UnreadablePictures if more than a fifth of the pictures are bad, naming the first few."""
    bad = pixels.bad
    if len(bad) > BAD_SHARE * len(pictures):
        shown = "\n".join(f"  {bad[i]}" for i in sorted(bad)[:10])
        more = f"\n  and {len(bad) - 10} more" if len(bad) > 10 else ""
        raise UnreadablePictures(
            f"{len(bad)} of {len(pictures)} pictures cannot be read, more than {BAD_SHARE:.0%}:\n{shown}{more}\n"
            "Repair or remove them, or check that the path is the right one."
        )


def _digest(picture: Picture) -> str:
    try:
        return picture.digest()
    except OSError:
        return ""


def _key(digests: Sequence[str], spec: ImageSpec) -> str:
    versions = zoo_runtime.versions()
    decoder = [zoo_runtime.__version__, versions["pillow"], versions["libjpeg"]]
    text = json.dumps([digests, spec.to_json(), decoder])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _find(folder: Path, digests: Sequence[str]) -> Pixels | None:
    try:
        bad = {int(index): why for index, why in json.loads((folder / "bad.json").read_text()).items()}
        array = np.load(folder / "pixels.npy", mmap_mode="r")
        os.utime(folder)
    except (OSError, ValueError):
        return None
    return Pixels(array, tuple(digests), bad, cached=True)


def _make_room(folder: Path, wanted: int) -> None:
    """Remove the least recently used sets until the new one fits the bound and the disk."""
    folder.mkdir(parents=True, exist_ok=True)
    sets = sorted((p for p in folder.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime)
    sizes = {p: sum(f.stat().st_size for f in p.iterdir()) for p in sets}
    while sets and (sum(sizes[p] for p in sets) + wanted > CACHE_BYTES or shutil.disk_usage(folder).free < wanted):
        shutil.rmtree(sets.pop(0), ignore_errors=True)
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise DataError(
            f"the decoded pictures need {wanted / 1e9:.1f} GB and {str(folder)!r} has {free / 1e9:.1f} GB free. "
            "Point ZOO_CACHE to a larger disk, or use a smaller --size."
        )
