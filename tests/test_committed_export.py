"""The export that ships in exported/: it works at once and says what the README says of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from zoo.data import sources
from zoo.report import model_card as card
from zoo.report import sbom
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
