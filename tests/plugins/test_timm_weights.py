"""Weights of timm for networks that Keras builds: the outputs must be those of timm.

The files are written here, with random values under the names and in the shapes of the published files. The expected
outputs were computed once with timm 1.0.31 from equal weights and pictures. timm is not needed here.
"""

from __future__ import annotations

import numpy as np
import pytest
import timm_shapes
from timm_files import drawn, logits, write_safetensors
from torch_files import plain, torch_module, write_zip

from zoo.errors import InvalidPluginData, WeightsIncompatible
from zoo.plugin import Weights, timm_weights
from zoo.testing.packages import COMMIT, WITHOUT_HASH
from zoo.train.network import build_backbone, build_classifier
from zoo.train.weights_file import load_weights

SIZES = (64, 96), (75, 53)
# A factor on what norms multiply by; see `timm_files.drawn`.
GAINS = {"efficientnetv2_s": 0.8}

# name: (tag, for each size the first logits of two pictures)
REFERENCE = {
    "densenet121": (
        "ra_in1k",
        (
            (
                (-1.564896, 0.7668776, -1.861517, -9.686581, 13.81913),
                (-2.292653, 0.7898398, -2.056588, -9.607588, 13.31176),
            ),
            (
                (-3.436049, 4.111665, -6.230065, -9.957153, 13.00556),
                (-2.925548, 4.060455, -6.118086, -9.815523, 13.35956),
            ),
        ),
    ),
    "resnext50": (
        "a1_in1k",
        (
            (
                (13305.32, 35122.82, -4516.694, 4344.627, 23384.79),
                (13561.68, 34347.09, -4288.976, 4591.184, 23396.82),
            ),
            (
                (9231.278, 30826.09, -2604.633, 762.1437, 19300.57),
                (10169.08, 31588.37, -2793.689, 764.9718, 19518.41),
            ),
        ),
    ),
    "convnext_tiny": (
        "in12k_ft_in1k",
        (
            (
                (-2.221409, 0.6462013, -1.122548, -0.6892317, 1.030159),
                (-2.084056, 1.915868, -1.122252, -1.077646, 1.194556),
            ),
            (
                (-2.087831, 2.351634, -0.5552279, -0.2020035, 0.6511294),
                (-1.434939, 3.241776, -1.082833, 0.3721868, 2.677678),
            ),
        ),
    ),
    "efficientnet_b0": (
        "ns_jft_in1k",
        (
            (
                (0.5097539, -0.1090435, 0.200304, -0.3397004, -0.0100553),
                (0.5252943, -0.05542748, 0.1268616, -0.4227823, 0.03079958),
            ),
            (
                (0.4383027, -0.1019906, 0.05988187, -0.3118094, -0.1055068),
                (0.4401325, -0.1417972, 0.1958925, -0.3216552, -0.01159425),
            ),
        ),
    ),
    "efficientnetv2_s": (
        "in21k_ft_in1k",
        (
            (
                (-1.008245, -0.2845308, -1.150155, 0.3765631, 1.549934),
                (-0.153411, -0.367837, -1.487149, 0.07692476, 1.148048),
            ),
            (
                (0.03725334, -0.2090544, -1.894739, 0.3380924, 0.743124),
                (0.2548477, -0.1459076, -1.505176, 0.5315679, 0.6944413),
            ),
        ),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REFERENCE)
def test_outputs_are_those_of_timm(plugins, tmp_path, name):
    """One file serves the network with its top, at two sizes, and without."""
    tag, expected = REFERENCE[name]
    path = tmp_path / "model.safetensors"
    write_safetensors(path, getattr(timm_shapes, name)(), GAINS.get(name, 1.0))
    architecture, (entry, *_) = plugins.architecture(name), plugins.weights_of(name, tag)
    for size, reference in zip(SIZES, expected, strict=True):
        classifier = build_classifier(architecture, size, 1000)
        load_weights(classifier, path, entry)
        error = np.abs(logits(classifier, size)[:, :5] - np.array(reference)).max()
        assert error <= 1e-4 * np.abs(reference).max()
    # Every weight of the backbone comes from the file: it equals that of the classifier.
    backbone = build_backbone(architecture, SIZES[-1])
    load_weights(backbone, path, entry)
    full = {weight.path: np.array(weight) for weight in classifier.weights}
    own = {weight.path: np.array(weight) for weight in backbone.weights}
    shared = [path for path in own if path in full]
    assert len(shared) >= len(own) - 2  # ConvNeXt's last norm has another name with a top
    assert all(np.array_equal(own[path], full[path]) for path in shared)


@pytest.mark.slow
def test_a_state_dict_of_pytorch_fills_the_network_too(plugins, tmp_path, monkeypatch):
    """Some commits have pytorch_model.bin alone. The file has counters of batches that nothing needs."""
    shapes = timm_shapes.densenet121()
    path = tmp_path / "pytorch_model.bin"
    # Other packages take the module for the real one, as long as it is there.
    with monkeypatch.context() as patch:
        torch = torch_module(patch)
        state = {name: plain(torch, drawn(name, shape), str(i)) for i, (name, shape) in enumerate(shapes.items())}
        write_zip(torch, path, state)
    write_safetensors(tmp_path / "model.safetensors", shapes)
    entry = plugins.weights_of("densenet121", "ra_in1k")[0]
    networks = [build_backbone(plugins.architecture("densenet121"), (64, 64)) for _ in range(2)]
    for network, file in zip(networks, (path, tmp_path / "model.safetensors"), strict=True):
        load_weights(network, file, entry)
    assert all(map(np.array_equal, *(network.get_weights() for network in networks)))


@pytest.mark.slow
def test_a_file_of_another_network_is_refused_by_layer(plugins, tmp_path):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, timm_shapes.efficientnet_b0())
    backbone = build_backbone(plugins.architecture("efficientnetv2_s"), (64, 64))
    with pytest.raises(WeightsIncompatible, match="stem_conv"):
        load_weights(backbone, path, plugins.weights_of("efficientnetv2_s", "in21k_ft_in1k")[0])


def test_keras_weights_stay_the_default(plugins):
    """No better weights have been measured here, so nobody gets other ones without asking."""
    for name in REFERENCE:
        assert plugins.weights_of(name)[0].tag == "imagenet1k"


def test_files_of_timm_are_pinned_or_listed(plugins):
    """A commit fixes a file. Each one without a commit is named in the list of exceptions."""
    entries = [entry for entry in plugins.all(Weights) if entry.url.startswith("hf:timm/")]
    assert len(entries) >= 25
    for entry in entries:
        pinned = COMMIT.fullmatch(entry.origin.revision) is not None
        assert pinned or entry.url.startswith(WITHOUT_HASH), entry.id


def test_weights_that_forbid_commerce_say_so(plugins):
    forbidding = [entry.id for entry in plugins.all(Weights) if entry.forbids_commerce]
    assert sorted(forbidding) == ["resnext101.swsl_ig1b", "resnext50.swsl_ig1b"]


def test_timm_weights_fills_in_what_all_files_of_timm_share():
    def load(model, path):
        pytest.fail("describing weights loads none")

    facts = {"load": load, "licence": "MIT", "source": "An author"}
    entry = timm_weights("quick", "quick.own_in1k", tag="own_in1k", size=288, crop=0.95, **facts)
    assert entry.url == "hf:timm/quick.own_in1k/model.safetensors@main"
    assert (entry.input_size, entry.resize, entry.filter, entry.top_optional) == (
        (288, 288),
        "crop:0.95",
        "bicubic",
        True,
    )
    assert entry.source == "An author; https://huggingface.co/timm/quick.own_in1k"
    features = timm_weights(
        "quick", "quick.own", top=False, crop=None, file="pytorch_model.bin", revision="a" * 40, **facts
    )
    assert features.url == f"hf:timm/quick.own/pytorch_model.bin@{'a' * 40}"
    assert (features.includes_top, features.class_index, features.resize) == (False, None, "squash")
    with pytest.raises(InvalidPluginData, match="resize"):
        timm_weights("quick", "quick.own", crop=2, **facts)
