"""Starts Keras and ONNX Runtime: quietly, repeatably, without telemetry, and with stable layer names.

Importing this module starts nothing and leaves the environment alone. The conversion between the two is in
`zoo.convert`.
"""

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

BACKENDS = ("tensorflow", "jax", "torch")


def start() -> ModuleType:
    """Import Keras with settings on which zoo relies, and return it.

    The first call also imports TensorFlow, or the backend that KERAS_BACKEND names, which takes seconds. The backend
    writes notes about the processor straight to file descriptor 2; they are dropped, but errors are not.

    Raises:
        InstallationError: Keras cannot start on the requested backend.
    """
    if "keras" not in sys.modules:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        # Equal seeds must give equal weights. TensorFlow reads this variable when it starts.
        os.environ.setdefault("TF_DETERMINISTIC_OPS", "1")
        try:
            with _without_stderr():
                import keras
        except (ImportError, ValueError) as error:
            # Keras raises ValueError for a backend that it does not know.
            raise InstallationError(f"Keras cannot start on the backend {wanted()!r}: {error}") from error
        # The user's ~/.keras/keras.json may set other values, which neither pixels nor exports support.
        keras.config.set_image_data_format("channels_last")
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
        # TensorFlow warns about retracing, but a user of the command line cannot do anything about it.
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
    import keras

    return keras


def onnxruntime() -> ModuleType:
    """Import ONNX Runtime with its telemetry switched off, and return it. All of zoo imports it through this function.

    From 1.29 on, ONNX Runtime reports every process to its makers and writes an identifier to the home folder
    (https://github.com/microsoft/onnxruntime/pull/27379). The variable prevents both if it is set before the import.
    A value that the user has set stays.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


def wanted() -> str:
    """Return the name of the backend that the environment requests; "tensorflow" if it requests none."""
    return os.environ.get("KERAS_BACKEND") or "tensorflow"


def check() -> None:
    """Check that Keras's backend is installed, without importing it.

    Raises:
        InstallationError: The backend is unknown or not installed.
    """
    if wanted() not in BACKENDS or importlib.util.find_spec(wanted()) is None:
        raise InstallationError(
            f"KERAS_BACKEND requests {wanted()!r}, which is unknown or not installed. "
            f"Known: {', '.join(BACKENDS)}. Unset KERAS_BACKEND to use tensorflow, which is installed with zoo."
        )


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Discard what is written to file descriptor 2.

    C++ code of TensorFlow writes its first lines before logging can be configured.
    """
    try:
        kept = os.dup(2)
    except OSError:
        # The process was started without stderr, so nothing needs to be discarded.
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
    """Give unnamed layers the names that they would have in a fresh process.

    Keras counts unnamed layers over the whole process, so that 188 layers of a second InceptionV3 have other names
    than those of the first. This context starts the counts anew and restores them at the end. The only public
    function for that, `clear_session`, would also drop the state of other models.
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
    """Give unnamed layers and operations names that continue those of a network: `add_3` after `add` to `add_2`.

    Args:
        names: Names of the operations that the network has already.
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
    """Return whether Keras computes with TensorFlow in this process. Starts Keras."""
    return start().backend.backend() == "tensorflow"


def has_accelerator() -> bool:
    """Return whether Keras computes on a GPU or TPU. Starts Keras."""
    keras = start()
    if keras.backend.backend() == "torch":
        import torch

        return torch.cuda.is_available() or torch.backends.mps.is_available()
    for kind in ("gpu", "tpu"):
        try:
            if keras.distribution.list_devices(kind):
                return True
        except RuntimeError:
            # JAX raises an error where TensorFlow returns an empty list.
            continue
    return False
