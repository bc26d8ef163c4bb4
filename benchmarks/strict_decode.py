"""Measures what zoo_runtime's strict decoding costs beside plain Pillow that makes the same pixels.

    python benchmarks/strict_decode.py FOLDER [--size 224] [--side 1200] [--pictures 40] [--rounds 15]

The pictures of FOLDER are saved again in memory: as baseline and as progressive JPEG of quality 90, as PNG, as lossy
WebP, and as JPEG with a restart marker in each row. --side first resizes them, so that their longer side has this many
pixels. For each kind, the two sides decode each picture in turn, and the side that begins alternates:

- strict: `zoo_runtime.decode`.
- plain: Pillow alone. It opens the file, chooses the draft size, reads the EXIF orientation, loads, resizes, and
  converts to an array. It does not notice damage.

The figure is the ratio of processor time, strict divided by plain, in each round over all pictures. The median of the
rounds is printed with an interval that holds the true median with a probability of 95 %. If this interval is wider than
6 %, the row says that the machine is too noisy to tell.
"""

from __future__ import annotations

import argparse
import io
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, features

from zoo_runtime import ImageSpec, decode

WIDEST = 0.06
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "JPEG": ("JPEG", {"quality": 90}),
    "JPEG with restart markers": ("JPEG", {"quality": 90, "restart_marker_rows": 1}),
    "progressive JPEG": ("JPEG", {"quality": 90, "progressive": True}),
    "PNG": ("PNG", {}),
    "WebP": ("WEBP", {}),
}


def plain(data: bytes, spec: ImageSpec) -> np.ndarray:
    """Return the pixels that `decode` returns for a picture that is stored upright, with Pillow alone."""
    width, height = spec.size[::-1]
    with Image.open(io.BytesIO(data)) as image:
        image.draft(image.mode, (width, height))
        assert image.getexif().get(0x0112, 1) == 1
        small = image.resize((width, height), Image.Resampling.BILINEAR, (0, 0, *image.size))
        return np.array(small.convert("RGB"))


def saved_again(path: Path, side: int | None, format: str, options: dict[str, Any]) -> bytes:
    """Return a picture as bytes of another format, without metadata.

    Args:
        path: The original picture.
        side: The longer side of the new picture in pixels. None keeps the size.
        format: The format by Pillow's name.
        options: The options of `Image.save`.
    """
    out = io.BytesIO()
    with Image.open(path) as original:
        image = original.convert("RGB")
    if side:
        scale = side / max(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    image.save(out, format, **options)
    return out.getvalue()


def compare(pictures: list[bytes], spec: ImageSpec, rounds: int) -> tuple[list[float], list[float]]:
    """Decode all pictures with both sides, round by round.

    Returns:
        The processor time of the plain side in seconds per picture, and the ratio strict / plain, for each round.
    """
    seconds, ratios = [], []
    sides: list[Callable[..., np.ndarray]] = [plain, decode]
    for number in range(rounds + 1):
        spent = {plain: 0.0, decode: 0.0}
        for index, data in enumerate(pictures):
            for side in sides if (index + number) % 2 else sides[::-1]:
                started = time.process_time()
                side(data, spec)
                spent[side] += time.process_time() - started
        if number:  # the first round only warms up
            seconds.append(spent[plain] / len(pictures))
            ratios.append(spent[decode] / spent[plain])
    return seconds, ratios


def interval(values: list[float]) -> tuple[float, float]:
    """Return two of the values, between which the true median lies with a probability of at least 95 %."""
    ordered, count = sorted(values), len(values)
    below, outside = 0, 2 / 2**count
    while below < (count - 1) // 2 and outside + 2 * math.comb(count, below + 1) / 2**count <= 0.05:
        below += 1
        outside += 2 * math.comb(count, below) / 2**count
    return ordered[below], ordered[count - 1 - below]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=224, help="side of the pixels in pixels (default 224)")
    parser.add_argument("--side", type=int, help="longer side of the pictures in pixels (default: as they are)")
    parser.add_argument("--pictures", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=15, help="at least 6 (default 15)")
    parser.add_argument("--kind", choices=KINDS, action="append", help="default: all")
    options = parser.parse_args()
    spec = ImageSpec((options.size, options.size))
    found = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    paths = found[:: max(1, len(found) // options.pictures)][: options.pictures]
    if not paths or options.rounds < 6:
        parser.error("--rounds is below 6" if paths else f"no .jpg or .png in {options.folder}")

    size = f"longer side {options.side}" if options.side else "sizes as they are"
    jpeg = f"libjpeg-turbo {features.version('libjpeg_turbo')}"
    print(f"{len(paths)} pictures, {size}, to {options.size} x {options.size}, {options.rounds} rounds, {jpeg}")
    print(f"{'kind':28}{'plain, ms':>10}{'strict/plain':>14}{'95 % interval':>18}")
    for kind in options.kind or KINDS:
        pictures = [saved_again(path, options.side, *KINDS[kind]) for path in paths]
        for data in pictures:
            assert np.array_equal(plain(data, spec), decode(data, spec)), f"{kind}: the sides make different pixels"
        seconds, ratios = compare(pictures, spec, options.rounds)
        low, high = interval(ratios)
        noisy = "  too noisy to tell" if high - low > WIDEST else ""
        milliseconds, middle = 1000 * statistics.median(seconds), statistics.median(ratios)
        print(f"{kind:28}{milliseconds:10.2f}{middle:14.3f}{f'{low:.3f} .. {high:.3f}':>18}{noisy}")


if __name__ == "__main__":
    main()
