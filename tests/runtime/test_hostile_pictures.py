"""Test that damaged and forged pictures give pixels or an error, soon, and never pixels that the file does not have."""

from __future__ import annotations

import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo_runtime import CorruptPicture, ImageSpec, PictureError, PictureTooLarge, UnsupportedPicture, decode

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

from bombs import BOMBS  # noqa: E402
from mutations import HEIGHT, WIDTH, mutation, photo, saved, seeds  # noqa: E402

SPEC = ImageSpec((HEIGHT, WIDTH))
REFUSED = (CorruptPicture, PictureTooLarge, UnsupportedPicture)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_300_damaged_pictures():
    files = seeds()
    whole = {data: decode(data, SPEC, formats=["all"]) for _, _, data in files}
    read, started = 0, time.process_time()
    for number in range(300):
        _, first, changed = mutation(number, 7, files)
        try:
            pixels = decode(changed.data, SPEC, formats=["all"])
        except PictureError:
            continue
        read += 1
        if changed.must_be_whole:
            np.testing.assert_array_equal(pixels, whole[first], f"{number}: {changed.kind}")
    assert 60 < read < 240
    assert time.process_time() - started < 20


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is measured through /proc")
def test_10_000_damaged_pictures_and_the_bombs():
    command = [sys.executable, str(BENCHMARKS / "hostile_pictures.py"), "--no-table", "--seed", "3"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert ran.returncode == 0, ran.stdout + ran.stderr[-3000:]


READ = {"AVIF: 16 megapixels that claim to be 64 x 64"}


@pytest.mark.parametrize("name", [name for name in BOMBS if "9,400" not in name])
def test_small_files_do_not_take_minutes(name):
    data, started = BOMBS[name](), time.process_time()
    try:
        decode(data, SPEC, formats=["all"])
        refused = False
    except REFUSED:
        refused = True
    # Bounds are ten times what a slow machine needs, and a tenth of what the file took without them.
    assert time.process_time() - started < 5
    assert refused or name in READ


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BOMBS if "9,400" in name])
def test_pictures_that_take_more_than_500_mb_need_a_larger_limit(name):
    with pytest.raises(PictureTooLarge, match=r"max_pixels=\d+_\d+_\d+ reads it"):
        decode(BOMBS[name](), SPEC, formats=["all"])


# Headers that promise more rows than the file has


def taller_png(image: Image.Image) -> bytes:
    data = bytearray(saved(image, "PNG"))
    data[20:24] = struct.pack(">I", 2 * image.height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


def with_tags(tiff: bytes, changes: dict[int, int]) -> bytes:
    data = bytearray(tiff)
    place = int.from_bytes(data[4:8], "little")
    for entry in range(place + 2, place + 2 + 12 * int.from_bytes(data[place : place + 2], "little"), 12):
        tag = int.from_bytes(data[entry : entry + 2], "little")
        if tag in changes:
            data[entry + 8 : entry + 12] = struct.pack("<I", changes[tag])
    return bytes(data)


def taller_jpeg2000(in_tiles: bool) -> bytes:
    options = {"tile_size": (32, 32)} if in_tiles else {}
    data = bytearray(saved(photo(), "JPEG2000", no_jp2=True, **options))
    place = data.index(b"\xff\x51") + 8
    data[place + 4 : place + 8] = struct.pack(">I", 2 * HEIGHT)
    return bytes(data)


TALLER = {
    "png": lambda: taller_png(photo()),
    "png of a palette": lambda: taller_png(photo().quantize(16)),
    "png of 16 bits": lambda: taller_png(Image.fromarray(np.full((HEIGHT, WIDTH), 999, np.uint16))),
    "tiff": lambda: with_tags(saved(photo(), "TIFF"), {257: 2 * HEIGHT}),
    "tiff in one strip": lambda: with_tags(saved(photo(), "TIFF"), {257: 2 * HEIGHT, 278: 2 * HEIGHT}),
    "tiff of a jpeg": lambda: with_tags(saved(photo(), "TIFF", compression="jpeg"), {257: 96, 278: 96}),
    "tiff without a place": lambda: with_tags(saved(photo(), "TIFF"), {273: 0}),
    "bmp": lambda: saved(photo(), "BMP")[:22] + struct.pack("<i", 2 * HEIGHT) + saved(photo(), "BMP")[26:],
    "ppm": lambda: saved(photo(), "PPM").replace(b"64 48", b"64 96"),
    "jpeg 2000": lambda: taller_jpeg2000(False),
    "jpeg 2000 in tiles": lambda: taller_jpeg2000(True),
}


@pytest.mark.parametrize("name", TALLER)
def test_rows_that_are_not_there_are_not_made_up(name):
    with pytest.raises(CorruptPicture):
        decode(TALLER[name](), SPEC, formats=["all"])


@pytest.mark.parametrize("interlaced", [False, True])
def test_a_png_that_ends_in_black_rows_is_read(interlaced):
    """Only then are the rows counted, because Pillow leaves missing rows black."""
    pixels = np.array(photo())
    pixels[-5:] = 0
    image = Image.fromarray(pixels)
    data = {(format, name): file for format, name, file in seeds()}[("PNG", "interlaced")]
    if interlaced:
        np.testing.assert_array_equal(decode(data, SPEC), np.asarray(photo()))
        return
    for each in (image, image.convert("L"), image.convert("1"), image.quantize(16), image.convert("RGBA")):
        saved_as = saved(each, "PNG")
        np.testing.assert_array_equal(decode(saved_as, SPEC), decode(each, SPEC))
        with pytest.raises(CorruptPicture, match="end before"):
            decode(taller_png(each), SPEC)


def test_a_file_of_pillow_that_needs_another_program_is_not_read(tmp_path):
    path = tmp_path / "drawing.eps"
    photo().save(path)
    with Image.open(path) as image, pytest.raises(UnsupportedPicture, match="another program"):
        decode(image, SPEC)
