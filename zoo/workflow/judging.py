"""Stops a run once held-out pictures have judged it, so that several runs are compared before one is finished.

`zoo sweep` trains many networks on folds of the same pictures, and exports one of them. A run that has been judged has
the safe points of an interrupted one: `zoo resume` finishes it, and trains no fold again.

Figures of held-out pictures alone are written here. Test pictures judge the finished run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zoo import runs
from zoo.data.dataset import Dataset
from zoo.errors import TrainingError
from zoo.train.inputs import TrainingData
from zoo.train.linear_head import cross_entropies, rightness

# In the folder of safe points, which goes when the run is finished.
FILE = f"{runs.UNFINISHED}/held-out.json"


class Judged(KeyboardInterrupt):
    """A run has been judged, and stops as it was asked to. It can be resumed."""


@dataclass(frozen=True)
class Judging:
    """How far a run is judged by held-out pictures.

    Args:
        folds: Train at most so many folds of the cross-validation. 0 trains none: the solved head alone is judged, on
            all folds. None sets no limit.
        alone: Whether the run stops once it has been judged, before it is trained on all pictures.
    """

    folds: int | None = None
    alone: bool = False

    def most(self, folds: int) -> int:
        """Return how many of some folds are trained."""
        return folds if self.folds is None else min(folds, self.folds)


EVERYTHING = Judging()


def stop(
    judging: Judging,
    run: runs.Run,
    data: TrainingData,
    dataset: Dataset,
    rows: np.ndarray,
    logits: np.ndarray | None,
    weights: np.ndarray | None,
) -> None:
    """Write how held-out pictures were answered, and end the run, if it is only to be judged.

    Args:
        judging: How far the run is judged.
        run: The run folder.
        data: The pictures, as training takes them.
        dataset: The pictures.
        rows: The held-out pictures, by their places in the train part, int64 (held out,).
        logits: Their logits, float (held out, units); rows of NaN do not count. None if no picture was held out.
        weights: The weight of each class in the loss, float32 (classes,), or None.

    Raises:
        Judged: The run was only to be judged.
        TrainingError: No picture was held out.
        WriteError: The file cannot be written.
    """
    if not judging.alone:
        return
    known = np.isfinite(logits).all(axis=1) if logits is not None else np.zeros(0, bool)
    if logits is None or not known.any():
        raise TrainingError(
            "no picture was held out, so that the network cannot be judged. Each class needs two pictures besides that "
            "for the test. Leave out values of --epochs for single phases, which train without evidence."
        )
    places = data.train[rows[known]]
    targets, logits = data.targets[places], logits[known]
    right = rightness(logits, targets, data.task)
    losses = cross_entropies(logits, targets, data.task, label_smoothing=0.0, weights=weights)
    digests: Sequence[str] = dataset.pixels.digests
    content = {
        "folds": judging.folds,
        "loss": float(losses.mean()),
        "training_pictures": len(data.train),
        "data": dataset.digest,
        "right": {digests[place]: round(float(value), 6) for place, value in zip(places, right, strict=True)},
    }
    run.write_json(FILE, content)
    raise Judged
