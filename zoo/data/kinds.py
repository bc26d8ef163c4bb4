"""Decides by its name or its first bytes whether a file is a picture, and says how to convert what zoo cannot read.

`zoo_runtime` decodes pictures, and knows which formats it reads.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from zoo_runtime import SUFFIXES

_HEIC = (
    "run `pip install pillow-heif` to read them, or convert them to JPEG, for example with "
    "`magick mogrify -format jpg *.HEIC`"
)
_RAW = "export them as JPEG with the program of the camera, darktable or RawTherapee"
_DRAWING = "export them as PNG or JPEG with the program that made them"
_OTHER = "convert them to JPEG or PNG, for example with `magick mogrify -format png FILE`"
# Pictures that zoo cannot read, by the ending of their names, and how to convert them.
CONVERT = {
    **dict.fromkeys((".heic", ".heif", ".heics", ".heifs", ".hif"), _HEIC),
    **dict.fromkeys((".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".dng", ".raf", ".orf"), _RAW),
    **dict.fromkeys((".rw2", ".pef", ".srw", ".x3f", ".erf", ".mrw", ".3fr", ".iiq", ".rwl", ".raw"), _RAW),
    **dict.fromkeys((".psd", ".psb", ".xcf", ".kra", ".ai", ".eps", ".svg", ".svgz", ".cdr", ".pdf"), _DRAWING),
    **dict.fromkeys((".jxl", ".jxr", ".wdp", ".hdr", ".exr", ".dds", ".djvu", ".pcx", ".sgi", ".xpm", ".xbm"), _OTHER),
    **dict.fromkeys((".dcm", ".dicom"), "convert them to PNG, for example with `dcm2pnm` of DCMTK"),
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
    rb"|P[4-6]\s+\d+\s+\d+\s|8BPS",
    re.DOTALL,
)


def is_picture(path: Path, beside: Collection[str]) -> bool:
    """Return whether a file is meant to be a picture, whether zoo can read it or not.

    The ending of the name decides if it is known. Otherwise the first bytes of the file decide.

    Args:
        path: The path of the file. A broken link without a known ending counts as a picture, so that it is reported.
        beside: The names of all files in the same folder, in lower case. A raw file is not a picture of its own if the
            same picture stands beside it in a format that zoo reads.
    """
    ending = path.suffix.lower()
    if not is_readable(path):
        stem = path.stem.lower()
        return not any(stem + readable in beside for readable in SUFFIXES - CONVERT.keys())
    if ending in SUFFIXES:
        return True
    if ending in _NOT_PICTURES:
        return False
    try:
        with path.open("rb") as stream:
            return _SIGNATURES.match(stream.read(32)) is not None
    except (OSError, ValueError):
        return True


def is_readable(path: Path) -> bool:
    """Return whether zoo can read pictures of a file's kind, judging by the ending of its name."""
    ending = path.suffix.lower()
    return ending not in CONVERT or (CONVERT[ending] == _HEIC and _reads_heic())


@cache
def _reads_heic() -> bool:
    return find_spec("pillow_heif") is not None


def conversion_advice(bad: Mapping[str, str]) -> str:
    """Say how to convert the unreadable files that are pictures in formats that zoo cannot read.

    Args:
        bad: Maps the name of each unreadable file to the reason.

    Returns:
        A sentence for each way of converting, or an empty text. A reason that names a way itself gets no advice.
    """
    endings: dict[str, Counter[str]] = {}
    for name, why in bad.items():
        ending = Path(name).suffix.lower()
        if not is_readable(Path(name)) and "pillow-heif" not in why:
            endings.setdefault(CONVERT[ending], Counter())[ending] += 1
    sentences = [
        f"{' and '.join(f'{count} {ending}' for ending, count in counts.items())} "
        f"{'file is' if counts.total() == 1 else 'files are'} in a format that zoo cannot read: {way}."
        for way, counts in endings.items()
    ]
    return " ".join(sentences)
