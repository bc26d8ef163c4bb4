"""Opens picture files of the supported formats, and loads their pixels or refuses them.

`load` refuses damage that Pillow overlooks: `zoo_runtime._jpeg` does so for JPEG, also inside TIFF. The checksums of a
PNG, and of a TIFF with deflate compression, are compared here. `zoo_runtime._strict` makes Pillow's own checks
independent of its global switches.

HEIC pictures are read where the package pillow-heif is installed.
"""

from __future__ import annotations

import importlib
import io
import struct
import zlib
from typing import Any, BinaryIO

from PIL import Image

from . import _jpeg
from ._errors import CorruptPicture, NotAPicture, UnsupportedPicture
from ._given import RAW, contents
from ._strict import strict

# Other formats are left out: some need an external program (EPS), and the parsers of others are little tested.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "AVIF", "JPEG2000", "ICO", "TGA", "DIB")
JPEG = b"\xff\xd8\xff"
_ENDINGS = "jpg jpeg jpe jfif mpo png apng gif bmp dib ppm pgm pbm pnm webp tif tiff avif jp2 j2k jpx ico tga"
SUFFIXES = frozenset(f".{ending}" for ending in f"{_ENDINGS} heic heif hif".split())
"""File name endings of the supported formats, in lower case. HEIC belongs to them even if pillow-heif is missing."""

_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"}
_COMPRESSION, _JPEG_TABLES, _NEW_JPEG = 259, 347, 7
# https://helpx.adobe.com/camera-raw/digital-negative.html
_SUBFILE_TYPE, _SUB_PICTURES, _DNG_VERSION = 254, 330, 50706
_DEFLATE = (8, 32946)
_PIECE = 1 << 20
_PARTS = ((273, 279), (324, 325))


def open_picture(stream: BinaryIO) -> Any:
    """Open a picture file as `Image.open` does, but without a limit on its size and with more precise errors.

    `Image.open` warns above 89 megapixels and refuses above 179, whatever `max_pixels` says. This function accepts any
    size, and the caller then checks it. If a parser accepts the format but refuses the file, such as a truncated TIFF,
    `Image.open` only says "cannot identify image file". The errors of this function state the parser's reason.

    Returns:
        A Pillow image whose pixels have not been loaded.

    Raises:
        NotAPicture: If the file is empty, or its format is not supported.
        CorruptPicture: If the parser of the file's format refuses the file.
        UnsupportedPicture: If the stream was opened in text mode.
    """
    prefix = stream.read(64)
    if isinstance(prefix, str):
        raise UnsupportedPicture("opened as text; open the file in binary mode, with 'rb'")
    if not prefix:
        raise NotAPicture("the file is empty")
    if is_heic(prefix):
        return _open_heic(stream)
    prefix = prefix[:16].ljust(16, b"\0")
    if prefix.startswith(JPEG):
        # Loading only this parser takes a fifth of the time, which matters if a process labels one picture.
        importlib.import_module("PIL.JpegImagePlugin")
    else:
        Image.preinit()
    refusal = None
    for name in FORMATS:
        if name not in Image.OPEN:
            Image.init()
        if name not in Image.OPEN:
            continue
        factory, accept = Image.OPEN[name]
        accepted = accept is None or accept(prefix)
        if isinstance(accepted, str):
            raise NotAPicture(f"this Pillow was built without {name} support ({accepted})")
        if accepted:
            stream.seek(0)
            try:
                image = (strict(factory) if isinstance(factory, type) else factory)(stream, "")
                _refuse_raw(image, prefix)
                return image
            except (SyntaxError, IndexError, TypeError, struct.error) as error:
                # The parser of a format without a signature (TGA) tries every file, so its refusal means nothing.
                if accept is not None:
                    refusal = refusal or str(error).strip() or type(error).__name__
    if refusal:
        raise CorruptPicture(f"damaged: {refusal}")
    stream.seek(0)
    what = contents(stream.read(132))
    raise NotAPicture(f"{what + ', ' if what else ''}not a picture in a supported format ({', '.join(FORMATS)})")


def _refuse_raw(image: Any, prefix: bytes) -> None:
    """Refuse the raw file of a camera, which begins like a TIFF file. Pillow would read its small preview.

    Raises:
        NotAPicture: The file has the mark of Canon, the version tag of DNG, or a preview before other pictures.
    """
    if image.format != "TIFF":
        return
    tags = image.tag_v2
    is_preview = tags.get(_SUBFILE_TYPE) == 1 and _SUB_PICTURES in tags
    if prefix[8:10] == b"CR" or _DNG_VERSION in tags or is_preview:
        raise NotAPicture(RAW)


def is_heic(prefix: bytes) -> bool:
    """Return whether a file that starts with `prefix` is a HEIC picture.

    HEIC and AVIF share a container format, which starts with a list of brands. Some brands occur only in HEIC files.
    """
    end = min(int.from_bytes(prefix[:4], "big"), len(prefix))
    brands = {prefix[start : start + 4] for start in (8, *range(16, end, 4))}
    return prefix[4:8] == b"ftyp" and bool(brands & _HEIC)


def _open_heic(stream: BinaryIO) -> Any:
    try:
        parser = importlib.import_module("pillow_heif.as_plugin").HeifImageFile
    except ImportError:
        raise NotAPicture(
            "a HEIC picture, as iPhones save them. To read it, run: pip install pillow-heif. "
            "Otherwise, convert it to JPEG"
        ) from None
    stream.seek(0)
    try:
        return strict(parser)(stream, "")
    except SyntaxError as error:
        raise CorruptPicture(f"damaged: {error}") from None


def is_jpeg(image: Any) -> bool:
    """Return whether an image is the first picture of a JPEG file whose pixels have not been loaded."""
    tile = getattr(image, "tile", None) or [("", (), -1, "")]
    return image.format in ("JPEG", "MPO") and tile[0][0] == "jpeg" and tile[0][2] == 0


def load(image: Any, jpeg: tuple[bytes, _jpeg.Layout] | None = None) -> None:
    """Load the pixels of an image, and refuse a file that is damaged or ends early.

    Args:
        image: A Pillow image. It may be loaded already, and then nothing happens.
        jpeg: The bytes and the layout of the file, if it is a JPEG.

    Raises:
        CorruptPicture: If the file is damaged or ends early. The errors of Pillow's parsers mean the same.
    """
    if jpeg:
        _jpeg.load(image, *jpeg)
        return
    stream: Any = getattr(image, "fp", None)
    tile = getattr(image, "tile", None)
    if image.format == "PNG" and tile:
        _scale_transparent_level(image, tile[0][3])
    if stream is not None and tile and image.format == "PNG":
        _check_png(stream)
    elif stream is not None and tile and image.format == "TIFF":
        compression = image.tag_v2.get(_COMPRESSION)
        if compression == _NEW_JPEG:
            _check_tiff(stream, image.tag_v2)
        elif compression in _DEFLATE:
            _check_deflate(stream, image)
    image.load()


def load_lazy(image: Any) -> None:
    """Load an image that a program has opened with `Image.open`, by the rules of `load`.

    Raises:
        CorruptPicture: If the file is damaged or ends early.
    """
    stream = getattr(image, "fp", None)
    if stream is None:
        image.load()
    elif is_jpeg(image):
        data = _jpeg.read_file(stream)
        load(image, (data, _jpeg.read_layout(data)))
        if image._exclusive_fp and image._close_exclusive_fp_after_loading:
            stream.close()
    else:
        if image.format == "ICO" and not stream.closed:
            # Pillow loads icons while it opens them, and the switch may have been set.
            stream.seek(0)
            load(open_picture(stream))
        opened: Any = type(image)
        try:
            image.__class__ = strict(opened)
            load(image)
        finally:
            image.__class__ = opened


def _scale_transparent_level(image: Any, raw_mode: Any) -> None:
    """Scale the gray level or color that a PNG declares as transparent to 8 bits, as Pillow does with its pixels."""
    key = image.info.get("transparency")
    if isinstance(key, int) and raw_mode in ("L;2", "L;4"):
        image.info["transparency"] = key * (85 if raw_mode == "L;2" else 17)
    elif isinstance(key, tuple) and raw_mode == "RGB;16B":
        image.info["transparency"] = tuple(level >> 8 for level in key)


def _check_png(stream: BinaryIO) -> None:
    """Raise CorruptPicture if a checksum of the coded data of a PNG is wrong. Pillow does not compare them."""
    place = stream.tell()
    stream.seek(8)
    while len(head := stream.read(8)) == 8 and head[4:] != b"IEND":
        length = int.from_bytes(head[:4], "big")
        if head[4:] != b"IDAT":
            stream.seek(length + 4, io.SEEK_CUR)
            continue
        data, checksum = stream.read(length), stream.read(4)
        # Pillow refuses data that end early, and says so. A file that lacks only the last checksum is complete.
        if len(checksum) == 4 and zlib.crc32(data, zlib.crc32(b"IDAT")) != int.from_bytes(checksum, "big"):
            raise CorruptPicture("a checksum of the coded data is wrong")
    stream.seek(place)


def _check_tiff(stream: BinaryIO, tags: Any) -> None:
    """Raise CorruptPicture if a strip or tile of a TIFF is a JPEG that ends early. libtiff fills it with gray."""
    place = stream.tell()
    tables = bytes(tags.get(_JPEG_TABLES, b""))
    for offsets, lengths in _PARTS:
        for offset, length in zip(_numbers(tags, offsets), _numbers(tags, lengths), strict=False):
            stream.seek(offset)
            part = stream.read(length)
            if len(part) < length or not part.startswith(JPEG[:2]):
                raise CorruptPicture(_jpeg.ENDS_EARLY)
            data = tables[:-2] + part[2:] if tables else part
            try:
                image = importlib.import_module("PIL.JpegImagePlugin").JpegImageFile(io.BytesIO(data))
            except SyntaxError:
                # Pillow knows no JPEG of 2 channels, for example. libtiff has the last word.
                continue
            _jpeg.load(image, data, _jpeg.read_layout(data))
    stream.seek(place)


def _check_deflate(stream: BinaryIO, image: Any) -> None:
    """Raise CorruptPicture if a checksum of a strip or tile of a TIFF is wrong. libtiff stops before it reads them."""
    place = stream.tell()
    # The pixels of the whole picture, with 4 channels of 8 bytes, bound what the parts can expand to.
    left = 32 * image.width * image.height + _PIECE
    for offsets, lengths in _PARTS:
        for offset, length in zip(_numbers(image.tag_v2, offsets), _numbers(image.tag_v2, lengths), strict=False):
            stream.seek(offset)
            data, inflater = stream.read(length), zlib.decompressobj()
            try:
                while data and not inflater.eof and left > 0:
                    left -= len(inflater.decompress(data, _PIECE))
                    data = inflater.unconsumed_tail
            except zlib.error:
                raise CorruptPicture("a checksum of the coded data is wrong, or they are damaged") from None
    stream.seek(place)


def _numbers(tags: Any, tag: int) -> tuple[int, ...]:
    value = tags.get(tag, ())
    return value if isinstance(value, tuple) else (value,)
