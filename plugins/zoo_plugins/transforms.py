"""What augmentation policies do to pixels: one affine matrix a picture, one matrix of colours, a random rectangle."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

# Geometry. A matrix takes (x, y, 1) of the new picture to (x, y, 1) of the old, in pixels from the centre: x to the
# right, y down. In pixels, so that pictures that are not square turn without being sheared.


def turn(degrees: float) -> np.ndarray:
    import numpy as np

    angle = math.radians(degrees)
    return np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])


def move(right: float, down: float) -> np.ndarray:
    import numpy as np

    return np.array([[1, 0, right], [0, 1, down], [0, 0, 1]])


def slant(radians: float) -> np.ndarray:
    """Keras 2's shear: rows move by the sine of the angle per column, columns keep together by its cosine."""
    import numpy as np

    return np.array([[math.cos(radians), 0, 0], [-math.sin(radians), 1, 0], [0, 0, 1]])


def stretch(x: float, y: float) -> np.ndarray:
    """Show `x` times the width and `y` times the height; -1 mirrors."""
    import numpy as np

    return np.diag([x, y, 1.0])


def random_crop(rng: np.random.Generator, smallest: float, aspect: float, width: int, height: int) -> np.ndarray:
    """Show a random part, as Inception's crops do: area from `smallest` to 1, sides changed by up to `aspect`."""
    area = rng.uniform(smallest, 1)
    # A part that is as wide as the picture is high enough only if the ratio is no more than 1 / area.
    bound = min(math.log(aspect), abs(math.log(area)))
    ratio = math.exp(rng.uniform(-bound, bound))
    x, y = math.sqrt(area * ratio), math.sqrt(area / ratio)
    right, down = rng.uniform(-0.5, 0.5, 2) * (1 - x, 1 - y) * (width, height)
    return move(right, down) @ stretch(x, y)


def warp(images: np.ndarray, matrices: list[np.ndarray]) -> np.ndarray:
    """Resample every picture once, bilinearly; what lies outside repeats the edge.

    Args:
        images: float32 array (batch, height, width, channels).
        matrices: One a picture, (3, 3); see above.

    Returns:
        An array of its own, of the same shape and dtype; no value leaves the range of the picture's own.
    """
    import keras
    import numpy as np

    height, width = images.shape[1:3]
    x, y = (width - 1) / 2, (height - 1) / 2
    about = [move(x, y) @ matrix @ move(-x, -y) for matrix in matrices]
    rows = np.zeros((len(images), 8), "float32")
    rows[:, :6] = [matrix[:2].ravel() for matrix in about]
    moved = keras.ops.image.affine_transform(
        images, rows, interpolation="bilinear", fill_mode="nearest", data_format="channels_last"
    )
    # Rounding may lead past 255 by a millionth.
    return np.clip(keras.ops.convert_to_numpy(moved), 0, 255)


def sign(flip: bool, number: float) -> float:
    """-1 for the half of the pictures that are mirrored, by a random number in 0..1."""
    return -1.0 if flip and number < 0.5 else 1.0


# Colour and erasing, on one picture in place: float32 array (height, width, channels), 0..255.

LUMA = (0.299, 0.587, 0.114)
YIQ = (LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


def recolour(picture: np.ndarray, brightness: float, contrast: float, saturation: float, hue: float) -> None:
    """Multiply brightness, contrast about the mean brightness, and saturation; turn the hue about the grey axis.

    Args:
        picture: As above; values are clipped once, at the end. Saturation and hue need colour.
        brightness: Factor.
        contrast: Factor.
        saturation: Factor.
        hue: Turn as a fraction of the colour circle.
    """
    import numpy as np

    pixels = picture.reshape(-1, picture.shape[-1])
    colour = pixels.shape[1] == 3
    # Rows first: numpy adds those ten times as fast as triples.
    means = picture.mean(axis=0).mean(axis=0, dtype="float64")
    mean = brightness * float(means @ LUMA if colour else means.mean())
    if colour:
        # Neither changes a pixel's luma, so that all four are one matrix and one offset.
        luma, yiq = np.tile(LUMA, (3, 1)), np.array(YIQ)
        turned = np.linalg.inv(yiq) @ turn(360 * hue)[[2, 0, 1]][:, [2, 0, 1]] @ yiq
        matrix = turned @ (saturation * np.eye(3) + (1 - saturation) * luma)
        pixels[:] = pixels @ (brightness * contrast * matrix.T).astype("float32")
    else:
        pixels *= np.float32(brightness * contrast)
    pixels += np.float32((1 - contrast) * mean)
    np.clip(pixels, 0, 255, out=pixels)


def erase(picture: np.ndarray, rng: np.random.Generator, smallest: float, largest: float, aspect: float) -> None:
    """Fill a random rectangle with random pixels.

    Args:
        picture: As above.
        rng: Where, how large, with what.
        smallest: Least area, as a fraction of the picture's.
        largest: Greatest area.
        aspect: The rectangle is at most so many times as high as wide, or as wide as high.
    """
    height, width, channels = picture.shape
    for _ in range(100):
        area = rng.uniform(smallest, largest) * height * width
        ratio = math.exp(rng.uniform(-math.log(aspect), math.log(aspect)))
        high, wide = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 1 <= high <= height and 1 <= wide <= width:
            top, left = rng.integers(height - high + 1), rng.integers(width - wide + 1)
            picture[top : top + high, left : left + wide] = rng.integers(0, 256, (high, wide, channels))
            return
