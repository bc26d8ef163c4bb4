"""Runs the phases in order: sets what moves, has each fitted, goes on from the best epoch."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo.data.augment import Augment
from zoo.plugin import Head, Phase
from zoo.reporter import Reporter
from zoo.train import fitting, freeze, grouped_conv
from zoo.train.batches import PhaseInputs, make_batches
from zoo.train.batchnorm import BatchNormRecalibration
from zoo.train.frozen.cut import Cut, find_cut
from zoo.train.frozen.features import FeatureCacheConfig
from zoo.train.inputs import InputPipeline, TrainingData, chance_loss, class_weights
from zoo.train.lr_find import RangeTest, RangeTestConfig
from zoo.train.network import Network, truncate

if TYPE_CHECKING:
    import keras

# Of the loss of guessing: more than this is never good enough, see `zoo.plugin.Phase`.
GUESSED = 0.25
# The first step's weights may count for as much in an average of weights.
FIRST_STEP = 0.1


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a network is trained, whatever the phases.

    Args:
        batch_size: Pictures a step.
        seed: Decides order and augmentation.
        augment: Policy for training pictures, or None.
        head: What cut networks end in, for phases with a depth; None means the architecture's.
        label_smoothing: Share of every target that is spread over all classes, in [0, 1).
        balance: Whether every class counts alike in the losses, however many pictures it has.
        keep_best: Whether the best epoch is kept, else the last.
        precision: "float32" or "bfloat16", which is what layers above the frozen prefix compute in while they train.
        features: How the outputs of what is frozen are kept; None runs the whole network in every step.
    """

    batch_size: int = 32
    seed: int = 0
    augment: Augment | None = None
    head: Head | None = None
    label_smoothing: float = 0.0
    balance: bool = False
    keep_best: bool = True
    precision: str = "float32"
    features: FeatureCacheConfig | None = None


@dataclass(frozen=True)
class TrainResult:
    """What training gave.

    Args:
        history: A row an epoch: phase, epoch (counted over the run, from 1), learning_rate, loss, accuracy, val_loss,
            val_accuracy, seconds. val_loss is without the penalties on weights, which would make an epoch look better
            whose weights are smaller.
        phases: For each phase its settings, the layers it moved, its seconds; and why it was left out, if it was.
        best_epoch: The epoch whose weights the network now has.
        warnings: What the user should know.
        cache_stats: What the frozen part did, see `zoo.train.frozen.features.CacheStats`.
    """

    history: list[dict[str, Any]]
    phases: list[dict[str, Any]]
    best_epoch: int
    warnings: list[str]
    cache_stats: dict[str, Any]


def train(
    network: Network,
    phases: Sequence[Phase],
    data: TrainingData,
    config: TrainConfig,
    reporter: Reporter,
) -> TrainResult:
    """Train a network in place; it ends with the weights of the epoch of least validation loss, or of the last epoch.

    Args:
        network: The network; it is changed.
        phases: The phases in order; the last one has the whole network.
        data: The pictures to train on and to validate with.
        config: How it is trained in all phases.
        reporter: Hears of phases and epochs.

    Returns:
        History and what moved.

    Raises:
        TrainingError: The loss is not finite.
    """
    training = _Trainer(network, phases, data, config, reporter)
    with grouped_conv.cut(network.model):
        training.plan()
        for index in range(len(phases)):
            if training.needs(index):
                with training.phase(index) as ready:
                    training.fit(ready)
    return training.end()


def lr_find(
    network: Network,
    phases: Sequence[Phase],
    data: TrainingData,
    config: TrainConfig,
    reporter: Reporter,
    range_test: RangeTestConfig,
) -> list[RangeTest]:
    """Test a range of learning rates at the beginning of every phase; each but the last is then trained as it says.

    Args:
        network: As for `train`.
        phases: The phases in order; those that `train` might skip are trained too.
        data: As for `train`.
        config: How it is trained in all phases.
        reporter: Hears of phases, tests and epochs.
        range_test: The rates.

    Returns:
        A test a phase.

    Raises:
        TrainingError: The loss is not finite at the lowest rate, or in a phase.
    """
    training = _Trainer(network, phases, data, config, reporter)
    tests = []
    with grouped_conv.cut(network.model):
        training.plan()
        for index in range(len(phases)):
            with training.phase(index) as ready:
                tests.append(training.test(ready, range_test))
                if index + 1 < len(phases):
                    training.fit(ready)
    return tests


@dataclass
class _ActivePhase:
    """A phase whose layers are set.

    Args:
        phase: The phase.
        now: The network that it has.
        moving: What it trains.
        inputs: What it is fitted on.
        batches: Of training pictures.
        validation: Of validation pictures.
        started: When, as `time.perf_counter` tells.
    """

    phase: Phase
    now: Network
    moving: freeze.TrainableLayers
    inputs: PhaseInputs
    batches: keras.utils.PyDataset
    validation: keras.utils.PyDataset
    started: float


class _Trainer:
    """The state of one training; arguments as of `train`."""

    def __init__(
        self,
        network: Network,
        phases: Sequence[Phase],
        data: TrainingData,
        config: TrainConfig,
        reporter: Reporter,
    ):
        self._phases, self._data, self._config, self._reporter = phases, data, config, reporter
        self._whole = network
        self._networks = _networks(network, phases, config.head or network.architecture.head, data)
        self._now, self._best = network, fitting.BestWeights(config.keep_best)
        self._history: list[dict[str, Any]] = []
        self._done: list[dict[str, Any]] = []
        self._warnings: list[str] = []
        self._layer_defaults = freeze.layer_defaults(network.model)
        self._batching = {
            "batch_size": config.batch_size,
            "single_unit": data.task == "binary",
            "class_weights": class_weights(data) if config.balance else None,
        }
        self._inputs = InputPipeline(data, config.augment, config.seed, config.features, reporter)

    def plan(self) -> None:
        """Find where each phase cuts its network."""
        cuts: list[Cut | None] = [None] * len(self._phases)
        if self._config.features is not None:
            for index, phase in enumerate(self._phases):
                now = self._networks[index]
                freeze.set_trainable(now, phase, self._layer_defaults)
                cuts[index] = find_cut(now.logits_model)
        self._inputs.plan(self._phases, cuts, self._networks)

    def needs(self, index: int) -> bool:
        """Whether a phase is trained: not where what is there is good enough for it."""
        phase, best = self._phases[index], self._best
        # Weights of classes make losses smaller too.
        if phase.skip_below_loss is None or self._config.balance or self._networks[index] is not self._now:
            return True
        enough = min(phase.skip_below_loss, GUESSED * chance_loss(self._data))
        # Written so that a NaN is not enough.
        if not best.loss <= enough:
            return True
        why = f"a validation loss of {best.loss:.4f} is at most {enough:.2g}"
        self._reporter.say(f"Phase {index + 1}/{len(self._phases)} {phase.name}: left out, for {why}")
        nothing = {"moved_layers": [], "moved_parameters": 0, "epochs_run": 0, "seconds": 0.0}
        self._done.append({**phase.to_json(), **nothing, "left_out": why})
        return False

    @contextlib.contextmanager
    def phase(self, index: int) -> Iterator[_ActivePhase]:
        """Set the layers of a phase and make what it is fitted on."""
        phase, now = self._phases[index], self._networks[index]
        if now is not self._now:
            # Weights and losses of networks of different depths cannot be compared.
            self._now, self._best = now, fitting.BestWeights(self._config.keep_best)
        moving = freeze.set_trainable(now, phase, self._layer_defaults)
        stages = len(self._whole.architecture.stages)
        depth = "" if now is self._whole else f"the first {phase.depth} of {stages} stages, "
        self._reporter.say(
            f"Phase {index + 1}/{len(self._phases)} {phase.name}: {depth}trains {phase.train}, "
            f"{_count(len(moving.layers), 'layer')}, {moving.parameters:,} of {moving.total:,} parameters; "
            f"{_count(phase.epochs, 'epoch')}, {phase.optimizer} at {phase.learning_rate:g} ({phase.lr_schedule})"
            f"{self._extras(phase)}"
        )
        started = time.perf_counter()
        with self._reporter.timing.measure(f"phase {phase.name}"):
            inputs = self._inputs.of(index)
            order = {"seed": self._config.seed, "first_epoch": len(self._history), "shuffle": True}
            batches = make_batches(inputs.train, self._data.train, **self._batching, **order)
            validation = make_batches(inputs.validation, self._data.val, **self._batching)
            yield _ActivePhase(phase, now, moving, inputs, batches, validation, started)

    def _extras(self, phase: Phase) -> str:
        """Return the settings beyond the usual ones, so that the user sees them applied."""
        extras = []
        if phase.clip_norm is not None:
            extras.append(f"gradients of at most {phase.clip_norm:g}")
        if phase.ema is not None:
            extras.append(f"weights averaged at {phase.ema:g}, which are judged and kept")
        if self._config.balance:
            extras.append("every class counts alike")
        if self._config.features is not None and self._config.features.limit == 0:
            extras.append("all layers run in every step")
        return "".join(f"; {extra}" for extra in extras)

    def fit(self, ready: _ActivePhase) -> None:
        """Train a phase; the network then has the weights of the best epoch so far."""
        phase, history, best = ready.phase, self._history, self._best
        network, steps = ready.now.logits_model, len(ready.batches)
        trained_part = ready.inputs.trained_part
        self._warn_of_average(phase, steps)
        with fitting.mixed_precision(self._config.precision, trained_part):
            self._compile(ready, phase)
            epochs = fitting.fit(
                trained_part, network, ready.batches, ready.validation, phase, history, best, self._reporter
            )
        self._inputs.count(ready.inputs, epochs)
        # The next phase, or the export, begins from the best epoch so far.
        network.set_weights(best.weights)
        steps *= best.epoch - len(history) + epochs
        if phase.batch_norm == "update" and steps > 0:
            recalibration = BatchNormRecalibration(
                ready.inputs, network, self._data, self._batching, self._config.seed, self._reporter
            )
            self._warnings += recalibration.recalibrate(steps, history, best, phase)
        self._done.append(
            {
                **phase.to_json(),
                "moved_layers": list(ready.moving.layers),
                "moved_parameters": ready.moving.parameters,
                "epochs_run": epochs,
                "seconds": round(time.perf_counter() - ready.started, 2),
            }
        )

    def _warn_of_average(self, phase: Phase, steps: int) -> None:
        """Keras begins an average of weights with those after the first step, and never forgets them quite."""
        share = phase.ema ** (steps * phase.epochs - 1) if phase.ema is not None else 0.0
        if share > FIRST_STEP:
            text = (
                f"phase {phase.name!r} has {steps * phase.epochs} steps: {share:.0%} of weights averaged with momentum "
                f"{phase.ema:g} will be those of its first step. Lower --ema."
            )
            self._warnings.append(text)
            self._reporter.warn(text)

    def test(self, ready: _ActivePhase, range_test: RangeTestConfig) -> RangeTest:
        """Try rates on a phase; the network ends with the weights that it had."""
        trained_part = ready.inputs.trained_part
        with fitting.mixed_precision(self._config.precision, trained_part):
            self._compile(ready, range_test.of(ready.phase))
            return range_test.run(ready.phase, trained_part, ready.now.logits_model, ready.batches, self._reporter)

    def end(self) -> TrainResult:
        """Report what training did, and return it."""
        freeze.restore_dropout(self._whole.model, self._layer_defaults)
        stats, best = self._inputs.stats, self._best
        for line in stats.summary_lines():
            self._reporter.say(line)
        kept = f"validation loss {best.loss:.4f}" + ("" if self._config.keep_best else ", the last")
        self._reporter.say(f"Kept epoch {best.epoch}: {kept}")
        return TrainResult(self._history, self._done, best.epoch, self._warnings, stats.to_json())

    def _compile(self, ready: _ActivePhase, phase: Phase) -> None:
        smoothing = self._config.label_smoothing
        fitting.compile_for(
            ready.inputs.trained_part,
            phase,
            len(ready.batches),
            ready.moving.lr_multipliers,
            self._data.task,
            smoothing,
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _networks(whole: Network, phases: Sequence[Phase], head: Head, data: TrainingData) -> list[Network]:
    """The network of each phase. All selectors are checked here, before the first phase begins."""
    cuts: dict[int, Network] = {len(whole.architecture.stages): whole}
    found = []
    for phase in phases:
        depth = phase.depth or len(whole.architecture.stages)
        if depth not in cuts:
            cuts[depth] = truncate(whole, depth, head, data.targets.shape[1], data.task)
        found.append(cuts[depth])
        freeze.select(found[-1].architecture, found[-1].backbone, phase.train)
    return found
