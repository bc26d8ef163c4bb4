"""Names, addresses and digests of published files, compared with what keras.applications itself would download."""

from __future__ import annotations

import pytest
from builtin_plugins import builtin, smallest_of_each_family

from zoo import backend
from zoo.plugin import Architecture, KerasApplication

KERAS = "https://storage.googleapis.com/"


class Requested(Exception):
    """Raised in the place of a download, with the file's name in Keras's cache, its address, and its digest or None."""


def requested_file(application: KerasApplication, size: int, top: bool, monkeypatch) -> tuple[str, str, str | None]:
    """Let keras.applications build a network with ImageNet weights, and stop it where it would download them."""
    keras = backend.start()
    from keras.src.utils import file_utils

    def get_file(fname=None, origin=None, file_hash=None, md5_hash=None, **_):
        raise Requested(fname, origin, file_hash or md5_hash)

    monkeypatch.setattr(file_utils, "get_file", get_file)
    function = getattr(keras.applications, application.name)
    with pytest.raises(Requested) as requested:
        function(weights="imagenet", include_top=top, input_shape=(size, size, 3), **application.options)
    return requested.value.args


def application_of(architecture: Architecture) -> KerasApplication | None:
    """Return the network of keras.applications that an architecture builds; None where it builds its own."""
    owner = getattr(architecture.build, "__self__", None)
    return owner if isinstance(owner, KerasApplication) else None


FROM_KERAS = {name: item for name, item in builtin(Architecture).items() if application_of(item) is not None}
SMALLEST = smallest_of_each_family()


def test_networks_that_are_not_compared_have_no_files_from_keras(plugins):
    """ResNeXt's files come from another package, and the course's networks are trained from random weights."""
    others = builtin(Architecture).keys() - FROM_KERAS.keys()
    addresses = [entry.url for name in others for entry in plugins.weights_of(name)]
    assert addresses and not [address for address in addresses if address.startswith(KERAS)]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in SMALLEST else pytest.mark.every) for name in FROM_KERAS],
)
def test_files_are_those_that_keras_downloads(plugins, monkeypatch, name):
    entries = [entry for entry in plugins.weights_of(name) if entry.url.startswith(KERAS)]
    assert {entry.includes_top for entry in entries} == {False, True}
    for entry in entries:
        application = application_of(FROM_KERAS[name])
        expected = requested_file(application, entry.input_size[0], entry.includes_top, monkeypatch)
        digest = None if entry.hash is None else entry.hash.partition(":")[2]
        assert (entry.filename, entry.url, digest) == expected, entry.id
