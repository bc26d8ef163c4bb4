"""Test which formats are read: the common ones, those that were asked for, and no others."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from zoo_runtime import DEFAULT_FORMATS, FORMATS, ImageSpec, NotAPicture, Predictor, cli, decode, highest_level

SPEC = ImageSpec((8, 8))


def picture(format: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 10, 10)).save(out, format)
    return out.getvalue()


PILLOW = {"jpeg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP", "tiff": "TIFF", "ppm": "PPM"}
RARE = {"jpeg2000": "JPEG2000", "ico": "ICO", "tga": "TGA", "dib": "DIB"}


@pytest.mark.parametrize("name", PILLOW)
def test_common_formats_are_read_unless_others_are_named(name):
    data, others = picture(PILLOW[name]), [each for each in FORMATS if each != name]
    assert decode(data, SPEC).shape == (8, 8, 3)
    assert decode(data, SPEC, formats=[name.upper()]).shape == (8, 8, 3)
    with pytest.raises(NotAPicture, match=rf"which was not asked for; formats=\(.*'{name}'\) reads it"):
        decode(data, SPEC, formats=others)


@pytest.mark.parametrize("name", RARE)
def test_rare_formats_are_read_only_if_they_are_asked_for(name):
    data = picture(RARE[name])
    with pytest.raises(NotAPicture, match=r"formats=\('default', '\w+'\)"):
        decode(data, SPEC)
    for formats in ((name,), ("default", name), ["all"]):
        assert decode(data, SPEC, formats=formats).shape == (8, 8, 3)
    with pytest.raises(NotAPicture):
        highest_level(data)
    assert highest_level(data, formats=["all"]) is None


def test_formats_limit_files_and_not_what_a_program_has_decoded():
    image = Image.open(io.BytesIO(picture("JPEG2000")))
    assert decode(image, SPEC, formats=["png"]).shape == (8, 8, 3)
    assert decode(np.zeros((9, 9, 3), np.uint8), SPEC, formats=["png"]).shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (["jpge"], ValueError, "Received: 'jpge'. Did you mean 'jpeg'"),
        ([], ValueError, "at least one"),
        (["eps"], ValueError, "among jpeg, png"),
        ("jpeg", TypeError, r"such as \('jpeg', 'png'\)"),
        (3, TypeError, "list of names"),
        ([None], ValueError, "Received: None"),
    ],
)
def test_values_that_are_refused(model, value, error, message):
    with pytest.raises(error, match=message):
        decode(picture("PNG"), SPEC, formats=value)
    with pytest.raises(error, match=message):
        Predictor(model, formats=value)


def test_a_predictor_keeps_its_formats(model):
    predictor = Predictor(model, formats=["jpg", "png"])
    assert predictor.formats == ("jpeg", "png")
    assert isinstance(next(predictor.predict_each([picture("GIF")])), NotAPicture)
    predictor.formats = None
    assert predictor.formats == DEFAULT_FORMATS and predictor(picture("GIF")).label == "red"


def test_the_option(model, tmp_path, capsys):
    path = tmp_path / "red.jp2"
    path.write_bytes(picture("JPEG2000"))
    assert cli.main(["predict", str(model), str(path)]) == 1
    assert "--formats default,jpeg2000 reads it" in capsys.readouterr().err
    assert cli.main(["predict", str(model), str(path), "--formats", "default,jp2"]) == 0
    assert capsys.readouterr().out.startswith(f"{path}: red ")
    with pytest.raises(SystemExit):
        cli.main(["predict", str(model), str(path), "--formats", "jpge"])
    assert "Did you mean 'jpeg'" in capsys.readouterr().err
