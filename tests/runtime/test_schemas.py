"""Test that files of every earlier schema are read for ever. The files were exported by the versions that had it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo_runtime import ModelInfo, Predictor, UnknownSchema, check

FOLDER = Path(__file__).parent / "exports"
EXPECTED = {"red": 0.04449614882469177, "green": 0.8760320544242859, "blue": 0.07947184890508652}
"""What the versions that wrote the files answered for `picture`."""


def picture() -> bytes:
    """Return a PNG of 40 x 56 pixels (height x width), mostly green, with slopes."""
    rows, columns = np.mgrid[0:40, 0:56]
    shade = (rows * 3 + columns) % 40
    jpeg, png = io.BytesIO(), io.BytesIO()
    Image.fromarray((np.array((30, 180, 60)) + shade[:, :, None]).astype(np.uint8)).save(jpeg, "JPEG", quality=90)
    Image.open(jpeg).save(png, "PNG")
    return png.getvalue()


@pytest.mark.parametrize("schema", [1, 2, 3])
def test_a_file_of_this_schema_is_read(schema):
    predictor = Predictor(FOLDER / f"schema{schema}.onnx")
    answer = predictor(picture())
    assert answer.label == "green"
    assert answer.probabilities == pytest.approx(EXPECTED, abs=1e-4)
    assert check(predictor).passed
    assert predictor.info.image.levels == (12 if schema == 2 else 16)
    assert bool(predictor.info.trust) == (schema == 3)
    written = predictor.info.to_metadata()
    assert json.loads(written["zoo.schema"]) == schema
    assert ModelInfo.from_metadata(written) == predictor.info


def test_there_is_a_file_of_each_schema():
    """Whoever adds a schema adds a file that was exported with it, and a row to docs/file-format.md."""
    known = sorted(int(path.stem.removeprefix("schema")) for path in FOLDER.glob("schema*.onnx"))
    assert known == list(range(1, len(known) + 1))
    metadata = Predictor(FOLDER / "schema1.onnx").info.to_metadata()
    for schema in known:
        ModelInfo.from_metadata({**metadata, "zoo.schema": str(schema)})
    with pytest.raises(UnknownSchema):
        ModelInfo.from_metadata({**metadata, "zoo.schema": str(known[-1] + 1)})
    page = (Path(__file__).resolve().parents[2] / "docs" / "file-format.md").read_text("utf-8")
    assert all(f"\n| {schema} |" in page for schema in known)
