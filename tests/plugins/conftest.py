"""Fixtures for the tests of plugins."""

from __future__ import annotations

import pytest

from zoo.plugin import registry


@pytest.fixture(scope="session")
def plugins():
    """All installed plugins; tests that install some of their own load the registry anew."""
    return registry.load()
