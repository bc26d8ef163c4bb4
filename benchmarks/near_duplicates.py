"""Measures how many pairs of a picture and its copy stay on one side of zoo's automatic split.

    python benchmarks/near_duplicates.py FOLDER [--pictures 200] [--seeds 3] [--size 160] [--kinds NAME,NAME]

FOLDER has class folders, or train/, val/ and test/ with class folders. For each kind of copy, a data set is made of
some pictures of each class, as many of each, and of a copy of each picture in the same class. `zoo.data.dataset.load`
splits it with each seed, as `zoo finetune` does. A pair that is not found still stays together by chance, in about half
of all splits into three parts.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageEnhance, ImageOps

from zoo.data import dataset as datasets
from zoo.data import sources
from zoo.data.check import near
from zoo.reporter import Reporter
from zoo_runtime import ImageSpec

# What is cut off, and how far the next frame of a burst may be shifted: shares of the width and of the height.
CUT, SHIFT = 0.05, 0.04
TURN = 1.0


def cropped(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    """Cut off shares of the width at the left and at the right, and of the height at the top and at the bottom."""
    width, height = image.size
    return image.crop(
        (round(left * width), round(top * height), round((1 - right) * width), round((1 - bottom) * height))
    )


def at_a_corner(image: Image.Image, rng: random.Random) -> Image.Image:
    horizontal, vertical = rng.choice([(CUT, 0.0), (0.0, CUT)]), rng.choice([(CUT, 0.0), (0.0, CUT)])
    return cropped(image, horizontal[0], vertical[0], horizontal[1], vertical[1])


def next_frame(image: Image.Image, rng: random.Random) -> Image.Image:
    """Shift, turn and brighten a picture a little. The original is cut to the middle, so that both fit into it."""
    turned = image.rotate(rng.uniform(-TURN, TURN), Image.Resampling.BICUBIC)
    x, y = rng.uniform(-SHIFT, SHIFT), rng.uniform(-SHIFT, SHIFT)
    moved = cropped(turned, SHIFT + x, SHIFT + y, SHIFT - x, SHIFT - y)
    return ImageEnhance.Brightness(moved).enhance(rng.uniform(0.97, 1.03))


# Name of the kind -> (how the copy is made, ending, quality).
KINDS: dict[str, tuple[Callable[[Image.Image, random.Random], Image.Image], str, int]] = {
    "quality 60": (lambda image, _: image, "jpg", 60),
    "half size": (lambda image, _: image.resize((image.width // 2, image.height // 2)), "jpg", 85),
    "mirrored": (lambda image, _: ImageOps.mirror(image), "jpg", 85),
    "PNG": (lambda image, _: image, "png", 100),
    "WebP": (lambda image, _: image, "webp", 75),
    "brighter": (lambda image, _: ImageEnhance.Brightness(image).enhance(1.1), "jpg", 85),
    "turned by 90": (lambda image, _: image.transpose(Image.Transpose.ROTATE_270), "jpg", 85),
    "turned by 180": (lambda image, _: image.transpose(Image.Transpose.ROTATE_180), "jpg", 85),
    "turned by 270": (lambda image, _: image.transpose(Image.Transpose.ROTATE_90), "jpg", 85),
    "upside down": (lambda image, _: ImageOps.flip(image), "jpg", 85),
    "cut around": (lambda image, _: cropped(image, CUT / 2, CUT / 2, CUT / 2, CUT / 2), "jpg", 85),
    "cut at a corner": (at_a_corner, "jpg", 85),
    "burst": (next_frame, "jpg", 85),
}


def chosen(folder: Path, count: int) -> list[tuple[Path, str]]:
    """Return (path, class) of pictures at equal distances in the list, as many of each class."""
    source = sources.open_source(os.fspath(folder))
    found = []
    for label, name in enumerate(source.classes):
        own = [each.content for each in source.pictures if each.labels == (label,) and isinstance(each.content, Path)]
        each_class = count // len(source.classes)
        found += [(path, name) for path in own[:: max(1, len(own) // each_class)][:each_class]]
    return found


def write(pictures: list[tuple[Path, str]], kind: str, folder: Path) -> None:
    """Write pictures and their copies to class folders: 0001.jpg and 0001-copy.png."""
    make, ending, quality = KINDS[kind]
    rng = random.Random(0)
    for number, (path, name) in enumerate(pictures):
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
        if kind == "burst":
            cropped(upright, SHIFT, SHIFT, SHIFT, SHIFT).save(place / f"{number:04}.jpg", quality=85)
        else:
            shutil.copyfile(path, place / f"{number:04}{path.suffix}")
        # PNG has no quality, and Pillow ignores it there.
        make(upright, rng).save(place / f"{number:04}-copy.{ending}", quality=quality)


def measure(folder: Path, seeds: int, size: int) -> tuple[int, int, int]:
    """Return the numbers of pairs, of those that are found, and of those on one side, summed over the seeds."""
    spec = ImageSpec(size=(size, size))
    source = sources.open_source(os.fspath(folder))
    numbers = [Path(picture.name).stem.removesuffix("-copy") for picture in source.pictures]
    pairs = found = together = 0
    for seed in range(seeds):
        loaded = datasets.load(source, spec, seed=seed, val_fraction=None, reporter=Reporter())
        parts = {i: part for part in ("train", "val", "test") for i in getattr(loaded.split, part)}
        links = near.find(source.pictures, loaded.pixels, spec)
        linked = {(numbers[i], numbers[j]) for i, j in zip(links.first, links.second, strict=True)}
        places: dict[str, list[int]] = {}
        for i, number in enumerate(numbers):
            places.setdefault(number, []).append(i)
        for number, (one, other) in places.items():
            pairs += 1
            found += (number, number) in linked
            together += parts[one] == parts[other]
    return pairs, found, together


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=200, help="number of originals (default 200)")
    parser.add_argument("--seeds", type=int, default=3, help="number of splits (default 3)")
    parser.add_argument("--size", type=int, default=160, help="side in pixels (default 160)")
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"kinds of copies (default: {', '.join(KINDS)})")
    options = parser.parse_args()
    pictures = chosen(options.folder, options.pictures)
    print(f"{len(pictures)} pictures with a copy each, {options.size} x {options.size}, {options.seeds} seeds")
    print(f"{'copies':18}{'pairs':>7}{'found':>9}{'on one side':>13}")
    for kind in options.kinds.split(","):
        with tempfile.TemporaryDirectory(prefix="zoo-benchmark-") as temporary:
            os.environ["ZOO_CACHE"] = os.fspath(Path(temporary, "cache"))
            write(pictures, kind, Path(temporary, "pictures"))
            pairs, found, together = measure(Path(temporary, "pictures"), options.seeds, options.size)
        print(f"{kind:18}{pairs:7}{found / pairs:9.1%}{together / pairs:13.1%}", flush=True)


if __name__ == "__main__":
    main()
