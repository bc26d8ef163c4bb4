"""Smaller files: int8 and 16-bit weights, beside a float32 export that they never touch."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import zoo_runtime
from zoo.errors import ConversionFailed
from zoo.export import fp16, int8, variants
from zoo_runtime import Predictor


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run, and of its export, that a test may write to."""
    folder, exported, _ = finished
    shutil.copytree(folder, tmp_path / "runs" / folder.name)
    shutil.copytree(exported, tmp_path / "exported")
    return tmp_path / "runs" / folder.name


def export(zoo, run, *options):
    return zoo("export", run, "--exported", run.parent.parent / "exported", *options)


def stored(path, kind):
    """Bytes of a file's tensors of one type."""
    graph = onnx.load(path).graph
    return sum(len(t.raw_data) for t in graph.initializer if t.data_type == kind)


def test_int8(zoo, run, photos):
    exported = run.parent.parent / "exported"
    before = {path: path.read_bytes() for path in (run / "model.onnx", exported / "shapes" / "model.onnx")}
    ran = export(zoo, run, "--int8", "--int8-any-speed", "--max-drop", 25)
    assert ran.code == 0, ran.err
    file = exported / "shapes-int8" / "model.onnx"
    assert file.read_bytes() == (run / "model-int8.onnx").read_bytes()
    assert all(path.read_bytes() == content for path, content in before.items())
    assert stored(file, TensorProto.INT8) > 350_000 and file.stat().st_size < 0.5 * len(before[run / "model.onnx"])

    figures = json.loads((run / "int8.json").read_text())
    ways = [trial["way"] for trial in figures["tried"]]
    for key, values in {
        "activations": {"uint8", "int8"},
        "per_channel": {True, False},
        "weight_bits": {7, 8},
        "calibration": {"minmax", "percentile", "entropy"},
    }.items():
        assert {config[key] for config in ways} == values
    assert len(ways[1]["left_out"]) == 1 and ways[0]["left_out"] == []
    chosen = {key: figures[key] for key in ways[0]}
    allowed = [trial for trial in figures["tried"] if set(trial["way"]["left_out"]) >= set(chosen["left_out"][:1])]
    assert chosen in [trial["way"] for trial in allowed]
    assert 0 < figures["logits_error"] < 0.5
    # 48 training pictures: half of them calibrate, the others judge beside the 12 of validation.
    assert figures["calibration_pictures"] == 24 and figures["judged_on"] == 36

    predictor, plain = Predictor(file), Predictor(exported / "shapes")
    assert predictor.info.precision["kind"] == "int8" and plain.info.precision == {}
    assert predictor.info.parity == {} and plain.info.parity["logits_difference"] < 1e-4
    assert zoo_runtime.check(predictor).passed
    apart = figures["between_processors"]
    assert figures["selftest_tolerance"] == predictor.info.selftest["tolerance"] == min(max(apart, 1e-3), 0.1)
    assert ("zoo-runtime check` may fail there" in ran.out) == (apart > 0.1)
    assert predictor.info.metrics["test"]["accuracy"] == figures["accuracy"]
    assert json.loads(zoo("evaluate", file, "--data", photos, "--json").out)["accuracy"] > 0.8
    pixels = np.stack([plain.decode(path) for path in sorted(photos.rglob("*.jpg"))])
    # The same network, in other steps: near, and not equal.
    difference = np.abs(predictor.probabilities(pixels) - plain.probabilities(pixels))
    assert 1e-6 < difference.mean() < 0.05
    assert f"accuracy {figures['accuracy']:.4f} instead of" in ran.out and "ways tried" in ran.out


def test_fp16(zoo, run, photos):
    exported = run.parent.parent / "exported"
    before = (exported / "shapes" / "model.onnx").read_bytes()
    ran = export(zoo, run, "--fp16")
    assert ran.code == 0, ran.err
    file = exported / "shapes-fp16" / "model.onnx"
    assert (exported / "shapes" / "model.onnx").read_bytes() == before
    assert stored(file, TensorProto.FLOAT16) > 750_000 and stored(file, TensorProto.FLOAT) < 60_000
    assert file.stat().st_size < 0.56 * len(before)
    figures = json.loads((run / "fp16.json").read_text())
    assert figures["parity_with_rounded"] < 1e-4 and figures["refusal"] is None
    predictor, plain = Predictor(file), Predictor(exported / "shapes")
    assert predictor.info.precision["kind"] == "fp16" and zoo_runtime.check(predictor).passed
    pixels = np.stack([plain.decode(path) for path in sorted(photos.rglob("*.jpg"))])
    assert 0 < np.abs(predictor.probabilities(pixels) - plain.probabilities(pixels)).max() < 0.02


@pytest.mark.slow
def test_finetune_makes_them_too(zoo, photos, tmp_path):
    ran = zoo(
        *("finetune", "mobilenetv2_035", "--data", photos, "--size", 32, "--weights", "none", "--epochs", 1),
        *("--name", "small", "--runs", tmp_path / "runs", "--exported", tmp_path / "exported"),
        *("--int8", "--fp16", "--int8-any-speed", "--max-drop", 100),
    )
    assert ran.code == 0, ran.err
    assert sorted(p.name for p in (tmp_path / "exported").iterdir()) == ["small", "small-fp16", "small-int8"]
    assert "int8       " in ran.out and "fp16       " in ran.out and "Export     " in ran.out


def test_a_slower_int8_file_is_refused(zoo, run, monkeypatch):
    exported = run.parent.parent / "exported"
    before = (exported / "shapes" / "model.onnx").read_bytes()
    slower = zoo_runtime.Pairs(1.0, 2.0, 0.5, (0.4, 0.6))
    monkeypatch.setattr(variants, "compare_speed", lambda first, second, pixels: slower)
    monkeypatch.setattr(int8, "CHOICES", ())
    ran = export(zoo, run, "--int8", "--max-drop", 100)
    assert ran.code == 1 and "not faster" in ran.err and "--int8-any-speed" in ran.err
    assert not (exported / "shapes-int8").exists() and not (run / "model-int8.onnx").exists()
    assert (exported / "shapes" / "model.onnx").read_bytes() == before
    figures = json.loads((run / "int8.json").read_text())
    assert "not faster" in figures["refusal"] and len(figures["tried"]) >= 2


def test_a_file_that_loses_accuracy_is_refused(zoo, run, monkeypatch):
    """Weights of the wrong sign: the file does what such weights do, and that is not enough."""
    rounded = fp16._weights
    monkeypatch.setattr(fp16, "_weights", lambda graph: ((t, -v) for t, v in rounded(graph)))
    ran = export(zoo, run, "--fp16", "--max-drop", 30)
    assert ran.code == 1
    assert "no fp16 file is exported: accuracy falls from" in ran.err and "--max-drop allows 30" in ran.err
    assert [p.name for p in (run.parent.parent / "exported").iterdir()] == ["shapes"]
    assert "accuracy falls" in json.loads((run / "fp16.json").read_text())["refusal"]


@pytest.mark.slow
def test_16_bit_weights_that_are_not_read_back_are_an_error(zoo, run, monkeypatch):
    to_fp16 = fp16.to_fp16

    def swapped(graph):
        made = to_fp16(graph)
        same = [t for t in made.graph.initializer if t.data_type == TensorProto.FLOAT16]
        values = onnx.numpy_helper.to_array(same[-1])
        same[-1].raw_data = values[::-1].tobytes()
        return made

    monkeypatch.setattr(fp16, "halve", swapped)
    ran = export(zoo, run, "--fp16")
    assert ran.code == 1 and "differ" in ran.err
    assert not (run.parent.parent / "exported" / "shapes-fp16").exists()


def test_what_goes_wrong_with_one_kind_leaves_the_rest(zoo, run, monkeypatch):
    def refuse(*arguments, **options):
        raise ConversionFailed("onnxruntime cannot quantise the network: no reason")

    monkeypatch.setattr(int8, "quantize", refuse)
    ran = export(zoo, run, "--int8", "--fp16")
    assert ran.code == 1 and "no int8 file is exported: onnxruntime cannot quantise" in ran.err
    assert "fp16       " in ran.out
    assert sorted(p.name for p in (run.parent.parent / "exported").iterdir()) == ["shapes", "shapes-fp16"]


def test_a_float32_export_is_never_replaced_by_a_smaller_file(zoo, run):
    exported = run.parent.parent / "exported"
    shutil.copytree(exported / "shapes", exported / "shapes-fp16")
    before = (exported / "shapes-fp16" / "model.onnx").read_bytes()
    ran = export(zoo, run, "--fp16")
    assert ran.code == 2 and "choose another --name" in ran.err
    assert (exported / "shapes-fp16" / "model.onnx").read_bytes() == before


@pytest.mark.slow
def test_a_smaller_file_of_another_run_is_pointed_at(zoo, run):
    exported = run.parent.parent / "exported"
    assert export(zoo, run, "--fp16").code == 0
    assert "another run" not in export(zoo, run).err
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "id": "another"}))
    other = run.rename(run.with_name("another"))
    ran = export(zoo, other)
    assert ran.code == 0 and "shapes-fp16" in ran.err and "is of another run" in ran.err
    assert Predictor(exported / "shapes-fp16").info.run["id"] == run.name


def one_layer(kind, *constants):
    """A classifier of one operation between pixels and probabilities."""
    names = [f"c{i}" for i in range(len(constants))]
    return layers([onnx.helper.make_node(kind, ["means", *names], ["logits"])], constants)


def two_layers(first, second):
    """A classifier of two matrices."""
    nodes = [("means", "c0", "hidden"), ("hidden", "c1", "logits")]
    return layers([onnx.helper.make_node("MatMul", [a, b], [c]) for a, b, c in nodes], (first, second))


def layers(between, constants):
    """A classifier of some operations between "means" and "logits", with the constants c0, c1 ..."""
    tensors = [onnx.numpy_helper.from_array(value, f"c{i}") for i, value in enumerate(constants)]
    nodes = [
        onnx.helper.make_node("Cast", ["image"], ["levels"], to=TensorProto.FLOAT),
        onnx.helper.make_node("ReduceMean", ["levels"], ["means"], axes=[1, 2], keepdims=0),
        *between,
        onnx.helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    image = onnx.helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 8, 8, 3])
    outputs = [
        onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3])
        for name in ("logits", "probabilities")
    ]
    graph = onnx.helper.make_graph(nodes, "one", [image], outputs, tensors)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)


def test_what_has_no_weights_or_grows_is_not_called_int8():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    judge = int8.ValidationSet(pixels, np.eye(3)[rng.integers(0, 3, 12)])
    with pytest.raises(ConversionFailed, match="nothing to bring to 8 bits"):
        int8.quantize(one_layer("Add", np.ones(3, np.float32)), pixels, judge, max_drop=1.0)
    matrix = rng.normal(size=(3, 3)).astype(np.float32)
    with pytest.raises(ConversionFailed, match="no int8 graph is smaller"):
        int8.quantize(one_layer("MatMul", matrix), pixels, judge, max_drop=1.0, any_speed=True)


def trial(name, error, speedup=1.5, size=100, accuracy=0.9):
    return int8.Trial(int8.QuantConfig(left_out=(name,)), accuracy, error, speedup, size)


@pytest.mark.parametrize(
    "trials, options, expected",
    [
        # The least error counts, a hair's breadth of it does not; among equals the first that is nearly the fastest,
        # or the first where the device differs.
        ([trial("a", 0.10), trial("b", 0.05)], {}, "b"),
        ([trial("a", 0.10), trial("b", 0.09)], {}, "a"),
        ([trial("a", 0.10, speedup=1.1), trial("b", 0.09, speedup=1.5)], {}, "b"),
        ([trial("a", 0.10, speedup=1.2), trial("b", 0.09, speedup=1.5)], {}, "a"),
        ([trial("a", 0.10, speedup=0.75), trial("b", 0.09, speedup=1.3)], {"any_speed": True}, "a"),
        # Slower than float32: only where asked for, or where there is nothing else that loses little.
        ([trial("a", 0.10), trial("b", 0.01, speedup=0.9)], {}, "a"),
        ([trial("a", 0.10), trial("b", 0.01, speedup=0.9)], {"any_speed": True}, "b"),
        ([trial("a", 0.30), trial("b", 0.01, speedup=0.9)], {}, "b"),
        # Larger files only where the smaller ones lose much, in logits or in accuracy.
        ([trial("a", 0.15), trial("b", 0.01, size=126)], {}, "a"),
        ([trial("a", 0.30), trial("b", 0.01, size=300)], {}, "b"),
        ([trial("a", 0.10, accuracy=0.89), trial("b", 0.15, size=300)], {}, "b"),
        # A loss within the bound, if more than half of it, where there is nothing better that is faster.
        ([trial("a", 0.05, accuracy=0.893), trial("b", 0.05)], {}, "b"),
        ([trial("a", 0.05, accuracy=0.893), trial("b", 0.05, speedup=0.97)], {}, "a"),
        ([trial("a", 0.05, accuracy=0.889), trial("b", 0.05, speedup=0.97)], {}, "b"),
        # Half of the bound to a hair: 0.9 - 0.895 is more than 0.005 to a float.
        ([trial("a", 0.05, accuracy=0.895), trial("b", 0.06)], {}, "a"),
        # Where all lose much, error comes before size, but for a hair's breadth.
        ([trial("a", 0.90), trial("b", 0.30, size=300)], {}, "b"),
        ([trial("a", 0.31, speedup=2.0), trial("b", 0.30, speedup=1.01, size=300)], {}, "a"),
        ([trial("a", 0.90), trial("b", 0.30, speedup=0.9)], {}, "a"),
        ([], {}, None),
    ],
)
def test_which_way_to_int8_is_taken(trials, options, expected):
    chosen = int8.choose(trials, accuracy=0.9, max_drop=0.01, **{"any_speed": False, **options})
    assert chosen is None if expected is None else chosen.config.left_out == (expected,)


def quantized(monkeypatch, *networks, **options):
    """What `quantize` chooses where ways come out as given: (failed, error, bytes), one after the other."""
    made = iter([*networks, *[networks[-1]] * 20])

    def attempt(self, config):
        failed, error, size = next(made)
        self.trials.append(int8.Trial(config, 1.0, error, 1.5, size, failed))
        return self.trials[-1]

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    monkeypatch.setattr(int8._Search, "_attempt", attempt)
    monkeypatch.setattr(onnx.ModelProto, "ByteSize", lambda self: 1000)
    matrices = [rng.normal(size=(3, 3)).astype(np.float32) for _ in range(2)]
    judge = int8.ValidationSet(pixels, np.eye(3)[rng.integers(0, 3, 12)])
    return int8.quantize(two_layers(*matrices), pixels, judge, max_drop=1.0, **options)


def test_the_first_operation_is_not_left_out_where_most_of_the_weights_are(monkeypatch):
    """A dense network on pixels: left out, the file would be as large as before."""
    small, large = ("", 0.05, 300), ("", 0.01, 890)
    assert quantized(monkeypatch, small, large, small).chosen.bytes == 300
    spared = ("", 0.01, 310)
    assert quantized(monkeypatch, small, spared, small).chosen.bytes == 310


def test_what_succeeds_after_failures_is_taken(monkeypatch):
    failed = ("no uint8 here", float("inf"), 0)
    assert quantized(monkeypatch, failed, failed, ("", 0.02, 300)).chosen.bytes == 300
    with pytest.raises(ConversionFailed, match="no uint8 here"):
        quantized(monkeypatch, failed)
    with pytest.raises(ConversionFailed, match="by a tenth"):
        quantized(monkeypatch, failed, ("", 0.02, 950))


def test_of_several_labels_every_figure_counts():
    """A file that says no to each of a hundred classes makes 99 of 100 decisions right."""
    figures = {"kind": "fp16", "accuracy": 0.99, "float32_accuracy": 1.0}
    assert variants._refusal(figures, variants.AcceptanceLimits(0.02)) is None
    several = {"exact_match": 0.0, "float32_exact_match": 1.0}
    assert "exact match falls from 1.0000 to 0.0000" in variants._refusal(
        {**figures, **several}, variants.AcceptanceLimits(0.02)
    )
    judge = int8.ValidationSet(np.zeros((2, 1, 1, 3), np.uint8), np.array([[1, 0], [0, 0]]), multilabel=True)
    assert judge.accuracy(np.zeros((2, 2))) == 0.5


def test_weights_beyond_16_bits_stay_as_they_are():
    values = np.linspace(-1, 1, 512, dtype=np.float32).reshape(16, 32)
    great = values * 1e6
    tensors = [onnx.numpy_helper.from_array(v, n) for n, v in (("small", values), ("great", great))]
    nodes = [onnx.helper.make_node("Add", ["small", "great"], ["sum"])]
    output = onnx.helper.make_tensor_value_info("sum", TensorProto.FLOAT, [16, 32])
    graph = onnx.helper.make_model(onnx.helper.make_graph(nodes, "two", [], [output], tensors))
    kinds = {t.name: t.data_type for t in fp16.to_fp16(graph).graph.initializer}
    assert kinds == {"small_float16": TensorProto.FLOAT16, "great": TensorProto.FLOAT}


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
