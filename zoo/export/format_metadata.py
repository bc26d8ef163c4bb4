"""Reads the metadata of exported files in any format, without the engine that runs them.

An ONNX file is opened as on the device. A .tflite file ends in a ZIP archive with `zoo.json`. OpenVINO's .xml has the
entries under rt_info. For other formats, zoo writes the metadata into a file `metadata.json` beside the exported file.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from zoo_runtime import CorruptModel, ModelInfo, ModelNotFound, NotAnExport, Predictor

SIDECAR = "metadata.json"
ENTRY = "zoo.json"
# An entry that is larger than this is not one that zoo wrote, in bytes.
LARGEST = 64_000_000


def info_in(path: Path) -> ModelInfo:
    """Return the metadata of an exported file.

    Raises:
        ModelError: The file cannot be read, is damaged, or has no metadata of zoo.
    """
    if path.suffix == ".onnx":
        return Predictor(path, tuned=False).info
    return ModelInfo.from_metadata(dict(metadata_in(path)))


def metadata_in(path: Path) -> Mapping[str, str]:
    """Return the entries of the metadata of a file that is no ONNX file.

    Raises:
        ModelError: The file cannot be read, is damaged, or has no metadata of zoo.
    """
    try:
        found = _carried(path)
        if not found:
            sidecar = path.with_name(SIDECAR)
            found = json.loads(sidecar.read_text("utf-8")) if sidecar.is_file() else {}
    except OSError as error:
        raise ModelNotFound(f"{str(path)!r} cannot be read ({error}).") from None
    except (ValueError, RuntimeError, zipfile.BadZipFile, ElementTree.ParseError) as error:
        raise CorruptModel(f"{str(path)!r} is damaged: its metadata cannot be read ({error}).") from None
    if not isinstance(found, dict) or not all(isinstance(each, str) for each in found.values()):
        raise CorruptModel(f"{str(path)!r} is damaged: its metadata are not texts.")
    if not found:
        raise NotAnExport(f"{str(path)!r} has no metadata of zoo.")
    return found


def carries_metadata(path: Path) -> bool:
    """Return whether a file holds its metadata itself, so that it needs no file beside it."""
    try:
        return path.suffix == ".onnx" or bool(_carried(path))
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile, ElementTree.ParseError):
        return False


def companions(path: Path) -> Sequence[Path]:
    """Return the other files that belong to an exported file: the weights beside an OpenVINO IR."""
    weights = path.with_suffix(".bin")
    return [weights] if path.suffix == ".xml" and weights.is_file() else []


def beside(exported: Path, name: str) -> list[tuple[str, Path]]:
    """List the files in other formats that belong to an export by their names: the format, and the main file.

    Args:
        exported: The folder of exports.
        name: The name of the export.
    """
    found = []
    # `glob` would read brackets in a name as a pattern, but names have none.
    for folder in sorted(exported.glob(f"{name}-*")):
        files = [path for path in (folder / "model.tflite", folder / "model.xml") if path.is_file()]
        if not files and (folder / SIDECAR).is_file():
            others = (".md", ".json", ".sig", ".onnx")
            files = [path for path in sorted(folder.glob("*.*")) if path.suffix not in others]
        found += [(folder.name.removeprefix(f"{name}-"), path) for path in files[:1]]
    return found


def _carried(path: Path) -> dict[str, str]:
    if path.suffix == ".tflite" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if ENTRY not in archive.namelist() or archive.getinfo(ENTRY).file_size > LARGEST:
                return {}
            found = json.loads(archive.read(ENTRY))
            return dict(found) if isinstance(found, dict) else {}
    if path.suffix == ".xml":
        entries = ElementTree.parse(path).find("./rt_info/zoo")
        return {} if entries is None else {each.tag: each.get("value", "") for each in entries}
    return {}
