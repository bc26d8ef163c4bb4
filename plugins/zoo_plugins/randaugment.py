"""Applies RandAugment's fourteen operations to a picture, with Pillow (E. Cubuk et al., 2019, arXiv:1909.13719).

Identity, autocontrast and equalize do not depend on the magnitude. As in torchvision, a greater magnitude makes every
other operation stronger. In the authors' code, a greater magnitude makes solarize and posterize weaker instead. The
strongest values are those of AutoAugment, such as a rotation by 30 degrees. If an operation moves the picture, the
empty area becomes gray, as in the authors' code. Shears keep the center in place, so that they do not push the subject
out of the picture. The functions of this module call the magnitude `strength`, and scale it to 0..1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

OPERATIONS = (
    "identity",
    "autocontrast",
    "equalize",
    "rotate",
    "solarize",
    "color",
    "posterize",
    "contrast",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)
ENHANCERS = ("color", "contrast", "brightness", "sharpness")
GREY = 128


def apply_randomly(picture: np.ndarray, rng: np.random.Generator, count: int, strength: float) -> np.ndarray:
    """Apply random operations to a picture. The same operation may be applied more than once.

    Args:
        picture: A float32 array (height, width, channels) in 0..255, grayscale (one channel) or RGB. Its values are
            rounded to whole numbers first.
        rng: The random generator that draws the operations and their directions.
        count: Number of operations, applied one after another.
        strength: Strength of all operations, from 0 to 1 (strongest).

    Returns:
        A uint8 array (height, width, channels).
    """
    import numpy as np
    from PIL import Image

    pixels = np.rint(picture).astype("uint8")
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    for i in rng.integers(len(OPERATIONS), size=count):
        image = apply(image, OPERATIONS[i], strength, 1 if rng.random() < 0.5 else -1)
    return np.asarray(image).reshape(picture.shape)


def apply(image: Image.Image, name: str, strength: float, sign: int) -> Image.Image:
    """Apply one operation to a picture.

    Args:
        image: A picture of mode "L" or "RGB".
        name: One of `OPERATIONS`. "color" does not change a grayscale picture.
        strength: From 0 (no change) to 1. Identity, autocontrast and equalize ignore it.
        sign: Direction of the change, 1 or -1. For color, contrast, brightness and sharpness, 1 means more and -1 means
            less. Identity, autocontrast, equalize, solarize and posterize ignore it.

    Returns:
        A picture of the same size and mode.
    """
    from PIL import ImageEnhance, ImageOps

    if name in ENHANCERS:
        return getattr(ImageEnhance, name.capitalize())(image).enhance(1 + 0.9 * strength * sign)
    if name in ("autocontrast", "equalize"):
        return getattr(ImageOps, name)(image)
    if name == "solarize":
        return ImageOps.solarize(image, round(256 * (1 - strength)))
    if name == "posterize":
        return ImageOps.posterize(image, 8 - round(4 * strength))
    if name == "identity":
        return image
    return _move(image, name, strength * sign)


def _move(image: Image.Image, name: str, strength: float) -> Image.Image:
    from PIL import Image

    fill = GREY if image.mode == "L" else (GREY,) * 3
    if name == "rotate":
        return image.rotate(30 * strength, Image.Resampling.BILINEAR, fillcolor=fill)
    width, height = image.size
    lean, shift = 0.3 * strength, 150 / 331 * strength
    # Pillow maps (x, y) of the new picture to the old one: x' = a x + b y + c, y' = d x + e y + f.
    coefficients = {
        "shear_x": (1, lean, -lean * height / 2, 0, 1, 0),
        "shear_y": (1, 0, 0, lean, 1, -lean * width / 2),
        "translate_x": (1, 0, shift * width, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, shift * height),
    }[name]
    return image.transform(image.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR, fillcolor=fill)
