"""Provides the small networks of the classic course: two for MNIST, and one for cats and dogs.

They are trained from random weights.

Source: Chollet 2017, "Deep Learning with Python" (1st edition), listings 2.2, 5.3 and 5.5. Keras's MNIST examples and
the course's lessons use the same networks. In zoo, their dense layers belong to the head, so `--hidden` and `--dropout`
change them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.plugin import Architecture, Head, Stage, hookimpl, normalize

if TYPE_CHECKING:
    import keras

SOURCE = "https://github.com/fchollet/deep-learning-with-python-notebooks"


def build_pixels(input_shape: tuple[int, int, int]) -> keras.Model:
    """Build a backbone that only scales pixels to 0..1. All dense layers of this network belong to the head."""
    import keras

    pixels = keras.Input(input_shape, name="image")
    return keras.Model(pixels, normalize(pixels, "unit"))


def build_mnist_convnet(input_shape: tuple[int, int, int]) -> keras.Model:
    """Build a backbone of three 3x3 convolutions, with max pooling after the first and after the second."""
    import keras

    pixels = keras.Input(input_shape, name="image")
    x = normalize(pixels, "unit")
    for i, filters in enumerate((32, 64, 64), start=1):
        x = keras.layers.Conv2D(filters, 3, activation="relu", name=f"conv{i}")(x)
        if i < 3:
            x = keras.layers.MaxPooling2D(2, name=f"pool{i}")(x)
    return keras.Model(pixels, x)


def build_catsdogs_convnet(input_shape: tuple[int, int, int]) -> keras.Model:
    """Build a backbone of four 3x3 convolutions, each followed by max pooling."""
    import keras

    pixels = keras.Input(input_shape, name="image")
    x = normalize(pixels, "unit")
    for i, filters in enumerate((32, 64, 128, 128), start=1):
        x = keras.layers.Conv2D(filters, 3, activation="relu", name=f"conv{i}")(x)
        x = keras.layers.MaxPooling2D(2, name=f"pool{i}")(x)
    return keras.Model(pixels, x)


def _convolutions(count: int) -> tuple[Stage, ...]:
    return tuple(Stage(f"block{i}", (f"conv{i}",)) for i in range(1, count + 1))


@hookimpl
def zoo_architectures():
    facts = {"default_schedule": "scratch", "source": SOURCE, "licence": "MIT"}
    return [
        Architecture(
            name="mnist_dense",
            summary="no convolutions, 512 hidden units on grey pixels; 407,050 parameters with ten classes",
            build=build_pixels,
            input_size=(28, 28),
            min_size=1,
            channels=1,
            parameters=0,
            stages=(Stage("pixels", ("normalize",)),),
            head=Head(pool="flatten", hidden=(512,)),
            **facts,
        ),
        Architecture(
            name="mnist_convnet",
            summary="three convolutions, for grey digits; 93,322 parameters with ten classes",
            build=build_mnist_convnet,
            input_size=(28, 28),
            min_size=18,
            channels=1,
            parameters=55_744,
            stages=_convolutions(3),
            head=Head(pool="flatten", hidden=(64,)),
            **facts,
        ),
        Architecture(
            name="catsdogs_convnet",
            summary="four convolutions, for photographs; 3,453,121 parameters with two classes",
            build=build_catsdogs_convnet,
            input_size=(150, 150),
            min_size=46,
            parameters=240_832,
            stages=_convolutions(4),
            head=Head(pool="flatten", hidden=(512,)),
            **facts,
        ),
    ]
