"""Starting ONNX Runtime in one place, with telemetry off; backends of Keras that are missing, and what goes without."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import zoo
from zoo import backend
from zoo.errors import InstallationError

ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}

IMPORT_ALL = """
import importlib, os, pkgutil, sys
before = dict(os.environ)
import zoo, zoo_plugins
found = []
for package in (zoo, zoo_plugins):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
            found.append(module.name)
            changed = {key for key in {**before, **os.environ} if before.get(key) != os.environ.get(key)}
            assert not changed, (module.name, changed)
assert {"zoo.backend", "zoo.convert.keras_to_onnx", "zoo.cli.doctor", "zoo_plugins.vgg"} <= set(found), found
assert "onnxruntime" not in sys.modules
print(len(found))
"""

CONVERT = """
import os, sys
import onnx
from onnx import TensorProto, helper
from zoo.convert.optimize import optimize
values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in "xy"]
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
assert "onnxruntime" not in sys.modules
optimize(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
assert "onnxruntime" in sys.modules
print(repr(os.environ["ORT_DISABLE_TELEMETRY"]))
"""


def run(code: str, **variables: str) -> str:
    ran = subprocess.run([sys.executable, "-c", code], env={**ENVIRONMENT, **variables}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_importing_any_module_changes_nothing_in_the_environment():
    assert int(run(IMPORT_ALL)) > 60


# Values other than "1" may switch the telemetry on. "CI" keeps it silent for this test.
@pytest.mark.parametrize(("given", "kept"), [({}, "1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0")])
def test_a_process_that_converts_has_telemetry_off_unless_the_user_says_otherwise(given, kept):
    assert run(CONVERT, CI="true", **given) == repr(kept)


def test_onnxruntime_is_imported_in_one_place():
    """Any other import could come first, before the telemetry is switched off."""
    root = Path(zoo.__file__).parent
    importing = set()
    for path in root.rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        typing_only = [node for node in ast.walk(tree) if isinstance(node, ast.If) and _is_type_checking(node.test)]
        skipped = {id(inner) for node in typing_only for inner in ast.walk(node)}
        for node in ast.walk(tree):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if id(node) not in skipped and any(name.split(".")[0] == "onnxruntime" for name in names):
                importing.add(str(path.relative_to(root)))
    assert importing == {"backend.py"}


def _is_type_checking(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


@pytest.mark.parametrize(
    ("wanted", "there", "problem"),
    [
        (
            "",
            ["jax"],
            "by default is 'tensorflow', which is not installed here. Type `pip install tensorflow tf2onnx`, or",
        ),
        (
            "torch",
            ["jax"],
            "KERAS_BACKEND is 'torch', which is not installed here. Type `pip install torch`, or set the ",
        ),
        ("theano", ["tensorflow", "jax"], "KERAS_BACKEND is 'theano', and Keras has no such backend"),
        ("jax", [], "KERAS_BACKEND is 'jax', which is not installed here. Type `pip install jax`."),
    ],
)
def test_a_backend_that_is_missing_is_named_with_what_to_do(monkeypatch, wanted, there, problem):
    monkeypatch.setenv("KERAS_BACKEND", wanted)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in there else None)
    with pytest.raises(InstallationError, match=re.escape(problem)):
        backend.check()
    assert backend.missing_converters() == [name for name in ("tensorflow", "tf2onnx") if name not in there]


def test_gpus_compute_float32_without_rounding_where_figures_are_compared(monkeypatch):
    import tensorflow as tf

    rounding = tf.config.experimental.tensor_float_32_execution_enabled
    before = rounding()
    with backend.full_float32():
        assert rounding() is before, "a processor does not round"
    monkeypatch.setattr(backend, "has_accelerator", lambda: True)
    tf.config.experimental.enable_tensor_float_32_execution(True)
    try:
        with backend.full_float32():
            assert rounding() is False
        assert rounding() is True
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def test_a_network_is_refused_on_a_backend_that_cannot_build_it(zoo, monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    monkeypatch.setattr(backend, "check", lambda: None)
    ran = zoo("finetune", "nasnet_mobile", "--runs", tmp_path)
    assert ran.code == 2 and ran.out == ""
    assert "nasnet_mobile cannot be built on the backend 'torch' of Keras. Set the environment variable " in ran.err
    assert "KERAS_BACKEND=tensorflow or KERAS_BACKEND=jax" in ran.err


def test_without_tensorflow_a_run_ends_trained_and_says_where_its_file_is_made(zoo, photos, monkeypatch, tmp_path):
    monkeypatch.setattr(backend, "CONVERTERS", ("tensorflow", "no_such_converter"))
    places = ("--runs", tmp_path / "runs", "--exported", tmp_path / "exported")
    arguments = (
        "mnist_convnet",
        "--data",
        photos,
        "--size",
        28,
        "--weights",
        "none",
        "--epochs",
        1,
        "--name",
        "shapes",
    )
    ran = zoo("finetune", *arguments, *places, "--allow-chance")
    (run,) = (tmp_path / "runs").iterdir()
    assert ran.code == 1 and not list(tmp_path.glob("exported/*/model.onnx"))
    assert "error: no_such_converter, which converts networks to ONNX, is not installed here." in ran.err
    assert f"type there: `zoo export {run.name} --data FOLDER`, with the folder that has the pictures there." in ran.err
    assert json.loads((run / "run.json").read_text())["status"] == "trained" and (run / "model.keras").is_file()
    monkeypatch.setattr(backend, "CONVERTERS", ("tensorflow", "tf2onnx"))
    ran = zoo("export", run, "--exported", tmp_path / "exported", "--allow-chance")
    assert ran.code == 0 and (tmp_path / "exported" / "shapes" / "model.onnx").is_file(), ran.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("compare", "--data", "digits", "--networks", "mobilenetv2,resnet50"),
        ("sweep", "--data", "digits", "--networks", "mobilenetv2,resnet50"),
        ("verify", "mobilenetv2", "--data", "no/pictures"),
        ("export", "mobilenetv2", "--top"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_commands_that_convert_say_once_and_at_once_that_tensorflow_is_missing(zoo, monkeypatch, tmp_path, arguments):
    monkeypatch.setattr(backend, "CONVERTERS", ("tensorflow", "no_such_converter"))
    # Only `zoo export --top` has no folder for what it writes in its options.
    monkeypatch.chdir(tmp_path)
    ran = zoo(*arguments)
    assert ran.code == 1 and ran.out == "" and list(tmp_path.iterdir()) == []
    assert ran.err.startswith(
        "error: no_such_converter, which converts networks to ONNX, is not installed here. Type `"
    )
    assert ran.err.count("\n") == 1


def test_checks_of_networks_say_once_that_keras_is_missing(zoo, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "no_such_backend")
    ran = zoo("check", "mnist_convnet")
    assert ran.code == 1 and ran.out == "" and "KERAS_BACKEND is 'no_such_backend', and Keras has no such" in ran.err
    assert zoo("check", "mnist_convnet", "--only", "metadata").code == 0


def test_a_missing_backend_is_named_where_keras_starts_without_a_check_before(tmp_path):
    """`zoo export RUN` opens a network. It must not end in "No module named 'tensorflow'" alone."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'torch' else find(name, *rest)\n"
        "sys.modules['torch'] = None\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    code = "from zoo import backend\nfrom zoo.errors import InstallationError\n"
    code += "try:\n    backend.start()\nexcept InstallationError as error:\n    print(error)"
    assert "KERAS_BACKEND is 'torch', which is not installed here. Type `pip install torch`" in run(
        code, KERAS_BACKEND="torch", PYTHONPATH=path
    )
