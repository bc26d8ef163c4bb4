"""Fixtures of the tests of downloads: a web server on this machine, and files to serve."""

from __future__ import annotations

from collections.abc import Iterator

import h5py
import numpy as np
import pytest
from weights_server import Server

from zoo.pretrained import download


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture
def online(monkeypatch):
    """Allow the network, which in these tests is this machine alone, and ignore all proxies."""
    monkeypatch.delenv("ZOO_OFFLINE")
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(download, "WAITS", (0.0, 0.0))


@pytest.fixture
def hdf5(tmp_path):
    """Makes the bytes of an HDF5 file; each seed gives other content."""

    def make(seed: int = 0) -> bytes:
        path = tmp_path / "made.h5"
        with h5py.File(path, "w") as file:
            file["x"] = np.random.default_rng(seed).random(5000)
        return path.read_bytes()

    return make
