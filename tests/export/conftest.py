"""Fixtures for the tests of exports: a finished run that a test may change, and a function that exports it again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """Copy the finished run and its exports, and return the copied run folder. A test may change the copies."""
    folder, exported, _ = finished
    shutil.copytree(folder, tmp_path / "runs" / folder.name)
    shutil.copytree(exported, tmp_path / "exported")
    return tmp_path / "runs" / folder.name


@pytest.fixture
def exported(run, tmp_path) -> Path:
    """Return the folder of exports that belongs to `run`."""
    return tmp_path / "exported"


@pytest.fixture
def export(zoo, run, exported) -> Callable:
    """Return a function that exports `run` (or another folder) with some options of `zoo export`."""
    return lambda *options, folder=run: zoo("export", folder, "--exported", exported, *options)
