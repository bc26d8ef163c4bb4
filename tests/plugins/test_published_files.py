"""Names, addresses and digests of published files: what keras.applications itself would download."""

from __future__ import annotations

import pytest

from zoo import backend
from zoo.plugin import Architecture, registry
from zoo.plugin.keras_applications import KerasApplication


class Asked(Exception):
    """What Keras would download: (name in its cache, address, digest or None)."""


def asked_for(application: KerasApplication, size: int, top: bool, monkeypatch) -> tuple[str, str, str | None]:
    """Let keras.applications build a network with ImageNet weights, and stop it where it would download them."""
    keras = backend.start()
    from keras.src.utils import file_utils

    def get_file(fname=None, origin=None, file_hash=None, md5_hash=None, **_):
        raise Asked(fname, origin, file_hash or md5_hash)

    monkeypatch.setattr(file_utils, "get_file", get_file)
    function = getattr(keras.applications, application.name)
    with pytest.raises(Asked) as asked:
        function(weights="imagenet", include_top=top, input_shape=(size, size, 3), **application.options)
    return asked.value.args


# One of each family.
MEMBERS = {
    *("convnext_tiny", "densenet121", "efficientnet_b0", "efficientnetv2_b0", "inceptionresnetv2", "inceptionv3"),
    *("mobilenet_025", "mobilenetv2_035", "mobilenetv3_small", "nasnet_mobile", "resnet50", "resnet50v2", "vgg16"),
    "xception",
}


@pytest.mark.parametrize(
    ("only", "count"),
    [pytest.param(MEMBERS, 42, marks=pytest.mark.slow), pytest.param(None, 160, marks=pytest.mark.every)],
)
def test_files_are_those_that_keras_downloads(monkeypatch, only, count):
    """All of them but those of ResNeXt, which Keras 3 does not have."""
    plugins = registry.load()
    compared = 0
    for architecture in plugins.all(Architecture):
        if only is not None and architecture.name not in only:
            continue
        application = getattr(architecture.build, "__self__", None)
        if not isinstance(application, KerasApplication):
            assert architecture.name.startswith("resnext") or not plugins.weights_of(architecture.name)
            continue
        for entry in plugins.weights_of(architecture.name):
            name, url, digest = asked_for(application, entry.input_size[0], entry.includes_top, monkeypatch)
            published = None if entry.hash is None else entry.hash.partition(":")[2]
            assert (entry.filename, entry.url, published) == (name, url, digest), entry.id
            compared += 1
    assert compared == count
