"""The plugin in plugins/examples, without the packages that hold its weights. `.ci/example` installs it and them."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoo import testing
from zoo.plugin import Architecture, Weights
from zoo.pretrained import select
from zoo.testing.subject import find_subject

EXAMPLE = Path(__file__).parents[2] / "plugins" / "examples" / "zoo-efficientnet-lite"
WITHOUT_KERAS = ("load", "light-import", "ids", "metadata")


@pytest.fixture(autouse=True)
def path(monkeypatch):
    """Take the folder of the example off Python's path after the test."""
    monkeypatch.syspath_prepend(EXAMPLE)


def test_the_plugin_keeps_the_rules_that_need_no_network_to_be_built():
    cases = testing.plugin_cases(EXAMPLE, only=WITHOUT_KERAS)
    assert len(cases) == 2 + 2 * 6
    assert {case.id: case.outcome().text for case in cases} == {case.id: "" for case in cases}


def test_the_advice_of_finetune_names_this_plugin_and_one_of_its_networks():
    words = select.WEIGHTS_BY_PIP.split()
    assert f"./{EXAMPLE.relative_to(EXAMPLE.parents[2])}" in words
    items = find_subject(EXAMPLE).items
    assert words[-1] in [item.name for item in items if isinstance(item, Architecture)]
    # Each file serves with and without its top, and is an entry of its own.
    weights = [item for item in items if isinstance(item, Weights)]
    assert [entry.architecture for entry in weights] == [f"efficientnet_lite{number}" for number in range(3)]
    assert all(entry.serves(top=True) and entry.serves(top=False) for entry in weights)
    assert [entry.resize for entry in weights] == ["crop:0.875", "crop:0.882", "crop:0.890"]


@pytest.mark.slow
@testing.parametrize_plugin(EXAMPLE)
def test_efficientnet_lite(check):
    check()
