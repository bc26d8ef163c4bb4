"""Files of tensors: PyTorch's and safetensors' are read as they are, and hostile ones do nothing and are refused."""

from __future__ import annotations

import collections
import io
import json
import pickle
import struct
import tracemalloc
import zipfile

import h5py
import numpy as np
import pytest
from torch_files import MAGIC, Call, Storage, pickled, plain, tensor, torch_module, write_legacy, write_zip

from zoo.errors import WeightsIncompatible
from zoo.plugin import read_tensors, readers
from zoo.plugin.readers import unpickler


@pytest.fixture
def torch(monkeypatch):
    return torch_module(monkeypatch)


def values(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def state_dict(torch):
    """A state dict with a strided view, a shared storage, half, bfloat16, a scalar, and an empty tensor."""
    shared = Storage(values(1, 60).ravel(), "0")
    bits = (values(2, 6).view("uint32") >> 16).astype("uint16")
    return collections.OrderedDict(
        {
            "conv.weight": tensor(torch, shared, (3, 4, 2), (1, 6, 3), offset=5),
            "conv.bias": tensor(torch, shared, (4,), (2,)),
            "half": plain(torch, np.arange(6, dtype="f2").reshape(2, 3), "1"),
            "brain": plain(torch, bits, "2"),
            "bn.num_batches_tracked": plain(torch, np.array(7), "3"),
            "none": tensor(torch, shared, (0, 3), (3, 1)),
            "parameter": Call(torch.utils._rebuild_parameter, plain(torch, np.ones(3), "4"), True, {}),
        }
    )


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_a_state_dict_of_pytorch_is_read_without_pytorch(torch, tmp_path, write):
    path = write(torch, tmp_path / "w.pth", state_dict(torch))
    read = read_tensors(path)
    numbers = values(1, 60)
    expected = np.lib.stride_tricks.as_strided(numbers[5:], (3, 4, 2), (4, 24, 12))
    assert list(read) == ["conv.weight", "conv.bias", "half", "brain", "bn.num_batches_tracked", "none", "parameter"]
    assert np.array_equal(read["conv.weight"], expected) and np.array_equal(read["conv.bias"], numbers[:8:2])
    assert read["half"].dtype == "f2" and np.array_equal(read["half"], np.arange(6).reshape(2, 3))
    assert read["brain"].dtype == "f4" and np.allclose(read["brain"], values(2, 6), rtol=2**-7)
    assert read["bn.num_batches_tracked"].shape == () and read["bn.num_batches_tracked"] == 7
    assert read["none"].shape == (0, 3) and np.array_equal(read["parameter"], np.ones(3))
    assert readers.format_of(path) == "PyTorch"
    with pytest.raises(ValueError, match="read-only"):
        read["conv.weight"][0] = 1


def test_only_the_state_dict_of_a_checkpoint_is_read(torch, tmp_path):
    numbers = values(3, 2, 2)
    content = {
        "epoch": 3,
        "optimizer": {"m": plain(torch, numbers, "0")},
        "state_dict": {"a.w": plain(torch, numbers, "1")},
    }
    assert list(read_tensors(write_zip(torch, tmp_path / "c.pt", content))) == ["a.w"]
    del content["state_dict"]
    assert list(read_tensors(write_zip(torch, tmp_path / "o.pt", content))) == ["optimizer.m"]


# --- hostile pickles -------------------------------------------------------------------------------------------------


def system_call(torch, tmp_path):
    import os

    return pickle.dumps(Call(os.system, f"touch {tmp_path / 'done'}"), protocol=2)


def built_object(torch, tmp_path):
    return b"\x80\x02cbuiltins\neval\n(X\x03\x00\x00\x001+1tR."


def object_of_a_class(torch, tmp_path):
    return b"\x80\x02ccollections\nOrderedDict\n)\x81."


def nested_name(torch, tmp_path):
    return b"\x80\x04\x8c\x05torch\x8c\x10_utils.os.system\x93."


def huge_memo(torch, tmp_path):
    return b"\x80\x02]r\xff\xff\xff\xff" + b"j\xff\xff\xff\xff0" * 3 + b"."


def huge_text(torch, tmp_path):
    return b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"x."


def laughs(torch, tmp_path):
    """Lists that hold each other: 100 to the power of 20 entries."""
    parts = [b"\x80\x02]q\x000"]
    for i in range(20):
        parts.append(b"](" + b"h" + bytes([i]) + (b"h" + bytes([i])) * 99 + b"eq" + bytes([i + 1]) + b"0")
    return b"".join(parts) + b"h\x14."


def endless_key(torch, tmp_path):
    """A key of tuples in tuples, whose text would have 2 to the power of 60 characters."""
    parts = [b"\x80\x02}", b")q\x00"]
    for i in range(60):
        parts.append(b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]))
    return b"".join(parts) + b"Ns."


def many_instructions(torch, tmp_path):
    return b"\x80\x02" + b"N0" * 30_000 + b"N."


def cut_off(torch, tmp_path):
    return pickled(torch, state_dict(torch))[0][:-40]


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (system_call, r"names (posix|nt)\.system, which is no part of a tensor; nothing of it was run"),
        (built_object, r"names builtins\.eval"),
        (object_of_a_class, "the instruction NEWOBJ"),
        (nested_name, "names torch._utils.os.system"),
        (huge_memo, "it holds no tensors"),
        (huge_text, "its pickle is damaged"),
        (laughs, "nested more than|too many entries"),
        (endless_key, "a dictionary with a tuple as a key"),
        (many_instructions, "more than 50,000 instructions"),
        (cut_off, "its pickle is damaged"),
        (lambda *_: b"\x80\x02K\x01", "its pickle is damaged|has no end"),
        (lambda *_: b"(lp0\n.", "the instruction|its pickle is damaged|it holds no tensors"),
    ],
)
def test_a_hostile_pickle_does_nothing_and_is_refused(torch, tmp_path, monkeypatch, make, problem):
    monkeypatch.setattr(unpickler, "MOST_INSTRUCTIONS", 50_000)
    path = write_zip(torch, tmp_path / "w.pth", {}, pickle_bytes=make(torch, tmp_path))
    tracemalloc.start()
    with pytest.raises(WeightsIncompatible, match=problem):
        read_tensors(path)
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()
    assert not (tmp_path / "done").exists()


def test_a_hostile_pickle_in_the_older_form_does_nothing_either(torch, tmp_path):
    path = tmp_path / "w.pth"
    parts = [pickle.dumps(item, protocol=2) for item in (MAGIC, 1001, {"little_endian": True})]
    path.write_bytes(b"".join(parts) + system_call(torch, tmp_path) + pickle.dumps([], protocol=2))
    with pytest.raises(WeightsIncompatible, match=r"\.system, which is no part of a tensor"):
        read_tensors(path)
    path.write_bytes(system_call(torch, tmp_path))
    with pytest.raises(WeightsIncompatible, match=r"\.system"):
        read_tensors(path)
    path.write_bytes(pickle.dumps({"a": 1}, protocol=4))
    with pytest.raises(WeightsIncompatible, match=r"a pickle that torch\.save did not write"):
        read_tensors(path)
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize("write", [write_zip, write_legacy])
@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((1 << 40,), (0,), 0),
        ((4, 4), (4, 1), 0),
        ((2,), (1 << 60,), 0),
        ((2,), (1,), 9),
        ((1 << 62, 1 << 62), (0, 0), 0),
        ((1,) * 64, (1,) * 64, 0),
    ],
)
def test_a_tensor_stays_in_its_storage(torch, tmp_path, write, shape, strides, offset):
    content = {"w": tensor(torch, Storage(values(0, 10), "0"), shape, strides, offset)}
    with pytest.raises(WeightsIncompatible, match=r"reaches beyond its storage of 10 numbers|its pickle is damaged"):
        read_tensors(write(torch, tmp_path / "w.pth", content))


def test_a_storage_stays_in_its_file(torch, tmp_path):
    path = write_legacy(torch, tmp_path / "w.pth", {"w": plain(torch, values(0, 10), "0")})
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    with pytest.raises(WeightsIncompatible, match="claims 10 numbers, which the file does not hold"):
        read_tensors(path)
    path.write_bytes(whole.replace((10).to_bytes(8, "little"), (1 << 60).to_bytes(8, "little")))
    with pytest.raises(WeightsIncompatible, match="claims 1,152,921,504,606,846,976 numbers"):
        read_tensors(path)


def test_archives_that_grow_or_lead_elsewhere_are_refused(torch, tmp_path):
    bomb = {"w": plain(torch, np.zeros(1 << 20, "f4"), "0")}
    path = write_zip(torch, tmp_path / "w.pth", bomb, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 20_000
    with pytest.raises(WeightsIncompatible, match=r"is compressed, and torch\.save compresses nothing"):
        read_tensors(path)
    (tmp_path / "secret").write_bytes(values(0, 10).tobytes())
    outside = {"w": tensor(torch, Storage(values(0, 10), "../../secret"), (10,), (1,))}
    data, _ = pickled(torch, outside)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", data)
    with pytest.raises(WeightsIncompatible, match=r"the archive has no storage '\.\./\.\./secret'"):
        read_tensors(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", data)
        archive.writestr("net/constants.pkl", b"")
    with pytest.raises(WeightsIncompatible, match="a TorchScript program, which holds code"):
        read_tensors(path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(WeightsIncompatible):
        read_tensors(path)


# --- safetensors -----------------------------------------------------------------------------------------------------


def safetensors(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def test_safetensors_are_read(tmp_path):
    kernel, bits = values(0, 2, 3), (values(1, 3).view("uint32") >> 16).astype("uint16")
    header = {
        "__metadata__": {"format": "pt"},
        "b": {"dtype": "BF16", "shape": [3], "data_offsets": [24, 30]},
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "empty": {"dtype": "I64", "shape": [0, 4], "data_offsets": [30, 30]},
    }
    path = safetensors(tmp_path / "w.safetensors", header, kernel.tobytes() + bits.tobytes())
    read = read_tensors(path)
    assert list(read) == ["b", "a", "empty"] and np.array_equal(read["a"], kernel)
    assert read["b"].dtype == "f4" and np.allclose(read["b"], values(1, 3), rtol=2**-7)
    assert read["empty"].shape == (0, 4) and not read["a"].flags.writeable


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "length", "problem"),
    [
        ({"a": entry([2], 0, 8)}, 1 << 40, "its header claims 1,099,511,627,776 bytes"),
        ({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, None, "'b' begin at 4, and not at 8"),
        ({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, None, "'b' begin at 8, and not at 4"),
        ({"a": entry([1 << 60], 0, 12)}, None, "needs 4,611,686,018,427,387,904 bytes, and has 12"),
        ({"a": entry([2], 0, 8)}, None, "its tensors have 8 bytes, and the file holds 12"),
        ({"a": entry([-3], 0, 12)}, None, "no shape and offsets of whole numbers"),
        ({"a": entry([3], 12, 0)}, None, "needs 12 bytes, and has -12"),
        ({"a": entry([3.0], 0, 12)}, None, "no shape and offsets of whole numbers"),
        ({"a": entry([True], 0, 4)}, None, "no shape and offsets of whole numbers"),
        ({"a": entry([3], 0, 12, "F8_E4M3")}, None, "has dtype 'F8_E4M3'; zoo reads F64"),
        ({"a": entry([3], 0, 12, ["F32"])}, None, "has dtype"),
        ({"a": [1]}, None, "not described by an object"),
        (b'{"a": 1, "a": 2}', None, "names a tensor twice"),
        (b'{"a":' + b"[" * 100_000, None, "its header is no JSON"),
        (b'{"a": ' + b"9" * 10_000 + b"}", None, "its header is no JSON"),
        (b"{\xff}", None, "its header is no JSON"),
    ],
)
def test_hostile_safetensors_are_refused(tmp_path, header, length, problem):
    path = safetensors(tmp_path / "w.safetensors", header, bytes(12), length)
    with pytest.raises(WeightsIncompatible, match=problem):
        read_tensors(path)


# --- HDF5 ------------------------------------------------------------------------------------------------------------


def external_link(file, folder):
    file["w"] = h5py.ExternalLink(str(folder / "secret.h5"), "secret")


def soft_link(file, folder):
    file["w"] = h5py.SoftLink("/elsewhere")


def external_storage(file, folder):
    file.create_dataset("w", (4,), "u1", external=[(str(folder / "secret.h5"), 0, 4)])


def virtual(file, folder):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "secret.h5"), "secret", (4,))
    file.create_virtual_dataset("w", layout)


def unfilled(file, folder):
    file.create_dataset("w", (1 << 20, 1 << 20), "f4")


def unfilled_chunks(file, folder):
    file.create_dataset("w", (1 << 20, 1 << 20), "f4", chunks=(64, 64), compression="gzip")


def bomb(file, folder):
    file.create_dataset("w", data=np.zeros((8 << 20,), "f4"), chunks=(1 << 20,), compression="gzip", compression_opts=9)


def many_bombs(file, folder):
    for i in range(40):
        file.create_dataset(f"w{i}", data=np.zeros((1 << 18,), "f4"), chunks=(1 << 18,), compression="gzip")


def huge_chunks(file, folder):
    file.create_dataset("w", (4,), "f4", chunks=(1 << 28,), maxshape=(None,))


def references(file, folder):
    file["group"] = np.zeros(3)
    file.create_dataset("w", data=np.array([file["group"].ref], dtype=h5py.ref_dtype))


def lists(file, folder):
    file.create_dataset("w", (2,), dtype=h5py.vlen_dtype("f4"))


def deep(file, folder):
    file.create_group("/".join("g" * 200))


HOSTILE_HDF5 = [
    (external_link, "'w' is a link to another file"),
    (soft_link, "'w' is a soft link"),
    (external_storage, "'w' is in another file"),
    (virtual, "'w' is in another file"),
    (unfilled, r"'w' of shape \(1048576, 1048576\) claims 4,398,046,511,104 bytes, and holds 0"),
    (unfilled_chunks, "claims 4,398,046,511,104 bytes, and holds 0"),
    (bomb, "claims 33,554,432 bytes"),
    (many_bombs, "its arrays take 41,943,040 bytes"),
    (huge_chunks, "chunks of 1,073,741,824 bytes"),
    (references, "holds object, and no numbers or texts"),
    (lists, "holds object, and no numbers or texts"),
    (deep, "more than 100 levels of groups"),
]


@pytest.mark.parametrize(("make", "problem"), HOSTILE_HDF5, ids=lambda value: getattr(value, "__name__", "-"))
@pytest.mark.parametrize("place", ["alone", "in a .keras archive"])
def test_hostile_hdf5_is_refused_before_anybody_reads_it(tmp_path, make, problem, place):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["secret"] = np.ones(4, "f4")
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        make(file, tmp_path)
    if place != "alone":
        content, path = path.read_bytes(), tmp_path / "w.keras"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", "{}")
            archive.writestr("model.weights.h5", content)
            archive.writestr("../../outside", "never written")
    with pytest.raises(WeightsIncompatible, match=f"the HDF5 file is refused: .*{problem}"):
        readers.check(path)
    assert not (tmp_path.parent.parent / "outside").exists()


def test_groups_in_a_circle_and_damaged_files_end(tmp_path):
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        file["a/w"] = np.arange(3.0)
        file["a/again"] = file["a"]
    assert list(read_tensors(path)) == ["a/w"]
    content = path.read_bytes()
    for at in range(0, len(content), 97):
        path.write_bytes(content[:at] + bytes(byte ^ 0xFF for byte in content[at : at + 8]) + content[at + 8 :])
        if readers.format_of(path) == readers.HDF5:
            try:
                readers.check(path)
            except WeightsIncompatible as error:
                assert "damaged" in str(error) or "refused" in str(error)


def test_a_keras_archive_that_unpacks_into_gigabytes_is_refused(tmp_path):
    path, inner = tmp_path / "w.keras", io.BytesIO()
    with h5py.File(inner, "w") as file:
        file["w"] = np.zeros(8 << 20, "f4")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", inner.getvalue())
    with pytest.raises(WeightsIncompatible, match=r"model\.weights\.h5 has 33,5.* bytes, and the archive has"):
        readers.check(path)


def test_files_of_other_kinds_are_named(tmp_path):
    for content, kind in ((b"", None), (b"GIF89a", None), (b"PK\x03\x04 rubbish", "zip")):
        (tmp_path / "w.pth").write_bytes(content)
        assert readers.format_of(tmp_path / "w.pth") == kind
        with pytest.raises(WeightsIncompatible, match="it is no file of tensors: safetensors, a state dict"):
            read_tensors(tmp_path / "w.pth")
