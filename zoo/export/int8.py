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

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from zoo.convert.keras_to_onnx import INPUT, LOGITS, PROBABILITIES
from zoo.convert.session import open_session
from zoo.errors import ConversionFailed
from zoo.export.quantizer import QuantConfig, Quantizer
from zoo_runtime import time_pairs

if TYPE_CHECKING:
    import onnxruntime

# What is tried, one choice after the other, beginning with the first of each.
CHOICES: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("activations", ("uint8", "int8")),
    ("per_channel", (True, False)),
    ("weight_bits", (8, 7)),
    ("calibration", ("minmax", "percentile", "entropy")),
)
LIKELY_TRIALS = 7
CALIBRATION_PICTURES = 128
JUDGING_PICTURES = 512
SENSITIVITY_PICTURES = 32
BATCH = 16
PAIRS = 20
FAITHFUL = 0.2
LARGER = 1.25
NEXT_TO_NOTHING = 1.2
# Times of a busy machine are no closer than that, and types of activations differ by more.
NEARLY_AS_FAST = 1.3
SMALLER = 0.9


@dataclass(frozen=True)
class Trial:
    """What came of a way.

    Args:
        config: How the graph was quantised.
        accuracy: On the judging pictures, in 0..1.
        error: Root mean square of the logits' change over that of the logits around their mean.
        speedup: Milliseconds of the float32 graph over those of this one, one picture at a time, taken by turns.
        bytes: Size of the graph.
        failed: Why it came to nothing; empty where it did not.
    """

    config: QuantConfig
    accuracy: float
    error: float
    speedup: float
    bytes: int
    failed: str = ""

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, for JSON, which knows no infinity."""
        return {**dataclasses.asdict(self), "error": self.error if np.isfinite(self.error) else None}


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
class ValidationSet:
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
        """Share of right answers; of a multi-label network, of pictures with every decision right."""
        if self.multilabel:
            return float(((probabilities >= 0.5) == (self.targets > 0.5)).all(axis=1).mean())
        return float((probabilities.argmax(axis=1) == self.targets.argmax(axis=1)).mean())


def quantize(
    graph: onnx.ModelProto,
    calibration: np.ndarray,
    judge: ValidationSet,
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
            time, as long as more than half of it is lost or logits change by more than a fifth of their spread, and
            the graph is faster than the float32 one, where it has to be.
        any_speed: Whether a graph may be chosen that is slower here than the float32 one.
        progress: Called with (ways tried, how many there usually are).

    Returns:
        What `choose` takes of all that was tried.

    Raises:
        ConversionFailed: onnxruntime refuses to quantise the graph in every way, nothing in it has weights, or no way
            makes it smaller by a tenth.
    """
    search = _Search(graph, calibration, judge, max_drop, any_speed, progress)
    search.run()
    chosen = search.best()
    if chosen is None:
        reasons = [trial.failed for trial in search.trials if trial.failed]
        raise ConversionFailed(
            reasons[0]
            if len(reasons) == len(search.trials)
            else "no int8 graph is smaller than the float32 one by a tenth or more."
        )
    return Outcome(
        search.quantizer.graph(chosen.config), chosen, tuple(search.trials), search.accuracy, len(judge.pixels)
    )


class _Search:
    """Tries one way after the other, and goes on from the best so far."""

    def __init__(
        self,
        graph: onnx.ModelProto,
        calibration: np.ndarray,
        judge: ValidationSet,
        max_drop: float,
        any_speed: bool,
        progress: Callable[[int, int], None] | None,
    ):
        self.quantizer = Quantizer(graph, calibration)
        self.trials: list[Trial] = []
        self._reference, self._bytes = open_session(graph), graph.ByteSize()
        self._judge, self._max_drop, self._any_speed, self._progress = judge, max_drop, any_speed, progress
        self._logits, probabilities = judge.outputs(self._reference)
        self.accuracy = judge.accuracy(probabilities)
        self._always: set[str] = set()

    def run(self) -> None:
        """Make all trials."""
        whole = self._attempt(QuantConfig())
        if len(self.quantizer.weighted) > 1:
            without = self._attempt(QuantConfig(left_out=(self.quantizer.weighted[0],)))
            if (
                not (whole.failed or without.failed)
                and without.error <= NEXT_TO_NOTHING * whole.error
                and without.bytes <= LARGER * whole.bytes
                and self._is_fast(without) >= self._is_fast(whole)
            ):
                self._always = set(without.config.left_out)
        for name, values in CHOICES:
            for value in values[1:]:
                best = self.best()
                self._attempt(dataclasses.replace(best.config if best else QuantConfig(), **{name: value}))
        best = self.best()
        if best is None or self._loses_little(best):
            return
        order = most_sensitive(self.quantizer, best.config, self._judge, self._logits)
        count = 1
        while count < len(order):
            left_out = {*best.config.left_out, *order[:count]}
            trial = self._attempt(dataclasses.replace(best.config, left_out=tuple(sorted(left_out))))
            if self._loses_little(trial) or not self._is_fast(trial):
                return
            count *= 2

    def best(self) -> Trial | None:
        """The best so far; None where none has come to anything."""
        able = [
            trial
            for trial in self.trials
            # What is hardly smaller has left out all that counts.
            if not trial.failed and trial.bytes <= SMALLER * self._bytes and set(trial.config.left_out) >= self._always
        ]
        return choose(able, accuracy=self.accuracy, max_drop=self._max_drop, any_speed=self._any_speed)

    def _attempt(self, config: QuantConfig) -> Trial:
        try:
            made = self.quantizer.graph(config)
            session = open_session(made)
            changed, answers = self._judge.outputs(session)
            trial = Trial(
                config,
                self._judge.accuracy(answers),
                relative_error(self._logits, changed),
                speedup(self._reference, session, self._judge.pixels[:1]),
                made.ByteSize(),
            )
        except ConversionFailed as error:
            trial = Trial(config, 0.0, float("inf"), 0.0, 0, str(error))
        self.trials.append(trial)
        if self._progress:
            self._progress(len(self.trials), LIKELY_TRIALS)
        return trial

    def _is_fast(self, trial: Trial) -> bool:
        return self._any_speed or trial.speedup > 1

    def _loses_little(self, trial: Trial) -> bool:
        return _loses_at_most(self._max_drop / 2, trial, self.accuracy)


def choose(trials: Sequence[Trial], *, accuracy: float, max_drop: float, any_speed: bool) -> Trial | None:
    """The best of several ways.

    They lose little where the logits change by at most a fifth of their spread and at most half of `max_drop` is lost.
    Of those that lose little and are faster than the float32 graph; if there are none, of those that lose no more than
    `max_drop` and are faster; else of those that lose little; else of those that lose no more than `max_drop`: what is
    larger than the smallest by more than a quarter is left aside, then what has clearly more error than the least, and
    the first that is nearly the fastest is taken. Where all lose more, error comes before size.

    Args:
        trials: What has come to something, in the order in which it was tried.
        accuracy: Of the float32 graph, in 0..1.
        max_drop: The greatest loss of accuracy that is wanted, in 0..1.
        any_speed: Whether speed counts for nothing, because the device differs.
    """

    def fast(trials: Sequence[Trial]) -> list[Trial]:
        return [trial for trial in trials if any_speed or trial.speedup > 1]

    def small(trials: Sequence[Trial]) -> list[Trial]:
        smallest = min(trial.bytes for trial in trials)
        return [trial for trial in trials if trial.bytes <= LARGER * smallest]

    def faithful(trials: Sequence[Trial]) -> list[Trial]:
        least = min(trial.error for trial in trials)
        return [trial for trial in trials if trial.error <= NEXT_TO_NOTHING * least]

    if not trials:
        return None
    little = [trial for trial in trials if _loses_at_most(max_drop / 2, trial, accuracy)]
    bearable = [trial for trial in trials if _loses_at_most(max_drop, trial, accuracy)]
    within = fast(little) or fast(bearable) or little or bearable
    chosen = faithful(small(within)) if within else small(faithful(fast(trials) or trials))
    fastest = max(trial.speedup for trial in chosen)
    return next(trial for trial in chosen if any_speed or trial.speedup >= fastest / NEARLY_AS_FAST)


def _loses_at_most(drop: float, trial: Trial, accuracy: float) -> bool:
    # Accuracies are counts, whose differences a float may miss by a hair.
    return trial.error <= FAITHFUL and accuracy - trial.accuracy <= drop + 1e-9


def most_sensitive(quantizer: Quantizer, config: QuantConfig, judge: ValidationSet, logits: np.ndarray) -> list[str]:
    """Names of quantised operations, beginning with that which alone changes the logits most."""
    errors = {}
    for name in quantizer.weighted:
        if name not in config.left_out:
            session = open_session(quantizer.graph(config, only=[name]))
            changed, _ = judge.outputs(session, SENSITIVITY_PICTURES)
            errors[name] = relative_error(logits[:SENSITIVITY_PICTURES], changed)
    return sorted(errors, key=lambda name: -errors[name])


def relative_error(logits: np.ndarray, changed: np.ndarray) -> float:
    """Root mean square of a change of logits over that of the logits around their mean; infinite where one is NaN."""
    spread = float(np.sqrt(np.mean((logits - logits.mean(axis=0)) ** 2)))
    error = float(np.sqrt(np.mean((changed - logits) ** 2))) / max(spread, 1e-30)
    return error if np.isfinite(error) else float("inf")


def between_processors(graph: onnx.ModelProto, pixels: np.ndarray) -> float:
    """How far probabilities may be apart on another machine, in 0..1.

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
    return float(np.abs(both[0] - both[1]).max())


def speedup(
    reference: onnxruntime.InferenceSession, session: onnxruntime.InferenceSession, pixels: np.ndarray
) -> float:
    """Time of one session over that of another, by turns: above 1 where the other is faster."""

    def running(one: onnxruntime.InferenceSession) -> Callable[[np.ndarray], object]:
        return lambda batch: one.run([PROBABILITIES], {INPUT: batch})

    return time_pairs(running(reference), running(session), [(pixels, pixels)], pairs=PAIRS).ratio
