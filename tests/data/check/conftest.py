"""Fixtures for the tests of the data check: synthetic scenes that differ as photographs do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo import files
from zoo.data import pixels, sources
from zoo.data.check import near
from zoo_runtime import ImageSpec


def scene(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Make a picture of soft colored areas with some detail. Two seeds give pictures that have nothing in common."""
    rng = np.random.default_rng(seed)
    areas = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    detail = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    return Image.blend(areas, detail, 0.25)


@pytest.fixture
def scenes() -> Callable[..., Image.Image]:
    return scene


def links_of(folder: Path, spec: ImageSpec) -> tuple[list[str], near.Links]:
    """Return the names of the pictures of a folder, and their near-duplicates."""
    source = sources.open_source(str(folder), fewest_classes=1)
    decoded = pixels.load_pixels(source.pictures, spec, files.cache() / "pixels")
    return [Path(picture.name).name for picture in source.pictures], near.find(source.pictures, decoded, spec)


@pytest.fixture
def linked() -> Callable[..., dict[tuple[str, str], tuple[float, bool, bool]]]:
    """Return a function that finds the near-duplicates of a folder: names -> (score, mirrored, copy)."""

    def find(folder: Path, spec: ImageSpec | None = None) -> dict[tuple[str, str], tuple[float, bool, bool]]:
        names, links = links_of(folder, spec or ImageSpec(size=(96, 96)))
        return {
            (names[i], names[j]): (float(score), bool(mirrored), bool(copy))
            for i, j, score, mirrored, copy in zip(
                links.first, links.second, links.score, links.mirrored, links.copy, strict=True
            )
        }

    return find
