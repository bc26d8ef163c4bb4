"""Which files are pictures, how to convert what zoo cannot read, and raw and DICOM files in every command."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from zoo_runtime import ImageSpec, NotAPicture, _kinds, decode
from zoo_runtime.cli import main
from zoo_runtime.workshop import is_picture

DICOM = bytes(128) + b"DICM" + bytes(range(250)) * 8


def tiff(**tags: int) -> bytes:
    """A small TIFF file with extra tags, as cameras put previews before their raw pixels."""
    info = TiffImagePlugin.ImageFileDirectory_v2()
    numbers = {"subfile": 254, "pictures": 330, "dng": 50706}
    for name, value in tags.items():
        info[numbers[name]] = value
        info.tagtype[numbers[name]] = 4
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), 99, np.uint8)).save(stream, "TIFF", tiffinfo=info)
    return stream.getvalue()


@pytest.mark.parametrize("installed", [True, False])
def test_only_a_missing_package_is_to_be_installed(monkeypatch, installed):
    monkeypatch.setattr(_kinds, "reads_heic", lambda: installed)
    advice = _kinds.conversion_advice({"a/IMG_1.HEIC": "CorruptPicture: damaged", "a/x.CR2": "NotAPicture: raw"})
    assert ("pip install pillow-heif" in advice) is not installed
    assert "1 .cr2 file is camera raw, a format that zoo cannot read: export them as JPEG" in advice


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tiff(dng=1), "camera raw"),
        (tiff(subfile=1, pictures=8), "camera raw"),
        (tiff()[:4] + len(tiff()).to_bytes(4, "little") + b"CR\2\0" + tiff()[12:] + tiff()[8:], "camera raw"),
        (b"FUJIFILMCCD-RAW 0201" + bytes(400), "camera raw"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(400), "camera raw"),
        (DICOM, "DICOM"),
    ],
)
def test_raw_and_dicom_files_are_said_and_never_read_as_their_preview(content, message):
    with pytest.raises(NotAPicture, match=message):
        decode(content, ImageSpec((8, 8)))


def test_plain_tiff_files_are_read():
    for content in (tiff(), tiff(subfile=1), tiff(subfile=0)):
        assert decode(content, ImageSpec((8, 8))).mean() == 99


def test_what_is_a_picture(tmp_path):
    png = io.BytesIO()
    Image.new("RGB", (4, 4)).save(png, "PNG")
    files = {"a": png.getvalue(), "b.jpg_large": png.getvalue(), "c": b"text", "IM0001": DICOM, "d.txt": png.getvalue()}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert {name for name in files if is_picture(tmp_path / name)} == {"a", "b.jpg_large", "IM0001"}
    assert is_picture(tmp_path / "x.cr2") and not is_picture(tmp_path / "x.cr2", {"x.jpg"})


def test_prediction_says_what_raw_and_dicom_files_are(model, tmp_path, capsys):
    Image.fromarray(np.full((8, 8, 3), (250, 0, 0), np.uint8)).save(tmp_path / "a.png")
    for name in ("1.CR2", "2.NEF", "3.dcm", "a.dng"):
        (tmp_path / name).write_bytes(b"x" * 100)
    (tmp_path / "IM0001").write_bytes(DICOM)
    assert main(["predict", str(model), str(tmp_path), "--json"]) == 1
    out, err = capsys.readouterr()
    found = {line["path"].rpartition("/")[2]: line for line in map(json.loads, out.splitlines())}
    assert found["a.png"]["label"] == "red" and "DICOM" in found["IM0001"]["message"] and len(found) == 2
    assert "passed over: 1 .cr2, 1 .dcm, 1 .dng, 1 .nef" in err
    # a.dng needs no advice, because a.png is the same picture.
    assert "1 .cr2 and 1 .nef files are camera raw, a format that zoo cannot read: export them as JPEG" in err
    assert "dcm2pnm" in err
