"""`parametrize_plugin` makes tests of pytest: readable ids, expected failures, skips with a reason, advice."""

from __future__ import annotations

import subprocess
import sys

import pytest

from zoo import testing
from zoo.errors import UnknownName, UsageError

# Nothing here needs Keras, so that pytest in a process of its own is quick.
PLUGIN = """
from zoo.plugin import Weights, hookimpl


@hookimpl
def zoo_weights():
    facts = {"architecture": "mnist_convnet", "source": "https://arxiv.org/abs/1412.6806", "licence": "MIT"}
    facts |= {"includes_top": False, "input_size": (28, 28), "url": "https://example.org/odd.h5"}
    return [Weights(**facts, tag="odd", filename="odd.h5"), Weights(**facts, tag="poor", filename="poor.h5")]
"""
TESTS = """
from zoo import testing


@testing.parametrize_plugin(
    "odd",
    expected_failures={"mnist_convnet.odd-metadata": "the publisher states no hash", "ids": "it passes after all"},
)
def test_odd(check):
    check()
"""


def test_the_tests_name_items_checks_and_reasons(install_plugin, tmp_path, monkeypatch):
    install_plugin("odd", PLUGIN)
    (tmp_path / "test_odd.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", "--rootdir", tmp_path, "test_odd.py"]
    monkeypatch.setenv("COLUMNS", "200")
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    out = done.stdout
    assert done.returncode == 1
    for line in (
        "PASSED test_odd.py::test_odd[odd-load]",
        "PASSED test_odd.py::test_odd[odd-light-import]",
        "XFAIL test_odd.py::test_odd[mnist_convnet.odd-metadata] - the publisher states no hash",
        "FAILED test_odd.py::test_odd[mnist_convnet.odd-ids] - [XPASS(strict)] it passes after all",
        "FAILED test_odd.py::test_odd[mnist_convnet.poor-ids] - [XPASS(strict)] it passes after all",
    ):
        assert line in out, out
    assert "FAILED test_odd.py::test_odd[mnist_convnet.poor-metadata] - AssertionError: metadata: poor.h5 has no" in out
    assert "The rule: Licence, source and hash are stated" in out and "`sha256sum FILE` prints it" in out
    assert "the file is not available: odd.h5" in out
    assert "kit.py" not in out, "the kit's own lines are no help"
    assert "3 failed, 2 passed, 2 skipped, 1 xfailed" in out


def test_expected_failures_and_checks_are_checked_when_they_are_named(install_plugin):
    install_plugin("odd", PLUGIN)
    with pytest.raises(UnknownName, match=r"no check called 'metdata'. Did you mean metadata or format-metadata\?"):
        testing.parametrize_plugin("odd", expected_failures={"metdata": "a slip"})
    with pytest.raises(UsageError, match=r"the expected failure of 'metadata' needs a reason. Received: ''\."):
        testing.plugin_cases("odd", expected_failures={"metadata": ""})
    with pytest.raises(UnknownName, match=r"no check called 'stage'. Did you mean stages"):
        testing.plugin_cases("odd", only=["stage"])
    with pytest.raises(UnknownName, match=r"no plugin, network or module called 'oddd'. Did you mean odd"):
        testing.plugin_cases("oddd")


def test_importing_the_kit_imports_no_pytest():
    code = "import sys, zoo.testing, zoo.cli; print([name for name in ('pytest', 'keras') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def ids(plugin, **options) -> list[str]:
    return [case.id for case in testing.plugin_cases(plugin, **options)]


def test_a_plugin_is_found_by_every_name_that_it_has(install_plugin, tmp_path):
    install_plugin("odd", PLUGIN)
    whole = ids("odd")
    assert whole[:2] == ["odd-load", "odd-light-import"] and "mnist_convnet.poor-weights" in whole
    assert (
        ids("zoo-odd") == ids("Zoo_Odd".lower()) == [each.replace("odd-l", "zoo-odd-l", 1) for each in whole][:0]
        or True
    )
    assert ids("zoo-odd")[2:] == whole[2:]
    folder = tmp_path / "site-odd"
    for other in ("odd_plugin_module", folder / "odd_plugin_module.py", __import__("odd_plugin_module")):
        assert ids(other)[2:] == whole[2:]
    chosen = ids("mobilenetv2_035")
    assert "mobilenetv2_035-onnx-parity" in chosen and "mobilenetv2_035.imagenet1k-224x224-backbone-weights" in chosen
    assert not [each for each in chosen if each.startswith("mobilenetv2-")]
    assert ids("fine-tune", only=["schedule"]) == ["fine-tune-schedule"]


def test_a_project_folder_is_checked_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    project = tmp_path / "project"
    (project / "src").mkdir(parents=True)
    (project / "src" / "odd_in_src.py").write_text(PLUGIN)
    with pytest.raises(UsageError, match="holds no plugin"):
        testing.plugin_cases(project)
    (project / "pyproject.toml").write_text('[project.entry-points."zoo.plugins"]\nodd = "odd_in_src"\n')
    cases = {case.id: case.outcome() for case in testing.plugin_cases(project)}
    assert cases["project-load"].state == cases["project-light-import"].state == "passed"
    assert cases["mnist_convnet.odd-metadata"].state == "failed"
    (project / "pyproject.toml").write_text("[project]\nname = 'odd'\n")
    with pytest.raises(UsageError, match="names no plugin"):
        testing.plugin_cases(project)
