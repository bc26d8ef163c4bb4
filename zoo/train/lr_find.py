"""The learning-rate range test: which rates a phase learns at.

Source: Smith 2015, https://arxiv.org/abs/1506.01186, section 3.3, with rates that rise exponentially from step to step.
One thing differs. Batches differ more from one another than a step of training does, above all where a network that has
learnt goes on: each batch's loss at the weights that the test began with is taken off, so that what is left is what
training did.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from zoo import backend
from zoo.errors import TrainingError
from zoo.plugin import Phase
from zoo.reporter import Reporter
from zoo.train.fitting import reading

if TYPE_CHECKING:
    import keras

WIDTH = 3
# Suggested is the rate of the lowest loss, or that from which on the loss rises, over these.
BELOW_LOWEST, BELOW_RISING = 10, 3
# Standard errors by which the loss must change to have moved at all.
MOVED = 3
# The test ends where the mean loss of the last LATE batches has risen by so many times what it was.
LATE, DIVERGED = 5, 3


@dataclass(frozen=True)
class RangeTest:
    """What a range test of one phase gave.

    Args:
        phase: Name of the phase.
        rates: Learning rate of each step, rising.
        changes: Smoothed loss of each step's batch, less that of the same batch at the weights before the test.
        suggestion: A learning rate, or None where no rate made the loss smaller.
        note: Why that one, or why none.
    """

    phase: str
    rates: tuple[float, ...]
    changes: tuple[float, ...]
    suggestion: float | None
    note: str


@dataclass(frozen=True)
class RangeTestConfig:
    """Rates to try.

    Args:
        lowest: The first.
        highest: The last, unless the loss diverges before.
        steps: How many.
    """

    lowest: float = 1e-6
    highest: float = 1.0
    steps: int = 100

    def of(self, phase: Phase) -> Phase:
        """A phase as it must be compiled for the test."""
        return dataclasses.replace(phase, lr_schedule="constant", learning_rate=self.lowest, ema=None)

    def run(
        self,
        phase: Phase,
        trained_part: keras.Model,
        network: keras.Model,
        batches: keras.utils.PyDataset,
        reporter: Reporter,
    ) -> RangeTest:
        """Try the rates on a compiled network, one batch each; it ends with the weights that it had.

        Args:
            phase: The phase.
            trained_part: The network, or its upper part.
            network: The whole of it.
            batches: Of training pictures; begun again where there are fewer than steps.
            reporter: Hears of the result and of progress.

        Raises:
            TrainingError: The loss is not finite before any training, or pictures or features cannot be read any more.
        """
        trained_part.optimizer.build(trained_part.trainable_variables)
        # Dropout's random state too, so that a batch meets the same masks before and after.
        kept = [
            (variable, backend.start().ops.convert_to_numpy(variable))
            for variable in (*network.variables, *trained_part.optimizer.variables)
        ]
        rates = np.geomspace(self.lowest, self.highest, self.steps)
        count = min(self.steps, len(batches))

        def step(rate: float, index: int) -> float:
            trained_part.optimizer.learning_rate = rate
            # What Keras reports is a mean over all steps since then.
            trained_part.reset_metrics()
            return float(trained_part.train_on_batch(*batches[index], return_dict=True)["loss"])

        def restore() -> None:
            for variable, value in kept:
                variable.assign(value)

        changes: list[float] = []
        diverged = False
        with reading(phase, batches), reporter.progress(f"rates for {phase.name}") as progress:
            # In training mode too, for dropout makes losses greater.
            before = [step(0.0, index) for index in range(count)]
            restore()
            for number, rate in enumerate(rates):
                changes.append(step(rate, number % count) - before[number % count])
                progress(number + 1, self.steps)
                diverged = not math.isfinite(changes[-1]) or _has_diverged(changes, before)
                if diverged:
                    break
        restore()
        if not math.isfinite(sum(before)):
            raise TrainingError(f"the loss of phase {phase.name!r} is not finite before any training.")
        if not math.isfinite(changes[-1]):
            changes.pop()
        found = judge(phase.name, rates[: len(changes)], np.array(changes), diverged)
        reporter.say(f"  rates from {rates[0]:g} to {rates[len(changes) - 1]:.3g}: {found.note}")
        return found


def _has_diverged(changes: list[float], before: list[float]) -> bool:
    """Whether the loss of late batches is many times what it was."""
    return len(changes) > LATE and np.mean(changes[-LATE:]) > DIVERGED * np.mean(before)


def judge(phase: str, rates: np.ndarray, changes: np.ndarray, diverged: bool = False) -> RangeTest:
    """Suggest a rate: a tenth of that at which the loss is lowest; where it never falls, a third of where it rises.

    Args:
        phase: Name of the phase.
        rates: Rising, float64 (steps,).
        changes: What each step's loss lies above that of the same batch before the test, float64 (steps,).
        diverged: Whether the test ended because the loss did.
    """
    smoothed, error = smooth(changes)
    lowest = int(np.argmin(smoothed))
    quiet = np.flatnonzero(smoothed <= MOVED * error)
    rises = int(quiet[-1]) + 1 if len(quiet) else 0
    if smoothed[lowest] < -MOVED * error:
        if lowest == len(rates) - 1 and not diverged:
            note = f"the loss still falls at {rates[lowest]:.2g}; look further up"
        else:
            note = f"the loss is lowest at {rates[lowest]:.2g}, suggested is a tenth of that"
        suggestion = rates[lowest] / BELOW_LOWEST
    elif rises < len(rates):
        suggestion = rates[rises] / BELOW_RISING
        note = f"no rate makes the loss smaller than it is; it rises from {rates[rises]:.2g} on, suggested is a third"
    else:
        way = f"diverges from {rates[-1]:.2g} on; look further down" if diverged else "moves at none; look further up"
        suggestion, note = None, f"the loss {way}"
    rounded = suggestion and float(f"{suggestion:.2g}")
    return RangeTest(phase, tuple(map(float, rates)), tuple(map(float, smoothed)), rounded, note)


def smooth(values: np.ndarray) -> tuple[np.ndarray, float]:
    """Mean of each value and its neighbours, near ones counting most (a Gaussian of WIDTH steps), and its error.

    Unlike a running mean, it does not lag behind.

    Returns:
        As many values, and their standard error.
    """
    offsets = np.arange(-3 * WIDTH, 3 * WIDTH + 1)
    kernel = np.exp(-0.5 * (offsets / WIDTH) ** 2)
    # As long as the values, however few: "same" gives the length of the longer of two.
    total, weight = (np.convolve(x, kernel)[3 * WIDTH : -3 * WIDTH] for x in (values, np.ones(len(values))))
    smoothed = total / weight
    # The median, for where the loss diverges a few steps differ by more than all others together.
    deviation = 1.4826 * np.median(np.abs(values - smoothed))
    return smoothed, float(deviation * np.sqrt((kernel**2).sum()) / kernel.sum())
