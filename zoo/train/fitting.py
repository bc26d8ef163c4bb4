"""Compiles a network for one phase and fits it: loss, optimizer, learning rate, early stopping and the best epoch."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from zoo import backend, hosts, interrupts
from zoo.errors import HostsError, TrainingError
from zoo.plugin import Phase
from zoo.reporter import Reporter
from zoo.train import progress
from zoo.train.epochs import BestWeights, Capture, EpochLog, callback_of
from zoo.train.progress import Place
from zoo.train.spread import spread

if TYPE_CHECKING:
    import keras


# For each model that is compiled: a text that describes for what.
_COMPILED: weakref.WeakKeyDictionary[keras.Model, str] = weakref.WeakKeyDictionary()


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
    capture: Capture = lambda moment: lambda: None,
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
            optimizer and of the metrics have not. None if the phase starts from its beginning.
        capture: Called at every safe point: after each epoch, before an interruption, and every ten minutes. What it
            returns writes the safe point.

    Returns:
        The number of epochs of the phase, those before an interruption included. Early stopping can make it smaller
        than `phase.epochs`.

    Raises:
        TrainingError: The training loss is not finite, or no epoch so far has a finite validation loss. Pictures or
            features can no longer be read, or views do not fit on the disk.
        KeyboardInterrupt: Ctrl-C was pressed, or SIGTERM was received. A safe point has been saved.
    """
    keras = backend.start()
    done = resumed.epochs if resumed is not None else 0
    log = EpochLog(
        trained_part, network, phase, len(batches), history, best, reporter, capture, resumed, bool(validation)
    )
    # SwapEMAWeights puts the averaged weights into the network for validation and until the end of an epoch, so `best`
    # keeps the average.
    average = [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)] if phase.ema is not None else []
    callbacks = [*average, callback_of(log)]
    begun = resumed.batches if resumed is not None else 0
    if resumed is not None:
        backend.restore_dropout_state(resumed.dropout)
    if resumed is not None and not resumed.ended:
        progress.assign(_built_optimizer(trained_part).variables, resumed.optimizer)
        for callback in average:
            # After an epoch, this callback leaves the averages in the network. It swaps them with rounding errors, so
            # that the swap must be done by the same code.
            callback._ema_weights_in_model = not begun
    with log.bars, spread(trained_part, batches, validation) as (batches, validation):
        options: dict[str, Any] = {"validation_data": validation, "epochs": phase.epochs, "callbacks": callbacks}
        options |= {"verbose": 0, "shuffle": False}
        rest = batches.rest(begun) if begun else None
        read = [each for each in (batches, validation, rest) if each is not None]
        with reading(phase, *read), interrupts.held():
            if rest is not None:
                if len(rest):
                    trained_part.fit(rest, initial_epoch=done, **options)
                else:
                    _validate(trained_part, validation, done, phase.epochs, callbacks)
                # Keras has ended the training, which takes the averages out of the network.
                log.restore()
                batches.on_epoch_end()
                done += 1
            if not log.ended:
                trained_part.fit(batches, initial_epoch=done, **options)
    if best.weights is None:
        raise TrainingError(
            f"the validation loss of phase {phase.name!r} was never finite. The learning rate {phase.learning_rate:g} "
            f"is probably too high. Try --learning-rate {phase.learning_rate / 10:g}."
        )
    return len(history) - log.first


def _validate(
    trained_part: keras.Model,
    validation: keras.utils.PyDataset | None,
    epoch: int,
    epochs: int,
    callbacks: list[keras.callbacks.Callback],
) -> None:
    """Validate at the end of an epoch whose batches are done, as `keras.Model.fit` does, and end the epoch.

    Args:
        trained_part: The compiled model.
        validation: Validation batches.
        epoch: The number of the epoch, counted from 0 in this phase.
        epochs: The number of epochs of the phase.
        callbacks: The callbacks of the training. At the start of the epoch, they restore the metrics of its batches.
    """
    called = backend.start().callbacks.CallbackList(callbacks, model=trained_part, epochs=epochs, steps=0, verbose=0)
    trained_part.stop_training = False
    called.on_epoch_begin(epoch)
    logs = {name: float(value) for name, value in trained_part.get_metrics_result().items()}
    measured = trained_part.evaluate(validation, callbacks=called, verbose=0, return_dict=True)
    called.on_epoch_end(epoch, logs | {f"val_{name}": value for name, value in measured.items()})


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
            # Other processes cannot go on without this one, as they can when a phase trains badly.
            kind = TrainingError if hosts.current() is None else HostsError
            raise kind(
                f"the pictures or features of phase {phase.name!r} could not be read: {failed}. Another program may "
                "have changed the file. Run the command again; missing features are then computed again."
            ) from failed
        if failed is None or failed is error:
            raise
        raise failed from None


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
