"""The built-in formats pass all checks of formats, with no expected failure."""

from __future__ import annotations

import pytest

from zoo import testing
from zoo.plugin import registry

pytestmark = pytest.mark.slow


@testing.parametrize_plugin("openvino")
def test_openvino(check):
    check()


@testing.parametrize_plugin("litert")
def test_litert(check):
    check()


@pytest.mark.parametrize("name", ["openvino-int8", "litert"])
def test_a_format_is_checked_as_one_object(name):
    format = registry.load().format(name)
    if format.missing():
        pytest.skip(f"{format.install} installs what it needs")
    testing.check_format(format)
