"""Test `FakePredictor`: it has the interface of `Predictor`, and answers as it was told."""

from __future__ import annotations

import copy
import inspect
import pickle
import subprocess
import sys

import numpy as np
import pytest

from zoo_runtime import (
    CorruptModel,
    CorruptPicture,
    FakePredictor,
    PictureError,
    PictureNotFound,
    Prediction,
    Predictor,
    check,
)

CLASSES = ("red", "green", "blue")


@pytest.fixture(params=["real", "fake"])
def predictor(request, model):
    return Predictor(model) if request.param == "real" else FakePredictor(classes=CLASSES, size=(24, 32), decodes=True)


def test_both_have_one_interface(predictor, pictures):
    """A program that was tested with one works with the other."""
    assert isinstance(predictor, Predictor)
    path = pictures / "red.jpg"
    answer = predictor(path)
    assert isinstance(answer, Prediction) and list(answer.probabilities) == list(CLASSES)
    assert answer.label in CLASSES and answer.labels == (answer.label,) and not answer.unknown
    assert answer.confidence == max(answer.probabilities.values())
    assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert predictor([path, path.read_bytes()]) == [answer, answer]
    with pytest.raises(CorruptPicture):
        predictor(pictures / "damaged.jpg")
    each = list(predictor.predict_each([path, pictures / "gone.jpg"] * 10))
    assert each[0] == answer and isinstance(each[1], PictureNotFound) and len(each) == 20
    found = dict(predictor.predict_folder(pictures))
    assert len(found) == 4 and isinstance(found[str(pictures / "damaged.jpg")], PictureError)
    pixels = predictor.decode(path)
    assert pixels.shape == (24, 32, 3)
    np.testing.assert_allclose(predictor.probabilities(pixels[None])[0], list(answer.probabilities.values()), atol=1e-6)
    assert len(predictor.outputs(pixels[None])) == 1
    for wrong in ("cat.jpg", b""):
        with pytest.raises(TypeError):
            predictor.predict_each(wrong)
    with pytest.raises(ValueError):
        predictor.probabilities(pixels)
    assert predictor.info.classes == CLASSES and predictor.settings.threads is None and predictor.drift is None
    again = pickle.loads(pickle.dumps(predictor))
    assert again(path) == answer and copy.copy(predictor)(path) == answer
    predictor.max_pixels = 100
    assert isinstance(next(predictor.predict_each([path])), PictureError)


def test_the_methods_take_the_same_arguments():
    for name, member in vars(Predictor).items():
        if name[0] == "_" and name != "__call__":
            continue
        fake = getattr(FakePredictor, name)
        if inspect.isfunction(member):
            assert list(inspect.signature(fake).parameters) == list(inspect.signature(member).parameters), name


def test_answers_are_as_told():
    fake = FakePredictor("cats")
    assert fake("any.jpg").label == "cats" and fake("any.jpg").confidence == pytest.approx(0.9)
    fake = FakePredictor({"dogs": 0.6, "cats": 0.4})
    assert fake(b"bytes").top(2) == [("dogs", pytest.approx(0.6)), ("cats", pytest.approx(0.4))]
    error = PictureNotFound("gone.jpg: cannot be read")
    fake = FakePredictor(["cats", error])
    assert [type(each) for each in fake.predict_each(["a", "b", "c"])] == [Prediction, PictureNotFound, Prediction]
    assert fake.calls == ["a", "b", "c"]
    with pytest.raises(PictureNotFound):
        fake("d")
    fake = FakePredictor(lambda path: "dogs" if "dog" in path else "cats")
    assert [fake(name).label for name in ("dog.jpg", "cat.jpg")] == ["dogs", "cats"]
    several = FakePredictor({"cats": 0.7, "dogs": 0.8}, task="multilabel")
    assert several("both.jpg").labels == ("dogs", "cats")


def test_without_answers_the_picture_decides():
    fake = FakePredictor(classes=list("abcdefgh"))
    assert fake("folder/x.jpg") == fake("x.jpg") == FakePredictor(classes=list("abcdefgh"))("x.jpg")
    assert len({fake(f"{i}.jpg").label for i in range(50)}) > 4
    assert fake(b"1") != fake(b"2") and fake(np.zeros((2, 2), np.uint8)) == fake(np.zeros((2, 2), np.uint8))


@pytest.mark.parametrize("answers", ["birds", {"birds": 1.0}, {"cats": 1.5}, []])
def test_answers_that_no_file_could_give_are_refused(answers):
    with pytest.raises(ValueError, match="Received"):
        FakePredictor(answers)


def test_an_unknown_picture_and_an_outlier_can_be_told():
    """A program that opens a door must be tested with what the network does not know."""
    unsure = Prediction(None, 0.5, {"cats": 0.5, "dogs": 0.5}, unknown=True)
    strange = Prediction("cats", 0.99, {"cats": 0.99, "dogs": 0.01}, ("cats",), outlier_score=0.9, outlier=True)
    fake = FakePredictor([unsure, strange, "dogs"])
    assert [fake("1.jpg"), fake("2.jpg")] == [unsure, strange] and fake("3.jpg").label == "dogs"
    assert FakePredictor(lambda _: unsure)("x.jpg").unknown
    with pytest.raises(ValueError, match="Received: 'birds'"):
        FakePredictor(Prediction("birds", 1.0, {"birds": 1.0}))


@pytest.mark.parametrize("answers", [3, [None], ["cats", 0.5]])
def test_answers_of_another_type_are_refused(answers):
    with pytest.raises(TypeError, match=r"a Prediction or a PictureError\. Received"):
        FakePredictor(answers)
    with pytest.raises(TypeError, match="Received: None"):
        FakePredictor(lambda _: None)("x.jpg")


def test_the_self_test_needs_a_file():
    with pytest.raises(CorruptModel, match="no self-test"):
        check(FakePredictor("cats"))


def test_it_needs_no_onnxruntime():
    code = "import sys, zoo_runtime; zoo_runtime.FakePredictor('cats')('x'); print('onnxruntime' in sys.modules)"
    ran = subprocess.run([sys.executable, "-X", "dev", "-W", "error", "-c", code], capture_output=True, text=True)
    assert (ran.stdout.strip(), ran.stderr) == ("False", "")
