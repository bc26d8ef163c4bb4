"""Loads the pixels of a JPEG, and refuses one whose coded data are damaged or end early.

libjpeg fills missing data with gray and only warns, and Pillow drops that warning. `load` therefore does not give the
end marker to libjpeg, but bytes that no complete picture needs:

- A scan or restart interval that is complete leaves these bytes alone, or skips them one by one in search of the next
  marker. If it is incomplete, libjpeg takes them as data and asks for more. Eight bytes are needed, because libjpeg
  reads up to 64 bits ahead.
- A progressive picture, or one with a scan per color, must have all of its scans, and all bits of all coefficients. The
  standard does not demand that, but a file that was cut between two scans lacks them, and encoders write them. Its last
  bytes code many blocks, and eight of them are soon enough. It is therefore decoded twice, with different bytes. A
  single pass cannot show this: how many bits libjpeg has taken is known to eight bytes only.
- A picture with restart markers must have as many of them as its size demands.
- A picture that lacks only its end marker is read. All of its coded data must be there: it is decoded with four
  different kinds of bytes, which must not matter.
- Arithmetic-coded pictures are refused. libjpeg stops silently where such data are damaged, and leaves the rest gray.
  The data may also legally lack zeros at their end. Of 2,304 such pictures that were cut, 220 passed all tests that
  were tried. Lossless and hierarchical JPEGs are refused too, because libjpeg cannot reduce them or cannot read them.

What remains: a JPEG has no checksum, so damage that leaves valid codes with the right number of bits cannot be seen. In
a picture with one scan, the last bits may be missing where the eight bytes happen to end a block. Of 1200 photographs
that lacked their last 1 to 10 bytes, 1 passed.

The sources are ITU-T T.81 (the file format) and libjpeg-turbo 3 (jdhuff.c, jdphuff.c, jdmarker.c). None of this depends
on the switch `PIL.ImageFile.LOAD_TRUNCATED_IMAGES`, because the pixels are not loaded by `PIL.ImageFile`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from PIL import Image

from ._errors import CorruptPicture, UnsupportedPicture

ENDS_EARLY = "the file ends before the picture does"
_DAMAGED = "the coded data are damaged"
# A byte FF is followed by 00 within coded data. FF may be repeated before a marker, as some hardware encoders do. These
# bytes do not belong to the coded data.
_FILL = re.compile(rb"\xff++")
# Everything up to the next marker. Quantifiers with a + behind them never go back, so the time is linear in the length.
_CODED = re.compile(rb"(?:[^\xff]++|\xff++\x00)*+")
# Everything up to the next segment: other bytes, fill bytes, and markers without a length.
_BETWEEN = re.compile(rb"(?:[^\xff]++|\xff++[\x00\x01\xd0-\xd8])*+\xff*+")
_END = b"\xff\xd9"
# Begins the segment with which cameras say that further pictures follow the first one.
_SEVERAL = b"MPF\0"
_HUFFMAN = frozenset((0xC0, 0xC1, 0xC2))
_PROGRESSIVE = 0xC2
_OTHER_KINDS = {0xC3: "a lossless", 0xC9: "an arithmetic-coded", 0xCA: "an arithmetic-coded"}
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# libjpeg reads at most 64 bits ahead.
_AHEAD = 8
# In all usual tables, this begins long codes that are followed by many bits, so libjpeg soon asks for more than that.
_PADDING = b"\xfd" * _AHEAD
# Each bit of the first one differs from the padding, so each bit that is taken as data makes a difference.
_OTHERS = b"\x02" * _AHEAD, b"\xaa" * _AHEAD, b"\x55" * _AHEAD
# A file system puts zeros in place of what it has lost.
_LOST = b"\0"
# A picture of 89 megapixels has at most a third of these bytes. Other files of this size are damaged, or sparse.
LARGEST_FILE = 2**30
# Cameras write up to 1,600 segments, with a depth map. A file with more than this is made to take time.
_MOST_SEGMENTS = 20_000
_TOO_MANY_SEGMENTS = f"it has more than {_MOST_SEGMENTS:,} segments"
_MOST_FILL = 65_536
_LARGE_FILE = 2**20
# libjpeg goes through all blocks of a picture for each scan, even if the scan has few bytes. Usual files have 10 scans,
# and code a block up to 10 times. 32 million blocks take about 1 s.
_MOST_VISITS = 16
_MANY_BLOCKS = 32_000_000
# More bytes than this behind the last block, which are not all alike, are data that got out of step.
_LEFT_OVER = 64


@dataclass
class _Scan:
    """Describes one scan: which parts of which components it codes, and where its coded data lie."""

    components: bytes
    first: int
    last: int
    low: int
    start: int
    interval: int
    end: int = -1
    restarts: list[int] = field(default_factory=list)


@dataclass
class Layout:
    """Describes the parts of a JPEG file up to its end marker.

    Args:
        frame: The marker of the frame header, 0xC0 to 0xCF. It names the kind of coding.
        components: The identifiers of the components, such as Y, Cb and Cr, with the sampling factors.
        size: The width and height of the picture in pixels.
        interval: The number of coded units between two restart markers, for the scans that follow. 0 means that there
            are none.
        scans: The scans, in the order of the file.
        several: Whether the file says that it holds several pictures.
        exact: Whether all markers were searched for. Otherwise, the only scan is said to end at the end of the file.
        ended: Whether the file has a marker behind the data of its last scan.
    """

    frame: int = 0
    components: dict[int, tuple[int, int]] = field(default_factory=dict)
    size: tuple[int, int] = (0, 0)
    interval: int = 0
    scans: list[_Scan] = field(default_factory=list)
    several: bool = False
    exact: bool = True
    ended: bool = False


def read_file(stream: BinaryIO) -> bytes:
    """Return the bytes of a JPEG file.

    Raises:
        UnsupportedPicture: If it has more than 1 GiB, which would take as much memory before anything is decoded.
    """
    size = stream.seek(0, os.SEEK_END)
    if size > LARGEST_FILE:
        raise UnsupportedPicture(
            f"the file has {size:,} bytes, and a JPEG may have at most {LARGEST_FILE:,}. It is probably damaged"
        )
    stream.seek(0)
    return stream.read()


def refuse_endless_head(stream: BinaryIO) -> None:
    """Raise CorruptPicture if the segments before the first scan are so many that Pillow would read them for minutes.

    Only files of more than 1 MB are looked at, because others cannot take long.
    """
    if stream.seek(0, os.SEEK_END) <= _LARGE_FILE:
        return
    data, place = read_file(stream), 2
    for _ in range(_MOST_SEGMENTS):
        code = _BETWEEN.match(data, place).end()  # type: ignore[union-attr]
        if code - place > _MOST_FILL:
            raise CorruptPicture(f"more than {_MOST_FILL:,} bytes between its segments mean nothing")
        if code >= len(data) - 3 or data[code] in (0xDA, 0xD9):
            return
        place = code + 1 + max(2, data[code + 1] << 8 | data[code + 2])
    raise CorruptPicture(_TOO_MANY_SEGMENTS)


def read_layout(data: bytes, exact: bool = False) -> Layout:
    """Read the markers of a JPEG file, up to the end of its first picture.

    Args:
        data: The bytes of the file.
        exact: Whether to search all coded data for markers. If False, a picture with one scan is assumed to reach to
            the end of the file if that is an end marker. `load` finds out whether this is true.

    Raises:
        CorruptPicture: If a marker segment is damaged or cut off.
    """
    layout, place, size, segments = Layout(exact=exact), 2, len(data), 0
    while True:
        place = _BETWEEN.match(data, place).end() - 1  # type: ignore[union-attr]
        if place < 0 or place >= size - 3 or data[place] != 0xFF:
            return layout
        segments += 1
        if segments > _MOST_SEGMENTS:
            raise CorruptPicture(_TOO_MANY_SEGMENTS)
        marker, place = data[place + 1], place + 2
        if marker == 0xD9:
            return layout
        start, length = place + 2, data[place] << 8 | data[place + 1]
        place += length
        if length < 2 or place > size:
            return layout
        if marker == 0xDD and length >= 4:
            layout.interval = data[start] << 8 | data[start + 1]
        elif marker in _FRAMES and not layout.frame:
            _read_frame(layout, marker, data[start:place])
        elif marker == 0xDA:
            place = _read_scan(layout, data, data[start:place], place)
            if not layout.ended or _is_simple(layout):
                return layout
        elif marker == 0xE2 and data.startswith(_SEVERAL, start):
            layout.several = True


def _read_frame(layout: Layout, marker: int, body: bytes) -> None:
    count = body[5] if len(body) > 5 else 0
    if not count or len(body) < 6 + 3 * count:
        raise CorruptPicture(_DAMAGED)
    layout.frame = marker
    layout.size = int.from_bytes(body[3:5], "big"), int.from_bytes(body[1:3], "big")
    for at in range(6, 6 + 3 * count, 3):
        layout.components[body[at]] = (body[at + 1] >> 4 or 1, body[at + 1] & 15 or 1)


def _count_units(layout: Layout, components: bytes) -> int:
    """Return the number of coded units in a scan: blocks of 8 x 8 if it has one component, otherwise groups of them."""
    columns = max(horizontal for horizontal, _ in layout.components.values())
    rows = max(vertical for _, vertical in layout.components.values())
    horizontal, vertical = layout.components.get(components[0], (1, 1)) if len(components) == 1 else (1, 1)
    width, height = layout.size
    return -(-width * horizontal // (8 * columns)) * -(-height * vertical // (8 * rows))


def _read_scan(layout: Layout, data: bytes, body: bytes, start: int) -> int:
    """Add a scan to the layout. Return where its coded data end."""
    count = body[0] if body else 0
    if not count or len(body) < 4 + 2 * count:
        raise CorruptPicture(_DAMAGED)
    first, last, bits = body[1 + 2 * count : 4 + 2 * count]
    scan = _Scan(body[1 : 1 + 2 * count : 2], first, last, bits & 15, start, layout.interval)
    layout.scans.append(scan)
    usual = _is_simple(layout) and not layout.interval and not layout.several
    if not layout.exact and usual and data.endswith(_END):
        scan.end, layout.ended = len(data) - len(_END), True
        return scan.end
    layout.exact = True
    end, code = _next_marker(data, start)
    units = _count_units(layout, scan.components) if layout.components else 0
    while end >= 0 and 0xD0 <= data[code] <= 0xD7:
        if data[code] != 0xD0 + len(scan.restarts) % 8 or len(scan.restarts) > units:
            raise CorruptPicture(_DAMAGED)
        scan.restarts.append(end)
        end, code = _next_marker(data, code + 1)
    layout.ended = end >= 0
    # A last byte FF is the first half of a marker.
    scan.end = end if end >= 0 else max(start, len(data) - data.endswith(b"\xff"))
    return scan.end


def _next_marker(data: bytes, place: int) -> tuple[int, int]:
    """Return where the next marker within or behind coded data begins, and where its code is. (-1, -1) means none."""
    start = code = _CODED.match(data, place).end()  # type: ignore[union-attr]
    while code < len(data) and data[code] == 0xFF:
        code = _FILL.match(data, code).end()  # type: ignore[union-attr]
    return (start, code) if code < len(data) else (-1, -1)


def _is_simple(layout: Layout) -> bool:
    """Return whether the picture has one scan with everything in it, as most JPEGs have."""
    return layout.frame in (0xC0, 0xC1) and len(layout.scans[0].components) == len(layout.components)


def coefficient_bytes(layout: Layout) -> int:
    """Return the memory in bytes that libjpeg needs for the coefficients of all blocks, before it makes any pixel.

    A picture with one scan needs none. Others need it at every scale: 2 bytes per coefficient.
    """
    if not layout.scans or _is_simple(layout):
        return 0
    return 128 * _count_blocks(layout, bytes(2))


def _count_blocks(layout: Layout, components: bytes) -> int:
    """Return the number of blocks of a scan. Several components count as all of them."""
    blocks = sum(horizontal * vertical for horizontal, vertical in layout.components.values())
    return _count_units(layout, components) * (blocks if len(components) > 1 else 1)


def _refuse_endless_scans(layout: Layout) -> None:
    """Raise CorruptPicture if the scans code each block so often that decoding would take minutes."""
    visits = sum(_count_blocks(layout, scan.components) for scan in layout.scans)
    if visits > max(_MANY_BLOCKS, _MOST_VISITS * _count_blocks(layout, bytes(2))):
        raise CorruptPicture(f"its {len(layout.scans):,} scans would take very long, as in no usual file")


def _refuse_missing_parts(layout: Layout) -> None:
    """Raise CorruptPicture if a component, a bit of a coefficient or a restart interval is in none of the scans."""
    for scan in layout.scans:
        if scan.interval and (len(scan.restarts) + 1) * scan.interval < _count_units(layout, scan.components):
            raise CorruptPicture(ENDS_EARLY)
    if _is_simple(layout):
        return
    if layout.frame != _PROGRESSIVE:
        coded = {component for scan in layout.scans for component in scan.components}
        if not coded >= set(layout.components):
            raise CorruptPicture(ENDS_EARLY)
        return
    lowest = {component: [1] * 64 for component in layout.components}
    for scan in layout.scans:
        for component in scan.components:
            if component in lowest and scan.last < 64:
                for place in range(scan.first, scan.last + 1):
                    lowest[component][place] = scan.low
    if any(any(bits) for bits in lowest.values()):
        raise CorruptPicture(ENDS_EARLY)


def load(image: Any, data: bytes, layout: Layout) -> None:
    """Load the pixels of a JPEG, at the scale that `Image.draft` has chosen.

    Args:
        image: An image of Pillow's JPEG plugin that has not been loaded.
        data: The bytes of the file.
        layout: The layout of `data`.

    Raises:
        CorruptPicture: If the coded data are damaged or end early.
        UnsupportedPicture: If the picture is arithmetic-coded, lossless or hierarchical.
    """
    if layout.frame and layout.frame not in _HUFFMAN:
        kind = _OTHER_KINDS.get(layout.frame, "a hierarchical")
        raise UnsupportedPicture(
            f"{kind} JPEG, in which damage cannot be found and which few programs read. "
            "Convert it: jpegtran -optimize old.jpg > new.jpg, or save it as PNG"
        )
    image.load_prepare()
    if layout.exact or not layout.scans or not _decode_to_the_end(image, data, layout.scans[0]):
        if not layout.exact:
            layout = read_layout(data, exact=True)
        _decode_exactly(image, data, layout)
    image.tile = []
    image.fp = None


def _decode_to_the_end(image: Any, data: bytes, scan: _Scan) -> bool:
    """Decode a picture with one scan and no restart markers, whose coded data reach to the end of the file.

    This saves a search for markers. Where there is another marker, libjpeg finishes the picture early.

    Returns:
        False if there is another marker, or the coded data are too short for this method.
    """
    tail = scan.end - _LEFT_OVER
    while tail > scan.start and data[tail - 1] == 0xFF:
        tail -= 1
    if tail <= scan.start:
        return False
    end, code = _next_marker(data, tail)
    if code != len(data) - 1:
        return False
    decoder = _decoder(image)
    try:
        feeder = _Feeder(decoder)
        feeder.feed(memoryview(data)[:tail])
        if feeder.finished:
            return False
        feeder.feed(data[tail:end] + _PADDING)
        if not feeder.finished:
            raise CorruptPicture(ENDS_EARLY)
        return True
    finally:
        decoder.cleanup()


def _decode_exactly(image: Any, data: bytes, layout: Layout) -> None:
    """Decode any picture, whose markers are all known."""
    tile, config = image.tile[0], image.decoderconfig
    if not layout.scans or (not layout.ended and data.endswith(_LOST)):
        raise CorruptPicture(ENDS_EARLY)
    _refuse_missing_parts(layout)
    _refuse_endless_scans(layout)
    _decode_once(image, data, layout, _PADDING)
    for padding in _OTHERS if not layout.ended else () if _is_simple(layout) else _OTHERS[:1]:
        second = _blank(image, tile, config)
        _decode_once(second, data, layout, padding)
        _refuse_difference(image, second)


class _Blank(Image.Image):
    """A blank image that `_decoder` accepts, for decoding a picture again."""

    tile: Any
    decoderconfig: Any


def _blank(image: Any, tile: Any, config: Any) -> _Blank:
    blank = _Blank()
    blank.im = Image.new(image.mode, image.size).im
    blank._mode, blank._size = image.mode, image.size
    blank.tile, blank.decoderconfig = [tile], config
    return blank


def _refuse_difference(one: Any, other: Any) -> None:
    if one.im.chop_difference(other.im).getbbox() is not None:
        raise CorruptPicture(ENDS_EARLY)


def _decoder(image: Any) -> Any:
    name, extents, _, arguments = image.tile[0]
    decoder = Image._getdecoder(image.mode, name, arguments, image.decoderconfig)
    decoder.setimage(image.im, extents)
    return decoder


class _Feeder:
    """Gives libjpeg data piece by piece, and keeps what it has not used yet."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        self._waiting = b""
        self.finished = False

    def feed(self, data: bytes | memoryview) -> None:
        waiting = self._waiting + data if self._waiting else data
        used, code = self._decoder.decode(waiting)
        if code < 0:
            raise CorruptPicture(_DAMAGED)
        self.finished = used < 0
        self._waiting = bytes(waiting[max(used, 0) :])

    def refuse_hunger(self, padding: bytes) -> None:
        """Raise CorruptPicture if libjpeg takes what follows as coded data.

        While libjpeg looks for a marker, it uses up each byte at once. While it decodes, it uses up several together.
        """
        self.feed(padding)
        for _ in range(3):
            if self.finished or self._waiting:
                break
            self.feed(padding[:1])
        if self.finished or self._waiting:
            raise CorruptPicture(_DAMAGED if self.finished else ENDS_EARLY)


def _decode_once(image: Any, data: bytes, layout: Layout, padding: bytes) -> None:
    """Give libjpeg the coded data piece by piece, and padding instead of the marker behind each piece."""
    decoder, begin, view = _decoder(image), 0, memoryview(data)
    try:
        feeder = _Feeder(decoder)
        *ends, last = [end for scan in layout.scans for end in (*scan.restarts, scan.end)]
        for end in ends:
            feeder.feed(view[begin:end])
            feeder.refuse_hunger(padding)
            begin = end
        if not _is_simple(layout):
            feeder.feed(view[begin:last])
            feeder.refuse_hunger(padding)
            feeder.feed(_END)
        else:
            tail = last - _LEFT_OVER
            if tail > begin:
                feeder.feed(view[begin:tail])
                begin = tail
            if feeder.finished and (not layout.ended or len(set(data[tail:last])) > 1):
                raise CorruptPicture(_DAMAGED)
            if not feeder.finished:
                feeder.feed(data[begin:last] + padding)
        if not feeder.finished:
            raise CorruptPicture(ENDS_EARLY)
    finally:
        decoder.cleanup()
