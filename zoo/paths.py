"""Where zoo keeps and looks for files: the cache, the mirror, Keras's own cache. Read from the environment on call."""

from __future__ import annotations

import os
from pathlib import Path


def cache() -> Path:
    """ZOO_CACHE, or the user's cache folder."""
    given = os.environ.get("ZOO_CACHE")
    if given:
        return Path(given).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("zoo", appauthor=False))


def mirror() -> Path | None:
    """ZOO_WEIGHTS_DIR: a folder with weights files under their published names, or None."""
    given = os.environ.get("ZOO_WEIGHTS_DIR")
    return Path(given).expanduser() if given else None


def keras_cache() -> Path:
    """Where Keras keeps the weights that it downloads."""
    home = os.environ.get("KERAS_HOME") or Path("~", ".keras")
    return Path(home).expanduser() / "models"


def offline() -> bool:
    """Whether ZOO_OFFLINE=1 forbids the network."""
    return os.environ.get("ZOO_OFFLINE", "") not in ("", "0")
