"""Loads weights files into networks: .h5 files of Keras, the .keras files of runs, and files of tensors.

Every file is checked before Keras, h5py or a plugin opens it; see `zoo.plugin.readers`.

A .keras file is read only as data. Its config.json lists the layers in order, and its model.weights.h5 contains their
arrays. The objects that the file describes are not created, so an untrusted file cannot execute code. That is why no
option says that a file is trusted.

Keras writes the arrays of a layer to `layers/NAME/vars/0`, `layers/NAME/vars/1` and so on. NAME is the class name of
the layer in snake case. The second layer of a class gets the suffix `_1`, the third one `_2`. (See
`_save_container_state` in keras/src/saving/saving_lib.py.)
"""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import backend
from zoo.errors import WeightsIncompatible
from zoo.plugin import Architecture, Weights, copy_tensors, read_tensors, readers
from zoo.plugin.readers import hdf5

if TYPE_CHECKING:
    import keras

COUNT_TOLERANCE = 0.01


def load_weights(model: keras.Model, path: Path, entry: Weights | None = None, layouts: Sequence[Weights] = ()) -> None:
    """Load a weights file into a network.

    Args:
        model: A backbone, or a classifier if the file includes the top.
        path: An .h5 file in a format that Keras publishes, a .keras file, or a file of tensors (safetensors, PyTorch).
            Layers of a .keras file and tensors are matched by name with those of the network.
        entry: The published weights that the file belongs to; None for a user's own file. If the entry has a `load`
            function, only that function is tried.
        layouts: Other published weights of the network. If Keras cannot load a file, and the names of its tensors are
            others, the `load` functions of these weights are tried. The file may have the layout of one of them.

    Raises:
        WeightsIncompatible: The file is damaged or dangerous, or it belongs to another network.
    """
    top = "without its top" if len(model.output.shape) == 4 else "with its top"
    try:
        kind = readers.format_of(path)
        readers.check(path)
    except (OSError, zipfile.BadZipFile, WeightsIncompatible) as error:
        raise _misfit(path, model.name, _in_plain_words(error, path), top) from None
    others = list(dict.fromkeys(other.load for other in layouts if other.load is not None))
    if entry is not None and entry.load is not None:
        loaders = [entry.load]
    elif path.suffix == ".keras" or kind == readers.KERAS:
        loaders = [_load_archive]
    elif kind in readers.TENSOR_FORMATS:
        loaders = [_load_tensors, *others]
    else:
        loaders = [_load_h5, *others]
    problems: list[str] = []
    for load in loaders:
        try:
            # Some loaders build the published network to read the file. Its unnamed layers need the names that they
            # would have in a new process.
            with backend.fresh_names():
                load(model, path)
            return
        except Exception as error:
            # h5py, zipfile and Keras raise OSError, ValueError, KeyError, AttributeError and more on other files.
            if isinstance(error, WeightsIncompatible) and str(path) in str(error):
                raise
            # h5py, in the `load` of other weights, says only that it cannot open a file of tensors.
            if not (problems and kind in readers.TENSOR_FORMATS and isinstance(error, OSError)):
                problems.append(_in_plain_words(error, path))
    raise _misfit(path, model.name, "; or: ".join(dict.fromkeys(problems)), top)


def check_parameters(path: Path, architecture: Architecture, layouts: Sequence[Weights] = ()) -> None:
    """Check that the number of parameters in an .h5 file, or in a file of tensors, fits an architecture.

    This check runs before Keras starts. The number may differ by up to 1 % from that of the architecture's backbone.
    A .weights.h5 file may have any number of additional parameters, such as those of a head. The names of the layers
    are not compared, because Keras loads .h5 files by the order of the layers.

    Args:
        path: The user's file. A .keras file is not checked.
        architecture: The architecture whose backbone the file is for.
        layouts: Published weights of the architecture. Some published weights have a layout of their own and a `load`
            function that reads it. The user's file may have the same layout, with a different number of parameters. If
            any of `layouts` has a `load` function, the file is therefore not checked.

    Raises:
        WeightsIncompatible: The file is damaged or dangerous, or its number of parameters does not fit.
    """
    try:
        readers.check(path)
    except (OSError, WeightsIncompatible) as error:
        raise _misfit(path, architecture.name, _in_plain_words(error, path), "without its top") from None
    if path.suffix == ".keras" or not architecture.parameters or any(entry.load is not None for entry in layouts):
        return
    try:
        held, all_loaded = _parameters_in(path)
    except (WeightsIncompatible, OSError, RuntimeError, ValueError, KeyError) as error:
        raise _misfit(path, architecture.name, _in_plain_words(error, path), "without its top") from None
    # Preprocessing layers and random states hold a few numbers that `parameters` does not count.
    excess, tolerance = held - architecture.parameters, COUNT_TOLERANCE * architecture.parameters
    if excess < -tolerance or (all_loaded and excess > tolerance):
        problem = f"the file holds {held:,} parameters{_first_layers(path)}, and {architecture.parameters:,} are needed"
        raise _misfit(path, architecture.name, problem, "without its top")


def _parameters_in(path: Path) -> tuple[int, bool]:
    """Count the parameters in an .h5 file or in a file of tensors.

    Returns:
        The number of parameters, and whether Keras would load all of them. This is True for an .h5 file of the older
        format, because Keras loads every layer that such a file lists. It is False for a .weights.h5 file, because
        Keras loads only the layers that the network has. A .weights.h5 file may contain more layers, such as a head.
        It is False for a file of tensors, too.
    """
    import h5py

    if readers.format_of(path) in readers.TENSOR_FORMATS:
        return sum(array.size for array in read_tensors(path).values()), False
    with h5py.File(path, "r") as file:
        group = file.get("model_weights", file)
        if "layer_names" in group.attrs:
            layers = [group[name] for name in group.attrs["layer_names"]]
            return sum(layer[name].size for layer in layers for name in layer.attrs["weight_names"]), True
        sizes: list[int] = []
        file.visititems(
            lambda name, item: (
                sizes.append(item.size) if isinstance(item, h5py.Dataset) and not name.startswith("optimizer") else None
            )
        )
        return sum(sizes), False


def _misfit(path: Path, name: str, problem: str, top: str) -> WeightsIncompatible:
    return WeightsIncompatible(
        f"{str(path)!r} does not fit {name}: {problem}. "
        f"Give weights of exactly this network, {top}. `zoo info` lists the published ones."
    )


def _load_tensors(model: keras.Model, path: Path) -> None:
    """Load a file whose tensors have the names of the network's layers."""
    copy_tensors(read_tensors(path), model)


def _load_h5(model: keras.Model, path: Path) -> None:
    """Load an .h5 file into a model with Keras's own loader."""
    with warnings.catch_warnings():
        # Keras warns about its internal list of operations, which has no weights.
        warnings.filterwarnings("ignore", message=".*'_operations_by_depth")
        model.load_weights(path)


def _in_plain_words(error: Exception, path: Path) -> str:
    """Return an explanation of why a file does not fit the network, given an error of Keras, h5py or zipfile."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    if isinstance(error, WeightsIncompatible):
        return text
    if match := re.search(r"Model expected (\d+) layers, found (\d+) saved layers", text):
        needed, held = match.groups()
        return f"the file holds {held} layers with weights{_first_layers(path)}, and {needed} are needed"
    if match := re.search(r"\(named (\S+) in the current model.*expects (\d+) weight.* Received (\d+)", text):
        layer, needed, held = match.groups()
        return f"layer {layer!r} needs {needed} arrays, and the file holds {held} in its place"
    if match := re.search(r"\(named (\S+?)\).*expects shape (\(.*?\)).* with shape (\(.*?\))", text):
        layer, needed, held = match.groups()
        return f"layer {layer!r} needs an array of shape {needed}, and the file holds one of shape {held} in its place"
    if match := re.search(r"Layer '(\S+)' expected (\d+) variables, but received (\d+)", str(error)):
        layer, needed, held = match.groups()
        return f"layer {layer!r} needs {needed} arrays, and the file holds {held} in its place"
    # This is how Keras reports the first layer of a .weights.h5 file if several layers have other shapes.
    pattern = r"for object <\w+ name=([^,>]+).*variable\.shape=(\(.*?\)), Received: value\.shape=(\(.*?\))"
    if match := re.search(pattern, str(error), re.DOTALL):
        layer, needed, held = match.groups()
        return f"layer {layer!r} needs an array of shape {needed}, and the file holds one of shape {held} in its place"
    if isinstance(error, (OSError, zipfile.BadZipFile)):
        return f"the file is damaged, or it is not a weights file ({text})"
    return text


def _first_layers(path: Path) -> str:
    """Return the names of the first three layers with weights in an .h5 file, such as " (conv1, bn1, conv2 ...)".

    The result is an empty string if the names cannot be read.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            group = file["model_weights"] if "layer_names" not in file.attrs and "model_weights" in file else file
            names = [name.decode() if isinstance(name, bytes) else str(name) for name in group.attrs["layer_names"]]
            weighted = [name for name in names if len(group[name].attrs["weight_names"])]
    except (OSError, KeyError):
        return ""
    return f" ({', '.join(weighted[:3])} ...)"


def _load_archive(model: keras.Model, path: Path) -> None:
    """Load a .keras file. Each layer of the model gets the arrays of the layer that has the same name in the file.

    All layers are checked before the first one changes. The file may contain more layers than the model.

    Raises:
        WeightsIncompatible: config.json does not describe layers. The file lacks a layer or an array of the model, or
            holds an array of a different shape.
    """
    import h5py

    members = hdf5.archive_members(path)
    groups = _group_names(json.loads(members["config.json"]))
    with h5py.File(io.BytesIO(members["model.weights.h5"]), "r") as file:
        values = [
            (part, _arrays(part, file, path))
            for layer in model.layers
            if layer.weights
            for part, path in _parts(layer, _path(layer.name, groups), set())
        ]
    for layer, arrays in values:
        if arrays:
            # `set_weights` is not enough: this method also lets layers such as Normalization compute their constants.
            layer.load_own_variables({str(i): array for i, array in enumerate(arrays)})


def _group_names(config: Any) -> dict[str, str]:
    """Map the name of each layer to the name of its group in model.weights.h5.

    Args:
        config: The parsed content of config.json.

    Raises:
        WeightsIncompatible: `config` does not describe layers.
    """
    from keras.src.utils.naming import to_snake_case

    names, counts = {}, dict[str, int]()
    try:
        for entry in config["config"]["layers"]:
            # Operations such as sums stand among the layers, but they have no group.
            if str(entry.get("module")).startswith("keras.src.ops"):
                continue
            group = to_snake_case(entry["class_name"])
            count = counts[group] = counts.get(group, -1) + 1
            names[entry["config"]["name"]] = f"{group}_{count}" if count else group
    except (KeyError, TypeError, AttributeError):
        raise WeightsIncompatible("its config.json does not describe a network of layers") from None
    return names


def _path(layer: str, groups: dict[str, str]) -> str:
    """Return the path of a layer's group in model.weights.h5.

    Args:
        layer: The name of the layer.
        groups: The result of `_group_names`.

    Raises:
        WeightsIncompatible: The file has no layer of this name.
    """
    if layer not in groups:
        raise WeightsIncompatible(
            f"the network needs a layer {layer!r}, and the file has none of this name; it is of another network"
        )
    return f"layers/{groups[layer]}"


def _parts(saveable: Any, path: str, seen: set[int]) -> Iterator[tuple[keras.layers.Layer, str]]:
    """Yield all layers in `saveable`, and all layers inside these layers, with their paths in model.weights.h5.

    Order and paths are those that Keras uses when it saves a network.

    Args:
        saveable: A layer of the network that receives the weights, or a list, tuple or dict of such layers.
        path: The path of the group in model.weights.h5 that belongs to `saveable`.
        seen: The `id` of each layer that has been yielded. Such a layer is not yielded again. This function adds the
            layers that it yields.

    Yields:
        A layer, and the path of its group.
    """
    from keras.src.saving.saving_lib import _get_unique_name, _walk_saveable
    from keras.src.utils.naming import to_snake_case

    layer_class = backend.start().layers.Layer
    children: list[tuple[str, Any]] = []
    if isinstance(saveable, layer_class):
        if id(saveable) in seen:
            return
        seen.add(id(saveable))
        yield saveable, path
        if len(list(saveable._flatten_layers())) > 1:
            children = list(_walk_saveable(saveable))
    elif isinstance(saveable, (list, tuple, dict)):
        used: dict[str, int] = {}
        items = saveable.values() if isinstance(saveable, dict) else saveable
        children = [
            (_get_unique_name(to_snake_case(type(item).__name__), used), item)
            for item in items
            if isinstance(item, layer_class)
        ]
    for name, child in children:
        yield from _parts(child, f"{path}/{name}", seen)


def _arrays(layer: keras.layers.Layer, file: Any, path: str) -> list[Any]:
    """Read the arrays of a layer from model.weights.h5. If the layer contains other layers, their arrays are not read.

    Args:
        layer: A layer of the network that receives the weights.
        file: The opened model.weights.h5.
        path: The path of the layer's group in this file.

    Raises:
        WeightsIncompatible: The number or the shapes of the arrays do not fit the layer. An array is missing, or it is
            stored in another file.
    """
    inside = {id(weight) for part in layer._flatten_layers(include_self=False) for weight in part.weights}
    needed = [tuple(weight.shape) for weight in layer.weights if id(weight) not in inside]
    variables = f"{path}/vars"
    datasets = [_dataset(file, f"{variables}/{i}") for i in range(len(file.get(variables, ())))] if needed else []
    shapes = [tuple(dataset.shape) for dataset in datasets]
    if shapes != needed:
        raise WeightsIncompatible(
            f"layer {layer.name!r} needs arrays of the shapes {_listed(needed)}, and the file has {_listed(shapes)}"
        )
    return [dataset[()] for dataset in datasets]


def _dataset(file: Any, name: str) -> Any:
    """Return a dataset (an array on the disk) of the opened model.weights.h5.

    Raises:
        WeightsIncompatible: The dataset is missing, or its numbers are not stored directly in this file.
    """
    import h5py

    link, dataset = file.get(name, getlink=True), file.get(name)
    # External links, external storage and virtual datasets could read any other file on the disk.
    if not isinstance(link, h5py.HardLink) or not isinstance(dataset, h5py.Dataset):
        raise WeightsIncompatible(f"its model.weights.h5 has no array {name!r}")
    if dataset.external or dataset.is_virtual:
        raise WeightsIncompatible(f"the array {name!r} of its model.weights.h5 is in another file")
    return dataset


def _listed(shapes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes)) or "none"
