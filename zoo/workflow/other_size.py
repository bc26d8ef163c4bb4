"""Transfers what a run knows of held-out pictures to an export of another picture size.

The networks of a cross-validation exist at the size of the run only. What another size changes is measured on training
pictures, as for smaller files; see `zoo.workflow.trust.transferred`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.convert.keras_to_onnx import LOGITS
from zoo.data.dataset import Dataset
from zoo.reporter import Reporter
from zoo.workflow import trust
from zoo.workflow.trust import HeldOut

if TYPE_CHECKING:
    import keras
    import onnx

# More training pictures than for a smaller file, because another size changes logits more.
PICTURES = 512
BATCH = 16


@dataclass(frozen=True)
class OwnSize:
    """Holds logits at the picture size of a run.

    Args:
        size: This size, (height, width) in pixels.
        held_out: The sha256 of each picture that was held out in the cross-validation -> its logits, (units,).
        trained_on: The sha256 of some training pictures -> their logits, (units,), of the network of the run.
    """

    size: tuple[int, int]
    held_out: Mapping[str, Any]
    trained_on: Mapping[str, Any]


def own_size(model: keras.Model, dataset: Dataset, held_out: Mapping[str, Any], reporter: Reporter) -> OwnSize:
    """Compute logits of training pictures at the picture size of a run.

    Args:
        model: The network of the run, with a layer `logits`.
        dataset: The pictures of the run, at this size.
        held_out: As in `OwnSize`.
        reporter: Receives the progress.
    """
    import keras

    size = dataset.spec.size
    logits = keras.Model(model.input, model.get_layer(LOGITS).output)
    rows, found = trust.spread(dataset.split.train, PICTURES), {}
    with reporter.timing.measure("other size"), reporter.progress(f"logits at {size[0]}x{size[1]}") as progress:
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            computed = np.asarray(logits.predict_on_batch(dataset.pixels.array[batch].astype("float32")))
            found.update({dataset.pixels.digests[i]: values for i, values in zip(batch, computed, strict=True)})
            progress(start + len(batch), len(rows))
    return OwnSize(size, held_out, found)


def moved_to(graph: onnx.ModelProto, dataset: Dataset, own: OwnSize, seed: int) -> HeldOut:
    """Return held-out logits as the network would compute them at another picture size.

    Args:
        graph: The graph of the network at the other size, with the output `logits`.
        dataset: The pictures of the run, at the other size.
        own: The logits at the size of the run.
        seed: See `zoo.workflow.trust.transferred`.
    """
    digests = dataset.pixels.digests
    rows = np.array([i for i in dataset.split.train if digests[i] in own.trained_on], np.int64)
    before = np.stack([own.trained_on[digests[i]] for i in rows])
    (after,) = trust.run(graph, dataset.pixels.array, rows, [LOGITS])
    known = trust.held_out(dataset, own.held_out, graph)
    known = trust.transferred(known, before, after, seed, dataset.targets[rows])
    return HeldOut(known.rows, known.logits, known.targets, f"{known.source} at {own.size[0]}x{own.size[1]}")
