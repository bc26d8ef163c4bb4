"""Reads files of tensors as data: nothing in a file is run, and no number in it is believed without a check.

`zoo.plugin.read_tensors` is the public door. Importing this package imports neither numpy nor h5py.

| format | module |
|---|---|
| safetensors | `safetensors` |
| PyTorch's `torch.save`, as a zip archive and in the older form | `pytorch`; `unpickler` reads the pickles |
| HDF5 (.h5 and .weights.h5 of Keras) | `hdf5` |
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import WeightsIncompatible

if TYPE_CHECKING:
    import numpy as np

SAFETENSORS, PYTORCH, HDF5, KERAS, ZIP = "safetensors", "PyTorch", "HDF5", "Keras", "zip"
TENSOR_FORMATS = (SAFETENSORS, PYTORCH)
"""The formats whose tensors have names, and that Keras itself cannot load."""


def format_of(path: Path) -> str | None:
    """Say from its content, not from its name, what kind of weights file a file is.

    Args:
        path: The file.

    Returns:
        "safetensors", "PyTorch" (zip archive or older form), "HDF5", "Keras" (a .keras archive), "zip" (another
        archive), or None for everything else.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as stream:
        head = stream.read(64)
        # The signature of HDF5 is at the start of the file, or after a user block of 512 bytes or more.
        for at in (0, 512, 1024, 2048):
            if stream.seek(at) == at and stream.read(8) == b"\x89HDF\r\n\x1a\n":
                return HDF5
    if head.startswith(b"PK"):
        return _archive_format(path)
    # A pickle of protocol 2 or later begins so. PyTorch's older form consists of pickles.
    if head[:1] == b"\x80" and len(head) > 1 and 2 <= head[1] <= 5:
        return PYTORCH
    # The first eight bytes are the length of the JSON that follows.
    return SAFETENSORS if head[8:9] == b"{" else None


def _archive_format(path: Path) -> str:
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return ZIP
    if {"config.json", "model.weights.h5"} <= set(names):
        return KERAS
    return PYTORCH if any(name.endswith("data.pkl") for name in names) else ZIP


def read_tensors(path: Path | str) -> Mapping[str, np.ndarray]:
    """Read the tensors of a weights file without running anything in it. PyTorch is not needed.

    The content decides the format, not the name: safetensors, PyTorch's `torch.save` of a state dict (both its forms),
    or HDF5. A hostile file cannot run code, reach other files, or take much more memory than its own size.

    Args:
        path: The file.

    Returns:
        Maps each name to its array, in the order of the file. The arrays have the shapes and dtypes of the file;
        bfloat16, which numpy lacks, becomes float32. They are read-only, and may share memory. In a PyTorch file,
        names in nested dictionaries are joined by dots. If the outermost dictionary holds no tensor itself, but has the
        entry state_dict, model_state_dict or model, only that entry is read. In an HDF5 file, names are paths, such as
        "conv1/kernel".

    Raises:
        WeightsIncompatible: The file has another format, is damaged, or holds something else than tensors. The message
            says what. It does not name the file.
        OSError: The file cannot be read.
    """
    path = Path(path)
    kind = format_of(path)
    if kind == SAFETENSORS:
        from zoo.plugin.readers import safetensors

        return safetensors.read(path)
    if kind == PYTORCH:
        from zoo.plugin.readers import pytorch

        return pytorch.read(path)
    if kind == HDF5:
        from zoo.plugin.readers import hdf5

        return hdf5.read(path)
    if kind == KERAS:
        raise WeightsIncompatible("it is a .keras archive of a network, whose layers zoo loads by their names")
    raise WeightsIncompatible(
        "it is no file of tensors: safetensors, a state dict of PyTorch (torch.save) and HDF5 can be read"
    )


def check(path: Path) -> None:
    """Refuse a weights file that could read other files, or take far more memory than its own size.

    HDF5 files and the HDF5 file in a .keras archive are checked. `read_tensors` checks the other formats itself.

    Args:
        path: The file.

    Raises:
        WeightsIncompatible: The file is dangerous, or it is damaged.
        OSError: The file cannot be read.
    """
    from zoo.plugin.readers import hdf5

    kind = format_of(path)
    if kind == HDF5:
        hdf5.check(path)
    elif kind == KERAS:
        hdf5.check_archive(path)
