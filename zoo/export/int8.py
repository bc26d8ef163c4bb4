"""Searches for the best int8 graph of an exported network.

The accuracy that a network loses in 8 bits cannot be predicted, only measured. The search therefore tries several
configurations. It answers five questions in this order, and starts each time from the best configuration so far:

1. Does the first node with weights stay in float32?
2. Are activations uint8 or int8?
3. Do the weights have one scale per channel or one per tensor?
4. Do weights have 8 or 7 bits?
5. Which calibration method finds the ranges of the activations?

If the best graph still loses too much accuracy or changes the logits too much, the search keeps more nodes in float32.
It starts with the nodes whose quantization changes the logits most.

Calibration uses training pictures. The search compares the graphs with the float32 graph on pictures that are used
neither for calibration nor for testing. Whether a graph loses too much accuracy is judged by pairs of answers to the
same picture; see `zoo.export.paired`. A few pictures can hardly tell graphs apart by their accuracy, so that the change
of the logits decides. `zoo.export.quantizer` makes the graph of one configuration. `zoo.export.variants` decides
whether the best graph may be exported.

Questions 1 and 4 exist because of processors with AVX2 or AVX-512 but without VNNI. These processors add two products
in 16 bits, and the sum overflows if the values are large
(https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html). The largest values in the network are
the pixels. Other processors do not have this overflow, so measurements on them cannot detect it. The first node with
weights therefore stays in float32, unless this makes the graph much larger, less exact, or slower than float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from zoo.convert.session import open_session
from zoo.errors import ConversionFailed
from zoo.export.acceptance import FAITHFUL_ERROR, may_be_within
from zoo.export.comparison import ValidationSet, relative_error, speedup
from zoo.export.paired import QUANTILE, PairedCounts
from zoo.export.quantizer import QuantConfig, Quantizer
from zoo.reporter import Reporter
from zoo_runtime import Settings
from zoo_runtime.workshop import session_options

if TYPE_CHECKING:
    from zoo.data.split import Split

# The choices in the order in which they are tried. The search starts with the first value of each.
CHOICES: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("activations", ("uint8", "int8")),
    ("per_channel", (True, False)),
    ("weight_bits", (8, 7)),
    ("calibration", ("minmax", "percentile", "entropy")),
)
CALIBRATION_PICTURES = 128
VALIDATION_PICTURES = 512
SENSITIVITY_PICTURES = 32
# With fewer pictures than this, calibration pictures are also used to compare the graphs.
FEWEST_PICTURES = 16
# Factors on the smallest size and on the least error within which candidates count as equal.
SIZE_FACTOR = 1.25
ERROR_FACTOR = 1.2
# On a busy machine, repeated timings differ by up to this factor. Types of activations differ by more.
SPEED_FACTOR = 1.3
# A graph that is larger than this fraction of the float32 graph has hardly any quantized weights.
LARGEST_FRACTION = 0.9


@dataclass(frozen=True)
class Trial:
    """Holds the measurements of one quantized graph.

    Args:
        config: The configuration with which the graph was quantized.
        accuracy: The accuracy on the validation set, in 0..1.
        error: How much the logits changed, relative to their spread; see `relative_error`. Infinite if there is no
            graph.
        speedup: The time of the float32 graph divided by the time of this graph, for one picture.
        bytes: The size of the graph in bytes.
        failed: Why there is no graph. Empty if there is one; otherwise all numbers but the error are 0.
        lost: The number of pictures of the validation set on which only the float32 graph is right.
        won: The number of these pictures on which only this graph is right.
        changed: The number of these pictures on which the answers of the two graphs differ.
    """

    config: QuantConfig
    accuracy: float
    error: float
    speedup: float
    bytes: int
    failed: str = ""
    lost: int = 0
    won: int = 0
    changed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the trial as a dictionary for int8.json. The configuration has the key `way`.

        An infinite error becomes None, because JSON does not have infinity.
        """
        values = dataclasses.asdict(self)
        error = self.error if np.isfinite(self.error) else None
        return {"way": values.pop("config"), **values, "error": error}


@dataclass(frozen=True)
class SearchResult:
    """Holds the best int8 graph and all trials of the search.

    Args:
        graph: The best graph.
        chosen: The trial of the best graph.
        trials: All trials, in the order in which they were made.
        accuracy: The accuracy of the float32 graph on the validation set, in 0..1.
        validation_pictures: The number of pictures in the validation set.
    """

    graph: onnx.ModelProto
    chosen: Trial
    trials: tuple[Trial, ...]
    accuracy: float
    validation_pictures: int


def choose_pictures(split: Split, seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Choose the pictures for the search. Test pictures are never among them.

    Half of the training pictures calibrate, at most 128. All validation pictures and the other training pictures
    compare the candidates, at most 512. If these are fewer than 16, calibration pictures are added to them.

    Args:
        split: The split of the run. The validation part may be empty.
        seed: The seed of the random choice.

    Returns:
        The indices of the calibration pictures, the indices of the pictures that compare the candidates, and how many
        of the latter also calibrate.
    """
    train = np.random.default_rng(seed).permutation(split.train)
    count = max(1, min(CALIBRATION_PICTURES, len(train) // 2))
    # Validation pictures come first, because accuracy falls less on the pictures that a network was trained on.
    others = np.concatenate([split.val, train[count:]])[:VALIDATION_PICTURES]
    added = train[:count][: max(0, FEWEST_PICTURES - len(others))]
    return train[:count], np.concatenate([others, added]), len(added)


def quantize(
    graph: onnx.ModelProto,
    calibration: np.ndarray,
    validation: ValidationSet,
    *,
    max_drop: float,
    any_speed: bool = False,
    reporter: Reporter | None = None,
) -> SearchResult:
    """Search for the best int8 graph.

    The search first tries the configurations that the docstring of this module describes. `choose` then picks the best
    graph, and also defines what a good graph is. If the best graph is not good, the search makes further trials. They
    keep more nodes in float32 than the best graph does: first 1 more, then 2 more, then 4 more, and so on.

    The further trials end when one of them yields a good graph, or when nothing would be left to quantize. Unless
    `any_speed` is True, they also end when a graph is not faster than the float32 graph.

    Args:
        graph: The float32 graph, with the outputs `probabilities` and `logits`.
        calibration: Training pictures on which the ranges of activations are measured, a uint8 array (N, H, W, C) in
            0..255.
        validation: The pictures on which the graphs are compared. They must not be test pictures. They should not be
            calibration pictures either, unless there are too few others.
        max_drop: The largest acceptable loss of accuracy, as a fraction in 0..1.
        any_speed: True ignores the speed, because the device may differ from this machine. False prefers graphs that
            are faster than the float32 graph on this machine.
        reporter: Receives the progress of each candidate; None means no progress.

    Returns:
        The best graph according to `choose`, and all trials.

    Raises:
        ConversionFailed: The float32 graph has no node with weights, or onnxruntime cannot run it. Or onnxruntime fails
            with every int8 configuration. Or no int8 graph is at least a tenth smaller than the float32 graph.
    """
    search = _Search(graph, calibration, validation, max_drop, any_speed, reporter or Reporter())
    search.run()
    chosen = search.best()
    if chosen is None:
        reasons = [trial.failed for trial in search.trials if trial.failed]
        raise ConversionFailed(
            reasons[0]
            if len(reasons) == len(search.trials)
            else "no int8 graph is smaller than the float32 graph by a tenth or more."
        )
    int8_graph = search.quantizer.graph(chosen.config)
    return SearchResult(int8_graph, chosen, tuple(search.trials), search.accuracy, len(validation.pixels))


class _Search:
    """Runs the search of `quantize` and holds its trials."""

    def __init__(
        self,
        graph: onnx.ModelProto,
        calibration: np.ndarray,
        validation: ValidationSet,
        max_drop: float,
        any_speed: bool,
        reporter: Reporter,
    ):
        self.quantizer = Quantizer(graph, calibration)
        self.trials: list[Trial] = []
        self._expected = f"of {sum(len(values) - 1 for _, values in CHOICES) + min(2, len(self.quantizer.weighted))}"
        # Both files are timed with the threads that a device uses.
        self._reference, self._bytes = open_session(graph, options=session_options(Settings())), graph.ByteSize()
        self._validation, self._max_drop = validation, max_drop
        self._any_speed, self._reporter = any_speed, reporter
        with reporter.progress("int8: computing the float32 outputs") as progress:
            self._logits, self._probabilities = validation.outputs(self._reference, progress=progress)
        self.accuracy = validation.accuracy(self._probabilities)
        self._always_left_out: set[str] = set()

    def run(self) -> None:
        """Try the configurations of the search one after the other, and append each result to `trials`."""
        self._try_without_first()
        for name, values in CHOICES:
            for value in values[1:]:
                best = self.best()
                self._attempt(dataclasses.replace(best.config if best else QuantConfig(), **{name: value}))
        best = self.best()
        if best is not None and not self._loses_little(best):
            self._leave_out_more(best)

    def best(self) -> Trial | None:
        """Return the best trial so far, as `choose` defines it, or None if every trial is ignored.

        A trial is ignored if it has no graph, or if its graph is not at least a tenth smaller than the float32 graph.
        If `_try_without_first` decided that the first node with weights stays in float32, trials that quantize this
        node are ignored too.
        """
        candidates = [
            trial
            for trial in self.trials
            if not trial.failed
            and trial.bytes <= LARGEST_FRACTION * self._bytes
            and set(trial.config.left_out) >= self._always_left_out
        ]
        pictures = len(self._validation.pixels)
        return choose(candidates, pictures=pictures, max_drop=self._max_drop, any_speed=self._any_speed)

    def _try_without_first(self) -> None:
        """Decide whether the first node with weights stays in float32 in all later trials.

        This method measures two graphs. In graph A, all nodes that can be quantized are quantized. In graph B, the
        first node with weights stays in float32. The later trials keep this node in float32 if B meets three
        conditions:

        - Its error is at most 1.2 times the error of A.
        - Its size is at most 1.25 times the size of A.
        - It is faster than the float32 graph, or A is not faster either. `any_speed` turns this condition off.

        If A or B cannot be made, the later trials may quantize the node. If the graph has only one node with weights, B
        is not tried.
        """
        whole = self._attempt(QuantConfig())
        if len(self.quantizer.weighted) == 1:
            return
        without = self._attempt(QuantConfig(left_out=(self.quantizer.weighted[0],)))
        if (
            not (whole.failed or without.failed)
            and without.error <= ERROR_FACTOR * whole.error
            and without.bytes <= SIZE_FACTOR * whole.bytes
            and self._is_fast(without) >= self._is_fast(whole)
        ):
            self._always_left_out = set(without.config.left_out)

    def _leave_out_more(self, best: Trial) -> None:
        """Try to improve the best graph by keeping more nodes in float32: first 1 more, then 2 more, 4 more, and so on.

        The nodes whose quantization changes the logits most come first; see `most_sensitive`. The trials end when a
        graph is good (see `choose`), or when the next graph would have no quantized node with weights. Unless
        `any_speed` is True, they also end when a graph is not faster than the float32 graph.

        Args:
            best: The best trial so far. The new configurations start from its configuration.
        """
        with self._reporter.progress("int8: measuring how much each operation changes the outputs") as progress:
            order = most_sensitive(self.quantizer, best.config, self._validation, self._logits, progress)
        # The counts 1, 2, 4 and so on below the number of nodes are as many as the bits of the largest one.
        self._expected = f"of at most {len(self.trials) + (len(order) - 1).bit_length()}"
        count = 1
        while count < len(order):
            left_out = {*best.config.left_out, *order[:count]}
            trial = self._attempt(dataclasses.replace(best.config, left_out=tuple(sorted(left_out))))
            if self._loses_little(trial) or not self._is_fast(trial):
                return
            count *= 2

    def _attempt(self, config: QuantConfig) -> Trial:
        """Quantize the graph with one configuration, measure the result, and append it to `trials`.

        If the graph cannot be quantized or opened, the trial records the reason. No exception is raised, because
        another configuration may succeed.
        """
        label = f"int8 candidate {len(self.trials) + 1} {self._expected}"
        try:
            step = "quantizing" if self.quantizer.is_calibrated(config.calibration) else "calibrating"
            with self._reporter.progress(f"{label}: {step} ({config.calibration})") as progress:
                self.quantizer.ranges(config.calibration, progress)
                int8_graph = self.quantizer.graph(config)
                session = open_session(int8_graph, options=session_options(Settings()))
            with self._reporter.progress(f"{label}: comparing with float32") as progress:
                logits, probabilities = self._validation.outputs(session, progress=progress)
            counts = self._validation.compare(self._probabilities, probabilities)
            with self._reporter.progress(f"{label}: timing"):
                ratio = speedup(self._reference, session, self._validation.pixels[:1])
            trial = Trial(
                config,
                counts.accuracies[1],
                relative_error(self._logits, logits),
                ratio,
                int8_graph.ByteSize(),
                lost=counts.lost,
                won=counts.won,
                changed=counts.changed,
            )
        except ConversionFailed as error:
            trial = Trial(config, 0.0, float("inf"), 0.0, 0, str(error))
        self.trials.append(trial)
        return trial

    def _is_fast(self, trial: Trial) -> bool:
        return self._any_speed or trial.speedup > 1

    def _loses_little(self, trial: Trial) -> bool:
        return _is_good(trial, self._max_drop, len(self._validation.pixels))


def choose(trials: Sequence[Trial], *, pictures: int, max_drop: float, any_speed: bool) -> Trial | None:
    """Choose the best of several trials.

    Three words describe a graph:

    - acceptable: `Trial.error` is at most 0.2, and the pictures do not show that its accuracy is more than `max_drop`
      below that of the float32 graph; see `zoo.export.acceptance.may_be_within`.
    - good: It is acceptable, and the same holds for half of `max_drop`, even if the drop only has to be shown with a
      confidence of 84 % (one standard error) instead of 95 %.
    - fast: It is faster than the float32 graph. If `any_speed` is True, every graph counts as fast.

    The candidates are the first of these groups that is not empty:

    1. good and fast graphs,
    2. acceptable and fast graphs,
    3. good graphs,
    4. acceptable graphs.

    If no graph is acceptable, the candidates are all fast graphs, or all graphs if none is fast.

    Three steps then choose one candidate:

    1. Keep the candidates that are at most 1.25 times as large as the smallest candidate.
    2. Of these, keep those whose `Trial.error` is at most 1.2 times the smallest `Trial.error`.
    3. Of these, choose the first whose speedup is at least the largest of their speedups divided by 1.3. If `any_speed`
       is True, choose the first one, whatever its speedup.

    If no graph is acceptable, step 2 comes before step 1.

    Args:
        trials: Trials that yielded a graph, in the order in which they were made.
        pictures: The number of pictures in the validation set.
        max_drop: The largest acceptable loss of accuracy, as a fraction in 0..1.
        any_speed: True ignores the speed, because the device may differ from this machine.

    Returns:
        The chosen trial, or None if there are no trials.
    """

    def fast(trials: Sequence[Trial]) -> list[Trial]:
        return [trial for trial in trials if any_speed or trial.speedup > 1]

    def small(trials: Sequence[Trial]) -> list[Trial]:
        smallest = min(trial.bytes for trial in trials)
        return [trial for trial in trials if trial.bytes <= SIZE_FACTOR * smallest]

    def faithful(trials: Sequence[Trial]) -> list[Trial]:
        least = min(trial.error for trial in trials)
        return [trial for trial in trials if trial.error <= ERROR_FACTOR * least]

    if not trials:
        return None
    little = [trial for trial in trials if _is_good(trial, max_drop, pictures)]
    acceptable = [trial for trial in trials if _is_acceptable(trial, max_drop, pictures)]
    group = fast(little) or fast(acceptable) or little or acceptable
    finalists = faithful(small(group)) if group else small(faithful(fast(trials) or trials))
    fastest = max(trial.speedup for trial in finalists)
    return next(trial for trial in finalists if any_speed or trial.speedup >= fastest / SPEED_FACTOR)


def _is_good(trial: Trial, max_drop: float, pictures: int) -> bool:
    # The search can still find a better graph. A probable loss is therefore reason enough to continue.
    return _is_acceptable(trial, max_drop, pictures) and _is_acceptable(trial, max_drop / 2, pictures, quantile=1.0)


def _is_acceptable(trial: Trial, max_drop: float, pictures: int, quantile: float = QUANTILE) -> bool:
    float32_correct = round(trial.accuracy * pictures) + trial.lost - trial.won
    counts = PairedCounts(pictures, float32_correct, trial.lost, trial.won, trial.changed)
    return trial.error <= FAITHFUL_ERROR and may_be_within(counts, max_drop, quantile)


def most_sensitive(
    quantizer: Quantizer,
    config: QuantConfig,
    validation: ValidationSet,
    logits: np.ndarray,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Quantize the nodes with weights one at a time, and sort them by how much the logits change.

    Args:
        quantizer: Quantizes the graph.
        config: The configuration to quantize with. Nodes that it leaves in float32 are not listed.
        validation: The pictures on which the logits are compared. Only the first 32 are used.
        logits: The logits of the float32 graph on these pictures, a float array (N, units).
        progress: Called with (nodes done, nodes in total) after each node; None means no calls.

    Returns:
        The names of the nodes. The node whose quantization changes the logits most comes first.
    """
    errors: dict[str, float] = {}
    names = [name for name in quantizer.weighted if name not in config.left_out]
    for name in names:
        session = open_session(quantizer.graph(config, only=[name]))
        changed, _ = validation.outputs(session, SENSITIVITY_PICTURES)
        errors[name] = relative_error(logits[:SENSITIVITY_PICTURES], changed)
        if progress:
            progress(len(errors), len(names))
    return sorted(errors, key=lambda name: -errors[name])
