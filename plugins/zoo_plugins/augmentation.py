"""Augmentation policies: `none`, and `light` for most photographs."""

from __future__ import annotations

from zoo.plugin import Augmentation, hookimpl


def build_none():
    """A policy that leaves every picture as it is."""
    return lambda images, labels, seeds: (images, labels)


def build_light(*, flip: bool, rotation: float, shift: float):
    """Flip left to right, turn a little, move a little; borders repeat the edge.

    Args:
        flip: Whether half the pictures are mirrored left to right.
        rotation: Largest turn in degrees, either way.
        shift: Largest move, as a fraction of height and of width, either way.
    """
    import keras
    import numpy as np

    def augment(images, labels, seeds):
        height, width = images.shape[1:3]
        transforms = np.zeros((len(images), 8), "float32")
        for row, seed in zip(transforms, seeds, strict=True):
            mirrored, turn, down, right = np.random.default_rng(int(seed)).random(4)
            angle = np.deg2rad(rotation) * (2 * turn - 1)
            sign = -1.0 if flip and mirrored < 0.5 else 1.0
            # Output (x, y) -> input, about the centre: x' = a x + b y + c, y' = d x + e y + f.
            a, b = sign * np.cos(angle), -sign * np.sin(angle)
            d, e = np.sin(angle), np.cos(angle)
            cx, cy = (width - 1) / 2, (height - 1) / 2
            moved_x, moved_y = shift * width * (2 * right - 1), shift * height * (2 * down - 1)
            row[:6] = (a, b, cx - a * cx - b * cy + moved_x, d, e, cy - d * cx - e * cy + moved_y)
        moved = keras.ops.image.affine_transform(
            images, transforms, interpolation="bilinear", fill_mode="nearest", data_format="channels_last"
        )
        return np.clip(keras.ops.convert_to_numpy(moved), 0, 255), labels

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
    ]
