"""Recognizes what people give in place of a picture, and says what it is and what to do.

`decode` calls `accept` before it decodes anything.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ._errors import NotAPicture, PictureNotFound, UnsupportedPicture

if TYPE_CHECKING:
    import numpy.typing as npt

# Linux allows 4096 bytes, and other systems fewer.
LONGEST_PATH = 4096
LONGEST_SHOWN = 300
_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*", b"RIFF", b"\0\0\0")
# Patterns that are compiled on use, because importing this module must be quick.
_BASE64 = rb"[A-Za-z0-9+/_\s-]+"
_FORMS = "a path, bytes, a binary file, a uint8 array or a Pillow image"
_ELLIPSIS = "…"


def accept(source: Any) -> Any:
    """Return a picture in the form in which `decode` reads it, or raise an error that says what was given instead.

    Paths that begin with `~` and `file://` addresses become paths. Everything else is returned as it is. A path is
    looked up only if it has an unusual form, because `decode` opens it next.

    Args:
        source: What the user gave.

    Raises:
        PictureNotFound: If it is a web address, a data URL, or text that is too long for a path.
        NotAPicture: If it is base64 text as bytes, or a file object with nothing left to read.
        UnsupportedPicture: If it is an object that is not a picture, an array of another dtype or shape, or a closed
            file or image.
    """
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        changed = _path(path) if isinstance(path, str) else path
        return source if changed == path else changed
    if isinstance(source, np.ndarray):
        _check_array(source)
    elif isinstance(source, Image.Image):
        _check_image(source)
    elif isinstance(source, (bytes, bytearray, memoryview)):
        # Most formats begin with bytes that are not text.
        if all(32 <= byte < 127 for byte in bytes(source[:3])):
            _check_bytes(bytes(source[:LONGEST_PATH]), len(source))
    elif hasattr(source, "read"):
        _check_file(source)
    else:
        raise UnsupportedPicture(_what(source))
    return source


def local_path(text: str) -> str:
    """Turn a `file://` address, and a path that begins with `~`, into a path. Other text is returned as it is.

    Raises:
        PictureNotFound: If the text is an address of another kind, such as https://.
    """
    if text.startswith("~") and not os.path.lexists(text):
        return os.path.expanduser(text)
    address = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", text)
    if not address or os.path.lexists(text):
        return text
    if address[1].lower() != "file":
        raise PictureNotFound(
            f"{shortened(text)}: an address, not a file. Download the picture first, and give its path."
        )
    from urllib.parse import unquote, urlsplit

    path = unquote(urlsplit(text).path, errors="surrogateescape")
    return path[1:] if re.match(r"/[A-Za-z]:", path) else path


def is_address(text: str) -> bool:
    """Return whether a text is a web address, http:// or https://, and not the name of a file."""
    return text[:8].lower().startswith(("http://", "https://")) and not os.path.lexists(text)


def is_pattern(text: str) -> bool:
    """Return whether a path is a pattern for several files, such as `photos/*.jpg`, which no file has as its name."""
    return any(sign in text for sign in "*?[") and not os.path.lexists(text)


def shortened(text: str, limit: int = LONGEST_SHOWN) -> str:
    """Return a text for a message: as it is, or its start and its length if it has more than `limit` characters."""
    shown = text.encode("utf-8", "backslashreplace").decode()
    return (shown or "''") if len(shown) <= limit else f"{shown[:40]}{_ELLIPSIS} ({len(text):,} characters)"


def not_opened(path: str | bytes, error: OSError | ValueError) -> PictureNotFound:
    """Return the error to raise for a picture file that cannot be opened.

    Args:
        path: The path of the file.
        error: Why it cannot be opened. A name with a zero byte, which no file can have, raises ValueError.
    """
    text = os.fsdecode(path)
    name = shortened(text)
    if os.path.isdir(text):
        return PictureNotFound(
            f"{name}: cannot be read: it is a folder. `Predictor.predict_folder` and `zoo-runtime predict` label "
            "the pictures in it."
        )
    if looks_like_base64(text.encode("utf-8", "surrogateescape")):
        return PictureNotFound(f"{name}: base64 text, not a path. Decode it with base64.b64decode, and pass the bytes.")
    if len(text) > LONGEST_PATH:
        return PictureNotFound(f"{name}: cannot be read: the text is too long for a path")
    reason = f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}"
    if text == "-":
        reason += ". Only the commands take - for standard input; in a program, pass sys.stdin.buffer"
    elif is_pattern(text):
        reason += ". It looks like a pattern; in a program, pass sorted(glob.glob(pattern))"
    return PictureNotFound(reason)


def looks_like_base64(data: bytes) -> bool:
    """Return whether bytes are probably the base64 text of a picture.

    The text must begin as the base64 text of a known picture format does.
    """
    if len(data) < 24 or not re.fullmatch(_BASE64, data[:LONGEST_PATH].rstrip(b"=\r\n\t ")):
        return False
    import base64
    import binascii

    head = b"".join(data[:200].split())[:64].translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
    try:
        start = base64.b64decode(head[: len(head) // 4 * 4], validate=True)
    except binascii.Error:
        return False
    return start.startswith(_STARTS) or (start.startswith(b"BM") and len(data) > 200)


RAW = "a camera raw file, which must be exported as JPEG with the program of the camera or darktable"
"""What the raw files of cameras are called in errors."""

# Fujifilm, Olympus, Panasonic, Minolta, Sigma. Those of other makers begin like TIFF files.
_RAW = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"\0MRM", b"FOVb")


def contents(prefix: bytes) -> str:
    """Return what a file is that is not a picture, judging by its first bytes, or "" if that is unknown."""
    if prefix[128:132] == b"DICM":
        return "a DICOM file (X-ray, CT, MRI), which must be converted to PNG"
    if prefix.startswith(_RAW) or prefix[4:12] == b"ftypcrx " or prefix[6:14] == b"HEAPCCDR":
        return RAW
    prefix = prefix.rstrip(b"\0")
    text = prefix.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html")):
        return "a web page"
    if text.startswith((b"<svg", b"<?xml")):
        return "an SVG drawing or another XML file"
    if text.startswith(b"data:"):
        return "a data: URL as text"
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer; run `git lfs pull`"
    known = (
        (b"%PDF", "a PDF file"),
        (b"PK\3\4", "a ZIP archive"),
        (b"\x1f\x8b", "a gzip archive"),
        (b"\x93NUMPY", "a file of NumPy arrays; pass numpy.load(path)"),
        (b"8BPS", "a Photoshop file"),
        (b"\x1aE\xdf\xa3", "a video"),
    )
    for start, what in known:
        if prefix.startswith(start):
            return what
    if prefix[4:8] == b"ftyp" and prefix[8:11] in (b"qt ", b"iso", b"mp4", b"M4V", b"avc", b"3gp"):
        return "a video"
    if prefix and all(byte in b"\t\n\r\f" or 32 <= byte < 127 for byte in prefix):
        return "a text file"
    return ""


def _path(path: str) -> str:
    if path[:5].lower() == "data:" and not os.path.lexists(path):
        raise PictureNotFound(
            f"{shortened(path, 60)}: a data: URL, not a path. Decode the part after the comma with base64.b64decode, "
            "and pass the bytes."
        )
    return local_path(path) if path.startswith("~") or "://" in path else path


def _check_bytes(start: bytes, size: int) -> None:
    if start[:5].lower() == b"data:":
        raise NotAPicture(
            "the data given: a data: URL, not a picture. Decode the part after the comma with base64.b64decode, "
            "and pass the result."
        )
    if looks_like_base64(start):
        raise NotAPicture(
            f"the data given: base64 text ({size:,} bytes), not a picture. Decode it with base64.b64decode, "
            "and pass the result."
        )
    if 0 < size < LONGEST_PATH and b"\0" not in start and os.path.isfile(start):
        raise NotAPicture(
            f"the data given: the path of a file, not its content. Pass it as text: os.fsdecode({start!r:.200})."
        )


def _check_file(file: Any) -> None:
    """Refuse a file object that is closed, or that stands at its end although the file is not empty."""
    if getattr(file, "closed", False) is True:
        raise UnsupportedPicture("the file given: it is closed. Open it again, or pass its path.")
    try:
        position = file.tell() if file.seekable() else 0
        if position:
            end = file.seek(0, os.SEEK_END)
            file.seek(position)
            if position >= end:
                raise NotAPicture(
                    "the file given: nothing is left to read, because it stands at its end. Call its seek(0) first."
                )
    except (AttributeError, OSError, TypeError):
        # Not every object with a method `read` has the others.
        return


def _check_image(image: Image.Image) -> None:
    """Refuse a Pillow image without pixels, one closed before its pixels were loaded, or one whose file was closed."""
    if 0 in image.size:
        width, height = image.size
        raise UnsupportedPicture(f"the image: it has no pixels. Received size: {width} x {height}.")
    try:
        closed = image.im is None
    except ValueError:
        closed = True
    except (AssertionError, AttributeError):
        # Pixels that wait in a file are listed in `tile`. Some formats read the whole file when they are opened.
        file = getattr(image, "fp", None)
        closed = bool(getattr(image, "tile", None)) and (file is None or getattr(file, "closed", False) is True)
    if closed:
        raise UnsupportedPicture(
            "the image: it is closed. Pass the path, or call the image's load() before it is closed."
        )


def _check_array(array: npt.NDArray[Any]) -> None:
    """Refuse an array that is not uint8 (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), and say how to convert it."""
    shape = array.shape
    if 0 in shape:
        raise UnsupportedPicture(f"the array: it has no pixels. Received shape: {shape}.")
    if array.ndim == 4:
        one = " or predictor(batch[0])" if shape[0] == 1 else ""
        raise UnsupportedPicture(
            f"the array: a batch of {shape[0]} is not one picture. Call predictor(list(batch)){one}. "
            f"Received shape: {shape}."
        )
    fitting = array.ndim == 2 or (array.ndim == 3 and shape[2] in (1, 3, 4))
    first = array.ndim == 3 and not fitting and shape[0] in (1, 3, 4)
    if not fitting and not first:
        alpha = " For gray with alpha, pass array[:, :, 0]." if array.ndim == 3 and shape[2] == 2 else ""
        raise UnsupportedPicture(
            f"the array: an array must have shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4). Received: {shape}.{alpha}"
        )
    turned = "array.transpose(1, 2, 0)" if first else "array"
    if array.dtype != np.uint8:
        raise UnsupportedPicture(
            f"the array: an array must be uint8 with values 0..255. Received: {array.dtype} {shape}. "
            + _conversion(array, turned)
        )
    if first:
        raise UnsupportedPicture(
            f"the array: its channels come first, shape {shape}, but must come last. Pass {turned}."
        )


def _conversion(array: npt.NDArray[Any], turned: str) -> str:
    """Return a sentence that says how to convert an array to uint8.

    Args:
        array: The array. Its dtype is not uint8.
        turned: The Python expression for the array with its channels last.
    """
    if array.dtype == np.bool_:
        return f"Pass {turned}.astype('uint8') * 255."
    if array.dtype.kind not in "iuf":
        return "Pass numpy.asarray(picture, 'uint8'), or a list of arrays for several pictures."
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all():
        return "Some of its values are not finite numbers."
    values = f"Its values run from {low:.4g} to {high:.4g}."
    if not (low >= 0 and high <= 65535):
        return f"{values} If they were normalized for another network, pass the pixels from before that."
    rounded = f"{turned}.round()" if array.dtype.kind == "f" else turned
    if array.dtype.kind == "f" and high <= 1:
        return f"{values} Pass ({turned} * 255).round().astype('uint8')."
    if high <= 255:
        return f"{values} Pass {rounded}.astype('uint8')."
    bits = next(bits for bits in (10, 12, 14, 16) if high < 2**bits)
    return f"{values} If they have {bits} bits, pass ({turned} * (255 / {2**bits - 1})).round().astype('uint8')."


def _what(source: object) -> str:
    """Return a message that says what an object is that is not a picture, and what to do."""
    name = type(source).__name__
    received = f"a picture must be {_FORMS}. Received: {name}"
    if source is None:
        return (
            f"{received[:-8]}None. cv2.imread returns None if it cannot read a file: check the path, or pass the path."
        )
    if isinstance(source, Mapping):
        keys = [key for key in source if isinstance(key, str)][:3]
        return f"{received}. Pass one of its values" + (f", such as picture[{keys[0]!r}]." if keys else ".")
    if isinstance(source, (bool, int, float)):
        return f"{received} ({source!r:.40})."
    if isinstance(source, (list, tuple)):
        return f"{received}. For pixels, pass numpy.array(pixels, 'uint8')."
    if hasattr(source, "__array__"):
        return f"{received}. Convert it to a uint8 array (height, width, 3) with numpy.asarray."
    if isinstance(source, Iterable):
        return f"{received}. For many pictures, use predictor.predict_each(pictures) or pass a list."
    return f"{received}."
