"""Makes an ONNX file with a fixed batch, and a folder of calibration pictures, for the compilers of accelerators.

The compilers of Hailo, Rockchip (RKNN) and Coral run on machines of their own and are not part of zoo. They take a
file whose shapes are all fixed, and pictures with which they measure ranges for 8 bits. What they do not take is
changed here, and the result is compared with the exported graph on real pictures:

- The input is float32 with channels first, (batch, channels, height, width), still with values 0..255. Normalization
  stays inside the graph.
- The output is `probabilities` alone. The outlier score has operators that these compilers do not know.

zoo_runtime does not run this file.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from zoo import files
from zoo.convert.keras_to_onnx import INPUT, PROBABILITIES
from zoo.convert.optimize import drop_unused
from zoo.convert.session import open_session
from zoo.errors import ConversionFailed, ParityFailed, UsageError, WriteError

if TYPE_CHECKING:
    from zoo.data.dataset import Dataset

# The largest difference of a probability from the exported graph. The order of sums differs with the batch.
TOLERANCE = 1e-4
CHANNELS_FIRST = (0, 3, 1, 2)
ARITHMETIC = ("Add", "Sub", "Mul", "Div")
MODEL, ARRAY, LIST, LABELS, ABOUT, PICTURES = (
    *("model.onnx", "calibration.npy", "dataset.txt", "labels.txt", "about.json", "pictures"),
)
MOST_PICTURES = 128
PURPOSE = "an ONNX file with a fixed batch, and calibration pictures, made with zoo for the compiler of an accelerator"


@dataclass(frozen=True)
class FixedBatch:
    """Says what a compiler gets, as a command asks for it.

    Args:
        folder: The folder for the file and the pictures.
        batch: The number of pictures that the network takes at once, 1 or more.
    """

    folder: Path
    batch: int = 1


def fixed_batch(graph: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """Return a graph with fixed shapes, channels first, and the probabilities as its only output.

    Args:
        graph: The graph of an exported file: uint8 [batch, height, width, channels].
        batch: The size of the batch.

    Raises:
        ConversionFailed: The graph is not valid afterwards.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    del model.metadata_props[:]
    kept = [output for output in model.graph.output if output.name == PROBABILITIES]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    drop_unused(model.graph)
    height, width, channels = (dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:])
    if not _put_channels_first(model.graph, channels):
        # The pixels come in another way than zoo's own networks take them: one Transpose stays.
        first = helper.make_node("Transpose", ["pixels"], ["pixels_last"], name="channels_last", perm=(0, 2, 3, 1))
        _replace_cast(model.graph, "pixels_last")
        model.graph.node.insert(0, first)
    del model.graph.input[:]
    shape = [batch, channels, height, width]
    model.graph.input.append(helper.make_tensor_value_info("pixels", TensorProto.FLOAT, shape))
    kept[0].type.tensor_type.shape.dim[0].dim_value = batch
    del model.graph.output[:]
    model.graph.output.extend(kept)
    del model.graph.value_info[:]
    try:
        model = shape_inference.infer_shapes(model, strict_mode=True)
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, shape_inference.InferenceError) as error:
        raise ConversionFailed(f"the graph with a fixed batch is not valid: {error}") from None
    return model


def _replace_cast(graph: onnx.GraphProto, pixels: str) -> None:
    """Let what reads the converted pixels of the input read a tensor of floats instead."""
    (cast,) = [node for node in graph.node if INPUT in node.input and node.op_type == "Cast"]
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == cast.output[0]:
                node.input[i] = pixels
    graph.node.remove(cast)


def _put_channels_first(graph: onnx.GraphProto, channels: int) -> bool:
    """Remove the Transpose at the start of a graph, and the Cast; the arithmetic before it is done channels first.

    Returns:
        False if the graph does not start that way. It is then not changed.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    readers = {name: [node for node in graph.node if name in node.input] for node in graph.node for name in node.output}
    start = [node for node in graph.node if INPUT in node.input]
    if len(start) != 1 or start[0].op_type != "Cast":
        return False
    chain, node = [], start[0]
    while True:
        following = readers[node.output[0]]
        if len(following) != 1:
            return False
        node = following[0]
        if node.op_type == "Transpose":
            break
        values = [name for name in node.input if name in constants]
        if node.op_type not in ARITHMETIC or len(values) != 1:
            return False
        if list(constants[values[0]].dims)[-1:] not in ([], [1], [channels]):
            return False
        chain.append((node, values[0]))
    if tuple(helper.get_attribute_value(node.attribute[0])) != CHANNELS_FIRST:
        return False
    for each, name in chain:
        values_there = numpy_helper.to_array(constants[name])
        moved = values_there.reshape(1, -1, 1, 1) if values_there.size > 1 else values_there.reshape(())
        fresh = f"{name}_first"
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(moved), fresh))
        each.input[list(each.input).index(name)] = fresh
    last = chain[-1][0].output[0] if chain else "pixels"
    for each in readers[node.output[0]]:
        for i, name in enumerate(each.input):
            if name == node.output[0]:
                each.input[i] = last
    graph.node.remove(node)
    _replace_cast(graph, "pixels")
    drop_unused(graph)
    return True


def check(fixed: onnx.ModelProto, graph: onnx.ModelProto, pixels: np.ndarray, batch: int) -> float:
    """Compare the graph with a fixed batch with the exported graph on real pictures.

    Args:
        fixed: What `fixed_batch` returned.
        graph: The exported graph.
        pixels: Real pictures, uint8 (N, H, W, C).
        batch: The size of the batch.

    Returns:
        The largest difference of a probability.

    Raises:
        ParityFailed: It is above the tolerance.
    """
    pixels = np.resize(pixels, (-(-len(pixels) // batch) * batch, *pixels.shape[1:]))
    first, second, difference = open_session(fixed), open_session(graph), 0.0
    for start in range(0, len(pixels), batch):
        part = pixels[start : start + batch]
        moved = np.ascontiguousarray(part.transpose(CHANNELS_FIRST)).astype(np.float32)
        (here,), (there,) = first.run([PROBABILITIES], {"pixels": moved}), second.run([PROBABILITIES], {INPUT: part})
        difference = max(difference, float(np.abs(here - there).max()))
    if not difference <= TOLERANCE:
        raise ParityFailed(
            f"the graph with a fixed batch gives probabilities that differ by {difference:.2g} from those of the "
            f"exported file (allowed {TOLERANCE:g})."
        )
    return difference


def check_place(folder: Path, *, replace: bool) -> None:
    """Check, before anything is made, that the folder for a compiler may be written.

    Raises:
        UsageError: There is something at its place that zoo did not make, or that may not be replaced.
        WriteError: The place cannot be written to.
    """
    files.check_writable(folder.parent if str(folder.parent) else Path(), "--calibration DIR")
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    ours = (folder / ABOUT).is_file() and PURPOSE in (folder / ABOUT).read_text("utf-8", "replace")
    if not ours:
        raise UsageError(f"--calibration: {str(folder)!r} has files that zoo did not make. Name a new folder.")
    if not replace:
        raise UsageError(
            f"--calibration: {str(folder)!r} exists. Add --replace to make it again, or name a new folder."
        )


def write(
    asked: FixedBatch, graph: onnx.ModelProto, classes: Sequence[str], dataset: Dataset, rows: np.ndarray
) -> float:
    """Make the folder for a compiler: the file, the pictures and the labels. It is put in place as a whole.

    Args:
        asked: The folder, and the size of the batch.
        graph: The graph of the exported float32 file.
        classes: The names of the classes.
        dataset: The dataset of the run.
        rows: Indices of training pictures for calibration; at most 128 of them are used.

    Returns:
        The largest difference of a probability from the exported file on these pictures.

    Raises:
        ConversionFailed: The graph cannot be given fixed shapes.
        ParityFailed: It computes something else then.
        WriteError: The folder cannot be written.
    """
    from PIL import Image

    pixels = np.ascontiguousarray(dataset.pixels.array[rows[:MOST_PICTURES]])
    fixed = fixed_batch(graph, asked.batch)
    difference = check(fixed, graph, pixels, asked.batch)
    height, width, channels = pixels.shape[1:]
    about = {
        "purpose": PURPOSE,
        "input": {"name": "pixels", "type": "float32", "shape": [asked.batch, channels, height, width]},
        "values": "0 to 255, red, green, blue; normalization is inside: set mean 0 and standard deviation 1",
        "output": {"name": PROBABILITIES, "shape": [asked.batch, len(classes)]},
        "calibration": f"{ARRAY}: uint8 {list(pixels.shape)}; the same as PNG files in {PICTURES}/, listed in {LIST}",
        "greatest_difference_from_the_exported_file": difference,
    }
    folder = asked.folder
    fresh = folder.with_name(f".{folder.name}.making")
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        (fresh / PICTURES).mkdir(parents=True)
        (fresh / MODEL).write_bytes(fixed.SerializeToString(deterministic=True))
        np.save(fresh / ARRAY, pixels)
        names = [f"{PICTURES}/{i:04}.png" for i in range(len(pixels))]
        for name, picture in zip(names, pixels, strict=True):
            Image.fromarray(picture if channels == 3 else picture[..., 0]).save(fresh / name)
        (fresh / LIST).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        (fresh / LABELS).write_text("".join(f"{' '.join(name.split())}\n" for name in classes), encoding="utf-8")
        (fresh / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        fresh.rename(folder)
    except OSError as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise WriteError(f"{str(folder)!r} cannot be written: {error}.") from error
    return difference
