"""The limit on the size of a picture: its values, what a refusal says, and the memory of many threads."""

from __future__ import annotations

import io
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from zoo_runtime import (
    CorruptPicture,
    ImageSpec,
    PictureTooLarge,
    Predictor,
    _decode,
    _limit,
    decode,
    highest_level,
)
from zoo_runtime.workshop import format_pixels, parse_pixels, with_option_names

SPEC = ImageSpec((8, 8))


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


DEEP = saved(Image.new("I;16", (30, 20)), "PNG")


@pytest.mark.parametrize(
    "value, error, message",
    [
        ("200M", TypeError, r"must be a number, such as 200_000_000, .*Received: '200M'\."),
        ("1.5G", TypeError, "such as 1_500_000_000"),
        ("large", TypeError, "such as 200_000_000"),
        (None, TypeError, "left out for the default. Received: None"),
        (True, TypeError, "Received: True"),
        ([5], TypeError, r"Received: \[5\]"),
        (0, ValueError, "must be above 0. Received: 0"),
        (-5.0, ValueError, "Received: -5.0"),
        (float("nan"), ValueError, "Received: nan"),
    ],
)
def test_values_that_are_refused(model, value, error, message):
    predictor = Predictor(model, max_pixels=700)
    for use in (
        lambda: decode(DEEP, SPEC, max_pixels=value),
        lambda: highest_level(DEEP, max_pixels=value),
        lambda: Predictor(model, max_pixels=value),
        lambda: setattr(predictor, "max_pixels", value),
    ):
        with pytest.raises(error, match=message):
            use()
    assert predictor.max_pixels == 700


@pytest.mark.parametrize("value", [700, 7e2, np.int64(700), np.float32(700), float("inf")])
def test_numbers_of_any_type(model, value):
    picture = Image.new("RGB", (35, 20))
    assert decode(picture, SPEC, max_pixels=value).shape == (8, 8, 3)
    predictor = Predictor(model)
    predictor.max_pixels = value
    assert predictor(picture)
    with pytest.raises(PictureTooLarge):
        decode(picture, SPEC, max_pixels=type(value)(600))


@pytest.mark.parametrize("pixels, text", [(1, "1"), (999_999, "999999"), (10**6, "1M"), (1_500_000, "1500000")])
def test_a_number_as_text(pixels, text):
    assert format_pixels(pixels) == text and parse_pixels(text) == pixels


PICTURES = {
    "color": saved(Image.new("RGB", (61, 83)), "PNG"),
    "over a million": saved(Image.new("RGB", (1501, 1000)), "PNG"),
    "gray": saved(Image.new("L", (61, 83)), "TIFF"),
    "16 bits": DEEP,
    "progressive": saved(Image.new("RGB", (160, 120)), "JPEG", progressive=True),
    "gray, progressive": saved(Image.new("L", (161, 123)), "JPEG", progressive=True),
    "palette": saved(Image.new("P", (61, 83)), "GIF"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_refusal_says_which_limit_is_enough(name):
    with pytest.raises(PictureTooLarge, match="the limit set by max_pixels; max_pixels=") as caught:
        decode(PICTURES[name], SPEC, max_pixels=100)
    enough = int(re.findall(r"max_pixels=([\d_]+) reads it$", str(caught.value))[0])
    assert decode(PICTURES[name], SPEC, max_pixels=enough).shape == (8, 8, 3)
    assert with_option_names(str(caught.value)).endswith(
        f"set by --max-pixels; --max-pixels {format_pixels(enough)} reads it"
    )
    if name == "over a million":
        assert enough == 2_000_000


def test_no_limit_is_named_where_none_is_enough(tmp_path):
    path = tmp_path / "max_pixels=5" / "max_pixels.png"
    path.parent.mkdir()
    Image.new("L", (70_000, 1)).save(path)
    with pytest.raises(PictureTooLarge, match=r"has a side of more than 65535 pixels$") as caught:
        decode(path, SPEC, max_pixels=10)
    assert with_option_names(str(caught.value)) == str(caught.value)


def test_the_highest_level_of_a_large_picture():
    assert highest_level(DEEP, max_pixels=300) == 0
    with pytest.raises(PictureTooLarge):
        highest_level(DEEP, max_pixels=299)


@pytest.mark.parametrize("limit, most", [(1000, 1), (61 * 83, 4)])
def test_pictures_above_the_default_limit_are_decoded_one_at_a_time(monkeypatch, limit, most):
    monkeypatch.setattr(_limit, "MAX_PIXELS", limit)
    load, lock, together, counts = _decode.load, threading.Condition(), 0, []

    def counted(image, jpeg):
        nonlocal together
        with lock:
            together += 1
            counts.append(together)
            lock.notify_all()
            # Wait for the other threads, which arrive unless they are kept out.
            lock.wait_for(lambda: max(counts) == 4, timeout=5 if most == 4 else 0.02)
        load(image, jpeg)
        with lock:
            together -= 1

    monkeypatch.setattr(_decode, "load", counted)
    with ThreadPoolExecutor(4) as pool:
        work = [pool.submit(decode, PICTURES["color"], SPEC, max_pixels=10_000) for _ in range(4)]
    assert len({part.result().tobytes() for part in work}) == 1 and max(counts) == most


def test_a_damaged_large_picture_does_not_keep_the_next_one_waiting(monkeypatch):
    monkeypatch.setattr(_limit, "MAX_PIXELS", 1000)
    with pytest.raises(CorruptPicture):
        decode(PICTURES["color"][:70], SPEC, max_pixels=10_000)
    assert decode(PICTURES["color"], SPEC, max_pixels=10_000).shape == (8, 8, 3)
