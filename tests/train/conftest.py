"""A fixture for the tests of training. Their helper functions are in `harness`."""

from __future__ import annotations

import pytest
from harness import SIZE, Listener, brightness_pictures, build_tiny

from zoo.plugin import Architecture, Stage


@pytest.fixture
def listener():
    """Return a reporter that stores messages and warnings in its list `said`."""
    return Listener()


@pytest.fixture(scope="module")
def architecture():
    """Three stages of convolution and BatchNorm: what MobileNetV2 has, in a hundredth of the time."""
    return Architecture(
        name="tiny",
        summary="three convolutions",
        build=build_tiny,
        input_size=SIZE,
        min_size=32,
        parameters=1,
        stages=tuple(Stage(f"stage{i}", (f"conv{i}", f"bn{i}")) for i in (1, 2, 3)),
        source="here",
        licence="MIT",
    )


@pytest.fixture(scope="module")
def pictures():
    return brightness_pictures(SIZE, count=48)
