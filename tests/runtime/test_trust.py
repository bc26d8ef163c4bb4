"""What the runtime makes of the entry `trust`: unknown answers, outliers, label sets, drift; and older files."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import multiprocessing
import os
import pickle
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

import zoo_runtime
from zoo_runtime import CorruptModel, DriftCounter, ModelInfo, Predictor, UnknownSchema
from zoo_runtime.cli import main
from zoo_runtime.workshop import pixel_figures

TRUST = {
    "unknown": {"precision": 0.9, "threshold": 0.6, "coverage": 0.8},
    "outliers": {"threshold": 0.25},
    "sets": {"0.9": 0.3, "0.95": 0.1, "0.99": 0.0},
    "drift": {
        "pictures": 50,
        "figures": {
            "brightness": {"mean": 0.5, "deviation": 0.1},
            "confidence": {"mean": 0.9, "deviation": 0.05},
            "outlier_score": {"mean": 0.1, "deviation": 0.05},
        },
    },
}


@pytest.fixture
def trusted(graph, info):
    """Return a function that makes the tiny exported file with an entry `trust`.

    Its outlier score is the mean level of the first channel divided by 255, and its feature norm is that mean.
    """

    def make(trust=TRUST, scores=True) -> bytes:
        model = onnx.load_from_string(graph(dataclasses.replace(info, trust=trust, selftest={}).to_metadata()))
        if scores:
            model.graph.initializer.append(helper.make_tensor("white", TensorProto.FLOAT, [], [255.0]))
            model.graph.initializer.append(helper.make_tensor("first", TensorProto.INT64, [], [0]))
            model.graph.node.append(helper.make_node("Gather", ["means", "first"], ["feature_norm"], axis=1))
            model.graph.node.append(helper.make_node("Div", ["feature_norm", "white"], ["outlier_score"]))
            for name in ("outlier_score", "feature_norm"):
                model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch"]))
        return model.SerializeToString()

    return make


def flat(*color) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (40, 30), color).save(out, "PNG")
    return out.getvalue()


RED, GRAYISH, DARK = flat(220, 10, 10), flat(110, 100, 90), flat(20, 10, 10)


def test_an_unsure_answer_is_unknown(trusted):
    predictor = Predictor(trusted())
    sure, unsure = predictor([RED, DARK])
    assert (sure.label, sure.labels, sure.unknown) == ("red", ("red",), False)
    assert (unsure.label, unsure.labels, unsure.unknown) == (None, (), True)
    # The likeliest class is still there for those who want it.
    assert unsure.top(1)[0][0] == "red" and 0.3 < unsure.confidence < 0.6
    # One picture, a list and a folder give the same answers.
    assert predictor(DARK) == unsure and next(iter(predictor.predict_each(iter([DARK])))).unknown


def test_without_a_wanted_precision_nothing_is_unknown(trusted):
    result = Predictor(trusted({**TRUST, "unknown": {"precision": None, "threshold": None}}))(DARK)
    assert result.label == "red" and not result.unknown


def test_outliers_keep_their_label(trusted):
    red, dark = Predictor(trusted())([RED, DARK])
    assert red.outlier and red.label == "red" and red.outlier_score == pytest.approx(220 / 255, abs=1e-4)
    assert not dark.outlier and dark.outlier_score == pytest.approx(20 / 255, abs=1e-4)
    plain = Predictor(trusted({key: value for key, value in TRUST.items() if key != "outliers"}, scores=False))(RED)
    assert plain.outlier_score is None and not plain.outlier


def test_label_sets_grow_with_the_coverage(trusted):
    result = Predictor(trusted())(GRAYISH)
    assert result.labels_at(0.9) == ("red", "green")[: len(result.labels_at(0.9))] != ()
    assert set(result.labels_at(0.9)) <= set(result.labels_at(0.95)) <= set(result.labels_at(0.99))
    assert result.labels_at(0.99) == ("red", "green", "blue")
    with pytest.raises(ValueError, match=r"must be 0\.9, 0\.95 or 0\.99\. Received: 0\.8"):
        result.labels_at(0.8)


def test_files_of_earlier_versions_are_read_as_before(model_bytes):
    predictor = Predictor(model_bytes, drift=True)
    result = predictor(DARK)
    assert predictor.info.trust == {} and result.label == "red"
    assert (result.unknown, result.outlier, result.outlier_score) == (False, False, None)
    with pytest.raises(ValueError, match="no label sets"):
        result.labels_at(0.9)
    assert predictor.drift.summary()["pictures"] == 1


def test_older_runtimes_refuse_the_file(trusted):
    info = Predictor(trusted()).info
    assert info.to_metadata()["zoo.schema"] == "3"
    with pytest.raises(UnknownSchema, match="Upgrade"):
        ModelInfo.from_metadata({**info.to_metadata(), "zoo.schema": "4"})


@pytest.mark.parametrize(
    "wrong",
    [
        {"unknown": {"threshold": "high"}},
        {"unknown": {"threshold": float("nan")}},
        {"unknown": [0.5]},
        {"outliers": {"threshold": -1}},
        {"sets": {"most": 0.5}},
        {"sets": {"0.9": None}},
    ],
)
def test_damaged_entries_are_one_error(trusted, wrong):
    with pytest.raises(CorruptModel, match="Export the file again"):
        Predictor(trusted({**TRUST, **wrong}))


def test_a_file_without_the_promised_score_is_refused(trusted):
    with pytest.raises(CorruptModel, match="does not match its metadata"):
        Predictor(trusted(scores=False))


def test_the_command_shows_unknown_outliers_and_sets(trusted, tmp_path, capsys):
    (tmp_path / "model.onnx").write_bytes(trusted())
    for name, content in (("red.png", RED), ("dark.png", DARK)):
        (tmp_path / name).write_bytes(content)
    words = ["predict", str(tmp_path), str(tmp_path / "red.png"), str(tmp_path / "dark.png"), "--coverage", "0.95"]
    assert main(words) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("(unlike the training pictures)") and "red.png: red 0.9" in first and "{red}" in first
    assert "dark.png: unknown (red 0." in second and "{red, green, blue}" in second
    assert main([*words, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["label"] for row in rows] == ["red", None] and [row["unknown"] for row in rows] == [False, True]
    assert [row["outlier"] for row in rows] == [True, False]
    assert rows[1]["sets"] == {"0.95": ["red", "green", "blue"]}
    assert main([*words[:-1], "0.5"]) == 2
    assert "must be 0.9, 0.95 or 0.99" in capsys.readouterr().err


def test_the_figures_of_pixels():
    assert pixel_figures(np.full((8, 8, 3), 255, np.uint8)) == {
        "brightness": pytest.approx(1),
        "contrast": pytest.approx(0, abs=1e-6),
        "sharpness": pytest.approx(0, abs=1e-6),
        "saturation": 0,
    }
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    assert pixel_figures(red)["saturation"] == pytest.approx(1) and pixel_figures(red)["brightness"] < 0.31
    board = (np.indices((8, 8)).sum(axis=0) % 2 * 255).astype(np.uint8)[..., None]
    # A pixel differs from the mean of its four neighbors by the whole range.
    assert pixel_figures(board)["sharpness"] == pytest.approx(1) and pixel_figures(board)["contrast"] == 0.5


def test_drift_is_counted_and_compared(trusted, tmp_path, capsys):
    predictor = Predictor(trusted(), drift=True)
    assert Predictor(trusted()).drift is None
    predictor([DARK] * 30 + [flat(40, 30, 30)] * 30)
    shifts = {each.figure: each for each in predictor.drift.compare(predictor.info.trust["drift"])}
    assert list(shifts) == ["brightness", "confidence", "outlier_score"]
    assert shifts["brightness"].drifted and shifts["brightness"].shift < -3
    assert shifts["brightness"].mean == pytest.approx(0.09, abs=0.02)
    assert (predictor.drift.pictures, predictor.drift.unknown) == (60, 60)
    assert pickle.loads(pickle.dumps(predictor)).drift.pictures == 60

    (tmp_path / "model.onnx").write_bytes(trusted())
    for i in range(20):
        (tmp_path / f"{i}.png").write_bytes(flat(20 + i, 10, 10))
    assert main(["drift", str(tmp_path), str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "20 pictures here, 50 training pictures" in out and "drifted: brightness" in out
    assert main(["drift", str(tmp_path), str(tmp_path), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["pictures"] == 20 and values["figures"][0]["drifted"] is True


@pytest.mark.parametrize(("number", "told"), [(1, "more than 4.0"), (16, "more than 1.0"), (63, "0.5"), (64, "")])
def test_few_pictures_are_too_few_to_tell(trusted, tmp_path, capsys, number, told):
    usual = {"pictures": 50, "figures": {"brightness": TRUST["drift"]["figures"]["brightness"]}}
    (tmp_path / "model.onnx").write_bytes(trusted({**TRUST, "drift": usual}))
    (tmp_path / "here").mkdir()
    for i in range(number):
        (tmp_path / "here" / f"{i}.png").write_bytes(flat(128, 128, 128))
    assert main(["drift", str(tmp_path), str(tmp_path / "here")]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{number} picture{'s' * (number > 1)} here")
    assert ("too few pictures to tell" in out and told in out) if told else "no figure has drifted" in out


def test_a_single_odd_picture_is_no_drift():
    counter = DriftCounter()
    counter.add(np.zeros((8, 8, 3), np.uint8), {"confidence": 0.88})
    (brightness, confidence) = counter.compare(TRUST["drift"])
    assert brightness.shift == pytest.approx(-5) and brightness.drifted
    assert confidence.shift == pytest.approx(-0.4) and not confidence.drifted


@pytest.mark.parametrize(("confidence", "score", "drifted"), [(0.99, 0.02, False), (0.8, 0.2, True)])
def test_surer_answers_and_more_usual_pictures_are_no_drift(confidence, score, drifted):
    counter = DriftCounter()
    for _ in range(30):
        counter.add(np.full((8, 8, 3), 128, np.uint8), {"confidence": confidence, "outlier_score": score})
    shifts = {each.figure: each for each in counter.compare(TRUST["drift"])}
    assert abs(shifts["confidence"].shift) > 1.5 and abs(shifts["outlier_score"].shift) > 1.5
    assert shifts["confidence"].drifted is shifts["outlier_score"].drifted is drifted
    assert not shifts["brightness"].drifted


def test_drift_needs_a_file_with_statistics(model, pictures, capsys):
    assert main(["drift", str(model), str(pictures)]) == 1
    assert "no statistics of its training pictures" in capsys.readouterr().err


def test_the_selftest_covers_the_outlier_score(trusted):
    predictor = Predictor(trusted())
    selftest = zoo_runtime.record(predictor, [RED])
    assert selftest["pictures"][0]["outlier_score"] == pytest.approx(220 / 255, abs=1e-4)
    for wrong, passed in ((0.0, True), (0.01, False)):
        changed = json.loads(json.dumps(selftest))
        changed["pictures"][0]["outlier_score"] += wrong
        object.__setattr__(predictor, "info", dataclasses.replace(predictor.info, selftest=changed))
        assert zoo_runtime.check(predictor).passed is passed


def test_drift_of_pictures_that_all_fail_names_each_and_nothing_else(trusted, tmp_path, capsys):
    (tmp_path / "model.onnx").write_bytes(trusted())
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    assert main(["drift", str(tmp_path), str(tmp_path / "a.jpg")]) == 1
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 1 and "a.jpg" in captured.err and captured.out == ""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only some systems can fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_fork_while_a_thread_counts_can_count_on():
    """The thread that holds the lock does not exist in the forked process, so that it would never be released."""
    counter = DriftCounter()
    pixels = np.full((8, 8, 3), 50, np.uint8)
    counter.add(pixels, {"confidence": 0.8})
    with counter._locked():
        child = os.fork()
        if child == 0:
            # The end of a test in the child would end the tests of the parent twice.
            signal.alarm(20)
            counter.add(pixels, {"confidence": 0.8})
            os._exit(counter.summary()["pictures"])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    assert counter.pictures == 1


def test_copies_of_a_counting_predictor_count_for_themselves(trusted):
    predictor = Predictor(trusted(), drift=True)
    predictor([DARK, RED])
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        elsewhere = pool.apply(_count_one_more, (predictor, DARK))
    assert elsewhere == (3, 2) == _count_one_more(copy.deepcopy(predictor), DARK)
    assert (predictor.drift.pictures, predictor.drift.unknown) == (2, 1)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(predictor, [DARK] * 60))
    assert (predictor.drift.pictures, predictor.drift.unknown) == (62, 61)
    figures = predictor.drift.summary()["figures"]["brightness"]
    lumas = [pixel_figures(predictor.decode(source))["brightness"] for source in [RED] + [DARK] * 61]
    assert figures["mean"] == pytest.approx(np.mean(lumas)) and figures["deviation"] == pytest.approx(np.std(lumas))


def _count_one_more(predictor: Predictor, source: bytes) -> tuple[int, int]:
    predictor(source)
    return predictor.drift.summary()["pictures"], predictor.drift.unknown
