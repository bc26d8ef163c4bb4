"""Fixtures for the tests of training; `harness` has the functions."""

from __future__ import annotations

import pytest
from harness import Listener


@pytest.fixture
def listener():
    """A reporter that keeps what it receives in `said`."""
    return Listener()
