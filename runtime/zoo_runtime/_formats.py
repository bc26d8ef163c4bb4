"""Opens picture files of the supported formats, and loads their pixels or refuses them.

`load` refuses damage that Pillow overlooks: `zoo_runtime._jpeg` does so for JPEG, `_png`, `_tiff` and `_jpeg2000` for
their formats. `open_picture` refuses files that Pillow would read for minutes. `zoo_runtime._strict` makes Pillow's own
checks independent of its global switches. `zoo_runtime._choice` says which formats are read.

HEIC pictures are read where the package pillow-heif is installed.
"""

from __future__ import annotations

import importlib
import struct
from collections.abc import Sequence
from typing import Any, BinaryIO

from PIL import Image

from . import _jpeg
from ._choice import DEFAULT_FORMATS, FORMATS, PILLOW_NAMES, not_chosen, readable_name
from ._errors import CorruptPicture, NotAPicture, UnsupportedPicture
from ._given import RAW, contents
from ._strict import strict

# Other formats of Pillow are left out: some need an external program (EPS), and the parsers of others are little
# tested. The parser of TGA tries every file, and so comes last.
_ORDER = ("jpeg", "png", "gif", "bmp", "ppm", "webp", "tiff", "avif", "jpeg2000", "ico", "dib", "tga")
JPEG = b"\xff\xd8\xff"
_ENDINGS = "jpg jpeg jpe jfif mpo png apng gif bmp dib ppm pgm pbm pnm webp tif tiff avif jp2 j2k jpx ico tga"
SUFFIXES = frozenset(f".{ending}" for ending in f"{_ENDINGS} heic heif hif".split())
"""File name endings of the supported formats, in lower case. HEIC belongs to them even if pillow-heif is missing."""

_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"}
# https://helpx.adobe.com/camera-raw/digital-negative.html
_SUBFILE_TYPE, _SUB_PICTURES, _DNG_VERSION = 254, 330, 50706
_PROGRAMS = ("EPS", "WMF", "MIC", "FPX")


def open_picture(stream: BinaryIO, formats: Sequence[str] = FORMATS) -> Any:
    """Open a picture file as `Image.open` does, but without a limit on its size and with more precise errors.

    `Image.open` warns above 89 megapixels and refuses above 179, whatever `max_pixels` says. This function accepts any
    size, and the caller then checks it. If a parser accepts the format but refuses the file, such as a truncated TIFF,
    `Image.open` only says "cannot identify image file". The errors of this function state the parser's reason.

    Args:
        stream: The file, opened in binary mode, at its beginning.
        formats: The formats to read, from `zoo_runtime._choice.FORMATS`.

    Returns:
        A Pillow image whose pixels have not been loaded.

    Raises:
        NotAPicture: If the file is empty, or its format is not supported, or is not among `formats`.
        CorruptPicture: If the parser of the file's format refuses the file, or would take very long.
        UnsupportedPicture: If the stream was opened in text mode.
    """
    prefix = stream.read(64)
    if isinstance(prefix, str):
        raise UnsupportedPicture("opened as text; open the file in binary mode, with 'rb'")
    if not prefix:
        raise NotAPicture("the file is empty")
    if is_heic(prefix):
        if "heic" not in formats:
            raise NotAPicture(not_chosen("heic", formats))
        return _open_heic(stream)
    prefix = prefix[:16].ljust(16, b"\0")
    if prefix.startswith(JPEG):
        # Loading only this parser takes a fifth of the time, which matters if a process labels one picture.
        importlib.import_module("PIL.JpegImagePlugin")
    else:
        Image.preinit()
    refusal = None
    for name in _ORDER:
        pillow_name = PILLOW_NAMES[name]
        if pillow_name not in Image.OPEN:
            Image.init()
        if pillow_name not in Image.OPEN:
            continue
        factory, accept = Image.OPEN[pillow_name]
        accepted = accept is None or accept(prefix)
        if isinstance(accepted, str):
            raise NotAPicture(f"this Pillow was built without {pillow_name} support ({accepted})")
        if not accepted or (accept is None and name not in formats):
            continue
        if name not in formats:
            raise NotAPicture(not_chosen(name, formats))
        try:
            _refuse_endless(name, stream)
            stream.seek(0)
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
    if what:
        raise NotAPicture(f"{what}, not a picture in a supported format ({_named(formats)})")
    raise NotAPicture(f"not a picture in a supported format ({_listed(formats)})")


def _named(formats: Sequence[str]) -> str:
    return ", ".join(map(readable_name, formats))


def _listed(formats: Sequence[str]) -> str:
    # TGA has no signature, so any file of unknown content may be one.
    names = _named(formats)
    return names if tuple(formats) != DEFAULT_FORMATS else f"{names}; formats=('default', 'tga') also reads TGA"


def _refuse_endless(name: str, stream: BinaryIO) -> None:
    """Refuse a file whose header Pillow would read for very long. See the modules of the formats."""
    if name == "jpeg":
        _jpeg.refuse_endless_head(stream)
    elif name == "png":
        from . import _png

        _png.refuse_endless(stream)
    elif name == "tiff":
        from . import _tiff

        _tiff.refuse_endless(stream)
    elif name in ("gif", "ppm"):
        from . import _headers

        (_headers.refuse_endless_gif if name == "gif" else _headers.refuse_endless_ppm)(stream)
    elif name == "jpeg2000":
        from . import _jpeg2000

        _jpeg2000.check(stream)


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
        _load_png(stream, image)
        return
    if stream is not None and tile and image.format == "TIFF":
        from . import _tiff

        _tiff.check(stream, image)
    image.load()


def _load_png(stream: BinaryIO, image: Any) -> None:
    from . import _png

    _png.check_checksums(stream)
    closes, image._close_exclusive_fp_after_loading = image._close_exclusive_fp_after_loading, False
    try:
        image.load()
        _png.check_rows(stream, image)
    finally:
        image._close_exclusive_fp_after_loading = closes
        if closes and image._exclusive_fp:
            stream.close()


def load_lazy(image: Any) -> None:
    """Load an image that a program has opened with `Image.open`, by the rules of `load`.

    Raises:
        CorruptPicture: If the file is damaged or ends early.
    """
    stream = getattr(image, "fp", None)
    if image.format in _PROGRAMS:
        raise UnsupportedPicture(
            f"{image.format} is not read, because Pillow starts another program for it. Save it as PNG first"
        )
    if stream is None:
        image.load()
    elif is_jpeg(image):
        data = _jpeg.read_file(stream)
        load(image, (data, _jpeg.read_layout(data)))
        if image._exclusive_fp and image._close_exclusive_fp_after_loading:
            stream.close()
    else:
        if image.format in ("JPEG2000", "PPM", "GIF") and not stream.closed:
            # Pillow has opened the file already, but the pixels are still in it.
            place = stream.tell()
            if image.format == "JPEG2000":
                _refuse_endless("jpeg2000", stream)
            stream.seek(place)
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
