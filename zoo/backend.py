"""Imports Keras and ONNX Runtime with the settings that zoo needs, and controls the names of Keras layers.

The settings silence start-up messages, make training repeatable, and disable telemetry outside Windows. Importing this
module imports neither package and changes no environment variable. `zoo.convert` converts Keras networks to ONNX.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import os
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from zoo import interrupts
from zoo.errors import ConverterMissing, InstallationError

if TYPE_CHECKING:
    import numpy as np

BACKENDS = ("tensorflow", "jax", "torch")
# The packages that convert a network to ONNX, whatever the backend is.
CONVERTERS = ("tensorflow", "tf2onnx")
# What the drivers of GPUs and TPUs show: of NVIDIA, of AMD, of a TPU, and of a GPU in Windows's Linux.
DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/accel0", "/dev/dxg")


def start() -> ModuleType:
    """Import Keras, apply the settings that zoo relies on, and return the module `keras`.

    The first call also imports the backend: TensorFlow, or the backend that KERAS_BACKEND names. This takes seconds.
    While it imports, everything written to stderr is discarded, because backends print notes about the processor.
    Exceptions are raised as usual. If Keras has already been imported, this function changes no setting.

    Raises:
        InstallationError: Keras or its backend cannot be imported, or KERAS_BACKEND names an unknown backend.
        KeyboardInterrupt: Ctrl-C was pressed during the import.
    """
    if "keras" not in sys.modules:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        # Equal seeds must give equal weights. TensorFlow reads this variable when it starts.
        os.environ.setdefault("TF_DETERMINISTIC_OPS", "1")
        # Otherwise Keras would take the backend that the user's ~/.keras/keras.json names, and run.json another one.
        os.environ["KERAS_BACKEND"] = wanted()
        try:
            with without_stderr():
                import keras
        except (ImportError, ValueError) as error:
            interruption = interrupts.hidden(error)
            if interruption is not None:
                raise interruption from None
            # If the backend is unknown or not installed, this says what to type.
            check()
            raise InstallationError(f"Keras cannot start on the backend {wanted()!r}: {error}") from error
        # The user's ~/.keras/keras.json may set other values, which neither pixels nor exports support.
        keras.config.set_image_data_format("channels_last")
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
        # TensorFlow warns about retracing, but a user of the command line cannot do anything about it.
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
    import keras

    return keras


def started() -> bool:
    """Return whether Keras has been imported in this process."""
    return "keras" in sys.modules


def onnxruntime() -> ModuleType:
    """Import ONNX Runtime, with its telemetry disabled outside Windows, and return the module `onnxruntime`.

    The other modules of zoo import ONNX Runtime only through this function. From version 1.29 on, ONNX Runtime sends
    telemetry about every process to its makers, and writes an identifier to the home folder
    (https://github.com/microsoft/onnxruntime/pull/27379). Setting ORT_DISABLE_TELEMETRY=1 before the import prevents
    both. If the user has already set this variable, its value is kept. The variable has no effect on Windows, where
    ONNX Runtime uses the event tracing of the system.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


def wanted() -> str:
    """Return the name of the requested Keras backend.

    It is the value of the environment variable KERAS_BACKEND, or "tensorflow" if the variable is not set.
    """
    return os.environ.get("KERAS_BACKEND") or "tensorflow"


def check() -> None:
    """Check that the requested Keras backend is known and installed, without importing it.

    Raises:
        InstallationError: The environment variable KERAS_BACKEND names an unknown backend, or the backend is not
            installed.
    """
    name, there = wanted(), [each for each in BACKENDS if importlib.util.find_spec(each) is not None]
    if name in there:
        return
    others = " or ".join(f"KERAS_BACKEND={each}" for each in there)
    use = f"set the environment variable {others}, which is installed" if there else "install one of them"
    if name not in BACKENDS:
        raise InstallationError(
            f"the environment variable KERAS_BACKEND is {name!r}, and Keras has no such backend. "
            f"Known: {', '.join(BACKENDS)}. Here, {use}."
        )
    install = "tensorflow tf2onnx" if name == "tensorflow" else name
    asked = "the backend that zoo trains on by default" if not os.environ.get("KERAS_BACKEND") else "KERAS_BACKEND"
    raise InstallationError(
        f"{asked} is {name!r}, which is not installed here. Type `pip install {install}`"
        f"{f', or {use}' if there else ''}."
    )


def missing_converters() -> list[str]:
    """Return which packages that convert networks to ONNX are not installed, without importing them."""
    return [name for name in CONVERTERS if importlib.util.find_spec(name) is None]


def require_converters() -> None:
    """Check that TensorFlow and tf2onnx are installed, without importing them.

    Raises:
        ConverterMissing: One of them is not installed here.
    """
    lacking = missing_converters()
    if lacking:
        names, do, are = " and ".join(lacking), *(("converts", "is") if len(lacking) == 1 else ("convert", "are"))
        raise ConverterMissing(
            f"{names}, which {do} networks to ONNX, {are} not installed here. Type `pip install {' '.join(lacking)}`, "
            "or do this on another computer."
        )


def engine() -> str:
    """Return what computes in Keras, such as "jax 0.10.2 on cpu". This imports Keras if necessary.

    Other versions and other devices round differently, so that their features are kept apart.
    """
    name = start().backend.backend()
    version = getattr(sys.modules.get(name), "__version__", "of unknown version")
    return f"{name} {version} on {'an accelerator' if has_accelerator() else 'cpu'}"


@contextlib.contextmanager
def without_stderr() -> Iterator[None]:
    """Discard everything that is written to file descriptor 2 (stderr) inside this context.

    TensorFlow's C++ code writes its first lines before logging can be configured. If the process has no stderr, this
    context does nothing.
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
    """Restart Keras's numbering of unnamed layers inside this context, as in a new Python process.

    Keras counts unnamed layers over the whole process. A second InceptionV3 in the same process would therefore have
    different names for 188 of its layers. This context sets the counts to zero, and restores them at the end.
    Keras's only public function for this, `clear_session`, would also drop the state of other models.
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
    """Continue the numbering of a network's unnamed layers and operations inside this context.

    If the network has `add`, `add_1` and `add_2`, the next unnamed addition is called `add_3`.

    Args:
        names: The names of all operations of the network.
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
    """Return whether TensorFlow is the backend of Keras. This imports Keras if necessary."""
    return start().backend.backend() == "tensorflow"


def has_accelerator() -> bool:
    """Return whether the backend of Keras can use a GPU or TPU. This imports Keras if necessary."""
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


def accelerated() -> bool:
    """Return what `has_accelerator` returns, but import Keras only if this computer shows a GPU or TPU."""
    shown = shutil.which("nvidia-smi") is not None or any(map(os.path.exists, DEVICES))
    # PyTorch alone brings its own support for the GPUs of Macs.
    shown = shown or (sys.platform == "darwin" and wanted() == "torch")
    return (shown or started()) and has_accelerator()


def outputs_of(model: Any, pixels: np.ndarray, *, training: bool = False) -> list[np.ndarray]:
    """Call a model once, for a few pictures, in the quickest way that the backend has.

    TensorFlow and PyTorch run layer by layer: to trace the model would take longer. JAX would compile every layer, so
    that it compiles the whole model instead.

    Args:
        model: A Keras model.
        pixels: The input, float32 (pictures, height, width, channels) in 0..255.
        training: Whether the model runs in training mode.

    Returns:
        The outputs of the model as arrays.
    """
    keras = start()
    with full_float32():
        if keras.backend.backend() == "jax":
            import jax

            call = jax.jit(functools.partial(model.stateless_call, training=training))
            groups = (model.trainable_variables, model.non_trainable_variables)
            outputs, _ = call(*([variable.value for variable in group] for group in groups), pixels)
        else:
            outputs = model(keras.ops.convert_to_tensor(pixels), training=training)
    return [keras.ops.convert_to_numpy(each) for each in keras.tree.flatten(outputs)]


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Make GPUs multiply float32 numbers as float32 inside this context. On a processor, nothing changes.

    By default, GPUs round the factors of convolutions to 10 bits (TF32). That is good enough to train with, but the
    features and the parity of the exported file are compared with a processor, which does not.
    """
    keras = start()
    name = keras.backend.backend()
    # Keras has imported it.
    module = sys.modules[name]
    with contextlib.ExitStack() as stack:
        if not has_accelerator():
            pass
        elif name == "jax":
            stack.enter_context(module.default_matmul_precision("highest"))
        elif name == "torch":
            for place in (module.backends.cudnn, module.backends.cuda.matmul):
                stack.callback(setattr, place, "allow_tf32", place.allow_tf32)
                place.allow_tf32 = False
        else:
            settings = module.config.experimental
            stack.callback(settings.enable_tensor_float_32_execution, settings.tensor_float_32_execution_enabled())
            settings.enable_tensor_float_32_execution(False)
        yield


def seed_dropout(seed: int) -> None:
    """Set the random numbers that dropout draws on PyTorch. On other backends, they are variables of the network."""
    if start().backend.backend() == "torch":
        import torch

        torch.manual_seed(seed)


def dropout_state() -> list[np.ndarray]:
    """Return the state of the random numbers that dropout draws on PyTorch: of the processor, then of each GPU.

    Each is a uint8 array. The list is empty on other backends, where variables of the network have the state.
    """
    if start().backend.backend() != "torch":
        return []
    import torch

    states = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]
    return [state.numpy().copy() for state in states]


def restore_dropout_state(states: Sequence[np.ndarray]) -> None:
    """Set the random numbers of dropout to what `dropout_state` returned."""
    if states:
        import torch

        first, *others = (torch.from_numpy(state.copy()) for state in states)
        torch.set_rng_state(first)
        if others and len(others) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(others)
