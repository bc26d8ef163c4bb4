"""Finds execution providers that are Python packages of their own, and registers them with ONNX Runtime.

Since version 1.23, ONNX Runtime can load execution providers from libraries of other packages, such as
`onnxruntime-ep-openvino`, `onnxruntime-ep-webgpu` and `onnxruntime-qnn`. By convention, such a package has the
functions `get_library_path` and `get_ep_names`. They are looked for only if a provider is asked for that ONNX Runtime
itself lacks, or if all are to be listed, because each registration loads a library.

Source: https://onnxruntime.ai/docs/execution-providers/plugin-ep-libraries/packaging.html
"""

from __future__ import annotations

import contextlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ._errors import ProviderNotStarted
from ._onnxruntime import load

PREFIXES = ("onnxruntime_ep_", "onnxruntime_qnn")
DEVICE = "device"
"""The option that says on which kind of device a provider runs: cpu, gpu or npu."""

_FOUND: dict[str, PluginProvider] = {}
_searched = False


@dataclass(frozen=True)
class PluginProvider:
    """Describes an execution provider of a package.

    Args:
        name: Its name in ONNX Runtime, such as "OpenVINOExecutionProvider".
        package: The package, as Python imports it.
        problem: Why it cannot be used; None if it was registered. It may still find no device.
    """

    name: str
    package: str
    problem: str | None = None

    def devices(self) -> list[Any]:
        """Return the devices on which it can run on this machine, each an `onnxruntime.OrtEpDevice`."""
        if self.problem:
            return []
        return [device for device in load().get_ep_devices() if device.ep_name == self.name]

    def why_not(self) -> str | None:
        """Return why it cannot run here; None if it can."""
        if self.problem:
            return f"its package {self.package} cannot be loaded: {self.problem}"
        return None if self.devices() else f"its package {self.package} finds no device on this machine"


def plugin_providers() -> dict[str, PluginProvider]:
    """Return the execution providers of installed packages, by their names, and register them at the first call."""
    global _searched
    if not _searched:
        _searched = True
        for module in pkgutil.iter_modules():
            if module.name.startswith(PREFIXES):
                _FOUND.update({each.name: each for each in _registered(module.name)})
    return _FOUND


def found_so_far() -> Mapping[str, PluginProvider]:
    """Return the execution providers that were registered, without looking for any."""
    return _FOUND


def _registered(package: str) -> list[PluginProvider]:
    names = [package]
    try:
        module = import_module(package)
        names = list(module.get_ep_names() if hasattr(module, "get_ep_names") else [module.get_ep_name()])
        # Some providers take the name of the registration for their own. So it must be the same.
        load().register_execution_provider_library(names[0], str(module.get_library_path()))
    except Exception as error:
        # The package of a stranger, and ONNX Runtime's exceptions, which have no common base class.
        if "already registered" not in str(error).lower():
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            return [PluginProvider(name, package, f"{reason:.200}") for name in names]
    return [PluginProvider(name, package) for name in names]


def add_to(options: Any, name: str, given: Mapping[str, str]) -> None:
    """Let a session run on an execution provider of a package.

    Args:
        options: The `onnxruntime.SessionOptions`.
        name: The name of the provider in ONNX Runtime.
        given: Options for the provider. `DEVICE` chooses the kind of device; without it, the first one is used.

    Raises:
        ProviderNotStarted: If it finds no device of this kind.
    """
    provider = plugin_providers()[name]
    wanted = given.get(DEVICE, "").lower()
    devices = provider.devices()
    kinds = [_kind(device) for device in devices]
    chosen = [device for device, kind in zip(devices, kinds, strict=True) if wanted in ("", kind)][:1]
    if not chosen:
        why = provider.why_not() or f"it runs on {', '.join(kinds)} here, but not on {wanted}"
        raise ProviderNotStarted(f"{name} cannot be used: {why}.")
    options.add_provider_for_devices(chosen, {key: value for key, value in given.items() if key != DEVICE})


def _kind(device: Any) -> str:
    """Return the kind of a device: cpu, gpu or npu."""
    with contextlib.suppress(AttributeError):
        return str(device.device.type).rpartition(".")[2].lower()
    return "unknown"
