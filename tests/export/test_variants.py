"""What all variants share: options, limits, refusals, and that the float32 export is never touched."""

from __future__ import annotations

import dataclasses
import json
import shutil

import click
import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import zoo_runtime
from zoo.cli import options
from zoo.errors import ConversionFailed
from zoo.evaluate.metrics import interval
from zoo.export import int8, variants
from zoo_runtime import Predictor


class Renamed(variants.Variant):
    """A variant that changes nothing but the name."""

    name = "renamed"
    help = "Make a file that is only renamed."

    def make(self, graph, dataset, limits, reporter, *, seed):
        return variants.VariantGraph(graph, {"note": "only renamed"}, tried={"seed": seed})


@pytest.fixture
def renamed(monkeypatch):
    """A variant that a stranger adds with one class."""
    variant = Renamed()
    monkeypatch.setattr(variants, "VARIANTS", (*variants.VARIANTS, variant))
    return variant


@pytest.fixture
def trained(run, finished, monkeypatch):
    """The finished run, reloaded as `zoo export` does."""
    from zoo import runs
    from zoo.plugin import registry
    from zoo.reporter import Reporter
    from zoo.train.network import load_model
    from zoo.workflow.export import TrainedModel, reload_dataset

    monkeypatch.setenv("ZOO_CACHE", str(finished[0].parent.parent / "cache"))
    folder, record = runs.load(run)
    architecture = registry.load().architecture(record.architecture["name"])
    dataset = reload_dataset(folder, record, None, Reporter())
    return TrainedModel(load_model(folder.model), architecture, dataset, folder, record, record.name)


def test_one_class_adds_a_variant(renamed, trained, exported):
    from zoo.reporter import Reporter
    from zoo.workflow.export import export_model

    request = variants.VariantRequest(renamed)
    result = export_model(trained, exported, Reporter(), float32=False, variants=[request])
    ((variant_file, path),) = result.variants
    assert path == exported / "shapes-renamed" / "model.onnx" and variant_file.refusal is None
    predictor, plain = Predictor(path), Predictor(exported / "shapes")
    assert predictor.info.precision == {"kind": "renamed", "note": "only renamed"}
    assert zoo_runtime.check(predictor).passed
    pixels = trained.dataset.pixels.array[:8]
    assert predictor.probabilities(pixels).tobytes() == plain.probabilities(pixels).tobytes()
    figures = json.loads((trained.run.folder / "renamed.json").read_text())
    assert figures["kind"] == "renamed" and figures["seed"] == 0
    assert figures["accuracy"] == figures["float32_accuracy"] == predictor.info.metrics["test"]["accuracy"]
    # Another line says if other programs disturbed the measurement.
    line, note = renamed.describe({**figures, "busy": None})
    assert figures["accuracy_interval"] == figures["float32_accuracy_interval"] == interval(figures["accuracy"], 12)
    text = zoo_runtime.format_accuracy(figures["accuracy"], figures["accuracy_interval"])
    assert f"accuracy {text} instead of {text} on 12 test pictures" in line
    pairs = figures["paired"]
    assert [pairs[part]["pictures"] for part in ("test", "validation_and_test", "all")] == [12, 24, 72]
    assert all(each["lost"] == each["won"] == each["changed"] == 0 == each["drop"] for each in pairs.values())
    assert (
        note
        == figures["too_few"]
        == (
            "24 validation and test pictures are too few to tell whether renamed loses more than 1 point: 0 lost, 0 "
            "won; it gives the same class as float32 on 72 of 72 pictures"
        )
    )


class Rolled(Renamed):
    """A variant that moves the logits by one class on the pictures with a mean above a threshold."""

    name = "rolled"
    threshold: float

    def make(self, graph, dataset, limits, reporter, *, seed):
        changed = onnx.ModelProto()
        changed.CopyFrom(graph)
        for node in changed.graph.node:
            node.output[:] = ["before" if name == "logits" else name for name in node.output]
        constants = {"threshold": np.float32(self.threshold), "order": np.array([1, 2, 0])}
        changed.graph.initializer.extend(onnx.numpy_helper.from_array(np.array(v), k) for k, v in constants.items())
        changed.graph.node.extend(
            [
                onnx.helper.make_node("Cast", ["image"], ["levels"], to=onnx.TensorProto.FLOAT),
                onnx.helper.make_node("ReduceMean", ["levels"], ["mean"], axes=[1, 2, 3], keepdims=1),
                onnx.helper.make_node("Flatten", ["mean"], ["column"]),
                onnx.helper.make_node("Greater", ["column", "threshold"], ["bright"]),
                onnx.helper.make_node("Gather", ["before", "order"], ["moved"], axis=1),
                onnx.helper.make_node("Where", ["bright", "moved", "before"], ["logits"]),
            ]
        )
        return variants.VariantGraph(changed, {}, calibrated_on=list(dataset.split.train[:40]))


def means(dataset, part):
    return dataset.pixels.array[getattr(dataset.split, part)].astype(float).mean(axis=(1, 2, 3))


@pytest.mark.parametrize("lost", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_a_file_that_loses_one_test_picture_is_made_and_one_that_loses_many_is_not(trained, exported, lost):
    from zoo.reporter import Reporter
    from zoo.workflow.export import export_model

    dataset, rolled = trained.dataset, Rolled()
    brightest = np.sort(means(dataset, "test"))[::-1]
    rolled.threshold = (brightest[lost - 1] + brightest[lost]) / 2
    held_out = np.concatenate([means(dataset, "val"), means(dataset, "test")])
    training = means(dataset, "train")[40:]
    request = variants.VariantRequest(rolled)
    before = (trained.run.folder / "run.json").read_text()
    result = export_model(trained, exported, Reporter(), variants=[request])
    ((variant_file, path),) = result.variants
    figures = json.loads((trained.run.folder / "rolled.json").read_text())
    pairs = figures["paired"]
    assert pairs["test"]["changed"] == lost and pairs["all"]["pictures"] == 24 + 8
    assert pairs["all"]["changed"] == sum(np.concatenate([held_out, training]) > rolled.threshold)
    # The network is right on nearly all of these pictures.
    assert lost - 1 <= pairs["test"]["lost"] <= lost
    difference = figures["float32_accuracy"] - figures["accuracy"]
    assert difference == pytest.approx((pairs["test"]["lost"] - pairs["test"]["won"]) / 12)
    report = (trained.run.folder / "report.html").read_text()
    warnings = json.loads((trained.run.folder / "run.json").read_text())["warnings"]
    if lost == 1:
        assert path.is_file() and variant_file.refusal is None
        assert f"{figures['too_few']}." in warnings and "too few to tell whether rolled loses" in report
        assert figures["too_few"] in rolled.describe(figures)
    else:
        assert path is None and "accuracy falls from" in variant_file.refusal and figures["too_few"] is None
        assert warnings == json.loads(before)["warnings"] and "too few to tell" not in report


@pytest.mark.slow
def test_without_validation_pictures(trained, exported):
    """The search compares candidates on training pictures that calibrate nothing. No test picture takes part."""
    from zoo.reporter import Reporter
    from zoo.workflow.export import export_model

    split = trained.dataset.split
    empty = np.zeros(0, dtype=np.int64)
    train = np.sort(np.concatenate([split.train, split.val]))
    dataset = dataclasses.replace(trained.dataset, split=dataclasses.replace(split, train=train, val=empty))
    trained = dataclasses.replace(trained, dataset=dataset)
    limits = variants.AcceptanceLimits(max_drop=0.25, any_speed=True)
    requests = [variants.VariantRequest(kind, limits) for kind in variants.VARIANTS]
    result = export_model(trained, exported, Reporter(), variants=requests)
    assert [path.parent.name for _, path in result.variants] == ["shapes-int8", "shapes-fp16"]
    assert list(result.metrics) == ["test"]
    int8_figures, fp16_figures = (variant_file.figures for variant_file, _ in result.variants)
    # 30 of the 60 training pictures calibrate, the other 30 compare the candidates.
    assert int8_figures["calibration_pictures"] == int8_figures["judged_on"] == 30
    assert int8_figures["judged_on_calibration_pictures"] == 0
    for figures, pictures in ((int8_figures, 12 + 30), (fp16_figures, 12 + 60)):
        pairs = figures["paired"]
        assert pairs["test"] == pairs["validation_and_test"] and pairs["test"]["pictures"] == 12
        assert pairs["all"]["pictures"] == pictures
    assert list(Predictor(result.variants[0][1]).info.metrics) == ["test"]


@pytest.mark.slow
def test_the_limits_apply_to_an_added_variant(renamed, trained, exported, monkeypatch):
    from zoo.reporter import Reporter
    from zoo.workflow.export import export_model

    monkeypatch.setattr(Renamed, "must_be_faster", True)
    slower = zoo_runtime.Pairs(1.0, 2.0, 0.5, (0.4, 0.6))
    monkeypatch.setattr(variants, "compare_speed", lambda first, second, pixels: slower)
    for any_speed in (False, True):
        request = variants.VariantRequest(renamed, variants.AcceptanceLimits(any_speed=any_speed))
        result = export_model(trained, exported, Reporter(), float32=False, variants=[request])
        ((variant_file, path),) = result.variants
        assert (path is not None) == any_speed == (exported / "shapes-renamed").exists()
        assert (variant_file.refusal is None) == any_speed
    assert variants.failed(renamed, "no reason.").refusal == "no reason"


@pytest.mark.parametrize(
    ("must_be_faster", "arguments", "expected"),
    [
        (False, [], None),
        (False, ["--renamed"], variants.AcceptanceLimits(0.01, False)),
        (True, ["--renamed", "--max-drop", "2"], variants.AcceptanceLimits(0.02, False)),
        (True, ["--renamed", "--renamed-any-speed"], variants.AcceptanceLimits(0.01, True)),
    ],
)
def test_the_command_line_derives_its_options_from_the_list(monkeypatch, must_be_faster, arguments, expected):
    monkeypatch.setattr(Renamed, "must_be_faster", must_be_faster)
    listed = (Renamed(),)
    requests = []

    def command(**values):
        requests.append(options.variant_requests(values, listed))
        assert values == {}

    for option in options.make_variant_options(listed):
        command = option(command)
    command = click.command()(command)
    ran = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    assert requests == [() if expected is None else (variants.VariantRequest(listed[0], expected),)]
    text = CliRunner().invoke(command, ["--help"]).output
    assert "Make a file that is only renamed." in text and ("--renamed-any-speed" in text) == must_be_faster


@pytest.mark.slow
def test_finetune_makes_variants(zoo, photos, tmp_path):
    ran = zoo(
        *("finetune", "mobilenetv2_035", "--data", photos, "--size", 32, "--weights", "none", "--epochs", 1),
        *("--name", "small", "--runs", tmp_path / "runs", "--exported", tmp_path / "exported"),
        *("--int8", "--fp16", "--int8-any-speed", "--max-drop", 100, "--allow-chance"),
    )
    assert ran.code == 0, ran.err
    assert sorted(path.name for path in (tmp_path / "exported").iterdir()) == ["small", "small-fp16", "small-int8"]
    assert "int8       " in ran.out and "fp16       " in ran.out and "Export     " in ran.out


@pytest.mark.slow
def test_a_failure_of_one_variant_does_not_stop_another(export, exported, monkeypatch):
    def refuse(*arguments, **options):
        raise ConversionFailed("onnxruntime cannot quantize the network: no reason")

    monkeypatch.setattr(int8, "quantize", refuse)
    ran = export("--int8", "--fp16")
    assert ran.code == 1 and "no int8 file is exported: onnxruntime cannot quantize" in ran.err
    assert "fp16       " in ran.out
    assert sorted(path.name for path in exported.iterdir()) == ["shapes", "shapes-fp16"]


def test_a_float32_export_is_never_replaced_by_a_variant(export, run, exported):
    shutil.copytree(exported / "shapes", exported / "shapes-fp16")
    before = (exported / "shapes-fp16" / "model.onnx").read_bytes()
    ran = export("--fp16")
    assert ran.code == 2 and "because it is not a fp16 file" in ran.err and "--name shapes-2" in ran.err
    assert (exported / "shapes-fp16" / "model.onnx").read_bytes() == before


@pytest.mark.slow
def test_a_variant_of_another_run_that_is_gone_is_warned_about(export, run, exported):
    assert export("--fp16").code == 0
    assert "another run" not in export().err
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "id": "another"}))
    other = run.rename(run.with_name("another"))
    ran = export(folder=other)
    assert ran.code == 0 and "shapes-fp16" in ran.err and "comes from another run" in ran.err
    assert Predictor(exported / "shapes-fp16").info.run["id"] == run.name


def test_a_file_that_is_not_faster_is_refused_only_if_it_must_be():
    figures = {"speedup": 1.0, "milliseconds": 2.0, "float32_milliseconds": 2.0, "speedup_middle_half": [0.5, 0.9]}
    limits = variants.AcceptanceLimits()
    reason = variants.Int8().refuse(figures, limits)
    assert "--int8-any-speed" in reason and "noisy" not in reason
    unclear = variants.Int8().refuse({**figures, "speedup_middle_half": [0.5, 1.1]}, limits)
    assert "too noisy to tell which is faster: 0.50 to 1.10 times as fast" in unclear
    assert variants.Int8().refuse(figures, variants.AcceptanceLimits(any_speed=True)) is None
    assert variants.Fp16().refuse(figures, limits) is None


@pytest.mark.parametrize(
    "arguments, problem",
    [
        (("export", "somewhere", "--max-drop", 2), "--max-drop goes with --int8 or --fp16"),
        (("export", "somewhere", "--fp16", "--int8-any-speed"), "--int8-any-speed goes with --int8"),
        (("export", "mobilenetv2.imagenet1k", "--top", "--int8"), "goes with a run"),
        (("finetune", "mobilenetv2", "--no-export", "--int8"), "--no-export"),
        (("export", "somewhere", "--int8", "--max-drop", "nan"), "must be a number"),
    ],
)
def test_wrong_usage(zoo, arguments, problem):
    ran = zoo(*arguments)
    assert ran.code == 2 and problem in ran.err
