"""Networks with weights at hand, for commands that try several of them."""

from __future__ import annotations

import pytest

from zoo import backend

PLUGIN = """
from functools import partial
from zoo.plugin import Architecture, Head, Stage, Weights, hookimpl

def build(shape, *, filters):
    import keras
    from zoo.plugin import normalize
    pixels = keras.Input(shape)
    x = normalize(pixels, "tf")
    for i in (1, 2):
        x = keras.layers.Conv2D(filters * i, 3, strides=2, padding="same", activation="relu", name=f"conv{i}")(x)
    return keras.Model(pixels, x)

PARAMETERS = {4: 416, 64: 75712}

@hookimpl
def zoo_architectures():
    for filters, parameters in PARAMETERS.items():
        yield Architecture(name=f"conv{filters}", summary="two convolutions", build=partial(build, filters=filters),
                           input_size=(32, 32), min_size=8, parameters=parameters, head=Head(pool="avg"),
                           stages=[Stage("a", ["conv1"]), Stage("b", ["conv2"])], source="here", licence="MIT")

@hookimpl
def zoo_weights():
    for filters in (4, 64):
        yield Weights(architecture=f"conv{filters}", tag="drawn", url=f"file:FOLDER/conv{filters}.weights.h5",
                      includes_top=False, input_size=(32, 32), licence="MIT", source="here")
"""


@pytest.fixture
def networks(install_plugin, tmp_path):
    """Install two networks with weights that were drawn at random: one with few features, one with many."""
    install_plugin("drawn", PLUGIN.replace("FOLDER", str(tmp_path)))
    import drawn_plugin_module as plugin

    keras = backend.start()
    for filters in plugin.PARAMETERS:
        keras.utils.set_random_seed(filters)
        plugin.build((32, 32, 3), filters=filters).save_weights(tmp_path / f"conv{filters}.weights.h5")
