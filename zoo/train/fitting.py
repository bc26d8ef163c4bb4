"""Compiles a network for one phase and fits it: loss, optimizer, learning rate, early stopping and the best epoch."""

from __future__ import annotations

import contextlib
import time
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import backend, interrupts
from zoo.errors import TrainingError
from zoo.plugin import Phase
from zoo.reporter import Reporter
from zoo.train import progress
from zoo.train.progress import Place

if TYPE_CHECKING:
    import keras


# For each model that is compiled: a text that describes for what.
_COMPILED: weakref.WeakKeyDictionary[keras.Model, str] = weakref.WeakKeyDictionary()


class BestWeights:
    """Keeps the weights of the epoch with the lowest validation loss, or of the last epoch.

    Consecutive phases that train the same network share one object. In a growing schedule, later phases train networks
    with more stages. Each of these networks gets a new object, because losses of different networks are not comparable.

    Args:
        keep_best: True keeps the epoch with the lowest validation loss, False keeps the last epoch.

    Attributes:
        loss: The validation loss of the kept epoch; infinite if no epoch is kept yet.
        epoch: The number of the kept epoch, counted over the run from 1; 0 if no epoch is kept yet.
        weights: The weights of the kept epoch, as `get_weights` returns them; None if no epoch is kept yet.
    """

    def __init__(self, keep_best: bool) -> None:
        self.loss, self.epoch = float("inf"), 0
        self.weights: list[np.ndarray] | None = None
        self._keep_best = keep_best

    def offer(self, loss: float, epoch: int, network: keras.Model) -> None:
        """Keep the weights of an epoch if its validation loss is the lowest so far, or if `keep_best` is False.

        Args:
            loss: The validation loss of the epoch.
            epoch: The number of the epoch, counted over the run from 1.
            network: The network with the weights of the epoch.
        """
        if loss < self.loss or not self._keep_best:
            self.loss, self.epoch, self.weights = loss, epoch, network.get_weights()


def fit(
    trained_part: keras.Model,
    network: keras.Model,
    batches: keras.utils.PyDataset,
    validation: keras.utils.PyDataset | None,
    phase: Phase,
    history: list[dict[str, Any]],
    best: BestWeights,
    reporter: Reporter,
    *,
    resumed: Place | None = None,
    after_epoch: Callable[[int, bool], None] = lambda epochs, ended: None,
) -> int:
    """Train a compiled model for the epochs of one phase.

    Args:
        trained_part: The compiled model to train: `network`, or its part above the cut.
        network: The network up to the logits. It shares its variables with `trained_part`.
        batches: Training batches.
        validation: Validation batches; None if there are no validation pictures.
        phase: The phase to train.
        history: The rows of all epochs so far, see `zoo.train.engine.TrainResult`. New rows are appended.
        best: Holds the best weights so far. `BestWeights.offer` is called after every epoch.
        reporter: Receives progress messages.
        resumed: Where the phase was interrupted. The variables of the network have been restored, those of the
            optimizer have not. None if the phase starts from its beginning.
        after_epoch: Called after every epoch with the number of epochs of this phase, and whether it has ended.

    Returns:
        The number of epochs of the phase, those before an interruption included. Early stopping can make it smaller
        than `phase.epochs`.

    Raises:
        TrainingError: The training loss is not finite, or no epoch so far has a finite validation loss. Pictures or
            features can no longer be read, or views do not fit on the disk.
        KeyboardInterrupt: Ctrl-C was pressed, or SIGTERM was received, during the last batch.
    """
    keras = backend.start()
    done = resumed.epochs if resumed is not None else 0
    first = len(history) - done
    log = _EpochLog(trained_part, network, phase, len(batches), history, best, reporter, first, after_epoch)
    # SwapEMAWeights puts the averaged weights into the network for validation and until the end of an epoch, so `best`
    # keeps the average.
    average = [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)] if phase.ema is not None else []
    options = {"validation_data": validation, "callbacks": [*average, _callback(log)], "verbose": 0, "shuffle": False}
    if resumed is not None and not resumed.ended:
        progress.assign(_built_optimizer(trained_part).variables, resumed.optimizer)
        for callback in average:
            # The safe point has the averages in the network, as this callback leaves them after an epoch. It swaps them
            # with rounding errors, so that the swap must be done by the same code.
            callback._ema_weights_in_model = True
    if resumed is None or not resumed.ended:
        with log.bars, reading(phase, batches, *([validation] if validation is not None else [])), interrupts.held():
            trained_part.fit(batches, initial_epoch=done, epochs=phase.epochs, **options)
    if best.weights is None:
        raise TrainingError(
            f"the validation loss of phase {phase.name!r} was never finite. The learning rate {phase.learning_rate:g} "
            f"is probably too high. Try --learning-rate {phase.learning_rate / 10:g}."
        )
    return len(history) - first


class _EpochLog:
    """Records the epochs of one phase, shows progress, keeps the best weights, and stops the phase early.

    Attributes:
        bars: An exit stack that holds the open progress bar. The stack is closed after every epoch, even after an
            interrupted one, because an open bar hides the terminal's cursor.
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
        first: int,
        after_epoch: Callable[[int, bool], None],
    ) -> None:
        self._trained_part, self._network, self._phase, self._steps = trained_part, network, phase, steps
        self._history, self._best, self._reporter = history, best, reporter
        self._first, self._after_epoch = first, after_epoch
        self._lowest_loss, self._lowest_epoch = float("inf"), first
        for row in history[first:]:
            self._note_lowest(row)
        self.bars = contextlib.ExitStack()

    def start_epoch(self, epoch: int) -> None:
        self._epoch_started = time.perf_counter()
        self._advance = self.bars.enter_context(self._reporter.progress(f"epoch {self._first + epoch + 1}"))

    def start_step(self) -> None:
        self._step_started = time.perf_counter()

    def end_step(self, batch: int) -> None:
        # The first step is timed separately, because Keras traces the network in it.
        interrupts.check()
        first_step = len(self._history) == self._first and batch == 0
        self._reporter.timing.add("first step" if first_step else "steps", time.perf_counter() - self._step_started)
        self._advance(batch + 1, self._steps)

    def start_validation(self) -> None:
        self._validation_started = time.perf_counter()

    def end_validation(self) -> None:
        self._reporter.timing.add("validation", time.perf_counter() - self._validation_started)

    def end_epoch(self, epoch: int, logs: dict[str, float]) -> None:
        """Record an epoch. End the phase if the validation loss has not improved for `patience` epochs.

        Args:
            epoch: The number of the epoch, counted from 0 in this phase.
            logs: The metrics that Keras measured.

        Raises:
            TrainingError: The training loss is not finite.
        """
        self.bars.close()
        phase, row = self._phase, self._row(epoch, logs)
        if not np.isfinite(row["loss"]):
            raise TrainingError(
                f"the loss of epoch {row['epoch']} is {row['loss']}: the learning rate {phase.learning_rate:g} of "
                f"phase {phase.name!r} is too high. Try --learning-rate {phase.learning_rate / 10:g}."
            )
        self._history.append(row)
        if row["val_loss"] is None:
            validated = ""
            self._best.offer(float("nan"), row["epoch"], self._network)
        else:
            validated = f"val loss {row['val_loss']:.4f}  val accuracy {row['val_accuracy']:.4f}  "
            self._best.offer(row["val_loss"], row["epoch"], self._network)
        self._reporter.say(
            f"  epoch {row['epoch']:>3}  loss {row['loss']:.4f}  accuracy {row['accuracy']:.4f}  {validated}"
            f"{row['seconds']:.1f} s"
        )
        if row["val_loss"] is not None:
            self._note_lowest(row)
            since = row["epoch"] - self._lowest_epoch
            if phase.patience is not None and since >= phase.patience and epoch + 1 < phase.epochs:
                epochs = "1 epoch" if phase.patience == 1 else f"{phase.patience} epochs"
                self._reporter.say(f"  the phase ends early: the validation loss has not improved for {epochs}")
                self._trained_part.stop_training = True
        self._after_epoch(epoch + 1, epoch + 1 == phase.epochs or self._trained_part.stop_training)

    def _note_lowest(self, row: dict[str, Any]) -> None:
        if row["val_loss"] is not None and row["val_loss"] < self._lowest_loss:
            self._lowest_loss, self._lowest_epoch = row["val_loss"], row["epoch"]

    def _row(self, epoch: int, logs: dict[str, float]) -> dict[str, Any]:
        keras = backend.start()
        row: dict[str, Any] = {
            "phase": self._phase.name,
            "epoch": self._first + epoch + 1,
            "learning_rate": float(keras.ops.convert_to_numpy(self._trained_part.optimizer.learning_rate)),
            # Without validation pictures, the logs have no figures of them.
            **{
                key: float(logs[key]) if key in logs else None
                for key in ("loss", "accuracy", "val_loss", "val_accuracy")
            },
            "seconds": round(time.perf_counter() - self._epoch_started, 2),
        }
        if row["val_loss"] is not None:
            row["val_loss"] -= regularization_loss(self._trained_part)
        return row


def _callback(log: _EpochLog) -> keras.callbacks.Callback:
    """Return a Keras callback that calls the methods of an epoch log."""
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

        def on_test_batch_end(self, batch, logs=None):
            interrupts.check()

        def on_test_end(self, logs=None):
            log.end_validation()

        def on_epoch_end(self, epoch, logs=None):
            log.end_epoch(epoch, logs)

    return Callback()


@contextlib.contextmanager
def reading(phase: Phase, *batches: keras.utils.PyDataset) -> Iterator[None]:
    """If reading a batch fails inside this context, raise the original error.

    Without this context, the user would see an error of Keras's backend instead of the original error.

    Args:
        phase: The phase that reads the batches. The message of TrainingError contains the name of the phase.
        batches: Batches from `zoo.train.batches.make_batches`. Their attribute `failed` holds the original error.

    Raises:
        TrainingError: The original error is an OSError: a file with pictures or features cannot be read. An original
            error of another type is raised unchanged.
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
    """Return the sum of the penalties that the regularizers add to the loss, at the current weights."""
    keras = backend.start()
    return float(sum(float(keras.ops.convert_to_numpy(loss)) for loss in trained_part.losses))


def _optimizer(phase: Phase, steps: int, lr_multipliers: dict[str, float]) -> keras.optimizers.Optimizer:
    keras = backend.start()
    rate: Any = phase.learning_rate
    if phase.lr_schedule != "constant":
        # The fraction of steps in which the rate rises, then the first and the last rate as fractions of the peak rate.
        # `zoo.plugin.Phase` documents these values.
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
        # A head that cannot be solved, or a range test.
        "exact": keras.optimizers.Adam,
    }[phase.optimizer]
    options: dict[str, Any] = {"momentum": 0.9} if phase.optimizer == "sgd" else {}
    if phase.clip_norm is not None:
        options["global_clipnorm"] = phase.clip_norm
    if phase.ema is not None:
        options.update(use_ema=True, ema_momentum=phase.ema)
    if phase.layer_decay == 1:
        return base(rate, **options)

    class Scaled(base):
        """Works like the phase's optimizer, but multiplies the learning rate of each variable by a factor.

        The factors are in `lr_multipliers`; see `compile_for`. Multiplying the gradients instead would have no effect
        with Adam, because Adam normalizes gradients.
        """

        def update_step(self, gradient, variable, learning_rate):
            path = self._trainable_variables[self._get_variable_index(variable)].path
            super().update_step(gradient, variable, learning_rate * lr_multipliers[path])

    return Scaled(rate, **options)


def _built_optimizer(trained_part: keras.Model) -> keras.optimizers.Optimizer:
    """Return the optimizer of a compiled model, with its variables made."""
    if not trained_part.optimizer.built:
        trained_part.optimizer.build(trained_part.trainable_variables)
    return trained_part.optimizer


def optimizer_state(trained_part: keras.Model) -> list[np.ndarray]:
    """Return copies of the variables of a model's optimizer: its steps, moments and averages."""
    return [progress.copied(variable) for variable in trained_part.optimizer.variables]


def _jit() -> bool | str:
    """Return the value to pass to Keras as `jit_compile`: False for TensorFlow on a CPU, otherwise "auto".

    On a CPU, XLA is 2 to 30 times slower than TensorFlow's own kernels.
    """
    return False if backend.runs_on_tensorflow() and not backend.has_accelerator() else "auto"


@contextlib.contextmanager
def mixed_precision(precision: str, trained_part: keras.Model) -> Iterator[None]:
    """Make the layers of a model compute in the given precision inside this context.

    Weights, the state of the optimizer and logits stay float32. Layers that only normalize pixels stay float32 too.

    Args:
        precision: "float32" changes nothing. "bfloat16" works like Keras's policy "mixed_bfloat16".
        trained_part: A model whose last layer computes the logits.
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
    """Compile a model for a phase: set its optimizer, learning rate, loss and accuracy.

    If the model was compiled for the same phase before, only the state of its optimizer is reset, because Keras would
    otherwise trace the model again, which takes seconds. Cross-validation trains the same phase once for each fold.

    Args:
        trained_part: A model that ends in the logits: a network, or its part above the cut.
        phase: Defines the optimizer and the learning rate.
        steps: Training steps per epoch.
        lr_multipliers: Maps the path of each trainable variable to the factor on its learning rate. The factors are
            used only if the phase's `layer_decay` is not 1.
        task: "multiclass", "binary" or "multilabel"; see `zoo.train.network.attach_head`.
        label_smoothing: The fraction of every target that is spread evenly over all classes, in [0, 1).
    """
    all_steps = steps * phase.epochs if phase.lr_schedule != "constant" else 0
    paths = [weight.path for weight in trained_part.trainable_weights]
    # A range test changes the learning rate of its optimizer, but it compiles for another rate than any phase.
    settings: list[Any] = [phase.optimizer, phase.learning_rate, phase.lr_schedule, all_steps, phase.layer_decay]
    settings += [phase.clip_norm, phase.ema, phase.batch_norm_momentum, task, label_smoothing, lr_multipliers, paths]
    compiled_for, optimizer = repr(settings), getattr(trained_part, "optimizer", None)
    if _COMPILED.get(trained_part) == compiled_for and optimizer is not None and optimizer.built:
        for variable in optimizer.variables:
            if variable is not getattr(optimizer, "_learning_rate", None):
                # JAX makes no zeros like a Keras variable.
                variable.assign(backend.start().ops.zeros(variable.shape, variable.dtype))
        return
    _COMPILED[trained_part] = compiled_for
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
    """Return the accuracy metric of a task.

    It is the fraction of pictures that are classified correctly. In multilabel tasks, each picture has one yes-or-no
    decision per class, and the metric is the fraction of correct decisions.
    """
    keras = backend.start()
    if task == "multiclass":
        return keras.metrics.CategoricalAccuracy(name="accuracy")

    def decided_right(targets, logits):
        return keras.ops.mean(keras.ops.equal(targets > 0.5, logits > 0), axis=-1)

    return keras.metrics.MeanMetricWrapper(decided_right, name="accuracy")
