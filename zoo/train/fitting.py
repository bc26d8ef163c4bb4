"""Compiles a network for one phase and fits it: loss, optimizer, learning rate, early stopping, the best epoch."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import backend
from zoo.errors import TrainingError
from zoo.plugin import Phase
from zoo.reporter import Reporter

if TYPE_CHECKING:
    import keras


class BestWeights:
    """The weights of the epoch with the least validation loss, or of the last epoch.

    Epochs count over all phases that train a network of the same depth.

    Args:
        keep_best: Whether the best epoch is kept, else the last one.

    Attributes:
        loss: The validation loss of the epoch kept; infinite if there is none.
        epoch: Its number, counted over the run from 1; 0 if there is none.
        weights: Its weights, as `get_weights` returns them, or None.
    """

    def __init__(self, keep_best: bool) -> None:
        self.loss, self.epoch = float("inf"), 0
        self.weights: list[np.ndarray] | None = None
        self._keep_best = keep_best

    def offer(self, loss: float, epoch: int, network: keras.Model) -> None:
        """Keep the weights of an epoch if it is better, or if the last epoch is kept."""
        if loss < self.loss or not self._keep_best:
            self.loss, self.epoch, self.weights = loss, epoch, network.get_weights()


def fit(
    trained_part: keras.Model,
    network: keras.Model,
    batches: keras.utils.PyDataset,
    validation: keras.utils.PyDataset,
    phase: Phase,
    history: list[dict[str, Any]],
    best: BestWeights,
    reporter: Reporter,
) -> int:
    """Fit one phase.

    Args:
        trained_part: The compiled network, or its upper part.
        network: The whole network up to the logits.
        batches: Training batches.
        validation: Validation batches.
        phase: The phase.
        history: The rows of all epochs so far; new rows are added.
        best: The best weights so far; updated.
        reporter: Receives progress messages.

    Returns:
        The number of epochs that ran.

    Raises:
        TrainingError: The loss is not finite, or pictures or features cannot be read any more.
    """
    keras = backend.start()
    first = len(history)
    log = _EpochLog(trained_part, network, phase, len(batches), history, best, reporter)
    # SwapEMAWeights puts the average into the network for validation and the end of an epoch, so the average is kept.
    average = [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)] if phase.ema is not None else []
    options = {"validation_data": validation, "callbacks": [*average, _callback(log)], "verbose": 0, "shuffle": False}
    with log.bars, reading(phase, batches, validation):
        trained_part.fit(batches, epochs=phase.epochs, **options)
    if best.weights is None:
        raise TrainingError(
            f"the validation loss of phase {phase.name!r} was never finite. The learning rate {phase.learning_rate:g} "
            f"is probably too high. Try --learning-rate {phase.learning_rate / 10:g}."
        )
    return len(history) - first


class _EpochLog:
    """Records the epochs of one phase: history, progress, timing, the best epoch, and early stopping.

    Attributes:
        bars: Holds the open progress bar. It is closed after every epoch, and if one is interrupted, because a bar
            hides the terminal's cursor.
    """

    def __init__(
        self,
        trained_part: keras.Model,
        network: keras.Model,
        phase: Phase,
        steps: int,
        history: list[dict[str, Any]],
        best: BestWeights,
        reporter: Reporter,
    ) -> None:
        self._trained_part, self._network, self._phase, self._steps = trained_part, network, phase, steps
        self._history, self._best, self._reporter = history, best, reporter
        self._first = len(history)
        self._lowest_loss, self._lowest_epoch = float("inf"), self._first
        self.bars = contextlib.ExitStack()

    def start_epoch(self, epoch: int) -> None:
        self._epoch_started = time.perf_counter()
        self._advance = self.bars.enter_context(self._reporter.progress(f"epoch {self._first + epoch + 1}"))

    def start_step(self) -> None:
        self._step_started = time.perf_counter()

    def end_step(self, batch: int) -> None:
        # The first step is counted apart, because Keras traces the network in it.
        first_step = len(self._history) == self._first and batch == 0
        self._reporter.timing.add("first step" if first_step else "steps", time.perf_counter() - self._step_started)
        self._advance(batch + 1, self._steps)

    def start_validation(self) -> None:
        self._validation_started = time.perf_counter()

    def end_validation(self) -> None:
        self._reporter.timing.add("validation", time.perf_counter() - self._validation_started)

    def end_epoch(self, epoch: int, logs: dict[str, float]) -> None:
        """Record an epoch, and stop the phase if it does not get better.

        Raises:
            TrainingError: The loss is not finite.
        """
        self.bars.close()
        phase, row = self._phase, self._row(epoch, logs)
        if not np.isfinite(row["loss"]):
            raise TrainingError(
                f"the loss of epoch {row['epoch']} is {row['loss']}: the learning rate {phase.learning_rate:g} of "
                f"phase {phase.name!r} is too high. Try --learning-rate {phase.learning_rate / 10:g}."
            )
        self._history.append(row)
        self._reporter.say(
            f"  epoch {row['epoch']:>3}  loss {row['loss']:.4f}  accuracy {row['accuracy']:.4f}  "
            f"val loss {row['val_loss']:.4f}  val accuracy {row['val_accuracy']:.4f}  {row['seconds']:.1f} s"
        )
        self._best.offer(row["val_loss"], row["epoch"], self._network)
        if row["val_loss"] < self._lowest_loss:
            self._lowest_loss, self._lowest_epoch = row["val_loss"], row["epoch"]
        since = row["epoch"] - self._lowest_epoch
        if phase.patience is not None and since >= phase.patience and epoch + 1 < phase.epochs:
            self._reporter.say(
                f"  the phase ends early: the validation loss has not improved for {phase.patience} epochs"
            )
            self._trained_part.stop_training = True

    def _row(self, epoch: int, logs: dict[str, float]) -> dict[str, Any]:
        keras = backend.start()
        row: dict[str, Any] = {
            "phase": self._phase.name,
            "epoch": self._first + epoch + 1,
            "learning_rate": float(keras.ops.convert_to_numpy(self._trained_part.optimizer.learning_rate)),
            **{key: float(logs[key]) for key in ("loss", "accuracy", "val_loss", "val_accuracy")},
            "seconds": round(time.perf_counter() - self._epoch_started, 2),
        }
        row["val_loss"] -= regularization_loss(self._trained_part)
        return row


def _callback(log: _EpochLog) -> keras.callbacks.Callback:
    """Return a Keras callback that passes events on to a log."""
    base: Any = backend.start().callbacks.Callback

    class Callback(base):
        def on_epoch_begin(self, epoch, logs=None):
            log.start_epoch(epoch)

        def on_train_batch_begin(self, batch, logs=None):
            log.start_step()

        def on_train_batch_end(self, batch, logs=None):
            log.end_step(batch)

        def on_test_begin(self, logs=None):
            log.start_validation()

        def on_test_end(self, logs=None):
            log.end_validation()

        def on_epoch_end(self, epoch, logs=None):
            log.end_epoch(epoch, logs)

    return Callback()


@contextlib.contextmanager
def reading(phase: Phase, *batches: keras.utils.PyDataset) -> Iterator[None]:
    """Raise an error of the batches as it is, rather than in the words of Keras's backend.

    Args:
        phase: The phase that reads them.
        batches: Batches from `zoo.train.batches.make_batches`.

    Raises:
        TrainingError: A file cannot be read.
    """
    try:
        yield
    except Exception as error:
        failed = next((each.failed for each in batches if each.failed is not None), None)
        if isinstance(failed, OSError):
            raise TrainingError(
                f"the pictures or features of phase {phase.name!r} could not be read: {failed}. Another program may "
                "have changed the file. Run the command again; missing features are then computed again."
            ) from failed
        if failed is None or failed is error:
            raise
        raise failed from None


def regularization_loss(trained_part: keras.Model) -> float:
    """Return what the regularizers add to the loss at the present weights."""
    keras = backend.start()
    return float(sum(float(keras.ops.convert_to_numpy(loss)) for loss in trained_part.losses))


def _optimizer(phase: Phase, steps: int, lr_multipliers: dict[str, float]) -> keras.optimizers.Optimizer:
    keras = backend.start()
    rate: Any = phase.learning_rate
    if phase.lr_schedule != "constant":
        # The share of steps that rise, the first rate and the last one, as `zoo.plugin.Phase` documents them.
        rising, first, last = (0.1, 1 / 100, 0.01) if phase.lr_schedule == "cosine" else (0.3, 1 / 25, 1e-4)
        warmup = max(1, int(steps * phase.epochs * rising))
        rate = keras.optimizers.schedules.CosineDecay(
            phase.learning_rate * first,
            max(1, steps * phase.epochs - warmup),
            alpha=last,
            warmup_target=phase.learning_rate,
            warmup_steps=warmup,
        )
    base: Any = {
        "adam": keras.optimizers.Adam,
        "adamw": keras.optimizers.AdamW,
        "sgd": keras.optimizers.SGD,
        "rmsprop": keras.optimizers.RMSprop,
    }[phase.optimizer]
    options: dict[str, Any] = {"momentum": 0.9} if phase.optimizer == "sgd" else {}
    if phase.clip_norm is not None:
        options["global_clipnorm"] = phase.clip_norm
    if phase.ema is not None:
        options.update(use_ema=True, ema_momentum=phase.ema)
    if phase.layer_decay == 1:
        return base(rate, **options)

    class Scaled(base):
        """Multiplies each variable's learning rate by its factor. Scaled gradients would change nothing under Adam."""

        def update_step(self, gradient, variable, learning_rate):
            path = self._trainable_variables[self._get_variable_index(variable)].path
            super().update_step(gradient, variable, learning_rate * lr_multipliers[path])

    return Scaled(rate, **options)


def _jit() -> bool | str:
    """Return Keras's `jit_compile`: off for TensorFlow on a CPU, where XLA is 2 to 30 times slower than its kernels."""
    return False if backend.runs_on_tensorflow() and not backend.has_accelerator() else "auto"


@contextlib.contextmanager
def mixed_precision(precision: str, trained_part: keras.Model) -> Iterator[None]:
    """Let a network compute in another precision inside this context.

    Weights, sums of gradients and logits stay float32.

    Args:
        precision: "float32", or "bfloat16" as in Keras's mixed_bfloat16.
        trained_part: A model whose last layer gives the logits.
    """
    keras = backend.start()
    last = trained_part.layers[-1]
    exact = (keras.layers.InputLayer, keras.layers.Rescaling, keras.layers.Normalization)
    changed = {
        layer: layer.dtype_policy
        for layer in trained_part.layers
        if precision != "float32" and layer is not last and not isinstance(layer, exact)
        if isinstance(layer, keras.layers.Layer)
    }
    try:
        for layer in changed:
            layer.dtype_policy = keras.DTypePolicy(f"mixed_{precision}")
        yield
    finally:
        for layer, policy in changed.items():
            layer.dtype_policy = policy


def compile_for(
    trained_part: keras.Model,
    phase: Phase,
    steps: int,
    lr_multipliers: dict[str, float],
    task: str,
    label_smoothing: float,
) -> None:
    """Compile a network, or its upper part, for a phase.

    Args:
        trained_part: A model that ends in the logits.
        phase: Has the optimizer and the learning rate.
        steps: Steps per epoch.
        lr_multipliers: Path of each trainable variable -> factor on its update.
        task: "multiclass", "binary" or "multilabel"; see `zoo.train.network.attach_head`.
        label_smoothing: The fraction of every target that is spread over all classes, in [0, 1).
    """
    trained_part.compile(
        optimizer=_optimizer(phase, steps, lr_multipliers),
        loss=_loss(task, label_smoothing),
        metrics=[_accuracy(task)],
        jit_compile=_jit(),
    )


def _loss(task: str, label_smoothing: float) -> keras.losses.Loss:
    losses = backend.start().losses
    kind = losses.CategoricalCrossentropy if task == "multiclass" else losses.BinaryCrossentropy
    return kind(from_logits=True, label_smoothing=label_smoothing)


def _accuracy(task: str) -> keras.metrics.Metric:
    """Return the metric: the share of right pictures, or of right decisions if a picture has several labels."""
    keras = backend.start()
    if task == "multiclass":
        return keras.metrics.CategoricalAccuracy(name="accuracy")

    def decided_right(targets, logits):
        return keras.ops.mean(keras.ops.equal(targets > 0.5, logits > 0), axis=-1)

    return keras.metrics.MeanMetricWrapper(decided_right, name="accuracy")
