"""Trains a network phase by phase. Each phase starts from the weights that the previous phase kept.

`zoo.train.freeze` sets the trainable layers, `zoo.train.inputs` makes batches, and `zoo.train.fitting` fits a phase.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from zoo import backend, hosts
from zoo.data.augment import Augment
from zoo.plugin import Head, Phase
from zoo.reporter import Reporter, counted
from zoo.train import exact, fitting, freeze, grouped_conv, jobs, progress
from zoo.train.active_phase import ActivePhase
from zoo.train.batches import Batching, make_batches
from zoo.train.batchnorm import BatchNormRecalibration
from zoo.train.epochs import BestWeights, optimizer_state
from zoo.train.frozen import together
from zoo.train.frozen.cut import Cut, find_cut
from zoo.train.frozen.features import FeatureCacheConfig
from zoo.train.inputs import InputPipeline, TrainingData, chance_loss, class_weights
from zoo.train.lr_find import RangeTest, RangeTestConfig, not_needed, phase_under_test, run_range_test
from zoo.train.network import Network
from zoo.train.planning import average_warning, extras_of, method_of, networks_of, with_enough_steps
from zoo.train.progress import Moment, NetworkVariables, Place, Records
from zoo.train.safe_points import TrainingPoints, Values, position

# A phase is skipped only if the loss is at most this fraction of the chance level, see `zoo.plugin.Phase`.
CHANCE_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of a training run that are the same in all phases.

    Args:
        batch_size: Pictures per training step.
        seed: Decides the order of the pictures and the random numbers of their augmentation.
        augment: The augmentation policy for training pictures; None leaves them unaltered.
        head: The head of truncated networks, for phases that have a `depth`; None means the architecture's own.
        label_smoothing: The fraction of every target that is spread evenly over all classes, in [0, 1).
        balance: True weights the classes in the loss so that all have the same total weight.
        keep_best: True keeps the weights of the epoch with the lowest validation loss, False those of the last epoch.
        precision: "float32" or "bfloat16": the number format in which layers above the frozen part compute while they
            train. `zoo.train.fitting.mixed_precision` lists the exceptions.
        features: Settings of the feature cache. None turns the cache off; the whole network then runs in every step.
        val_logits: Whether the result has the logits of the validation pictures after each phase.
        epochs_before: Epochs of the run before this training. The message about the kept epoch counts them.
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
    val_logits: bool = False
    epochs_before: int = 0


@dataclass(frozen=True)
class TrainResult:
    """The result of training.

    Args:
        history: One row per epoch, with the keys phase (its name), epoch (counted over the run, from 1), learning_rate,
            loss, accuracy, val_loss, val_accuracy and seconds. val_loss excludes the penalties of regularizers, because
            shrinking weights would otherwise make an epoch look better. Without validation pictures, val_loss and
            val_accuracy are None.
        phases: For each phase, its settings, the layers that it trained, its duration in seconds, and the reason if it
            was skipped.
        best_epoch: The number of the epoch whose weights the network has after training, counted over the run, from 1.
        warnings: The warnings that were reported during training, one string each.
        cache_stats: What the feature cache computed and read, see `zoo.train.frozen.stats.CacheStats.to_json`.
        val_logits: If they were requested, the logits of the validation pictures after each phase: one float32 array
            (pictures, units) per phase that was not skipped. Otherwise empty.
    """

    history: list[dict[str, Any]]
    phases: list[dict[str, Any]]
    best_epoch: int
    warnings: list[str]
    cache_stats: dict[str, Any]
    val_logits: list[np.ndarray] = field(default_factory=list)


def train(
    network: Network,
    phases: Sequence[Phase],
    data: TrainingData,
    config: TrainConfig,
    reporter: Reporter,
    points: TrainingPoints | None = None,
    log: Callable[[Mapping[str, Any]], None] | None = None,
) -> TrainResult:
    """Train a network in place.

    The network ends with the weights of the epoch that has the lowest validation loss. If `config.keep_best` is False,
    it ends with the weights of the last epoch. If phases have different depths, the best epoch is one of
    those after the last change of depth. Losses of networks of different depths cannot be compared.

    Args:
        network: The network with all stages; its weights change.
        phases: The phases in order. The last phase must train a network with all stages.
        data: The pictures to train on and to validate with. Without validation pictures, the network ends with the
            weights of the last epoch.
        config: The settings of all phases.
        reporter: Receives progress messages and warnings.
        points: The safe points of this training. The training continues after the latest one, and every epoch writes
            one. None keeps none.
        log: Receives each row of the history, once its epoch has ended. If the training continues after an
            interruption, it first receives the rows of all epochs before. None logs nothing.

    Returns:
        The history of all epochs, a record of each phase, the best epoch, and the warnings.

    Raises:
        TrainingError: The loss is not finite, pictures or features cannot be read, or views do not fit on the disk.
        UsageError: A phase asks for more stages than the network has.
        UnknownName: A phase names a layer that the network does not have.
        RunError: The latest safe point belongs to another network.
        WriteError: A safe point cannot be written.
    """
    trainer = _Trainer(network, phases, data, config, reporter, points, log)
    with jobs.announced(network, phases, data, config), grouped_conv.cut(network.model):
        first = trainer.resume()
        trainer.plan()
        for index in range(first, len(phases)):
            if trainer.needs(index):
                with trainer.phase(index) as active:
                    trainer.fit(active)
    if points is not None:
        points.wait()
    return trainer.end()


def lr_find(
    network: Network,
    phases: Sequence[Phase],
    data: TrainingData,
    config: TrainConfig,
    reporter: Reporter,
    range_test: RangeTestConfig,
) -> list[RangeTest]:
    """Run a learning-rate range test at the start of every phase.

    Each phase except the last one is trained after its test. The test of the next phase starts from the weights that
    this training kept.

    Args:
        network: The network with all stages; its weights change.
        phases: The phases in order. Phases that `train` might skip are trained too.
        data: The pictures to train on and to validate with.
        config: The settings of all phases.
        reporter: Receives progress messages and warnings.
        range_test: The learning rates to try.

    Returns:
        One result per phase.

    Raises:
        TrainingError: The loss is not finite, either before a test or while a phase trains. Pictures or features cannot
            be read, or views do not fit on the disk.
        UsageError: A phase asks for more stages than the network has.
        UnknownName: A phase names a layer that the network does not have.
    """
    trainer = _Trainer(network, phases, data, config, reporter)
    tests = []
    with grouped_conv.cut(network.model):
        trainer.resume()
        trainer.plan()
        for index in range(len(phases)):
            with trainer.phase(index) as active:
                tests.append(not_needed(active.phase) if trainer.solves(active) else trainer.test(active, range_test))
                if index + 1 < len(phases):
                    trainer.fit(active)
    return tests


class _Trainer:
    """Holds the state of one call of `train` or `lr_find`. Its arguments are those of `train`."""

    def __init__(
        self,
        network: Network,
        phases: Sequence[Phase],
        data: TrainingData,
        config: TrainConfig,
        reporter: Reporter,
        points: TrainingPoints | None = None,
        log: Callable[[Mapping[str, Any]], None] | None = None,
    ):
        self._data, self._config, self._reporter, self._points = data, config, reporter, points
        self._log = log or (lambda row: None)
        self._phases = [with_enough_steps(phase, len(data.train), config.batch_size) for phase in phases]
        self._keep_best = config.keep_best and len(data.val) > 0
        self._whole = network
        self._head = config.head or network.architecture.head
        self._networks = networks_of(network, phases, self._head, data)
        self._network, self._best = network, BestWeights(self._keep_best)
        self._records = Records()
        self._resumed: Place | None = None
        self._layer_defaults = freeze.layer_defaults(network.model)
        self._batching = Batching(
            config.batch_size, data.task == "binary", class_weights(data) if config.balance else None
        )
        self._inputs = InputPipeline(data, config.augment, config.seed, config.features, reporter)

    def resume(self) -> int:
        """Restore the latest safe point, and return the index of the phase in which training continues.

        Raises:
            RunError: The safe point belongs to another network.
        """
        self._variables = NetworkVariables([self._whole.model, *(each.model for each in self._networks)])
        values = self._points.load() if self._points is not None else None
        values = jobs.same_start(self._variables, values)
        backend.seed_dropout(self._config.seed)
        if values is None:
            return 0
        self._resumed, self._records = progress.read(values)
        self._network = self._networks[self._resumed.phase]
        progress.restore(values, self._best, self._variables, self._network.logits_model)
        for row in self._records.history:
            self._log(row)
        return self._resumed.phase

    def plan(self) -> None:
        """Find the cut of each phase, and decide whether the feature cache is used."""
        cuts: list[Cut | None] = [None] * len(self._phases)
        if self._config.features is not None:
            for index, phase in enumerate(self._phases):
                network = self._networks[index]
                freeze.set_trainable(network, phase, self._layer_defaults)
                cuts[index] = find_cut(network.logits_model)
        self._inputs.plan(self._phases, cuts, self._networks)

    def needs(self, index: int) -> bool:
        """Return whether a phase must be trained. If not, record and report that it is skipped.

        A phase is skipped if all of these conditions are met:

        - The phase has a `skip_below_loss`, and the best validation loss so far is at most this value.
        - The best validation loss so far is at most a quarter of the chance level.
        - The run has no class weights.
        - The network of the phase has the same depth as the network of the previous phase.
        """
        phase, best = self._phases[index], self._best
        if self._resumed is not None:
            return True
        # Class weights make losses smaller too, so a weighted loss cannot be compared with these limits.
        if phase.skip_below_loss is None or self._config.balance or self._networks[index] is not self._network:
            return True
        enough = min(phase.skip_below_loss, CHANCE_SHARE * chance_loss(self._data))
        # This form of the comparison also trains the phase if the loss is NaN.
        if not best.loss <= enough:
            return True
        why = f"the validation loss is {best.loss:.4f}, and at most {enough:.2g} is good enough"
        self._reporter.say(f"Phase {index + 1}/{len(self._phases)} {phase.name}: skipped: {why}")
        nothing = {"moved_layers": [], "moved_parameters": 0, "epochs_run": 0, "seconds": 0.0}
        self._records.phases.append({**phase.to_json(), **nothing, "left_out": why})
        return False

    @contextlib.contextmanager
    def phase(self, index: int) -> Iterator[ActivePhase]:
        """Set the trainable layers of a phase, make its batches, and yield an `ActivePhase`.

        The time spent in this context is recorded as the time of the phase.
        """
        phase, network = self._phases[index], self._networks[index]
        if network is not self._network:
            # Weights and losses of networks of different depths cannot be compared.
            self._network, self._best = network, BestWeights(self._keep_best)
        trainable = freeze.set_trainable(network, phase, self._layer_defaults)
        stages = len(self._whole.architecture.stages)
        depth = "" if network is self._whole else f"the first {phase.depth} of {stages} stages, "
        self._reporter.say(
            f"Phase {index + 1}/{len(self._phases)} {phase.name}: {depth}trains {phase.train}, "
            f"{counted(len(trainable.layers), 'layer')}, {trainable.parameters:,} of {trainable.total:,} parameters; "
            f"{method_of(phase, self._head)}{extras_of(phase, self._data, self._config)}"
        )
        resumed, self._resumed = self._resumed, None
        started = time.perf_counter() - (resumed.seconds if resumed else 0.0)
        if resumed is not None:
            self._reporter.say(f"  continues {position(len(self._records.history), resumed.batches)}")
        self._variables.begin_phase(network.model)
        with self._reporter.timing.measure(f"phase {phase.name}"):
            inputs = self._inputs.for_phase(index)
            together.require_same_inputs(inputs, phase.name)
            batches = make_batches(
                inputs.train,
                self._data.train,
                **vars(self._batching),
                seed=self._config.seed,
                first_epoch=len(self._records.history),
                shuffle=True,
            )
            validation = make_batches(inputs.validation, self._data.val, **vars(self._batching))
            yield ActivePhase(index, phase, network, trainable, inputs, batches, validation, started, resumed)

    def _solve(self, active: ActivePhase) -> None:
        """Solve the head of a phase, and record it as one epoch."""
        phase, network, number = active.phase, active.network.logits_model, len(self._records.history) + 1
        with self._reporter.timing.measure("solving the head"):
            figures, solution = exact.solve_head(
                active.inputs,
                self._data,
                self._head,
                phase=phase,
                class_weights=self._batching.class_weights,
                label_smoothing=self._config.label_smoothing,
                seed=self._config.seed,
            )
        self._inputs.count(active.inputs, 1)
        seconds = round(time.perf_counter() - active.started, 2)
        row: dict[str, Any] = {
            "phase": phase.name,
            "epoch": number,
            "learning_rate": 0.0,
            **figures,
            "seconds": seconds,
        }
        self._records.history.append(row)
        self._log(row)
        fold_loss = (
            "" if solution["fold_loss"] is None else f", {solution['fold_loss']:.4f} in {solution['folds']} folds"
        )
        validated = ""
        if row["val_loss"] is not None:
            validated = f"val loss {row['val_loss']:.4f}  val accuracy {row['val_accuracy']:.4f}  "
        self._reporter.say(
            f"  solved     loss {row['loss']:.4f}{fold_loss}  accuracy {row['accuracy']:.4f}  {validated}"
            f"{seconds:.1f} s"
        )
        self._best.offer(float("nan") if row["val_loss"] is None else row["val_loss"], number, network)
        network.set_weights(self._best.weights)
        if self._config.val_logits:
            logits = active.inputs.trained_part.predict(active.validation, verbose=0)
            self._records.val_logits.append(np.asarray(logits))
        self._record(active, 1, {"solution": solution})

    def solves(self, active: ActivePhase) -> bool:
        """Return whether the head of a phase is solved instead of trained."""
        return active.phase.optimizer == "exact" and not exact.obstacle(self._head)

    def _record(self, active: ActivePhase, epochs: int, others: dict[str, Any]) -> None:
        """Record a phase that has ended.

        Args:
            active: The phase.
            epochs: The number of epochs that ran.
            others: Entries that only some phases have.
        """
        self._records.phases.append({**active.record(epochs), **others})

    def fit(self, active: ActivePhase) -> None:
        """Train a phase, recalibrate BatchNorm if needed, and record the phase.

        Afterwards the network has the weights of the best epoch so far, or of the last epoch if `keep_best` is False.
        """
        if not self.solves(active):
            self._fit(active)
        elif hosts.leads():
            self._solve(active)
        jobs.same_end(self._variables, active.network, self._best, self._records.history)

    def _fit(self, active: ActivePhase) -> None:
        """Train a phase whose head is not solved."""
        phase, history, best = active.phase, self._records.history, self._best
        network, steps = active.network.logits_model, len(active.batches)
        trained_part = active.inputs.trained_part
        text = average_warning(phase, steps)
        if active.resumed is not None:
            text = progress.numbers_warning(active.resumed.numbers, self._inputs.stats.numbers)
        if text:
            self._records.warnings.append(text)
            self._reporter.warn(text)
        with fitting.mixed_precision(self._config.precision, trained_part):
            self._compile(active, phase)
            epochs = fitting.fit(
                trained_part,
                network,
                active.batches,
                active.validation or None,
                phase,
                history,
                best,
                self._reporter,
                resumed=active.resumed,
                capture=functools.partial(self._capture, active),
            )
        if not hosts.leads():
            # Process 0 does the rest alone.
            return
        self._inputs.count(active.inputs, epochs)
        # The next phase, or the export, starts from the best epoch so far.
        network.set_weights(best.weights)
        # The steps of this phase up to the best epoch; zero or less if an earlier phase has the best epoch.
        steps *= best.epoch - len(history) + epochs
        if phase.batch_norm == "update" and steps > 0:
            recalibration = BatchNormRecalibration(
                active.inputs, network, self._data, self._batching, self._config.seed, self._reporter
            )
            accuracy = history[best.epoch - 1]["accuracy"]
            self._records.warnings += recalibration.recalibrate(steps, accuracy, best, phase)
        if self._config.val_logits:
            self._records.val_logits.append(np.asarray(trained_part.predict(active.validation, verbose=0)))
        self._record(active, epochs, {})

    def _capture(self, active: ActivePhase, moment: Moment) -> Callable[[], None]:
        """Take the state at a moment of a phase, and return a function that writes it; see `_write`."""
        if self._points is None:
            return functools.partial(self._write, None, moment)
        with self._reporter.timing.measure("safe points"):
            # The state of an optimizer is of no use when its phase has ended.
            optimizer = () if moment.ended else tuple(optimizer_state(active.inputs.trained_part))
            seconds, numbers = time.perf_counter() - active.started, self._inputs.stats.numbers
            place = Place(**vars(moment), phase=active.index, seconds=seconds, numbers=numbers, optimizer=optimizer)
            network, record = active.network.logits_model, active.record(moment.epochs)
            values = progress.capture(place, self._records, self._best, self._variables, network, record)
            return functools.partial(self._write, values, moment)

    def _write(self, values: Values | None, moment: Moment) -> None:
        """Write a safe point. At the end of an epoch, log the epoch afterwards."""
        if self._points is not None and values is not None:
            with self._reporter.timing.measure("safe points"):
                self._points.save(len(self._records.history), values, moment.batches)
        if not moment.batches:
            self._log(self._records.history[-1])

    def test(self, active: ActivePhase, range_test: RangeTestConfig) -> RangeTest:
        """Run a range test on a phase. Afterwards the network has the same weights as before."""
        trained_part, network = active.inputs.trained_part, active.network.logits_model
        with fitting.mixed_precision(self._config.precision, trained_part):
            self._compile(active, phase_under_test(active.phase, range_test))
            return run_range_test(range_test, active.phase, trained_part, network, active.batches, self._reporter)

    def end(self) -> TrainResult:
        """Restore the dropout rates, report the cache statistics and the best epoch, and return the training result."""
        freeze.restore_dropout(self._whole.model, self._layer_defaults)
        stats, best = self._inputs.stats, self._best
        for line in stats.summary_lines():
            self._reporter.say(line)
        last = "" if self._keep_best else ", the last epoch"
        validated = f": validation loss {best.loss:.4f}" if len(self._data.val) else ""
        before = self._config.epochs_before
        counted = ". The solved head counts as epoch 1" if before else ""
        self._reporter.say(f"Kept epoch {best.epoch + before}{last}{validated}{counted}")
        records = self._records
        return TrainResult(
            records.history, records.phases, best.epoch, records.warnings, stats.to_json(), records.val_logits
        )

    def _compile(self, active: ActivePhase, phase: Phase) -> None:
        fitting.compile_for(
            active.inputs.trained_part,
            phase,
            len(active.batches),
            active.trainable.lr_multipliers,
            self._data.task,
            self._config.label_smoothing,
        )
