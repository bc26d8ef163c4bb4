"""Formats of plugins: what a stranger's format receives, what refuses a file, and that nothing else is harmed."""

from __future__ import annotations

import json
import shutil
import zipfile

import numpy as np
import onnx
import pytest

from zoo.errors import InvalidPluginData, UsageError
from zoo.export import format_metadata
from zoo.plugin import Format, format_choice, registry
from zoo_runtime import CorruptModel, ModelInfo, NotAnExport, Predictor

# A stranger's module: it stores the ONNX file under another name. Its other formats go wrong in one way each.
PLUGIN = """
import json
from zoo.plugin import Format, hookimpl

def make(source):
    assert source.calibration.dtype == "uint8" and len(source.calibration) <= 128
    assert not list(source.folder.iterdir())
    (source.folder / "net.bin").write_bytes(source.onnx)
    (source.folder / "net.txt").write_text("\\n".join(source.classes))
    print("a plugin prints")

def run(folder, change=lambda outputs: outputs):
    import onnxruntime
    session = onnxruntime.InferenceSession((folder / "net.bin").read_bytes())
    names = [each.name for each in session.get_outputs()]
    return lambda pixels: change(dict(zip(names, session.run(None, {"image": pixels}))))

def swapped(outputs):
    return {**outputs, "probabilities": outputs["probabilities"][:, ::-1].copy()}

def close(outputs):
    return {**outputs, "probabilities": outputs["probabilities"] * 0.97 + 0.01}

def unsure(outputs):
    return {**outputs, "probabilities": outputs["probabilities"] * 0.7 + 0.1}

def fails(source):
    raise ValueError("this graph is too deep")

def ends(source):
    raise SystemExit("bye")

def format(name, make=make, change=None, **more):
    runs = run if change is None else lambda folder: run(folder, change)
    return Format(name=name, summary="of a stranger", file="net.bin", make=make, run=runs, **more)

@hookimpl
def zoo_formats():
    return [
        format("steady", tolerance=1e-4),
        format("unsure", change=unsure),
        format("fails", make=fails),
        format("ends", make=ends),
        format("makes-nothing", make=lambda source: None),
        format("swapped", change=swapped),
        format("close", change=close, tolerance=1e-3),
        format("silent", change=lambda outputs: {}),
        format("shapes", change=lambda outputs: {**outputs, "probabilities": outputs["probabilities"][:, :2]}),
        format("nan", change=lambda outputs: {**outputs, "probabilities": outputs["probabilities"] * float("nan")}),
        format("uninstalled", needs=("a_module_of_that_name",), install="pip install a-module"),
    ]
"""
REASONS = {
    "fails": "the format fails failed in 'make': ValueError: this graph is too deep",
    "ends": "the format ends failed in 'make': SystemExit: bye",
    "makes-nothing": "the format makes-nothing made no file 'net.bin'. It made nothing",
    "swapped": "accuracy",
    "close": "its probabilities differ from those of the ONNX file by up to 0.0",
    "silent": "gives no output 'probabilities'",
    "shapes": "gives the output 'probabilities' with the shape",
    "nan": "gives values that are not finite in 'probabilities'",
}


@pytest.fixture
def stranger(install_plugin):
    install_plugin("stranger", PLUGIN)


@pytest.mark.slow
def test_a_format_of_a_stranger(stranger, run, exported, zoo):
    float32 = (exported / "shapes" / "model.onnx").read_bytes()
    ran = zoo("export", run, "--exported", exported, "--as", ",".join(["steady", *REASONS]))
    assert ran.code == 1 and "a plugin prints" not in ran.out
    lines = {line.split()[2]: line for line in ran.err.splitlines() if line.startswith("error: no ")}
    assert lines.keys() == REASONS.keys()
    for name, why in REASONS.items():
        assert why in lines[name], lines[name]
        # Nothing of a refused file is left in place.
        assert not list((exported / f"shapes-{name}").glob("*")) and not (run / "formats" / name).exists()
    assert (exported / "shapes" / "model.onnx").read_bytes() == float32
    target = exported / "shapes-steady" / "net.bin"
    info = format_metadata.info_in(target)
    assert info.classes == ("bars", "discs", "noise") and info.precision["kind"] == "steady"
    assert info.precision["same_as_onnx"]["probabilities_difference"] == 0
    figures = json.loads((run / "formats" / "steady.json").read_text())
    assert figures["accuracy"] == figures["float32_accuracy"] and figures["refusal"] is None
    assert figures["bytes"] == target.stat().st_size + (target.parent / "net.txt").stat().st_size
    refused = json.loads((run / "formats" / "swapped.json").read_text())
    assert refused["accuracy"] < refused["float32_accuracy"] - 0.3 and refused["refusal"].startswith("accuracy")
    card = (target.parent / "README.md").read_text()
    assert "`net.bin`" in card and f"`{figures['weights_sha256']}`" in card and "a file in the format steady" in card
    assert "shapes-steady/net.bin" in (exported / "shapes" / "README.md").read_text()
    shown = zoo("runs", "show", run)
    assert "formats/steady/net.bin" in shown.out and "formats/swapped" not in shown.out
    # The file of this run is replaced without --replace.
    assert zoo("export", run, "--exported", exported, "--as", "steady").code == 0


def test_thresholds_are_measured_with_the_file_itself(stranger, run, exported, zoo):
    ran = zoo("export", run, "--exported", exported, "--as", "onnx,steady,unsure", "--precision", 0.5)
    assert ran.code == 0, ran.err
    plain = Predictor(exported / "shapes").info.trust
    steady, unsure = (format_metadata.info_in(exported / f"shapes-{name}" / "net.bin") for name in ("steady", "unsure"))
    assert steady.trust == plain and "own_thresholds" not in steady.precision["same_as_onnx"]
    assert unsure.precision["same_as_onnx"]["own_thresholds"] is True
    # The file is less sure by 0.7 p + 0.1, and so are its thresholds. They are rounded down to multiples of 0.0001.
    expected = {name: 0.7 * value + 0.1 for name, value in plain["sets"].items() if value}
    found = {name: value for name, value in unsure.trust["sets"].items() if name in expected}
    assert found == pytest.approx(expected, abs=3e-3) and expected
    assert unsure.trust["unknown"]["threshold"] == pytest.approx(0.7 * plain["unknown"]["threshold"] + 0.1, abs=3e-3)
    assert unsure.trust["unknown"]["coverage"] == plain["unknown"]["coverage"]
    assert unsure.trust["calibration"] == plain["calibration"]


def test_a_format_is_looked_up_before_anything_is_done(stranger, run, exported, zoo, tmp_path):
    ran = zoo("export", run, "--exported", exported, "--as", "uninstalled")
    assert ran.code == 2 and "Install it: pip install a-module" in ran.err
    arguments = ["finetune", "mobilenetv2_035", "--runs", tmp_path / "new", "--exported", tmp_path / "exported"]
    ran = zoo(*arguments, "--as", "stedy")
    assert ran.code == 2 and "Did you mean steady" in ran.err and "`zoo list formats`" in ran.err
    assert not (tmp_path / "new").exists()
    ran = zoo("list", "formats", "stead")
    assert ran.code == 0 and ran.out.split("\n")[1].split()[:4] == ["steady", "net.bin", "stranger", "yes"]
    shown = zoo("info", "uninstalled").out
    assert "no; run `pip install a-module`" in shown
    for words, why in (
        (["--as", "steady,"], "a name is empty"),
        (["--as", "steady", "--top"], "--as steady goes with a run"),
        (["--as", "steady", "--web", tmp_path / "page"], "Leave out --as"),
        (["--static-batch", "2"], "--static-batch goes with --calibration DIR"),
    ):
        ran = zoo("export", run, *words)
        assert ran.code == 2 and why in ran.err, ran.err


def test_fields_of_a_format_are_checked():
    good = {"name": "a", "summary": "b", "file": "model.x", "make": print, "run": print}
    assert Format(**good).missing() == []
    for field, value in (
        ("file", "../model.x"),
        ("file", "model"),
        ("graph", "int4"),
        ("run", None),
        ("make", 3),
        ("tolerance", 0),
        ("tolerance", 2.0),
        ("needs", "onnx"),
        ("summary", ""),
    ):
        with pytest.raises(InvalidPluginData, match=field):
            Format(**{**good, field: value})
    with pytest.raises(UsageError):
        format_choice.check_formats(["nothing"], registry.load())


# The positions of fields in the tables of metadata_schema.fbs 1.0.0, and the numbers of its enums.
SUBGRAPHS, PARSER, NAME, UNITS, STATS, FILES = 3, 7, 0, 4, 5, 6


def test_the_metadata_of_tensorflow_lite_follow_the_schema():
    flatbuffers = pytest.importorskip("flatbuffers")
    from flatbuffers import encode, number_types, table

    from zoo_plugins.litert_metadata import tflite_metadata

    content = bytearray(tflite_metadata("net", 3, ["probabilities", "outlier_score"], "labels.txt"))
    assert flatbuffers.util.BufferHasIdentifier(content, 0, b"M001")

    def place(of, field):
        return table.Table.Offset(of, 4 + 2 * field)

    def child(of, field):
        return table.Table(content, of.Indirect(of.Pos + place(of, field)))

    def children(of, field):
        start = of.Vector(place(of, field))
        return [table.Table(content, of.Indirect(start + 4 * i)) for i in range(of.VectorLen(place(of, field)))]

    def text(of, field):
        return of.String(of.Pos + place(of, field)).decode()

    def byte(of, field):
        return of.Get(number_types.Int8Flags, of.Pos + place(of, field)) if place(of, field) else 0

    def floats(of, field):
        start = of.Vector(place(of, field))
        return [of.Get(number_types.Float32Flags, start + 4 * i) for i in range(of.VectorLen(place(of, field)))]

    root = table.Table(content, encode.Get(number_types.UOffsetTFlags.packer_type, content, 0))
    assert text(root, NAME) == "net" and text(root, PARSER) == "1.0.0"
    (graph,) = children(root, SUBGRAPHS)
    (image,), outputs = children(graph, 2), children(graph, 3)
    assert text(image, NAME) == "image" and [text(each, NAME) for each in outputs] == ["probabilities", "outlier_score"]
    described = child(image, 3)
    assert byte(described, 0) == 2 and byte(child(described, 1), 0) == 1, "an image in RGB"
    (unit,) = children(image, UNITS)
    assert byte(unit, 0) == 1 and (floats(child(unit, 1), 0), floats(child(unit, 1), 1)) == ([0.0], [1.0])
    assert (floats(child(image, STATS), 0), floats(child(image, STATS), 1)) == ([255.0], [0.0])
    assert [byte(child(each, 3), 0) for each in outputs] == [1, 1], "features"
    (labels,) = children(outputs[0], FILES)
    assert text(labels, 0) == "labels.txt" and byte(labels, 2) == 2 and not place(outputs[1], FILES)
    gray = tflite_metadata("net", 1, ["probabilities"], "labels.txt")
    assert b"gray" in gray and b"outlier" not in gray


def test_metadata_of_other_formats(tmp_path, exported):
    info = Predictor(exported / "shapes").info
    tflite, ir = tmp_path / "model.tflite", tmp_path / "model.xml"
    tflite.write_bytes(b"\0\0\0\0TFL3 and more")
    with pytest.raises(NotAnExport):
        format_metadata.info_in(tflite)
    with zipfile.ZipFile(tflite, "a") as archive:
        archive.writestr("zoo.json", json.dumps(info.to_metadata()))
    assert format_metadata.info_in(tflite) == info and format_metadata.carries_metadata(tflite)
    ir.write_text("<net><rt_info><zoo><zoo.schema value='x'/></zoo></rt_info></net>")
    assert dict(format_metadata.metadata_in(ir)) == {"zoo.schema": "x"}
    ir.write_text("<net>")
    with pytest.raises(CorruptModel, match="damaged"):
        format_metadata.info_in(ir)
    assert format_metadata.companions(ir) == []
    (tmp_path / "model.bin").write_bytes(b"weights")
    assert format_metadata.companions(ir) == [tmp_path / "model.bin"]


def test_a_folder_for_compilers(run, exported, zoo, tmp_path):
    folder = tmp_path / "hailo"
    before = (exported / "shapes" / "model.onnx").read_bytes()
    ran = zoo("export", run, "--exported", exported, "--static-batch", 2, "--calibration", folder)
    assert ran.code == 0 and (exported / "shapes" / "model.onnx").read_bytes() == before, ran.err
    graph = onnx.load(folder / "model.onnx").graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert shapes == {"pixels": [2, 3, 32, 32], "probabilities": [2, 3]}
    assert not {"Cast", "Transpose"} & {node.op_type for node in graph.node}
    pixels = np.load(folder / "calibration.npy")
    assert pixels.dtype == np.uint8 and pixels.shape[1:] == (32, 32, 3)
    pictures = (folder / "dataset.txt").read_text().splitlines()
    assert len(pictures) == len(pixels) and (folder / "labels.txt").read_text() == "bars\ndiscs\nnoise\n"
    from PIL import Image

    assert np.array_equal(np.asarray(Image.open(folder / pictures[-1])), pixels[-1])
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (got,) = session.run(None, {"pixels": pixels[:2].transpose(0, 3, 1, 2).astype(np.float32)})
    assert np.abs(got - Predictor(exported / "shapes").probabilities(pixels[:2])).max() < 1e-5
    ran = zoo("export", run, "--exported", exported, "--calibration", folder)
    assert ran.code == 2 and "Add --replace" in ran.err
    (folder / "about.json").unlink()
    ran = zoo("export", run, "--exported", exported, "--calibration", folder, "--replace")
    assert ran.code == 2 and "files that zoo did not make" in ran.err and (folder / "model.onnx").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("module", ["ai_edge_litert", "openvino"])
def test_built_in_formats(module, run, exported, zoo):
    pytest.importorskip(module)
    names = {
        "ai_edge_litert": ["litert", "litert-int8"],
        "openvino": ["openvino", "openvino-fp16", "openvino-int8"],
    }[module]
    shutil.rmtree(run / "formats", ignore_errors=True)
    ran = zoo("export", run, "--exported", exported, "--as", ",".join(names), "--max-drop", 10)
    assert ran.code == 0, ran.err
    for name in names:
        (path,) = [*(exported / f"shapes-{name}").glob("model.tflite"), *(exported / f"shapes-{name}").glob("*.xml")]
        info = format_metadata.info_in(path)
        assert isinstance(info, ModelInfo) and info.precision["kind"] == name and info.selftest["pictures"]
        same = info.precision["same_as_onnx"]
        # In 8 bits, engines round in different ways. A picture between two classes may change by 0.3. But on average,
        # the file is no further from the ONNX file than that is from float32, which is 0.012 to 0.027.
        limits = {"litert": 1e-4, "openvino": 1e-4, "openvino-fp16": 0.05}
        assert same["probabilities_difference"] <= limits.get(name, 1)
        assert same["probabilities_mean_difference"] <= (0.03 if name.endswith("-int8") else 0.01)
        assert same["top1_equal"] >= 0.95 * same["pictures"]
        # A file that answers otherwise than the ONNX file has thresholds of its own.
        assert ("own_thresholds" in same) == (same["probabilities_difference"] > 1e-3)
        assert not (path.parent / format_metadata.SIDECAR).exists()
    if module == "ai_edge_litert":
        assert zipfile.ZipFile(path).read("labels.txt") == b"bars\ndiscs\nnoise\n"
        from ai_edge_litert.interpreter import Interpreter

        signature = Interpreter(str(path)).get_signature_list()["serving_default"]
        assert signature["inputs"] == ["image"] and "probabilities" in signature["outputs"]
