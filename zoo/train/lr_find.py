"""The learning-rate range test: finds the rates at which a phase learns.

Source: Smith 2015, https://arxiv.org/abs/1506.01186, section 3.3, with rates that rise exponentially from step to step.
One thing differs. Losses differ more between batches than between two steps of training, above all in a network that
has been trained before. So each batch's loss at the weights before the test is subtracted. The rest is what training
did.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
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
# The suggestion is the rate of the lowest loss, or the rate from which the loss rises, divided by these.
BELOW_LOWEST, BELOW_RISING = 10, 3
# The loss has changed if it differs by more standard errors than these.
MOVED = 3
# The test ends if the mean loss of the last LATE batches has risen by this many times its first value.
LATE, DIVERGED = 5, 3


@dataclass(frozen=True)
class RangeTest:
    """The result of a range test of one phase.

    Args:
        phase: The name of the phase.
        rates: The learning rate of each step, rising.
        changes: The smoothed loss of each step's batch, minus that of the same batch at the weights before the test.
        suggestion: A learning rate, or None if no rate lowered or raised the loss, or if the loss diverged at once.
        note: The reason for the suggestion, or for its absence.
        lowers_loss: Whether any rate lowered the loss. If not, a suggestion is only a rate that does no harm.
    """

    phase: str
    rates: tuple[float, ...]
    changes: tuple[float, ...]
    suggestion: float | None
    note: str
    lowers_loss: bool


@dataclass(frozen=True)
class RangeTestConfig:
    """The learning rates of a range test.

    Args:
        lowest: The first rate.
        highest: The last rate, unless the loss diverges before.
        steps: The number of rates.
    """

    lowest: float = 1e-6
    highest: float = 1.0
    steps: int = 100


def phase_under_test(phase: Phase, config: RangeTestConfig) -> Phase:
    """Return a phase as it must be compiled for a range test: with a constant rate and without weight averaging."""
    return dataclasses.replace(phase, lr_schedule="constant", learning_rate=config.lowest, ema=None)


def run_range_test(
    config: RangeTestConfig,
    phase: Phase,
    trained_part: keras.Model,
    network: keras.Model,
    batches: keras.utils.PyDataset,
    reporter: Reporter,
) -> RangeTest:
    """Try learning rates on a compiled network, one batch each. The weights end as they were.

    Args:
        config: The rates.
        phase: The phase.
        trained_part: The network, or its upper part, compiled for `phase_under_test`.
        network: The whole network up to the logits.
        batches: Training batches. They repeat if there are fewer than steps.
        reporter: Receives progress messages and the result.

    Raises:
        TrainingError: The loss is not finite before any training, or pictures or features cannot be read any more.
    """
    rates = np.geomspace(config.lowest, config.highest, config.steps)
    count = min(config.steps, len(batches))
    restore = _snapshot(trained_part, network)

    def step(rate: float, index: int) -> float:
        trained_part.optimizer.learning_rate = rate
        # Keras reports a mean over all steps since the last reset.
        trained_part.reset_metrics()
        return float(trained_part.train_on_batch(*batches[index], return_dict=True)["loss"])

    changes: list[float] = []
    diverged = False
    with reading(phase, batches), reporter.progress(f"range test of {phase.name}") as progress:
        # Measured in training mode as well, because dropout raises the loss.
        before = [step(0.0, index) for index in range(count)]
        restore()
        for number, rate in enumerate(rates):
            changes.append(step(rate, number % count) - before[number % count])
            progress(number + 1, config.steps)
            diverged = not math.isfinite(changes[-1]) or _has_diverged(changes, before)
            if diverged:
                break
    restore()
    if not math.isfinite(sum(before)):
        raise TrainingError(f"the loss of phase {phase.name!r} is not finite, even before any training.")
    if not math.isfinite(changes[-1]):
        changes.pop()
    result = suggest(phase.name, rates[: len(changes)], np.array(changes), diverged)
    reporter.say(f"  rates from {rates[0]:g} to {rates[len(changes) - 1]:.3g}: {result.note}")
    return result


def _snapshot(trained_part: keras.Model, network: keras.Model) -> Callable[[], None]:
    """Return a function that restores all variables, with those of the optimizer, to their present values."""
    keras = backend.start()
    trained_part.optimizer.build(trained_part.trainable_variables)
    # The random state of dropout is among them, so that a batch has the same dropout masks before and after.
    values = [
        (variable, keras.ops.convert_to_numpy(variable))
        for variable in (*network.variables, *trained_part.optimizer.variables)
    ]

    def restore() -> None:
        for variable, value in values:
            variable.assign(value)

    return restore


def _has_diverged(changes: list[float], before: list[float]) -> bool:
    """Return whether the loss of the last batches is many times what it was."""
    return len(changes) > LATE and bool(np.mean(changes[-LATE:]) > DIVERGED * np.mean(before))


def suggest(phase: str, rates: np.ndarray, changes: np.ndarray, diverged: bool = False) -> RangeTest:
    """Suggest a learning rate.

    It is a tenth of the rate at which the loss is lowest. If the loss never falls, it is a third of the rate from which
    the loss rises.

    Args:
        phase: The name of the phase.
        rates: Learning rates, rising, float64 (steps,).
        changes: Each step's loss minus that of the same batch before the test, float64 (steps,).
        diverged: Whether the test ended because the loss diverged.
    """
    smoothed, error = smooth(changes)
    lowest = int(np.argmin(smoothed))
    quiet = np.flatnonzero(smoothed <= MOVED * error)
    rises = int(quiet[-1]) + 1 if len(quiet) else 0
    suggestion: float | None
    lowers_loss = bool(smoothed[lowest] < -MOVED * error)
    if lowers_loss:
        if lowest == len(rates) - 1 and not diverged:
            note = f"the loss still falls at {rates[lowest]:.2g}; try higher rates with --highest"
        else:
            note = f"the loss is lowest at {rates[lowest]:.2g}; a tenth of that is suggested"
        suggestion = rates[lowest] / BELOW_LOWEST
    elif rises < len(rates):
        suggestion = rates[rises] / BELOW_RISING
        note = f"no rate lowers the loss; it rises from {rates[rises]:.2g} on, and a third of that is suggested"
    elif diverged:
        suggestion, note = None, f"the loss diverges from {rates[-1]:.2g} on; try lower rates with --lowest"
    else:
        suggestion, note = None, "no rate changes the loss; try higher rates with --highest"
    rounded = suggestion and float(f"{suggestion:.2g}")
    return RangeTest(phase, tuple(map(float, rates)), tuple(map(float, smoothed)), rounded, note, lowers_loss)


def smooth(values: np.ndarray) -> tuple[np.ndarray, float]:
    """Smooth values by a Gaussian with a standard deviation of WIDTH steps.

    Unlike a running mean, the result does not lag behind.

    Args:
        values: float64 (steps,).

    Returns:
        The smoothed values, float64 (steps,), and their standard error.
    """
    offsets = np.arange(-3 * WIDTH, 3 * WIDTH + 1)
    kernel = np.exp(-0.5 * (offsets / WIDTH) ** 2)
    # Cut by hand to the length of the values: mode "same" gives the length of the longer of both arrays.
    total, weight = (np.convolve(x, kernel)[3 * WIDTH : -3 * WIDTH] for x in (values, np.ones(len(values))))
    smoothed = total / weight
    # The median, because a few steps of a diverging loss differ more than all others together.
    deviation = 1.4826 * np.median(np.abs(values - smoothed))
    return smoothed, float(deviation * np.sqrt((kernel**2).sum()) / kernel.sum())
