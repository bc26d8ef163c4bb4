"""Evaluation of a file on pictures: which ones are chosen, what is warned about, and the figures."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest

from zoo.data.dataset import Dataset, digest_of, multi_hot
from zoo.data.pixels import Pixels
from zoo.data.sources import Picture, Source
from zoo.data.split import Split
from zoo.errors import DataError, UnreadablePictures, UsageError
from zoo.evaluate import evaluator
from zoo.evaluate.evaluator import EvaluationPictures
from zoo.reporter import Reporter
from zoo_runtime import CorruptPicture, ImageSpec, ModelInfo, Prediction

CLASSES = ("ant", "bee", "cat")
UNREADABLE = 255


class Listener(Reporter):
    """Keeps what is reported."""

    def __init__(self):
        super().__init__()
        self.said: list[str] = []
        self.warned: list[str] = []

    def say(self, text):
        self.said.append(text)

    def warn(self, text):
        self.warned.append(text)


class ConstantPredictor:
    """Predicts the class whose index is the value of a picture's pixels; cannot read pictures of the value 255."""

    def __init__(self, classes=CLASSES, task="multiclass", data=None):
        self.info = ModelInfo(classes, task, ImageSpec((2, 2)), data=data or {})

    def predict_each(self, contents):
        for content in contents:
            value = int(content.flat[0])
            if value == UNREADABLE:
                yield CorruptPicture("it is cut off")
            else:
                values = np.full(len(self.info.classes), 0.1)
                values[value] = 0.8
                yield Prediction(self.info.classes[value], 0.8, dict(zip(self.info.classes, values, strict=True)))


def source(*pictures, classes=CLASSES, multilabel=False):
    """Return a source of pictures that are given as (value of the pixels, labels, part)."""
    made = [
        Picture(
            f"{i}.png", np.full((2, 2, 3), value, np.uint8), labels if isinstance(labels, tuple) else (labels,), part
        )
        for i, (value, labels, part) in enumerate(pictures)
    ]
    return Source("things", classes, tuple(made), multilabel=multilabel)


def pictures_of(source, known_parts=None):
    """Return all pictures of a source, with digests that are their numbers."""
    digests = [str(i) for i in range(len(source.pictures))]
    return EvaluationPictures(source, digests, range(len(digests)), known_parts or {}, name="my/things")


def test_figures_come_in_the_order_of_the_networks_classes():
    """The source lacks a class and has another order; two of three pictures are classified correctly."""
    things = source((1, 0, None), (2, 1, None), (0, 1, None), classes=("bee", "cat"))
    reporter = Listener()
    figures = evaluator.evaluate(ConstantPredictor(), pictures_of(things), reporter)
    assert figures["part"] == "all" and figures["pictures"] == 3 and figures["classes"] == list(CLASSES)
    assert figures["confusion_matrix"] == [[0, 0, 0], [0, 1, 0], [1, 0, 1]]
    assert figures["accuracy"] == pytest.approx(2 / 3)
    assert figures["loss"] == pytest.approx(-(2 * np.log(0.8) + np.log(0.1)) / 3)
    assert reporter.said == ["All pictures of things: 3"] and reporter.warned == []


GIVEN = ((0, 0, "train"), (1, 1, "train"), (2, 2, "val"), (0, 0, "test"))


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (None, ("test", [3])),
        ("test", ("test", [3])),
        ("train", ("train", [0, 1])),
        ("val", ("val", [2])),
        ("all", ("all", [0, 1, 2, 3])),
    ],
)
def test_the_parts_of_the_source_are_selected(part, expected):
    assert pictures_of(source(*GIVEN)).select(part) == expected


def test_the_parts_of_the_run_come_before_those_of_the_source():
    known = {"0": "test", "1": "train", "2": "test", "3": "val"}
    assert pictures_of(source(*GIVEN), known).select(None) == ("test", [0, 2])
    # A few pictures of the run may be missing. With more than half of them missing, these are other pictures.
    assert pictures_of(source(*GIVEN), {**known, "other": "test"}).select(None) == ("test", [0, 2])
    missing = {f"other{i}": "test" for i in range(5)}
    assert pictures_of(source(*GIVEN), {**known, **missing}).select(None) == ("test", [3])


def test_it_is_said_how_many_pictures_are_not_evaluated():
    reporter = Listener()
    evaluator.evaluate(ConstantPredictor(), pictures_of(source(*GIVEN)), reporter)
    line = "1 of 4 pictures are evaluated. Left out: 3 of the train and val parts."
    assert reporter.said == ["Test pictures of things: 1", line] and reporter.warned == []


def test_new_pictures_beside_those_of_the_run_are_counted_and_unknown_classes_are_named():
    known = {"0": "train", "1": "val", "2": "test"}
    things = source(*((i, i, None) for i in range(3)), (0, 0, None), (0, 3, None), classes=(*CLASSES, "dog"))
    reporter = Listener()
    figures = evaluator.evaluate(ConstantPredictor(), pictures_of(things, known), reporter)
    assert figures["pictures"] == 1
    assert reporter.warned == [
        "1 of 5 pictures are evaluated. Left out: 2 of the train and val parts, which were used in training. "
        "Left out: 2 that are not pictures of the run, such as new ones. The network does not know 'dog'. "
        "To evaluate new pictures, put them into a folder without the old ones."
    ]


def test_neither_test_pictures_nor_damaged_files_are_said_to_be_something_else():
    known = {"0": "train", "1": "val", "2": "test"}
    things = source(*((i, i, None) for i in range(3)), (3, 0, None))
    pictures = dataclasses.replace(pictures_of(things, known), known_unreadable={Path(things.pictures[3].name).name})
    reporter = Listener()
    evaluator.evaluate(ConstantPredictor(), pictures, reporter, part="val")
    assert "1 of 3 pictures are evaluated. Left out: 2 of the test and train parts." in reporter.said
    assert not any("not pictures of the run" in text for text in reporter.warned)


def test_unreadable_pictures_are_not_selected():
    pictures = EvaluationPictures(source(*GIVEN), ["a", "b", "c", "d"], {3, 1})
    assert pictures.select("all") == ("all", [1, 3])


def test_a_part_that_does_not_exist_is_an_error():
    things = source((0, 0, None), (1, 1, None))
    assert pictures_of(things).select(None)[0] == "all"
    with pytest.raises(UsageError, match=r"'my/things' has no val part\. Omit --part"):
        evaluator.evaluate(ConstantPredictor(), pictures_of(things), Listener(), part="val")


def test_pictures_that_the_network_knows_are_warned_about():
    known = {"0": "train", "1": "val", "2": "test", "3": "train"}
    reporter = Listener()
    evaluator.evaluate(ConstantPredictor(), pictures_of(source(*GIVEN), known), reporter, part="all")
    (warning,) = reporter.warned
    assert "3 of these 4 pictures were used to train or select the network" in warning
    reporter = Listener()
    evaluator.evaluate(ConstantPredictor(), pictures_of(source(*GIVEN), known), reporter, part="test")
    assert reporter.warned == []


@pytest.mark.parametrize("same", [True, False])
def test_the_pictures_of_a_run_that_is_not_available_are_recognized(same):
    things = source(*GIVEN)
    digest = digest_of(things, ["0", "1", "2", "3"], range(4)) if same else "another"
    reporter = Listener()
    evaluator.evaluate(ConstantPredictor(data={"digest": digest}), pictures_of(things), reporter)
    assert [("trained and tested on" in text) for text in reporter.warned] == [True] * same


def test_a_class_that_the_network_does_not_know_is_an_error():
    things = source((0, 0, None), (1, 1, None), classes=("ant", "dog"))
    with pytest.raises(
        DataError,
        match=r"not know 'dog'\. It knows 'ant', 'bee', 'cat'\. To evaluate .* name these with --classes",
    ):
        evaluator.evaluate(ConstantPredictor(), pictures_of(things), Listener())
    # A class of pictures that are not evaluated does not matter.
    things = source((0, 0, "test"), (1, 1, "train"), classes=("ant", "dog"))
    assert evaluator.evaluate(ConstantPredictor(), pictures_of(things), Listener())["accuracy"] == 1


def test_names_of_an_older_file_in_nfd_are_those_of_the_pictures():
    things = source((0, 0, None), (1, 1, None), classes=("caf\u00e9", "tea"))
    predictor = ConstantPredictor(classes=("cafe\u0301", "tea"))
    assert evaluator.evaluate(predictor, pictures_of(things), Listener())["accuracy"] == 1


def test_many_unknown_classes_are_not_all_listed():
    names = tuple(f"dog{i}" for i in range(8))
    things = source(*((0, i, None) for i in range(8)), classes=names)
    with pytest.raises(DataError, match=r"does not know 'dog0', 'dog1', 'dog2', 'dog3', 'dog4' and 3 more\."):
        evaluator.evaluate(ConstantPredictor(), pictures_of(things), Listener())


def test_several_labels_need_a_network_of_several_labels():
    things = source((0, (0, 1), None), (1, (), None), multilabel=True)
    with pytest.raises(DataError, match="several labels or none"):
        evaluator.evaluate(ConstantPredictor(), pictures_of(things), Listener())
    figures = evaluator.evaluate(ConstantPredictor(task="multilabel"), pictures_of(things), Listener())
    # Decisions: (1, 0, 0) for the truth (1, 1, 0), and (0, 1, 0) for (0, 0, 0).
    assert figures["accuracy"] == pytest.approx(4 / 6) and figures["exact_match"] == 0


def test_unreadable_files_are_named_and_left_out():
    things = source(*((0, 0, None) for _ in range(9)), (UNREADABLE, 1, None))
    reporter = Listener()
    figures = evaluator.evaluate(ConstantPredictor(), pictures_of(things), reporter)
    assert figures["pictures"] == 9 and figures["accuracy"] == 1
    assert reporter.warned == ["1 of 10 files is left out: 9.png: it is cut off"]


def test_too_many_unreadable_files_are_an_error():
    things = source((0, 0, None), (0, 0, None), (UNREADABLE, 1, None))
    with pytest.raises(UnreadablePictures):
        evaluator.evaluate(ConstantPredictor(), pictures_of(things), Listener())


def test_predict_keeps_the_order_and_counts():
    contents = [np.full((2, 2, 3), value, np.uint8) for value in (2, UNREADABLE, 0)]
    counts = []
    answers, bad = evaluator.predict(ConstantPredictor(), contents, lambda *count: counts.append(count))
    assert answers.probabilities.tolist() == [[0.1, 0.1, 0.8], [0.8, 0.1, 0.1]]
    assert bad == {1: "CorruptPicture: it is cut off"} and counts == [(1, 3), (2, 3), (3, 3)]
    answers, bad = evaluator.predict(ConstantPredictor(), [])
    assert answers.probabilities.shape == (0, 3) and bad == {}


def dataset_of(things):
    """Return a dataset whose parts are those of the source."""
    parts = [picture.split for picture in things.pictures]
    rows = {part: np.array([i for i, each in enumerate(parts) if each == part]) for part in ("train", "val", "test")}
    digests = [hashlib.sha256(picture.name.encode()).hexdigest() for picture in things.pictures]
    pixels = Pixels(np.stack([picture.content for picture in things.pictures]), digests, {}, False, "key")
    targets = multi_hot(things.pictures, len(things.classes))
    return Dataset(things, ImageSpec((2, 2)), pixels, Split(**rows, how="as given"), targets)


def test_validation_and_test_parts_are_evaluated_apart():
    things = source((0, 0, "train"), (1, 1, "val"), (2, 1, "val"), (2, 2, "test"))
    figures = evaluator.evaluate_parts(ConstantPredictor(), dataset_of(things), Reporter())
    assert list(figures) == ["validation", "test"]
    assert (figures["validation"]["pictures"], figures["validation"]["accuracy"]) == (2, 0.5)
    assert (figures["test"]["pictures"], figures["test"]["accuracy"]) == (1, 1.0)


def test_a_picture_that_became_unreadable_is_an_error():
    things = source((0, 0, "train"), (1, 1, "val"), (UNREADABLE, 1, "test"))
    with pytest.raises(DataError, match=r"2\.png was readable before, but is not now \((?!CorruptPicture)"):
        evaluator.evaluate_parts(ConstantPredictor(), dataset_of(things), Reporter())
