"""Augmentation policies: geometry, colour, random erasing, mixtures; what they do to pixels is in `transforms`.

Sources of the methods:

- `course`: Keras 2's ImageDataGenerator, in its own order of operations (F. Chollet, Deep Learning with Python, 2017).
- `mixup`: H. Zhang et al., mixup: Beyond Empirical Risk Minimization, 2017, arXiv:1710.09412.
- `cutmix`: S. Yun et al., CutMix, 2019, arXiv:1905.04899.
- `erasing`: Z. Zhong et al., Random Erasing Data Augmentation, 2017, arXiv:1708.04896.
- `randaugment`: E. Cubuk et al., RandAugment, 2019, arXiv:1909.13719.

All numbers that decide what happens to a picture come from a generator made of the picture's own seed, so that they do
not depend on the batch it stands in. Keras's preprocessing layers draw theirs for a batch at a time from a state of
their own; they cannot keep that contract, and only Keras's pixel operations are used here.

Every policy but `none` mirrors half the pictures; where left and right matter, as in digits and letters, `flip=false`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zoo.plugin import Augmentation, hookimpl
from zoo_plugins.randaugment import apply_randomly
from zoo_plugins.transforms import erase, move, random_crop, recolour, sign, slant, stretch, turn, warp

if TYPE_CHECKING:
    import numpy as np

    Policy = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

# What every parameter means and may be: least, greatest, unit.
LIMITS = {
    "rotation": (0, 180, "degrees"),
    "shift": (0, 1, "a fraction of the side"),
    "shear": (0, 1.2, "radians"),
    "zoom": (0, 0.9, "a fraction of the side"),
    "crop": (0.05, 1, "a fraction of the area"),
    "aspect": (1, 4, "a ratio of the sides"),
    "brightness": (0, 1, "a fraction"),
    "contrast": (0, 1, "a fraction"),
    "saturation": (0, 1, "a fraction"),
    "hue": (0, 0.5, "a fraction of the colour circle"),
    "probability": (0, 1, "a fraction of the pictures"),
    "erasing": (0, 1, "a fraction of the pictures"),
    "smallest": (0.001, 1, "a fraction of the area"),
    "largest": (0.001, 1, "a fraction of the area"),
    "alpha": (0.01, 100, "the parameter of a Beta distribution"),
    "operations": (1, 14, "a count"),
    "magnitude": (0, 30, "of which 30 is the strongest"),
}


def check(**parameters: Any) -> None:
    """Raise ValueError where a parameter is not what `LIMITS` allows; `flip` is true or false."""
    for name, value in parameters.items():
        if name == "flip":
            if not isinstance(value, bool):
                raise ValueError(f"flip must be true or false. Received: {value!r}.")
            continue
        least, greatest, unit = LIMITS[name]
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not least <= value <= greatest or (name == "operations" and not isinstance(value, int)):
            kind = "a whole number" if name == "operations" else "a number"
            raise ValueError(f"{name} must be {kind} from {least:g} to {greatest:g} ({unit}). Received: {value!r}.")


def generators(seeds: np.ndarray) -> list[np.random.Generator]:
    import numpy as np

    return [np.random.default_rng(int(seed)) for seed in seeds]


def mirror(images: np.ndarray, flip: bool, rngs: list[np.random.Generator]) -> np.ndarray:
    """A copy of the pictures, half of them mirrored left to right."""
    images = images.copy()
    for picture, rng in zip(images, rngs, strict=True):
        if sign(flip, rng.random()) < 0:
            picture[:] = picture[:, ::-1].copy()
    return images


# The policies. Each build function checks its parameters and imports nothing heavy; pictures are float32 arrays
# (batch, height, width, channels) in 0..255, labels float32 (batch, classes) in 0..1, seeds uint64 (batch,).


def build_none() -> Policy:
    """A policy that leaves every picture as it is."""
    return lambda images, labels, seeds: (images, labels)


def build_light(*, flip: bool, rotation: float, shift: float) -> Policy:
    """Flip left to right, turn a little, move a little.

    Args:
        flip: Whether half the pictures are mirrored left to right.
        rotation: Largest turn in degrees, either way.
        shift: Largest move, as a fraction of height and of width, either way.
    """
    check(flip=flip, rotation=rotation, shift=shift)

    def augment(images, labels, seeds):
        height, width = images.shape[1:3]
        matrices = []
        for rng in generators(seeds):
            mirrored, angle, down, right = rng.random(4)
            moved = move(shift * width * (2 * right - 1), shift * height * (2 * down - 1))
            matrices.append(moved @ stretch(sign(flip, mirrored), 1) @ turn(rotation * (2 * angle - 1)))
        return warp(images, matrices), labels

    return augment


def build_course(*, flip: bool, rotation: float, shift: float, shear: float, zoom: float) -> Policy:
    """What the course's ImageDataGenerator does, each within its range, either way: turn, move, shear, zoom, flip.

    Args:
        flip: As in `build_light`.
        rotation: Degrees.
        shift: Fraction of height and of width.
        shear: Angle in radians.
        zoom: The new picture shows 1 - zoom to 1 + zoom of width and of height, drawn independently.
    """
    check(flip=flip, rotation=rotation, shift=shift, shear=shear, zoom=zoom)

    def augment(images, labels, seeds):
        height, width = images.shape[1:3]
        matrices = []
        for rng in generators(seeds):
            mirrored = sign(flip, rng.random())
            angle, right, down, leaning, x, y = rng.uniform(-1, 1, 6)
            moved = move(shift * width * right, shift * height * down)
            zoomed = stretch(mirrored * (1 + zoom * x), 1 + zoom * y)
            matrices.append(turn(rotation * angle) @ moved @ slant(shear * leaning) @ zoomed)
        return warp(images, matrices), labels

    return augment


def build_photo(
    *,
    flip: bool,
    crop: float,
    rotation: float,
    brightness: float,
    contrast: float,
    shear: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
    erasing: float = 0.0,
) -> Policy:
    """Show a random part, turned and in another light: `standard`, and with all of its parameters `strong`.

    Args:
        flip: As in `build_light`.
        crop: Smallest part that is shown, as a fraction of the area; its sides change by up to 4:3.
        rotation: Degrees, either way.
        brightness: Factor from 1 - brightness to 1 + brightness.
        contrast: Likewise, about the mean brightness.
        shear: Angle in radians, either way.
        saturation: As brightness; of colour pictures.
        hue: Turn of the colours, as a fraction of the circle, either way; of colour pictures.
        erasing: Fraction of the pictures in which a rectangle of 2 to 20 % of the area is random pixels.
    """
    check(flip=flip, crop=crop, rotation=rotation, brightness=brightness, contrast=contrast)
    check(shear=shear, saturation=saturation, hue=hue, erasing=erasing)

    def augment(images, labels, seeds):
        height, width = images.shape[1:3]
        rngs = generators(seeds)
        matrices = []
        for rng in rngs:
            mirrored, angle, leaning = rng.random(3)
            shown = random_crop(rng, crop, 4 / 3, width, height)
            turned = turn(rotation * (2 * angle - 1)) @ slant(shear * (2 * leaning - 1))
            matrices.append(shown @ turned @ stretch(sign(flip, mirrored), 1))
        moved = warp(images, matrices)
        for picture, rng in zip(moved, rngs, strict=True):
            factors = 1 + rng.uniform(-1, 1, 3) * (brightness, contrast, saturation)
            recolour(picture, *factors, hue * rng.uniform(-1, 1))
            if rng.random() < erasing:
                erase(picture, rng, 0.02, 0.2, 3.33)
        return moved, labels

    return augment


def build_erasing(*, flip: bool, probability: float, smallest: float, largest: float, aspect: float) -> Policy:
    """Random erasing: a rectangle of random pixels.

    Args:
        flip: As in `build_light`.
        probability: Fraction of the pictures it happens to.
        smallest: Least area, as a fraction of the picture's.
        largest: Greatest area.
        aspect: The rectangle is at most so many times as high as wide, or as wide as high.
    """
    check(flip=flip, probability=probability, smallest=smallest, largest=largest, aspect=aspect)
    if smallest > largest:
        raise ValueError(f"smallest must not be above largest. Received: {smallest!r} and {largest!r}.")

    def augment(images, labels, seeds):
        rngs = generators(seeds)
        images = mirror(images, flip, rngs)
        for picture, rng in zip(images, rngs, strict=True):
            if rng.random() < probability:
                erase(picture, rng, smallest, largest, aspect)
        return images, labels

    return augment


def build_randaugment(*, flip: bool, operations: int, magnitude: float) -> Policy:
    """RandAugment: some of fourteen operations, all of one strength.

    Args:
        flip: As in `build_light`.
        operations: How many follow one another (N).
        magnitude: Strength (M) on torchvision's scale: 30 is AutoAugment's strongest.
    """
    check(flip=flip, operations=operations, magnitude=magnitude)

    def augment(images, labels, seeds):
        rngs = generators(seeds)
        images = mirror(images, flip, rngs)
        for picture, rng in zip(images, rngs, strict=True):
            picture[:] = apply_randomly(picture, rng, operations, magnitude / 30)
        return images, labels

    return augment


def partners(seeds: np.ndarray, rngs: list[np.random.Generator]) -> np.ndarray:
    """For every picture the index of another of the batch; which one depends on the seeds in the batch, not on places.

    A picture that is alone is its own partner.
    """
    import numpy as np

    order = np.argsort(seeds, kind="stable")
    chosen = np.zeros(len(seeds), "int64")
    for rank, place in enumerate(order):
        others = len(seeds) - 1
        step = 1 + int(rngs[place].integers(others)) if others else 0
        chosen[place] = order[(rank + step) % len(seeds)]
    return chosen


def build_mixup(*, flip: bool, alpha: float) -> Policy:
    """mixup: every picture, and each of its labels, is a weighted mean of its own and another's.

    Args:
        flip: As in `build_light`; a picture is mirrored before it is mixed.
        alpha: The share of the picture itself is drawn from Beta(alpha, alpha): near 0 or 1 where alpha is small.
    """
    import numpy as np

    check(flip=flip, alpha=alpha)

    def augment(images, labels, seeds):
        rngs = generators(seeds)
        images = mirror(images, flip, rngs)
        other = partners(seeds, rngs)
        share = np.array([rng.beta(alpha, alpha) for rng in rngs], "float32")[:, None]
        mixed = images[other]
        # In place, for four copies of a batch cost more time than the arithmetic: other + share * (own - other).
        images -= mixed
        images *= share[:, :, None, None]
        mixed += images
        return np.clip(mixed, 0, 255, out=mixed), share * labels + (1 - share) * labels[other]

    return augment


def build_cutmix(*, flip: bool, alpha: float) -> Policy:
    """CutMix: a rectangle of another picture is pasted in, and labels are shared as the pixels are.

    Args:
        flip: As in `build_light`; a picture is mirrored before it is mixed.
        alpha: The area of the rectangle, before it is cut off at the border, is drawn from Beta(alpha, alpha).
    """
    import numpy as np

    check(flip=flip, alpha=alpha)

    def augment(images, labels, seeds):
        height, width = images.shape[1:3]
        rngs = generators(seeds)
        images = mirror(images, flip, rngs)
        other = partners(seeds, rngs)
        mixed = images.copy()
        share = np.ones((len(images), 1), "float32")
        for i, rng in enumerate(rngs):
            side = math.sqrt(rng.beta(alpha, alpha))
            y, x = rng.integers(height), rng.integers(width)
            high, wide = round(side * height), round(side * width)
            top, left = max(0, y - high // 2), max(0, x - wide // 2)
            bottom, right = min(height, y - high // 2 + high), min(width, x - wide // 2 + wide)
            mixed[i, top:bottom, left:right] = images[other[i], top:bottom, left:right]
            share[i] = 1 - (bottom - top) * (right - left) / (height * width)
        return mixed, share * labels + (1 - share) * labels[other]

    return augment


@hookimpl
def zoo_augmentations():
    return [
        Augmentation(name="none", summary="pictures as they are", build=build_none),
        Augmentation(
            name="light",
            summary="left-right flip, small rotation, small shift",
            build=build_light,
            parameters={"flip": True, "rotation": 10.0, "shift": 0.08},
        ),
        Augmentation(
            name="standard",
            summary="flip, random crop, small rotation, brightness, contrast",
            build=build_photo,
            parameters={"flip": True, "crop": 0.6, "rotation": 10.0, "brightness": 0.2, "contrast": 0.2},
        ),
        Augmentation(
            name="strong",
            summary="flip, random crop, rotation, shear, brightness, contrast, saturation, hue, erasing",
            build=build_photo,
            parameters={
                "flip": True,
                "crop": 0.35,
                "rotation": 20.0,
                "shear": 0.2,
                "brightness": 0.4,
                "contrast": 0.4,
                "saturation": 0.4,
                "hue": 0.05,
                "erasing": 0.25,
            },
        ),
        Augmentation(
            name="course",
            summary="the classic course's: flip, rotation 45 degrees, shift, shear, zoom",
            build=build_course,
            parameters={"flip": True, "rotation": 45.0, "shift": 0.2, "shear": 0.2, "zoom": 0.2},
        ),
        Augmentation(
            name="randaugment",
            summary="flip, then two of RandAugment's fourteen operations",
            build=build_randaugment,
            parameters={"flip": True, "operations": 2, "magnitude": 9.0},
        ),
        Augmentation(
            name="erasing",
            summary="flip, a rectangle of random pixels in half the pictures",
            build=build_erasing,
            parameters={"flip": True, "probability": 0.5, "smallest": 0.02, "largest": 0.4, "aspect": 3.33},
        ),
        Augmentation(
            name="mixup",
            summary="flip, weighted means of two pictures and of their labels",
            build=build_mixup,
            parameters={"flip": True, "alpha": 0.2},
        ),
        Augmentation(
            name="cutmix",
            summary="flip, a rectangle of another picture; labels shared as the pixels are",
            build=build_cutmix,
            parameters={"flip": True, "alpha": 1.0},
        ),
    ]
