"""Makes small exported files without TensorFlow, and a package that looks like onnxruntime-web."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from zoo.export import ort_web
from zoo_runtime import ImageSpec, ModelInfo

SHARPNESS = 0.02


def tiny_export(
    classes: tuple[str, ...], image: ImageSpec, task: str = "multiclass", trust: dict | None = None
) -> bytes:
    """Return an exported file whose outputs depend on the mean level of each channel alone.

    Args:
        classes: The class names, up to 4. For pictures of 3 channels, these are red, green, blue and none of them.
        image: How pictures become pixels.
        task: "multiclass", "binary" or "multilabel".
        trust: The metadata entry of this name. The graph has an outlier score if it has "outliers".
    """
    trust = trust or {}
    count = len(classes)
    weights = (np.eye(image.channels, count) * SHARPNESS).astype(np.float32)
    last = "Sigmoid" if task == "multilabel" else "Softmax"
    nodes = [
        helper.make_node("Cast", ["image"], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["levels"], ["means"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["means", "weights"], ["products"]),
        helper.make_node("Sub", ["products", "offset"], ["logits"]),
        helper.make_node(last, ["logits"], ["probabilities"]),
    ]
    outputs = [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", count])]
    offset = np.full(count, 2.5 if task == "multilabel" else 0, np.float32)
    constants = [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(offset, "offset")]
    if trust.get("outliers"):
        constants.append(numpy_helper.from_array(np.float32(1 / 255), "scale"))
        nodes.append(helper.make_node("ReduceMax", ["means"], ["brightest"], axes=[1], keepdims=0))
        for name in ("outlier_score", "feature_norm"):
            nodes.append(helper.make_node("Mul", ["brightest", "scale"], [name]))
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch"]))
    size = ["batch", *image.size, image.channels]
    graph = helper.make_graph(
        nodes, "tiny", [helper.make_tensor_value_info("image", TensorProto.UINT8, size)], outputs, constants
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    info = ModelInfo(classes, task, image, architecture={"name": "tiny"}, trust=trust)
    helper.set_model_props(model, info.to_metadata())
    return model.SerializeToString()


def fake_package(folder: Path, version: str = ort_web.VERSION, leave_out: str = "") -> Path:
    """Write an unpacked package with the names of onnxruntime-web's files, and return its folder."""
    dist = folder / "package" / "dist"
    dist.mkdir(parents=True)
    (folder / "package" / "package.json").write_text(json.dumps({"name": ort_web.PACKAGE, "version": version}))
    for name in ort_web.NAMES:
        if name != leave_out:
            (dist / name).write_bytes(f"content of {name}".encode())
    return folder / "package"


def packed(package: Path) -> bytes:
    """Return the bytes of a .tgz file as `npm pack` makes it."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for path in sorted(package.rglob("*")):
            if path.is_file():
                archive.add(path, f"package/{path.relative_to(package).as_posix()}")
    return stream.getvalue()
