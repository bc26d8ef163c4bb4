"""Change bytes of weights files of each kind, with a fixed seed, and read each: tensors or the typed error.

The files are read in child processes with a limit on memory: a crash of the HDF5 library would end the tests, and a
file that claims to be large must not fill the memory. By hand made files follow, which grow in memory or in messages.
"""

from __future__ import annotations

import collections
import io
import json
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch_files

from zoo.errors import WeightsIncompatible
from zoo.plugin import read_tensors, readers

KINDS = ("safetensors", "hdf5", "keras", "zip", "legacy")
CHILD = """
import json, random, resource, signal, sys, time
from pathlib import Path
import h5py, numpy
from zoo.errors import WeightsIncompatible
from zoo.plugin import read_tensors, readers
from zoo.plugin.readers import hdf5, pytorch, safetensors

source, first, last, megabytes = sys.argv[1], *map(int, sys.argv[2:5])
whole, path = Path(source).read_bytes(), Path(source + ".changed")
if sys.platform == "linux":
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + (megabytes << 20),) * 2)
started_by_file = []
HEARD = {"os.system", "subprocess.Popen", "os.exec", "socket.connect", "pickle.find_class"}
sys.addaudithook(lambda event, arguments: started_by_file.append(event) if event in HEARD else None)


def changed(number):
    random_, data = random.Random(number), bytearray(whole)
    for _ in range(random_.choice([1, 1, 2, 4, 16])):
        size = len(data)
        place = random_.choice([random_.randrange(size), random_.randrange(min(size, 2000)),
                                size - 1 - random_.randrange(min(size, 2000))])
        kind = random_.randrange(7)
        if kind == 0:
            data[place] = random_.randrange(256)
        elif kind == 1:
            data[place] ^= 1 << random_.randrange(8)
        elif kind == 2:
            del data[place : place + random_.choice([1, 2, 8, 100])]
        elif kind == 3:
            data[place:place] = random_.randbytes(random_.choice([1, 2, 8, 100]))
        elif kind == 4:
            data[place:place] = data[place : place + random_.choice([4, 50, 500])]
        elif kind == 5:
            data[place : place + 8] = random_.choice([b"\\xff" * 8, bytes(8), (1 << 40).to_bytes(8, "little")])
        else:
            del data[place + 64 :]
        data += bytes(max(0, 20 - len(data)))
    return bytes(data)


for number in range(first, last):
    path.write_bytes(changed(number))
    print(json.dumps({"number": number}), flush=True)
    start, outcomes = time.perf_counter(), []
    for read in (read_tensors, readers.check):
        try:
            read(path)
            outcomes.append("read")
        except WeightsIncompatible as error:
            outcomes.append("refused" if len(str(error)) < 1000 else "a message without an end")
        except BaseException as error:
            outcomes.append(f"untyped {type(error).__name__}: {error}"[:200])
    if started_by_file:
        outcomes.append(f"the file started {started_by_file}")
    print(json.dumps({"number": number, "outcomes": outcomes, "seconds": time.perf_counter() - start}), flush=True)
"""


@pytest.fixture
def torch(monkeypatch):
    return torch_files.torch_module(monkeypatch)


def written(kind: str, path: Path, torch) -> Path:
    """Write a sound file of a kind with six arrays."""
    rng = np.random.default_rng(0)
    arrays = {f"layer{i}.weight": rng.normal(size=(8, 4, 3, 3)).astype("f4") for i in range(6)}
    tensors = {name: torch_files.plain(torch, array, str(i)) for i, (name, array) in enumerate(arrays.items())}
    if kind == "zip":
        torch_files.write_zip(torch, path, tensors)
    elif kind == "legacy":
        torch_files.write_legacy(torch, path, tensors)
    elif kind == "safetensors":
        header, end = {}, 0
        for name, array in arrays.items():
            entry = {"dtype": "F32", "shape": array.shape, "data_offsets": [end, end := end + array.nbytes]}
            header[name] = entry
        path.write_bytes(safetensors(header, b"".join(array.tobytes() for array in arrays.values())))
    else:
        stream = io.BytesIO()
        with h5py.File(stream, "w") as file:
            for number, array in enumerate(arrays.values()):
                packed = {"compression": "gzip"} if number == 3 else {}
                file.create_dataset(f"layers/conv2d_{number}/vars/0", data=array, **packed)
                file[f"layers/conv2d_{number}"].attrs["weight_names"] = [b"kernel:0"]
            file.attrs["layer_names"] = np.array([b"conv2d"], "S20")
        path.write_bytes(stream.getvalue())
        if kind == "keras":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("config.json", json.dumps({"config": {"layers": []}}))
                archive.writestr("model.weights.h5", stream.getvalue())
    return path


def safetensors(header: object, data: bytes = b"") -> bytes:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(content).to_bytes(8, "little") + content + data


def run(source: Path, count: int, per_process: int = 250) -> tuple[collections.Counter[str], list, float]:
    """Read `count` changed copies of a file. Return the outcomes, the crashes, and the longest time."""
    outcomes: collections.Counter[str] = collections.Counter()
    crashed, longest, number = [], 0.0, 0
    while number < count:
        last = min(count, number + per_process)
        command = [sys.executable, "-c", CHILD, str(source), str(number), str(last), "200"]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=600)
        lines = [json.loads(line) for line in ran.stdout.splitlines()]
        assert lines, ran.stderr
        for line in lines:
            outcomes.update(line.get("outcomes", ()))
            longest = max(longest, line.get("seconds", 0))
        number = last
        if ran.returncode:
            number = lines[-1]["number"] + 1
            crashed.append((lines[-1]["number"], ran.returncode, ran.stderr[-300:]))
    return outcomes, crashed, longest


@pytest.mark.parametrize("kind", KINDS)
def test_changed_files_are_read_or_refused(kind, torch, tmp_path, monkeypatch):
    source = written(kind, tmp_path / "w", torch)
    monkeypatch.undo()
    outcomes, crashed, _ = run(source, 100)
    assert set(outcomes) == {"read", "refused"} and crashed == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_600_changed_files_are_read_or_refused(kind, torch, tmp_path, monkeypatch, capsys):
    source = written(kind, tmp_path / "w", torch)
    monkeypatch.undo()
    outcomes, crashed, longest = run(source, 600)
    with capsys.disabled():
        print(f"\n{kind}: {dict(outcomes)}, crashes {crashed}, longest {longest:.2f} s")
    assert set(outcomes) == {"read", "refused"} and crashed == []
    assert min(outcomes.values()) > 50 and longest < 20


# --- files that grow -------------------------------------------------------------------------------------------------


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


STORAGE = b"(" + text("storage") + named("torch", "FloatStorage") + text("0") + text("cpu") + b"K\x04tQK\x00"
REBUILD = named("torch._utils", "_rebuild_tensor_v2") + b"(" + STORAGE
LONG = text("a" * (1 << 20)) + b"q\x00"
PAIRS = b"]q\x01(" + b"".join(text(str(i)) + b"K\x01\x86" for i in range(20_000)) + b"e"
HUGE = b"\x8a\x09" + b"\x7f" * 9
GROWING = {
    "a long text becomes a shape again and again": (
        b"(" + LONG + (named("torch", "Size") + b"h\x00\x85R") * 3000 + b"t",
        "called in a way that makes no tensor",
    ),
    "a dictionary is copied again and again": (
        b"(" + PAIRS + (named("collections", "OrderedDict") + b"h\x01\x85R") * 3000 + b"t",
        "copies more than 200,000 entries",
    ),
    "a long name stands above many tensors": (
        b"}" + LONG + b"](" + REBUILD + b"K\x01\x85K\x01\x85\x89}tR" + b"q\x05" + b"h\x05" * 200_000 + b"es",
        "a name of more than 1,000 characters",
    ),
    "a shape has many dimensions": (
        b"(" + b"K\x01" * 1000 + b"tq\x02" + REBUILD + b"h\x02h\x02\x89}tR",
        "not described by storage, offset, shape and strides",
    ),
    "an empty tensor has huge sides": (
        b"}" + text("w") + REBUILD + b"(K\x00" + HUGE + b"t(K\x00K\x00t\x89}tRs",
        "not described by storage, offset, shape and strides",
    ),
    "an empty tensor has sides that numpy multiplies": (
        b"}" + text("w") + REBUILD + b"(K\x00" + (b"\x8a\x05" + b"\x7f" * 5) * 3 + b"t(" + b"K\x00" * 4 + b"t\x89}tRs",
        "is too large for an empty one",
    ),
}


@pytest.mark.parametrize("case", GROWING)
def test_a_small_pickle_stays_small(case, tmp_path):
    body, problem = GROWING[case]
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("n/data.pkl", b"\x80\x02" + body + b".")
        archive.writestr("n/data/0", bytes(16))
    with pytest.raises(WeightsIncompatible, match=problem) as caught:
        read_tensors(path)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (safetensors({"w": {"dtype": "F32", "shape": [0, 2**100], "data_offsets": [0, 0]}}), "no shape and offsets"),
        (safetensors({"w": {"dtype": "F32", "shape": [0, 2**61, 2**61], "data_offsets": [0, 0]}}), "is too large"),
        (safetensors({"w" * 5000: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}), "a name of more than"),
        (safetensors({"w": {"dtype": "X" * 5000, "shape": [0], "data_offsets": [0, 0]}}), "has dtype 'XXXX"),
        (safetensors(b'{"__metadata__":[' + b"[]," * 3_000_000 + b"1]}"), "at most 8,388,608 are read"),
        (
            safetensors(b'{"w":{"dtype":"F32","shape":[' + b"9" * 4000 + b'],"data_offsets":[0,0]}}'),
            "no shape and offsets",
        ),
    ],
)
def test_numbers_and_names_of_safetensors_are_bounded(tmp_path, content, problem):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsIncompatible, match=problem) as caught:
        read_tensors(path)
    assert len(str(caught.value)) < 500


def test_a_long_configuration_in_a_keras_archive_is_refused(tmp_path):
    path = tmp_path / "w.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", b"[" + b"{}," * (3 << 20) + b"{}]")
        archive.writestr("model.weights.h5", b"")
    with pytest.raises(WeightsIncompatible, match=r"config\.json has 9,437,188 bytes, and at most 8,388,608 are read"):
        readers.check(path)
