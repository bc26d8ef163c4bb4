"""Which weights a run starts from: published ones, the user's file in any format that is read, or random values."""

from __future__ import annotations

import numpy as np
import pytest

from zoo.errors import WeightsIncompatible
from zoo.plugin import registry
from zoo.pretrained import select
from zoo.reporter import Reporter

READS_NPZ = """
from zoo.plugin import Weights, hookimpl

def load(model, path):
    import numpy as np
    with np.load(path) as arrays:
        model.set_weights([arrays[f"arr_{i}"] for i in range(len(model.weights))])

@hookimpl
def zoo_weights():
    return [Weights(architecture="mnist_convnet", tag="npz", url="https://example.org/w.npz", filename="w.npz",
                    includes_top=False, input_size=(28, 28), licence="MIT", source="here", load=load)]
"""


def choose(plugins, name, requested="auto"):
    architecture, tag = plugins.resolve(name)
    return select.choose(architecture, tag, str(requested), architecture.input_size, plugins, Reporter())


def test_a_file_in_the_format_of_a_plugin_is_loaded_by_that_plugin(install_plugin, tmp_path):
    from zoo.train.network import build_backbone
    from zoo.train.weights_file import load_weights

    install_plugin("numbers", READS_NPZ)
    plugins = registry.load()
    architecture = plugins.architecture("mnist_convnet")
    backbone = build_backbone(architecture, (28, 28))
    arrays = [np.full(weight.shape, i, "float32") for i, weight in enumerate(backbone.weights)]
    np.savez(tmp_path / "mine.npz", *arrays)
    chosen = choose(plugins, "mnist_convnet", tmp_path / "mine.npz")
    assert chosen.file == tmp_path / "mine.npz" and not chosen.random
    load_weights(backbone, chosen.file, layouts=plugins.weights_of("mnist_convnet", top=False))
    assert all(np.array_equal(a, b) for a, b in zip(backbone.get_weights(), arrays, strict=True))
    # No other network has a plugin that reads the format, and no plugin reads .keras files.
    with pytest.raises(WeightsIncompatible, match="does not hold weights that zoo can load"):
        choose(plugins, "mnist_dense", tmp_path / "mine.npz")
    (tmp_path / "mine.npz").rename(tmp_path / "mine.keras")
    with pytest.raises(WeightsIncompatible, match="does not hold weights that zoo can load"):
        choose(plugins, "mnist_convnet", tmp_path / "mine.keras")
