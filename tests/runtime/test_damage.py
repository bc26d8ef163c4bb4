"""Test that damaged files are refused, whatever Pillow's switches say, and that undamaged ones never are."""

from __future__ import annotations

import base64
import io
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin, features

from zoo_runtime import CorruptPicture, ImageSpec, NotAPicture, UnsupportedPicture
from zoo_runtime import decode as decode_common


def decode(source, spec, **options):
    """Decode a picture of any format, also of those that are read only if they are asked for."""
    return decode_common(source, spec, **{"formats": ["all"], **options})


SPEC = ImageSpec((96, 128))


def photo() -> Image.Image:
    """Draw a picture of 240 x 320 with slopes, edges and some noise."""
    y, x = np.mgrid[0:240, 0:320]
    noise = np.random.default_rng(0).integers(0, 30, (240, 320))
    red = 120 + 90 * np.sin(x / 17) * np.cos(y / 23)
    ring = 200.0 * (np.hypot(y - 150, x - 100) < 60)
    return Image.fromarray(np.stack([red, ring + noise, y * 0.8 + noise], -1).clip(0, 255).astype(np.uint8))


def saved(image: Image.Image, format: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def exif_turned() -> bytes:
    exif = Image.Exif()
    exif[274] = 6
    return saved(photo(), "JPEG", exif=exif)


JPEGS = {
    "plain": lambda: saved(photo(), "JPEG"),
    "best": lambda: saved(photo(), "JPEG", quality=98, subsampling=0),
    "worst": lambda: saved(photo(), "JPEG", quality=20),
    "optimized": lambda: saved(photo(), "JPEG", optimize=True),
    "gray": lambda: saved(photo().convert("L"), "JPEG"),
    "cmyk": lambda: saved(photo().convert("CMYK"), "JPEG"),
    "restarts": lambda: saved(photo(), "JPEG", restart_marker_rows=1),
    "many restarts": lambda: saved(photo(), "JPEG", restart_marker_blocks=3),
    "progressive": lambda: saved(photo(), "JPEG", progressive=True),
    "progressive gray": lambda: saved(photo().convert("L"), "JPEG", progressive=True),
    "progressive restarts": lambda: saved(photo(), "JPEG", progressive=True, restart_marker_rows=2),
    "turned": exif_turned,
    "mpo": lambda: saved(photo(), "MPO", save_all=True, append_images=[photo().rotate(180)]),
}
"""JPEGs of every kind that Pillow can write. Their data end at the first end marker behind the picture."""

TRAILERS = {
    "nothing": b"",
    "zeros": bytes(4096),
    "a video": b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 20,
    "a second picture": saved(photo().resize((40, 30)), "JPEG"),
    "a phone's notes": b"\0\0\x01\x0a\x0e\0\0\0Image_UTC_Data1234567890123SEFHk\0\0\0\x01\0\0\0SEFT",
}


def data_of(jpeg: bytes) -> tuple[int, int]:
    """Return where the coded data of the last scan begin and end."""
    end = jpeg.index(b"\xff\xd9", jpeg.index(b"\xff\xda"))
    start = jpeg.rindex(b"\xff\xda", 0, end)
    return start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big"), end


@pytest.fixture(params=[False, True], ids=["usual", "truncated allowed"])
def allowed(request, monkeypatch):
    """Run a test twice: as usual, and with the switch with which Pillow makes up missing pixels."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", request.param)


@pytest.mark.parametrize("trailer", TRAILERS)
@pytest.mark.parametrize("kind", JPEGS)
def test_whole_jpegs_are_read_whatever_follows_them(kind, trailer, allowed):
    data = JPEGS[kind]()
    whole = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    if kind == "turned":
        whole = np.rot90(whole, -1)
    pixels = decode(data + TRAILERS[trailer], ImageSpec(whole.shape[:2]))
    np.testing.assert_array_equal(pixels, whole)


@pytest.mark.parametrize("kind", ["plain", "restarts", "progressive", "progressive restarts"])
@pytest.mark.parametrize("count", [1, 2, 50])
def test_a_jpeg_may_have_fill_bytes_before_its_markers(kind, count):
    # ITU-T T.81, B.1.1.2. Some hardware encoders fill up to a whole word before the end marker.
    whole = JPEGS[kind]()
    start = whole.index(b"\xff\xda") + 2
    fill = b"\xff" * count
    filled = whole[:start] + re.sub(rb"\xff(?=[\xc0-\xfe])", lambda _: fill + b"\xff", whole[start:])
    assert len(filled) > len(whole)
    assert np.array_equal(decode(filled, SPEC), decode(whole, SPEC))
    with pytest.raises(CorruptPicture):
        decode(whole[: start + (len(whole) - start) * 9 // 10] + fill + b"\xff\xd9", SPEC)


@pytest.mark.parametrize("ending", [b"", b"\xff\xd9"], ids=["cut", "cut and ended"])
@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_that_was_cut_is_refused(kind, ending, allowed):
    data = JPEGS[kind]()
    start, end = data_of(data)
    first = data.index(b"\xff\xda") + 20
    for place in (first, *(start + (end - start) * share // 1000 for share in (10, 100, 500, 900, 990)), end - 20):
        with pytest.raises(CorruptPicture):
            decode(data[:place] + ending, SPEC)


@pytest.mark.parametrize("kind", JPEGS)
def test_the_last_block_of_a_jpeg_is_not_made_up(kind):
    """A few of the last bytes may be missing if the rest is nearly the same picture."""
    data = JPEGS[kind]()
    _, end = data_of(data)
    spec = ImageSpec((320, 240) if kind == "turned" else (240, 320))
    whole, refused = decode(data, spec).astype(int), 0
    for missing in range(1, 25):
        try:
            pixels = decode(data[: end - missing] + b"\xff\xd9", spec)
        except CorruptPicture:
            refused += 1
            continue
        assert abs(pixels - whole).max() < 60, missing
    assert refused >= (16 if kind == "best" else 22)


@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_that_lacks_only_its_end_marker_is_read(kind, allowed):
    data = JPEGS[kind]()
    _, end = data_of(data)
    whole = decode(data, SPEC)
    for ending in (b"", b"\xff"):
        np.testing.assert_array_equal(decode(data[:end] + ending, SPEC), whole)
    # A file system puts zeros in place of what it has lost.
    for lost in (data[:end] + bytes(2), data[: end - 400] + bytes(402), data[: end // 2] + bytes(end // 2)):
        with pytest.raises(CorruptPicture):
            decode(lost, SPEC)


@pytest.mark.parametrize("kind", ["restarts", "many restarts", "progressive restarts"])
@pytest.mark.parametrize("ending", [b"", b"\xff\xd9"], ids=["cut", "cut and ended"])
def test_a_jpeg_without_its_last_restart_interval_is_refused(kind, ending):
    data = JPEGS[kind]()
    _, end = data_of(data)
    last = max(data.rindex(bytes((0xFF, 0xD0 + number)), 0, end) for number in range(8))
    with pytest.raises(CorruptPicture):
        decode(data[:last] + ending, SPEC)


@pytest.mark.parametrize("stray", [b"\xff\xd9", b"\xff\xd3", b"\xff\xd8", b"\xff\xc4\0\4ab", b"\xff\xff\xd9"])
@pytest.mark.parametrize("kind", ["plain", "gray", "progressive"])
def test_a_stray_marker_within_coded_data_is_refused(kind, stray):
    """The end of a plain JPEG is found without a search, so markers before it must show in another way."""
    data = JPEGS[kind]()
    start, end = data_of(data)
    for place in (start + 9, (start + end) // 2, end - 70, end - 60, end - 30, end - 12):
        with pytest.raises(CorruptPicture):
            decode(data[:place] + stray + data[place:], SPEC)


# 24 x 16 pixels, 12 + x * 9 + y, quality 50, by `jpegtran -arithmetic` of libjpeg-turbo 2.1.5, without and with
# `-progressive`.
ARITHMETIC = {
    "sequential": """
        /9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABALDA4MChAODQ4SERATGCgaGBYWGDEjJR0oOjM9PDkzODdASFxOQERXRTc4UG1RV19i
        Z2hnPk1xeXBkeFxlZ2P/yQALCAAQABgBAREA/8wABgAQEAX/2gAIAQEAAD8A/wB0nBaq+fwK6YnMU5c4+8sjsMj/2Q==
    """,
    "progressive": """
        /9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABALDA4MChAODQ4SERATGCgaGBYWGDEjJR0oOjM9PDkzODdASFxOQERXRTc4UG1RV19i
        Z2hnPk1xeXBkeFxlZ2P/ygALCAAQABgBAREA/8wABAAQ/9oACAEBAAAAAf7rrUg0PE3/zAAEEAX/2gAIAQEAAQUCGCXo/8wABBAF
        /9oACAEBAAY/AsD/zAAEEAX/2gAIAQEAAT8hzVSA/9oACAEBAAAAEOT/zAAEEAX/2gAIAQEAAT8QqGNVgP/Z
    """,
}


@pytest.mark.parametrize("kind", ARITHMETIC)
def test_arithmetic_coded_jpegs_are_refused_with_advice(kind, tmp_path):
    """Pillow reads them, but libjpeg stops silently where their data are damaged."""
    data = base64.b64decode(ARITHMETIC[kind])
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    assert Image.open(path).size == (24, 16)
    for source in (data, path, Image.open(path)):
        with pytest.raises(UnsupportedPicture, match="an arithmetic-coded JPEG"):
            decode(source, SPEC)


@pytest.mark.parametrize("kind", ["restarts", "many restarts", "progressive restarts"])
def test_damage_between_restart_markers_is_found(kind):
    data = JPEGS[kind]()
    second = data.index(b"\xff\xd1", data.index(b"\xff\xda"))
    for broken in (data[: second - 12] + data[second:], data[:second] + data[second + 2 :]):
        with pytest.raises(CorruptPicture):
            decode(broken, SPEC)


def test_a_jpeg_with_a_hole_is_refused():
    """A disk that loses a sector leaves zeros, and the picture goes on behind them out of step."""
    for kind in ("plain", "best", "optimized"):
        data = JPEGS[kind]()
        start, end = data_of(data)
        middle = (start + end) // 2
        with pytest.raises(CorruptPicture):
            decode(data[:middle] + bytes(512) + data[middle + 512 :], SPEC)


@pytest.mark.parametrize("level", [0, 127, 128, 255])
def test_a_jpeg_of_one_color_is_read(level, allowed):
    for size in ((1, 1), (8, 8), (17, 33), (300, 200)):
        for options in ({}, {"progressive": True}, {"restart_marker_blocks": 1}, {"quality": 100}):
            data = saved(Image.new("RGB", size, (level,) * 3), "JPEG", **options)
            assert abs(decode(data, SPEC).astype(int) - level).max() <= 1


def test_a_lazy_image_follows_the_same_rules(tmp_path, allowed):
    files = {"a.jpg": JPEGS["plain"](), "p.jpg": JPEGS["progressive"](), "a.png": saved(photo(), "PNG")}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        np.testing.assert_array_equal(decode(Image.open(tmp_path / name), SPEC).shape, (96, 128, 3))
        cut = data[: len(data) * 3 // 4] + (b"\xff\xd9" if "jpg" in name else b"")
        (tmp_path / name).write_bytes(cut)
        with pytest.raises(CorruptPicture):
            decode(Image.open(tmp_path / name), SPEC)


OTHERS = {
    "png": ("PNG", {}),
    "gif": ("GIF", {}),
    "webp": ("WEBP", {}),
    "webp lossless": ("WEBP", {"lossless": True}),
    "bmp": ("BMP", {}),
    "tga": ("TGA", {"compression": "tga_rle"}),
    "ppm": ("PPM", {}),
    "tiff": ("TIFF", {}),
    "tiff lzw": ("TIFF", {"compression": "tiff_lzw"}),
    "tiff deflate": ("TIFF", {"compression": "tiff_deflate"}),
    "tiff jpeg": ("TIFF", {"compression": "jpeg"}),
    "jpeg 2000": ("JPEG2000", {}),
    "ico": ("ICO", {"sizes": [(64, 48)]}),
    "ico of bitmaps": ("ICO", {"sizes": [(64, 48), (32, 24)], "bitmap_format": "bmp"}),
    "avif": ("AVIF", {}),
    "animated avif": ("AVIF", {"save_all": True, "append_images": [photo().resize((120, 90))]}),
    "animated webp": ("WEBP", {"save_all": True, "append_images": [photo().resize((120, 90))]}),
    "tiff zstd": ("TIFF", {"compression": "zstd"}),
    "tiff lzma": ("TIFF", {"compression": "lzma"}),
    "tiff packbits": ("TIFF", {"compression": "packbits"}),
    "heic": ("HEIF", {}),
}


@pytest.mark.parametrize("lazy", [False, True], ids=["bytes", "lazy"])
@pytest.mark.parametrize("name", OTHERS)
def test_other_formats_that_were_cut(name, lazy, allowed):
    if "avif" in name and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    if name == "heic":
        pytest.importorskip("pillow_heif", reason="needs pillow-heif").register_heif_opener()
    format, options = OTHERS[name]
    data = saved(photo().resize((120, 90)), format, **options)
    whole, refused = decode(data, SPEC), 0
    places = {len(data) * share // 30 for share in range(1, 30)} | {
        len(data) - missing for missing in (1, 2, 5, 12, 30)
    }
    for place in places:
        cut: object = data[:place]
        if lazy:
            try:
                cut = Image.open(io.BytesIO(data[:place]))
            except (OSError, SyntaxError, ValueError, struct.error):
                refused += 1
                continue
        try:
            pixels = decode(cut, SPEC)
        except (CorruptPicture, NotAPicture):
            refused += 1
        else:
            np.testing.assert_array_equal(pixels, whole)
    assert refused >= 22


def test_a_jpeg_inside_a_tiff_is_checked(allowed):
    """libtiff fills a strip that ends early with gray, and says nothing."""
    data = bytearray(saved(photo(), "TIFF", compression="jpeg"))
    decode(bytes(data), SPEC)
    end = data.rindex(b"\xff\xd9")
    data[end - 300 : end - 298] = b"\xff\xd9"
    with pytest.raises(CorruptPicture, match="ends before"):
        decode(bytes(data), SPEC)


def test_a_wrong_checksum_of_a_png_is_found(allowed):
    data = bytearray(saved(photo(), "PNG", compress_level=0))
    data[data.index(b"IDAT") + 5000] ^= 4
    with pytest.raises(CorruptPicture):
        decode(bytes(data), SPEC)


@pytest.mark.parametrize("compression", ["tiff_deflate", "tiff_adobe_deflate"])
def test_a_wrong_checksum_of_a_tiff_is_found(compression, allowed):
    data = saved(photo(), "TIFF", compression=compression)
    for place in range(1000, len(data) - 1000, len(data) // 12):
        damaged = data[:place] + bytes(40) + data[place + 40 :]
        for source in (damaged, Image.open(io.BytesIO(damaged))):
            with pytest.raises(CorruptPicture):
                decode(source, SPEC)
    assert np.array_equal(decode(data, SPEC), decode(photo(), SPEC))


def test_the_switch_stays_as_it_was(monkeypatch):
    for value in (False, True):
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", value)
        decode(saved(photo(), "PNG"), SPEC)
        assert ImageFile.LOAD_TRUNCATED_IMAGES is value


# Large metadata


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@pytest.mark.parametrize("size", [900_000, 2_000_000, 20_000_000])
def test_a_png_with_large_metadata_is_read(size, allowed):
    data, limit = saved(photo(), "PNG"), PngImagePlugin.MAX_TEXT_CHUNK
    whole, zeros = decode(data, SPEC), zlib.compress(b"x" * size)
    for extra in (
        chunk(b"zTXt", b"workflow\0\0" + zeros),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zeros),
        chunk(b"iCCP", b"profile\0\0" + zeros),
        chunk(b"tEXt", b"workflow\0" + b"x" * size),
    ):
        for place in (33, len(data) - 12):
            np.testing.assert_array_equal(decode(data[:place] + extra + data[place:], SPEC), whole)
    assert limit == PngImagePlugin.MAX_TEXT_CHUNK


def test_metadata_that_expand_without_end_take_little_memory():
    """2 MB become 2 GB. Only the beginning is expanded."""
    import tracemalloc

    zeros = zlib.compressobj(9)
    body = b"".join(zeros.compress(bytes(1 << 24)) for _ in range(16)) + zeros.flush()
    data = saved(photo(), "PNG")
    bomb = data[:33] + chunk(b"zTXt", b"bomb\0\0" + body) * 8 + data[33:]
    tracemalloc.start()
    decode(bomb, SPEC)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20


def test_the_orientation_in_large_metadata_still_counts():
    data = saved(photo(), "PNG")
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/>' + b" " * 3_000_000 + b"</x:xmpmeta>"
    turned = data[:33] + chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp)) + data[33:]
    spec = ImageSpec((320, 240))
    np.testing.assert_array_equal(decode(turned, spec), np.rot90(decode(data, ImageSpec((240, 320))), -1))


def test_a_huge_file_that_begins_like_a_jpeg_is_not_read_into_memory(tmp_path):
    """A sparse file of 3 GB took 6 GB of memory."""
    path = tmp_path / "huge.jpg"
    path.write_bytes(JPEGS["plain"]())
    with path.open("r+b") as stream:
        stream.truncate(3 * 2**30)
    with pytest.raises(UnsupportedPicture, match=r"huge.jpg: the file has 3,221,225,472 bytes, and a JPEG may have"):
        decode(path, SPEC)
    with Image.open(path) as image, pytest.raises(UnsupportedPicture, match="the file has 3,221,225,472 bytes"):
        decode(image, SPEC)
