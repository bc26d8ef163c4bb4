"""Test what decides pixels besides the file: 16-bit levels, the order of passes, the memory limit, HEIC."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from zoo_runtime import (
    CorruptPicture,
    ImageSpec,
    ModelInfo,
    PictureTooLarge,
    Predictor,
    UnknownSchema,
    UnsupportedPicture,
    _pixels,
    decode,
    highest_level,
)


def saved(image: Image.Image, format: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def photo(height: int, width: int) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


# 16 bits


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM", "JPEG2000"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_levels_of_n_bits_cover_all_of_8_bits(bits, format):
    highest = 2**bits - 1
    stored = np.linspace(0, highest, 256).round().astype(np.uint16).reshape(16, 16)
    data = saved(Image.fromarray(stored), format)
    spec = ImageSpec((16, 16), channels=1, levels=bits)
    expected = np.rint(stored * (255 / highest))
    np.testing.assert_array_equal(decode(data, spec, formats=["all"])[:, :, 0], expected)
    assert highest_level(data, formats=["all"]) == highest


def test_levels_above_the_bits_are_white_and_8_bits_stay():
    stored = np.array([[0, 2048, 4095, 4096, 65535]], np.uint16)
    spec = ImageSpec((1, 5), channels=1, levels=12)
    assert decode(saved(Image.fromarray(stored), "PNG"), spec).ravel().tolist() == [0, 128, 255, 255, 255]
    picture = photo(1, 5)
    np.testing.assert_array_equal(
        decode(saved(picture, "PNG"), spec), decode(picture, dataclasses.replace(spec, levels=16))
    )
    assert highest_level(saved(picture, "PNG")) is None


def test_levels_of_16_bit_colors_are_refused():
    rows = b"".join(b"\0" + struct.pack(">HH", 700, 65535) * 5 for _ in range(4))

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 5, 4, 16, 4, 0, 0, 0)
    signature = b"\x89PNG\r\n\x1a\n"
    data = signature + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert decode(data, ImageSpec((4, 5))).shape == (4, 5, 3)
    with pytest.raises(UnsupportedPicture, match=r"levels=12 .*8 bits per channel"):
        decode(data, ImageSpec((4, 5), levels=12))


@pytest.mark.parametrize("levels", [7, 17, 12.0, True, "12"])
def test_levels_that_are_not_a_number_of_bits(levels):
    with pytest.raises(ValueError, match="levels must be a number of bits, 8 to 16"):
        ImageSpec((4, 5), levels=levels)


def test_the_exported_file_carries_the_levels(graph, info):
    """Files without levels keep schema 1. An older runtime, which knows only that one, must refuse the others."""
    plain = info.to_metadata()
    assert plain["zoo.schema"] == "1" and "levels" not in plain["zoo.image"]
    assert ModelInfo.from_metadata(plain).image.levels == 16
    deep = dataclasses.replace(info, image=dataclasses.replace(info.image, levels=12)).to_metadata()
    assert deep["zoo.schema"] == "2" and ModelInfo.from_metadata(deep).image.levels == 12
    stored = Image.fromarray(np.full((24, 32), 4095, np.uint16))
    assert Predictor(graph(deep)).decode(saved(stored, "PNG")).min() == 255
    assert Predictor(graph(plain)).decode(saved(stored, "PNG")).max() == 16
    with pytest.raises(UnknownSchema, match="reads schemas 1 to 3"):
        ModelInfo.from_metadata({**plain, "zoo.schema": "4"})


# The order of passes


@pytest.mark.parametrize("version", [(11, 3), (12, 0), (13, 0), (13, 1), (14, 0)])
def test_all_versions_of_pillow_resize_in_the_same_order(version, monkeypatch):
    """What is done on other versions gives, on this one, what one call of Pillow 13.0 gives."""
    if _pixels._version() != (13, 0):
        pytest.skip("the pixels of one call are those of Pillow 13.0 only there")
    rng, orders = np.random.default_rng(0), set()
    for _ in range(120):
        height, width, rows, columns = (int(side) for side in rng.integers(3, 300, 4))
        image = photo(height, width)
        kind = ("squash", "crop", "pad")[int(rng.integers(3))]
        filter = ("bilinear", "bicubic", "lanczos")[int(rng.integers(3))]
        spec = ImageSpec((rows, columns), resize=kind, fraction=float(rng.uniform(0.3, 1)), filter=filter)
        monkeypatch.setattr(_pixels, "_version", lambda: (13, 0))
        wanted = decode(image, spec)
        monkeypatch.setattr(_pixels, "_version", lambda: version)
        if version > (13, 0) or (rows < height and height - rows > 2 * (width - columns)):
            orders.add(rows < height and height - rows > 2 * (width - columns))
            np.testing.assert_array_equal(decode(image, spec), wanted)
    assert True in orders


def test_pixels_of_every_version():
    """Digests made with Pillow 13.0. Pillow 10.4, 11.3 and 12.0 give the same."""
    digest = hashlib.sha256()
    for shape in ((300, 40), (40, 300), (90, 90), (8, 5)):
        for resize in ("squash", "crop", "pad"):
            digest.update(decode(photo(*shape), ImageSpec((48, 56), resize=resize)).tobytes())
    assert digest.hexdigest()[:16] == "e02e39d7fdc6ba5c"


# Memory


def test_a_jpeg_counts_at_the_scale_at_which_it_is_decoded():
    image = Image.new("RGB", (1600, 1200), (200, 30, 30))
    data, spec = saved(image, "JPEG"), ImageSpec((75, 100))
    assert decode(data, spec, max_pixels=200 * 150).shape == (75, 100, 3)
    with pytest.raises(PictureTooLarge, match="800 x 600 is more than 100000 pixels"):
        decode(data, ImageSpec((500, 700)), max_pixels=100_000)
    # 4:2:0 has 1.5 coefficients of 2 bytes per pixel, or 0.75 pixels of color.
    progressive = saved(image, "JPEG", progressive=True)
    needed = 200 * 150 + 1600 * 1200 * 3 // 4
    assert decode(progressive, spec, max_pixels=needed + 20_000).shape == (75, 100, 3)
    with pytest.raises(PictureTooLarge, match="progressive JPEG"):
        decode(progressive, spec, max_pixels=needed - 20_000)


def test_pictures_without_colors_count_less():
    for image, bytes_each in (
        (Image.new("L", (90, 80)), 1),
        (Image.new("1", (90, 80)), 1),
        (Image.new("I;16", (90, 80)), 2),
    ):
        data, limit = saved(image, "TIFF"), 90 * 80 * bytes_each // 4
        assert decode(data, ImageSpec((8, 8)), max_pixels=limit).shape == (8, 8, 3)
        with pytest.raises(PictureTooLarge, match="takes as much memory as"):
            decode(data, ImageSpec((8, 8)), max_pixels=limit - 1)


def test_large_pictures_are_converted_in_parts(monkeypatch):
    rng = np.random.default_rng(0)
    alpha = Image.fromarray(rng.integers(0, 256, (70, 50, 4), dtype=np.uint8))
    deep = Image.fromarray(rng.integers(0, 65536, (70, 50), dtype=np.uint16))
    palette = Image.fromarray(rng.integers(0, 256, (70, 50), dtype=np.uint8), "L")
    palette.putpalette(rng.integers(0, 256, 768, dtype=np.uint8).tobytes())
    pictures = [alpha, deep, palette, alpha.convert("CMYK"), saved(palette, "PNG", transparency=bytes(range(256)))]
    spec = ImageSpec((70, 50))
    whole = [decode(picture, spec) for picture in pictures]
    monkeypatch.setattr(_pixels, "_PART", 333)
    for picture, pixels in zip(pictures, whole, strict=True):
        np.testing.assert_array_equal(decode(picture, spec), pixels)
    assert highest_level(deep) == np.asarray(deep).max()


# HEIC


def test_heic_pictures():
    heif = pytest.importorskip("pillow_heif", reason="needs pillow-heif")
    y, x = np.mgrid[0:96, 0:128]
    picture = np.stack([x * 2, y * 2, (x + y)], -1).astype(np.uint8)
    file = heif.from_pillow(Image.fromarray(picture))
    exif = Image.Exif()
    exif[274] = 6
    file.info["exif"] = exif.tobytes()
    out = io.BytesIO()
    file.save(out, quality=95)
    data, upright = out.getvalue(), np.rot90(picture, -1)
    pixels = decode(data, ImageSpec(upright.shape[:2])).astype(int)
    assert abs(pixels - upright).mean() < 2
    for share in (100, 500, 900, 990):
        with pytest.raises(CorruptPicture):
            decode(data[: len(data) * share // 1000], ImageSpec((8, 8)))
    with pytest.raises(PictureTooLarge):
        decode(data, ImageSpec((8, 8)), max_pixels=1000)
