"""Keeps the out-of-fold logits of a solved head for all training pictures, in head-logits.npz of the run folder.

out-of-fold.npz has logits of the network that is exported. If more layers than the head were trained, or if the problem
is large, it has only the pictures of some folds. `zoo.workflow.label_issues` judges the labels of all pictures, and the
head, which is solved in seconds, can be cross-validated on all of them.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence

import numpy as np

from zoo import runs
from zoo.errors import RunError
from zoo.files import atomic_write

FILE = "head-logits.npz"
# Larger problems (pictures x features x units) are not cross-validated on all folds. Five folds of 3,000 pictures of 40
# classes with 1,280 features are 150 million numbers.
LARGEST = 500_000_000


def affordable(features: np.ndarray, units: int) -> bool:
    """Return whether a head on these features, (pictures, features), can be cross-validated in seconds."""
    return len(features) * min(features.shape) * units <= LARGEST


def write(run: runs.Run, digests: Sequence[str], logits: np.ndarray) -> None:
    """Write head-logits.npz.

    Args:
        run: The run folder.
        digests: The sha256 of each picture, in hex.
        logits: (pictures, units). Each row comes from a head that has not seen the picture.

    Raises:
        WriteError: The file cannot be written.
    """
    with atomic_write(run.folder / FILE) as temporary, temporary.open("wb") as stream:
        np.savez(stream, sha256=np.array(digests), logits=logits.astype("float32"))


def read(run: runs.Run) -> dict[str, np.ndarray]:
    """Return the logits, float32 (units,), by the sha256 of the picture. They are empty if there is no such file.

    Raises:
        RunError: The file is damaged.
    """
    path = run.folder / FILE
    try:
        with np.load(path) as arrays:
            return dict(zip(arrays["sha256"].tolist(), arrays["logits"], strict=True))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(f"{str(path)!r} is damaged: {error}.") from None
