"""The processes of trials: what they get, and what follows when they crash, print nothing, or find the disk full."""

from __future__ import annotations

import errno
import json
import os
import sys

import pytest

from zoo.errors import RunError, WriteError
from zoo.workflow import sweep_trials
from zoo.workflow.sweep_trials import Trial, TrialFolder

pytestmark = pytest.mark.skipif(os.name == "nt", reason="a script of a shell stands in for a process of a trial")


@pytest.fixture
def child(tmp_path, monkeypatch):
    """Return a function that lets a shell script carry out the processes of trials; each writes to log.txt."""

    def replace(script: str) -> None:
        program = tmp_path / "program"
        program.write_text(f"#!/bin/sh\necho begins\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))

    return replace


def test_a_trial_gets_its_environment_and_no_more_threads_than_it_may_use(child, tmp_path):
    child('echo "error: plugins <$ZOO_PLUGINS> threads $ZOO_THREADS $OMP_NUM_THREADS $TF_NUM_INTRAOP_THREADS"; exit 1')
    folder = TrialFolder(Trial("a", None, "b", environment={"ZOO_PLUGINS": ""}, threads=3), tmp_path)
    assert sweep_trials.judge(folder, 1, None) is None
    assert folder.facts()["problem"] == "plugins <> threads 3 3 3"
    # The winner is finished on all processors.
    problem = sweep_trials.finish(folder, 1, None)
    assert "threads 3" not in problem and problem.startswith("plugins <> threads")


@pytest.mark.parametrize(
    ("script", "times", "problem"),
    [
        ("kill -ABRT $$", 3, "ended by the signal SIGABRT"),
        ("kill -KILL $$", 3, "SIGKILL, as it happens when the memory is full"),
        ("exit 7", 3, "ended with the code 7"),
        ("echo 'error: no such option'; exit 2", 1, "no such option"),
    ],
)
def test_a_crash_is_tried_again_and_an_error_is_not(child, tmp_path, script, times, problem):
    child(script)
    folder = TrialFolder(Trial("a", (20, 30), "b"), tmp_path)
    assert sweep_trials.judge(folder, 1, None) is None
    assert problem in folder.facts()["problem"] and folder.log.read_text().count("begins") == times


@pytest.mark.parametrize("script", [f"echo 'error: it is {os.strerror(errno.ENOSPC)}'; exit 1", "exit 120"])
def test_a_full_disk_ends_all_trials_and_marks_none_as_failed(child, tmp_path, script):
    child(script)
    folder = TrialFolder(Trial("a", None, "b"), tmp_path)
    with pytest.raises(WriteError, match="No space left"):
        sweep_trials.judge(folder, 1, None)
    assert folder.facts()["problem"] is None and folder.log.read_text().count("begins") == 1


def test_a_process_that_may_not_begin_is_not_begun(child, tmp_path):
    child("exit 1")
    folder = TrialFolder(Trial("a", None, "b"), tmp_path)
    assert sweep_trials.finish(folder, 1, 0.0) == "" and sweep_trials.judge(folder, 1, 0.0) is None
    assert not folder.log.exists()


def test_files_that_were_changed_by_hand(tmp_path):
    folder = TrialFolder(Trial("a", None, "b"), tmp_path)
    folder.folder.mkdir(parents=True)
    values = {
        **{"step": 1, "accuracy": 1.0, "accuracy_interval": [0.5, 1.0], "loss": 0.1, "training_pictures": 3},
        **{"data": "d", "seconds": 1.0, "right": {"p": 1.0}},
    }
    (folder.folder / "folds1.json").write_text(json.dumps(values))
    # A copy of a file manager, and a state that says nothing.
    (folder.folder / "folds1 (copy).json").write_text("{}")
    (folder.folder / "trial.json").write_text("[1]")
    assert folder.latest().accuracy == 1.0 and folder.facts() == {"seconds": 0.0, "problem": None, "out": None}
    for changes in ({"right": {}}, {"step": 3}, {"right": {"p": 7}}, {"right": None}, {"more": 1}):
        (folder.folder / "folds1.json").write_text(json.dumps({**values, **changes}))
        with pytest.raises(RunError, match="Remove this file"):
            folder.latest()
