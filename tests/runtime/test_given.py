"""Test what is said to a user who gives something else than a picture: one short line each, with what to do."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo_runtime import (
    ImageSpec,
    NotAPicture,
    PictureError,
    PictureNotFound,
    Predictor,
    UnsupportedPicture,
    Vote,
    decode,
)
from zoo_runtime.cli import main
from zoo_runtime.workshop import parse_pixels

SPEC = ImageSpec((24, 32))


def saved(kind: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)).save(out, kind)
    return out.getvalue()


def refusal(source: object) -> PictureError:
    with pytest.raises(PictureError) as caught:
        decode(source, SPEC)
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_base64_text_is_called_so_and_never_printed(kind):
    data = saved(kind)
    for text in (base64.b64encode(data), base64.encodebytes(data), base64.urlsafe_b64encode(data)):
        assert isinstance(refusal(text), NotAPicture) and isinstance(refusal(text.decode()), PictureNotFound)
        for given in (text, bytearray(text), text.decode()):
            assert "base64 text" in str(refusal(given)) and "base64.b64decode" in str(refusal(given))
    for url in (b"data:image/x;base64," + base64.b64encode(data), "data:image/x;base64,AAAA"):
        assert "a data: URL" in str(refusal(url)) and "base64.b64decode" in str(refusal(url))


@pytest.mark.parametrize("text", ["photos/2024/holiday", "x" * 200, "Qk", "/9j/photo", "a/b/c" * 700])
def test_paths_are_not_taken_for_base64(text):
    assert "cannot be read" in str(refusal(text)) and "base64" not in str(refusal(text))


def test_a_path_that_exists_is_a_path_whatever_it_looks_like(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = base64.b64encode(saved("JPEG")[:60]).decode().replace("/", "_")
    for odd in (name, "~", "a*b?[c].jpg", "data:1.jpg"):
        Path(odd).write_bytes(saved("JPEG"))
        assert decode(odd, SPEC).shape == (24, 32, 3)


def test_addresses_and_the_home_folder(tmp_path, monkeypatch):
    (tmp_path / "my cat.jpg").write_bytes(saved("JPEG"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    expected = decode(tmp_path / "my cat.jpg", SPEC)
    for given in ("~/my cat.jpg", Path("~/my cat.jpg"), (tmp_path / "my cat.jpg").as_uri()):
        assert np.array_equal(decode(given, SPEC), expected)
    for address in ("https://example.org/cat.jpg", "HTTP://x/y.png", "s3://bucket/cat.jpg"):
        assert "Download the picture first" in str(refusal(address))


def test_a_folder_a_pattern_and_a_dash(tmp_path):
    assert "predict_folder" in str(refusal(tmp_path))
    assert "glob.glob" in str(refusal(f"{tmp_path}/*.jpg"))
    assert "sys.stdin.buffer" in str(refusal("-"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "cv2.imread returns None"),
        (5, "Received: int (5)"),
        ({"image": "cat.jpg"}, "picture['image']"),
        ({}, "one of its values"),
        ([[1, 2], [3, 4]], "numpy.array(pixels, 'uint8')"),
        ((source for source in ["a.jpg"]), "predict_each"),
        ({"a.jpg"}, "predict_each"),
        (object(), "Received: object"),
        (np.uint8(3), "numpy.asarray"),
        (io.StringIO("text"), "opened as text"),
    ],
)
def test_other_objects(given, words):
    error = refusal(given)
    assert isinstance(error, UnsupportedPicture) and words in str(error)


def test_files_and_images_that_are_closed_or_read(tmp_path):
    path = tmp_path / "cat.jpg"
    path.write_bytes(saved("JPEG"))
    with path.open("rb") as closed:
        read = io.BytesIO(closed.read())
    read.seek(0, os.SEEK_END)
    assert "it is closed" in str(refusal(closed))
    assert str(refusal(Image.new("RGB", (0, 5)))) == "the image: it has no pixels. Received size: 0 x 5."
    assert "seek(0)" in str(refusal(read))
    read.seek(0)
    assert decode(read, SPEC).shape == (24, 32, 3)
    with Image.open(path) as left:
        pass
    loaded, opened = Image.open(path), Image.open(path)
    loaded.load()
    loaded.close()
    opened.close()
    for image in (left, loaded, opened):
        assert isinstance(refusal(image), UnsupportedPicture) and "it is closed" in str(refusal(image))


def array(shape: tuple[int, ...] = (24, 32, 3), top: float = 255, dtype: str = "uint8") -> np.ndarray:
    levels = np.linspace(0, top, int(np.prod(shape)))
    return levels.reshape(shape).astype(dtype)


@pytest.mark.parametrize(
    "given",
    [
        array(dtype="float32"),
        array(top=1, dtype="float64"),
        array((3, 24, 32)),
        array((3, 24, 32), top=1, dtype="float32"),
        array(dtype="int64"),
        array(dtype="float32") > 100,
        array(top=4095, dtype="uint16"),
        array((1, 24, 32)),
    ],
)
def test_the_advice_for_an_array_works(given):
    """The expression that the message gives is evaluated, and its result is decoded."""
    message = str(refusal(given))
    expression = message[message.lower().rindex("pass ") + len("pass ") :]
    pixels = eval(expression.rstrip("."), {"array": given, "numpy": np})
    assert pixels.dtype == np.uint8 and pixels.max() == 255
    assert decode(pixels, SPEC).shape == (24, 32, 3)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (array((2, 24, 32, 3)), "a batch of 2"),
        (array((1, 24, 32, 3)), "predictor(batch[0])"),
        (array((24, 32, 2)), "array[:, :, 0]"),
        (array()[:0], "no pixels"),
        (array(dtype="float32") - 128, "normalized for another network"),
        (np.full((4, 4, 3), np.nan), "not finite"),
        (array().astype(object), "list of arrays"),
    ],
)
def test_arrays_that_need_another_thing(given, words):
    assert isinstance(refusal(given), UnsupportedPicture) and words in str(refusal(given))
    assert str(given.shape) in str(refusal(given))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"%PDF-1.7 and more to come", "a PDF file"),
        (b"hello, this is a text", "a text file"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "a video"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    ],
)
def test_files_of_other_kinds_are_named(content, words):
    assert isinstance(refusal(content), NotAPicture)
    assert words in str(refusal(content)) and "not a picture in a supported format" in str(refusal(content))
    assert "TGA" not in str(refusal(content))


def test_a_file_of_unknown_content_may_be_a_tga():
    assert "also reads TGA" in str(refusal(b"\xff\xfe\0\1\2\3\4\5"))


def test_bytes_that_are_a_path(tmp_path):
    (tmp_path / "cat.jpg").write_bytes(saved("JPEG"))
    assert "os.fsdecode" in str(refusal(os.fsencode(tmp_path / "cat.jpg")))


def test_an_empty_list_and_a_generator(model):
    predictor = Predictor(model)
    assert predictor([]) == []
    assert list(predictor.predict_each(iter([]))) == []
    with pytest.raises(UnsupportedPicture, match="predict_each"):
        predictor(source for source in [array()])
    with pytest.raises(UnsupportedPicture, match=r"cv2\.imread"):
        predictor([array(), None])


@pytest.mark.parametrize(
    ("text", "pixels"),
    [
        ("200M", 200_000_000),
        ("200_000_000", 200_000_000),
        ("1.5g", 1_500_000_000),
        ("108 MP", 108_000_000),
        ("9k", 9000),
    ],
)
def test_numbers_of_pixels(text, pixels):
    assert parse_pixels(text) == pixels


@pytest.mark.parametrize("text", ["", "0", "-5", "many", "1e9", "0.0001", "12x34", "5T", "²", "9" * 400])
def test_other_numbers_of_pixels_are_refused(text):
    with pytest.raises(ValueError, match=r"such as 200M or 200000000\. Received: "):
        parse_pixels(text)


class Indexed:
    """A data set of another framework: it has only __getitem__."""

    def __getitem__(self, index):
        if index > 2:
            raise IndexError
        return np.zeros((8, 8, 3), np.uint8)


@pytest.mark.parametrize("given", [None, 5, Image.new("RGB", (4, 4)), "cat.jpg"])
def test_predict_each_of_one_picture_says_what_to_call(model, given):
    with pytest.raises(TypeError, match=r"call the predictor itself: predictor\(picture\)\. Received: \w+\."):
        Predictor(model).predict_each(given)


def test_what_can_only_be_indexed_is_many_pictures(model):
    assert len(list(Predictor(model).predict_each(Indexed()))) == 3


def test_a_file_in_place_of_a_folder_and_a_folder_that_is_not_there(model, pictures, tmp_path, capsys):
    with pytest.raises(PictureNotFound, match="is a file, not a folder"):
        list(Predictor(model).predict_folder(pictures / "red.jpg"))
    for words, said in (
        (["--watch-folder", pictures / "red.jpg"], "is a file, not a folder. `zoo-runtime predict` labels it."),
        (["--watch-folder", tmp_path / "gone"], "does not exist. Make it first."),
        (["--watch-folder", pictures, "--once", "--csv", tmp_path / "no" / "x.csv"], "no'; make it first"),
    ):
        assert main(["watch", str(model), *map(str, words)]) == 1
        assert said in capsys.readouterr().err


def test_an_unknown_option_shows_the_options_of_its_command(model, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["predict", str(model), "cat.jpg", "--jsn"])
    err = capsys.readouterr().err
    assert ended.value.code == 2 and "zoo-runtime predict" in err and "--json" in err and "--jsn" in err


@pytest.mark.parametrize("hold", ["0.5s", -1, float("nan"), None])
def test_a_vote_takes_seconds(hold):
    with pytest.raises(ValueError, match="hold must be a number of seconds"):
        Vote(hold)
