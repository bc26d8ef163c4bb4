"""Finds out which of several processes this one is: from options, or from the variables of the program that started it.

JAX itself knows Slurm, Open MPI, Kubernetes with its package `kubernetes`, and Cloud TPUs; its detection is asked last.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zoo.errors import InstallationError, UsageError

# The value of --processes that takes everything from the environment.
AUTO = "auto"
# Names of variables: the number of processes, the index of this one, the address of process 0, and its port if the
# address has none.
VARIABLES = (
    ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "JAX_COORDINATOR_ADDRESS", "JAX_COORDINATOR_PORT"),
    ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "", ""),
    ("", "JOB_COMPLETION_INDEX", "", ""),
)
# The variables that number the processes of one host, and count them. Each process takes the GPU of its number.
LOCAL_VARIABLES = (
    ("LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    ("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
)
OPTIONS = ("--processes N", "--process-index I", "--coordinator HOST:PORT")
# JAX's own service listens on the next port.
HIGHEST_PORT = 65534


@dataclass(frozen=True)
class Place:
    """Which of several processes this one is.

    Args:
        count: The number of processes, from 1.
        index: The index of this process, from 0. Process 0 leads.
        host: The name or address of the host of process 0.
        port: The port on which process 0 listens, 1..65534. JAX uses the next one too.
        local_devices: The numbers of the GPUs that this process uses on its host; None means all.
    """

    count: int
    index: int = 0
    host: str = ""
    port: int = 0
    local_devices: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UsageError(f"--processes must be 1 or more. Received: {self.count}.")
        if not 0 <= self.index < self.count:
            raise UsageError(
                f"the index of a process is 0 to {self.count - 1} if there are {self.count} processes. "
                f"Received: {self.index}. Give each process its own --process-index."
            )

    @property
    def address(self) -> str:
        """The address of process 0, HOST:PORT."""
        return f"{bracketed(self.host)}:{self.port}"


def bracketed(host: str) -> str:
    """Return a host as it stands before a port: addresses of IPv6 are in brackets."""
    return f"[{host}]" if ":" in host else host


def address_to_bind(host: str) -> str:
    """Return the address on which process 0 listens alone; empty if it listens on all addresses of its host.

    A host that is typed as an address of this computer, or as localhost, is the only one. A name may stand for other
    addresses here than elsewhere: on many computers, their own name is 127.0.1.1.
    """
    host = "127.0.0.1" if host == "localhost" else host
    with contextlib.suppress(ValueError, OSError):
        family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
        # An address that others see, but this computer has not, as behind a router, cannot be bound.
        with socket.socket(family) as trial:
            trial.bind((host, 0))
        return host
    return ""


def find_place(
    processes: int | str | None, index: int | None, coordinator: str | None, environment: Mapping[str, str] = os.environ
) -> Place | None:
    """Return which process this one is; None if no option asks for several processes or several devices.

    Options come first, then the variables in `VARIABLES`, then what JAX finds out.

    Args:
        processes: The value of --processes: a number, "auto", or None if it was not given.
        index: The value of --process-index, or None.
        coordinator: The value of --coordinator, HOST:PORT, or None.
        environment: The environment variables.

    Raises:
        UsageError: Something is missing or contradicts the rest.
        InstallationError: JAX is not installed, and its detection is needed.
    """
    if processes is None:
        if index is not None or coordinator is not None:
            raise UsageError(
                f"--process-index and --coordinator go with --processes N or --processes {AUTO}, which is missing."
            )
        return None
    count = None if processes == AUTO else int(processes)
    if count == 1:
        if index or coordinator:
            raise UsageError("--processes 1 is a single process: leave out --process-index and --coordinator.")
        return Place(1)
    found = _from_variables(environment)
    count = found.get("count") if count is None else count
    index = found.get("index") if index is None else index
    coordinator = coordinator or found.get("coordinator")
    devices = _devices(environment)
    if count != 1 and None in (count, index, coordinator):
        jax_found = _from_jax(environment)
        count = jax_found.get("count") if count is None else count
        index = jax_found.get("index") if index is None else index
        coordinator = coordinator or jax_found.get("coordinator")
        devices = jax_found.get("devices") if devices is None else devices
    if count == 1:
        return Place(1, index or 0, local_devices=devices)
    lacking = [option for option, value in zip(OPTIONS, (count, index, coordinator), strict=True) if value is None]
    if lacking or count is None or index is None or coordinator is None:
        raise UsageError(
            f"{' and '.join(lacking)} cannot be found out here. They can be typed, or come from Slurm (`srun`), "
            "Open MPI (`mpirun`), or the variables WORLD_SIZE, RANK, MASTER_ADDR and MASTER_PORT. "
            "docs/several-hosts.md shows whole commands."
        )
    return Place(count, index, *_host_and_port(coordinator), devices)


def _from_variables(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return count, index and coordinator as far as the variables in `VARIABLES` name them."""
    found: dict[str, Any] = {}
    for names in VARIABLES:
        count, index, address, port = (environment.get(name) or None for name in names)
        if index is None:
            if address is not None:
                found.setdefault("coordinator", _joined(names, address, port))
            continue
        found.setdefault("index", _number(names[1], index))
        if count is not None:
            found.setdefault("count", _number(names[0], count))
        if address is not None:
            found.setdefault("coordinator", _joined(names, address, port))
    return found


def _joined(names: tuple[str, ...], address: str, port: str | None) -> str:
    """Add the port to an address that has none."""
    if address.rpartition(":")[2].isdecimal():
        return address
    if port is None:
        raise UsageError(
            f"the environment variable {names[2]} is {address!r}, which has no port. Set {names[3]} too, or type "
            "--coordinator HOST:PORT."
        )
    return f"{address}:{port}"


def _number(name: str, text: str) -> int:
    if not text.isdecimal():
        raise UsageError(f"the environment variable {name} must be a whole number. Received: {text!r}.")
    return int(text)


def _devices(environment: Mapping[str, str]) -> tuple[int, ...] | None:
    """Return the numbers of the GPUs of this process as far as variables name them; None means all."""
    text = environment.get("JAX_LOCAL_DEVICE_IDS")
    if text:
        return tuple(_number("JAX_LOCAL_DEVICE_IDS", part.strip()) for part in text.split(","))
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and "," not in visible:
        # The launcher has given this process one GPU already.
        return None
    for rank, size in LOCAL_VARIABLES:
        number, count = environment.get(rank), environment.get(size)
        if number and count and _number(size, count) > 1:
            return (_number(rank, number),)
    return None


def _from_jax(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return what JAX's own detection of clusters finds: count, index, coordinator and devices."""
    try:
        # JAX offers the detection alone only here; `jax.distributed.initialize` would connect at once.
        from jax._src.clusters import ClusterEnv
    except ImportError as error:
        raise InstallationError(
            f"JAX cannot be asked which process this is: {error}. Type {', '.join(OPTIONS)}, or install jax."
        ) from error
    try:
        values = ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, None)
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise UsageError(
            f"JAX cannot find out which process this is: {error}. Type {', '.join(OPTIONS)} instead."
        ) from error
    address, count, index, devices = values
    if address is not None and address.endswith(":65535"):
        # For Slurm, JAX takes the port from the number of the job, and does not know that zoo needs the next one too.
        address = f"{address.rpartition(':')[0]}:{HIGHEST_PORT}"
    found = {"coordinator": address, "count": count, "index": index}
    # Slurm and Open MPI number the processes of a host, and each takes the GPU of its number. CPUs have no numbers.
    return {**found, "devices": tuple(devices) if devices else None}


def _host_and_port(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isdecimal() and 0 < int(port) <= HIGHEST_PORT):
        raise UsageError(
            f"--coordinator is the address of process 0, HOST:PORT, with a port of 1 to {HIGHEST_PORT}. Received: "
            f"{address!r}. For example: --coordinator node1:9911."
        )
    return host, int(port)
