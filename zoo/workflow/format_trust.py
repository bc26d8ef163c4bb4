"""Measures the thresholds of a file in another format with the file itself.

In 8 bits, and with rounded weights, an engine may answer otherwise than the ONNX file that the format was made from. A
threshold that holds a precision for the ONNX file then promises too much or too little. So the logits of held-out
pictures are moved by what the file changes, as `zoo.workflow.transfer` does for smaller ONNX files.

The file gives calibrated probabilities only. Their logarithms are its calibrated logits, up to a constant.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from zoo.convert.keras_to_onnx import PROBABILITIES
from zoo.data.dataset import Dataset
from zoo.workflow import transfer, trust
from zoo.workflow.trust import HeldOut, Trust, TrustOptions
from zoo_runtime import ModelInfo

if TYPE_CHECKING:
    import onnx

# Smaller probabilities are rounding errors of float32.
SMALLEST = 1e-7

Run = Callable[[Any], Sequence[npt.NDArray[np.float32]]]


def measured(
    finished: onnx.ModelProto,
    info: ModelInfo,
    run: Run,
    known: HeldOut,
    dataset: Dataset,
    options: TrustOptions,
) -> Trust | None:
    """Return the entry `trust` of the metadata with thresholds and label sets that hold for a file in another format.

    Args:
        finished: The ONNX graph that the format stores, with calibrated probabilities.
        info: The metadata of the ONNX file.
        run: Runs the file: from pixels, uint8 (batch, height, width, channels), to its outputs, probabilities first.
        known: Logits of held-out pictures, as the ONNX graph computes them.
        dataset: The dataset of the run.
        options: What is asked for.

    Returns:
        What was measured; its metadata have all other entries of the ONNX file. None if there are no thresholds: too
        few pictures were held out, or a picture may have several labels.
    """
    if options.task == "multilabel" or len(known.logits) < 2:
        return None
    known = trust.enough(known, dataset)
    pixels, own = dataset.pixels.array, known.source == "validation"
    rows = known.rows if own else trust.spread(dataset.split.train, trust.STATISTICS_PICTURES)
    (likely,) = trust.run(finished, pixels, rows, [PROBABILITIES])
    batches = [np.ascontiguousarray(pixels[rows[i : i + trust.BATCH]]) for i in range(0, len(rows), trust.BATCH)]
    units = known.logits.shape[1]
    before, after = _logits(likely, units), _logits(np.concatenate([run(batch)[0] for batch in batches]), units)

    def moved(calibrated: HeldOut) -> npt.NDArray[Any]:
        # In the file, the calibration is that of the ONNX file, so that it is not fitted again.
        if own:
            return calibrated.logits + after - before
        return transfer.transferred(calibrated, before, after, options.seed).logits

    found = trust.promises(known, dataset, options, moved)
    return dataclasses.replace(found, metadata={**info.trust, **found.metadata})


def _logits(likely: npt.NDArray[Any], units: int) -> npt.NDArray[np.float64]:
    """Return logits that give these probabilities, (pictures, units). Of several units, their mean is 0."""
    values = np.log(np.clip(np.asarray(likely, np.float64), SMALLEST, 1))
    if units == 1:
        return values[:, 1:] - values[:, :1]
    return values - values.mean(axis=1, keepdims=True)
