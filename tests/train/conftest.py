"""A fixture for the tests of training. Their helper functions are in `harness`."""

from __future__ import annotations

import pytest
from harness import Listener


@pytest.fixture
def listener():
    """Return a reporter that stores messages and warnings in its list `said`."""
    return Listener()
