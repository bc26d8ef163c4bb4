"""Starting Keras: quietly, repeatably, and with layer names that do not depend on what was built before."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from types import ModuleType

from zoo.errors import InstallationError

# As `zoo_runtime` does, for parts that import onnxruntime without it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

BACKENDS = ("tensorflow", "jax", "torch")


def start() -> ModuleType:
    """Import Keras and return it.

    The first import is of TensorFlow (or what KERAS_BACKEND names): it takes seconds and writes notes about the
    processor to stderr past Python; those are dropped, errors are not.
    """
    if "keras" not in sys.modules:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        # Equal seeds must give equal weights; read by TensorFlow when it starts.
        os.environ.setdefault("TF_DETERMINISTIC_OPS", "1")
        try:
            with _without_stderr():
                import keras
        except (ImportError, ValueError) as error:
            # Keras says ValueError of a backend that it does not know.
            raise InstallationError(f"Keras cannot start on the backend {wanted()!r}: {error}") from error
        # Keras also reads ~/.keras/keras.json, which may ask for what pixels and exports are not.
        keras.config.set_image_data_format("channels_last")
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
        # Advice on retracing, which nobody who trains by a command can follow.
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
    import keras

    return keras


def wanted() -> str:
    """The backend that Keras will start on, as far as the environment says."""
    return os.environ.get("KERAS_BACKEND") or "tensorflow"


def check() -> None:
    """Raise InstallationError if Keras's backend is not installed, without importing it."""
    if wanted() not in BACKENDS or importlib.util.find_spec(wanted()) is None:
        raise InstallationError(
            f"KERAS_BACKEND asks for {wanted()!r}, which is not installed or not known. "
            f"Known: {', '.join(BACKENDS)}; tensorflow comes with zoo."
        )


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Send file descriptor 2 nowhere: TensorFlow's first lines are written by C++ before logging can be set."""
    try:
        kept = os.dup(2)
    except OSError:
        # Started with a closed stderr: there is nothing to keep quiet.
        yield
        return
    if sys.stderr:
        sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextlib.contextmanager
def fresh_names() -> Iterator[None]:
    """Give unnamed layers the names that they have in a fresh process.

    Keras counts unnamed layers over the whole process, so that a second InceptionV3 has 188 other names than the
    first. The count is set aside and put back. (Keras offers no public way but `clear_session`, which also drops
    what other models hold.)
    """
    from keras.src.backend.common import global_state

    key = "object_name_uids"
    kept = global_state.get_global_attribute(key)
    global_state.set_global_attribute(key, defaultdict(int))
    try:
        yield
    finally:
        global_state.set_global_attribute(key, defaultdict(int) if kept is None else kept)


@contextlib.contextmanager
def names_after(names: Iterable[str]) -> Iterator[None]:
    """Give unnamed layers and operations names that go on from those of a network: `add_3` behind `add` to `add_2`.

    Args:
        names: Names of the operations that the network has.
    """
    with fresh_names():
        from keras.src.backend.common import global_state

        counts = global_state.get_global_attribute("object_name_uids")
        for name in names:
            stem, _, number = name.rpartition("_")
            base, count = (stem, int(number) + 1) if stem and number.isdecimal() else (name, 1)
            counts[base] = max(counts[base], count)
        yield


def runs_on_tensorflow() -> bool:
    """Whether Keras computes with TensorFlow in this process."""
    return start().backend.backend() == "tensorflow"


def has_accelerator() -> bool:
    """Whether Keras computes on a GPU or TPU."""
    keras = start()
    if keras.backend.backend() == "torch":
        import torch

        return torch.cuda.is_available() or torch.backends.mps.is_available()
    for kind in ("gpu", "tpu"):
        try:
            if keras.distribution.list_devices(kind):
                return True
        except RuntimeError:
            # JAX raises where TensorFlow gives an empty list.
            continue
    return False
