"""Fixtures for the tests of the runtime: a tiny exported file, and pictures that it classifies correctly.

TensorFlow is not needed to make the file.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from zoo_runtime import ImageSpec, ModelInfo, Predictor
from zoo_runtime.workshop import record

CLASSES = ("red", "green", "blue")
SPEC = ImageSpec((24, 32))
SHARPNESS = 0.02
"""The tiny network returns the softmax of the mean levels of red, green and blue, multiplied by SHARPNESS."""


def _jpeg(colour: tuple[int, int, int]) -> bytes:
    """Return the bytes of a JPEG of 40 x 56 pixels (height x width), mostly of one color."""
    rows, columns = np.mgrid[0:40, 0:56]
    shade = (rows * 3 + columns) % 40
    out = io.BytesIO()
    Image.fromarray((np.array(colour) + shade[:, :, None]).astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


def _graph(
    metadata: dict[str, str],
    size: tuple[int, int] = SPEC.size,
    channels: int = 3,
    classes: int = 3,
    batch: int | str = "batch",
    pixel_type: int = TensorProto.UINT8,
    names: tuple[str, str] = ("image", "probabilities"),
    weights_in: str | None = None,
    sharpness: float = SHARPNESS,
) -> bytes:
    weights = numpy_helper.from_array((np.eye(channels, classes) * sharpness).astype(np.float32), "weights")
    if weights_in:
        # The graph then refers to another file for its weights.
        size_of = {"location": weights_in, "offset": "0", "length": str(len(weights.raw_data))}
        weights.ClearField("raw_data")
        weights.data_location = TensorProto.EXTERNAL
        for key, value in size_of.items():
            entry = weights.external_data.add()
            entry.key, entry.value = key, value
    nodes = [
        helper.make_node("Cast", [names[0]], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["levels"], ["means"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["means", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], [names[1]], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(names[0], pixel_type, [batch, *size, channels])],
        [helper.make_tensor_value_info(names[1], TensorProto.FLOAT, [batch, classes])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, metadata)
    return model.SerializeToString()


@pytest.fixture(scope="session")
def graph() -> Callable[..., bytes]:
    """Return a function that makes the tiny network as bytes of an ONNX file.

    Its first argument is the metadata to store. The other arguments let the network differ from this metadata.
    """
    return _graph


@pytest.fixture(scope="session")
def info() -> ModelInfo:
    """Return the metadata of the tiny exported file, including its self-test."""
    bare = ModelInfo(
        classes=CLASSES,
        task="multiclass",
        image=SPEC,
        architecture={"name": "tiny", "licence": "MIT"},
        weights={"id": "scratch"},
        metrics={"accuracy": 0.9375, "per_class": [1.0, 0.9, 0.9]},
        run={"seed": 0},
    )
    predictor = Predictor(_graph(bare.to_metadata()))
    return ModelInfo(**{**vars(bare), "selftest": record(predictor, [_jpeg((200, 10, 10)), _jpeg((10, 90, 200))])})


@pytest.fixture(scope="session")
def model_bytes(info) -> bytes:
    """Return the tiny exported file as bytes."""
    return _graph(info.to_metadata())


@pytest.fixture
def model(tmp_path, model_bytes) -> Path:
    """Write the tiny exported file into a folder of its own, and return its path."""
    path = tmp_path / "tiny" / "model.onnx"
    path.parent.mkdir()
    path.write_bytes(model_bytes)
    return path


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Write a folder with a red, a green, a blue and a damaged picture and other files, and return the folder."""
    return _pictures(tmp_path / "pictures")


@pytest.fixture
def open_pictures() -> Iterator[Path]:
    """Write the same files as `pictures` into a folder that every user may enter, and yield this folder.

    The temporary folders of pytest are closed to other users.
    """
    parent = Path(tempfile.mkdtemp())
    parent.chmod(0o755)
    yield _pictures(parent / "pictures")
    shutil.rmtree(parent)


@pytest.fixture
def unprivileged() -> Callable[[], contextlib.AbstractContextManager[None]]:
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


def _pictures(folder: Path) -> Path:
    (folder / "more").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    (folder / "red.jpg").write_bytes(_jpeg((200, 10, 10)))
    (folder / "green.JPG").write_bytes(_jpeg((10, 200, 10)))
    (folder / "more" / "blue.jpeg").write_bytes(_jpeg((10, 10, 200)))
    (folder / "damaged.jpg").write_bytes(_jpeg((200, 10, 10))[:500])
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden" / "red.jpg").write_bytes(_jpeg((200, 10, 10)))
    (folder / ".red.jpg").write_bytes(_jpeg((200, 10, 10)))
    return folder
