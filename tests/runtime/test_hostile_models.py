"""Test that ONNX files with what exports never have are refused before ONNX Runtime opens them.

Each row of SECURITY.md about exported files names a test of this file.
"""

from __future__ import annotations

import os
import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import zoo_runtime._session
from zoo_runtime import CorruptModel, ModelError, NotAnExport, Predictor, UnsafeModel


@pytest.fixture
def never_opened(monkeypatch):
    """Let a test fail if ONNX Runtime is asked to open a file."""

    class Refusing:
        SessionOptions = staticmethod(lambda: __import__("onnxruntime").SessionOptions())

        @staticmethod
        def InferenceSession(*arguments: object, **options: object) -> None:
            raise AssertionError("ONNX Runtime was asked to open the file")

    monkeypatch.setattr(zoo_runtime._session, "load", lambda: Refusing)


def refused(content: bytes, folder, kind: type[ModelError], words: str) -> None:
    """Check that a file is refused with a message of one line, by its path and as bytes."""
    (folder / "hostile.onnx").write_bytes(content)
    for given in (folder / "hostile.onnx", content):
        with pytest.raises(kind, match=re.escape(words)) as caught:
            Predictor(given)
        assert type(caught.value) is kind
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def external(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """Let a tensor take its bytes from another file."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "secret.bin"
    return tensor


def weights() -> onnx.TensorProto:
    return numpy_helper.from_array(np.zeros((3, 3), np.float32), "stolen")


def inner(*nodes: onnx.NodeProto, tensors: tuple[onnx.TensorProto, ...] = ()) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "inner", [], [], list(tensors))


def with_node(model: onnx.ModelProto, *nodes: onnx.NodeProto) -> None:
    model.graph.node.extend(nodes)


def add_initializer(model):
    model.graph.initializer.append(external(weights()))


def add_constant(model):
    with_node(model, helper.make_node("Constant", [], ["c"], value=external(weights())))


def add_list_of_tensors(model):
    node = helper.make_node("Constant", [], ["c"], name="c")
    node.attribute.append(
        onnx.AttributeProto(name="many", type=onnx.AttributeProto.TENSORS, tensors=[external(weights())])
    )
    with_node(model, node)


def add_subgraph(model):
    with_node(model, helper.make_node("If", ["b"], ["c"], then_branch=inner(tensors=(external(weights()),))))


def add_list_of_graphs(model):
    node = helper.make_node("If", ["b"], ["c"])
    graphs = [inner(), inner(tensors=(external(weights()),))]
    node.attribute.append(onnx.AttributeProto(name="many", type=onnx.AttributeProto.GRAPHS, graphs=graphs))
    with_node(model, node)


def add_deep_constant(model):
    body = inner(helper.make_node("Constant", [], ["c"], value=external(weights())))
    for _ in range(4):
        body = inner(helper.make_node("Loop", ["n"], ["c"], body=body))
    with_node(model, helper.make_node("Loop", ["n"], ["c"], body=body))


def add_location_alone(model):
    """ONNX Runtime reads the place of the bytes, whatever the field `data_location` says."""
    tensor = weights()
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "secret.bin"
    model.graph.initializer.append(tensor)


def add_mislabeled_attribute(model):
    """The type of an attribute says which of its fields counts. The others must not hide anything."""
    node = helper.make_node("Constant", [], ["c"], value_int=1)
    node.attribute[0].t.CopyFrom(external(weights()))
    with_node(model, node)


def add_memory_address(model):
    """ONNX Runtime takes a place of this name for an address in its memory."""
    tensor = external(weights())
    tensor.external_data[0].value = "*/_ORT_MEM_ADDR_/*"
    model.graph.initializer.append(tensor)


EXTERNAL = [
    add_initializer,
    add_constant,
    add_list_of_tensors,
    add_subgraph,
    add_list_of_graphs,
    add_deep_constant,
    add_location_alone,
    add_mislabeled_attribute,
    add_memory_address,
]


@pytest.mark.parametrize("change", EXTERNAL, ids=lambda change: change.__name__)
def test_external_data_is_refused_wherever_it_is(change, model_bytes, tmp_path, never_opened):
    (tmp_path / "secret.bin").write_bytes(bytes(36))
    model = onnx.load_from_string(model_bytes)
    change(model)
    refused(model.SerializeToString(), tmp_path, UnsafeModel, "external data")


def add_sparse_initializer(model):
    sparse = onnx.SparseTensorProto(values=weights(), indices=weights(), dims=[10**6, 10**6])
    model.graph.sparse_initializer.append(sparse)


def add_sparse_attribute(model):
    node = helper.make_node("Constant", [], ["c"])
    sparse = onnx.SparseTensorProto(values=external(weights()), dims=[3])
    node.attribute.append(
        onnx.AttributeProto(name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR, sparse_tensor=sparse)
    )
    with_node(model, node)


def add_function(model):
    node = helper.make_node("Constant", [], ["c"], value=external(weights()))
    model.functions.append(helper.make_function("own", "f", [], ["c"], [node], [helper.make_opsetid("", 13)]))


def add_training(model):
    info = model.training_info.add()
    info.algorithm.CopyFrom(inner(tensors=(external(weights()),)))


def add_vendor_operator(model):
    """This operator reads another file, too."""
    node = helper.make_node("EPContext", [], ["c"], domain="com.microsoft", ep_cache_context="secret.bin", embed_mode=0)
    with_node(model, node)


def add_nested_vendor_operator(model):
    with_node(
        model, helper.make_node("If", ["b"], ["c"], else_branch=inner(helper.make_node("X", [], [], domain="own")))
    )


def add_nested_graphs(model):
    body = inner()
    for _ in range(20):
        body = inner(helper.make_node("Loop", ["n"], ["c"], body=body))
    with_node(model, helper.make_node("Loop", ["n"], ["c"], body=body))


def add_metadata(model):
    entry = model.metadata_props.add()
    entry.key, entry.value = "zoo.more", "x" * 100_000_000


def ask(operator: str, *inputs: np.ndarray | None, **attributes: object):
    """Return a change that adds a node with constant inputs. None is an input that is not constant."""

    def change(model):
        names = []
        for number, values in enumerate(inputs):
            names.append(f"input{number}" if values is not None else "levels")
            if values is not None:
                model.graph.initializer.append(numpy_helper.from_array(values, f"input{number}"))
        with_node(model, helper.make_node(operator, names, ["huge"], **attributes))

    change.__name__ = operator
    return change


def add_shape_from_constant(model):
    shape = helper.make_node("Constant", [], ["shape"], value_ints=[10**6, 10**6])
    with_node(model, shape, helper.make_node("ConstantOfShape", ["shape"], ["huge"]))


def add_typed_shape(model):
    model.graph.initializer.append(helper.make_tensor("shape", TensorProto.INT64, [2], [10**6, 10**6]))
    with_node(model, helper.make_node("Expand", ["levels", "shape"], ["huge"]))


def add_shape_with_two_meanings(model):
    """A nested graph gives the name another value. The larger one counts."""
    add_typed_shape(model)
    small = numpy_helper.from_array(np.array([1, 1]), "shape")
    with_node(model, helper.make_node("If", ["b"], ["c"], then_branch=inner(tensors=(small,))))


def constants(operator: str, *nodes: onnx.NodeProto | onnx.TensorProto | bytes, data: int = 0):
    """Return a change that gives an operator constants in other forms than raw bytes, behind inputs of data."""

    def change(model):
        names = ["levels"] * data
        for number, each in enumerate(nodes):
            names.append(f"c{number}")
            if isinstance(each, onnx.NodeProto):
                each.output[:] = [f"c{number}"]
                with_node(model, each)
            else:
                tensor = onnx.TensorProto.FromString(each) if isinstance(each, bytes) else each
                tensor.name = f"c{number}"
                model.graph.initializer.append(tensor)
        with_node(model, helper.make_node(operator, names, ["huge"]))

    change.__name__ = operator
    return change


def constant(**value: object) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["c"], **value)


def add_meanings_of_a_name(model):
    """Each of many nodes could have to be compared with each of many constants."""
    with_node(model, *(helper.make_node("Constant", [], ["s"], value_ints=[1]) for _ in range(1000)))
    with_node(model, helper.make_node("Expand", ["levels", "s"], ["huge"]))


FLOATS = [1.0, 1.0, 40_000.0, 40_000.0]
LONG = np.array([1, 10**6, 10**6])
HOSTILE = [
    (constants("Resize", constant(value_floats=FLOATS), data=2), "Resize makes a huge tensor"),
    (constants("Resize", helper.make_tensor("", 1, [4], FLOATS), data=2), "Resize makes a huge tensor"),
    (constants("Resize", helper.make_tensor("", 1, [4], FLOATS), data=1), "Resize makes a huge tensor"),
    (constants("Upsample", helper.make_tensor("", 1, [4], FLOATS), data=1), "Upsample makes a huge tensor"),
    (constants("Range", *(constant(value_float=v) for v in (0.0, 1e9, 1.0))), "Range makes a huge tensor"),
    (constants("Range", *(helper.make_tensor("", 1, [], [v]) for v in (0.0, 1e9, 1.0))), "Range makes a huge tensor"),
    (constants("Range", *(helper.make_tensor("", 11, [], [v]) for v in (0.0, 1e9, 1.0))), "Range makes a huge tensor"),
    (ask("Range", *(np.array(value) for value in (10**12, 0, -1))), "Range makes a huge tensor"),
    (ask("Range", *(np.array(value, np.float32) for value in (0, np.nan, 1))), "Range makes a huge tensor"),
    (ask("Pad", None, np.array([0, 0, 30_000, 30_000] * 2)), "Pad makes a huge tensor"),
    (ask("MaxUnpool", None, None, LONG), "MaxUnpool makes a huge tensor"),
    (ask("CenterCropPad", None, LONG), "CenterCropPad makes a huge tensor"),
    (ask("HannWindow", np.array(10**9)), "HannWindow makes a huge tensor"),
    (ask("MelWeightMatrix", np.array(10**5), np.array(10**5)), "MelWeightMatrix makes a huge tensor"),
    (ask("Multinomial", None, sample_size=2**30), "asks for a huge tensor"),
    (ask("TfIdfVectorizer", None, ngram_indexes=[2**40]), "asks for a huge tensor"),
    (ask("Conv", None, None, pads=[30_000] * 4), "asks for a huge tensor"),
    (ask("Upsample", None, scales=FLOATS), "asks for a huge tensor"),
    (ask("ConvTranspose", None, None, strides=[60_000, 60_000]), "asks for a huge tensor"),
    (ask("MaxRoiPool", None, None, pooled_shape=[60_000, 60_000]), "asks for a huge tensor"),
    # The number of ConstantOfShape's input stands alone, not packed: 0x38 is the tag of a single number of 64 bits.
    (constants("ConstantOfShape", b"\x08\x01\x10\x07\x38\x80\x80\x80\x80\x20"), "ConstantOfShape makes a huge tensor"),
    (ask("ConstantOfShape", np.array([1] * 40 + [2] * 30)), "more than 64 numbers with which ConstantOfShape works"),
    (ask("Expand", None, np.array([1] * 64 + [10**6] * 2)), "more than 64 numbers with which Expand works"),
    (add_meanings_of_a_name, "more than 64 constants of one name"),
    (add_sparse_initializer, "sparse tensors"),
    (add_sparse_attribute, "sparse tensors"),
    (add_function, "functions of its own"),
    (add_training, "a second graph for training"),
    (add_vendor_operator, "operators of another maker (com.microsoft.EPContext)"),
    (add_nested_vendor_operator, "operators of another maker (own.X)"),
    (add_nested_graphs, "nested more than 8 times"),
    (add_metadata, "bytes of metadata"),
    (ask("ConstantOfShape", LONG), "ConstantOfShape makes a huge tensor"),
    (ask("Expand", None, LONG), "Expand makes a huge tensor"),
    (ask("Tile", None, LONG), "Tile makes a huge tensor"),
    (ask("Pad", None, LONG), "Pad makes a huge tensor"),
    (ask("Range", *(np.array(value, np.float32) for value in (0, 1, 1e-12))), "Range makes a huge tensor"),
    (ask("Range", *(np.array(value) for value in (0, 10**12, 1))), "Range makes a huge tensor"),
    (ask("Resize", None, None, LONG.astype(np.float32)), "Resize makes a huge tensor"),
    (ask("Resize", None, None, None, LONG), "Resize makes a huge tensor"),
    (ask("OneHot", None, np.array(10**12), None), "OneHot makes a huge tensor"),
    (ask("RandomNormal", shape=[60_000, 60_000]), "asks for a huge tensor"),
    (ask("ConvTranspose", None, None, strides=[10**9, 10**9]), "asks for a huge tensor"),
    (add_shape_from_constant, "ConstantOfShape makes a huge tensor"),
    (add_typed_shape, "Expand makes a huge tensor"),
    (add_shape_with_two_meanings, "Expand makes a huge tensor"),
]


@pytest.mark.parametrize(("change", "words"), HOSTILE, ids=lambda value: getattr(value, "__name__", ""))
def test_what_exports_never_have_is_refused(change, words, model_bytes, tmp_path, never_opened):
    model = onnx.load_from_string(model_bytes)
    change(model)
    refused(model.SerializeToString(), tmp_path, UnsafeModel, words)


def test_empty_fields_do_not_hide_the_numbers_behind_them(model_bytes, tmp_path, never_opened):
    model = onnx.load_from_string(model_bytes)
    with_node(model, helper.make_node("ConstantOfShape", ["shape"], ["huge"]))
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [10**6, 10**6]).SerializeToString()
    graph = model.graph.SerializeToString()
    model.ClearField("graph")
    # Fields 5 of the graph (a tensor), 7 of that (its numbers), and 7 of the model (the graph).
    hostile = model.SerializeToString() + field(7, graph + field(5, field(7, b"") * 70 + shape))
    assert onnx.load_from_string(hostile).graph.initializer[-1].int64_data == [10**6, 10**6]
    refused(hostile, tmp_path, UnsafeModel, "ConstantOfShape makes a huge tensor")


def tensor(**fields: object):
    def change(model):
        model.graph.initializer.append(onnx.TensorProto(name="odd", **fields))

    return change


ODD_TENSORS = {
    "more bytes than its shape": tensor(dims=[2], data_type=1, raw_data=bytes(12)),
    "fewer bytes than its shape": tensor(dims=[10**6, 10**6], data_type=1, raw_data=bytes(8)),
    "no bytes": tensor(dims=[10**9], data_type=7),
    "few numbers": tensor(dims=[10**9], data_type=1, float_data=[1.0, 2.0]),
    "few integers": tensor(dims=[10**9], data_type=7, int64_data=[1, 2, 3]),
    "few texts": tensor(dims=[10**9], data_type=8, string_data=[b"a"]),
    "a negative side": tensor(dims=[-1], data_type=1, raw_data=bytes(4)),
    "an overflow": tensor(dims=[2**32, 2**32], data_type=1, raw_data=b""),
    "an unknown type": tensor(dims=[1], data_type=99, raw_data=bytes(4)),
    "texts as raw bytes": tensor(dims=[2**27], data_type=8, raw_data=b""),
    "no type": tensor(dims=[1], data_type=0, raw_data=bytes(4)),
    "many dimensions": tensor(dims=[1] * 1000, data_type=1, raw_data=bytes(4)),
}


@pytest.mark.parametrize("change", ODD_TENSORS.values(), ids=ODD_TENSORS)
def test_tensors_whose_shape_does_not_fit_their_bytes_are_refused(change, model_bytes, tmp_path, never_opened):
    model = onnx.load_from_string(model_bytes)
    change(model)
    refused(model.SerializeToString(), tmp_path, CorruptModel, "is damaged: a tensor")


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(number: int, content: bytes, wire: int = 2) -> bytes:
    return varint(number << 3 | wire) + (varint(len(content)) if wire == 2 else b"") + content


ODD_BYTES = {
    "a second graph": lambda data: data + field(7, b""),
    "an unknown field": lambda data: data + field(99, b"x"),
    "a group": lambda data: data + bytes([11, 12]),
    "a field with another wire type": lambda data: data + field(7, varint(1), 0),
    "a tag of 40 bits": lambda data: data + varint((1 << 38) | 58) + b"\0",
    "a number of 80 bits": lambda data: data + b"\x28" + b"\xff" * 11 + b"\1",
    "a length that reaches beyond the end": lambda data: data + b"\x32" + varint(2**40),
    "a number that is cut off": lambda data: data + b"\x28\xff",
    "a key twice": lambda data: data + field(14, field(1, b"zoo.schema") + field(2, b"1")),
    "a name of a megabyte": lambda data: data + field(14, field(1, b"k" * 10**6)),
}


@pytest.mark.parametrize("change", ODD_BYTES.values(), ids=ODD_BYTES)
def test_bytes_that_no_exporter_writes_are_refused(change, model_bytes, tmp_path, never_opened):
    """Two readers could understand such bytes in two ways, and then the check would not hold for ONNX Runtime."""
    refused(change(model_bytes), tmp_path, CorruptModel, "Copy the file again")


def test_many_parts_are_refused_in_time(model_bytes, tmp_path, never_opened):
    """A small file can have millions of empty nodes."""
    graph = field(1, b"") * 3_000_000
    refused(
        field(1, b"\x08", 0)[:1] + b"\x08" + field(7, graph) + b"", tmp_path, NotAnExport, "more than 1,000,000 parts"
    )


def test_an_onnxruntime_file_is_not_taken_for_onnx(model, model_bytes, tmp_path):
    """ONNX Runtime reads its own format if the suffix or the bytes say so. That format is not checked."""
    content = b"\x08\x09\x12\x04ORTM" + bytes(100)
    (tmp_path / "m.ort").write_bytes(content)
    with pytest.raises(CorruptModel):
        Predictor(tmp_path / "m.ort")
    with pytest.raises(CorruptModel):
        Predictor(content)
    os.rename(model, model.with_suffix(".ort"))
    assert Predictor(model.with_suffix(".ort"), tuned=False).info.classes == ("red", "green", "blue")


def test_onnx_of_another_program_with_external_data_says_both(tmp_path, never_opened):
    model = helper.make_model(helper.make_graph([], "g", [], [], [external(weights())]), producer_name="pytorch")
    refused(model.SerializeToString(), tmp_path, NotAnExport, "of another program (pytorch)")
    refused(model.SerializeToString(), tmp_path, NotAnExport, "it has external data")


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="only Linux can open an open file again")
def test_what_was_checked_is_what_is_opened(model, model_bytes, graph, info, monkeypatch):
    """The file is replaced by a hostile one after the check, and before ONNX Runtime opens it."""
    import onnxruntime

    real = onnxruntime.InferenceSession
    opened = []

    def replacing(content, *arguments, **options):
        hostile = model.with_name("hostile.onnx")
        hostile.write_bytes(graph(info.to_metadata(), weights_in="secret.bin"))
        os.replace(hostile, model)
        opened.append(content)
        return real(content, *arguments, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", replacing)
    assert Predictor(model).info.classes == ("red", "green", "blue")
    assert len(opened) == 1
    monkeypatch.undo()
    with pytest.raises(UnsafeModel):
        Predictor(model)


def test_a_file_that_is_replaced_while_it_is_opened_is_refused_elsewhere(model, model_bytes, monkeypatch):
    import onnxruntime

    real = onnxruntime.InferenceSession

    def replacing(content, *arguments, **options):
        other = model.with_name("other.onnx")
        other.write_bytes(model_bytes)
        os.replace(other, model)
        return real(content, *arguments, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", replacing)
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(ModelError, match="was replaced while it was opened"):
        Predictor(model)


def test_only_little_of_a_large_file_is_read(model_bytes, tmp_path, monkeypatch):
    """The cost of the check must not grow with the tensors."""
    from zoo_runtime import _structure

    model = onnx.load_from_string(model_bytes)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(25_000_000, np.float32), "large"))
    path = tmp_path / "large.onnx"
    path.write_bytes(model.SerializeToString())
    read = []
    real = _structure._Reader._read
    monkeypatch.setattr(
        _structure._Reader, "_read", lambda self, at, count: read.append(count) or real(self, at, count)
    )
    with path.open("rb", buffering=0) as stream:
        _structure.read_structure(stream, path.stat().st_size)
    assert 0 < sum(read) < 100_000


def test_a_network_that_fails_while_it_runs_is_a_typed_error(model_bytes, tmp_path):
    """ONNX Runtime finds out only then that an index is out of bounds."""
    model = onnx.load_from_string(model_bytes)
    last = next(node for node in model.graph.node if "probabilities" in node.output)
    last.output[:] = ["before"]
    index = helper.make_node("ReduceMax", ["image_as_float"], ["most"], keepdims=0)
    with_node(
        model,
        helper.make_node("Cast", ["image"], ["image_as_float"], to=TensorProto.FLOAT),
        index,
        helper.make_node("Add", ["most", "far"], ["place"]),
        helper.make_node("Cast", ["place"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Gather", ["one", "whole"], ["zero"]),
        helper.make_node("Add", ["before", "zero"], ["probabilities"]),
    )
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1e6), "far"))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(2, np.float32), "one"))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CorruptModel, match=r"^onnxruntime cannot run '.*model\.onnx'.* must be copied again") as caught:
        Predictor(tmp_path)(np.zeros((9, 9, 3), np.uint8))
    assert "\n" not in str(caught.value)
    (tmp_path / "device").mkdir()
    with pytest.raises(CorruptModel, match="cannot run"):
        zoo_runtime.update(tmp_path / "device", tmp_path)
    assert os.listdir(tmp_path / "device") == []
