"""The tools for networks of keras.applications, used as a third party uses them."""

from __future__ import annotations

import numpy as np
import pytest

from zoo import backend
from zoo.errors import InvalidPluginData
from zoo.plugin import normalize, registry

FAMILY = """
from zoo.plugin import KerasApplication, Stage, hookimpl, keras_architecture

@hookimpl
def zoo_architectures():
    yield keras_architecture(
        KerasApplication("MobileNetV2", "tf", {"alpha": 0.35}),
        "narrow",
        summary="a narrow network",
        parameters=410_208,
        stages=[Stage("all", ["Conv1", "bn_Conv1", "Conv_1", "Conv_1_bn", "*expanded_conv_*", "block_*"])],
        source="https://arxiv.org/abs/1801.04381",
        size=96,
        learning_rate=3e-3,
    )
"""


def test_a_third_party_describes_a_network_of_keras_in_a_few_lines(zoo, install_plugin):
    """The defaults are those of the built-in families, which use the same function."""
    from zoo.train.network import build_backbone

    install_plugin("narrow", FAMILY)
    listed = zoo("list", "narrow")
    assert listed.code == 0 and "96x96" in listed.out and "Apache-2.0" in listed.out
    plugins = registry.load()
    narrow, builtin_one = plugins.architecture("narrow"), plugins.architecture("mobilenetv2_035")
    for field in ("head", "min_size", "channels", "licence", "default_schedule", "learning_rate"):
        assert getattr(narrow, field) == getattr(builtin_one, field)
    names = [[layer.name for layer in build_backbone(item, (32, 32)).layers] for item in (narrow, builtin_one)]
    assert names[0] == names[1] and narrow.build_classifier is not None


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("none", [255.0, 0.0, 127.5]),
        ("unit", [1.0, 0.0, 0.5]),
        ("tf", [1.0, -1.0, 0.0]),
        ("128", [127 / 128, -1.0, -0.5 / 128]),
        ("torch", [(1 - 0.485) / 0.229, -0.456 / 0.224, (0.5 - 0.406) / 0.225]),
        # BGR: the last channel comes first.
        ("caffe", [127.5 - 103.939, -116.779, 255 - 123.68]),
    ],
)
def test_normalize(mode, expected):
    from zoo import backend

    keras = backend.start()
    pixels = keras.Input((1, 1, 3))
    model = keras.Model(pixels, normalize(pixels, mode))
    out = model.predict_on_batch(np.array([[[[255, 0, 127.5]]]], "float32"))
    assert out.ravel() == pytest.approx(expected, abs=1e-5)


def test_normalize_refuses_another_mode():
    with pytest.raises(InvalidPluginData, match=r"tf, torch, caffe, 128, unit or none\. Received: 'zero'"):
        normalize(None, "zero")


def test_normalize_by_mean_and_scale():
    keras = backend.start()
    pixels = keras.Input((2, 2, 3))
    values = np.linspace(0, 255, 24, dtype="float32").reshape(2, 2, 2, 3)
    for mean, scale in ((127, 128), ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0)), (127, (1, 2, 4))):
        model = keras.Model(pixels, normalize(pixels, mean=mean, scale=scale))
        assert [layer.name for layer in model.layers][1:] == ["normalize"]
        np.testing.assert_allclose(model(values), (values - mean) / np.array(scale), rtol=1e-5, atol=1e-5)
    for wrong in ({"mean": 1}, {"mean": 1, "scale": 0}, {"mean": (1, 2), "scale": 1}, {"mean": "a", "scale": 1}, {}):
        with pytest.raises(InvalidPluginData, match="normalize: "):
            normalize(pixels, **wrong)
    with pytest.raises(InvalidPluginData, match="either a mode, or both mean and scale"):
        normalize(pixels, "tf", mean=1, scale=1)
