"""Phase: the old names of its fields still work, with a warning, and stay in run.json."""

from __future__ import annotations

import dataclasses

import pytest

from zoo.plugin import Phase

RENAMED = [("rate", "lr_schedule", "cosine"), ("rate_decay", "layer_decay", 0.5), ("enough", "skip_below_loss", 0.1)]
COMMON = {"name": "x", "train": "head", "epochs": 1, "learning_rate": 1e-3}


@pytest.mark.parametrize(("old", "new", "value"), RENAMED)
def test_the_constructor_accepts_old_names_with_a_warning(old, new, value):
    with pytest.warns(DeprecationWarning, match=f"{old} is now called {new}") as caught:
        phase = Phase(**COMMON, **{old: value})
    assert len(caught) == 1 and caught[0].filename == __file__, "the warning names the line that has the old name"
    assert getattr(phase, new) == value and phase == Phase(**COMMON, **{new: value}) != Phase(**COMMON)


@pytest.mark.parametrize(("old", "new", "value"), RENAMED)
def test_old_names_are_attributes_with_a_warning(old, new, value):
    phase = Phase(**COMMON, **{new: value})
    with pytest.warns(DeprecationWarning, match=f"{old} is now called {new}") as caught:
        assert getattr(phase, old) == value
    assert len(caught) == 1


@pytest.mark.parametrize(("old", "new", "value"), RENAMED)
def test_replace_takes_the_old_names(old, new, value):
    with pytest.warns(DeprecationWarning, match=f"{old} is now called {new}"):
        assert getattr(dataclasses.replace(Phase(**COMMON), **{old: value}), new) == value


def test_run_json_keeps_the_old_names():
    values = {new: value for _, new, value in RENAMED}
    record = Phase(**COMMON, **values).to_json()
    assert {old: record[old] for old, _, _ in RENAMED} == {old: value for old, _, value in RENAMED}
    assert not record.keys() & values.keys()
