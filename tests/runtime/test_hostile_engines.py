"""Test that .tflite files and OpenVINO models with what exports never have are refused before they are opened."""

from __future__ import annotations

import io
import random
import re
import struct
import subprocess
import sys
import zipfile

import pytest
from conftest import SHARPNESS
from engine_files import openvino_ir, tflite

from zoo_runtime import CorruptModel, ModelError, ModelNotFound, NotAnExport, Predictor, UnsafeModel
from zoo_runtime.workshop import with_labels


@pytest.fixture
def never_opened(monkeypatch):
    """Let a test fail if an engine is asked to open a file."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the engine was asked to open the file")

    interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason="needs ai-edge-litert")
    openvino = pytest.importorskip("openvino", reason="needs openvino")
    monkeypatch.setattr(interpreter, "Interpreter", fail)
    monkeypatch.setattr(openvino, "Core", fail)


def first_operator(model):
    return model.subgraphs[0].operators[0]


def first_tensor(model):
    return model.subgraphs[0].tensors[0]


def custom_operator(model):
    model.operatorCodes[0].customCode = "Evil"


def external_buffers(model):
    from ai_edge_litert import schema_py_generated as schema

    group = schema.ExternalBufferGroupT()
    group.name = "/etc/passwd"
    model.externalBufferGroups = [group]


def outside(model):
    model.buffers[1].offset, model.buffers[1].size = 5000, 8


def variable(model):
    first_tensor(model).isVariable = True


def control_flow(model):
    for code in model.operatorCodes[:1]:
        code.builtinCode = code.deprecatedBuiltinCode = 119


def two_graphs(model):
    model.subgraphs = [model.subgraphs[0], model.subgraphs[0]]


def huge_tensor(model):
    model.subgraphs[0].tensors[1].shape = [1, 50_000, 50_000, 3]


def text_tensor(model):
    first_tensor(model).type = 5


def huge_fill(model):
    import numpy as np

    model.operatorCodes[1].builtinCode = model.operatorCodes[1].deprecatedBuiltinCode = 94
    model.buffers[1].data = np.frombuffer(np.array([60_000, 60_000], np.int32).tobytes(), np.uint8)


UNSAFE = {
    custom_operator: "the operator 'Evil'",
    external_buffers: "weights in other files",
    outside: "weights outside of the FlatBuffer",
    variable: "a variable, a sparse tensor",
    control_flow: "the operator number 119",
    two_graphs: "2 graphs instead of one",
    huge_tensor: "a tensor of more than 268,435,456 elements",
    text_tensor: "text or other things than numbers",
    huge_fill: "a constant that asks for a huge tensor",
}


@pytest.mark.parametrize("change", UNSAFE, ids=lambda change: change.__name__)
def test_what_exports_never_have_is_refused(change, info, never_opened):
    refused(tflite(info, SHARPNESS, change), UnsafeModel, UNSAFE[change])


def no_such_tensor(model):
    first_operator(model).inputs = [99]


def not_yet_computed(model):
    first_operator(model).inputs = [5]


def written_twice(model):
    first_operator(model).outputs = [0]


def no_such_operator(model):
    first_operator(model).opcodeIndex = 99


def no_such_buffer(model):
    first_tensor(model).buffer = 99


def too_few_bytes(model):
    model.buffers[2].data = model.buffers[2].data[:-4]


def negative_side(model):
    first_tensor(model).shape = [1, -24, 32, 3]


def step_of_zero(model):
    from ai_edge_litert import schema_py_generated as schema

    model.operatorCodes[0].builtinCode = model.operatorCodes[0].deprecatedBuiltinCode = 17
    operator = first_operator(model)
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.Pool2DOptions, schema.Pool2DOptionsT()


BROKEN = {
    no_such_tensor: "an input that nothing computes",
    not_yet_computed: "an input that nothing computes",
    written_twice: "an output that is already there",
    no_such_operator: "an operator does not exist",
    no_such_buffer: "a tensor has no buffer",
    too_few_bytes: "more or fewer bytes than its shape needs",
    negative_side: "an impossible shape",
    step_of_zero: "an impossible step or window",
}


@pytest.mark.parametrize("change", BROKEN, ids=lambda change: change.__name__)
def test_damaged_structures_are_refused(change, info, never_opened):
    refused(tflite(info, SHARPNESS, change), CorruptModel, BROKEN[change])


def refused(content, kind, words):
    with pytest.raises(ModelError, match=re.escape(words)) as caught:
        Predictor(content)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_an_archive_with_bombs_is_refused(info, never_opened):
    bare = tflite(info, SHARPNESS, metadata=False)
    stream = io.BytesIO(bare)
    stream.seek(0, io.SEEK_END)
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zoo.json", b" " * (17 * 2**20))
    assert len(stream.getvalue()) < len(bare) + 40_000
    refused(stream.getvalue(), UnsafeModel, "more than 16,777,216 bytes of metadata")
    with zipfile.ZipFile(stream, "a") as archive:
        for number in range(20):
            archive.writestr(f"{number}", b"")
    refused(stream.getvalue(), UnsafeModel, "more than 16 parts behind the network")
    damaged = bytearray(tflite(info, SHARPNESS))
    end = damaged.rfind(b"PK\5\6")
    struct.pack_into("<I", damaged, end + 16, 2**31)
    with pytest.raises(ModelError):
        Predictor(bytes(damaged))


@pytest.mark.parametrize("cut", [20, 200, 600])
def test_a_file_that_was_cut_off_is_refused(cut, info, never_opened):
    content = tflite(info, SHARPNESS, metadata=False)
    refused(with_labels(content[:-cut], info.to_metadata(), info.classes), CorruptModel, "is damaged")
    with pytest.raises(NotAnExport):
        Predictor(content[:-cut])


CHANGES = [
    ("<net name", '<!DOCTYPE a [<!ENTITY x "y">]><net name', "a document type or entities in its XML"),
    ('type="SoftMax" version="opset8"', 'type="SoftMax" version="evil"', "the operator SoftMax of evil"),
    ('type="SoftMax" version="opset8"', 'type="Loop" version="opset8"', "the operator Loop, whose output"),
    ("<rt_info>", '<rt_info><runtime_options><a value="1"/></runtime_options>', "options for OpenVINO"),
    ('shape="3, 3"', 'shape="30000, 30000"', "a tensor of more than 268,435,456 elements"),
    ('shape="3, 3"', 'shape="3, 4"', "more or fewer bytes than its shape needs"),
    ('shape="2" offset="0"', 'shape="2" offset="9000"', "beyond the end of the weights"),
    ('from-layer="0"', 'from-layer="99"', "an edge leads to a layer that does not exist"),
    ("</net>", "</net", "its XML cannot be read"),
    ('<zoo.task value="', '<zoo.task value="&amp;" /><zoo.task value="', "is there twice"),
]


@pytest.mark.parametrize(("old", "new", "words"), CHANGES, ids=[words for _, _, words in CHANGES])
def test_hostile_xml_is_refused(old, new, words, tmp_path, info, graph):
    pytest.importorskip("openvino", reason="needs openvino")
    path = openvino_ir(tmp_path / "ir", graph({}), info.to_metadata())
    text = path.read_text("utf-8")
    assert old in text, re.findall(r"<layer .*|<data .*", text)
    path.write_text(text.replace(old, new, 1), "utf-8")
    with pytest.raises((UnsafeModel, CorruptModel), match=re.escape(words)) as caught:
        Predictor(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_weights_that_are_missing_or_elsewhere(tmp_path, info, graph):
    pytest.importorskip("openvino", reason="needs openvino")
    path = openvino_ir(tmp_path / "ir", graph({}), info.to_metadata())
    (path.parent / "model.bin").rename(tmp_path / "model.bin")
    with pytest.raises(ModelNotFound, match=r"model\.bin"):
        Predictor(path)


MUTATE = """
import random, sys
import numpy as np
from zoo_runtime import ModelError, Predictor

content = open(sys.argv[1], "rb").read()
size, rng = int(sys.argv[2]), random.Random(int(sys.argv[3]))
counts = [0, 0]
for _ in range(int(sys.argv[4])):
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        changed[rng.randrange(8, size)] = rng.choice((0, 1, 2, 127, 128, 255, rng.randrange(256)))
    try:
        Predictor(bytes(changed))(np.zeros((9, 9, 3), np.uint8))
        counts[0] += 1
    except ModelError:
        counts[1] += 1
print(*counts)
"""


@pytest.mark.parametrize(
    ("count", "seed"), [(150, 0), *(pytest.param(1000, seed, marks=pytest.mark.slow) for seed in (1, 2))]
)
def test_changed_files_crash_nothing(count, seed, tmp_path, info):
    """Every changed file gives an answer or a typed error. The process would end with a signal otherwise."""
    pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert")
    bare = tflite(info, SHARPNESS, metadata=False)
    path = tmp_path / "model.tflite"
    path.write_bytes(tflite(info, SHARPNESS))
    command = [sys.executable, "-c", MUTATE, path, str(len(bare)), str(seed), str(count)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert ran.returncode == 0, (ran.returncode, ran.stderr[-2000:])
    answered, refused_ones = map(int, ran.stdout.split())
    assert answered + refused_ones == count and refused_ones > count // 10


def test_random_bytes_are_refused(never_opened):
    rng = random.Random(0)
    for _ in range(200):
        with pytest.raises(ModelError):
            Predictor(rng.randbytes(4) + b"TFL3" + rng.randbytes(rng.randrange(300)))
