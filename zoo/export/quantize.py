"""An int8 graph of an exported network: QuantizeLinear and DequantizeLinear around what onnxruntime then runs in int8.

How well a network stands 8 bits is not to be known beforehand, so it is measured, one choice after the other: whether
the first operation with weights is left out, the type of activations, one scale a channel or one a tensor, weights of 8
or 7 bits, the way of finding the ranges of activations; then, where too much is lost still, which operations hurt most.
Ranges come from training pictures; what is chosen is chosen on pictures that are neither those nor test pictures.
Calibration and quantisation are onnxruntime's.

Why the first operation, and why 7 bits: processors with AVX2 or AVX-512 but without VNNI add two products in 16 bits,
which are not enough for great values, so that what they compute is not what is written
(https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html). Pixels have the greatest values of all.
On another processor that does not show, so the first operation is left out wherever that costs next to nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from zoo.convert.keras_to_onnx import INPUT, LOGITS, PROBABILITIES
from zoo.convert.session import open_session
from zoo.errors import ConversionFailed

if TYPE_CHECKING:
    import onnxruntime

# What is tried, one choice after the other, beginning with the first of each.
CHOICES: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("activations", ("uint8", "int8")),
    ("per_channel", (True, False)),
    ("weight_bits", (8, 7)),
    ("calibration", ("minmax", "percentile", "entropy")),
)
WEIGHTED = ("Conv", "Gemm", "MatMul")
PERCENTILE = 99.99
LIKELY_TRIALS = 7
CALIBRATION_PICTURES = 128
JUDGING_PICTURES = 512
SENSITIVITY_PICTURES = 32
CHUNK = 8
BATCH = 16
PAIRS = 60
TOLERANCES = 1e-3, 0.1
FAITHFUL = 0.1
NEXT_TO_NOTHING = 1.2


@dataclass(frozen=True)
class Way:
    """One way of bringing a graph to 8 bits.

    Args:
        calibration: How ranges of activations are found: "minmax", "percentile" (99.99 % of the values) or "entropy".
        activations: Their type, "uint8" or "int8".
        per_channel: One scale a channel of the weights, rather than one a tensor.
        weight_bits: 8, or 7, which no processor's sums of 16 bits can overflow.
        left_out: Names of operations that stay in float32.
    """

    calibration: str = "minmax"
    activations: str = "uint8"
    per_channel: bool = True
    weight_bits: int = 8
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trial:
    """What came of a way.

    Args:
        way: How the graph was quantised.
        accuracy: On the judging pictures, in 0..1.
        error: Root mean square of the logits' change over that of the logits around their mean.
        speedup: Milliseconds of the float32 graph over those of this one, one picture at a time, taken by turns.
        bytes: Size of the graph.
    """

    way: Way
    accuracy: float
    error: float
    speedup: float
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, for JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Outcome:
    """Everything that was tried, and the best of it.

    Args:
        graph: The best one.
        chosen: Its trial.
        trials: All, in the order in which they were tried.
        accuracy: Of the float32 graph on the judging pictures, in 0..1.
        judged_on: How many these are.
    """

    graph: onnx.ModelProto
    chosen: Trial
    trials: tuple[Trial, ...]
    accuracy: float
    judged_on: int


@dataclass(frozen=True)
class Judge:
    """Pictures that a way is judged on.

    Args:
        pixels: uint8 array (pictures, height, width, channels).
        targets: float array (pictures, classes), 1 where a picture is of a class.
        multilabel: Whether each class is decided on its own.
    """

    pixels: np.ndarray
    targets: np.ndarray
    multilabel: bool = False

    def outputs(self, session: onnxruntime.InferenceSession, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Logits and probabilities of the first `count` pictures."""
        pixels = self.pixels[:count]
        batches = [
            session.run([LOGITS, PROBABILITIES], {INPUT: pixels[i : i + BATCH]}) for i in range(0, len(pixels), BATCH)
        ]
        logits, probabilities = (np.concatenate([batch[k] for batch in batches]) for k in (0, 1))
        return logits, probabilities

    def accuracy(self, probabilities: np.ndarray) -> float:
        """Share of right answers; of a multi-label network, of right decisions."""
        if self.multilabel:
            return float(((probabilities >= 0.5) == (self.targets > 0.5)).mean())
        return float((probabilities.argmax(axis=1) == self.targets.argmax(axis=1)).mean())


def quantize(
    graph: onnx.ModelProto,
    calibration: np.ndarray,
    judge: Judge,
    *,
    max_drop: float,
    any_speed: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Find the best int8 graph.

    Args:
        graph: What `convert` gave, with both outputs.
        calibration: Training pictures, uint8 array (pictures, height, width, channels), that ranges are found on.
        judge: Pictures of neither the calibration nor the test.
        max_drop: The greatest loss of accuracy that is wanted, in 0..1; operations are left out, twice as many each
            time, as long as more than half of it is lost or logits change by more than a tenth of their spread.
        any_speed: Whether a graph may be chosen that is slower here than the float32 one.
        progress: Called with (ways tried, how many there usually are).

    Returns:
        The most faithful of those that are faster here, or of all.

    Raises:
        ConversionFailed: onnxruntime refuses to quantise the graph.
    """
    quantizer = _Quantizer(graph, calibration)
    reference = open_session(graph)
    logits, probabilities = judge.outputs(reference)
    plain = judge.accuracy(probabilities)
    trials: list[tuple[Trial, onnx.ModelProto]] = []

    def attempt(way: Way) -> Trial:
        made = quantizer.graph(way)
        session = open_session(made)
        changed, answers = judge.outputs(session)
        trial = Trial(
            way,
            judge.accuracy(answers),
            relative_error(logits, changed),
            speedup(reference, session, judge.pixels[:1]),
            made.ByteSize(),
        )
        trials.append((trial, made))
        if progress:
            progress(len(trials), LIKELY_TRIALS)
        return trial

    def is_fast(trial: Trial) -> bool:
        return any_speed or trial.speedup > 1

    def best() -> Trial:
        allowed = [trial for trial, _ in trials if set(trial.way.left_out) >= always]
        return min([trial for trial in allowed if is_fast(trial)] or allowed, key=lambda trial: trial.error)

    whole, without = attempt(Way()), attempt(Way(left_out=(quantizer.first,)))
    leaves = without.error <= NEXT_TO_NOTHING * whole.error and is_fast(without) >= is_fast(whole)
    always = set(without.way.left_out) if leaves else set()
    for name, values in CHOICES:
        for value in values[1:]:
            attempt(dataclasses.replace(best().way, **{name: value}))
    chosen = best()

    def enough(trial: Trial) -> bool:
        return trial.error <= FAITHFUL and plain - trial.accuracy <= max_drop / 2

    if not enough(chosen):
        order = quantizer.most_sensitive(chosen.way, judge, logits)
        count = 1
        while count < len(order):
            left_out = {*chosen.way.left_out, *order[:count]}
            trial = attempt(dataclasses.replace(chosen.way, left_out=tuple(sorted(left_out))))
            if enough(trial) or not is_fast(trial):
                break
            count *= 2
        chosen = best()
    (made,) = [candidate for trial, candidate in trials if trial is chosen]
    return Outcome(made, chosen, tuple(trial for trial, _ in trials), plain, len(judge.pixels))


def relative_error(logits: np.ndarray, changed: np.ndarray) -> float:
    """Root mean square of a change of logits over that of the logits around their mean; infinite where one is NaN."""
    spread = float(np.sqrt(np.mean((logits - logits.mean(axis=0)) ** 2)))
    error = float(np.sqrt(np.mean((changed - logits) ** 2))) / max(spread, 1e-30)
    return error if np.isfinite(error) else float("inf")


def selftest_tolerance(graph: onnx.ModelProto, pixels: np.ndarray) -> float:
    """How far probabilities may be apart on another machine, 0.001 to 0.1.

    It is what two ways of computing the graph differ by here at most, in int8 and in float32 between the roundings: a
    value next to the middle between two steps is rounded up by one and down by the other, and then there are the
    16-bit sums of some processors.

    Args:
        graph: A graph in 8 bits.
        pixels: uint8 array (pictures, height, width, channels).
    """
    feeds = [{INPUT: pixels[i : i + BATCH]} for i in range(0, len(pixels), BATCH)]
    both = [
        np.concatenate([session.run([PROBABILITIES], feed)[0] for feed in feeds])
        for session in (open_session(graph), open_session(graph, as_written=True))
    ]
    return float(np.abs(both[0] - both[1]).max().clip(*TOLERANCES))


def speedup(
    reference: onnxruntime.InferenceSession, session: onnxruntime.InferenceSession, pixels: np.ndarray
) -> float:
    """Time of one session over that of another: the median over pairs that follow one another."""
    ratios = []
    for i in range(PAIRS + 5):
        seconds = []
        for one in (reference, session):
            begun = time.perf_counter()
            one.run([PROBABILITIES], {INPUT: pixels})
            seconds.append(time.perf_counter() - begun)
        if i >= 5:
            ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios)


class _Quantizer:
    """Quantises one graph in many ways; each kind of ranges is found once."""

    def __init__(self, graph: onnx.ModelProto, calibration: np.ndarray):
        self._graph = onnx.shape_inference.infer_shapes(_named(graph))
        self._pixels = calibration
        self._ranges: dict[str, Any] = {}
        self._frame = _outside(self._graph.graph)
        self._weighted = [
            node.name for node in self._graph.graph.node if node.op_type in WEIGHTED and node.name not in self._frame
        ]

    @property
    def first(self) -> str:
        """Name of the first operation with weights."""
        return self._weighted[0]

    def graph(self, way: Way, only: Sequence[str] = ()) -> onnx.ModelProto:
        """The graph in 8 bits, or with `only` just these operations of it."""
        from onnxruntime.quantization import QDQQuantizer, QuantType
        from onnxruntime.quantization.registry import QDQRegistry

        ranges = self._calibrated(way.calibration)
        copy = onnx.ModelProto()
        copy.CopyFrom(self._graph)
        types = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}
        try:
            with _quiet():
                quantizer = QDQQuantizer(
                    copy,
                    per_channel=way.per_channel,
                    reduce_range=way.weight_bits == 7,
                    weight_qType=QuantType.QInt8,
                    activation_qType=types[way.activations],
                    tensors_range=ranges,
                    nodes_to_quantize=list(only),
                    nodes_to_exclude=[*self._frame, *way.left_out],
                    op_types_to_quantize=list(QDQRegistry),
                    # Logits of 8 bits would give probabilities in steps of some hundredths.
                    extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
                )
                quantizer.quantize_model()
        except Exception as error:
            # onnxruntime's quantiser raises ValueError, KeyError, RuntimeError and more.
            raise ConversionFailed(f"onnxruntime cannot quantise the network: {error}") from error
        return quantizer.model.model

    def most_sensitive(self, way: Way, judge: Judge, logits: np.ndarray) -> list[str]:
        """Names of quantised operations, beginning with that which alone changes the logits most."""
        errors = {}
        for name in self._weighted:
            if name not in way.left_out:
                session = open_session(self.graph(way, only=[name]))
                changed, _ = judge.outputs(session, SENSITIVITY_PICTURES)
                errors[name] = relative_error(logits[:SENSITIVITY_PICTURES], changed)
        return sorted(errors, key=lambda name: -errors[name])

    def _calibrated(self, method: str) -> Any:
        """Ranges of every float tensor."""
        if method not in self._ranges:
            from onnxruntime.quantization import CalibrationMethod, create_calibrator

            kinds = {
                "minmax": (CalibrationMethod.MinMax, {}),
                "percentile": (CalibrationMethod.Percentile, {"percentile": PERCENTILE, "symmetric": False}),
                "entropy": (CalibrationMethod.Entropy, {}),
            }
            kind, options = kinds[method]
            with tempfile.TemporaryDirectory(prefix="zoo-calibrate-") as folder, _quiet():
                source = Path(folder, "graph.onnx")
                onnx.save(self._graph, source)
                try:
                    calibrator = create_calibrator(
                        source,
                        augmented_model_path=str(Path(folder, "augmented.onnx")),
                        calibrate_method=kind,
                        extra_options=options,
                    )
                    # Its memory grows with what it is given at once.
                    for i in range(0, len(self._pixels), CHUNK):
                        calibrator.collect_data(_Reader(self._pixels[i : i + CHUNK]))
                    self._ranges[method] = calibrator.compute_data()
                except Exception as error:
                    # As above.
                    raise ConversionFailed(f"onnxruntime cannot calibrate the network: {error}") from error
        return self._ranges[method]


class _Reader:
    """Pictures as onnxruntime's calibration asks for them: one batch, then None."""

    def __init__(self, pixels: np.ndarray):
        self._left = [{INPUT: pixels}]

    def get_next(self) -> Mapping[str, np.ndarray] | None:
        return self._left.pop() if self._left else None


def _named(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every operation has a name of its own, for it is by names that they are left out."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    seen: set[str] = set()
    for i, node in enumerate(copy.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{i}"
        seen.add(node.name)
    return copy


def _outside(graph: onnx.GraphProto) -> list[str]:
    """Operations before the first that has weights, and after the logits: normalisation, and softmax or sigmoid.

    Pixels are in 8 bits already, and a probability of 8 bits could not be between 0 and 1/255.
    """
    constants = {tensor.name for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    before: set[str] = set()
    reached = {INPUT}
    for node in graph.node:
        inputs = [name for name in node.input if name and name not in constants]
        if node.op_type not in WEIGHTED and inputs and all(name in reached for name in inputs):
            before.add(node.name)
            reached |= set(node.output)
    within = set()
    waiting = [LOGITS]
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.name not in within:
            within.add(node.name)
            waiting += node.input
    return [node.name for node in graph.node if node.name in before or node.name not in within]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without onnxruntime's advice, which is for those who call it themselves."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)
