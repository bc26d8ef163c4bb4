"""Captures the state of a training after an epoch or within one, and restores it in another process, bit for bit.

The state has the variables that any phase so far could change, the state of the optimizer, the random state of dropout,
the best weights so far, and the history. Frozen layers are left out: they have the weights that the network was built
with. `zoo.train.safe_points` writes the state to the disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import backend
from zoo.errors import RunError
from zoo.train.safe_points import Values

if TYPE_CHECKING:
    import keras

    from zoo.train.epochs import BestWeights


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A moment within a phase.

    Args:
        epochs: The number of epochs of this phase that are done.
        ended: Whether the phase has no more epochs.
        batches: The number of batches of the next epoch that are done.
        epoch_seconds: How long these batches have taken.
        metrics: The variables of Keras's metrics after these batches; empty between epochs.
    """

    epochs: int
    ended: bool = False
    batches: int = 0
    epoch_seconds: float = 0.0
    metrics: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Place(Moment):
    """Where a training was when a safe point was written.

    Args:
        phase: The index of the phase, counted from 0.
        seconds: How long the phase has taken.
        numbers: The number format of cached features; see `zoo.train.frozen.stats.CacheStats`.
        optimizer: The variables of the optimizer, in its order; empty if the phase has ended.
        dropout: See `zoo.backend.dropout_state`.
    """

    phase: int
    seconds: float
    numbers: str = ""
    optimizer: tuple[np.ndarray, ...] = ()
    dropout: tuple[np.ndarray, ...] = ()


@dataclass
class Records:
    """What a training has recorded so far; see `zoo.train.engine.TrainResult`."""

    history: list[dict[str, Any]] = field(default_factory=list)
    phases: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    val_logits: list[np.ndarray] = field(default_factory=list)


class NetworkVariables:
    """The variables of the networks of a training, and which of them can have changed.

    Args:
        models: The whole network first, then networks with fewer stages. They share the variables of these stages.

    Attributes:
        layout: A digest of the names, shapes and types of all variables.
    """

    def __init__(self, models: Sequence[keras.Model]):
        unique = {id(variable): variable for model in models for variable in model.variables}
        self._all, self._models = list(unique.values()), list(models)
        self._number = {key: i for i, key in enumerate(unique)}
        self._changed: set[int] = set()
        rows = [[each.path, tuple(each.shape), str(each.dtype)] for each in self._all]
        self.layout = hashlib.sha256(repr(rows).encode()).hexdigest()

    def begin_phase(self, model: keras.Model) -> None:
        """Note which variables a phase can change. Call this when its layers are set.

        Args:
            model: The network of the phase.
        """
        weights = {id(weight) for weight in model.weights}
        # What is not among the weights is the random state of dropout.
        moving = [variable for variable in model.variables if id(variable) not in weights]
        for layer in model.layers:
            if layer.trainable:
                moving += layer.variables
        self._changed.update(self._number[id(variable)] for variable in moving if id(variable) in self._number)

    def numbers(self, model: keras.Model) -> dict[int, int]:
        """Map the places of those weights in `model.get_weights()` that can have changed to their numbers here."""
        numbers = [self._number[id(weight)] for weight in model.weights]
        return {place: number for place, number in enumerate(numbers) if number in self._changed}

    def everything(self) -> dict[str, np.ndarray]:
        """Return copies of all variables, as `restore` takes them."""
        return {f"variable{i}": copied(variable) for i, variable in enumerate(self._all)}

    def assign_all(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Set all variables to what `everything` returned in another process."""
        assign(self._all, [arrays[f"variable{i}"] for i in range(len(self._all))])

    def capture(self) -> dict[str, np.ndarray]:
        """Return copies of all variables that can have changed."""
        return {f"variable{i}": copied(self._all[i]) for i in sorted(self._changed)}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Set the variables to what `capture` returned.

        Raises:
            RunError: The arrays belong to another network.
        """
        numbers = {int(name.removeprefix("variable")) for name in arrays if name.startswith("variable")}
        if not numbers <= set(range(len(self._all))):
            raise RunError(OTHER_NETWORK)
        self._changed |= numbers
        assign([self._all[i] for i in sorted(numbers)], [arrays[f"variable{i}"] for i in sorted(numbers)])


OTHER_NETWORK = (
    "the safe point belongs to another network than the one that is built now. Another version of zoo, of Keras or of "
    "a plugin made it. Install the versions in run.json, or start the run again with `zoo finetune`."
)


def copied(variable: keras.Variable) -> np.ndarray:
    """Return a copy of the value of a variable, which does not change when the variable does."""
    values = backend.start().ops.convert_to_numpy(variable)
    # TensorFlow and JAX copy already, and PyTorch does not.
    return values if values.flags.owndata else np.array(values)


def assign(variables: Sequence[keras.Variable], values: Sequence[np.ndarray]) -> None:
    """Set variables to values.

    Raises:
        RunError: Their numbers or shapes differ.
    """
    if [tuple(each.shape) for each in variables] != [each.shape for each in values]:
        raise RunError(OTHER_NETWORK)
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def capture(
    place: Place,
    records: Records,
    best: BestWeights,
    variables: NetworkVariables,
    network: keras.Model,
    active: Mapping[str, Any],
) -> Values:
    """Return the state of a training.

    Args:
        place: Where the training is.
        records: What it has recorded.
        best: The best weights so far.
        variables: The variables of its networks.
        network: The network of the phase, up to the logits.
        active: The record of the phase so far.
    """
    arrays = variables.capture()
    arrays |= {f"optimizer{i}": value for i, value in enumerate(place.optimizer)}
    arrays |= {f"metric{i}": value for i, value in enumerate(place.metrics)}
    arrays |= {f"dropout{i}": value for i, value in enumerate(backend.dropout_state())}
    arrays |= {f"logits{i}": value for i, value in enumerate(records.val_logits)}
    is_latest = best.epoch == len(records.history) and not place.batches
    if best.weights is not None and not is_latest:
        arrays |= {f"best{i}": best.weights[i] for i in variables.numbers(network)}
    facts = {
        "layout": variables.layout,
        "active": dict(active),
        "place": {key: value for key, value in vars(place).items() if key not in ("optimizer", "metrics", "dropout")},
        "records": {key: value for key, value in vars(records).items() if key != "val_logits"},
        "best": {"epoch": best.epoch, "loss": best.loss, "is_latest": is_latest, "kept": best.weights is not None},
    }
    return Values(facts, arrays)


def read(values: Values) -> tuple[Place, Records]:
    """Return where a training was, and what it had recorded, from what `capture` returned."""
    optimizer, metrics, dropout = (tuple(_numbered(values.arrays, name)) for name in ("optimizer", "metric", "dropout"))
    place = Place(**values.facts["place"], optimizer=optimizer, metrics=metrics, dropout=dropout)
    records = Records(**values.facts["records"], val_logits=_numbered(values.arrays, "logits"))
    return place, records


def restore(values: Values, best: BestWeights, variables: NetworkVariables, network: keras.Model) -> None:
    """Set the variables of a training, and its best weights, to what `capture` returned.

    Args:
        values: What `capture` returned.
        best: Gets the best weights.
        variables: The variables of the networks.
        network: The network of the phase, up to the logits.

    Raises:
        RunError: The state belongs to another network.
    """
    if values.facts["layout"] != variables.layout:
        raise RunError(OTHER_NETWORK)
    variables.restore(values.arrays)
    stored = values.facts["best"]
    best.epoch, best.loss, best.weights = stored["epoch"], stored["loss"], None
    if stored["kept"]:
        best.weights = network.get_weights()
        if not stored["is_latest"]:
            for i in variables.numbers(network):
                best.weights[i] = values.arrays[f"best{i}"]


def _numbered(arrays: Mapping[str, np.ndarray], name: str) -> list[np.ndarray]:
    """Return the arrays NAME0, NAME1 ... in order."""
    count = sum(key.startswith(name) and key[len(name) :].isdecimal() for key in arrays)
    return [arrays[f"{name}{i}"] for i in range(count)]


def snapshot(model: keras.Model) -> list[np.ndarray]:
    """Return copies of all variables of a model, the random state of dropout included."""
    return [copied(variable) for variable in model.variables]


def metrics_of(trained_part: keras.Model) -> list[np.ndarray]:
    """Return copies of the variables of a model's metrics, as they are after a batch."""
    if hasattr(trained_part, "jax_state_sync"):
        # With JAX, the variables of a model are behind while it trains.
        trained_part.jax_state_sync()
    return [copied(variable) for variable in trained_part.metrics_variables]


def restore_metrics(trained_part: keras.Model, values: Sequence[np.ndarray]) -> None:
    """Set the variables of a model's metrics to what `metrics_of` returned.

    Raises:
        RunError: The model has other metrics.
    """
    if len(trained_part.metrics_variables) < len(values):
        nothing = backend.start().ops.zeros((1, *trained_part.output_shape[1:]))
        # Keras makes the variables of a metric when it is used.
        trained_part.compute_metrics(x=None, y=nothing, y_pred=nothing)
    assign(trained_part.metrics_variables, values)


def numbers_warning(before: str, now: str) -> str:
    """Return a warning if features are kept in another number format than before an interruption, else an empty text.

    Features that are not cached are float32.
    """
    if (before or "float32") == (now or "float32"):
        return ""
    return (
        f"features are kept as {now or 'float32'} now, and were kept as {before or 'float32'} before the interruption, "
        "because the disk has another amount of free space. The weights will differ slightly from those of a run "
        "without interruption."
    )
