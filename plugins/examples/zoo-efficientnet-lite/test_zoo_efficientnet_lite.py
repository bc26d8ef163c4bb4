from pathlib import Path

import pytest
import zoo_efficientnet_lite

from zoo import testing
from zoo.plugin import read_tensors


@testing.parametrize_plugin("efficientnet-lite")
def test_efficientnet_lite(check):
    check()


def test_the_packages_bring_all_files():
    # Where a file is missing, the kit skips the check of its weights. Here that is an error.
    cases = testing.plugin_cases("efficientnet-lite", only=["weights"])
    assert [case.label for case in cases] == [f"efficientnet_lite{n}.imagenet1k" for n in range(3)]
    for weights in zoo_efficientnet_lite.zoo_weights():
        assert _file(weights).stat().st_size == weights.bytes


def test_a_block_receives_the_tensors_of_the_same_block():
    weights, architecture = zoo_efficientnet_lite.zoo_weights()[1], zoo_efficientnet_lite.zoo_architectures()[1]
    model = architecture.build_classifier((240, 240, 3), 1000)
    weights.load(model, _file(weights))
    tensors = read_tensors(_file(weights))
    # Lite1 has 1, 3, 3, 4, 4, 5 and 1 blocks in its stages, so that the second block of stage 6 is block 16.
    kernel = model.get_layer("stage6_block2_depthwise").get_weights()[0]
    assert (kernel[:, :, 7, 0] == tensors["_blocks.16._depthwise_conv.weight"][7, 0]).all()
    assert (model.get_layer("classes").get_weights()[1] == tensors["_fc.bias"]).all()


def test_a_file_of_another_size_is_refused():
    weights, architecture = zoo_efficientnet_lite.zoo_weights()[0], zoo_efficientnet_lite.zoo_architectures()[2]
    with pytest.raises(Exception, match=r"^layer 'stage2_block3_depthwise' needs an array of shape"):
        weights.load(architecture.build((260, 260, 3)), _file(weights))


def _file(weights) -> Path:
    """The file in the installed package."""
    from importlib import import_module

    package = import_module(weights.url.removeprefix("package:").partition("/")[0])
    (path,) = Path(package.__file__).parent.glob("models/*.pth")
    return path
