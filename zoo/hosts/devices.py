"""Starts JAX on the devices of all processes, and ends that. JAX is imported here alone."""

from __future__ import annotations

import importlib.util
import os
import sys

from zoo.errors import HostsError, InstallationError
from zoo.hosts.place import Place, address_to_bind, bracketed

# How long JAX's own service waits for a silent process, and for the end of all, in seconds. zoo notices a lost one
# sooner.
HEARTBEAT, SHUTDOWN = 600, 120
# JAX's errors have no class of their own; these words stand in those of its transports between processes.
NETWORK_WORDS = ("gloo", "nccl", "connection", "unavailable", "coordination", "socket", "deadline")


def check() -> None:
    """Check that Keras will run on JAX.

    Raises:
        InstallationError: It will not, or JAX is not installed.
    """
    wanted = os.environ.get("KERAS_BACKEND") or "tensorflow"
    missing = importlib.util.find_spec("jax") is None
    if wanted != "jax":
        first = "Install JAX with `pip install jax`, and set" if missing else "Set"
        raise InstallationError(
            f"--processes trains on JAX, and the Keras backend here is {wanted!r}. {first} the environment variable "
            "KERAS_BACKEND=jax in all processes: KERAS_BACKEND=jax zoo finetune ..."
        )
    if missing:
        raise InstallationError("--processes trains on JAX, which is not installed. Install it: pip install jax")


def start(place: Place, seconds: float) -> None:
    """Connect JAX of this process with JAX of the others. All processes must call this at about the same time.

    Args:
        place: Which process this is.
        seconds: How long JAX waits for the others.

    Raises:
        InstallationError: JAX has computed in this process already.
        HostsError: JAX cannot connect.
    """
    import jax

    # CPUs that compute several steps at once can wait for each other for ever.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if place.count == 1:
        return
    # This service takes over SIGTERM, which zoo handles itself.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    bind = address_to_bind(place.host) if place.index == 0 else ""
    try:
        jax.distributed.initialize(
            f"{bracketed(place.host)}:{place.port + 1}",
            place.count,
            place.index,
            coordinator_bind_address=f"{bracketed(bind)}:{place.port + 1}" if bind else None,
            # JAX would look for a cluster again, and take one GPU of several.
            cluster_detection_method="deactivate",
            local_device_ids=list(place.local_devices) if place.local_devices else None,
            initialization_timeout=max(10, int(seconds)),
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=SHUTDOWN,
        )
    except RuntimeError as error:
        if "before any JAX" in str(error):
            raise InstallationError(f"JAX has started before the processes could meet: {error}") from error
        raise HostsError(f"JAX cannot connect the processes: {str(error).splitlines()[0]}") from error
    counts = {device.process_index: 0 for device in jax.devices()}
    for device in jax.devices():
        counts[device.process_index] += 1
    if len(set(counts.values())) > 1 or len(counts) != place.count:
        listed = ", ".join(f"process {index} has {count}" for index, count in sorted(counts.items()))
        raise HostsError(
            f"all processes must have the same number of devices: {listed}. CUDA_VISIBLE_DEVICES hides some of them."
        )


def stop() -> None:
    """End JAX's connections. All processes must call this at about the same time."""
    if "jax" in sys.modules:
        import jax

        jax.distributed.shutdown()


def is_network_error(error: BaseException) -> bool:
    """Return whether an error says that JAX cannot reach another process."""
    kind, text = type(error).__module__, str(error).lower()
    ours = kind.startswith(("jax", "builtins"))
    return ours and isinstance(error, (RuntimeError, ValueError)) and any(word in text for word in NETWORK_WORDS)
