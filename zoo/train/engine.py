"""Runs the phases in order: sets what each one trains, has it fitted, and goes on from the best epoch."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo.data.augment import Augment
from zoo.plugin import Head, Phase
from zoo.reporter import Reporter, counted
from zoo.train import fitting, freeze, grouped_conv
from zoo.train.batches import Batching, PhaseInputs, make_batches
from zoo.train.batchnorm import BatchNormRecalibration
from zoo.train.frozen.cut import Cut, find_cut
from zoo.train.frozen.features import FeatureCacheConfig
from zoo.train.inputs import InputPipeline, TrainingData, chance_loss, class_weights
from zoo.train.lr_find import RangeTest, RangeTestConfig, phase_under_test, run_range_test
from zoo.train.network import Network, truncate

if TYPE_CHECKING:
    import keras

# A phase is never skipped above this share of the chance level, see `zoo.plugin.Phase`.
CHANCE_SHARE = 0.25
# The user is warned if the first step's weights make up more than this share of an average of weights.
FIRST_STEP = 0.1


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a network is trained in all phases.

    Args:
        batch_size: Pictures per step.
        seed: Decides the order of pictures and their augmentation.
        augment: The policy for training pictures, or None.
        head: The head of truncated networks, for phases with a depth; None means the architecture's.
        label_smoothing: The fraction of every target that is spread over all classes, in [0, 1).
        balance: Whether every class counts alike in the losses, however many pictures it has.
        keep_best: Whether the best epoch is kept, else the last.
        precision: "float32" or "bfloat16". Layers above the frozen part compute in it while they train.
        features: How the outputs of the frozen part are kept; None runs the whole network in every step.
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
    """The result of training.

    Args:
        history: A row per epoch: phase, epoch (counted over the run, from 1), learning_rate, loss, accuracy, val_loss,
            val_accuracy, seconds. val_loss excludes the penalties on weights, because shrinking weights would otherwise
            make an epoch look better.
        phases: For each phase its settings, the layers that it trained, its seconds, and the reason if it was skipped.
        best_epoch: The epoch whose weights the network has now.
        warnings: What the user should know.
        cache_stats: What the feature cache did, see `zoo.train.frozen.stats.CacheStats`.
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
    """Train a network in place. It ends with the weights of the epoch of least validation loss, or of the last epoch.

    Args:
        network: The network; it is changed.
        phases: The phases in order; the last one has the whole network.
        data: The pictures to train on and to validate with.
        config: How it is trained in all phases.
        reporter: Receives progress messages and warnings.

    Raises:
        TrainingError: The loss is not finite, or pictures cannot be read any more.
    """
    trainer = _Trainer(network, phases, data, config, reporter)
    with grouped_conv.cut(network.model):
        trainer.plan()
        for index in range(len(phases)):
            if trainer.needs(index):
                with trainer.phase(index) as active:
                    trainer.fit(active)
    return trainer.end()


def lr_find(
    network: Network,
    phases: Sequence[Phase],
    data: TrainingData,
    config: TrainConfig,
    reporter: Reporter,
    range_test: RangeTestConfig,
) -> list[RangeTest]:
    """Test a range of learning rates at the start of every phase. Each phase but the last is then trained.

    Args:
        network: The network; it is changed.
        phases: The phases in order; those that `train` might skip are trained too.
        data: The pictures to train on and to validate with.
        config: How it is trained in all phases.
        reporter: Receives progress messages and warnings.
        range_test: The learning rates to try.

    Returns:
        One test per phase.

    Raises:
        TrainingError: The loss is not finite at the lowest rate, or in a phase.
    """
    trainer = _Trainer(network, phases, data, config, reporter)
    tests = []
    with grouped_conv.cut(network.model):
        trainer.plan()
        for index in range(len(phases)):
            with trainer.phase(index) as active:
                tests.append(trainer.test(active, range_test))
                if index + 1 < len(phases):
                    trainer.fit(active)
    return tests


@dataclass
class _ActivePhase:
    """A phase whose layers are set.

    Args:
        phase: The phase.
        network: The network of the phase.
        trainable: What the phase trains.
        inputs: The part of the network that it trains, and its batches.
        batches: Training batches.
        validation: Validation batches.
        started: When the phase started, as `time.perf_counter` returned it.
    """

    phase: Phase
    network: Network
    trainable: freeze.TrainableLayers
    inputs: PhaseInputs
    batches: keras.utils.PyDataset
    validation: keras.utils.PyDataset
    started: float


class _Trainer:
    """The state of one training; the arguments are those of `train`."""

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
        self._network, self._best = network, fitting.BestWeights(config.keep_best)
        self._history: list[dict[str, Any]] = []
        self._records: list[dict[str, Any]] = []
        self._warnings: list[str] = []
        self._layer_defaults = freeze.layer_defaults(network.model)
        self._batching = Batching(
            config.batch_size, data.task == "binary", class_weights(data) if config.balance else None
        )
        self._inputs = InputPipeline(data, config.augment, config.seed, config.features, reporter)

    def plan(self) -> None:
        """Find where each phase cuts its network."""
        cuts: list[Cut | None] = [None] * len(self._phases)
        if self._config.features is not None:
            for index, phase in enumerate(self._phases):
                network = self._networks[index]
                freeze.set_trainable(network, phase, self._layer_defaults)
                cuts[index] = find_cut(network.logits_model)
        self._inputs.plan(self._phases, cuts, self._networks)

    def needs(self, index: int) -> bool:
        """Return whether a phase must be trained. If not, record and report that it is skipped.

        A phase is skipped if the best validation loss so far is at most its `skip_below_loss`, and at most a quarter
        of the chance level. It is never skipped if it has no `skip_below_loss`, if classes are weighted, or if it
        trains another network than the phase before it.
        """
        phase, best = self._phases[index], self._best
        # Losses with class weights are smaller too, so they say nothing here.
        if phase.skip_below_loss is None or self._config.balance or self._networks[index] is not self._network:
            return True
        enough = min(phase.skip_below_loss, CHANCE_SHARE * chance_loss(self._data))
        # Written so that NaN is not good enough.
        if not best.loss <= enough:
            return True
        why = f"the validation loss is {best.loss:.4f}, and at most {enough:.2g} is good enough"
        self._reporter.say(f"Phase {index + 1}/{len(self._phases)} {phase.name}: skipped: {why}")
        nothing = {"moved_layers": [], "moved_parameters": 0, "epochs_run": 0, "seconds": 0.0}
        self._records.append({**phase.to_json(), **nothing, "left_out": why})
        return False

    @contextlib.contextmanager
    def phase(self, index: int) -> Iterator[_ActivePhase]:
        """Set which layers a phase trains, and make its inputs."""
        phase, network = self._phases[index], self._networks[index]
        if network is not self._network:
            # Weights and losses of networks of different depths cannot be compared.
            self._network, self._best = network, fitting.BestWeights(self._config.keep_best)
        trainable = freeze.set_trainable(network, phase, self._layer_defaults)
        stages = len(self._whole.architecture.stages)
        depth = "" if network is self._whole else f"the first {phase.depth} of {stages} stages, "
        self._reporter.say(
            f"Phase {index + 1}/{len(self._phases)} {phase.name}: {depth}trains {phase.train}, "
            f"{counted(len(trainable.layers), 'layer')}, {trainable.parameters:,} of {trainable.total:,} parameters; "
            f"{counted(phase.epochs, 'epoch')}, {phase.optimizer} at {phase.learning_rate:g} ({phase.lr_schedule})"
            f"{self._extras(phase)}"
        )
        started = time.perf_counter()
        with self._reporter.timing.measure(f"phase {phase.name}"):
            inputs = self._inputs.for_phase(index)
            batches = make_batches(
                inputs.train,
                self._data.train,
                **vars(self._batching),
                seed=self._config.seed,
                first_epoch=len(self._history),
                shuffle=True,
            )
            validation = make_batches(inputs.validation, self._data.val, **vars(self._batching))
            yield _ActivePhase(phase, network, trainable, inputs, batches, validation, started)

    def _extras(self, phase: Phase) -> str:
        """Return the settings beyond the usual ones, so that the user sees them applied."""
        extras = []
        if phase.clip_norm is not None:
            extras.append(f"gradients clipped to a norm of {phase.clip_norm:g}")
        if phase.ema is not None:
            extras.append(f"weights averaged with momentum {phase.ema:g}; the average is validated and kept")
        if self._config.balance:
            extras.append("every class counts alike")
        if self._config.features is not None and self._config.features.limit == 0:
            extras.append("all layers run in every step")
        return "".join(f"; {extra}" for extra in extras)

    def fit(self, active: _ActivePhase) -> None:
        """Train a phase. The network then has the weights of the best epoch so far."""
        phase, history, best = active.phase, self._history, self._best
        network, steps = active.network.logits_model, len(active.batches)
        trained_part = active.inputs.trained_part
        self._warn_of_average(phase, steps)
        with fitting.mixed_precision(self._config.precision, trained_part):
            self._compile(active, phase)
            epochs = fitting.fit(
                trained_part, network, active.batches, active.validation, phase, history, best, self._reporter
            )
        self._inputs.count(active.inputs, epochs)
        # The next phase, or the export, starts from the best epoch so far.
        network.set_weights(best.weights)
        # The steps of this phase up to the best epoch; not positive if an earlier phase has it.
        steps *= best.epoch - len(history) + epochs
        if phase.batch_norm == "update" and steps > 0:
            recalibration = BatchNormRecalibration(
                active.inputs, network, self._data, self._batching, self._config.seed, self._reporter
            )
            accuracy = history[best.epoch - 1]["accuracy"]
            self._warnings += recalibration.recalibrate(steps, accuracy, best, phase)
        self._records.append(
            {
                **phase.to_json(),
                "moved_layers": list(active.trainable.layers),
                "moved_parameters": active.trainable.parameters,
                "epochs_run": epochs,
                "seconds": round(time.perf_counter() - active.started, 2),
            }
        )

    def _warn_of_average(self, phase: Phase, steps: int) -> None:
        """Warn if the first step's weights dominate an average: Keras starts it there and forgets them slowly."""
        share = phase.ema ** (steps * phase.epochs - 1) if phase.ema is not None else 0.0
        if share > FIRST_STEP:
            text = (
                f"phase {phase.name!r} has {steps * phase.epochs} steps: {share:.0%} of weights averaged with momentum "
                f"{phase.ema:g} will be those of its first step. Lower --ema."
            )
            self._warnings.append(text)
            self._reporter.warn(text)

    def test(self, active: _ActivePhase, range_test: RangeTestConfig) -> RangeTest:
        """Run a range test on a phase. The weights end as they were."""
        trained_part, network = active.inputs.trained_part, active.network.logits_model
        with fitting.mixed_precision(self._config.precision, trained_part):
            self._compile(active, phase_under_test(active.phase, range_test))
            return run_range_test(range_test, active.phase, trained_part, network, active.batches, self._reporter)

    def end(self) -> TrainResult:
        """Restore dropout, report what training did, and return it."""
        freeze.restore_dropout(self._whole.model, self._layer_defaults)
        stats, best = self._inputs.stats, self._best
        for line in stats.summary_lines():
            self._reporter.say(line)
        last = "" if self._config.keep_best else ", the last epoch"
        self._reporter.say(f"Kept epoch {best.epoch}{last}: validation loss {best.loss:.4f}")
        return TrainResult(self._history, self._records, best.epoch, self._warnings, stats.to_json())

    def _compile(self, active: _ActivePhase, phase: Phase) -> None:
        fitting.compile_for(
            active.inputs.trained_part,
            phase,
            len(active.batches),
            active.trainable.lr_multipliers,
            self._data.task,
            self._config.label_smoothing,
        )


def _networks(whole: Network, phases: Sequence[Phase], head: Head, data: TrainingData) -> list[Network]:
    """Return the network of each phase. This checks all selectors before the first phase starts."""
    by_depth: dict[int, Network] = {len(whole.architecture.stages): whole}
    networks = []
    for phase in phases:
        depth = phase.depth or len(whole.architecture.stages)
        if depth not in by_depth:
            by_depth[depth] = truncate(whole, depth, head, data.targets.shape[1], data.task)
        network = by_depth[depth]
        networks.append(network)
        freeze.select(network.architecture, network.backbone, phase.train)
    return networks
