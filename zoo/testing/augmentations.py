"""The checks of augmentation policies. The docstring of each check is the advice that its author reads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from zoo import backend
from zoo.plugin import Augmentation

Policy = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
SEEDS = np.arange(6, dtype=np.uint64)


def check_augmentation_arrays(augmentation: Augmentation, channels: tuple[int, ...] = (3, 1)) -> None:
    """The policy keeps shapes, dtypes and ranges of pictures and labels, in color and in gray.

    Return float32 pictures in 0..255 of the shape that came in; `images.clip(0, 255)` keeps the range. Return the
    labels as they came, unless the policy mixes pictures: each row must then still sum to 1. A batch may hold a single
    picture, and a picture may belong to several classes or to none.
    """
    for count in channels:
        policy, images, labels = _prepared(augmentation, count)
        out, marks = _applied(policy, images, labels, SEEDS)
        assert out.shape == images.shape and out.dtype == np.float32, f"pictures became {out.dtype} {out.shape}"
        assert marks.shape == labels.shape and marks.dtype == np.float32, f"labels became {marks.dtype} {marks.shape}"
        assert out.min() >= 0 and out.max() <= 255, f"pixels left 0..255: {out.min()} to {out.max()}"
        assert out.max() > 2, (
            f"pixels are at most {out.max():.3g}: they must stay in 0..255, and are not normalized here"
        )
        assert marks.min() >= 0 and marks.max() <= 1, f"labels left 0..1: {marks.min()} to {marks.max()}"
        assert np.allclose(marks.sum(axis=1), 1, atol=1e-5), "rows of labels no longer sum to 1"
        changed = np.flatnonzero((marks != labels).any(axis=1))
        pure = [row for row in changed if marks[row].max() == 1]
        assert len(changed) < 2 or len(pure) < len(changed), (
            f"{len(changed)} of {len(labels)} pictures got another class. Keep the labels, unless pictures are mixed"
        )
        alike = np.tile(labels[:1], (len(labels), 1))
        _, marks = _applied(policy, images, alike, SEEDS)
        assert np.allclose(marks, alike, atol=1e-5), "pictures of one class got labels of other classes"
        # Multi-label data: the pictures belong to all classes, to two, to one and to none.
        several = np.array([[1, 1, 1], [1, 1, 0], [0, 1, 0], [0, 0, 0], [0, 1, 1], [1, 0, 1]], "float32")
        _, marks = _applied(policy, images, several, SEEDS)
        assert marks.shape == several.shape and marks.dtype == np.float32, f"labels became {marks.dtype} {marks.shape}"
        assert marks.min() >= 0 and marks.max() <= 1, f"multi-hot labels left 0..1: {marks.min()} to {marks.max()}"
        alone, mark = _applied(policy, images[:1], labels[:1], SEEDS[:1])
        fits = alone.shape == images[:1].shape and mark.shape == labels[:1].shape
        assert fits, "a batch of one picture got another shape"


def check_augmentation_seeds(augmentation: Augmentation, channels: tuple[int, ...] = (3, 1)) -> None:
    """The same seeds give the same pictures and labels, every time.

    Take all randomness from the seeds that the policy receives, one per picture: `picture_generators(seeds)` makes a
    random generator for each. A generator of Python, numpy or Keras that lives longer than the call breaks `zoo resume`
    and equal results for equal seeds. A policy may ignore its seeds.
    """
    for count in channels:
        policy, images, labels = _prepared(augmentation, count)
        out, marks = _applied(policy, images, labels, SEEDS)
        for again in (policy, _prepared(augmentation, count)[0]):
            other, others = _applied(again, images, labels, SEEDS)
            assert np.array_equal(out, other), "the same seeds gave other pictures"
            assert np.array_equal(marks, others), "the same seeds gave other labels"


def _prepared(augmentation: Augmentation, channels: int) -> tuple[Policy, np.ndarray, np.ndarray]:
    """Return the policy with its default parameters, six pictures, and their labels in one of three classes."""
    backend.start()
    images = np.random.default_rng(0).integers(0, 256, (6, 24, 32, channels)).astype("float32")
    return augmentation.build(**augmentation.parameters), images, np.eye(3, dtype="float32")[[0, 1, 2, 0, 1, 2]]


def _applied(
    policy: Policy, images: np.ndarray, labels: np.ndarray, seeds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Apply a policy to copies, because it may change its arguments."""
    pictures, marks = policy(images.copy(), labels.copy(), seeds.copy())
    return np.asarray(pictures), np.asarray(marks)


def check_augmentation(augmentation: Augmentation, channels: int = 3) -> None:
    """Check that a policy keeps the shapes, dtypes and ranges of its arrays, and that equal seeds give equal pictures.

    Args:
        augmentation: The policy; it is checked with its default parameters.
        channels: The number of channels of the pictures, 1 or 3.

    Raises:
        AssertionError: The policy does not meet a requirement of `zoo.plugin.Augmentation`.
    """
    check_augmentation_arrays(augmentation, (channels,))
    check_augmentation_seeds(augmentation, (channels,))
