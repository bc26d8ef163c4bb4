"""Defines the built-in augmentation policies: geometry, color, random erasing and mixtures of pictures.

The functions that change pixels are in `transforms` and `randaugment`. Sources of the methods:

- `course`: Keras 2's ImageDataGenerator, with its order of operations (F. Chollet, Deep Learning with Python, 2017).
- `mixup`: H. Zhang et al., mixup: Beyond Empirical Risk Minimization, 2017, arXiv:1710.09412.
- `cutmix`: S. Yun et al., CutMix, 2019, arXiv:1905.04899.
- `erasing`: Z. Zhong et al., Random Erasing Data Augmentation, 2017, arXiv:1708.04896.
- `randaugment`: E. Cubuk et al., RandAugment, 2019, arXiv:1909.13719.

Each picture has its own random generator and seed, so that its random numbers do not depend on the rest of its batch.
Keras's preprocessing layers draw their random numbers per batch, from a state of their own. Therefore these policies
use only Keras's pixel operations.

Every policy except `none` mirrors half of the pictures by default. Users set `flip=false` where left and right matter,
as in digits and letters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from zoo.plugin import (
    Augmentation,
    ParameterRange,
    check_parameters,
    hookimpl,
    picture_generators,
    random_horizontal_flip,
)
from zoo_plugins.randaugment import apply_randomly
from zoo_plugins.transforms import (
    adjust_color,
    erase_rectangle,
    flip_sign,
    random_crop_matrix,
    rotation_matrix,
    scale_matrix,
    shear_matrix,
    translation_matrix,
    warp,
)

if TYPE_CHECKING:
    import numpy as np

    Policy = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

RANGES: dict[str, ParameterRange | type[bool]] = {
    "flip": bool,
    "rotation": ParameterRange(0, 180, "degrees"),
    "shift": ParameterRange(0, 1, "a fraction of the side"),
    "shear": ParameterRange(0, 1.2, "radians"),
    "zoom": ParameterRange(0, 0.9, "a fraction of the side"),
    "crop": ParameterRange(0.05, 1, "a fraction of the area"),
    "aspect": ParameterRange(1, 4, "a ratio of longer to shorter side"),
    "brightness": ParameterRange(0, 1, "a fraction"),
    "contrast": ParameterRange(0, 1, "a fraction"),
    "saturation": ParameterRange(0, 1, "a fraction"),
    "hue": ParameterRange(0, 0.5, "a fraction of the color wheel"),
    "probability": ParameterRange(0, 1, "a fraction of the pictures"),
    "erasing": ParameterRange(0, 1, "a fraction of the pictures"),
    "smallest": ParameterRange(0.001, 1, "a fraction of the area"),
    "largest": ParameterRange(0.001, 1, "a fraction of the area"),
    "alpha": ParameterRange(0.01, 100, "the parameter of a Beta distribution"),
    "operations": ParameterRange(1, 14, "a count", integer=True),
    "magnitude": ParameterRange(0, 30, "30 is the strongest"),
}

# Each build function checks its parameters and returns the function of a policy: (pictures, labels, seeds) ->
# (pictures, labels). Pictures are float32 (batch, height, width, channels) in 0..255. Labels are float32 (batch,
# classes) in 0..1. Seeds are uint64 (batch,). The build functions do not import Keras.


def build_none() -> Policy:
    """Build the policy that leaves every picture as it is."""
    return lambda images, labels, seeds: (images, labels)


def build_light(*, flip: bool, rotation: float, shift: float) -> Policy:
    """Build a policy that mirrors pictures, and rotates and shifts them a little.

    Args:
        flip: Whether half of the pictures are mirrored left to right.
        rotation: Largest rotation in degrees, in either direction.
        shift: Largest shift in either direction, as a fraction of the height (up or down) and of the width (left or
            right).

    Raises:
        ValueError: A parameter has the wrong type, or is outside its range in `RANGES`.
    """
    check_parameters(RANGES, flip=flip, rotation=rotation, shift=shift)

    def augment(images, labels, seeds):
        height, width = images.shape[1:3]
        matrices = []
        for rng in picture_generators(seeds):
            mirrored, angle, down, right = rng.random(4)
            shifted = translation_matrix(shift * width * (2 * right - 1), shift * height * (2 * down - 1))
            flipped = scale_matrix(flip_sign(flip, mirrored), 1)
            matrices.append(shifted @ flipped @ rotation_matrix(rotation * (2 * angle - 1)))
        return warp(images, matrices), labels

    return augment


def build_course(*, flip: bool, rotation: float, shift: float, shear: float, zoom: float) -> Policy:
    """Build the policy `course`, which mirrors, rotates, shifts, shears and zooms like Keras 2's ImageDataGenerator.

    For each picture, a random rotation, shift, shear and zoom are drawn. Each is drawn uniformly between minus its
    largest value and plus its largest value.

    Args:
        flip: Whether half of the pictures are mirrored left to right.
        rotation: Largest rotation in degrees.
        shift: Largest shift, as a fraction of the height (up or down) and of the width (left or right).
        shear: Largest shear angle in radians.
        zoom: Largest change of scale. The new picture shows 1 - zoom to 1 + zoom times the width of the old one. The
            height is drawn separately, from the same range.

    Raises:
        ValueError: A parameter has the wrong type, or is outside its range in `RANGES`.
    """
    check_parameters(RANGES, flip=flip, rotation=rotation, shift=shift, shear=shear, zoom=zoom)

    def augment(images, labels, seeds):
        height, width = images.shape[1:3]
        matrices = []
        for rng in picture_generators(seeds):
            mirrored = flip_sign(flip, rng.random())
            angle, right, down, lean, x, y = rng.uniform(-1, 1, 6)
            shifted = translation_matrix(shift * width * right, shift * height * down)
            zoomed = scale_matrix(mirrored * (1 + zoom * x), 1 + zoom * y)
            matrices.append(rotation_matrix(rotation * angle) @ shifted @ shear_matrix(shear * lean) @ zoomed)
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
    """Build a policy that shows a random part of each picture, rotated and with changed colors.

    The policies `standard` and `strong` are built by this function. Only `strong` uses the parameters that have
    defaults.

    Args:
        flip: Whether half of the pictures are mirrored left to right.
        crop: Smallest part that is shown, as a fraction of the picture's area. The part's aspect ratio differs from the
            picture's by a factor of at most 4/3.
        rotation: Largest rotation in degrees, in either direction.
        brightness: Largest change of brightness. The factor lies between 1 - brightness and 1 + brightness.
        contrast: Largest change of contrast. The factor on the distance from the mean brightness lies between 1 -
            contrast and 1 + contrast.
        shear: Largest shear angle in radians, in either direction.
        saturation: Largest change of saturation. The factor on the distance from gray lies between 1 - saturation and
            1 + saturation. Gray pictures do not change.
        hue: Largest rotation of the colors in either direction, as a fraction of the color wheel. Gray pictures do not
            change.
        erasing: Fraction of the pictures in which random pixels replace a rectangle of 2 to 20 % of the area.

    Raises:
        ValueError: A parameter has the wrong type, or is outside its range in `RANGES`.
    """
    check_parameters(RANGES, flip=flip, crop=crop, rotation=rotation, brightness=brightness, contrast=contrast)
    check_parameters(RANGES, shear=shear, saturation=saturation, hue=hue, erasing=erasing)

    def augment(images, labels, seeds):
        height, width = images.shape[1:3]
        rngs = picture_generators(seeds)
        matrices = []
        for rng in rngs:
            mirrored, angle, lean = rng.random(3)
            cropped = random_crop_matrix(rng, crop, 4 / 3, width, height)
            rotated = rotation_matrix(rotation * (2 * angle - 1)) @ shear_matrix(shear * (2 * lean - 1))
            matrices.append(cropped @ rotated @ scale_matrix(flip_sign(flip, mirrored), 1))
        warped = warp(images, matrices)
        for picture, rng in zip(warped, rngs, strict=True):
            factors = 1 + rng.uniform(-1, 1, 3) * (brightness, contrast, saturation)
            adjust_color(picture, *factors, hue * rng.uniform(-1, 1))
            if rng.random() < erasing:
                erase_rectangle(picture, rng, 0.02, 0.2, 3.33)
        return warped, labels

    return augment


def build_erasing(*, flip: bool, probability: float, smallest: float, largest: float, aspect: float) -> Policy:
    """Build random erasing, which replaces a rectangle of a picture with random pixels.

    Args:
        flip: Whether half of the pictures are mirrored left to right.
        probability: Fraction of the pictures in which a rectangle is replaced.
        smallest: Smallest area of the rectangle, as a fraction of the picture's area.
        largest: Largest area of the rectangle, as a fraction of the picture's area.
        aspect: Greatest ratio of the rectangle's longer side to its shorter side.

    Raises:
        ValueError: A parameter has the wrong type, or is outside its range in `RANGES`. Or `smallest` is above
            `largest`.
    """
    check_parameters(RANGES, flip=flip, probability=probability, smallest=smallest, largest=largest, aspect=aspect)
    if smallest > largest:
        raise ValueError(f"smallest must not be above largest. Received: {smallest!r} and {largest!r}.")

    def augment(images, labels, seeds):
        rngs = picture_generators(seeds)
        images = random_horizontal_flip(images, rngs, enabled=flip)
        for picture, rng in zip(images, rngs, strict=True):
            if rng.random() < probability:
                erase_rectangle(picture, rng, smallest, largest, aspect)
        return images, labels

    return augment


def build_randaugment(*, flip: bool, operations: int, magnitude: float) -> Policy:
    """Build RandAugment, which applies a few of fourteen operations to each picture, all with the same strength.

    Args:
        flip: Whether half of the pictures are mirrored left to right.
        operations: Number of operations applied to a picture, one after another (N).
        magnitude: Strength of the operations (M) in 0..30, on torchvision's scale. 30 is AutoAugment's strongest value.

    Raises:
        ValueError: A parameter has the wrong type, or is outside its range in `RANGES`.
    """
    check_parameters(RANGES, flip=flip, operations=operations, magnitude=magnitude)

    def augment(images, labels, seeds):
        rngs = picture_generators(seeds)
        images = random_horizontal_flip(images, rngs, enabled=flip)
        for picture, rng in zip(images, rngs, strict=True):
            picture[:] = apply_randomly(picture, rng, operations, magnitude / 30)
        return images, labels

    return augment


def partners(seeds: np.ndarray, rngs: list[np.random.Generator]) -> np.ndarray:
    """Choose a partner for each picture: another picture of the batch, at random. A policy mixes the two pictures.

    The choice depends on the seeds in the batch, but not on the order of the pictures.

    Args:
        seeds: One seed per picture, a uint64 array (batch,).
        rngs: One random generator per picture, in the order of the seeds.

    Returns:
        The index of each picture's partner, an int64 array (batch,). If the batch has only one picture, this picture is
        its own partner.
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
    """Build mixup, which replaces every picture with a weighted mean of itself and another picture of the batch.

    The labels are mixed with the same weights. Pictures are mirrored before they are mixed.

    Args:
        flip: Whether half of the pictures are mirrored left to right.
        alpha: Parameter of the distribution Beta(alpha, alpha). For each picture, a number w is drawn from it. The
            picture itself has the weight w, and the other picture has the weight 1 - w. If alpha is small, most
            weights are near 0 or 1.

    Raises:
        ValueError: A parameter has the wrong type, or is outside its range in `RANGES`.
    """
    import numpy as np

    check_parameters(RANGES, flip=flip, alpha=alpha)

    def augment(images, labels, seeds):
        rngs = picture_generators(seeds)
        images = random_horizontal_flip(images, rngs, enabled=flip)
        other = partners(seeds, rngs)
        share = np.array([rng.beta(alpha, alpha) for rng in rngs], "float32")[:, None]
        mixed = images[other]
        # Computed in place as other + share * (own - other), because four copies of a batch would take more time than
        # the arithmetic.
        images -= mixed
        images *= share[:, :, None, None]
        mixed += images
        return np.clip(mixed, 0, 255, out=mixed), share * labels + (1 - share) * labels[other]

    return augment


def build_cutmix(*, flip: bool, alpha: float) -> Policy:
    """Build CutMix, which replaces a rectangle of each picture with the same rectangle of another picture of the batch.

    The labels are mixed in proportion to the areas. For example, if the rectangle covers 30 % of a picture, the new
    labels are 70 % of the picture's own labels plus 30 % of the other picture's labels. Pictures are mirrored before
    they are mixed.

    Args:
        flip: Whether half of the pictures are mirrored left to right.
        alpha: Parameter of the distribution Beta(alpha, alpha). For each picture, a number is drawn from it: the area
            of the rectangle, as a fraction of the picture's area. The center of the rectangle is a random pixel. Any
            part of the rectangle outside the picture is cut off.

    Raises:
        ValueError: A parameter has the wrong type, or is outside its range in `RANGES`.
    """
    import numpy as np

    check_parameters(RANGES, flip=flip, alpha=alpha)

    def augment(images, labels, seeds):
        height, width = images.shape[1:3]
        rngs = picture_generators(seeds)
        images = random_horizontal_flip(images, rngs, enabled=flip)
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


STRONG = {
    "flip": True,
    "crop": 0.35,
    "rotation": 20.0,
    "shear": 0.2,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.05,
    "erasing": 0.25,
}


@hookimpl
def zoo_augmentations():
    return [
        Augmentation(name="none", summary="leaves pictures as they are", build=build_none),
        Augmentation(
            name="light",
            summary="left-right flip, small rotation and small shift",
            build=build_light,
            parameters={"flip": True, "rotation": 10.0, "shift": 0.08},
        ),
        Augmentation(
            name="standard",
            summary="flip, random crop, small rotation, brightness and contrast",
            build=build_photo,
            parameters={"flip": True, "crop": 0.6, "rotation": 10.0, "brightness": 0.2, "contrast": 0.2},
        ),
        Augmentation(
            name="strong",
            summary="flip, random crop, rotation, shear, brightness, contrast, saturation, hue and erasing",
            build=build_photo,
            parameters=STRONG,
        ),
        Augmentation(
            name="course",
            summary="the classic course's policy: flip, rotation by up to 45 degrees, shift, shear and zoom",
            build=build_course,
            parameters={"flip": True, "rotation": 45.0, "shift": 0.2, "shear": 0.2, "zoom": 0.2},
        ),
        Augmentation(
            name="randaugment",
            summary="flip, then two random operations of RandAugment's fourteen",
            build=build_randaugment,
            parameters={"flip": True, "operations": 2, "magnitude": 9.0},
        ),
        Augmentation(
            name="erasing",
            summary="flip, then a rectangle of random pixels in half of the pictures",
            build=build_erasing,
            parameters={"flip": True, "probability": 0.5, "smallest": 0.02, "largest": 0.4, "aspect": 3.33},
        ),
        Augmentation(
            name="mixup",
            summary="flip, then weighted means of two pictures and of their labels",
            build=build_mixup,
            parameters={"flip": True, "alpha": 0.2},
        ),
        Augmentation(
            name="cutmix",
            summary="flip, then a rectangle of another picture, with labels mixed by area",
            build=build_cutmix,
            parameters={"flip": True, "alpha": 1.0},
        ),
    ]
