"""Runs the phases: sets what moves, compiles, fits, keeps the best epoch. Nobody else compiles or fits."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import backend, paths
from zoo.errors import TrainingError
from zoo.plugin import Architecture, Head, Phase
from zoo.reporter import Reporter
from zoo.train import grouped
from zoo.train import phases as phase_tools
from zoo.train.batches import Augment, make_batches
from zoo.train.stretch import Stretch, cut
from zoo.train.views import Views
from zoo.train.views import compute as compute_views

if TYPE_CHECKING:
    import keras

LAG_PICTURES = 512
LAG_ALLOWED = 0.10
INITIAL_ALLOWED = 0.01


@dataclass(frozen=True)
class Pictures:
    """What the network learns from and is judged by while it trains.

    Args:
        array: uint8 array (pictures, height, width, channels), values 0..255.
        targets: float32 array (pictures, classes), 1 where a picture is of a class, else 0.
        train: Indices to learn from, int64 array.
        val: Indices for early stopping and the choice of the best epoch, int64 array.
        task: "multiclass", "binary" or "multilabel"; see `zoo.train.model.attach_head`.
    """

    array: np.ndarray
    targets: np.ndarray
    train: np.ndarray
    val: np.ndarray
    task: str = "multiclass"


@dataclass(frozen=True)
class Outcome:
    """What training gave.

    Args:
        history: A row an epoch: phase, epoch (counted over the run, from 1), learning_rate, loss, accuracy, val_loss,
            val_accuracy, seconds. val_loss is without the penalties on weights, which would make an epoch look better
            whose weights are smaller.
        phases: For each phase its settings, the layers it moved, its seconds.
        best_epoch: The epoch whose weights the network now has.
        warnings: What the user should know.
    """

    history: list[dict[str, Any]]
    phases: list[dict[str, Any]]
    best_epoch: int
    warnings: list[str]


def train(
    model: keras.Model,
    backbone: Sequence[str],
    architecture: Architecture,
    schedule: Sequence[Phase],
    pictures: Pictures,
    *,
    batch_size: int,
    seed: int,
    augment: Augment | None,
    reporter: Reporter,
    head: Head | None = None,
    label_smoothing: float = 0.0,
    keep_best: bool = True,
) -> Outcome:
    """Train a network in place; it ends with the weights of the epoch of least validation loss, or of the last epoch.

    Args:
        model: Ends in the layers `logits` and `probabilities`.
        backbone: Names of the backbone's layers, input first.
        architecture: For its stages.
        schedule: Phases in order; the last one has the whole network.
        pictures: Decoded pictures.
        batch_size: Pictures a step.
        seed: Decides order and augmentation.
        augment: Policy for training pictures, or None.
        reporter: Hears of phases and epochs.
        head: What cut networks end in, for phases with a depth; None means the architecture's.
        label_smoothing: Share of every target that is spread over all classes, in [0, 1).
        keep_best: Whether the best epoch is kept, else the last.

    Returns:
        History and what moved.

    Raises:
        TrainingError: The loss is not finite.
    """
    whole = Stretch(model, tuple(backbone), architecture)
    stretches = _stretches(whole, schedule, head or architecture.head, pictures)
    stretch, best = whole, _Best(keep_best)
    history: list[dict[str, Any]] = []
    done: list[dict[str, Any]] = []
    warnings: list[str] = []
    originals = phase_tools.originals(model)
    batching = {"batch_size": batch_size, "single_unit": pictures.task == "binary"}
    views: dict[int, Views] = {}

    with grouped.cut(model):
        for number, phase in enumerate(schedule, start=1):
            before, stretch = stretch, stretches[number - 1]
            if stretch is not before:
                # Weights and losses of networks of different depths cannot be compared.
                best = _Best(keep_best)
            moving = phase_tools.apply(stretch.model, stretch.backbone, stretch.architecture, phase, originals)
            depth = "" if stretch is whole else f"the first {phase.depth} stages, "
            reporter.say(
                f"Phase {number}/{len(schedule)} {phase.name}: {depth}trains {phase.train}, "
                f"{len(moving.layers)} layers, {moving.parameters:,} of {moving.total:,} parameters; "
                f"{phase.epochs} epochs, {phase.optimizer} at {phase.learning_rate:g} ({phase.rate})"
            )
            begun = time.perf_counter()
            policy = augment if phase.augment else None
            if policy is not None and phase.views is not None and phase.views not in views:
                with reporter.progress(f"computing {phase.views} views") as progress:
                    views[phase.views] = compute_views(
                        *(pictures.array, pictures.train, pictures.targets, policy),
                        **{"count": phase.views, "seed": seed, "folder": paths.cache() / "views", "progress": progress},
                    )
            batches = make_batches(
                pictures.array,
                pictures.train,
                pictures.targets,
                **batching,
                seed=seed,
                first_epoch=len(history),
                shuffle=True,
                augment=policy,
                views=views[phase.views] if policy is not None and phase.views is not None else None,
            )
            trainer = stretch.trainer
            trainer.compile(
                optimizer=_optimizer(phase, len(batches), moving.scales),
                loss=_loss(pictures.task, label_smoothing),
                metrics=[_accuracy(pictures.task)],
                jit_compile=_jit(),
            )
            validation = make_batches(pictures.array, pictures.val, pictures.targets, **batching)
            epochs = _fit(trainer, batches, validation, phase, history, best, reporter)
            # The next phase, or the export, begins from the best epoch so far.
            trainer.set_weights(best.weights)
            steps = (best.epoch - len(history) + epochs) * len(batches)
            if phase.batch_norm == "update" and steps > 0:
                warnings += _settle_statistics(trainer, pictures, batching, seed, steps, history, best, phase, reporter)
            done.append(
                {
                    **asdict(phase),
                    "moved_layers": list(moving.layers),
                    "moved_parameters": moving.parameters,
                    "epochs_run": epochs,
                    "seconds": round(time.perf_counter() - begun, 2),
                }
            )
    phase_tools.restore_dropout(model, originals)
    kept = f"validation loss {best.loss:.4f}" + ("" if keep_best else ", the last")
    reporter.say(f"Kept epoch {best.epoch}: {kept}")
    return Outcome(history, done, best.epoch, warnings)


def _stretches(whole: Stretch, schedule: Sequence[Phase], head: Head, pictures: Pictures) -> list[Stretch]:
    """The network of each phase. All selectors are checked here, before the first phase begins."""
    cuts: dict[int, Stretch] = {len(whole.architecture.stages): whole}
    found = []
    for phase in schedule:
        depth = phase.depth or len(whole.architecture.stages)
        if depth not in cuts:
            cuts[depth] = cut(whole, depth, head, pictures.targets.shape[1], pictures.task)
        found.append(cuts[depth])
        phase_tools.select(found[-1].architecture, found[-1].backbone, phase.train)
    return found


def _loss(task: str, label_smoothing: float) -> keras.losses.Loss:
    losses = backend.start().losses
    kind = losses.CategoricalCrossentropy if task == "multiclass" else losses.BinaryCrossentropy
    return kind(from_logits=True, label_smoothing=label_smoothing)


def _accuracy(task: str) -> keras.metrics.Metric:
    """Share of pictures whose likeliest class is right; of a multi-label network, share of right decisions."""
    keras = backend.start()
    if task == "multiclass":
        return keras.metrics.CategoricalAccuracy(name="accuracy")

    def decided_right(targets, logits):
        return keras.ops.mean(keras.ops.equal(targets > 0.5, logits > 0), axis=-1)

    return keras.metrics.MeanMetricWrapper(decided_right, name="accuracy")


class _Best:
    """Weights of the epoch of least validation loss over all phases of a depth, or of the last epoch."""

    def __init__(self, keep_best: bool) -> None:
        self.loss, self.epoch, self.weights = float("inf"), 0, None
        self._keep_best = keep_best

    def offer(self, loss: float, epoch: int, trainer: keras.Model) -> None:
        """Keep an epoch's weights if they are to be kept."""
        if loss < self.loss or not self._keep_best:
            self.loss, self.epoch, self.weights = loss, epoch, trainer.get_weights()


def _fit(
    trainer: keras.Model,
    batches: keras.utils.PyDataset,
    validation: keras.utils.PyDataset,
    phase: Phase,
    history: list[dict[str, Any]],
    best: _Best,
    reporter: Reporter,
) -> int:
    """Fit one phase, adding to the history; return how many epochs ran."""
    keras = backend.start()
    first = len(history)
    lowest = [float("inf"), first]
    # Closed after every epoch, and where one is interrupted: a bar hides the terminal's cursor.
    bars = contextlib.ExitStack()

    class Watch(keras.callbacks.Callback):
        """Progress, history, best epoch, early stopping, and a stop at a loss that is not finite."""

        def on_epoch_begin(self, epoch, logs=None):
            self.begun = time.perf_counter()
            self.advance = bars.enter_context(reporter.progress(f"epoch {first + epoch + 1}"))

        def on_train_batch_end(self, batch, logs=None):
            self.advance(batch + 1, len(batches))

        def on_epoch_end(self, epoch, logs=None):
            bars.close()
            row = {
                "phase": phase.name,
                "epoch": first + epoch + 1,
                "learning_rate": float(keras.ops.convert_to_numpy(trainer.optimizer.learning_rate)),
                **{key: float(logs[key]) for key in ("loss", "accuracy", "val_loss", "val_accuracy")},
                "seconds": round(time.perf_counter() - self.begun, 2),
            }
            row["val_loss"] -= _penalty(trainer)
            if not np.isfinite(row["loss"]):
                raise TrainingError(
                    f"the loss of epoch {row['epoch']} is {row['loss']}: the learning rate {phase.learning_rate:g} of "
                    f"phase {phase.name!r} is too high. Try --learning-rate {phase.learning_rate / 10:g}."
                )
            history.append(row)
            reporter.say(
                f"  epoch {row['epoch']:>3}  loss {row['loss']:.4f}  accuracy {row['accuracy']:.4f}  "
                f"val loss {row['val_loss']:.4f}  val accuracy {row['val_accuracy']:.4f}  {row['seconds']:.1f} s"
            )
            best.offer(row["val_loss"], row["epoch"], trainer)
            if row["val_loss"] < lowest[0]:
                lowest[:] = row["val_loss"], row["epoch"]
            since = row["epoch"] - lowest[1]
            if phase.patience is not None and since >= phase.patience and epoch + 1 < phase.epochs:
                reporter.say(f"  no better validation loss for {phase.patience} epochs: phase ends")
                trainer.stop_training = True

    options = {"validation_data": validation, "callbacks": [Watch()], "verbose": 0, "shuffle": False}
    with bars:
        trainer.fit(batches, epochs=phase.epochs, **options)
    if best.weights is None:
        raise TrainingError(
            f"the validation loss of phase {phase.name!r} was never finite; lower --learning-rate below "
            f"{phase.learning_rate:g}."
        )
    return len(history) - first


def _penalty(trainer: keras.Model) -> float:
    """What regularizers add to the loss at the present weights."""
    keras = backend.start()
    return float(sum(float(keras.ops.convert_to_numpy(loss)) for loss in trainer.losses))


def _optimizer(phase: Phase, steps: int, scales: dict[str, float]) -> keras.optimizers.Optimizer:
    keras = backend.start()
    rate: Any = phase.learning_rate
    if phase.rate == "cosine":
        warmup = max(1, steps * phase.epochs // 10)
        rate = keras.optimizers.schedules.CosineDecay(
            phase.learning_rate / 100,
            max(1, steps * phase.epochs - warmup),
            alpha=0.01,
            warmup_target=phase.learning_rate,
            warmup_steps=warmup,
        )
    base = {
        "adam": keras.optimizers.Adam,
        "adamw": keras.optimizers.AdamW,
        "sgd": keras.optimizers.SGD,
        "rmsprop": keras.optimizers.RMSprop,
    }[phase.optimizer]
    options = {"momentum": 0.9} if phase.optimizer == "sgd" else {}
    if phase.rate_decay == 1:
        return base(rate, **options)

    class Scaled(base):
        """Scales each variable's step. Scaling gradients would change nothing under Adam."""

        def update_step(self, gradient, variable, learning_rate):
            path = self._trainable_variables[self._get_variable_index(variable)].path
            super().update_step(gradient, variable, learning_rate * scales[path])

    return Scaled(rate, **options)


def _jit() -> bool | str:
    """XLA is 2 to 30 times slower than TensorFlow's own kernels on a CPU; JAX and GPUs decide for themselves."""
    return False if backend.runs_on_tensorflow() and not backend.has_accelerator() else "auto"


def _settle_statistics(
    trainer: keras.Model,
    pictures: Pictures,
    batching: dict[str, Any],
    seed: int,
    steps: int,
    history: list[dict[str, Any]],
    best: _Best,
    phase: Phase,
    reporter: Reporter,
) -> list[str]:
    """Make sure that BatchNorm's moving statistics are those of the training pictures.

    They lag behind the weights where the steps were so few that much of the initial values is left, or where training
    pictures score far lower with them than in training mode, which uses each batch's own. They are then measured anew,
    as the mean over training batches (Wu and Johnson 2021, https://arxiv.org/abs/2105.07576, "precise BatchNorm"), and
    kept in the first case, and in the second if validation loss or training accuracy is better with them.

    Returns:
        A warning if they lag still.
    """
    keras = backend.start()
    moving = [x for x in trainer.layers if isinstance(x, keras.layers.BatchNormalization) and x.trainable]
    if not moving:
        return []
    # Shuffled, for training rows stand class by class; whole batches, for each counts alike.
    rows = np.random.default_rng(seed).permutation(pictures.train)[:LAG_PICTURES]
    rows = rows[: len(rows) // batching["batch_size"] * batching["batch_size"] or len(rows)]
    sample = make_batches(pictures.array, rows, pictures.targets, **batching)
    trained = history[best.epoch - 1]["accuracy"]

    def accuracy() -> float:
        return trainer.evaluate(sample, verbose=0, return_dict=True)["accuracy"]

    momenta = [layer.momentum for layer in moving]
    seen = accuracy()
    unsettled = any(momentum**steps > INITIAL_ALLOWED for momentum in momenta)
    if seen >= trained - LAG_ALLOWED and not unsettled:
        return []
    for index in range(len(sample)):
        for layer in moving:
            layer.momentum = index / (index + 1)
        trainer(keras.ops.convert_to_tensor(sample[index][0], "float32"), training=True)
    for layer, momentum in zip(moving, momenta, strict=True):
        layer.momentum = momentum
    validation = make_batches(pictures.array, pictures.val, pictures.targets, **batching)
    loss = trainer.evaluate(validation, verbose=0, return_dict=True)["loss"] - _penalty(trainer)
    settled = accuracy()
    # Statistics near their initial values give about the same answer for every picture: little loss, and no network.
    if unsettled or loss < best.loss or settled > seen:
        reporter.say(
            f"  BatchNorm statistics lagged behind the weights (training pictures: {seen:.3f}, in training mode "
            f"{trained:.3f}); measured anew: {settled:.3f}, val loss {loss:.4f}"
        )
        best.loss, best.weights, seen = loss, trainer.get_weights(), settled
    trainer.set_weights(best.weights)
    if seen >= trained - LAG_ALLOWED:
        return []
    warning = (
        f"phase {phase.name!r}: BatchNorm statistics lag behind the weights. Training pictures score {seen:.3f} "
        f"with them and {trained:.3f} in training mode. Train longer, or lower the phase's batch_norm_momentum."
    )
    reporter.warn(warning)
    return [warning]
