"""Starting ONNX Runtime: in one place, with telemetry off, and without a trace in the environment at import."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import zoo

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
