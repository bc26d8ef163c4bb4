"""Test `check`: it passes where it was recorded, fails on other probabilities, and reports other pixels."""

from __future__ import annotations

import base64
import copy
import dataclasses
import hashlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from zoo_runtime import CorruptModel, PictureError, Predictor, check, decode
from zoo_runtime.workshop import record, versions


@pytest.fixture
def replayed(graph, info):
    """Return a function that alters the tiny export's self-test, and then checks the export."""

    def run(alter):
        selftest = copy.deepcopy(info.selftest)
        alter(selftest)
        return check(Predictor(graph(dataclasses.replace(info, selftest=selftest).to_metadata())))

    return run


def test_passes_where_it_was_recorded(model):
    result = check(Predictor(model))
    assert result.passed and result.pixels_equal
    assert result.pixel_difference == 0
    assert result.probability_difference <= 1e-6
    assert result.tolerance == 1e-3
    assert result.workshop == result.device == versions()


def test_what_a_predictor_may_read_is_no_part_of_the_test(model):
    """A camera's predictor reads JPEG alone, but the self-test has pictures of other formats."""
    assert check(Predictor(model, formats=["webp"], max_pixels=10)).passed


def test_what_is_recorded(info):
    assert list(info.selftest) == ["versions", "tolerance", "pictures"]
    picture = info.selftest["pictures"][0]
    pixels = decode(base64.b64decode(picture["jpeg"]), info.image)
    assert picture["sha256"] == hashlib.sha256(pixels.tobytes()).hexdigest()
    rows, columns = picture["sample"]["step"]
    assert base64.b64decode(picture["sample"]["pixels"]) == pixels[::rows, ::columns].tobytes()
    assert sum(picture["probabilities"]) == pytest.approx(1, abs=1e-6)
    assert json.loads(json.dumps(info.selftest)) == info.selftest


def test_large_pictures_are_sampled(graph, info):
    """The sample must not grow with the network's input: at most 63 x 63 pixels."""
    image = dataclasses.replace(info.image, size=(200, 331))
    predictor = Predictor(graph(dataclasses.replace(info, image=image).to_metadata(), size=(200, 331)))
    jpegs = [base64.b64decode(picture["jpeg"]) for picture in info.selftest["pictures"]]
    recorded = record(predictor, jpegs)
    assert recorded["pictures"][0]["sample"]["step"] == [6, 10]
    selftest = dataclasses.replace(info, image=image, selftest=recorded)
    assert check(Predictor(graph(selftest.to_metadata(), size=(200, 331)))).passed


def test_more_pictures_are_decoded_and_compared(graph, info, model):
    """Files of other shapes and modes decide with the others whether the pixels are equal."""
    rng, pictures = np.random.default_rng(0), []
    for shape in ((9, 90, 3), (90, 9, 3), (20, 30), (30, 20, 4)):
        stream = io.BytesIO()
        Image.fromarray(rng.integers(1, 256, shape, np.uint8)).save(stream, "PNG")
        pictures.append(stream.getvalue())
    jpegs = [base64.b64decode(picture["jpeg"]) for picture in info.selftest["pictures"]]
    recorded = record(Predictor(model), jpegs, pictures=pictures)
    assert [base64.b64decode(entry["picture"]) for entry in recorded["decoding"]] == pictures
    selftest = dataclasses.replace(info, selftest=recorded)
    result = check(Predictor(graph(selftest.to_metadata())))
    assert result.passed and result.pixels_equal
    for number in range(len(pictures)):
        altered = copy.deepcopy(recorded)
        altered["decoding"][number]["sha256"] = "0" * 64
        result = check(Predictor(graph(dataclasses.replace(info, selftest=altered).to_metadata())))
        assert result.passed and not result.pixels_equal and result.pixel_difference == 1


def test_versions_name_what_decides_pixels():
    assert set(versions()) - {"pillow-heif"} == {"pillow", "libjpeg", "onnxruntime", "numpy", "machine"}
    assert all(isinstance(value, str) and value not in ("", "None") for value in versions().values())


def test_other_probabilities_fail(replayed):
    def alter(selftest):
        selftest["pictures"][1]["probabilities"][0] += 0.25

    result = replayed(alter)
    assert not result.passed and result.pixels_equal
    assert result.probability_difference == pytest.approx(0.25, abs=1e-4)


def test_a_difference_within_the_tolerance_passes(replayed):
    def alter(selftest):
        selftest["pictures"][1]["probabilities"][0] += 5e-4

    result = replayed(alter)
    assert result.passed
    assert result.probability_difference == pytest.approx(5e-4, abs=1e-5)


def test_other_pixels_are_told_and_pass(replayed):
    """Another libjpeg may round differently. Only the probabilities count."""

    def alter(selftest):
        sample = bytearray(base64.b64decode(selftest["pictures"][0]["sample"]["pixels"]))
        sample[10] = sample[10] - 7 if sample[10] > 100 else sample[10] + 7
        selftest["pictures"][0]["sample"]["pixels"] = base64.b64encode(sample).decode()
        selftest["pictures"][0]["sha256"] = "0" * 64

    result = replayed(alter)
    assert result.passed and not result.pixels_equal
    assert result.pixel_difference == 7


def test_another_workshop_is_told(replayed):
    result = replayed(lambda selftest: selftest["versions"].update(pillow="9.9"))
    assert result.workshop["pillow"] == "9.9" != result.device["pillow"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_nan_never_passes(replayed, value):
    def alter(selftest):
        selftest["pictures"][0]["probabilities"][0] = value

    assert not replayed(alter).passed


def _set(*path_and_value):
    *path, last, value = path_and_value

    def alter(selftest):
        for key in path:
            selftest = selftest[key]
        selftest[last] = value

    return alter


@pytest.mark.parametrize(
    "alter",
    [
        lambda selftest: selftest.clear(),
        _set("pictures", []),
        _set("pictures", [1]),
        _set("pictures", {"a": 1}),
        _set("pictures", 0, "probabilities", [0.5, 0.5]),
        _set("pictures", 0, "probabilities", "high"),
        _set("pictures", 0, "sample", "step", [0, 1]),
        _set("pictures", 0, "sample", "step", [1]),
        _set("pictures", 0, "sample", "pixels", "AAAA"),
        _set("pictures", 0, "jpeg", 5),
        _set("tolerance", "some"),
        _set("versions", 3),
        lambda selftest: selftest["pictures"][0].pop("sha256"),
    ],
)
def test_a_self_test_that_cannot_be_read(replayed, alter):
    with pytest.raises(CorruptModel, match="self-test"):
        replayed(alter)


def test_a_self_test_whose_picture_is_damaged(replayed, info):
    cut = base64.b64decode(info.selftest["pictures"][0]["jpeg"])[:300]
    with pytest.raises(PictureError):
        replayed(_set("pictures", 0, "jpeg", base64.b64encode(cut).decode()))


def test_recording_twice_gives_the_same(model):
    predictor = Predictor(model)
    jpegs = [base64.b64decode(picture["jpeg"]) for picture in predictor.info.selftest["pictures"]]
    assert record(predictor, jpegs) == predictor.info.selftest
    assert np.array(predictor.info.selftest["pictures"][0]["probabilities"]).argmax() == 0
