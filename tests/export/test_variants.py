"""What all variants share: options, limits, refusals, and that the float32 export is never touched."""

from __future__ import annotations

import json
import shutil

import click
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
    (line,) = renamed.describe(figures)
    assert figures["accuracy_interval"] == figures["float32_accuracy_interval"] == interval(figures["accuracy"], 12)
    text = zoo_runtime.format_accuracy(figures["accuracy"], figures["accuracy_interval"])
    assert f"accuracy {text} instead of {text} on 12 test pictures" in line


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
    assert ran.code == 2 and "choose another --name" in ran.err
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


def test_with_several_labels_every_metric_is_limited():
    """A file that says no to each of a hundred classes makes 99 of 100 decisions correctly."""
    figures = {"kind": "fp16", "accuracy": 0.99, "float32_accuracy": 1.0}
    limits = variants.AcceptanceLimits(0.02)
    assert variants.Fp16().refuse(figures, limits) is None
    multilabel = {**figures, "exact_match": 0.0, "float32_exact_match": 1.0}
    assert "exact match falls from 1.0000 to 0.0000" in variants.Fp16().refuse(multilabel, limits)


def test_a_refusal_says_how_sure_the_accuracies_are():
    figures = {"accuracy": 0.88, "float32_accuracy": 0.92, "accuracy_interval": [0.7, 0.96]}
    refusal = variants.Fp16().refuse(
        {**figures, "float32_accuracy_interval": [0.75, 0.98]}, variants.AcceptanceLimits()
    )
    assert "from 0.92 (0.75 to 0.98 with 95 % confidence) to 0.88 (0.70 to 0.96 with 95 % confidence) on" in refusal


@pytest.mark.parametrize(
    ("before", "after", "max_drop", "refused"),
    [
        (0.95, 0.94, 0.01, False),
        (0.9, 0.895, 0.005, False),
        (0.95, 0.93, 0.01, True),
        (0.95, float("nan"), 0.01, True),
        (0.9, 0.95, 0.0, False),
    ],
)
def test_the_loss_of_accuracy_is_limited(before, after, max_drop, refused):
    figures = {"accuracy": after, "float32_accuracy": before}
    refusal = variants.Fp16().refuse(figures, variants.AcceptanceLimits(max_drop))
    assert (refusal is not None) == refused
    if refused:
        assert f"accuracy falls from {before:.4f} to {after:.4f}" in refusal and "--max-drop allows 1" in refusal


def test_a_file_that_is_not_faster_is_refused_only_if_it_must_be():
    figures = {"speedup": 1.0, "milliseconds": 2.0, "float32_milliseconds": 2.0}
    limits = variants.AcceptanceLimits()
    assert "--int8-any-speed" in variants.Int8().refuse(figures, limits)
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
