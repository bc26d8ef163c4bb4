"""Test execution providers that are packages beside ONNX Runtime."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# A provider of a package whose device is the processor's. It stands for one that a library would add.
PACKAGE = '''
import onnxruntime

LOADED = []
onnxruntime.register_execution_provider_library = lambda name, path: LOADED.append((name, path))


class Device:
    """The device of the processor, under another name."""

    def __init__(self, real):
        self.real, self.ep_name, self.device = real, "DemoExecutionProvider", real.device


real_devices = onnxruntime.get_ep_devices
onnxruntime.get_ep_devices = lambda: [*real_devices(), *(map(Device, real_devices()) if {devices} else ())]


def get_ep_names():
    return ["DemoExecutionProvider"]


def get_library_path():
    return __file__
'''

BROKEN = """
def get_ep_names():
    return ["BrokenExecutionProvider"]


def get_library_path():
    return "/nowhere/libbroken.so"
"""


def ask(folder, code, *arguments):
    """Run code in a process of its own, because a registration holds for the whole process."""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r})\n{code}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_package_is_found_and_its_device_is_used(tmp_path, model):
    (tmp_path / "onnxruntime_ep_demo.py").write_text(PACKAGE.replace("{devices}", "True"))
    code = """
import numpy as np, onnxruntime
from zoo_runtime import Predictor
given = []
class Options(onnxruntime.SessionOptions):
    def add_provider_for_devices(self, devices, options):
        given.append(([type(device).__name__ for device in devices], options))
onnxruntime.SessionOptions = Options
inference_session = onnxruntime.InferenceSession
class Session(inference_session):
    def get_providers(self):
        return ["DemoExecutionProvider", *super().get_providers()]
onnxruntime.InferenceSession = Session
predictor = Predictor(sys.argv[1], providers=[("DemoExecutionProvider", {"speed": 2, "device": "cpu"}), "cpu"])
print(predictor(np.full((9, 9, 3), (250, 0, 0), np.uint8)).label, given)
import onnxruntime_ep_demo
print(onnxruntime_ep_demo.LOADED[0][0])
try:
    Predictor(sys.argv[1], providers=[("DemoExecutionProvider", {"device": "npu"})])
except Exception as error:
    print(type(error).__name__, error)
"""
    ran = ask(tmp_path, code, model)
    first, name, error = ran.stdout.splitlines()
    assert first == "red [(['Device'], {'speed': '2'})]" and name == "DemoExecutionProvider", ran.stderr
    assert error.startswith(
        "ProviderNotStarted DemoExecutionProvider cannot be used: it runs on cpu here, but not on npu"
    )
    assert "Add 'cpu' after it" in error


def test_a_package_without_a_device_or_library_is_named(tmp_path, model):
    (tmp_path / "onnxruntime_ep_demo.py").write_text(PACKAGE.replace("{devices}", "False"))
    code = "from zoo_runtime.cli import main; sys.exit(main(sys.argv[1:]))"
    shown = json.loads(ask(tmp_path, code, "info", "--json").stdout)
    assert "finds no device on this machine" in shown["unusable"]["DemoExecutionProvider"]
    assert "DemoExecutionProvider" not in shown["providers"] and "cpu" in shown["providers"]
    (tmp_path / "onnxruntime_ep_demo.py").write_text(BROKEN)
    ran = ask(tmp_path, code, "info")
    assert ran.returncode == 0 and "BrokenExecutionProvider is left out: its package onnxruntime_ep_demo" in ran.stdout
    ran = ask(tmp_path, code, "predict", model, "cat.jpg", "--providers", "BrokenExecutionProvider")
    assert ran.returncode == 1 and "cannot be loaded" in ran.stderr and "Traceback" not in ran.stderr
    ran = ask(tmp_path, code, "predict", model, tmp_path, "--providers", "BrokenExecutionProvider,cpu")
    assert "warning: BrokenExecutionProvider cannot be used" in ran.stderr


def test_packages_are_looked_for_only_if_they_are_needed(tmp_path, model):
    (tmp_path / "onnxruntime_ep_demo.py").write_text("raise SystemExit('imported')")
    code = "from zoo_runtime import Predictor; Predictor(sys.argv[1], providers=['cpu']); print('opened')"
    ran = ask(tmp_path, code, model)
    assert ran.stdout == "opened\n", ran.stderr


@pytest.mark.parametrize("name", ["demo", "TensorrtExecutionProvider"])
def test_an_unknown_provider_is_still_a_wrong_value(name, model):
    from zoo_runtime import Predictor

    with pytest.raises(ValueError, match="providers must be among"):
        Predictor(model, providers=[name])
