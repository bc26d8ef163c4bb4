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
from zoo.train import grouped, prefix, stretch, views
from zoo.train import phases as phase_tools
from zoo.train.batches import Augment, Take, augmented, make_batches, plain
from zoo.train.features import Features, Feed, Gain, Settings
from zoo.train.stretch import Stretch

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
        prefix: What the frozen prefix did, see `zoo.train.features.Gain`.
    """

    history: list[dict[str, Any]]
    phases: list[dict[str, Any]]
    best_epoch: int
    warnings: list[str]
    prefix: dict[str, Any]


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
    balance: bool = False,
    keep_best: bool = True,
    features: Settings | None = None,
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
        balance: Whether every class counts alike in the losses, however many pictures it has.
        keep_best: Whether the best epoch is kept, else the last.
        features: How the outputs of what is frozen are kept; None runs the whole network in every step.

    Returns:
        History and what moved.

    Raises:
        TrainingError: The loss is not finite.
    """
    whole = Stretch(model, tuple(backbone), architecture)
    stretches = _stretches(whole, schedule, head or architecture.head, pictures)
    now, best = whole, _Best(keep_best)
    history: list[dict[str, Any]] = []
    done: list[dict[str, Any]] = []
    warnings: list[str] = []
    originals = phase_tools.originals(model)
    batching = {"batch_size": batch_size, "single_unit": pictures.task == "binary"}
    batching["class_weights"] = class_weights(pictures) if balance else None
    feeds = _Feeds(pictures, augment, seed, features, reporter)

    with grouped.cut(model):
        cuts = _cuts(schedule, stretches, originals) if features is not None else [None] * len(schedule)
        feeds.plan(schedule, cuts, stretches)
        for number, phase in enumerate(schedule, start=1):
            before, now = now, stretches[number - 1]
            if now is not before:
                # Weights and losses of networks of different depths cannot be compared.
                best = _Best(keep_best)
            moving = phase_tools.apply(now.model, now.backbone, now.architecture, phase, originals)
            depth = "" if now is whole else f"the first {phase.depth} of {len(whole.architecture.stages)} stages, "
            reporter.say(
                f"Phase {number}/{len(schedule)} {phase.name}: {depth}trains {phase.train}, "
                f"{_count(len(moving.layers), 'layer')}, {moving.parameters:,} of {moving.total:,} parameters; "
                f"{_count(phase.epochs, 'epoch')}, {phase.optimizer} at {phase.learning_rate:g} ({phase.rate})"
            )
            begun = time.perf_counter()
            with reporter.timing.measure(f"phase {phase.name}"):
                feed = feeds.of(number - 1)
                batches = make_batches(
                    *(feed.train, pictures.train),
                    **{**batching, "seed": seed, "first_epoch": len(history), "shuffle": True},
                )
                validation = make_batches(feed.validation, pictures.val, **batching)
                feed.learner.compile(
                    optimizer=_optimizer(phase, len(batches), moving.scales),
                    loss=_loss(pictures.task, label_smoothing),
                    metrics=[_accuracy(pictures.task)],
                    jit_compile=_jit(),
                )
                epochs = _fit(feed.learner, now.trainer, batches, validation, phase, history, best, reporter)
                feeds.count(feed, epochs)
                # The next phase, or the export, begins from the best epoch so far.
                now.trainer.set_weights(best.weights)
                steps = (best.epoch - len(history) + epochs) * len(batches)
                if phase.batch_norm == "update" and steps > 0:
                    settling = _Settling(feed, now.trainer, pictures, batching, seed, reporter)
                    warnings += settling.settle(steps, history, best, phase)
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
    gain = feeds.gain
    for line in gain.told():
        reporter.say(line)
    kept = f"validation loss {best.loss:.4f}" + ("" if keep_best else ", the last")
    reporter.say(f"Kept epoch {best.epoch}: {kept}")
    return Outcome(history, done, best.epoch, warnings, gain.to_json())


def class_weights(pictures: Pictures) -> np.ndarray:
    """Weights that make every class count alike: pictures / (classes * pictures of the class), 1 on average.

    The "balanced" rule of scikit-learn's `compute_class_weight`, after King and Zeng 2001, "Logistic Regression in Rare
    Events Data".

    Returns:
        float32 array (classes,).
    """
    counts = pictures.targets[pictures.train].sum(axis=0)
    return (len(pictures.train) / (len(counts) * np.maximum(counts, 1))).astype("float32")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


class _Feeds:
    """What each phase is fitted on: pictures or their features, as they are or altered."""

    def __init__(
        self,
        pictures: Pictures,
        augment: Augment | None,
        seed: int,
        features: Settings | None,
        reporter: Reporter,
    ):
        self._pictures, self._augment, self._seed, self._reporter = pictures, augment, seed, reporter
        self._features = features and Features(features, pictures.array, pictures.targets, reporter)
        self._views: dict[int, Take] = {}

    @property
    def gain(self) -> Gain:
        """What the frozen prefix did."""
        return self._features.gain if self._features else Gain()

    def plan(self, schedule: Sequence[Phase], cuts: list[prefix.Cut | None], stretches: list[Stretch]) -> None:
        """Decide whether the prefix is used, from all phases."""
        self._schedule, self._cuts, self._stretches = schedule, cuts, stretches
        count = len(self._pictures.train) + len(self._pictures.val)
        passes = sum(phase.epochs * count for phase, cut in zip(schedule, cuts, strict=True) if cut is not None)
        if self._features is None or not self._features.worth(passes - count):
            self._cuts = [None] * len(cuts)

    def of(self, index: int) -> Feed:
        """What a phase is fitted on; its layers are set."""
        phase, now, pictures = self._schedule[index], self._stretches[index], self._pictures
        cut, reading = self._cuts[index], self._reading(phase)
        as_they_are = plain(pictures.array, pictures.targets)
        made_ahead = None
        if reading == "online":
            train = augmented(pictures.array, pictures.targets, self._augment, self._seed)
        elif reading == "plain":
            train = as_they_are
        else:
            made_ahead = views.Views(
                pictures.array, pictures.train, pictures.targets, self._augment, phase.views, self._seed
            )
            train = self._computed(made_ahead)
        feed = Feed(now.trainer, train, as_they_are)
        if cut is None:
            return feed
        return self._features.feed(
            *(now.trainer, cut, self._later(index), feed),
            **{"train": pictures.train, "val": pictures.val, "views": made_ahead, "online": reading == "online"},
        )

    def count(self, feed: Feed, epochs: int) -> None:
        """Note that a phase has read its features in so many epochs."""
        if self._features is not None:
            self._features.count(feed, epochs * len(self._pictures.train), epochs * len(self._pictures.val))

    def _reading(self, phase: Phase) -> str | int:
        """ "plain", "online", or how many views are made ahead."""
        if self._augment is None or not phase.augment:
            return "plain"
        return "online" if phase.views is None else phase.views

    def _later(self, index: int) -> list[prefix.Cut]:
        """Where the phases to come cut the network that read the same, as long as nothing below is trained before."""
        found, lowest = [], self._cuts[index].layers
        for other in range(index + 1, len(self._schedule)):
            cut = self._cuts[other]
            if cut is None or self._stretches[other] is not self._stretches[index] or not cut.layers <= lowest:
                break
            lowest = cut.layers
            if self._reading(self._schedule[other]) == self._reading(self._schedule[index]):
                found.append(cut)
        return found

    def _computed(self, wanted: views.Views) -> Take:
        """Views as pixels, made when the first batch is wanted: their features may be there already."""

        def take(epoch: int, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            if wanted.count not in self._views:
                with self._reporter.progress(f"computing {wanted.count} views") as progress:
                    self._views[wanted.count] = views.compute(wanted, folder=paths.cache() / "views", progress=progress)
            return self._views[wanted.count](epoch, chosen)

        return take


def _cuts(
    schedule: Sequence[Phase], stretches: list[Stretch], originals: phase_tools.Originals
) -> list[prefix.Cut | None]:
    """Where each phase cuts its network."""
    found = []
    for phase, now in zip(schedule, stretches, strict=True):
        phase_tools.apply(now.model, now.backbone, now.architecture, phase, originals)
        found.append(prefix.find(now.trainer))
    return found


def _stretches(whole: Stretch, schedule: Sequence[Phase], head: Head, pictures: Pictures) -> list[Stretch]:
    """The network of each phase. All selectors are checked here, before the first phase begins."""
    cuts: dict[int, Stretch] = {len(whole.architecture.stages): whole}
    found = []
    for phase in schedule:
        depth = phase.depth or len(whole.architecture.stages)
        if depth not in cuts:
            cuts[depth] = stretch.cut(whole, depth, head, pictures.targets.shape[1], pictures.task)
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
    learner: keras.Model,
    network: keras.Model,
    batches: keras.utils.PyDataset,
    validation: keras.utils.PyDataset,
    phase: Phase,
    history: list[dict[str, Any]],
    best: _Best,
    reporter: Reporter,
) -> int:
    """Fit one phase, adding to the history; return how many epochs ran. `learner` is `network` or a part of it."""
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
                "learning_rate": float(keras.ops.convert_to_numpy(learner.optimizer.learning_rate)),
                **{key: float(logs[key]) for key in ("loss", "accuracy", "val_loss", "val_accuracy")},
                "seconds": round(time.perf_counter() - self.begun, 2),
            }
            row["val_loss"] -= _penalty(learner)
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
                learner.stop_training = True

    # The average stands in the network's weights while validation runs and an epoch ends, so that it is what is kept.
    average = [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)] if phase.ema is not None else []
    options = {"validation_data": validation, "callbacks": [*average, Watch()], "verbose": 0, "shuffle": False}
    with bars:
        learner.fit(batches, epochs=phase.epochs, **options)
    if best.weights is None:
        raise TrainingError(
            f"the validation loss of phase {phase.name!r} was never finite; lower --learning-rate below "
            f"{phase.learning_rate:g}."
        )
    return len(history) - first


def _penalty(learner: keras.Model) -> float:
    """What regularizers add to the loss at the present weights."""
    keras = backend.start()
    return float(sum(float(keras.ops.convert_to_numpy(loss)) for loss in learner.losses))


def _optimizer(phase: Phase, steps: int, scales: dict[str, float]) -> keras.optimizers.Optimizer:
    keras = backend.start()
    rate: Any = phase.learning_rate
    if phase.rate != "constant":
        rising, begin, end = (0.1, 1 / 100, 0.01) if phase.rate == "cosine" else (0.3, 1 / 25, 1e-4)
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


class _Settling:
    """Makes sure that BatchNorm's moving statistics are those of the training pictures.

    They lag behind the weights where the steps were so few that much of the initial values is left, or where training
    pictures score far lower with them than in training mode, which uses each batch's own. They are then measured anew,
    as the mean over training batches (Wu and Johnson 2021, https://arxiv.org/abs/2105.07576, "precise BatchNorm"), and
    kept in the first case, and in the second if validation loss or training accuracy is better with them.
    """

    def __init__(
        self,
        feed: Feed,
        network: keras.Model,
        pictures: Pictures,
        batching: dict[str, Any],
        seed: int,
        reporter: Reporter,
    ):
        self._learner, self._network, self._reporter = feed.learner, network, reporter
        # Shuffled, for training rows stand class by class; whole batches, for each counts alike.
        rows = np.random.default_rng(seed).permutation(pictures.train)[:LAG_PICTURES]
        rows = rows[: len(rows) // batching["batch_size"] * batching["batch_size"] or len(rows)]
        self._sample_rows, self._feed, self._pictures, self._batching = rows, feed, pictures, batching

    def settle(self, steps: int, history: list[dict[str, Any]], best: _Best, phase: Phase) -> list[str]:
        """Settle them after a phase whose best epoch ended after `steps` steps; return a warning if they lag still."""
        keras = backend.start()
        learner = self._learner
        moving = [x for x in learner.layers if isinstance(x, keras.layers.BatchNormalization) and x.trainable]
        if not moving:
            return []
        sample = make_batches(self._feed.validation, self._sample_rows, **self._batching)
        trained = history[best.epoch - 1]["accuracy"]

        def accuracy() -> float:
            return learner.evaluate(sample, verbose=0, return_dict=True)["accuracy"]

        momenta = [layer.momentum for layer in moving]
        seen = accuracy()
        unsettled = any(momentum**steps > INITIAL_ALLOWED for momentum in momenta)
        if seen >= trained - LAG_ALLOWED and not unsettled:
            return []
        for index in range(len(sample)):
            for layer in moving:
                layer.momentum = index / (index + 1)
            given = sample[index][0]
            inputs = [
                keras.ops.convert_to_tensor(x, "float32") for x in (given if isinstance(given, tuple) else [given])
            ]
            learner(inputs if isinstance(given, tuple) else inputs[0], training=True)
        for layer, momentum in zip(moving, momenta, strict=True):
            layer.momentum = momentum
        validation = make_batches(self._feed.validation, self._pictures.val, **self._batching)
        loss = learner.evaluate(validation, verbose=0, return_dict=True)["loss"] - _penalty(learner)
        settled = accuracy()
        # Statistics near their initial values give about the same answer for every picture: little loss, no network.
        if unsettled or loss < best.loss or settled > seen:
            self._reporter.say(
                f"  BatchNorm statistics lagged behind the weights (training pictures: {seen:.3f}, in training mode "
                f"{trained:.3f}); measured anew: {settled:.3f}, val loss {loss:.4f}"
            )
            best.loss, best.weights, seen = loss, self._network.get_weights(), settled
        self._network.set_weights(best.weights)
        if seen >= trained - LAG_ALLOWED:
            return []
        warning = (
            f"phase {phase.name!r}: BatchNorm statistics lag behind the weights. Training pictures score {seen:.3f} "
            f"with them and {trained:.3f} in training mode. Train longer, or lower the phase's batch_norm_momentum."
        )
        self._reporter.warn(warning)
        return [warning]
