"""Test `decode`: equal pixels from every kind of source, defined pixels for every format, errors for the rest.

The expected pixels come from numpy and from files put together here byte by byte, not from the decoder.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from zoo_runtime import (
    MAX_PIXELS,
    CorruptPicture,
    ImageSpec,
    NotAPicture,
    PictureError,
    PictureNotFound,
    PictureTooLarge,
    UnsupportedPicture,
)
from zoo_runtime import decode as decode_common


def decode(source, spec, **options):
    """Decode a picture of any format, also of those that are read only if they are asked for."""
    return decode_common(source, spec, **{"formats": ["all"], **options})


def photo(height: int = 61, width: int = 83) -> np.ndarray:
    """Make a picture with slopes, texture and no symmetry: uint8 (height, width, 3)."""
    y, x = np.mgrid[0:height, 0:width]
    blue = np.random.default_rng(0).integers(0, 255, (height, width))
    return np.stack([x * 3 % 256, y * 4 % 256, blue], -1).astype(np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    """Make a picture that survives JPEG with little loss: uint8 (height, width, 3)."""
    y, x = np.mgrid[0:height, 0:width] / 1.0
    red = 128 + 90 * np.sin(x / 31) * np.cos(y / 47)
    return np.stack([red, 255 * x / width, 255 * y / height], -1).astype(np.uint8)


def saved(picture: np.ndarray | Image.Image, format: str, **options) -> bytes:
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def same_size(picture: np.ndarray, **options) -> ImageSpec:
    return ImageSpec(picture.shape[:2], **options)


def levels_apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    assert one.shape == other.shape
    return abs(one.astype(int) - other.astype(int))


def png(samples: np.ndarray, depth: int, colour: int, **chunks: bytes) -> bytes:
    """Write a PNG from samples (height, width, channels) of `depth` bits. Pillow cannot write every depth."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, _ = samples.shape
    rows = samples.reshape(height, -1).astype(int)
    bits = (rows[:, :, None] >> np.arange(depth - 1, -1, -1)) & 1
    packed = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    data = b"".join(b"\0" + row.tobytes() for row in packed)
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))]
    parts += [chunk(kind.encode(), body) for kind, body in chunks.items()]
    parts += [chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


# Sources


class Unseekable(io.RawIOBase):
    """A stream that cannot seek, such as a socket or an HTTP response."""

    def __init__(self, data: bytes):
        self._data = io.BytesIO(data)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self._data.readinto(buffer)


class OnlyRead:
    """The smallest object that counts as a file: it has `read` and nothing else."""

    def __init__(self, data: bytes):
        self.read = io.BytesIO(data).read


def standing_at_the_picture(data: bytes) -> io.BytesIO:
    stream = io.BytesIO(b"a header of the container" + data)
    stream.seek(25)
    return stream


SOURCES = {
    "str": lambda path, data: str(path),
    "path": lambda path, data: path,
    "bytes": lambda path, data: data,
    "bytearray": lambda path, data: bytearray(data),
    "memoryview": lambda path, data: memoryview(data),
    "file": lambda path, data: open(path, "rb"),  # noqa: SIM115
    "stream": lambda path, data: io.BytesIO(data),
    "stream in the middle": lambda path, data: standing_at_the_picture(data),
    "unseekable": lambda path, data: Unseekable(data),
    "only read": lambda path, data: OnlyRead(data),
    "lazy image": lambda path, data: Image.open(path),
    "loaded image": lambda path, data: Image.open(io.BytesIO(data)).convert("RGB"),
    "array": lambda path, data: np.array(Image.open(path)),
}


@pytest.mark.parametrize("format", ["PNG", "BMP", "JPEG", "TIFF"])
@pytest.mark.parametrize("kind", SOURCES)
def test_every_kind_of_source_gives_equal_pixels(tmp_path, kind, format):
    picture = photo()
    data = saved(picture, format)
    path = tmp_path / "picture"
    path.write_bytes(data)
    source = SOURCES[kind](path, data)
    wanted = np.array(Image.open(path)) if format == "JPEG" else picture
    np.testing.assert_array_equal(decode(source, same_size(picture)), wanted)
    # A Pillow image or an array is not decoded at a smaller scale, as a JPEG file is.
    scaled = format == "JPEG" and kind in ("lazy image", "loaded image", "array")
    for size, channels in (((90, 70), 1),) if scaled else (((90, 70), 1), ((20, 30), 3)):
        spec = ImageSpec(size, channels=channels)
        again = decode(SOURCES[kind](path, data), spec)
        np.testing.assert_array_equal(again, decode(data, spec))
        assert again.shape == (*size, channels) and again.dtype == np.uint8
    if hasattr(source, "closed"):
        assert not source.closed, "the caller's file is the caller's to close"
        source.close()


def test_a_pipe(tmp_path):
    picture = photo(10, 12)
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as end:
        end.write(saved(picture, "PNG"))
    with os.fdopen(reading, "rb") as stream:
        np.testing.assert_array_equal(decode(stream, same_size(picture)), picture)


def test_a_name_that_is_not_utf_8(tmp_path):
    picture = photo(10, 12)
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    try:
        with open(name, "wb") as stream:
            stream.write(saved(picture, "PNG"))
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    np.testing.assert_array_equal(decode(os.fsdecode(name), same_size(picture)), picture)
    with pytest.raises(PictureNotFound) as caught:
        decode(os.fsdecode(name) + "x", same_size(picture))
    assert str(caught.value).encode("utf-8"), "the message can be printed"


@pytest.mark.parametrize(
    "shape, expected",
    [
        ((), lambda grey: np.repeat(grey[:, :, None], 3, 2)),
        ((1,), lambda grey: np.repeat(grey, 3, 2)),
        ((3,), lambda colours: colours),
        ((4,), lambda rgba: over_white(rgba[..., :3], rgba[..., 3:])),
    ],
)
def test_arrays_of_each_shape(shape, expected):
    array = np.random.default_rng(0).integers(0, 256, (17, 23, *shape), dtype=np.uint8)
    array.setflags(write=False)
    pixels = decode(array, same_size(array))
    assert levels_apart(pixels, expected(array)).max() <= (1 if shape == (4,) else 0)
    strided = np.repeat(np.repeat(array, 2, 0), 2, 1)[::2, ::2]
    np.testing.assert_array_equal(decode(strided, same_size(array)), pixels)
    np.testing.assert_array_equal(decode(np.asfortranarray(array), same_size(array)), pixels)


@pytest.mark.parametrize("shape", [(3,), (4, 5, 2), (4, 5, 5), (2, 4, 5, 3), (0, 5, 3), (4, 0)])
def test_arrays_of_other_shapes_are_refused(shape):
    with pytest.raises(UnsupportedPicture) as caught:
        decode(np.zeros(shape, np.uint8), ImageSpec((4, 5)))
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint16, bool])
def test_arrays_of_other_numbers_are_refused(dtype):
    with pytest.raises(UnsupportedPicture, match=np.dtype(dtype).name):
        decode(np.zeros((4, 5, 3), dtype), ImageSpec((4, 5)))


@pytest.mark.parametrize("source", [3, None, object(), [1, 2], io.StringIO("text")])
def test_no_source_at_all(source):
    with pytest.raises(UnsupportedPicture):
        decode(source, ImageSpec((4, 5)))


@pytest.mark.parametrize("spec", [ImageSpec((12, 10)), ImageSpec((12, 10), channels=1), ImageSpec((7, 9))])
def test_the_pixels_are_the_callers(spec):
    picture = photo(12, 10)
    pixels = decode(picture, spec)
    pixels[:] = 0
    assert decode(picture, spec).any() and picture.any()


# Orientation


def turned(stored: np.ndarray, orientation: int) -> np.ndarray:
    """Turn a stored picture upright with numpy, by the EXIF standard's table (tag 274)."""
    return {
        1: lambda: stored,
        2: lambda: stored[:, ::-1],
        3: lambda: stored[::-1, ::-1],
        4: lambda: stored[::-1],
        5: lambda: stored.transpose(1, 0, 2),
        6: lambda: np.rot90(stored, -1),
        7: lambda: stored[::-1, ::-1].transpose(1, 0, 2),
        8: lambda: np.rot90(stored),
    }[orientation]()


def lying(upright: np.ndarray, orientation: int) -> np.ndarray:
    """Return the picture to store for this orientation: the inverse of `turned`, found by trial."""
    for inverse in range(1, 9):
        stored = turned(upright, inverse)
        if turned(stored, orientation).shape == upright.shape and (turned(stored, orientation) == upright).all():
            return np.ascontiguousarray(stored)
    raise AssertionError(orientation)


def tagged(upright: np.ndarray, orientation: int, format: str, **options) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    return saved(lying(upright, orientation), format, exif=exif, **options)


SPECS = {
    "squash": ImageSpec((30, 44)),
    "crop": ImageSpec((30, 44), resize="crop"),
    "pad": ImageSpec((30, 45), resize="pad"),
    "same": ImageSpec((61, 83)),
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format, options", [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
def test_lossless_pictures_are_turned_upright(format, options, orientation, spec):
    upright = photo()
    data = tagged(upright, orientation, format, **options)
    pixels = decode(data, spec)
    # Resizing before turning may round differently.
    assert levels_apart(pixels, decode(upright, spec)).max() <= (0 if spec is SPECS["same"] else 1)
    np.testing.assert_array_equal(decode(Image.open(io.BytesIO(data)), spec), pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("spec", [*SPECS.values(), ImageSpec((20, 28), resize="crop"), ImageSpec((16, 99))])
def test_jpegs_are_turned_upright(orientation, spec):
    upright = smooth(240, 336)
    pixels = decode(tagged(upright, orientation, "JPEG", quality=95, subsampling=0), spec)
    assert levels_apart(pixels, decode(upright, spec)).mean() < 1.5


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_without_meaning_is_none(value):
    picture = photo()
    exif = Image.Exif()
    exif[274] = value
    for data in (saved(picture, "PNG", exif=exif.tobytes()), saved(picture, "PNG", exif=b"Exif\0\0broken")):
        np.testing.assert_array_equal(decode(data, same_size(picture)), picture)


# Modes


def over_white(levels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.rint(255 - (255.0 - levels) * alpha / 255)


@pytest.mark.parametrize("format", ["PNG", "GIF", "BMP", "TIFF", "TGA"])
def test_palette(format):
    indexes = np.random.default_rng(0).integers(0, 256, (19, 21), dtype=np.uint8)
    palette = np.random.default_rng(1).integers(0, 256, (256, 3), dtype=np.uint8)
    image = Image.fromarray(indexes, "L")
    image.putpalette(palette.tobytes())
    np.testing.assert_array_equal(decode(saved(image, format), same_size(indexes)), palette[indexes])


def test_palette_with_alpha():
    indexes = np.arange(256, dtype=np.uint8).reshape(16, 16)
    palette = np.random.default_rng(1).integers(0, 256, (256, 3), dtype=np.uint8)
    alpha = np.random.default_rng(2).integers(0, 256, 200, dtype=np.uint8)
    data = png(indexes[:, :, None], 8, 3, PLTE=palette.tobytes(), tRNS=alpha.tobytes())
    full = np.append(alpha, np.full(56, 255))
    expected = over_white(palette[indexes], full[indexes][:, :, None])
    assert levels_apart(decode(data, same_size(indexes)), expected).max() <= 1


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "JPEG2000"])
def test_grey(format):
    grey = photo()[:, :, 2]
    data = saved(grey, format)
    np.testing.assert_array_equal(decode(data, same_size(grey)), np.repeat(grey[:, :, None], 3, 2))
    np.testing.assert_array_equal(decode(data, same_size(grey, channels=1)), grey[:, :, None])


@pytest.mark.parametrize("channels", [2, 4], ids=["LA", "RGBA"])
@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_alpha_is_laid_over_white(channels, format):
    if (channels, format) == (2, "WEBP"):
        pytest.skip("WebP has no grey")
    stored = np.random.default_rng(0).integers(0, 256, (19, 21, channels), dtype=np.uint8)
    stored[:4, :, -1], stored[4:8, :, -1] = 0, 255
    data = saved(stored, format, **({"lossless": True, "exact": True} if format == "WEBP" else {}))
    expected = np.broadcast_to(over_white(stored[..., :-1], stored[..., -1:]), (19, 21, 3))
    pixels = decode(data, same_size(stored))
    assert levels_apart(pixels, expected).max() <= 1
    assert (pixels[:4] == 255).all()


@pytest.mark.parametrize("colour, depth", [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16)])
def test_a_transparent_level_or_colour_is_laid_over_white(colour, depth):
    """PNG's tRNS has the bit depth of the file, while Pillow converts the pixels to 8 bits."""
    channels = 1 if colour == 0 else 3
    samples = np.random.default_rng(depth).integers(0, 1 << depth, (8, 9, channels))
    key = samples[3, 4]
    samples[5:7, 2:5] = key
    data = png(samples, depth, colour, tRNS=struct.pack(f">{channels}H", *key))
    if depth == 16:
        levels = samples >> 8 if colour == 2 else np.rint(samples / 257)
    else:
        levels = samples * (255 // ((1 << depth) - 1))
    expected = np.where((samples == key).all(-1, keepdims=True), 255, levels)
    np.testing.assert_array_equal(decode(data, ImageSpec((8, 9))), np.broadcast_to(expected, (8, 9, 3)))
    np.testing.assert_array_equal(
        decode(Image.open(io.BytesIO(data)), ImageSpec((8, 9))), decode(data, ImageSpec((8, 9)))
    )


def test_cmyk():
    inks = np.random.default_rng(0).integers(0, 256, (16, 24, 4), dtype=np.uint8)
    data = saved(Image.fromarray(inks, "CMYK"), "TIFF")
    expected = (255.0 - inks[..., :3]) * (255.0 - inks[..., 3:]) / 255
    assert levels_apart(decode(data, same_size(inks)), np.rint(expected)).max() <= 1


def test_cmyk_jpeg():
    picture = smooth(64, 80)
    data = saved(Image.fromarray(picture).convert("CMYK"), "JPEG", quality=98)
    assert levels_apart(decode(data, same_size(picture)), picture).mean() < 2


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_16_bit_grey(format):
    levels = np.random.default_rng(0).permutation(256).astype(np.uint16).reshape(16, 16)
    for offset in (-128, -1, 0, 1, 128):
        stored = np.clip(levels.astype(int) * 257 + offset, 0, 65535).astype(np.uint16)
        pixels = decode(saved(stored, format), ImageSpec((16, 16), channels=1))
        np.testing.assert_array_equal(pixels[:, :, 0], levels)


def test_16_bit_big_endian_tiff():
    stored = np.arange(256, dtype=">u2").reshape(16, 16) * 257
    data = saved(Image.frombytes("I;16B", (16, 16), stored.astype(">u2").tobytes()), "TIFF")
    np.testing.assert_array_equal(decode(data, ImageSpec((16, 16), channels=1)).ravel(), np.arange(256))


def test_16_bit_colour_keeps_its_high_byte():
    samples = np.random.default_rng(0).integers(0, 65536, (8, 9, 3))
    np.testing.assert_array_equal(decode(png(samples, 16, 2), ImageSpec((8, 9))), samples >> 8)


def test_32_bit_integers_are_clipped_to_16():
    stored = np.array([[-5, 0, 128, 129, 257, 65535, 65536, 2**31 - 1]], np.int32)
    pixels = decode(saved(stored, "TIFF"), ImageSpec((1, 8), channels=1))
    assert pixels.ravel().tolist() == [0, 0, 0, 1, 1, 255, 255, 255]


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM", "BMP", "GIF"])
def test_1_bit(format):
    bits = photo()[:, :, 2] > 100
    pixels = decode(saved(Image.fromarray(bits), format), same_size(bits))
    np.testing.assert_array_equal(pixels, np.repeat(bits[:, :, None] * np.uint8(255), 3, 2))


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_an_animation(format):
    first, second = np.full((20, 30, 3), (250, 10, 10), np.uint8), np.full((20, 30, 3), (10, 10, 250), np.uint8)
    options = {"lossless": True} if format == "WEBP" else {}
    data = saved(first, format, save_all=True, append_images=[Image.fromarray(second)], **options)
    with Image.open(io.BytesIO(data)) as image:
        assert image.n_frames == 2
    np.testing.assert_array_equal(decode(data, same_size(first)), first)


@pytest.mark.parametrize("mode", ["F", "LAB"])
def test_pixels_without_a_range_are_refused(mode):
    image = Image.new(mode, (8, 6))
    for source in (saved(image, "TIFF"), image):
        with pytest.raises(UnsupportedPicture, match=mode):
            decode(source, ImageSpec((6, 8)))


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "I"]
)
def test_every_mode_of_a_pillow_image(mode):
    # 255 is opaque where there is an alpha channel.
    image = Image.new(mode, (8, 6), (255,) * len(Image.new(mode, (1, 1)).getbands()) if len(mode) > 1 else 1)
    assert decode(image, ImageSpec((5, 4))).shape == (5, 4, 3)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "RGBa", "La"])
def test_a_picture_that_is_transparent_everywhere_is_refused(mode):
    image = Image.new(mode, (8, 6), (90,) * (len(mode) - 1) + (0,))
    with pytest.raises(UnsupportedPicture, match="every pixel is transparent"):
        decode(image, ImageSpec((6, 8)))
    if mode in ("LA", "RGBA"):
        for format in ("PNG", "TIFF"):
            with pytest.raises(UnsupportedPicture, match="every pixel is transparent"):
                decode(saved(image, format), ImageSpec((6, 8)))
        image.putpixel((3, 3), (90,) * (len(mode) - 1) + (1,))
        assert decode(saved(image, "PNG"), ImageSpec((6, 8))).min() >= 254


def test_a_filler_in_the_fourth_channel_gets_the_advice_to_leave_it_out():
    picture = photo()
    frame = np.dstack([picture, np.zeros(picture.shape[:2], np.uint8)])
    with pytest.raises(UnsupportedPicture, match=r"fourth channel is 0 everywhere.*pass array\[:, :, :3\]"):
        decode(frame, same_size(picture))
    np.testing.assert_array_equal(decode(frame[:, :, :3], same_size(picture)), picture)


def test_one_channel_is_the_luma_of_the_colours():
    picture = photo()
    expected = np.rint(picture @ np.array([0.299, 0.587, 0.114]))[:, :, None]
    assert levels_apart(decode(picture, same_size(picture, channels=1)), expected).max() <= 1


# Geometry


def test_squash_keeps_the_whole_picture():
    """An even slope stays an even slope, except at the edges."""
    ramp = np.repeat(np.arange(0, 256, 2, dtype=np.uint8)[None, :], 60, 0)
    pixels = decode(ramp, ImageSpec((20, 32), channels=1))[:, :, 0]
    expected = 2 * ((np.arange(32) + 0.5) * 4 - 0.5)
    assert abs(pixels[:, 2:-2] - expected[2:-2]).max() <= 1
    pixels = decode(np.ascontiguousarray(ramp.T), ImageSpec((32, 20), channels=1))[:, :, 0]
    assert abs(pixels[2:-2] - expected[2:-2, None]).max() <= 1


def test_shrinking_averages_and_does_not_skip():
    """Stripes of one pixel become even grey. Without antialiasing they would become black or white."""
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    for filter in ("bilinear", "bicubic", "lanczos"):
        pixels = decode(stripes, ImageSpec((8, 8), channels=1, filter=filter))
        assert abs(pixels.astype(int) - 127.5).max() < 12, filter


def test_the_filters_are_pillows():
    picture, names = photo(), ("bilinear", "bicubic", "lanczos")
    pixels = [decode(picture, ImageSpec((30, 40), filter=name)) for name in names]
    for name, got in zip(names, pixels, strict=True):
        wanted = Image.fromarray(picture).resize((40, 30), Image.Resampling[name.upper()])
        np.testing.assert_array_equal(got, np.asarray(wanted))
    assert (pixels[0] != pixels[1]).any() and (pixels[1] != pixels[2]).any()


@pytest.mark.parametrize(
    "shape, size, fraction, box",
    [
        ((64, 128), (64, 64), 1.0, (0, 32, 64, 96)),
        ((128, 64), (64, 64), 1.0, (32, 0, 96, 64)),
        ((64, 128), (32, 32), 0.5, (16, 48, 48, 80)),
        ((256, 320), (224, 224), 0.875, (16, 48, 240, 272)),
        ((100, 100), (50, 80), 0.8, (25, 10, 75, 90)),
        ((80, 200), (40, 20), 0.5, (20, 90, 60, 110)),
    ],
)
def test_crop_takes_the_centre(shape, size, fraction, box):
    """At these sizes nothing is resized, so the pixels equal those of the picture."""
    picture = photo(*shape)
    top, left, bottom, right = box
    pixels = decode(picture, ImageSpec(size, resize="crop", fraction=fraction))
    np.testing.assert_array_equal(pixels, picture[top:bottom, left:right])


def test_crop_keeps_the_aspect():
    """A disc stays a disc, of the size that follows from fraction and size."""
    y, x = np.mgrid[0:300, 0:500]
    disc = (np.hypot(y - 149.5, x - 249.5) < 100).astype(np.uint8) * 255
    pixels = decode(disc, ImageSpec((70, 70), channels=1, resize="crop", fraction=0.875))[:, :, 0] > 127
    assert abs(pixels.any(0).sum() - 200 * 80 / 300) <= 1
    assert abs(pixels.any(1).sum() - 200 * 80 / 300) <= 1


@pytest.mark.parametrize(
    "shape, size, box",
    [
        ((32, 64), (64, 64), (16, 0, 48, 64)),
        ((64, 32), (64, 64), (0, 16, 64, 48)),
        ((30, 40), (30, 61), (0, 10, 30, 50)),
        ((30, 40), (35, 40), (2, 0, 32, 40)),
    ],
)
def test_pad_keeps_the_whole_picture_on_black(shape, size, box):
    picture = np.maximum(photo(*shape), 1)
    top, left, bottom, right = box
    pixels = decode(picture, ImageSpec(size, resize="pad"))
    np.testing.assert_array_equal(pixels[top:bottom, left:right], picture)
    outside = np.ones(size, bool)
    outside[top:bottom, left:right] = False
    assert not pixels[outside].any()


def test_pad_enlarges_and_shrinks():
    white = np.full((10, 20), 255, np.uint8)
    for size, box in (((64, 64), (16, 0, 48, 64)), ((8, 8), (2, 0, 6, 8))):
        pixels = decode(white, ImageSpec(size, channels=1, resize="pad"))[:, :, 0]
        assert (pixels[box[0] : box[2], box[1] : box[3]] == 255).all() and pixels.sum() == 255 * size[0] * size[1] // 2


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (3, 2), (2, 1000)])
def test_the_thinnest_pictures(shape, resize):
    picture = np.full((*shape, 3), 200, np.uint8)
    for source in (picture, saved(picture, "PNG"), saved(picture, "JPEG", quality=95)):
        pixels = decode(source, ImageSpec((24, 32), resize=resize))
        assert pixels.shape == (24, 32, 3)
        assert abs(int(pixels.max()) - 200) <= 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": (24,)},
        {"size": (24, 0)},
        {"size": (24, 32.0)},
        {"size": (24, True)},
        {"size": (24, 16385)},
        {"size": (24, 32), "channels": 4},
        {"size": (24, 32), "resize": "stretch"},
        {"size": (24, 32), "filter": "nearest"},
        {"size": (24, 32), "fraction": 0},
        {"size": (24, 32), "fraction": 1.01},
        {"size": (24, 32), "fraction": float("nan")},
        {"size": (24, 32), "fraction": True},
    ],
    ids=str,
)
def test_a_spec_says_what_it_received(wrong):
    with pytest.raises(ValueError, match="Received: "):
        ImageSpec(**wrong)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"resize": "stretch"}, "resize must be squash, crop or pad. Received: 'stretch'."),
        ({"channels": 4}, "channels must be 1 or 3. Received: 4."),
        ({"fraction": 0}, "fraction must be above 0 and at most 1. Received: 0."),
    ],
)
def test_a_spec_says_once_what_is_allowed(wrong, message):
    with pytest.raises(ValueError) as caught:
        ImageSpec((24, 32), **wrong)
    assert str(caught.value) == message


# JPEG's draft


@pytest.mark.parametrize(
    "spec", [ImageSpec((96, 128)), ImageSpec((96, 96), resize="crop"), ImageSpec((96, 96), resize="pad")]
)
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_a_large_jpeg_is_decoded_small_and_alike(spec, options):
    data = saved(smooth(1200, 1600), "JPEG", quality=92, **options)
    whole = decode(np.array(Image.open(io.BytesIO(data))), spec)
    apart = levels_apart(decode(data, spec), whole)
    assert apart.mean() < 0.7 and apart.max() <= 8
    assert apart.any(), "the draft was used"


@pytest.mark.parametrize("size", [(150, 200), (140, 199), (76, 101), (75, 100), (300, 100)])
def test_a_draft_is_never_smaller_than_what_is_wanted(size):
    """Detail of the target size must survive: stripes that just fit would lose contrast at half the size."""
    columns = np.arange(400) // (400 // size[1] * 2) % 2 * 200
    picture = np.repeat(columns[None, :].astype(np.uint8), 300, 0)
    spec = ImageSpec(size, channels=1)
    pixels = decode(saved(picture, "JPEG", quality=98), spec)
    assert pixels.std() > 0.95 * decode(picture, spec).std()


# Truncated and damaged files


def _animated(format: str, **options) -> bytes:
    return saved(photo(), format, save_all=True, append_images=[Image.fromarray(photo()[::-1])], **options)


FILES = {
    "jpeg": lambda: saved(photo(), "JPEG"),
    "jpeg-444": lambda: saved(photo(), "JPEG", subsampling=0, optimize=True),
    "jpeg-grey": lambda: saved(photo()[:, :, 2], "JPEG"),
    "jpeg-cmyk": lambda: saved(Image.fromarray(photo()).convert("CMYK"), "JPEG"),
    "jpeg-restarts": lambda: saved(photo(), "JPEG", restart_marker_blocks=3),
    "jpeg-progressive": lambda: saved(photo(), "JPEG", progressive=True),
    "png": lambda: saved(photo(), "PNG"),
    "png-palette": lambda: saved(Image.fromarray(photo()).convert("P"), "PNG"),
    "png-animated": lambda: _animated("PNG"),
    "webp": lambda: saved(photo(), "WEBP"),
    "webp-lossless": lambda: saved(photo(), "WEBP", lossless=True),
    "webp-animated": lambda: _animated("WEBP"),
    "gif": lambda: saved(photo(), "GIF"),
    "gif-animated": lambda: _animated("GIF"),
    "bmp": lambda: saved(photo(), "BMP"),
    "bmp-palette": lambda: saved(Image.fromarray(photo()).convert("P"), "BMP"),
    "tiff": lambda: saved(photo(), "TIFF"),
    "tiff-lzw": lambda: saved(photo(), "TIFF", compression="tiff_lzw"),
    "tiff-deflate": lambda: saved(photo(), "TIFF", compression="tiff_deflate"),
    "tiff-jpeg": lambda: saved(photo(), "TIFF", compression="jpeg"),
    "tiff-fax": lambda: saved(Image.fromarray(photo()).convert("1"), "TIFF", compression="group4"),
    "ppm": lambda: saved(photo(), "PPM"),
    "pgm-16": lambda: saved(photo()[:, :, 2].astype(np.uint16) * 257, "PPM"),
    "ico": lambda: saved(photo(), "ICO", sizes=[(64, 47)]),
    "tga": lambda: saved(photo(), "TGA", compression="tga_rle"),
    "jpeg2000": lambda: saved(photo(), "JPEG2000"),
    "avif": lambda: saved(photo(), "AVIF"),
}


def cuts(data: bytes) -> list[int]:
    """Return where to cut: about 25 places spread over the file, and each of the last 12."""
    return sorted({*range(1, len(data), max(1, len(data) // 25)), *range(max(1, len(data) - 12), len(data))})


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_an_error_or_whole(name):
    if name == "avif" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    data, spec = FILES[name](), ImageSpec((61, 83))
    whole = decode(data, spec)
    refused = 0
    for end in cuts(data):
        try:
            pixels = decode(data[:end], spec)
        except (CorruptPicture, NotAPicture):
            refused += 1
        else:
            assert (pixels == whole).all(), f"other pixels from {end} of {len(data)} bytes"
    assert refused >= 10


@pytest.mark.parametrize("level", [0, 127, 128, 129, 255])
@pytest.mark.parametrize("after", [b"", b"\0" * 40, b"a video\xff\xd8\xff\xd9 follows"])
def test_a_whole_jpeg_that_ends_in_one_colour_is_taken(level, after):
    """The search for made-up grey must not mistake real grey for it."""
    picture = photo()
    picture[40:, 40:] = level
    for options in ({}, {"restart_marker_blocks": 1}, {"subsampling": 0}):
        data = saved(picture, "JPEG", **options) + after
        wanted = np.array(Image.open(io.BytesIO(data)))
        np.testing.assert_array_equal(decode(data, same_size(picture)), wanted)


def test_garbage_in_the_middle_never_escapes_as_another_error():
    rng = np.random.default_rng(0)
    decoded, refused = 0, 0
    for name in ("jpeg", "png", "webp", "gif", "bmp", "tiff-lzw", "tiff-jpeg", "ppm", "ico", "tga", "jpeg2000"):
        data = FILES[name]()
        for _ in range(15):
            broken = bytearray(data)
            for place in rng.integers(0, len(data), 6):
                broken[place] = rng.integers(0, 256)
            try:
                pixels = decode(bytes(broken), ImageSpec((20, 30)), max_pixels=1_000_000)
            except PictureError:
                refused += 1
                continue
            decoded += 1
            assert pixels.shape == (20, 30, 3)
    # Both outcomes must occur, or this test shows nothing.
    assert decoded >= 20 and refused >= 20, (decoded, refused)


def _without(data: bytes, kind: bytes) -> bytes:
    start = data.index(kind) - 4
    return data[:start] + data[start + 12 + int.from_bytes(data[start : start + 4], "big") :]


@pytest.mark.parametrize(
    "damage",
    {
        "signature": lambda data: data.replace(b"\x89PNG", b"\x89PNQ"),
        "line ends": lambda data: data.replace(b"\r\n", b"\n"),
        "header checksum": lambda data: data[:30] + bytes([data[30] ^ 1]) + data[31:],
        "no header": lambda data: _without(data, b"IHDR"),
        "no data": lambda data: _without(data, b"IDAT"),
        "colour type": lambda data: png(np.zeros((4, 4, 1), int), 8, 1),
        "bit depth": lambda data: png(np.zeros((4, 4, 1), int), 3, 0),
        "no rows": lambda data: data[:16] + bytes(8) + data[24:],
    }.items(),
    ids=lambda item: item[0],
)
def test_a_damaged_png(damage):
    with pytest.raises((CorruptPicture, NotAPicture)):
        decode(damage[1](saved(photo(), "PNG")), ImageSpec((20, 30)))


# Files that are not pictures, or do not exist


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"hello, world\n" * 100, b"<html><body>404</body></html>", b"%PDF-1.7", bytes(500)]
)
def test_what_is_no_picture(tmp_path, content):
    path = tmp_path / "picture.jpg"
    path.write_bytes(content)
    for source in (content, path, io.BytesIO(content), Unseekable(content)):
        with pytest.raises(NotAPicture) as caught:
            decode(source, ImageSpec((4, 4)))
    with pytest.raises(NotAPicture, match=r"picture\.jpg: "):
        decode(path, ImageSpec((4, 4)))
    assert "empty" in str(caught.value) if not content else "JPEG, PNG" in str(caught.value)


def test_formats_that_are_programs_are_not_run():
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(NotAPicture):
        decode(postscript, ImageSpec((4, 4)))


@pytest.mark.parametrize("name", ["gone.jpg", "folder", "red.png/inside", "nul\0byte.jpg", "x" * 5000])
def test_no_file_there(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "red.png").write_bytes(b"")
    with pytest.raises(PictureNotFound, match="cannot be read: "):
        decode(f"{tmp_path}/{name}", ImageSpec((4, 4)))


def test_a_message_names_the_file_and_the_reason(tmp_path):
    path = tmp_path / "cut.tif"
    path.write_bytes(saved(photo(), "TIFF", compression="tiff_lzw")[:900])
    with pytest.raises(CorruptPicture) as caught:
        decode(path, ImageSpec((4, 4)))
    assert str(caught.value).startswith(f"{path}: damaged: ")
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


# The limit on pixels


def _claiming(width: int, height: int) -> bytes:
    """Write a PNG whose header claims a larger size than its data have."""
    data = png(np.zeros((1, 1, 1), int), 8, 0)
    header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


@pytest.mark.parametrize("width, height", [(60_000, 60_000), (19_000, 19_000), (2**31 - 1, 2**31 - 1)])
def test_a_header_that_claims_too_much(width, height):
    text = f"in mode L takes .* {width * height // 4} .* more than {MAX_PIXELS}"
    text = text if width < 65_536 else "has a side of more than 65535"
    with warnings.catch_warnings(), pytest.raises(PictureTooLarge, match=f"{width} x {height} {text}"):
        warnings.simplefilter("error")
        decode(_claiming(width, height), ImageSpec((4, 4)))


@pytest.mark.parametrize("shape", [(1, 70_000), (70_000, 1)])
def test_a_side_that_is_too_long(shape):
    """Resizing would take memory in proportion to that side, for a file of a few bytes."""
    row = np.zeros(shape, np.uint8)
    for source in (row, saved(row, "PNG"), Image.fromarray(row)):
        with pytest.raises(PictureTooLarge, match="65535"):
            decode(source, ImageSpec((4, 4)))


def test_max_pixels():
    picture = photo()
    sources = [saved(picture, format) for format in ("PNG", "TIFF", "BMP", "WEBP")]
    for source in (*sources, picture, Image.fromarray(picture)):
        assert decode(source, ImageSpec((4, 4)), max_pixels=61 * 83).shape == (4, 4, 3)
        with pytest.raises(PictureTooLarge, match="83 x 61 is more than 5062 pixels"):
            decode(source, ImageSpec((4, 4)), max_pixels=61 * 83 - 1)


def test_max_pixels_counts_and_not_pillows_bound(monkeypatch):
    """Pillow warns above its own limit and refuses twice as much. `max_pixels` may be above both."""
    pictures = [saved(photo(), format) for format in ("PNG", "JPEG", "BMP", "PPM", "TIFF", "GIF", "WEBP")]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for data in pictures:
            assert decode(data, ImageSpec((4, 4))).shape == (4, 4, 3)


# Threads and files


def test_threads_give_what_one_gives():
    files = [
        FILES[name]() for name in ("jpeg", "png", "webp", "gif", "tiff-lzw", "tiff-jpeg", "jpeg2000", "jpeg-cmyk")
    ] * 6
    spec = ImageSpec((30, 40))
    alone = [decode(data, spec) for data in files]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda data: decode(data, spec), files))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_first_pictures_of_a_process_in_threads():
    """Pillow loads a parser at the first picture that needs it, and several threads may need it at once."""
    code = (
        "import io, sys, threading\n"
        "from zoo_runtime import ImageSpec, decode\n"
        "data = bytes.fromhex(sys.stdin.read())\n"
        "shapes, start = [], threading.Barrier(8)\n"
        "def work():\n"
        "    start.wait()\n"
        "    shapes.append(decode(data, ImageSpec((4, 4))).shape)\n"
        "threads = [threading.Thread(target=work) for _ in range(8)]\n"
        "[thread.start() for thread in threads]\n"
        "[thread.join() for thread in threads]\n"
        "print(shapes == [(4, 4, 3)] * 8)"
    )
    data = FILES["webp"]()
    ran = subprocess.run([sys.executable, "-c", code], input=data.hex(), capture_output=True, text=True)
    assert (ran.stdout.strip(), ran.stderr) == ("True", "")


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc to count open files")
def test_no_file_stays_open(tmp_path):
    paths = []
    for name in ("jpeg", "png", "webp", "gif-animated", "tiff-lzw", "tiff-jpeg", "tiff", "ico", "tga"):
        data = FILES[name]()
        for end in (len(data), len(data) * 2 // 3, 20, 0):
            paths.append(tmp_path / f"{name}-{end}")
            paths[-1].write_bytes(data[:end])
    errors = []

    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = open_files()
    for path in paths * 3:
        try:
            decode(path, ImageSpec((4, 4)))
        except PictureError as error:
            errors.append(error)
    assert len(errors) > len(paths)
    assert open_files() <= before


# Real files, made to be difficult

REAL = (
    "import json, sys, time\n"
    "from pathlib import Path\n"
    "from zoo_runtime import ImageSpec, PictureError, decode\n"
    "specs = [ImageSpec((33, 47)), ImageSpec((24, 24), 1, 'crop'), ImageSpec((300, 200), 3, 'pad')]\n"
    "for path in sorted(Path(sys.argv[1]).rglob('*')):\n"
    "    if path.is_file():\n"
    "        print(json.dumps({'begun': str(path)}), flush=True)\n"
    "        outcomes, start = [], time.monotonic()\n"
    "        for spec in specs:\n"
    "            try:\n"
    "                pixels = decode(path, spec)\n"
    "                good = pixels.shape == (*spec.size, spec.channels) and pixels.dtype == 'uint8'\n"
    "                outcomes.append('pixels' if good else 'WRONG')\n"
    "            except PictureError as error:\n"
    "                outcomes.append(type(error).__name__)\n"
    "            except BaseException as error:\n"
    "                outcomes.append('ESCAPED ' + repr(error))\n"
    "        seconds = time.monotonic() - start\n"
    "        print(json.dumps({'path': str(path), 'outcomes': outcomes, 'seconds': seconds}), flush=True)\n"
)
"""This runs in its own process, so that a crash in a C parser fails one test instead of ending all of them."""

OUTCOMES = {"pixels", "NotAPicture", "CorruptPicture", "PictureTooLarge", "UnsupportedPicture"}


@pytest.mark.real
@pytest.mark.parametrize("folder, files, pictures", [("pillow", 250, 200), ("exif", 9, 9), ("pngsuite", 50, 50)])
def test_odd_files_give_pixels_or_one_of_our_errors(test_data, folder, files, pictures):
    command = [sys.executable, "-X", "faulthandler", "-W", "ignore", "-c", REAL]
    ran = subprocess.run(
        [*command, str(test_data / "odd_images" / folder)], capture_output=True, text=True, timeout=300
    )
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert ran.returncode == 0, f"{lines[-1]}\n{ran.stderr[-2000:]}"
    results = [line for line in lines if "path" in line]
    wrong = [line for line in results if len(set(line["outcomes"])) > 1 or not set(line["outcomes"]) <= OUTCOMES]
    assert not wrong
    assert not [line for line in results if line["seconds"] > 10]
    assert len(results) >= files
    assert sum(line["outcomes"][0] == "pixels" for line in results) >= pictures


@pytest.mark.real
@pytest.mark.parametrize(
    "spec", [ImageSpec((96, 128)), ImageSpec((64, 64), resize="crop"), ImageSpec((64, 64), resize="pad")]
)
def test_real_photographs_in_eight_orientations(test_data, spec):
    folder = test_data / "odd_images" / "exif"
    upright = decode(folder / "Landscape_1.jpg", spec)
    for orientation in range(9):
        apart = levels_apart(decode(folder / f"Landscape_{orientation}.jpg", spec), upright)
        assert apart.mean() < 4, orientation


@pytest.mark.real
def test_interlaced_pngs_are_their_twins(test_data):
    """The suite has each picture twice, plain and interlaced: different bytes, but the same pixels."""
    folder = test_data / "odd_images" / "pngsuite"
    twins = [(path, next(iter(folder.rglob(f"i{path.name}")), None)) for path in folder.glob("basn*.png")]
    twins = [(plain, interlaced) for plain, interlaced in twins if interlaced]
    assert len(twins) >= 10
    for plain, interlaced in twins:
        np.testing.assert_array_equal(decode(plain, ImageSpec((32, 32))), decode(interlaced, ImageSpec((32, 32))))


@pytest.mark.real
@pytest.mark.parametrize(
    "name, error",
    [
        ("broken_data_stream.png", CorruptPicture),
        ("hopper.Lab.tif", UnsupportedPicture),
        ("unknown_compression_method.png", CorruptPicture),
        ("zero_height.j2k", CorruptPicture),
        ("bmp__b__shortfile.bmp", CorruptPicture),
        ("gbr.gbr", NotAPicture),
        ("op_index.qoi", NotAPicture),
    ],
)
def test_known_bad_files(test_data, name, error):
    path: Path = test_data / "odd_images" / "pillow" / name
    if not path.exists():
        pytest.skip(f"{name} is not among the pictures")
    with pytest.raises(error, match=name.replace(".", r"\.")):
        decode(path, ImageSpec((32, 32)))


@pytest.mark.real
def test_the_truncated_jpeg_of_pillow_lacks_only_half_of_its_end_marker(test_data):
    """Pillow refuses it, but all of its pixels are there. With one more byte missing, they are not."""
    path: Path = test_data / "odd_images" / "pillow" / "truncated_jpeg.jpg"
    if not path.exists():
        pytest.skip("it is not among the pictures")
    content, spec = path.read_bytes(), ImageSpec((100, 100))
    assert content.endswith(b"\xff")
    np.testing.assert_array_equal(decode(path, spec), decode(content + b"\xd9", spec))
    with pytest.raises(CorruptPicture):
        decode(content[:-2] + b"\xff\xd9", spec)


@pytest.mark.parametrize("brands", [b"heic\0\0\0\0mif1heic", b"mif1\0\0\0\0mif1heic", b"heix\0\0\0\0"])
def test_a_heic_picture_gets_the_advice_to_convert_it(brands):
    box = b"ftyp" + brands
    content = (len(box) + 4).to_bytes(4, "big") + box + b"\0\0\0\x08meta" + bytes(100)
    if importlib.util.find_spec("pillow_heif"):
        with pytest.raises(CorruptPicture):
            decode(content, ImageSpec((8, 8)))
        return
    with pytest.raises(NotAPicture, match=r"HEIC picture, .*pip install pillow-heif.*convert it to JPEG"):
        decode(content, ImageSpec((8, 8)))
