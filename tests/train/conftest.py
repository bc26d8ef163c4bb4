"""Fixtures for the tests of training; `harness` has the functions."""

from __future__ import annotations

import pytest
from harness import Listener

from zoo.plugin import registry


@pytest.fixture(scope="session")
def plugins():
    """All installed plugins."""
    return registry.load()


@pytest.fixture
def listener():
    """A reporter that keeps what it receives in `said`."""
    return Listener()
