"""Int8 files: what the search tries, which candidate it chooses, and what the file says and does."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import zoo_runtime
from zoo.data.split import Split
from zoo.errors import ConversionFailed
from zoo.evaluate.metrics import interval
from zoo.export import int8, variants
from zoo.reporter import Reporter
from zoo_runtime import Predictor
from zoo_runtime.workshop import Pairs


@pytest.fixture
def steady(monkeypatch):
    """Give every candidate the same speed, so that a busy machine does not change what the search tries or chooses."""
    monkeypatch.setattr(int8, "speedup", lambda reference, session, pixels: 1.5)
    monkeypatch.setattr(variants, "compare_speed", lambda first, second, pixels: Pairs(3.0, 2.0, 1.5, (1.4, 1.6)))


@pytest.fixture
def made(export, steady):
    """The run exported as int8, and what was printed."""
    ran = export("--int8", "--max-drop", 25)
    assert ran.code == 0, ran.err
    return ran


def trials_of(figures):
    """Return the trials of int8.json as the search had them."""
    for values in figures["tried"]:
        config = {**values["way"], "left_out": tuple(values["way"]["left_out"])}
        others = {key: value for key, value in values.items() if key not in ("way", "accuracy_interval")}
        yield int8.Trial(int8.QuantConfig(**config), **others)


def test_the_file_and_its_figures(made, run, exported, finished, photos, zoo):
    file = exported / "shapes-int8" / "model.onnx"
    assert file.read_bytes() == (run / "model-int8.onnx").read_bytes()
    plain_file = finished[0] / "model.onnx"
    for path in (run / "model.onnx", exported / "shapes" / "model.onnx"):
        assert path.read_bytes() == plain_file.read_bytes(), "the float32 files stay as they are"
    tensors = onnx.load(file).graph.initializer
    assert sum(len(tensor.raw_data) for tensor in tensors if tensor.data_type == TensorProto.INT8) > 350_000
    assert file.stat().st_size < 0.5 * plain_file.stat().st_size

    figures = json.loads((run / "int8.json").read_text())
    predictor, plain = Predictor(file), Predictor(exported / "shapes")
    assert predictor.info.precision["kind"] == "int8" and plain.info.precision == {}
    assert set(predictor.info.parity) == {"calibrated_difference"} and plain.info.parity["logits_difference"] < 1e-4
    assert zoo_runtime.check(predictor).passed
    difference = figures["between_processors"]
    assert figures["selftest_tolerance"] == predictor.info.selftest["tolerance"] == min(max(difference, 1e-3), 0.1)
    assert ("zoo-runtime check` may fail there" in made.out) == (difference > 0.1)
    assert predictor.info.metrics["test"]["accuracy"] == figures["accuracy"]
    assert json.loads(zoo("evaluate", file, "--data", photos, "--json").out)["accuracy"] > 0.9
    pixels = np.stack([plain.decode(path) for path in sorted(photos.rglob("*.jpg"))])
    # The same network, rounded: the probabilities are close, but not equal.
    change = np.abs(predictor.probabilities(pixels) - plain.probabilities(pixels))
    assert 1e-6 < change.mean() < 0.05
    assert f"accuracy {figures['accuracy']:.2f} (" in made.out
    pictures = figures["judged_on"]
    for trial in figures["tried"]:
        expected = interval(trial["accuracy"], pictures)
        assert trial["accuracy_interval"] == (None if trial["failed"] else expected)
    assert figures["float32_accuracy_there_interval"] == interval(figures["float32_accuracy_there"], pictures)
    assert f"the best of {len(figures['tried'])} candidates" in made.out


def test_every_choice_is_tried_and_the_best_trial_is_taken(made, run):
    figures = json.loads((run / "int8.json").read_text())
    trials = list(trials_of(figures))
    for key, values in {
        "activations": {"uint8", "int8"},
        "per_channel": {True, False},
        "weight_bits": {7, 8},
        "calibration": {"minmax", "percentile", "entropy"},
    }.items():
        assert {getattr(trial.config, key) for trial in trials} == values
    whole, without_first = trials[:2]
    assert whole.config == int8.QuantConfig() and len(without_first.config.left_out) == 1
    # 24 of the 48 training pictures calibrate. The other 24 and the 12 validation pictures compare the candidates.
    assert figures["calibration_pictures"] == 24 and figures["judged_on"] == 36

    spared = without_first.error <= 1.2 * whole.error and without_first.bytes <= 1.25 * whole.bytes
    candidates = [
        trial
        for trial in trials
        if trial.bytes <= 0.9 * figures["float32_bytes"]
        and (not spared or set(trial.config.left_out) >= set(without_first.config.left_out))
    ]
    chosen = int8.choose(candidates, pictures=36, max_drop=0.25, any_speed=False)
    assert {key: figures[key] for key in figures["tried"][0]["way"]} == {
        **vars(chosen.config),
        "left_out": list(chosen.config.left_out),
    }
    assert figures["logits_error"] == chosen.error
    assert chosen.error <= 1.2 * min(trial.error for trial in candidates if trial.bytes <= chosen.bytes)


def test_a_slower_file_is_refused(export, run, exported, monkeypatch):
    before = (exported / "shapes" / "model.onnx").read_bytes()
    slower = Pairs(1.0, 2.0, 0.5, (0.4, 0.6))
    monkeypatch.setattr(variants, "compare_speed", lambda first, second, pixels: slower)
    monkeypatch.setattr(int8, "CHOICES", ())
    ran = export("--int8", "--max-drop", 100)
    assert ran.code == 1 and "not faster" in ran.err and "--int8-any-speed" in ran.err
    assert not (exported / "shapes-int8").exists() and not (run / "model-int8.onnx").exists()
    assert (exported / "shapes" / "model.onnx").read_bytes() == before
    figures = json.loads((run / "int8.json").read_text())
    assert "not faster" in figures["refusal"] and len(figures["tried"]) >= 2


def network(nodes, constants):
    """Return a classifier of some operations between "means" and "logits", with the constants c0, c1 ..."""
    tensors = [onnx.numpy_helper.from_array(value, f"c{i}") for i, value in enumerate(constants)]
    nodes = [
        onnx.helper.make_node("Cast", ["image"], ["levels"], to=TensorProto.FLOAT),
        onnx.helper.make_node("ReduceMean", ["levels"], ["means"], axes=[1, 2], keepdims=0),
        *nodes,
        onnx.helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    image = onnx.helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 8, 8, 3])
    outputs = [
        onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3])
        for name in ("logits", "probabilities")
    ]
    graph = onnx.helper.make_graph(nodes, "one", [image], outputs, tensors)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)


def one_layer(kind, constant):
    """Return a classifier of one operation between pixels and probabilities."""
    return network([onnx.helper.make_node(kind, ["means", "c0"], ["logits"])], [constant])


def two_layers(first, second):
    """Return a classifier of two matrices."""
    return layers(first, second)


def layers(*matrices):
    """Return a classifier that multiplies the means by one matrix after the other."""
    names = ["means", *(f"hidden{i}" for i in range(1, len(matrices))), "logits"]
    nodes = [
        onnx.helper.make_node("MatMul", [names[i], f"c{i}"], [names[i + 1]], f"matrix{i}") for i in range(len(matrices))
    ]
    return network(nodes, list(matrices))


def random_pictures(multilabel=False):
    """Return 12 pictures of noise with one of three classes each."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    return int8.ValidationSet(pixels, np.eye(3)[rng.integers(0, 3, 12)], multilabel)


def test_a_network_without_weights_is_refused():
    pictures = random_pictures()
    with pytest.raises(ConversionFailed, match=r"there is nothing to quantize.*Conv, Gemm, MatMul"):
        int8.quantize(one_layer("Add", np.ones(3, np.float32)), pictures.pixels, pictures, max_drop=1.0)


def test_a_network_that_grows_is_refused():
    pictures = random_pictures()
    matrix = np.random.default_rng(1).normal(size=(3, 3)).astype(np.float32)
    with pytest.raises(ConversionFailed, match="no int8 graph is smaller"):
        int8.quantize(one_layer("MatMul", matrix), pictures.pixels, pictures, max_drop=1.0, any_speed=True)


def test_the_operations_that_hurt_most_stay_in_float32():
    """The second matrix multiplies values that the first has made very different in size, which 8 bits cannot hold."""
    pictures = random_pictures()
    rng = np.random.default_rng(1)
    first = (rng.normal(size=(3, 200)) * np.geomspace(1, 1e4, 200)).astype(np.float32)
    second = (rng.normal(size=(200, 3)) / np.geomspace(1, 1e4, 200)[:, None]).astype(np.float32)
    quantizer = int8.Quantizer(two_layers(first, second), pictures.pixels)
    assert len(quantizer.weighted) == 2
    session = int8.open_session(two_layers(first, second))
    logits, _ = pictures.outputs(session)
    order = int8.most_sensitive(quantizer, int8.QuantConfig(), pictures, logits)
    errors = {
        name: int8.relative_error(
            logits, pictures.outputs(int8.open_session(quantizer.graph(int8.QuantConfig(), only=[name])))[0]
        )
        for name in quantizer.weighted
    }
    assert order == sorted(errors, key=lambda name: -errors[name]) and errors[order[0]] > errors[order[1]] > 0


def test_relative_error():
    logits = np.array([[1.0, 0.0], [-1.0, 0.0]])
    # The spread is the root mean square of (1, 0, -1, 0), the change is 0.1 in every value.
    assert int8.relative_error(logits, logits + 0.1) == pytest.approx(0.1 / np.sqrt(0.5))
    assert int8.relative_error(logits, logits) == 0
    assert int8.relative_error(logits, logits * np.nan) == float("inf")


def trial(name, error, speedup=1.5, size=100, lost=0, won=0, changed=None):
    """Return a trial. Unless a test says otherwise, 4000 pictures compare the trials: 40 lost ones are 1 point."""
    counts = {"lost": lost, "won": won, "changed": lost + won if changed is None else changed}
    return int8.Trial(int8.QuantConfig(left_out=(name,)), 0.5, error, speedup, size, **counts)


@pytest.mark.parametrize(
    "trials, options, expected",
    [
        # The least error wins, but a small difference does not count. Among equals the first one wins that is nearly
        # the fastest, or the first of all if the device differs.
        ([trial("a", 0.10), trial("b", 0.05)], {}, "b"),
        ([trial("a", 0.10), trial("b", 0.09)], {}, "a"),
        ([trial("a", 0.10, speedup=1.1), trial("b", 0.09, speedup=1.5)], {}, "b"),
        ([trial("a", 0.10, speedup=1.2), trial("b", 0.09, speedup=1.5)], {}, "a"),
        ([trial("a", 0.10, speedup=0.75), trial("b", 0.09, speedup=1.3)], {"any_speed": True}, "a"),
        # A candidate slower than float32 wins only on request, or if no other one loses little.
        ([trial("a", 0.10), trial("b", 0.01, speedup=0.9)], {}, "a"),
        ([trial("a", 0.10), trial("b", 0.01, speedup=0.9)], {"any_speed": True}, "b"),
        ([trial("a", 0.30), trial("b", 0.01, speedup=0.9)], {}, "b"),
        # A larger file wins only if the smaller ones lose much, in logits or in accuracy.
        ([trial("a", 0.15), trial("b", 0.01, size=126)], {}, "a"),
        ([trial("a", 0.30), trial("b", 0.01, size=300)], {}, "b"),
        ([trial("a", 0.10, lost=40), trial("b", 0.15, size=300)], {}, "b"),
        # A loss of more than half of the bound is accepted if no better candidate is faster.
        ([trial("a", 0.05, lost=28), trial("b", 0.05)], {}, "b"),
        ([trial("a", 0.05, lost=28), trial("b", 0.05, speedup=0.97)], {}, "a"),
        ([trial("a", 0.05, lost=44), trial("b", 0.05, speedup=0.97)], {}, "b"),
        # Exactly half of the bound.
        ([trial("a", 0.05, lost=20), trial("b", 0.06)], {}, "a"),
        # If all lose much, error counts before size, but a small difference does not count.
        ([trial("a", 0.90), trial("b", 0.30, size=300)], {}, "b"),
        ([trial("a", 0.31, speedup=2.0), trial("b", 0.30, speedup=1.01, size=300)], {}, "a"),
        ([trial("a", 0.90), trial("b", 0.30, speedup=0.9)], {}, "a"),
        ([], {}, None),
        # Won pictures make up for lost ones.
        ([trial("a", 0.05, lost=60, won=50), trial("b", 0.10)], {}, "a"),
        # One of 36 pictures is 2.8 points, but proves nothing: the change of the logits decides.
        ([trial("a", 0.05, lost=1), trial("b", 0.10)], {"pictures": 36}, "a"),
        ([trial("a", 0.10), trial("b", 0.05, lost=1)], {"pictures": 36}, "b"),
        # Two of 36 pictures make a loss probable: a graph that loses none is better, but this one is still acceptable.
        ([trial("a", 0.05, lost=2), trial("b", 0.10)], {"pictures": 36}, "b"),
        ([trial("a", 0.05, lost=2), trial("b", 0.10, lost=3)], {"pictures": 36}, "a"),
        # A third of 36 pictures proves something, and so do many changed answers that cancel out.
        ([trial("a", 0.05, lost=12), trial("b", 0.10, size=300)], {"pictures": 36}, "b"),
        ([trial("a", 0.05, lost=3, won=3, changed=6), trial("b", 0.10, size=300)], {"pictures": 36}, "a"),
        ([trial("a", 0.05, lost=3, won=3, changed=14), trial("b", 0.10, size=300)], {"pictures": 36}, "b"),
    ],
)
def test_which_candidate_is_chosen(trials, options, expected):
    chosen = int8.choose(trials, **{"pictures": 4000, "max_drop": 0.01, "any_speed": False, **options})
    assert chosen is None if expected is None else chosen.config.left_out == (expected,)


def quantized(monkeypatch, *networks, **options):
    """Return what `quantize` chooses if its trials come out as given: (failed, error, bytes), one after the other."""
    outcomes = iter([*networks, *[networks[-1]] * 20])

    def attempt(self, config):
        failed, error, size = next(outcomes)
        self.trials.append(int8.Trial(config, 1.0, error, 1.5, size, failed))
        return self.trials[-1]

    monkeypatch.setattr(int8._Search, "_attempt", attempt)
    monkeypatch.setattr(onnx.ModelProto, "ByteSize", lambda self: 1000)
    matrices = np.random.default_rng(0).normal(size=(2, 3, 3)).astype(np.float32)
    pictures = random_pictures()
    return int8.quantize(two_layers(*matrices), pictures.pixels, pictures, max_drop=1.0, **options)


@pytest.mark.parametrize(
    ("train", "val", "calibrating", "comparing", "overlap"),
    [
        (range(48), range(48, 60), 24, 36, 0),
        # Without a validation part, the other half of the training pictures compares the candidates.
        (range(100), [], 50, 50, 0),
        (range(2000), [], 128, 512, 0),
        # Of 20 training pictures, 10 would remain: 6 calibration pictures are added.
        (range(20), [], 10, 16, 6),
        (range(5), [5], 2, 6, 2),
        ([0], [], 1, 1, 1),
    ],
)
def test_the_pictures_of_the_search(train, val, calibrating, comparing, overlap):
    parts = (np.array(part, dtype=np.int64) for part in (train, val, range(5000, 5100)))
    calibrated, compared, both = int8.choose_pictures(Split(*parts, how="a test"), seed=3)
    assert (len(calibrated), len(compared), both) == (calibrating, comparing, overlap)
    assert len(set(calibrated) & set(compared)) == overlap and len(set(compared)) == comparing
    assert set(calibrated) <= set(train) and set(val) <= set(compared) <= {*train, *val}


class Bars(Reporter):
    """Keeps the last (done, total) of every progress bar, by its label, and checks that bars only grow."""

    def __init__(self):
        super().__init__()
        self.bars = {}

    @contextlib.contextmanager
    def progress(self, label):
        self.bars[label] = None

        def show(done, total):
            assert 0 < done <= total and (self.bars[label] is None or self.bars[label] < (done, total))
            self.bars[label] = (done, total)

        yield show


def test_the_search_shows_which_candidate_it_tries(monkeypatch):
    """No logits are faithful enough here, so that the search also tries to leave operations out."""
    pictures = random_pictures()
    rng = np.random.default_rng(1)
    shapes = ((3, 64), (64, 64), (64, 64), (64, 3))
    matrices = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    monkeypatch.setattr(int8, "speedup", lambda reference, session, pixels: 1.5)
    monkeypatch.setattr(int8, "FAITHFUL_ERROR", 0.0)
    reporter = Bars()
    result = int8.quantize(layers(*matrices), pictures.pixels, pictures, max_drop=0.01, reporter=reporter)
    # The first matrix stays in float32 from the second candidate on. Of the others, one or two are left out as well.
    steps = [f"int8 candidate {i} of 7" for i in range(1, 8)] + [f"int8 candidate {i} of at most 9" for i in (8, 9)]
    assert [len(trial.config.left_out) for trial in result.trials] == [0, 1, 1, 1, 1, 1, 1, 2, 3]
    for step, trial in zip(steps, result.trials, strict=True):
        assert reporter.bars[f"{step}: comparing with float32"] == (12, 12)
        assert f"{step}: timing" in reporter.bars
        method = trial.config.calibration
        quantizing, calibrating = f"{step}: quantizing ({method})", f"{step}: calibrating ({method})"
        assert (quantizing in reporter.bars) != (calibrating in reporter.bars)
    calibrations = {label: last for label, last in reporter.bars.items() if "calibrating" in label}
    assert set(calibrations.values()) == {(12, 12)}
    assert [label.split()[-1] for label in calibrations] == ["(minmax)", "(percentile)", "(entropy)"]
    assert reporter.bars["int8: computing the float32 outputs"] == (12, 12)
    assert reporter.bars["int8: measuring how much each operation changes the outputs"] == (3, 3)


def test_the_first_operation_is_quantized_if_it_has_most_of_the_weights(monkeypatch):
    """Without its first operation in 8 bits, the file of a dense network on pixels would be as large as before."""
    small, large = ("", 0.05, 300), ("", 0.01, 890)
    assert quantized(monkeypatch, small, large, small).chosen.bytes == 300
    spared = ("", 0.01, 310)
    assert quantized(monkeypatch, small, spared, small).chosen.bytes == 310


def test_a_success_after_failures_is_taken(monkeypatch):
    failed = ("no uint8 here", float("inf"), 0)
    assert quantized(monkeypatch, failed, failed, ("", 0.02, 300)).chosen.bytes == 300
    with pytest.raises(ConversionFailed, match="no uint8 here"):
        quantized(monkeypatch, failed)
    with pytest.raises(ConversionFailed, match="by a tenth"):
        quantized(monkeypatch, failed, ("", 0.02, 950))


def test_a_json_trial_has_no_infinity():
    trial = int8.Trial(int8.QuantConfig(left_out=("conv",)), 0.0, float("inf"), 0.0, 0, "no reason")
    assert json.loads(json.dumps(trial.to_json(), allow_nan=False)) == {
        "way": {
            "calibration": "minmax",
            "activations": "uint8",
            "per_channel": True,
            "weight_bits": 8,
            "left_out": ["conv"],
        },
        "accuracy": 0.0,
        "error": None,
        "speedup": 0.0,
        "bytes": 0,
        "failed": "no reason",
        "lost": 0,
        "won": 0,
        "changed": 0,
    }


def test_with_several_labels_every_decision_must_be_correct():
    pictures = int8.ValidationSet(np.zeros((2, 1, 1, 3), np.uint8), np.array([[1, 0], [0, 0]]), multilabel=True)
    assert pictures.accuracy(np.zeros((2, 2))) == 0.5
    assert pictures.accuracy(np.array([[0.5, 0.4], [0.1, 0.2]])) == 1.0
