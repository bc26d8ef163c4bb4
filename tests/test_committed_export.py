"""The export that ships in exported/: it works at once and says what the README says of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from zoo.data import sources
from zoo.report import model_card as card
from zoo.report import model_card_limits, sbom
from zoo.workflow import model_card
from zoo_runtime import Predictor, check

FILE = Path(__file__).resolve().parent.parent / "exported" / "mobilenetv2_035-digits" / "model.onnx"


def test_it_is_small_and_passes_its_check():
    assert FILE.stat().st_size < 2_000_000
    result = check(Predictor(FILE))
    assert result.passed, result


def test_it_reads_digits():
    predictor = Predictor(FILE)
    assert predictor.info.classes == tuple("0123456789")
    assert predictor.info.image.size == (64, 64) and predictor.info.architecture["name"] == "mobilenetv2_035"
    source = sources.open_source("digits")
    chosen = source.pictures[::6]
    results = predictor([picture.content for picture in chosen])
    right = np.mean(
        [result.label == source.classes[picture.labels[0]] for result, picture in zip(results, chosen, strict=True)]
    )
    assert right >= 0.97
    assert predictor.info.metrics["test"]["accuracy"] >= 0.95


def test_its_card_and_bill_of_materials_are_those_of_the_file():
    facts = model_card.describe(FILE)
    assert (FILE.parent / "README.md").read_text("utf-8") == card.render(facts)
    assert (FILE.parent / "sbom.json").read_text("utf-8") == sbom.render(facts)


def test_limits_have_wrong_labels_and_what_a_smaller_file_loses():
    facts = model_card.describe(FILE)
    few = "16 test pictures are too few to tell whether int8 loses more than 1 point: 2 lost, 0 won"
    compared = {"accuracy": 0.875, "float32_accuracy": 1.0, "too_few": few}
    info = dataclasses.replace(facts.info, precision={"kind": "int8"})
    changed = dataclasses.replace(facts, info=info, compared=compared, labels={"expected": 7.2, "judged": 500})
    lines = "\n".join(map(str, model_card_limits.limits(changed)))
    assert "About 7 labels of 500 pictures may be wrong" in lines and f"{few}." in lines
    assert "Computing in int8: its accuracy on the test pictures is 0.1250 below that of the float32 file." in lines
    lines = "\n".join(
        map(str, model_card_limits.limits(dataclasses.replace(facts, labels={"expected": 0.4, "judged": 9})))
    )
    assert "may be wrong" not in lines and "float32 file" not in lines
    beside = {"path": "x-int8/model.onnx", "kind": "int8", "bytes": 5, "test": {}}
    figures = {**compared, "milliseconds": 1.0, "float32_milliseconds": 2.0}
    assert f"{few}." in card.smaller_section(facts, [{**beside, "compared": figures}])
