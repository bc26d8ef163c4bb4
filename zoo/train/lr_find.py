"""Runs the learning-rate range test, which finds the learning rates at which a phase learns.

Source: Smith 2015, https://arxiv.org/abs/1506.01186, section 3.3, with rates that rise exponentially from step to step.

The test differs from the paper in one point. It subtracts from each batch's loss the loss of the same batch before the
test, so that only the effect of training remains. Otherwise the differences between batches would hide this effect,
especially in a pretrained network.
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

# The standard deviation of the Gaussian that smooths the losses, in steps.
WIDTH = 3
# The suggestion is the rate of the lowest loss divided by the first number, or the rate from which the loss rises
# divided by the second number.
BELOW_LOWEST, BELOW_RISING = 10, 3
# The loss counts as changed if it differs by more than this many standard errors.
MOVED = 3
# The test ends if the mean loss of the last LATE batches has risen by more than DIVERGED times its value before the
# test.
LATE, DIVERGED = 5, 3


@dataclass(frozen=True)
class RangeTest:
    """The result of a range test of one phase.

    Args:
        phase: The name of the phase.
        rates: The learning rate of each step, in ascending order.
        changes: For each step, the loss of its batch minus the loss of the same batch before the test, smoothed over
            the steps.
        suggestion: A learning rate, or None if no rate lowered or raised the loss, or if the loss diverged at once.
        note: The reason for the suggestion, or for its absence.
        lowers_loss: Whether any rate lowered the loss. If none did, a suggestion is only a rate that does no harm.
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
        lowest: The first learning rate.
        highest: The last learning rate. The test ends before it reaches this rate if the loss diverges.
        steps: The number of rates. The ratio of each rate to the previous one is constant.
    """

    lowest: float = 1e-6
    highest: float = 1.0
    steps: int = 100


def not_needed(phase: Phase) -> RangeTest:
    """Return the result for a phase whose head is solved, so that its learning rate is not used."""
    rate = phase.learning_rate
    note = "the head is solved exactly; this rate is not used"
    return RangeTest(phase=phase.name, rates=(), changes=(), suggestion=rate, note=note, lowers_loss=False)


def phase_under_test(phase: Phase, config: RangeTestConfig) -> Phase:
    """Return a copy of a phase for a range test.

    The copy has no learning-rate schedule, because the range test sets the learning rate of each step. It also has no
    weight averaging.

    Args:
        phase: The phase.
        config: Its `lowest` becomes the learning rate with which the test starts.
    """
    return dataclasses.replace(phase, lr_schedule="constant", learning_rate=config.lowest, ema=None)


def run_range_test(
    config: RangeTestConfig,
    phase: Phase,
    trained_part: keras.Model,
    network: keras.Model,
    batches: keras.utils.PyDataset,
    reporter: Reporter,
) -> RangeTest:
    """Try rising learning rates on a compiled network, one training step per rate. The weights are restored at the end.

    Args:
        config: Defines the learning rates to try.
        phase: The phase; messages contain its name.
        trained_part: `network`, or its part above the cut, compiled for the phase that `phase_under_test` returns.
        network: The whole network up to the logits.
        batches: Training batches. If there are fewer batches than steps, the test reads them again from the first one.
        reporter: Receives progress messages and the result.

    Returns:
        The changes of the loss, and a suggested learning rate.

    Raises:
        TrainingError: The loss is not finite before any training, pictures or features can no longer be read, or views
            do not fit on the disk.
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
        # These losses are measured in training mode as well, because dropout raises the loss.
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
    """Save the values of all variables of a network and its optimizer, and return a function that restores them.

    Args:
        trained_part: The compiled model, which has the optimizer.
        network: The whole network up to the logits.
    """
    keras = backend.start()
    trained_part.optimizer.build(trained_part.trainable_variables)
    # The random state of dropout is among them, so a batch gets the same dropout masks before and during the test.
    values = [
        (variable, keras.ops.convert_to_numpy(variable))
        for variable in (*network.variables, *trained_part.optimizer.variables)
    ]

    def restore() -> None:
        for variable, value in values:
            variable.assign(value)

    return restore


def _has_diverged(changes: list[float], before: list[float]) -> bool:
    """Return whether the loss has risen far above its level before the test.

    This is the case if the mean of the last LATE changes is more than DIVERGED times the mean loss before the test.

    Args:
        changes: For each step so far, the loss of its batch minus the loss of the same batch before the test.
        before: The losses of the batches before the test.
    """
    return len(changes) > LATE and bool(np.mean(changes[-LATE:]) > DIVERGED * np.mean(before))


def suggest(phase: str, rates: np.ndarray, changes: np.ndarray, diverged: bool = False) -> RangeTest:
    """Suggest a learning rate from the changes of the loss in a range test.

    - If a rate lowers the loss, the suggestion is a tenth of the rate at which the loss is lowest.
    - If no rate lowers the loss, the suggestion is a third of the rate at which the loss starts to rise for good.
    - If no rate changes the loss measurably before the test ends, the suggestion is None.

    Args:
        phase: The name of the phase.
        rates: Learning rates in ascending order, float64 (steps,).
        changes: For each step, the loss of its batch minus the loss of the same batch before the test, float64
            (steps,).
        diverged: Whether the test ended because the loss diverged.

    Returns:
        The result of the test, with smoothed changes and a suggestion that is rounded to two significant digits.
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
    """Smooth values with a Gaussian whose standard deviation is WIDTH steps.

    Unlike a running mean over past steps, the result does not lag behind the values.

    Args:
        values: float64 (steps,).

    Returns:
        The smoothed values, float64 (steps,), and the standard error of a single smoothed value.
    """
    offsets = np.arange(-3 * WIDTH, 3 * WIDTH + 1)
    kernel = np.exp(-0.5 * (offsets / WIDTH) ** 2)
    # The result is sliced to the length of the values, because mode "same" gives the length of the longer array.
    total, weight = (np.convolve(x, kernel)[3 * WIDTH : -3 * WIDTH] for x in (values, np.ones(len(values))))
    smoothed = total / weight
    # The median is used because a few steps of a diverging loss would dominate a mean.
    deviation = 1.4826 * np.median(np.abs(values - smoothed))
    return smoothed, float(deviation * np.sqrt((kernel**2).sum()) / kernel.sum())
