"""Compiles and fits one phase: loss, optimizer, rates, early stopping, the best epoch. Nobody else compiles or fits."""

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
    """Weights of the epoch of least validation loss over all phases of a depth, or of the last epoch."""

    def __init__(self, keep_best: bool) -> None:
        self.loss, self.epoch, self.weights = float("inf"), 0, None
        self._keep_best = keep_best

    def offer(self, loss: float, epoch: int, logits_model: keras.Model) -> None:
        """Keep an epoch's weights if they are to be kept."""
        if loss < self.loss or not self._keep_best:
            self.loss, self.epoch, self.weights = loss, epoch, logits_model.get_weights()


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
    """Fit one phase, adding to the history; return how many epochs ran. `trained_part` is `network` or a part of it.

    Raises:
        TrainingError: The loss is not finite, or pictures or features cannot be read any more.
    """
    keras = backend.start()
    first = len(history)
    lowest = [float("inf"), first]
    # Closed after every epoch, and where one is interrupted: a bar hides the terminal's cursor.
    bars = contextlib.ExitStack()

    class Watch(keras.callbacks.Callback):
        """Progress, history, best epoch, early stopping, and a stop at a loss that is not finite."""

        def on_epoch_begin(self, epoch, logs=None):
            self.started = time.perf_counter()
            self.advance = bars.enter_context(reporter.progress(f"epoch {first + epoch + 1}"))

        def on_train_batch_begin(self, batch, logs=None):
            self.step_begun = time.perf_counter()

        def on_train_batch_end(self, batch, logs=None):
            # The first step traces the network.
            first_step = len(history) == first and batch == 0
            reporter.timing.add("first step" if first_step else "steps", time.perf_counter() - self.step_begun)
            self.advance(batch + 1, len(batches))

        def on_test_begin(self, logs=None):
            self.test_begun = time.perf_counter()

        def on_test_end(self, logs=None):
            reporter.timing.add("validation", time.perf_counter() - self.test_begun)

        def on_epoch_end(self, epoch, logs=None):
            bars.close()
            row = {
                "phase": phase.name,
                "epoch": first + epoch + 1,
                "learning_rate": float(keras.ops.convert_to_numpy(trained_part.optimizer.learning_rate)),
                **{key: float(logs[key]) for key in ("loss", "accuracy", "val_loss", "val_accuracy")},
                "seconds": round(time.perf_counter() - self.started, 2),
            }
            row["val_loss"] -= regularization_loss(trained_part)
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
            best.offer(row["val_loss"], row["epoch"], network)
            if row["val_loss"] < lowest[0]:
                lowest[:] = row["val_loss"], row["epoch"]
            since = row["epoch"] - lowest[1]
            if phase.patience is not None and since >= phase.patience and epoch + 1 < phase.epochs:
                reporter.say(f"  no better validation loss for {phase.patience} epochs: phase ends")
                trained_part.stop_training = True

    # The average stands in the network's weights while validation runs and an epoch ends, so that it is what is kept.
    average = [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)] if phase.ema is not None else []
    options = {"validation_data": validation, "callbacks": [*average, Watch()], "verbose": 0, "shuffle": False}
    with bars, reading(phase, batches, validation):
        trained_part.fit(batches, epochs=phase.epochs, **options)
    if best.weights is None:
        raise TrainingError(
            f"the validation loss of phase {phase.name!r} was never finite; lower --learning-rate below "
            f"{phase.learning_rate:g}."
        )
    return len(history) - first


@contextlib.contextmanager
def reading(phase: Phase, *batches: keras.utils.PyDataset) -> Iterator[None]:
    """Tell what batches raise in its own words, rather than in those of Keras's backend.

    Args:
        phase: What they are read for.
        batches: What `zoo.train.batches.make_batches` gave.

    Raises:
        TrainingError: A file could not be read.
    """
    try:
        yield
    except Exception as error:
        failed = next((each.failed for each in batches if each.failed is not None), None)
        if isinstance(failed, OSError):
            raise TrainingError(
                f"what phase {phase.name!r} learns from could not be read: {failed}. Another program may have changed "
                "it; run the command again, and what is missing is computed anew."
            ) from failed
        if failed is None or failed is error:
            raise
        raise failed from None


def regularization_loss(trained_part: keras.Model) -> float:
    """What regularizers add to the loss at the present weights."""
    keras = backend.start()
    return float(sum(float(keras.ops.convert_to_numpy(loss)) for loss in trained_part.losses))


def _optimizer(phase: Phase, steps: int, lr_multipliers: dict[str, float]) -> keras.optimizers.Optimizer:
    keras = backend.start()
    rate: Any = phase.learning_rate
    if phase.lr_schedule != "constant":
        rising, begin, end = (0.1, 1 / 100, 0.01) if phase.lr_schedule == "cosine" else (0.3, 1 / 25, 1e-4)
        warmup = max(1, int(steps * phase.epochs * rising))
        rate = keras.optimizers.schedules.CosineDecay(
            phase.learning_rate * begin,
            max(1, steps * phase.epochs - warmup),
            alpha=end,
            warmup_target=phase.learning_rate,
            warmup_steps=warmup,
        )
    base = {
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
        """Scales each variable's step. Scaling gradients would change nothing under Adam."""

        def update_step(self, gradient, variable, learning_rate):
            path = self._trainable_variables[self._get_variable_index(variable)].path
            super().update_step(gradient, variable, learning_rate * lr_multipliers[path])

    return Scaled(rate, **options)


def _jit() -> bool | str:
    """XLA is 2 to 30 times slower than TensorFlow's own kernels on a CPU; JAX and GPUs decide for themselves."""
    return False if backend.runs_on_tensorflow() and not backend.has_accelerator() else "auto"


@contextlib.contextmanager
def mixed_precision(precision: str, trained_part: keras.Model) -> Iterator[None]:
    """Let a network compute in a precision while a phase lasts; weights, gradients' sums and logits stay float32.

    Args:
        precision: "float32", or "bfloat16" as Keras's mixed_bfloat16 has it.
        trained_part: Ends in the layer of the logits.
    """
    keras = backend.start()
    last = trained_part.layers[-1]
    whole = (keras.layers.InputLayer, keras.layers.Rescaling, keras.layers.Normalization)
    changed = {
        layer: layer.dtype_policy
        for layer in trained_part.layers
        if precision != "float32" and layer is not last and not isinstance(layer, whole)
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
    """Compile a network, or the upper part of one, for a phase.

    Args:
        trained_part: Ends in logits.
        phase: For its optimizer and rates.
        steps: Of an epoch.
        lr_multipliers: Path of each trainable variable -> factor on its update.
        task: See `zoo.train.network.attach_head`.
        label_smoothing: Share of every target that is spread over all classes.
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
    """Share of pictures whose likeliest class is right; of a multi-label network, share of right decisions."""
    keras = backend.start()
    if task == "multiclass":
        return keras.metrics.CategoricalAccuracy(name="accuracy")

    def decided_right(targets, logits):
        return keras.ops.mean(keras.ops.equal(targets > 0.5, logits > 0), axis=-1)

    return keras.metrics.MeanMetricWrapper(decided_right, name="accuracy")
