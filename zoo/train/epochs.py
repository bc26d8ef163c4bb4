"""Follows the epochs of a phase: history, progress, the best weights, early stopping, and safe points."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import backend, hosts, interrupts
from zoo.errors import TrainingError
from zoo.plugin import Phase
from zoo.reporter import Reporter
from zoo.train import progress
from zoo.train.progress import Moment, Place

if TYPE_CHECKING:
    import keras

# Takes the state of a training at a moment of a phase, and returns a function that writes it as a safe point.
Capture = Callable[[Moment], Callable[[], None]]
# Within an epoch, a safe point is written when the last one is this old, in seconds.
PERIOD = 600.0


def _nothing() -> None:
    """Save nothing."""


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


class EpochLog:
    """Records the epochs of one phase, shows progress, keeps the best weights, and stops the phase early.

    Attributes:
        bars: An exit stack that holds the open progress bar. The stack is closed after every epoch, even after an
            interrupted one, because an open bar hides the terminal's cursor.
        first: The number of epochs before this phase.
        ended: Whether the phase has no more epochs.
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
        capture: Capture,
        resumed: Place | None,
        validates: bool,
    ) -> None:
        self._trained_part, self._network, self._phase, self._steps = trained_part, network, phase, steps
        self._history, self._best, self._reporter = history, best, reporter
        self._capture, self._saved = capture, time.perf_counter()
        self._validates, self._save_trained = validates, _nothing
        self._team, self._stops = hosts.current(), False
        self.ended = resumed is not None and resumed.ended
        # Training stops after the rest of an epoch that was interrupted.
        self._continued = resumed if resumed is not None and resumed.batches else None
        self.first = first = len(history) - (resumed.epochs if resumed is not None else 0)
        self._lowest_loss, self._lowest_epoch = float("inf"), first
        for row in history[first:]:
            self._note_lowest(row)
        self.bars = contextlib.ExitStack()

    def start_epoch(self, epoch: int) -> None:
        self._epoch_started = time.perf_counter()
        if self._continued is not None:
            self._epoch_started -= self._continued.epoch_seconds
            progress.restore_metrics(self._trained_part, self._continued.metrics)
        self._advance = self.bars.enter_context(self._reporter.progress(f"epoch {self.first + epoch + 1}"))

    def start_step(self) -> None:
        self._step_started = time.perf_counter()

    def end_step(self, batch: int) -> None:
        """Show the progress. If a signal waits, or if the last safe point is old, write a safe point.

        Args:
            batch: The number of the batch, counted from 0. If the epoch was interrupted, from the first one after that.
        """
        # The first step is timed separately, because Keras traces the network in it.
        now = time.perf_counter()
        first_step = len(self._history) == self.first and batch == 0
        self._reporter.timing.add("first step" if first_step else "steps", now - self._step_started)
        done = batch + 1 + (self._continued.batches if self._continued is not None else 0)
        self._advance(done, self._steps)
        # All processes stop at the same step.
        is_last, wanted = done == self._steps, self._signal_waits() or now - self._saved > PERIOD
        # Without validation, the epoch ends after the last batch, and it is a safe point itself.
        if (is_last or wanted) and (not is_last or self._validates):
            epochs, seconds = len(self._history) - self.first, now - self._epoch_started
            # Keras resets the metrics for the validation.
            metrics = tuple(progress.metrics_of(self._trained_part))
            moment = Moment(epochs=epochs, batches=done, epoch_seconds=seconds, metrics=metrics)
            if wanted:
                self._write(moment)
            if is_last:
                # Swapping weights and averages for the validation rounds them, and JAX takes the variables away.
                # Otherwise the validation changes nothing, and the state is only taken if it is needed.
                early = self._phase.ema is not None or hasattr(self._trained_part, "jax_state_sync")
                self._save_trained = self._capture(moment) if early else lambda: self._capture(moment)()

    def start_validation(self) -> None:
        self._validation_started = time.perf_counter()

    def end_validation_step(self) -> None:
        """If a signal waits, write a safe point after the last batch of the epoch.

        Raises:
            KeyboardInterrupt: A signal waits.
        """
        if self._signal_waits():
            self._save_trained()
            interrupts.check()

    def end_validation(self) -> None:
        self._reporter.timing.add("validation", time.perf_counter() - self._validation_started)

    def end_epoch(self, epoch: int, logs: dict[str, float]) -> None:
        """Record an epoch. End the phase if the validation loss has not improved for `patience` epochs.

        Args:
            epoch: The number of the epoch, counted from 0 in this phase.
            logs: The metrics that Keras measured.

        Raises:
            TrainingError: The training loss is not finite.
            KeyboardInterrupt: A signal waits. The epoch is a safe point by then.
        """
        self.bars.close()
        phase, row = self._phase, self._row(epoch, logs)
        if self._team is not None:
            # Processors round differently, and all processes must come to the same decisions.
            row = self._team.share("epoch", row).facts
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
        self.ended = epoch + 1 == phase.epochs or self._trained_part.stop_training
        self._save_trained = _nothing
        self._signal_waits(now=True)
        self._write(Moment(epochs=epoch + 1, ended=self.ended))
        if self._continued is not None:
            self._continued, self._trained_part.stop_training = None, True
            self._state = progress.snapshot(self._trained_part), optimizer_state(self._trained_part)

    def restore(self) -> None:
        """Set the network and its optimizer to their state at the end of the continued epoch."""
        variables, optimizer = self._state
        progress.assign(self._trained_part.variables, variables)
        progress.assign(self._trained_part.optimizer.variables, optimizer)

    def _write(self, moment: Moment) -> None:
        """Write a safe point. Then raise the exception of a signal that waits, if all processes know of it."""
        self._capture(moment)()
        self._saved = time.perf_counter()
        if self._team is None or self._stops:
            interrupts.check()

    def _signal_waits(self, *, now: bool = False) -> bool:
        """Return whether a signal waits, in any process; see `zoo.hosts.Team.signal_waits`."""
        if self._team is None:
            return interrupts.waiting()
        self._stops = self._team.signal_waits(now=now)
        return self._stops

    def _note_lowest(self, row: dict[str, Any]) -> None:
        if row["val_loss"] is not None and row["val_loss"] < self._lowest_loss:
            self._lowest_loss, self._lowest_epoch = row["val_loss"], row["epoch"]

    def _row(self, epoch: int, logs: dict[str, float]) -> dict[str, Any]:
        keras = backend.start()
        row: dict[str, Any] = {
            "phase": self._phase.name,
            "epoch": self.first + epoch + 1,
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


def optimizer_state(trained_part: keras.Model) -> list[np.ndarray]:
    """Return copies of the variables of a model's optimizer: its steps, moments and averages."""
    return [progress.copied(variable) for variable in trained_part.optimizer.variables]


def callback_of(log: EpochLog) -> keras.callbacks.Callback:
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
            log.end_validation_step()

        def on_test_end(self, logs=None):
            log.end_validation()

        def on_epoch_end(self, epoch, logs=None):
            log.end_epoch(epoch, logs)

    return Callback()


def regularization_loss(trained_part: keras.Model) -> float:
    """Return the sum of the penalties that the regularizers add to the loss, at the current weights."""
    keras = backend.start()
    return float(sum(float(keras.ops.convert_to_numpy(loss)) for loss in trained_part.losses))
