"""Makes small pictures of every common format, and damages them in the ways in which files are damaged or forged.

`benchmarks/hostile_pictures.py` and the tests of the runtime share this. Everything comes from the seeds: the same
numbers always give the same bytes, as far as the installed Pillow encodes alike.
"""

from __future__ import annotations

import io
import itertools
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, features

HEIGHT, WIDTH = 48, 64
NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, HEIGHT, WIDTH)
"""Values that parsers most often get wrong, for lengths, counts, offsets and dimensions."""


@dataclass(frozen=True)
class Mutation:
    """A damaged picture.

    Args:
        kind: How it was damaged: a key of `GRAMMAR`.
        data: The bytes of the file.
        must_be_whole: Whether the file lacks something or fails a checksum, so that it must be refused, or must give
            exactly the pixels of the undamaged file.
    """

    kind: str
    data: bytes
    must_be_whole: bool = False


def photo() -> Image.Image:
    """Draw a picture of 48 x 64 pixels (height x width) with slopes, edges and some noise."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    noise = np.random.default_rng(0).integers(0, 30, (HEIGHT, WIDTH))
    red = 120 + 90 * np.sin(x / 7) * np.cos(y / 9)
    ring = 180.0 * (np.hypot(y - 30, x - 20) < 14)
    return Image.fromarray(np.stack([red, ring + noise + 20, y * 2 + 40 + noise], -1).clip(1, 255).astype(np.uint8))


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    """Return the bytes of a picture file."""
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def _with_metadata() -> bytes:
    exif = Image.Exif()
    exif[274], exif[270] = 1, "a picture " * 20
    return saved(photo(), "JPEG", exif=exif, icc_profile=bytes(range(256)) * 4, comment=b"x" * 300)


def _interlaced_png() -> bytes:
    """Return an interlaced PNG, which Pillow does not write: its seven passes, without filters."""
    pixels = np.asarray(photo())
    rows = b"".join(
        b"\0" + row.tobytes()
        for top, left, down, right in (
            (0, 0, 8, 8),
            (0, 4, 8, 8),
            (4, 0, 8, 4),
            (0, 2, 4, 4),
            (2, 0, 4, 2),
            (0, 1, 2, 2),
            (1, 0, 2, 1),
        )
        for row in pixels[top::down, left::right]
    )
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 1)
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _frames(format: str, **options: object) -> bytes:
    return saved(photo(), format, save_all=True, append_images=[photo().rotate(180)], duration=50, **options)


def _gray16() -> Image.Image:
    return Image.fromarray(np.asarray(photo())[:, :, 2].astype(np.uint16) * 257)


SEEDS: dict[str, dict[str, Callable[[], bytes]]] = {
    "JPEG": {
        "plain": lambda: saved(photo(), "JPEG"),
        "metadata": _with_metadata,
        "gray": lambda: saved(photo().convert("L"), "JPEG"),
        "cmyk": lambda: saved(photo().convert("CMYK"), "JPEG"),
        "restarts": lambda: saved(photo(), "JPEG", restart_marker_blocks=2),
        "progressive": lambda: saved(photo(), "JPEG", progressive=True),
    },
    "PNG": {
        "rgb": lambda: saved(photo(), "PNG"),
        "rgba": lambda: saved(photo().convert("RGBA"), "PNG"),
        "palette": lambda: saved(photo().quantize(32), "PNG", transparency=3),
        "gray 16": lambda: saved(_gray16(), "PNG"),
        "1 bit": lambda: saved(photo().convert("1"), "PNG"),
        "interlaced": _interlaced_png,
        "animated": lambda: _frames("PNG"),
    },
    "WebP": {
        "lossy": lambda: saved(photo(), "WEBP"),
        "lossless": lambda: saved(photo(), "WEBP", lossless=True),
        "alpha": lambda: saved(photo().convert("RGBA"), "WEBP", exif=bytes(Image.Exif()) or b"Exif\0\0"),
        "animated": lambda: _frames("WEBP"),
    },
    "GIF": {
        "plain": lambda: saved(photo(), "GIF", interlace=0),
        "interlaced": lambda: saved(photo(), "GIF", interlace=1, comment=b"a comment"),
        "animated": lambda: _frames("GIF", transparency=0),
    },
    "BMP": {
        "rgb": lambda: saved(photo(), "BMP"),
        "palette": lambda: saved(photo().quantize(16), "BMP"),
        "1 bit": lambda: saved(photo().convert("1"), "BMP"),
    },
    "TIFF": {
        "plain": lambda: saved(photo(), "TIFF"),
        "lzw": lambda: saved(photo(), "TIFF", compression="tiff_lzw"),
        "deflate": lambda: saved(photo(), "TIFF", compression="tiff_adobe_deflate"),
        "jpeg": lambda: saved(photo(), "TIFF", compression="jpeg"),
        "packbits": lambda: saved(photo().convert("L"), "TIFF", compression="packbits"),
        "fax": lambda: saved(photo().convert("1"), "TIFF", compression="group4"),
        "gray 16": lambda: saved(_gray16(), "TIFF"),
    },
    "AVIF": {
        "plain": lambda: saved(photo(), "AVIF"),
        "alpha": lambda: saved(photo().convert("RGBA"), "AVIF"),
        "animated": lambda: _frames("AVIF"),
    },
    "JPEG 2000": {
        "jp2": lambda: saved(photo(), "JPEG2000"),
        "lossy": lambda: saved(photo(), "JPEG2000", irreversible=True, quality_layers=[20, 5]),
        "tiles": lambda: saved(photo(), "JPEG2000", tile_size=(32, 32)),
        "codestream": lambda: saved(photo(), "JPEG2000", no_jp2=True),
    },
}
"""Undamaged pictures, by format and by what is special about them."""


def seeds() -> list[tuple[str, str, bytes]]:
    """Return (format, what is special, bytes) of each undamaged picture that the installed Pillow can write."""
    missing = {"AVIF": "avif", "WebP": "webp", "JPEG 2000": "jpg_2000"}
    written = [name for name in SEEDS if name not in missing or features.check(missing[name])]
    return [(format, name, make()) for format in written for name, make in SEEDS[format].items()]


# The ways of damage. Each takes the bytes, the format, a generator, and all undamaged files of the format.


def _bit_flips(data: bytes, format: str, rng: random.Random, _: list[bytes]) -> Mutation:
    """A few single bits anywhere. PNG and its checksums must notice each of them."""
    broken = bytearray(data)
    for _number in range(rng.choice((1, 1, 2, 8))):
        broken[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return Mutation("bit flips", bytes(broken), must_be_whole=format == "PNG")


def _overwritten(data: bytes, format: str, rng: random.Random, _: list[bytes]) -> Mutation:
    """A run of zeros, of ones or of noise, as disks leave behind."""
    length = rng.choice((1, 4, 16, 64, 512))
    place = rng.randrange(len(data))
    run = rng.choice((bytes(length), b"\xff" * length, rng.randbytes(length)))[: len(data) - place]
    return Mutation("overwritten", data[:place] + run + data[place + len(run) :], must_be_whole=format == "PNG")


def _truncated(data: bytes, _format: str, rng: random.Random, _: list[bytes]) -> Mutation:
    """The beginning of the file. It may only be read if what is missing holds no pixel."""
    missing = rng.randrange(1, 40) if rng.random() < 0.4 else rng.randrange(1, len(data))
    return Mutation("truncated", data[: max(1, len(data) - missing)], must_be_whole=True)


def _head_lost(data: bytes, _format: str, rng: random.Random, _: list[bytes]) -> Mutation:
    return Mutation("head lost", data[rng.randrange(1, len(data)) :])


def _splice(data: bytes, _format: str, rng: random.Random, family: list[bytes]) -> Mutation:
    """The beginning of one file, and the end of another."""
    other = rng.choice(family)
    return Mutation("splice", data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :])


def _part_removed(data: bytes, _format: str, rng: random.Random, _: list[bytes]) -> Mutation:
    first, second = sorted(rng.randrange(len(data) + 1) for _number in range(2))
    return Mutation("part removed", data[:first] + data[second:])


def _part_doubled(data: bytes, _format: str, rng: random.Random, _: list[bytes]) -> Mutation:
    first, second = sorted(rng.randrange(len(data) + 1) for _number in range(2))
    return Mutation("part doubled", data[:second] + data[first:second] * rng.choice((1, 1, 5)) + data[second:])


def _concatenated(data: bytes, _format: str, rng: random.Random, family: list[bytes]) -> Mutation:
    return Mutation("concatenated", data + rng.choice((rng.choice(family), bytes(1000), rng.randbytes(100))))


def _number(data: bytes, format: str, rng: random.Random, _: list[bytes]) -> Mutation:
    """A number in a header: dimensions, counts, offsets, lengths. Checksums of a PNG are made right again."""
    width = rng.choice((1, 2, 2, 4, 4, 4))
    place = rng.randrange(min(len(data) - width, 400))
    old = int.from_bytes(data[place : place + width], "big")
    value = rng.choice((*NUMBERS, old + 1, old - 1, old * 2, old // 2, rng.getrandbits(32))) % (1 << 8 * width)
    new = value.to_bytes(width, rng.choice(("big", "little")))
    changed = data[:place] + new + data[place + width :]
    return Mutation("number in a header", with_checksums(changed) if format == "PNG" else changed)


def _chunks(data: bytes, format: str, rng: random.Random, _: list[bytes]) -> Mutation:
    """A part of the format's structure is lost, doubled, moved or said to be of another length."""
    parts = split(data, format)
    at = rng.randrange(len(parts))
    how = rng.choice(("lost", "doubled", "moved", "length", "many"))
    if how == "lost" and len(parts) > 1:
        del parts[at]
    elif how == "doubled":
        parts.insert(at, parts[at])
    elif how == "moved":
        parts.insert(rng.randrange(len(parts)), parts.pop(at))
    elif how == "many":
        parts[at:at] = [parts[at]] * rng.choice((10, 200))
    else:
        part = bytearray(parts[at])
        place = min(len(part), rng.choice((0, 2, 4)))
        part[place : place + 4] = rng.choice(NUMBERS).to_bytes(4, "big")[: max(0, len(part) - place)]
        parts[at] = bytes(part)
    changed = b"".join(parts)
    return Mutation(f"chunk {how}", with_checksums(changed) if format == "PNG" else changed)


def split(data: bytes, format: str) -> list[bytes]:
    """Split a file into the parts of its structure, which make the file again if they are joined."""
    places = [0]
    if format == "JPEG":
        at = 2
        while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
            places.append(at)
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        places.append(at)
    elif format == "PNG":
        at = 8
        while at + 12 <= len(data):
            places.append(at)
            at += 12 + int.from_bytes(data[at : at + 4], "big")
    elif format == "WebP":
        at = 12
        while at + 8 <= len(data):
            places.append(at)
            at += 8 + (int.from_bytes(data[at + 4 : at + 8], "little") + 1) // 2 * 2
    elif format in ("AVIF", "JPEG 2000") and data[4:8] in (b"ftyp", b"jP  "):
        at = 0
        while at + 8 <= len(data):
            places.append(at)
            at += max(8, int.from_bytes(data[at : at + 4], "big"))
    else:
        places += range(16, len(data), max(16, len(data) // 20))
    bounds = sorted({place for place in places if place < len(data)} | {len(data)})
    return [data[start:end] for start, end in itertools.pairwise(bounds)]


def with_checksums(png: bytes) -> bytes:
    """Return a PNG whose checksums are right, as far as its chunks can be followed."""
    out, at = png[:8], 8
    while at + 12 <= len(png):
        length = int.from_bytes(png[at : at + 4], "big")
        if at + 12 + length > len(png):
            break
        out += _chunk(png[at + 4 : at + 8], png[at + 8 : at + 8 + length])
        at += 12 + length
    return out + png[at:]


GRAMMAR = (
    *(_bit_flips, _overwritten, _truncated, _head_lost, _splice, _part_removed, _part_doubled, _concatenated),
    *(_number, _number, _number, _chunks, _chunks),
)


def mutation(number: int, seed: int, files: list[tuple[str, str, bytes]]) -> tuple[str, bytes, Mutation]:
    """Return the damaged picture of a number.

    Args:
        number: 0, 1, 2 ... The formats take turns, so that each gets as many as the others.
        seed: The seed of the whole series.
        files: What `seeds` returns.

    Returns:
        The format, the bytes of the undamaged picture, and what became of it.
    """
    rng = random.Random(f"{seed} {number}")
    formats = list(dict.fromkeys(format for format, _, _ in files))
    format = formats[number % len(formats)]
    family = [data for name, _, data in files if name == format]
    data = rng.choice(family)
    changed = rng.choice(GRAMMAR)(data, format, rng, family)
    if rng.random() < 0.1:
        # A second kind of damage on top. Then only a lack of data can still be told.
        more = rng.choice(GRAMMAR)(changed.data or b"\0", format, rng, family) if len(changed.data) > 40 else changed
        changed = Mutation(changed.kind, more.data)
    return format, data, changed
