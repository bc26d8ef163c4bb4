"""Writes exported files. An exported file is an ONNX graph with metadata and a self-test.

`zoo.export.parity` checks beforehand that the graph computes the same values as the trained network.
"""

from __future__ import annotations

import dataclasses
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import zoo_runtime
import zoo_runtime.workshop
from zoo import files
from zoo.convert.keras_to_onnx import public
from zoo.errors import ParityFailed
from zoo.files import atomic_write
from zoo_runtime import ModelInfo, Predictor


def serialize(graph: onnx.ModelProto, info: ModelInfo) -> bytes:
    """Return the bytes of the exported file: the graph with its public outputs, and the metadata."""
    model = public(graph)
    model.producer_name, model.producer_version = "zoo", zoo_runtime.__version__
    del model.metadata_props[:]
    for key, text in info.to_metadata().items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, text
    return model.SerializeToString(deterministic=True)


def with_selftest(graph: onnx.ModelProto, info: ModelInfo, *, tolerance: float | None = None) -> ModelInfo:
    """Return a copy of the metadata with a self-test.

    The self-test consists of two synthetic pictures, and of the pixels and probabilities that this machine computes for
    them. It also has small pictures of other shapes and modes, of which only the pixels are compared.

    Args:
        graph: The graph of the exported file.
        info: The metadata. If it already has a self-test, the new one replaces it in the copy.
        tolerance: The self-test passes on another machine if no probability differs by more than this, in 0..1. None
            means the default of `zoo_runtime.workshop.record`.
    """
    return with_selftest_of(Predictor(serialize(graph, info)), info, tolerance)


def with_selftest_of(predictor: Predictor, info: ModelInfo, tolerance: float | None = None) -> ModelInfo:
    """Return a copy of the metadata with the self-test that a predictor records; see `with_selftest`."""
    options = {} if tolerance is None else {"tolerance": tolerance}
    selftest = zoo_runtime.workshop.record(predictor, synthetic_jpegs(), pictures=decoding_pictures(), **options)
    return dataclasses.replace(info, selftest=selftest)


def place(data: bytes, target: Path) -> None:
    """Write an exported file, run its self-test as a device will, and then move it to `target` in one step.

    Args:
        data: The bytes of the file.
        target: The final path of the file. If an error is raised, an older file at this path is not changed.

    Raises:
        ParityFailed: The written file does not pass its own self-test.
        WriteError: The file cannot be written.
    """
    files.remove_leftovers(target.parent, files.LEFTOVER_SECONDS)
    with atomic_write(target) as temporary:
        temporary.write_bytes(data)
        result = zoo_runtime.check(Predictor(temporary))
        if not (result.passed and result.pixels_equal):
            raise ParityFailed(f"the written file fails its own self-test: {result}.")


def copy(source: Path, target: Path) -> None:
    """Copy an exported file, and replace an older file at `target` in one step.

    Raises:
        WriteError: The copy cannot be written.
    """
    with atomic_write(target) as temporary:
        shutil.copyfile(source, temporary)


def synthetic_jpegs() -> list[bytes]:
    """Draw two pictures for the self-test and return them as JPEG files.

    The first picture has 480 x 360 pixels. Its EXIF orientation says that it must be rotated, so that the self-test
    covers scaling and rotation. The second picture has 96 x 80 pixels. Both depend only on this code and the JPEG
    encoder. They contain nothing from a user's pictures.
    """
    from PIL import Image

    pictures = []
    for height, width, orientation in ((360, 480, 6), (80, 96, 1)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        stream = io.BytesIO()
        Image.fromarray(_drawing(height, width)).save(stream, "JPEG", quality=85, exif=exif)
        pictures.append(stream.getvalue())
    return pictures


def decoding_pictures() -> list[bytes]:
    """Draw small pictures for the part of the self-test that only compares pixels.

    They cover what versions of Pillow may do differently: wide, tall and tiny pictures, which are resized in another
    order or enlarged, gray, 16-bit and transparent pictures, palettes, turned pictures, and progressive JPEGs.
    """
    from PIL import Image

    def saved(image: Image.Image, format: str, orientation: int = 1, **options: Any) -> bytes:
        exif = Image.Exif()
        exif[0x0112] = orientation
        stream = io.BytesIO()
        image.save(stream, format, exif=exif, **options)
        return stream.getvalue()

    def drawn(height: int, width: int) -> Image.Image:
        return Image.fromarray(_drawing(height, width))

    tiny, small = drawn(18, 13), drawn(36, 48)
    deep = Image.fromarray(np.asarray(small.convert("L")).astype(np.uint16) * 257)
    clear = small.convert("RGBA")
    clear.putalpha(small.getchannel("R"))
    palette = small.quantize(32)
    return [
        saved(drawn(40, 360), "JPEG", quality=75),
        saved(drawn(400, 50), "JPEG", quality=75, progressive=True),
        saved(drawn(220, 110), "JPEG", 8, quality=50, subsampling=0),
        saved(drawn(120, 200).convert("L"), "JPEG", 3, quality=60),
        saved(tiny, "PNG"),
        saved(tiny.rotate(90, expand=True), "PNG", 5),
        saved(deep, "PNG"),
        saved(clear, "PNG"),
        saved(palette, "PNG", transparency=bytes(range(0, 256, 8))),
    ]


def _drawing(height: int, width: int) -> np.ndarray:
    """Draw slopes, a ring and stripes: a uint8 array (height, width, 3)."""
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1)
    ring = np.hypot(y - 0.45, x - 0.6) < 0.25
    stripes = np.sin(24 * np.pi * (x + 0.4 * y)) > 0
    image = np.stack([255 * x, 255 * y, 255 * (1 - x) * (1 - y)], axis=-1)
    image[ring] = image[ring] * 0.4 + np.array([150, 90, 20])
    image[stripes & (y > 0.75)] *= 0.5
    return image.round().clip(0, 255).astype(np.uint8)
