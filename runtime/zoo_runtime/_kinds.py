"""Decides by its name or its first bytes whether a file is meant to be a picture, and says how to convert other kinds.

Training and `predict` use the same rules, so that both read the same files of a folder. Nothing is decoded here.
"""

from __future__ import annotations

import functools
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from importlib.util import find_spec

from ._formats import SUFFIXES

_HEIC = (
    "HEIC pictures of a phone, a format that zoo cannot read without pillow-heif",
    "run `pip install pillow-heif` to read them, or convert them to JPEG, for example with "
    "`magick mogrify -format jpg *.HEIC`",
)
_RAW = (
    "camera raw, a format that zoo cannot read",
    "export them as JPEG with the program of the camera, darktable or RawTherapee",
)
_DRAWING = (
    "of a drawing program, in a format that zoo cannot read",
    "export them as PNG or JPEG with the program that made them",
)
_OTHER = (
    "in a format that zoo cannot read",
    "convert them to JPEG or PNG, for example with `magick mogrify -format png FILE`",
)
_DICOM = (
    "DICOM, the format of X-ray, CT and MRI machines, which zoo cannot read",
    "convert them to PNG, for example with `dcm2pnm --write-png IN OUT` of DCMTK",
)
DICOM_ENDING = ".dcm"
# What the pictures are that zoo cannot read, and how to convert them, by the ending of their names.
_CONVERT = {
    **dict.fromkeys((".heic", ".heif", ".heics", ".heifs", ".hif"), _HEIC),
    **dict.fromkeys((".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".dng", ".raf", ".orf"), _RAW),
    **dict.fromkeys((".rw2", ".pef", ".srw", ".x3f", ".erf", ".mrw", ".3fr", ".iiq", ".rwl", ".raw"), _RAW),
    **dict.fromkeys((".psd", ".psb", ".xcf", ".kra", ".ai", ".eps", ".svg", ".svgz", ".cdr", ".pdf"), _DRAWING),
    **dict.fromkeys((".jxl", ".jxr", ".wdp", ".hdr", ".exr", ".dds", ".djvu", ".pcx", ".sgi", ".xpm", ".xbm"), _OTHER),
    **dict.fromkeys((DICOM_ENDING, ".dicom"), _DICOM),
}
# Endings of files that are not pictures, so that their content need not be read. A .thm is the preview of a video.
_OTHER_ENDINGS = (
    "txt csv tsv json jsonl ndjson geojson xml yaml yml toml ini cfg conf log md rst rtf html htm mhtml css js ts "
    "py pyc ipynb sh bat ps1 c h cpp java r m rb exe dll so zip tar gz tgz bz2 xz zst 7z rar iso "
    "mov mp4 m4v avi mkv webm mpg mpeg 3gp 3g2 mts m2ts wmv flv gifv mp3 wav m4a flac aac ogg oga opus wma aae "
    "xmp thm lrv ctg db sqlite sqlite3 pkl pickle npy npz h5 hdf5 parquet feather arrow tfrecord record mat pt pth "
    "onnx tflite pb ckpt keras safetensors doc docx xls xlsx ppt pptx ods odt odp key url lnk webloc desktop "
    "srt vtt lock bib tex names data cache torrent sha256 md5 idx part"
)
_NOT_PICTURES = frozenset(f".{ending}" for ending in _OTHER_ENDINGS.split())
_SIGNATURES = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP|II\*\x00|MM\x00\*|....ftyp(?:avif|avis|heic|heix|mif1|msf1)"
    rb"|\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51|BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\x00\x00\x00"
    rb"|P[4-6]\s+\d+\s+\d+\s|8BPS|.{128}DICM",
    re.DOTALL,
)


def is_picture(path: str | os.PathLike[str], beside: Collection[str] = ()) -> bool:
    """Return whether a file is meant to be a picture, whether zoo can read it or not.

    The ending of the name decides if it is known. Otherwise the first bytes of the file decide.

    Args:
        path: The path of the file. A broken link without a known ending counts as a picture, so that it is reported.
        beside: The names of all files in the same folder, in lower case. A file that zoo cannot read, such as a raw
            file, is not a picture of its own if the same picture stands beside it in a format that zoo reads.
    """
    stem, ending = os.path.splitext(os.path.basename(os.fspath(path)).lower())
    if not is_readable(path):
        return not any(stem + readable in beside for readable in SUFFIXES - _CONVERT.keys())
    if ending in SUFFIXES:
        return True
    if ending in _NOT_PICTURES:
        return False
    try:
        with open(path, "rb") as stream:
            return _SIGNATURES.match(stream.read(132)) is not None
    except (OSError, ValueError):
        return True


def is_readable(path: str | os.PathLike[str]) -> bool:
    """Return whether zoo can read pictures of a file's kind, judging by the ending of its name."""
    ending = os.path.splitext(os.fspath(path))[1].lower()
    return ending not in _CONVERT or (_CONVERT[ending] is _HEIC and reads_heic())


@functools.cache
def reads_heic() -> bool:
    """Return whether pillow-heif is installed, without importing it."""
    try:
        return find_spec("pillow_heif") is not None
    except ValueError:
        return False


def advice_on(endings: Mapping[str, int]) -> str:
    """Say what pictures are that zoo cannot read, and how to convert them.

    Args:
        endings: Maps each ending, such as ".cr2", to the number of files. Endings of other files are ignored.

    Returns:
        A sentence for each kind, or an empty text.
    """
    kinds: dict[tuple[str, str], Counter[str]] = {}
    for ending, count in endings.items():
        if not is_readable(f"x{ending}"):
            kinds.setdefault(_CONVERT[ending], Counter())[ending] += count
    return " ".join(
        f"{_joined([f'{count:,} {ending}' for ending, count in counts.items()])} "
        f"{'file is' if counts.total() == 1 else 'files are'} {what}: {how}."
        for (what, how), counts in kinds.items()
    )


def _joined(parts: list[str]) -> str:
    """Join words as in a sentence: "1 .nef, 2 .cr2 and 1 .dng"."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def conversion_advice(bad: Mapping[str, str]) -> str:
    """Say how to convert the unreadable files that are pictures in formats that zoo cannot read.

    Args:
        bad: Maps the name of each unreadable file to the reason.

    Returns:
        A sentence for each way of converting, or an empty text. A reason that names a way itself gets no advice.
    """
    return advice_on(Counter(_endings(bad)))


def _endings(bad: Mapping[str, str]) -> Iterable[str]:
    for name, why in bad.items():
        if "pillow-heif" not in why:
            # Files of hospitals often have no ending.
            yield DICOM_ENDING if "DICOM" in why else os.path.splitext(name)[1].lower()
