"""Fixtures for the tests of the data check: the near-duplicates of a folder, by the names of the files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from zoo import files
from zoo.data import pixels, sources
from zoo.data.check import near
from zoo_runtime import ImageSpec


def links_of(folder: Path, spec: ImageSpec) -> tuple[list[str], near.Links]:
    """Return the names of the pictures of a folder, and their near-duplicates."""
    source = sources.open_source(str(folder), fewest_classes=1)
    decoded = pixels.load_pixels(source.pictures, spec, files.cache() / "pixels")
    return [Path(picture.name).name for picture in source.pictures], near.find(source.pictures, decoded, spec)


@pytest.fixture
def links_in() -> Callable[[Path, ImageSpec], tuple[list[str], near.Links]]:
    """Return the function `links_of`; a test cannot import it, because several folders have a conftest."""
    return links_of


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
