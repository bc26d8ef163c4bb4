"""Where networks are cut, and the fingerprints of what lies below."""

from __future__ import annotations

import numpy as np
from harness import network_in_phase, with_layer

from zoo import backend
from zoo.plugin import Head
from zoo.train.frozen import cut as cut_module
from zoo.train.frozen.cut import find_cut


def test_nothing_is_cut_where_everything_trains():
    assert find_cut(network_in_phase("mnist_convnet", "all").logits_model) is None


def test_dropout_that_drops_is_above_the_cut():
    """And behind it nothing is constant: the flat head of a frozen base is cut in front of its dropout."""
    network = network_in_phase("mnist_convnet", "head", head=Head(pool="flatten", dropout=0.5, hidden=(8,)))
    cut = find_cut(network.logits_model)
    rest = {layer.name for layer in backend.start().Model(list(cut.tensors), network.logits_model.output).layers}
    assert {"head_dropout", "head_hidden1", "logits"} <= rest and "conv1" not in rest


def test_the_digest_of_features_knows_weights_structure_and_nothing_else():
    network = network_in_phase("mnist_convnet", "last:1")
    (tensor,) = find_cut(network.logits_model).tensors
    first = cut_module.digest(network.logits_model, tensor)
    other = network_in_phase("mnist_convnet", "last:1")
    (tensor,) = find_cut(other.logits_model).tensors
    assert cut_module.digest(other.logits_model, tensor) == first
    lowest = next(layer for layer in other.logits_model.layers if layer.weights)
    highest = other.logits_model.get_layer("logits")
    highest.set_weights([w + 1 for w in highest.get_weights()])
    assert cut_module.digest(other.logits_model, tensor) == first, "what is above does not matter"
    lowest.set_weights([w + 1e-6 for w in lowest.get_weights()])
    assert cut_module.digest(other.logits_model, tensor) != first
    larger = network_in_phase("mnist_convnet", "last:1", size=(48, 48))
    (tensor,) = find_cut(larger.logits_model).tensors
    assert cut_module.digest(larger.logits_model, tensor) != first


def test_layers_that_draw_lots_within_are_not_constant():
    layers = backend.start().layers
    attention = layers.MultiHeadAttention(2, 4, dropout=0.5)
    for layer in (
        lambda x: attention(x, x),
        layers.LSTM(4, dropout=0.5, return_sequences=True),
        layers.TimeDistributed(layers.Dropout(0.5)),
        layers.GaussianNoise(1.0),
        layers.SpatialDropout1D(0.5),
    ):
        model = with_layer(layer)
        (tensor,) = find_cut(model).tensors
        assert tuple(tensor.shape[1:]) in ((6, 6, 4), (36, 4)), "the cut is below the layer"


def test_statistics_that_move_without_weights_are_not_constant():
    norm = backend.start().layers.BatchNormalization(center=False, scale=False)
    model = with_layer(norm)
    assert find_cut(model).tensors[0].shape[1:] == (144,)
    norm.trainable = True
    assert find_cut(model).tensors[0].shape[1:] in ((6, 6, 4), (36, 4))


def test_features_that_nothing_names_for_good_are_found_by_nobody():
    """A function's or a foreign class's code may be another tomorrow; an array's printed form is cut short."""
    keras = backend.start()

    def digest(function, layer=True):
        pixels = keras.Input((40, 40, 3))
        x = keras.layers.Lambda(function)(pixels) if layer else function(pixels)
        model = keras.Model(pixels, keras.layers.Dense(2)(keras.layers.Flatten()(x)))
        return cut_module.digest(model, x)

    assert digest(lambda x: x * 2) != digest(lambda x: x * 2)
    mean = np.arange(40 * 40 * 3, dtype="float32").reshape(40, 40, 3)
    other = mean.copy()
    other[20, 20, 1] += 1
    same = digest(lambda x: x - mean, False)
    assert digest(lambda x: x - mean, False) == same != digest(lambda x: x - other, False)
    kept, changed = keras.ops.convert_to_tensor(mean), keras.ops.convert_to_tensor(other)
    assert digest(lambda x: x - kept, False) != digest(lambda x: x - changed, False)
    assert digest(keras.layers.ReLU(), False) != digest(keras.layers.ReLU(max_value=6), False)
