"""Transfers what a run knows of held-out pictures to a smaller file, or to an export of another picture size.

The networks of a cross-validation exist in float32 and at the size of the run only. What another file changes is
measured on training pictures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from zoo.convert.keras_to_onnx import LOGITS
from zoo.data.combinations import combinations
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


def transferred(
    known: HeldOut,
    before: npt.NDArray[Any],
    after: npt.NDArray[Any],
    seed: int,
    targets: npt.NDArray[Any] | None = None,
) -> HeldOut:
    """Return held-out logits as another file of the same network would compute them.

    The networks of a cross-validation exist in float32 only. What the other file changes is measured on pictures that
    both files compute: a factor, and differences, which are drawn at random for the held-out pictures.

    Args:
        known: Logits of the float32 network.
        before: Logits of the float32 file, (pictures, units).
        after: Logits of the other file for the same pictures, (pictures, units).
        seed: Decides which difference goes to which picture.
        targets: The classes of these pictures, (pictures, classes). Differences then come from pictures of the same
            classes, if there are any. None draws from all.
    """
    first, second = np.asarray(before, np.float64), np.asarray(after, np.float64)
    factor = float((first * second).sum() / max(float((first * first).sum()), 1e-12))
    differences = second - factor * first
    random = np.random.default_rng(seed)
    drawn = random.integers(0, len(differences), len(known.logits))
    if targets is not None:
        # The combinations of classes of the held-out pictures, and then those of the others.
        groups = np.split(combinations(np.concatenate([known.targets, targets]))[1], [len(known.targets)])
        for group in np.unique(groups[0]):
            own, alike = (np.flatnonzero(each == group) for each in groups)
            drawn[own] = random.choice(alike, len(own)) if len(alike) else drawn[own]
    return dataclasses.replace(known, logits=factor * known.logits + differences[drawn])


def moved_by(before: onnx.ModelProto, after: onnx.ModelProto, dataset: Dataset, known: HeldOut, seed: int) -> HeldOut:
    """Return held-out logits for another file of the same network.

    Validation pictures are computed anew. For pictures of a cross-validation, see `transferred`.

    Args:
        before: The graph of the float32 file, with the output `logits`.
        after: The graph of the other file, with the output `logits`.
        dataset: The dataset of the run.
        known: Logits of held-out pictures for the float32 file.
        seed: See `transferred`.
    """
    pixels = dataset.pixels.array
    if known.source == "validation":
        return dataclasses.replace(known, logits=trust.run(after, pixels, known.rows, [LOGITS])[0].astype(np.float64))
    if not len(known.rows):
        return known
    rows = trust.spread(dataset.split.train, trust.STATISTICS_PICTURES)
    first, second = (trust.run(graph, pixels, rows, [LOGITS])[0] for graph in (before, after))
    return transferred(known, first, second, seed)


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
        seed: See `transferred`.
    """
    digests = dataset.pixels.digests
    rows = np.array([i for i in dataset.split.train if digests[i] in own.trained_on], np.int64)
    before = np.stack([own.trained_on[digests[i]] for i in rows])
    (after,) = trust.run(graph, dataset.pixels.array, rows, [LOGITS])
    known = trust.held_out(dataset, own.held_out, graph)
    known = transferred(known, before, after, seed, dataset.targets[rows])
    return HeldOut(known.rows, known.logits, known.targets, f"{known.source} at {own.size[0]}x{own.size[1]}")
