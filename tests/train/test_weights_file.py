"""Weights files: .keras files are read as data alone, and files of other networks are refused in plain words."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile

import h5py
import numpy as np
import pytest
from harness import build_network
from torch_files import plain, torch_module, write_legacy, write_zip

from zoo import backend
from zoo.errors import WeightsIncompatible
from zoo.plugin import Head, Weights, registry
from zoo.pretrained import select
from zoo.reporter import Reporter
from zoo.testing import randomize
from zoo.train.network import build_backbone
from zoo.train.weights_file import check_parameters, load_weights


def saved(architecture, size, path, **options):
    """Save a network with random weights, as a run does; return the model."""
    network = build_network(architecture, size, **options)
    network.model.save(path)
    return network.model


def rewrite(path, *, config=None, weights=None):
    """Replace the content of a .keras file by what functions make of it."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    if config is not None:
        members["config.json"] = json.dumps(config(json.loads(members["config.json"]))).encode()
    if weights is not None:
        buffer = io.BytesIO(members["model.weights.h5"])
        with h5py.File(buffer, "r+") as file:
            weights(file)
        members["model.weights.h5"] = buffer.getvalue()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def assert_loaded(backbone, path, source):
    """The backbone has the arrays that Keras itself loads, bit for bit."""
    assert any((a != b).any() for a, b in zip(backbone.get_weights(), weights_of(backbone, source), strict=True))
    load_weights(backbone, path)
    loaded = backend.start().models.load_model(path, compile=False)
    for expected in (source, loaded):
        arrays = zip(backbone.get_weights(), weights_of(backbone, expected), strict=True)
        assert all(a.tobytes() == b.tobytes() for a, b in arrays)


def weights_of(backbone, model):
    return [array for layer in backbone.layers if layer.weights for array in model.get_layer(layer.name).get_weights()]


@pytest.mark.parametrize(
    ("name", "size", "head"),
    [
        ("mobilenetv2_035", 32, None),
        ("mnist_convnet", 28, Head(pool="roi", grid=2, hidden=(8, 4), dropout=0.2)),
        pytest.param("efficientnetb0", 32, None, marks=pytest.mark.slow),
        pytest.param("resnext50", 32, None, marks=pytest.mark.slow),
        pytest.param("convnext_tiny", 32, None, marks=pytest.mark.slow),
    ],
)
def test_layers_of_a_run_are_loaded_bit_for_bit(plugins, tmp_path, name, size, head):
    architecture = plugins.architecture(name)
    model = saved(architecture, (size, size), tmp_path / "model.keras", head=head)
    assert_loaded(build_backbone(architecture, (size, size)), tmp_path / "model.keras", model)


def odd_network(seed):
    """Layers of one class without names, layers inside layers, operations between them, an adapted Normalization."""
    keras = backend.start()
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    pixels = keras.Input((8, 8, 4), name="image")
    norm = layers.Normalization(name="norm")
    norm.adapt(np.random.default_rng(seed).normal(seed, 1 + seed, (10, 8, 8, 4)).astype("float32"))
    x = norm(pixels)
    x = layers.Conv2D(8, 3, groups=4, name="grouped")(x) + 1.0
    x = layers.Add(name="sum")([x, layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)])
    x = layers.TimeDistributed(layers.Dense(6, name=f"inner{seed}"), name="each")(layers.Reshape((36, 8))(x))
    x = layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    x = layers.Dense(5, name="second")(layers.Flatten()(layers.Dense(7, name="first")(x)))
    model = keras.Model(pixels, layers.Reshape((1, 1, 5))(x))
    randomize(model)
    return model


def test_layers_inside_layers_and_constants_of_layers_are_loaded(tmp_path):
    path = tmp_path / "odd.keras"
    with backend.fresh_names():
        source = odd_network(1)
    source.save(path)
    with backend.fresh_names():
        other = odd_network(2)
    assert_loaded(other, path, source)
    pixels = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype("float32")
    assert np.array_equal(other.predict_on_batch(pixels), source.predict_on_batch(pixels))


@pytest.mark.parametrize("kind", ["Lambda", "Unknown"])
def test_nothing_of_the_file_is_built_or_run(plugins, tmp_path, monkeypatch, kind):
    """A class that does not exist and a Lambda with code are names in a list, and no more."""
    architecture, path = plugins.architecture("mnist_convnet"), tmp_path / "model.keras"
    source = saved(architecture, (28, 28), path)

    def hostile(config):
        evil = {"module": "evil", "class_name": kind, "registered_name": "evil>Evil"}
        if kind == "Lambda":
            code = {"class_name": "__lambda__", "config": {"code": "4wAAAA==", "defaults": None, "closure": None}}
            evil = {"module": "keras.layers", "class_name": "Lambda", "registered_name": None}
            config["config"]["layers"].append({**evil, "config": {"name": "l", "function": code}, "inbound_nodes": []})
        for entry in config["config"]["layers"]:
            if not entry["config"]["name"].startswith(("conv", "l")):
                entry.update(evil)
        config.update(module="evil", class_name="Evil", registered_name="evil>Evil")
        return config

    rewrite(path, config=hostile)
    keras, backbone = backend.start(), build_backbone(architecture, (28, 28))
    with pytest.raises(Exception):  # noqa: B017
        keras.models.load_model(path, compile=False)

    def forbidden(*arguments, **options):
        raise AssertionError("something of the file was built")

    monkeypatch.setattr(keras.models, "load_model", forbidden)
    monkeypatch.setattr("keras.src.saving.serialization_lib.deserialize_keras_object", forbidden)
    load_weights(backbone, path)
    pairs = zip(backbone.get_weights(), weights_of(backbone, source), strict=True)
    assert all(a.tobytes() == b.tobytes() for a, b in pairs)


def test_another_network_is_refused_by_the_name_of_a_layer(plugins, tmp_path):
    path = tmp_path / "model.keras"
    saved(plugins.architecture("mnist_convnet"), (28, 28), path)
    backbone = build_backbone(plugins.architecture("mobilenetv2_035"), (32, 32))
    before = backbone.get_weights()
    with pytest.raises(
        WeightsIncompatible, match=r"needs a layer 'Conv1', and the file has none of this name.*zoo info"
    ):
        load_weights(backbone, path)
    assert all(np.array_equal(a, b) for a, b in zip(before, backbone.get_weights(), strict=True))


def test_another_width_is_refused_by_shapes_and_changes_nothing(plugins, tmp_path):
    path = tmp_path / "model.keras"
    saved(plugins.architecture("mobilenetv2_050"), (32, 32), path)
    backbone = build_backbone(plugins.architecture("mobilenetv2_035"), (32, 32))
    before = backbone.get_weights()
    with pytest.raises(
        WeightsIncompatible, match=r"layer '\w+' needs arrays of the shapes \(.*\), and the file has \("
    ):
        load_weights(backbone, path)
    assert all(np.array_equal(a, b) for a, b in zip(before, backbone.get_weights(), strict=True))


def test_links_to_other_files_are_not_followed(plugins, tmp_path):
    architecture, path = plugins.architecture("mnist_convnet"), tmp_path / "model.keras"
    saved(architecture, (28, 28), path)
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["secret"] = np.ones((3, 3, 1, 32), "float32")

    def link(file):
        (group,) = [f"layers/{name}/vars" for name in file["layers"] if name == "conv2d"]
        del file[f"{group}/0"]
        file[f"{group}/0"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "secret")

    rewrite(path, weights=link)
    with pytest.raises(WeightsIncompatible, match="'layers/conv2d/vars/0' is a link to another file"):
        load_weights(build_backbone(architecture, (28, 28)), path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"PK rubbish", "the file is damaged, or it is not a weights file"),
        (None, "config.json does not describe a network of layers"),
    ],
)
def test_a_damaged_archive_is_refused(plugins, tmp_path, content, problem):
    path = tmp_path / "model.keras"
    if content is None:
        saved(plugins.architecture("mnist_dense"), (8, 8), path)
        rewrite(path, config=lambda config: {"config": []})
    else:
        path.write_bytes(content)
    with pytest.raises(WeightsIncompatible, match=problem):
        load_weights(build_backbone(plugins.architecture("mnist_convnet"), (28, 28)), path)


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        ("mnist_convnet", r"the file holds 3 layers with weights \(\w+, \w+, \w+ \.\.\.\), and \d+ are needed"),
        ("mobilenetv2_050", r"layer '\w+' needs an array of shape \(.*\), and the file holds one of shape \("),
    ],
)
def test_an_h5_file_of_another_network_is_refused_in_plain_words(plugins, tmp_path, other, problem):
    architecture = plugins.architecture(other)
    size = (28, 28) if other == "mnist_convnet" else (32, 32)
    build_backbone(architecture, size).save_weights(tmp_path / "w.weights.h5")
    build_backbone(architecture, size).save(tmp_path / "w.h5")
    with pytest.raises(WeightsIncompatible, match=problem) as caught:
        load_weights(build_backbone(plugins.architecture("mobilenetv2_035"), (32, 32)), tmp_path / "w.h5")
    assert "does not fit" in str(caught.value) and "without its top" in str(caught.value)
    with pytest.raises(WeightsIncompatible, match=r"layer '\w+' needs"):
        load_weights(build_backbone(plugins.architecture("mobilenetv2_035"), (32, 32)), tmp_path / "w.weights.h5")


def write_arrays(path, size, *, listed, optimizer=0):
    """Write an .h5 file with one array, as Keras lists its layers in older files or as in a .weights.h5 file."""
    with h5py.File(path, "w") as file:
        file.create_dataset("dense/kernel", data=np.zeros(size, "float32"))
        file.create_dataset("optimizer/moment", data=np.zeros(optimizer, "float32"))
        if listed:
            file.attrs["layer_names"], file["dense"].attrs["weight_names"] = ["dense"], ["kernel"]


@pytest.mark.parametrize(
    ("size", "listed", "optimizer", "fits"),
    [
        (1000, True, 0, True),
        (1009, True, 0, True),
        (1011, True, 0, False),
        (989, True, 0, False),
        (1000, True, 500, True),
        # A .weights.h5 file may hold a head as well, but no optimizer makes up for a missing layer.
        (9000, False, 0, True),
        (989, False, 500, False),
    ],
)
def test_the_number_of_parameters_decides_before_keras_starts(tmp_path, size, listed, optimizer, fits):
    path = tmp_path / "own.h5"
    write_arrays(path, size, listed=listed, optimizer=optimizer)
    architecture = dataclasses.replace(registry.load().architecture("mnist_dense"), name="small", parameters=1000)
    if fits:
        check_parameters(path, architecture)
    else:
        with pytest.raises(WeightsIncompatible, match=f"holds {size:,} parameters.*1,000 are needed"):
            check_parameters(path, architecture)


def test_a_format_of_a_plugin_may_have_another_number_of_parameters(tmp_path):
    path = tmp_path / "own.h5"
    write_arrays(path, 10, listed=True)
    architecture = dataclasses.replace(registry.load().architecture("mnist_dense"), name="small", parameters=1000)
    entry = Weights(
        architecture="small",
        tag="x",
        url="https://example.org/x.h5",
        filename="x.h5",
        input_size=(32, 32),
        includes_top=False,
        licence="MIT",
        source="here",
        load=lambda model, path: None,
    )
    check_parameters(path, architecture, [entry])


# --- files of tensors ------------------------------------------------------------------------------------------------


def torch_tensors(model):
    """The weights of a small network as PyTorch names and lays them out."""
    tensors = {}
    for layer in model.layers:
        for variable, array in zip(layer.weights, layer.get_weights(), strict=True):
            kernel = variable.name == "kernel"
            tensors[f"{layer.name}.{'weight' if kernel else 'bias'}"] = array.transpose(3, 2, 0, 1) if kernel else array
    return tensors


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_a_file_of_tensors_of_the_user_is_loaded_by_names(plugins, tmp_path, monkeypatch, kind):
    architecture = plugins.architecture("mnist_convnet")
    source, backbone = (build_backbone(architecture, (28, 28)) for _ in range(2))
    randomize(source)
    path = tmp_path / "own.bin"
    if kind == "safetensors":
        header, data = {}, b""
        for layer in source.layers:
            for variable, array in zip(layer.weights, layer.get_weights(), strict=True):
                end = len(data) + array.nbytes
                offsets = [len(data), end]
                header[f"{layer.name}/{variable.name}"] = {
                    **{"dtype": "F32", "shape": list(array.shape)},
                    "data_offsets": offsets,
                }
                data += array.tobytes()
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    else:
        torch = torch_module(monkeypatch)
        tensors = {name: plain(torch, np.ascontiguousarray(a), name) for name, a in torch_tensors(source).items()}
        (write_zip if kind == "zip" else write_legacy)(torch, path, tensors)
    chosen = select.choose(architecture, None, str(path), (28, 28), plugins, Reporter())
    check_parameters(chosen.file, architecture)
    load_weights(backbone, chosen.file)
    pairs = zip(backbone.get_weights(), source.get_weights(), strict=True)
    assert all(a.tobytes() == b.tobytes() for a, b in pairs)
    other = build_backbone(plugins.architecture("mobilenetv2_035"), (32, 32))
    with pytest.raises(WeightsIncompatible, match=r"layer 'Conv1' needs the tensor 'Conv1/kernel' or 'Conv1\.weight'"):
        load_weights(other, path, layouts=plugins.weights_of("mobilenetv2_035"))
    with pytest.raises(WeightsIncompatible, match=r"the file holds [\d,]+ parameters, and 410,208 are needed"):
        check_parameters(path, plugins.architecture("mobilenetv2_035"))


def test_hostile_files_are_refused_before_keras_or_a_plugin_opens_them(zoo, plugins, tmp_path, monkeypatch):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["secret"] = np.ones((3, 3, 1, 32), "float32")
    backbone = build_backbone(plugins.architecture("mnist_convnet"), (28, 28))
    path = tmp_path / "w.weights.h5"
    backbone.save_weights(path)
    with h5py.File(path, "r+") as file:
        (name,) = [name for name in file["layers"] if name == "conv2d"]
        del file[f"layers/{name}/vars/0"]
        file[f"layers/{name}/vars/0"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "secret")

    def opened(*arguments):
        raise AssertionError("the file was opened")

    monkeypatch.setattr(type(backbone), "load_weights", opened)
    entry = Weights(
        **{"architecture": "small", "tag": "x", "url": "https://example.org/x.h5", "input_size": (28, 28)},
        **{"includes_top": False, "licence": "MIT", "source": "here", "load": opened},
    )
    for layout in (None, entry):
        with pytest.raises(WeightsIncompatible, match="'layers/conv2d/vars/0' is a link to another file"):
            load_weights(backbone, path, layout)
    ran = zoo("finetune", "mnist_convnet", "--weights", path, "--runs", tmp_path / "runs")
    assert ran.code == 1 and "is a link to another file" in ran.err and not (tmp_path / "runs").exists()
    evil = tmp_path / "evil.pth"
    evil.write_bytes(b"\x80\x02cposix\nsystem\n(X\x05\x00\x00\x00touchtR.")
    ran = zoo("finetune", "mnist_convnet", "--weights", evil, "--runs", tmp_path / "runs")
    assert ran.code == 1 and "its pickle names posix.system, which is no part of a tensor; nothing" in ran.err
