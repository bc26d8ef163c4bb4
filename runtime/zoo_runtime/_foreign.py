"""Recognizes files and folders that a user gives instead of an exported file, and says what they are.

A file is recognized by its first bytes, by the list of its parts, or by its suffix. It is never read whole, because
networks of other programs can have many gigabytes.

Sources: ONNX (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto), Protocol Buffers
(https://protobuf.dev/programming-guides/encoding), safetensors (https://github.com/huggingface/safetensors), Git LFS
(https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md), TensorFlow Lite's schema.fbs, and HDF5's format
specification.
"""

from __future__ import annotations

import io
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from ._decode import SUFFIXES
from ._engine import exported_in
from ._errors import CorruptModel, ModelError, ModelNotFound, NotAnExport, UnsafeModel
from ._onnxruntime import version
from ._session import name_of
from ._structure import BrokenStructure, UnsafeStructure

FILE = "model.onnx"
ONNX_START = b"\x08"
"""The first byte of nearly every ONNX file: the tag of the field `ir_version`."""

ADVICE = "Give the model.onnx that `zoo finetune` or `zoo export RUN` made."
PYTORCH, KERAS, TENSORFLOW = "a PyTorch file", "a Keras file", "a TensorFlow graph"
KINDS = {
    ".tflite": "a TensorFlow Lite model",
    ".pt": PYTORCH,
    ".pth": PYTORCH,
    ".ckpt": "a checkpoint of another program",
    ".safetensors": "a safetensors file (weights without a network)",
    ".keras": KERAS,
    ".h5": "an HDF5 file, as older Keras versions write them",
    ".hdf5": "an HDF5 file, as older Keras versions write them",
    ".pb": TENSORFLOW,
    ".mlmodel": "a Core ML model",
    ".mlpackage": "a Core ML model",
    ".engine": "a TensorRT engine",
    ".plan": "a TensorRT engine",
    ".pkl": "a Python pickle",
    ".joblib": "a Python pickle",
    ".npz": "a file of NumPy arrays",
    ".npy": "a file of NumPy arrays",
    ".gguf": "a GGUF file",
    ".bin": "the weights of an OpenVINO model or of another program",
    ".xml": "an XML file, such as the description of an OpenVINO model",
    ".toml": "a text file",
    ".json": "a JSON file",
    ".csv": "a text file",
    ".txt": "a text file",
}
"""What files with these suffixes are, if their content does not say it."""

_MODEL_SUFFIXES = tuple(suffix for suffix in KINDS if suffix not in (".xml", ".toml", ".json", ".csv", ".txt", ".npy"))
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_PICTURES = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*")
_SIGNATURES = (
    (b"\x89HDF\r\n\x1a\n", KINDS[".h5"]),
    (b"\x93NUMPY", KINDS[".npy"]),
    (b"GGUF", KINDS[".gguf"]),
    (b"\x1f\x8b", "a gzip archive, which must be unpacked first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive, which must be unpacked first"),
    (b"\xfd7zXZ\0", "an xz archive, which must be unpacked first"),
    (b"Rar!", "a RAR archive, which must be unpacked first"),
    (b"%PDF", "a PDF file"),
    (b"\x7fELF", "a program"),
)
MOST_ENTRIES = 10_000


@dataclass
class OnnxOutline:
    """Holds what the top level of an ONNX file says, without its graph.

    Args:
        producer: The program that wrote the file, or "".
        keys: The keys of the metadata entries.
        graph: Whether the file has a graph.
        needed: The size that the file must have at least, in bytes, according to the lengths that it states.
        valid: Whether all that was read has the form of an ONNX file.
    """

    producer: str = ""
    keys: set[str] = field(default_factory=set)
    graph: bool = False
    needed: int = 0
    valid: bool = True


def refuse_foreign(model: str | bytes) -> None:
    """Raise an error if the first bytes of a file show that it is not an exported file.

    Args:
        model: Path of a file that can be read, or the bytes of a file.

    Raises:
        CorruptModel: If the file is empty or has only zero bytes at its start.
        NotAnExport: If it is a file of another kind.
    """
    name = name_of(model)
    with _opened(model) as stream:
        prefix = stream.read(512)
        if not prefix:
            raise CorruptModel(f"{name} is empty. Copy the file again.")
        # A suffix counts only if the content cannot be ONNX: ONNX Runtime would read a large file whole to find out.
        kind = _kind(prefix, stream) or (None if prefix.startswith(ONNX_START) else _kind_by_suffix(model))
    if kind:
        raise NotAnExport(f"{name} is {kind}, not an exported file. {_advice(model, kind)}")
    if not prefix.strip(b"\0"):
        raise CorruptModel(f"{name} starts with zero bytes only, so it is damaged. Copy the file again.")


def refuse_xml(path: str, content: bytes) -> None:
    """Raise an error if an XML file is obviously no OpenVINO model.

    Args:
        path: Path of the file.
        content: Its content.

    Raises:
        CorruptModel: If it is empty.
        NotAnExport: If it is another kind of file.
    """
    if not content:
        raise CorruptModel(f"{path!r} is empty. Copy the file again.")
    start = content.removeprefix(b"\xef\xbb\xbf").lstrip()[:16].lower()
    if not start.startswith((b"<?xml", b"<net")) or not re.search(rb"<net[\s>]", content[:4096]):
        kind = _kind(content[:512], io.BytesIO(content)) or KINDS[".xml"]
        raise NotAnExport(f"{path!r} is {kind}, not an exported file. {_advice(path, kind)}")


def explain_failure(model: str | bytes, reason: str) -> ModelError:
    """Return the error to raise for a file that ONNX Runtime cannot load.

    Args:
        model: Path of the file, or its bytes.
        reason: The message of ONNX Runtime.
    """
    name = name_of(model)
    obvious = _obvious(model)
    if obvious:
        return obvious
    newer = re.search(r"[Oo]pset (\d+) is .*till opset (\d+)", reason) or re.search(
        r"IR version: (\d+), max supported IR version: (\d+)", reason
    )
    if newer:
        what = "opset" if "pset" in newer[0] else "IR version"
        return CorruptModel(
            f"onnxruntime cannot load {name}: the file has ONNX {what} {newer[1]}, but onnxruntime {version()} knows "
            f"{what}s up to {newer[2]}. Run `pip install --upgrade onnxruntime`."
        )
    return CorruptModel(f"onnxruntime cannot load {name}: {_shorter(reason)}. Copy the file again, or export it again.")


def explain_run(name: str, reason: str, engine: str = "onnxruntime") -> ModelError:
    """Return the error to raise for a file that its engine could load, but not run.

    Args:
        name: The name of the file, for the message.
        reason: The message of the engine.
        engine: The name of the engine, for the message.
    """
    engine = "onnxruntime" if engine == "ONNX Runtime" else engine
    return CorruptModel(
        f"{engine} cannot run {name}: {_shorter(reason)}. Either the file is damaged, and must be copied again, or "
        "the memory of this machine is too small for it."
    )


def explain_structure(model: str | bytes, error: BrokenStructure | UnsafeStructure) -> ModelError:
    """Return the error to raise for a file that is not handed to ONNX Runtime, because of its structure.

    Args:
        model: Path of the file, or its bytes.
        error: What is wrong with its structure.
    """
    name = name_of(model)
    obvious = _obvious(model)
    if isinstance(error, BrokenStructure):
        return obvious or CorruptModel(f"{name} is damaged: {error}. Copy the file again, or export it again.")
    if isinstance(obvious, NotAnExport):
        return NotAnExport(f"{obvious} It was not opened, because it has {error}.")
    return UnsafeModel(
        f"{name} has {error}. Exported files never have that, so the file was not opened. Export it again, and use no "
        "copy from people you do not trust."
    )


def _obvious(model: str | bytes) -> ModelError | None:
    """Return the error for a file that cannot be an exported file by its suffix, its size or the keys of its metadata.

    Args:
        model: Path of the file, or its bytes.

    Returns:
        The error, or None if the top level of the file is that of an exported file.
    """
    name = name_of(model)
    kind = _kind_by_suffix(model)
    if kind:
        return NotAnExport(f"{name} is {kind}, not an exported file. {_advice(model, kind)}")
    with _opened(model) as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        outline = outline_of(stream, size)
    if outline.valid and outline.needed > size:
        return CorruptModel(
            f"{name} is cut off: it has {size:,} bytes, and at least {outline.needed:,} are needed. "
            "Copy the file again."
        )
    if not outline.valid or not outline.graph:
        return CorruptModel(f"{name} is not an ONNX file, or it is damaged. Copy the file again. {ADVICE}")
    if "zoo.schema" not in outline.keys:
        return foreign_onnx(name, outline.producer)
    return None


def swapped(words: Sequence[str], model: str, paths: Sequence[str]) -> list[str] | None:
    """Return the words of a command with the exported file first, if the user gave it after a picture or folder.

    Args:
        words: All words of the command, as the user typed them.
        model: The word that should name the exported file, but does not.
        paths: The words that should name pictures.

    Returns:
        The words, with the exported file and `model` exchanged. None if no path is an exported file, or if one of the
        two stands in the command more than once.
    """
    for path in paths:
        is_model = path.lower().endswith((".onnx", ".tflite")) and os.path.isfile(path)
        if is_model or exported_in(path):
            if words.count(path) != 1 or words.count(model) != 1:
                return None
            exchanged = {path: model, model: path}
            return [exchanged.get(word, word) for word in words]
    return None


def foreign_onnx(name: str, producer: str, *, like_ours: bool = False) -> NotAnExport:
    """Return the error to raise for an ONNX file without metadata of zoo.

    Args:
        name: The name of the file, for the message.
        producer: The program that wrote the file, or "".
        like_ours: Whether the graph has the inputs and outputs of an exported file.
    """
    if like_ours:
        return NotAnExport(
            f"{name} has no zoo metadata, although its graph looks like one that was exported by zoo. Another program "
            "has probably removed the metadata. Use the file that zoo made."
        )
    by = f" ({producer})" if producer else ""
    return NotAnExport(
        f"{name} is an ONNX file of another program{by}: it has no zoo metadata, so it was not exported by zoo. "
        f"{ADVICE}"
    )


def missing_in(folder: str) -> ModelNotFound:
    """Return the error to raise for a folder without a model.onnx. The message says what the folder holds instead."""
    files, folders = _entries(folder)
    graphs = [name for name in files if name.lower().endswith(".onnx")]
    exports = [name for name in folders if exported_in(os.path.join(folder, name))]
    others = [name for name in files if name.lower().endswith(_MODEL_SUFFIXES)]
    pictures = [name for name in files if _is_picture(name)]
    advice = ADVICE
    if graphs:
        advice = f"It holds {_some(folder, graphs)}: give that file."
        if len(graphs) > 1:
            advice = f"It holds {_some(folder, graphs)}: give one of these files."
    elif exports:
        advice = f"It holds {_some(folder, exports)}: give {'one of these folders' if exports[1:] else 'that folder'}."
    elif "run.json" in files:
        advice = f"It is a run without an exported file. `zoo export {folder}` makes one."
    elif others:
        kind = KINDS[os.path.splitext(others[0])[1].lower()]
        advice = f"It holds {_some(folder, others[:1])}, {kind}. {ADVICE}"
    elif pictures or any(_is_picture(name) for sub in folders[:20] for name in _entries(os.path.join(folder, sub))[0]):
        advice = "It holds pictures. Give the exported file first, then pictures."
    elif not files and not folders:
        advice = f"It is empty. {ADVICE}"
    return ModelNotFound(f"the folder {folder!r} has no {FILE}. {advice}")


def not_found(path: str, reason: object) -> ModelNotFound:
    """Return the error to raise for an exported file that cannot be read.

    Args:
        path: The path that the user gave.
        reason: Why it cannot be read.
    """
    if re.match(r"https?://", path):
        return ModelNotFound(f"{path!r} is a web address. Download the file first, and give its path.")
    shown = path if len(path) <= 300 else f"{path[:60]}… ({len(path):,} characters)"
    inside = os.path.join("exported", path)
    hint = f"Give the path of a {FILE}, or of the folder that holds it."
    if not os.path.exists(path) and exported_in(inside):
        hint = f"Did you mean {inside!r}?"
    return ModelNotFound(f"{shown!r} cannot be read: {reason}. {hint}")


def outline_of(stream: BinaryIO, size: int) -> OnnxOutline:
    """Read the top level of an ONNX file. Its graph is skipped, so that little is read of a file of any size.

    Args:
        stream: The file, at its start.
        size: The size of the file in bytes.
    """
    outline = OnnxOutline(valid=stream.read(1) == ONNX_START)
    position = 0
    for _ in range(MOST_ENTRIES):
        if position >= size or not outline.valid:
            return outline
        stream.seek(position)
        head = stream.read(20)
        tag, used = _varint(head, 0)
        number, wire = tag >> 3, tag & 7
        if not used or number not in range(1, 31) or wire not in (0, 2):
            outline.valid = False
            continue
        value, used = _varint(head, used)
        position += used
        outline.needed = max(outline.needed, position)
        if wire == 2:
            outline.needed = position + value
            outline.graph |= number == 7
            if number in (2, 14) and value < 65536 and outline.needed <= size:
                stream.seek(position)
                _add(outline, number, stream.read(value))
            position += value
    return outline


def _add(outline: OnnxOutline, number: int, content: bytes) -> None:
    """Add the producer's name (field 2) or the key of a metadata entry (field 14) to an outline."""
    if number == 2:
        outline.producer = "".join(c for c in content.decode("utf-8", "replace") if c.isprintable())[:40]
    elif content[:1] == b"\n":
        length, start = _varint(content, 1)
        outline.keys.add(content[start : start + length].decode("utf-8", "replace"))


def _varint(data: bytes, start: int) -> tuple[int, int]:
    """Return the number that is stored at a position, and the position behind it. That is 0 if no number is there."""
    value = 0
    for i, byte in enumerate(data[start : start + 10]):
        value |= (byte & 127) << (7 * i)
        if byte < 128:
            return value, start + i + 1
    return 0, 0


def _opened(model: str | bytes) -> BinaryIO:
    return io.BytesIO(model) if isinstance(model, bytes) else open(model, "rb")


def _kind(prefix: bytes, stream: BinaryIO) -> str | None:
    """Return what a file is, judging by its first bytes. None means that it may be an exported file."""
    text = prefix.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer (it stands for a file that was not fetched)"
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<!--")):
        return "a web page"
    if text.startswith(b"<?xml"):
        return KINDS[".xml"]
    if text.startswith((b'{"', b"{\n", b"{\r\n", b"{ ")):
        return KINDS[".json"]
    if prefix.startswith(b"PK\3\4"):
        return _kind_of_zip(stream)
    if prefix[4:8] == b"TFL3":
        return KINDS[".tflite"]
    if prefix[8:10] in (b'{"', b"{ ") and int.from_bytes(prefix[:8], "little") < 2**40:
        return KINDS[".safetensors"]
    if _PICKLE.match(prefix):
        return "a Python pickle, as older PyTorch versions and scikit-learn write them"
    if prefix.startswith(_PICTURES) or (prefix[:4] == b"RIFF" and prefix[8:12] == b"WEBP"):
        return "a picture"
    if prefix[257:262] == b"ustar":
        return "a tar archive, which must be unpacked first"
    if prefix[:1] == b"\n" and b"Placeholder" in prefix:
        return TENSORFLOW
    begun = prefix[:40].decode("utf-8", "replace").strip().splitlines()
    if begun and all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in prefix):
        return f"a text file that begins with {begun[0]!r}"
    return next((kind for start, kind in _SIGNATURES if prefix.startswith(start)), None)


def _kind_by_suffix(model: str | bytes) -> str | None:
    suffix = os.path.splitext(model)[1].lower() if isinstance(model, str) else ""
    return "a picture" if suffix in SUFFIXES else KINDS.get(suffix)


def _kind_of_zip(stream: BinaryIO) -> str:
    """Return what a ZIP file is, judging by the names of its parts. Only its table of contents is read."""
    import zipfile

    names: list[str] = []
    try:
        with zipfile.ZipFile(stream) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        pass
    if any(name.endswith("data.pkl") for name in names):
        return PYTORCH
    if "model.weights.h5" in names or {"config.json", "metadata.json"} <= set(names):
        return KERAS
    if names and all(name.endswith(".npy") for name in names):
        return KINDS[".npz"]
    suffix = os.path.splitext(getattr(stream, "name", ""))[1].lower()
    return KINDS.get(suffix) or "a ZIP archive, which must be unpacked first"


def _advice(model: str | bytes, kind: str) -> str:
    if kind.startswith("a Git LFS"):
        return "Run `git lfs pull` in its repository, or download the file itself."
    if kind == "a web page":
        return 'Download the file itself; on GitHub, that is the link "Download raw file".'
    if kind == "a picture":
        return "Give the exported file first, then pictures."
    folder = (os.path.dirname(model) or ".") if isinstance(model, str) else ""
    beside = [each for each in exported_in(folder) if os.path.isfile(each)] if folder else []
    if beside and os.path.basename(os.fsdecode(model)) not in map(os.path.basename, beside):
        return f"Give {beside[0]!r}, which is beside it."
    if folder and os.path.isfile(os.path.join(folder, "run.json")):
        return f"It belongs to a run: `zoo export {folder}` makes an exported file."
    return ADVICE


def _entries(folder: str) -> tuple[list[str], list[str]]:
    """List the names of the files and of the folders in a folder, except hidden ones.

    Both lists are empty if the folder cannot be read.
    """
    files: list[str] = []
    folders: list[str] = []
    try:
        with os.scandir(folder) as found:
            entries: Iterator[os.DirEntry[str]] = itertools.islice(found, MOST_ENTRIES)
            for entry in entries:
                if not entry.name.startswith("."):
                    (folders if entry.is_dir() else files).append(entry.name)
    except OSError:
        pass
    return sorted(files), sorted(folders)


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _some(folder: str, names: list[str]) -> str:
    shown = ", ".join(repr(os.path.join(folder, name)) for name in names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _shorter(reason: str) -> str:
    """Remove the codes and the places in C++ files from a message of ONNX Runtime."""
    text = reason.strip().splitlines()[0] if reason.strip() else "no reason given"
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"^Load model from .* failed:", "", text)
    text = re.sub(r"\S*onnxruntime_src\S* .*?\) (?=[A-Z])|\w+\.cc:\d+ \w+ ", "", text)
    return (text if len(text) <= 300 else text[:300] + "…").rstrip(". ")
