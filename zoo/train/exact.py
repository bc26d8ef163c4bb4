"""Runs a phase with the optimizer "exact": reads the features of its pictures, and solves the head on them.

How a head is solved is in `zoo.train.linear_head`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import backend
from zoo.errors import TrainingError
from zoo.plugin import Head, Phase
from zoo.train import linear_head
from zoo.train.batches import BatchFn, PhaseInputs, make_batches
from zoo.train.fitting import reading
from zoo.train.inputs import TrainingData
from zoo_runtime.workshop import usable_cores

if TYPE_CHECKING:
    import keras

# Pictures per batch while features are read.
BATCH = 32


def obstacle(head: Head) -> str:
    """Return why a head cannot be solved exactly, as a clause for a message; empty if it can.

    A head can be solved if it is linear in the pooled features, and if its penalty is smooth.
    """
    if head.hidden:
        return "it has hidden layers"
    if head.reduce:
        return "it begins with a convolution (reduce)"
    if head.weight_l1:
        return "its L1 penalty needs gradients"
    return ""


def solve_head(
    inputs: PhaseInputs,
    data: TrainingData,
    head: Head,
    *,
    phase: Phase,
    class_weights: np.ndarray | None,
    label_smoothing: float,
    seed: int,
) -> tuple[dict[str, float | None], dict[str, Any]]:
    """Solve the head of a network, and put it into the network.

    Args:
        inputs: The part of the network that the phase trains, which ends in the head.
        data: The pictures. The head is solved on the training pictures alone.
        head: Describes the head.
        phase: The phase, for error messages.
        class_weights: The weight of each class in the loss, float32 (classes,), or None.
        label_smoothing: The fraction of every target that is spread over all classes, in [0, 1).
        seed: Decides the folds of the cross-validation.

    Returns:
        The mean cross-entropy in nats, and the accuracy, of the training and of the validation pictures: loss,
        accuracy, val_loss and val_accuracy. Without validation pictures, the last two are None. Then a description of
        the solution for run.json: penalty, folds, and fold_loss, the mean cross-entropy of pictures that the heads of
        the folds have not seen.

    Raises:
        TrainingError: The features are not finite, or pictures or features cannot be read.
    """
    layer, model = _below_head(inputs.trained_part)
    train = _features(model, inputs.train, data.train, phase)
    val = _features(model, inputs.validation, data.val, phase) if len(data.val) else train[:0]
    copies = None if data.copies is None else [data.copies[i] for i in data.train]
    try:
        fit = linear_head.solve(
            [train],
            data.targets[data.train],
            task=data.task,
            copies=copies,
            weights=class_weights,
            label_smoothing=label_smoothing,
            l2=head.weight_l2,
            threads=usable_cores(),
            seed=seed,
        )
    except ValueError as error:
        raise TrainingError(f"the head of phase {phase.name!r} cannot be solved: {error}") from error
    layer.set_weights([fit.kernel.astype("float32"), fit.bias.astype("float32")])
    figures: dict[str, float | None] = {"val_loss": None, "val_accuracy": None}
    for prefix, features, rows in (("", train, data.train), ("val_", val, data.val)):
        if not len(rows):
            continue
        targets = data.targets[rows]
        # The loss of Keras in other phases is smoothed and weighted too, and the best epoch is chosen among all phases.
        losses, right = fit.evaluate(
            [features], targets, data.task, label_smoothing=label_smoothing, weights=class_weights
        )
        figures |= {f"{prefix}loss": float(losses.mean()), f"{prefix}accuracy": float(right.mean())}
    loss = None if np.isnan(fit.loss) else fit.loss
    return figures, {"penalty": fit.penalty, "folds": fit.folds, "fold_loss": loss}


def _below_head(trained_part: keras.Model) -> tuple[keras.layers.Layer, keras.Model | None]:
    """Return the layer of the logits, and the model from the inputs of `trained_part` to the features of this layer.

    The model is None if the features are the inputs, because the cache holds them.
    """
    # Keras has no public access to the node that made a tensor. A layer's own `input` may be of another model.
    history = trained_part.outputs[0]._keras_history
    (features,) = history.operation._inbound_nodes[history.node_index].input_tensors
    if any(features is tensor for tensor in trained_part.inputs):
        return history.operation, None
    return history.operation, backend.start().Model(trained_part.inputs, features)


def _features(model: keras.Model | None, read: BatchFn, rows: np.ndarray, phase: Phase) -> np.ndarray:
    """Return the features that the head gets, float32 (pictures, features), in the order of `rows`.

    Args:
        model: The model from the inputs of the phase to the features, or None if they are the same.
        read: Reads the inputs of the phase.
        rows: Indices of pictures, int64.
        phase: The phase, for error messages.
    """
    batches = make_batches(read, rows, batch_size=BATCH)
    parts = []
    with reading(phase, batches):
        for i in range(len(batches)):
            inputs = batches[i][0]
            if model is not None:
                parts.append(np.asarray(model.predict_on_batch(inputs)))
            else:
                parts.append(np.asarray(inputs[0] if isinstance(inputs, tuple) else inputs))
    features = np.concatenate(parts)
    if not np.isfinite(features).all():
        raise TrainingError(f"the head of phase {phase.name!r} cannot be solved: its features are not finite.")
    return features
