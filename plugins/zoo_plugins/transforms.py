"""Changes pixels for the augmentation policies: affine warps, color changes and random erasing.

The policies in `augmentation` decide which functions are applied, and draw most random numbers. RandAugment's
operations are in `randaugment`.

All matrices here are float64 (3, 3). They map (x, y, 1) of the new picture to (x, y, 1) of the old picture. Coordinates
are in pixels from the center, x to the right and y down. `warp` applies the matrices.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

# Geometry. The coordinates are in pixels, because a rotation in fractions of the sides would shear pictures that are
# not square.


def rotation_matrix(degrees: float) -> np.ndarray:
    """Return the matrix with which `warp` rotates a picture about its center.

    Args:
        degrees: The angle. A positive angle rotates the picture counterclockwise.

    Returns:
        A matrix (3, 3) that maps coordinates of the new picture to coordinates of the old picture.
    """
    import numpy as np

    angle = math.radians(degrees)
    return np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])


def translation_matrix(right: float, down: float) -> np.ndarray:
    """Return the matrix with which `warp` shifts a picture to the left and up.

    The new picture shows at (x, y) what the old picture shows at (x + right, y + down).

    Args:
        right: Distance in pixels. A negative distance shifts the picture to the right.
        down: Distance in pixels. A negative distance shifts the picture down.

    Returns:
        A matrix (3, 3) that maps coordinates of the new picture to coordinates of the old picture.
    """
    import numpy as np

    return np.array([[1, 0, right], [0, 1, down], [0, 0, 1]])


def shear_matrix(radians: float) -> np.ndarray:
    """Return the matrix with which `warp` shears a picture, as Keras 2 defines a shear.

    The new picture shows at (x, y) what the old picture shows at (x * cos(radians), y - x * sin(radians)). The
    coordinates are distances from the center.

    Args:
        radians: The angle.

    Returns:
        A matrix (3, 3) that maps coordinates of the new picture to coordinates of the old picture.
    """
    import numpy as np

    return np.array([[math.cos(radians), 0, 0], [-math.sin(radians), 1, 0], [0, 0, 1]])


def scale_matrix(x: float, y: float) -> np.ndarray:
    """Return the matrix with which `warp` scales or mirrors a picture about its center.

    The new picture has the same size. It shows `x` times the width and `y` times the height of the old picture. A
    factor above 1 therefore makes the content smaller.

    Args:
        x: Horizontal factor. A negative factor mirrors the picture left to right.
        y: Vertical factor. A negative factor mirrors the picture top to bottom.

    Returns:
        A matrix (3, 3) that maps coordinates of the new picture to coordinates of the old picture.
    """
    import numpy as np

    return np.diag([x, y, 1.0])


def random_crop_matrix(rng: np.random.Generator, smallest: float, aspect: float, width: int, height: int) -> np.ndarray:
    """Return the matrix with which `warp` enlarges a random part of a picture to the size of the whole picture.

    The part is chosen in a similar way to the random crops with which Inception was trained.

    Args:
        rng: The random generator that draws the size, shape and position of the part.
        smallest: Smallest area of the part, as a fraction of the picture's area. The largest is the whole picture.
        aspect: Greatest factor, at least 1, by which the part's aspect ratio differs from the picture's.
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.

    Returns:
        A matrix (3, 3) that maps coordinates of the new picture to coordinates of the old picture.
    """
    area = rng.uniform(smallest, 1)
    # The part fits into the picture only where the factor is between area and 1 / area.
    bound = min(math.log(aspect), abs(math.log(area)))
    ratio = math.exp(rng.uniform(-bound, bound))
    x, y = math.sqrt(area * ratio), math.sqrt(area / ratio)
    right, down = rng.uniform(-0.5, 0.5, 2) * (1 - x, 1 - y) * (width, height)
    return translation_matrix(right, down) @ scale_matrix(x, y)


def flip_sign(flip: bool, number: float) -> float:
    """Return the horizontal scale of a random flip: -1 (mirrored) or 1.

    Args:
        flip: Whether flips are enabled.
        number: A random number in 0..1. If flips are enabled, a number below 0.5 mirrors the picture.
    """
    return -1.0 if flip and number < 0.5 else 1.0


def warp(images: np.ndarray, matrices: list[np.ndarray]) -> np.ndarray:
    """Transform every picture by its matrix, with bilinear interpolation.

    Outside a picture, the pixels of its edge repeat.

    Args:
        images: Pictures, a float32 array (batch, height, width, channels) in 0..255.
        matrices: One float64 matrix (3, 3) per picture. It maps (x, y, 1) of the new picture to (x, y, 1) of the old
            picture. Coordinates are in pixels from the center, x to the right and y down.

    Returns:
        A new array of the same shape, dtype and range.
    """
    import keras
    import numpy as np

    height, width = images.shape[1:3]
    x, y = (width - 1) / 2, (height - 1) / 2
    about = [translation_matrix(x, y) @ matrix @ translation_matrix(-x, -y) for matrix in matrices]
    rows = np.zeros((len(images), 8), "float32")
    rows[:, :6] = [matrix[:2].ravel() for matrix in about]
    moved = keras.ops.image.affine_transform(
        images, rows, interpolation="bilinear", fill_mode="nearest", data_format="channels_last"
    )
    # Rounding may exceed 255 by a millionth.
    return np.clip(keras.ops.convert_to_numpy(moved), 0, 255)


# Color and erasing. These functions change one picture in place, a float32 array (height, width, channels) in 0..255.

LUMA = (0.299, 0.587, 0.114)
YIQ = (LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


def adjust_color(picture: np.ndarray, brightness: float, contrast: float, saturation: float, hue: float) -> None:
    """Change brightness, contrast, saturation and hue of one picture in place. Values are clipped to 0..255 at the end.

    Args:
        picture: A float32 array (height, width, channels) in 0..255. Saturation and hue change only pictures with three
            channels.
        brightness: Factor by which all values are multiplied.
        contrast: Factor by which the distance of each value from the mean brightness is multiplied.
        saturation: Factor by which the distance of each pixel from gray is multiplied.
        hue: Rotation of the colors about the gray axis, as a fraction of the color wheel.
    """
    import numpy as np

    pixels = picture.reshape(-1, picture.shape[-1])
    is_color = pixels.shape[1] == 3
    # Averaging over rows first is ten times as fast in numpy as averaging over pixels of three values.
    means = picture.mean(axis=0).mean(axis=0, dtype="float64")
    mean = brightness * float(means @ LUMA if is_color else means.mean())
    if is_color:
        # Saturation and hue keep a pixel's luma, so all four changes together are one matrix and one offset.
        luma, yiq = np.tile(LUMA, (3, 1)), np.array(YIQ)
        rotated = np.linalg.inv(yiq) @ rotation_matrix(360 * hue)[[2, 0, 1]][:, [2, 0, 1]] @ yiq
        matrix = rotated @ (saturation * np.eye(3) + (1 - saturation) * luma)
        pixels[:] = pixels @ (brightness * contrast * matrix.T).astype("float32")
    else:
        pixels *= np.float32(brightness * contrast)
    pixels += np.float32((1 - contrast) * mean)
    np.clip(pixels, 0, 255, out=pixels)


def erase_rectangle(
    picture: np.ndarray, rng: np.random.Generator, smallest: float, largest: float, aspect: float
) -> None:
    """Fill a random rectangle of one picture with random pixels, in place.

    Random rectangles are tried until one fits into the picture. If a hundred rectangles in a row do not fit, the
    picture does not change.

    Args:
        picture: A float32 array (height, width, channels) in 0..255.
        rng: The random generator that draws the size, shape, position and pixels of the rectangle.
        smallest: Smallest area of the rectangle, as a fraction of the picture's area.
        largest: Largest area of the rectangle, as a fraction of the picture's area.
        aspect: Greatest ratio of the rectangle's longer side to its shorter side.
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
