"""Measures how many pictures per second zoo, Pillow and Keras turn from files into pixels.

    python benchmarks/decode.py FOLDER [--size 160] [--resave 450x375] [--rounds 5]

FOLDER has class folders. --resave first saves each picture in the given size, as JPEG of quality 90. (A picture that
was enlarged in this way has less detail than one that was taken in this size, and decodes faster.) The programs are
measured in turn, so that a busy moment of the machine affects all of them. Each one starts from files in the operating
system's file cache, and ends with pixels of the requested size:

- zoo: `zoo.data.pixels.load_pixels` with an empty cache. It computes digests, decodes, resizes, and writes the
  memory-mapped array.
- zoo, cached: the same call again. It computes the digests of the files, and maps the array.
- pillow: Pillow as tutorials use it, without draft mode: open, convert, resize. It uses one thread per core.
- keras: `keras.utils.image_dataset_from_directory`, as Keras's guides use it. It resizes without antialiasing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from zoo.data import pixels, sources
from zoo_runtime import ImageSpec


def resave(source: Path, target: Path, size: str) -> Path:
    """Save all pictures again in one size, and return the new folder.

    Args:
        source: The folder with the original pictures.
        target: The new folder.
        size: "WIDTHxHEIGHT" in pixels.
    """
    width, height = map(int, size.split("x"))
    for original in paths_of(source):
        path = target / original.relative_to(source).with_suffix(".jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(original) as image:
            image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC).save(path, quality=90)
    return target


def paths_of(folder: Path) -> list[Path]:
    contents = [picture.content for picture in sources.open_source(os.fspath(folder)).pictures]
    return [content for content in contents if isinstance(content, Path)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=160, help="side in pixels (default 160)")
    parser.add_argument("--resave", metavar="WxH", help="first save the pictures in this width and height")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    # Keras is not started by zoo.backend, whose settings might slow it down.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    temporary = tempfile.TemporaryDirectory(prefix="zoo-benchmark-")
    if options.resave:
        options.folder = resave(options.folder, Path(temporary.name, "pictures"), options.resave)
    pictures = sources.open_source(os.fspath(options.folder)).pictures
    spec = ImageSpec(size=(options.size, options.size))
    paths = paths_of(options.folder)
    cache = Path(temporary.name, "cache")

    def zoo() -> None:
        shutil.rmtree(cache, ignore_errors=True)
        pixels.load_pixels(pictures, spec, cache)

    def zoo_cached() -> None:
        assert pixels.load_pixels(pictures, spec, cache).cached

    def one(path: Path) -> np.ndarray:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB").resize(spec.size[::-1], Image.Resampling.BILINEAR))

    def pillow() -> None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            np.stack(list(pool.map(one, paths)))

    # Without labels, the function also accepts a folder with train/, val/ and test/. Loading takes the same time.
    def keras_dataset() -> None:
        dataset = keras.utils.image_dataset_from_directory(
            options.folder, labels=None, image_size=spec.size, shuffle=False, verbose=False
        )
        assert sum(len(batch) for batch in dataset) == len(paths)

    sides = {"zoo": zoo, "zoo, cached": zoo_cached, "pillow": pillow, "keras": keras_dataset}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(options.rounds + 1):
        for name, run in sides.items():
            started = time.perf_counter()
            run()
            if number:  # the first round only warms up the file cache, threads and tracing
                seconds[name].append(time.perf_counter() - started)
    temporary.cleanup()

    what = f"{len(paths)} pictures" + (f" of {options.resave}" if options.resave else "")
    print(f"{what} to {options.size} x {options.size}, {os.cpu_count()} cores, {options.rounds} rounds")
    print(f"{'side':14}{'pictures/s':>12}{'least':>9}{'most':>9}{'zoo is faster by':>19}")
    for name, times in seconds.items():
        ratio = statistics.median(other / own for other, own in zip(times, seconds["zoo"], strict=True))
        middle, least, most = (len(paths) / t for t in (statistics.median(times), max(times), min(times)))
        print(f"{name:14}{middle:12,.0f}{least:9,.0f}{most:9,.0f}{ratio:19.2f}")


if __name__ == "__main__":
    main()
