"""Says when the out-of-fold logits of a solved head are kept for all training pictures, in head-logits.npz.

out-of-fold.npz has logits of the network that is exported. If more layers than the head were trained, or if the problem
is large, it has only the pictures of some folds. `zoo.workflow.label_issues` judges the labels of all pictures, and the
head, which is solved in seconds, can be cross-validated on all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FILE = "head-logits.npz"
# Larger problems (pictures x features x units) are not cross-validated on all folds. Five folds of 3,000 pictures of 40
# classes with 1,280 features are 150 million numbers.
LARGEST = 500_000_000


def affordable(groups: Sequence[np.ndarray], units: int) -> bool:
    """Return whether a head on these groups of features, each (pictures, n), can be cross-validated in seconds."""
    pictures, features = len(groups[0]), sum(group.shape[1] for group in groups)
    return pictures * min(pictures, features) * units <= LARGEST
