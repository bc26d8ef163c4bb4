"""A full disk and a full memory: one line that says what to do. A reader that is gone: no line. Exit code 1."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from zoo.cli import evaluate, shortages


class ResourceExhaustedError(Exception):
    """What TensorFlow raises."""


def full(name=None):
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (full(), ["a file cannot be written: No space left on device", "TMPDIR names another folder"]),
        (full("/x/graph.onnx"), ["'/x/graph.onnx' cannot be written: No space left on device"]),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "x"), ["'x' cannot be written: Read-only file system."]),
        (MemoryError("Unable to allocate 9 GiB"), ["the memory is full", "--batch-size"]),
        (ResourceExhaustedError("OOM when allocating tensor"), ["the memory is full"]),
        (RuntimeError("XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory"), ["the memory is full"]),
    ],
)
def test_what_the_system_lacks_is_one_line(zoo, monkeypatch, error, parts):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(evaluate.plot, "callback", fail)
    ran = zoo("plot", "run")
    assert ran.code == 1 and ran.err.startswith("error: ") and ran.err.count("\n") == 1
    assert all(part in ran.err for part in parts)


@pytest.mark.parametrize("error", [ValueError("x"), FileNotFoundError(errno.ENOENT, "x"), RuntimeError("y")])
def test_mistakes_of_the_program_are_not_explained_away(error):
    assert shortages.explained(error) is None


def test_a_reader_that_is_gone_leaves_no_traceback():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "zoo", "list"], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")
