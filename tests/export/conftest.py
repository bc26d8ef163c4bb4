"""What the tests of variants share: a finished run that a test may write to, and a way to export it again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of the finished run, and of its export, that a test may write to."""
    folder, exported, _ = finished
    shutil.copytree(folder, tmp_path / "runs" / folder.name)
    shutil.copytree(exported, tmp_path / "exported")
    return tmp_path / "runs" / folder.name


@pytest.fixture
def exported(run, tmp_path) -> Path:
    """The folder of exports of that run."""
    return tmp_path / "exported"


@pytest.fixture
def export(zoo, run, exported) -> Callable:
    """Export the run with some options."""
    return lambda *options, folder=run: zoo("export", folder, "--exported", exported, *options)
