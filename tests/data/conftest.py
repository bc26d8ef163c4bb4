"""Fixtures for the data tests: pictures, a folder that every user may enter, and a context without root's rights."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def put() -> Callable[..., Path]:
    """Return a function that writes a random picture to a path and returns this path.

    Each picture is different, unless `seed` is given. The suffix of the path determines the file format.
    """
    count = iter(range(10**6))

    def write(path: Path, seed: int | None = None, size: tuple[int, int] = (24, 32)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(next(count) if seed is None else seed)
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
        return path

    return write


@pytest.fixture
def unprivileged() -> Iterator[Callable[[], contextlib.AbstractContextManager[None]]]:
    """Return a function that opens a context in which file permissions apply, even if root runs the tests.

    Inside the context, the process has the rights of another user. Root ignores permissions, and containers run tests
    as root.
    """

    @contextlib.contextmanager
    def drop() -> Iterator[None]:
        root = hasattr(os, "geteuid") and os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            yield
        finally:
            if root:
                os.seteuid(0)

    return drop


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Make a temporary folder that every user may enter. The temporary folders of pytest are closed to other users."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def write_list(tmp_path: Path, put: Callable[..., Path]) -> Callable[..., str]:
    """Return a function that writes a list beside 24 pictures, pictures/00.png to pictures/23.png.

    In its text, `{}` stands for the absolute path of the folder. The function returns the path of the list.
    """
    for i in range(24):
        put(tmp_path / f"pictures/{i:02d}.png", size=(8, 8))

    def write(text: str, encoding: str = "utf-8", name: str = "pets.csv") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.replace("{}", str(tmp_path)).encode(encoding))
        return str(path)

    return write
