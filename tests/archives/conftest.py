"""Fixtures for the tests of archives: pictures in a folder, and readers of answers."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MODEL = Path(__file__).resolve().parents[2] / "exported" / "mobilenetv2_035-digits"


def jpeg(number: int) -> bytes:
    """Return the bytes of a small picture; each number gives another one."""
    levels = np.random.default_rng(number).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(levels).resize((96, 96), Image.Resampling.BILINEAR).save(out, "JPEG", quality=85)
    return out.getvalue()


def write_pictures(folder: Path, count: int) -> None:
    """Write pictures into folders of a thousand each, named by their numbers."""
    for number in range(count):
        path = folder / f"{number // 1000:03}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number))


@pytest.fixture(scope="session")
def make_pictures() -> Callable[[Path, int], None]:
    return write_pictures


@pytest.fixture
def folder(tmp_path) -> Path:
    """Write 27 pictures, of which three cannot be read, and files that are no pictures."""
    folder = tmp_path / "photos"
    write_pictures(folder, 24)
    (folder / "sub").mkdir()
    (folder / "sub" / "cut.jpg").write_bytes(jpeg(99)[:700])
    (folder / "sub" / "empty.png").write_bytes(b"")
    (folder / "sub" / "text.jpg").write_text("no picture")
    (folder / "sub" / "notes.txt").write_text("x")
    (folder / ".hidden.jpg").write_bytes(jpeg(98))
    return folder


@pytest.fixture
def model() -> Path:
    return MODEL


@pytest.fixture
def answers():
    """Return a function that reads a folder of answers as any program does: {path: row}. No path may come twice."""
    dataset = pytest.importorskip("pyarrow.dataset")

    def read(folder: Path) -> dict[str, dict]:
        rows = dataset.dataset(folder, format="parquet").to_table().to_pylist()
        by_path = {row["path"]: row for row in rows}
        assert len(by_path) == len(rows)
        return by_path

    return read


@pytest.fixture
def printed(zoo, model):
    """Return a function that gives what `zoo predict --json` prints for paths: {path: object}."""

    def run(*paths: object) -> dict[str, dict]:
        lines = map(json.loads, zoo("predict", model, *paths, "--json").out.splitlines())
        return {line["path"]: line for line in lines}

    return run
