"""Test what is said of files and folders that are not exported files."""

from __future__ import annotations

import io
import os
import pickle
import shlex
import zipfile

import numpy as np
import pytest
from onnx import TensorProto, helper

from zoo_runtime import CorruptModel, ModelError, ModelNotFound, NotAnExport, Predictor
from zoo_runtime.cli import main


def refusal(given: object) -> ModelError:
    with pytest.raises(ModelError) as caught:
        Predictor(given)
    message = str(caught.value)
    assert "INVALID_PROTOBUF" not in message and "onnxruntime_src" not in message and "\n" not in message
    assert len(message) < 500
    return caught.value


def zipped(*names: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return out.getvalue()


def arrays() -> bytes:
    out = io.BytesIO()
    np.savez(out, a=np.zeros(3), b=np.ones(3))
    return out.getvalue()


FOREIGN = [
    ("m.tflite", b"\x1c\0\0\0TFL3" + bytes(100), "a TensorFlow Lite model"),
    ("renamed.onnx", b"\x1c\0\0\0TFL3" + bytes(100), "a TensorFlow Lite model"),
    ("m.pt", zipped("m/data.pkl", "m/version"), "a PyTorch file"),
    ("renamed.onnx", zipped("archive/data.pkl"), "a PyTorch file"),
    ("cut.pth", b"PK\3\4 and no more", "a PyTorch file"),
    ("m.pkl", pickle.dumps({"weights": [1.0]}), "a Python pickle"),
    ("m.safetensors", (60).to_bytes(8, "little") + b'{"__metadata__":{}}' + bytes(99), "a safetensors file"),
    ("model.keras", zipped("metadata.json", "config.json", "model.weights.h5"), "a Keras file"),
    ("m.h5", b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file"),
    ("frozen.pb", b"\n\x10\n\x05input\x12\x0bPlaceholder" + bytes(99), "a TensorFlow graph"),
    ("saved_model.pb", b"\x08\x01\x12\x05hello" * 20, "a TensorFlow graph"),
    ("m.npz", arrays(), "a file of NumPy arrays"),
    ("m.onnx.gz", b"\x1f\x8b\x08\0" + bytes(99), "a gzip archive"),
    ("m.zip", zipped("model.onnx"), "a ZIP archive"),
    ("lfs.onnx", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", "git lfs pull"),
    ("page.onnx", b"\r\n<!DOCTYPE html>\n<html><head>", "Download raw file"),
    ("ir.xml", b'<?xml version="1.0"?><net>', "OpenVINO"),
    ("missing.onnx", b"404: Not Found", "begins with '404: Not Found'"),
    ("cat.jpg", b"\xff\xd8\xff\xe0" + bytes(99), "a picture"),
    ("cat.png", b"\x08not even a picture", "a picture"),
]


@pytest.mark.parametrize(("name", "content", "words"), FOREIGN, ids=[f"{row[0]}-{row[2]}" for row in FOREIGN])
def test_a_file_of_another_kind(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    error = refusal(tmp_path / name)
    assert isinstance(error, NotAnExport) and words in str(error) and name in str(error)
    if name.endswith(".onnx"):
        assert words in str(refusal(content))


def test_the_file_itself_is_not_named_as_the_one_beside_it(model):
    (model.parent / "note.txt").write_text("hello")
    assert f"Give {str(model)!r}, which is beside it." in str(refusal(model.parent / "note.txt"))
    model.write_text("hello")
    assert "begins with 'hello'" in str(refusal(model)) and "beside it" not in str(refusal(model))


def test_a_large_file_is_not_read_whole(tmp_path, monkeypatch):
    """The file has 4 GB, but nearly all of it is a hole."""
    path = tmp_path / "large.safetensors"
    with path.open("wb") as stream:
        stream.write((60).to_bytes(8, "little") + b'{"__metadata__":{}}')
        try:
            stream.truncate(2**32)
        except OSError:
            pytest.skip("this file system has no files with holes")
    assert "a safetensors file" in str(refusal(path))
    os.rename(path, tmp_path / "large.pb")
    with (tmp_path / "large.pb").open("r+b") as stream:
        stream.write(b"\n\xff\xff\xff\x7f" + bytes(30))
    assert "a TensorFlow graph" in str(refusal(tmp_path / "large.pb"))


def test_an_empty_file_and_zero_bytes(tmp_path):
    for content, words in ((b"", "is empty"), (bytes(5000), "zero bytes only")):
        (tmp_path / "model.onnx").write_bytes(content)
        for given in (tmp_path, content):
            assert isinstance(refusal(given), CorruptModel) and words in str(refusal(given))


def test_a_cut_copy_says_how_much_is_missing(model, model_bytes):
    for end in range(200, len(model_bytes) - 1, len(model_bytes) // 20):
        model.write_bytes(model_bytes[:end])
        error = refusal(model)
        if isinstance(error, CorruptModel):
            assert f"it has {end:,} bytes, and at least " in str(error) and "Copy the file again" in str(error)


def made_by_others(opset: int = 17, ir_version: int = 9, op: str = "Flatten", domain: str = "") -> bytes:
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], ["y"], domain=domain)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 192])],
    )
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(
        graph, opset_imports=opsets, ir_version=ir_version, producer_name="pytorch"
    ).SerializeToString()


@pytest.mark.parametrize(
    "change",
    [{}, {"opset": 99}, {"ir_version": 99}, {"op": "Foo", "domain": "my.own"}, {"op": "Foo"}],
    ids=lambda change: "-".join(change),
)
def test_onnx_of_another_program(tmp_path, change):
    """Whether ONNX Runtime can load it or not."""
    (tmp_path / "theirs.onnx").write_bytes(made_by_others(**change))
    error = refusal(tmp_path / "theirs.onnx")
    assert isinstance(error, NotAnExport) and "theirs.onnx' is an ONNX file of another program (pytorch)" in str(error)


def test_an_export_for_a_newer_onnxruntime(model):
    import onnx

    graph = onnx.load(model)
    graph.opset_import[0].version = 99
    onnx.save(graph, model)
    error = refusal(model)
    assert isinstance(error, CorruptModel) and "has ONNX opset 99" in str(error)
    assert "pip install --upgrade onnxruntime" in str(error)
    graph.opset_import[0].version, graph.ir_version = 13, 99
    onnx.save(graph, model)
    assert "has ONNX IR version 99" in str(refusal(model))


def test_an_export_whose_metadata_another_program_removed(model):
    import onnx

    graph = onnx.load(model)
    del graph.metadata_props[:]
    onnx.save(graph, model)
    assert "Use the file that zoo made" in str(refusal(model))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], "It is empty"),
        (["other.onnx"], "other.onnx': give that file"),
        (["a.onnx", "b.onnx"], "give one of these files"),
        (["base/model.onnx", "notes.txt"], "base': give that folder"),
        (["one/model.onnx", "two/model.onnx"], "give one of these folders"),
        (["run.json", "model.keras"], "`zoo export "),
        (["model.keras"], "a Keras file"),
        (["saved_model.pb", "variables/x"], "a TensorFlow graph"),
        (["cat.jpg"], "It holds pictures"),
        (["cats/1.jpg"], "It holds pictures"),
        (["notes.txt"], "Give the model.onnx"),
    ],
)
def test_a_folder_without_a_model(tmp_path, files, words):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    error = refusal(tmp_path)
    assert isinstance(error, ModelNotFound) and words in str(error)


def test_model_keras_in_a_run_names_the_command(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "model.keras").write_bytes(zipped("config.json", "metadata.json", "model.weights.h5"))
    assert f"`zoo export {tmp_path}`" in str(refusal(tmp_path / "model.keras"))
    (tmp_path / "model.onnx").write_bytes(b"x")
    assert f"Give {str(tmp_path / 'model.onnx')!r}" in str(refusal(tmp_path / "model.keras"))


def test_addresses_names_and_other_objects(model, tmp_path, monkeypatch):
    assert "Download the file first" in str(refusal("https://example.org/model.onnx"))
    assert "os.fsdecode" in str(refusal(os.fsencode(model)))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exported" / "base").mkdir(parents=True)
    (tmp_path / "exported" / "base" / "model.onnx").write_bytes(model.read_bytes())
    assert f"Did you mean {os.path.join('exported', 'base')!r}?" in str(refusal("base"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert Predictor("~/exported/base").info == Predictor(bytearray(model.read_bytes())).info
    with pytest.raises(TypeError, match="Received: NoneType"):
        Predictor(None)
    with model.open("rb") as stream, pytest.raises(TypeError, match=r"file\.read\(\)"):
        Predictor(stream)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names there")
def test_a_model_from_a_pipe(model, model_bytes, tmp_path):
    """Shells give a pipe for `zoo-runtime info <(unzip -p model.zip)`."""
    import threading

    os.mkfifo(tmp_path / "pipe")
    writing = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(model_bytes,))
    writing.start()
    predictor = Predictor(tmp_path / "pipe", threads=2)
    writing.join()
    pixels = np.full((8, 8, 3), (250, 0, 0), np.uint8)
    assert [result.label for result in predictor([pixels] * 20)] == ["red"] * 20 and predictor.info.classes


def test_swapped_arguments_show_the_right_command(model, pictures, capsys):
    red = str(pictures / "red.jpg")
    for first, path in ((red, str(model)), (str(pictures), str(model.parent)), (red, str(model.parent))):
        assert main(["predict", "--top", "2", first, path]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1
        command = captured.err.split("`")[1]
        assert command == shlex.join(["zoo-runtime", "predict", "--top", "2", path, first])
    assert main(["predict", red, red]) == 1
    assert "is a picture, not an exported file. Give the exported file first" in capsys.readouterr().err
