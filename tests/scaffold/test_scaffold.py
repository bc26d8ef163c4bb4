"""`zoo new-plugin` writes a plugin that works as it stands, and refuses names that are not legal or not free."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path

import pytest

from zoo import testing
from zoo.scaffold import LICENCES, TEMPLATES

FILES = {".gitignore", "LICENSE", "README.md", "pyproject.toml", "test_zoo_tiny_net.py", "zoo_tiny_net.py"}


@pytest.fixture
def written(zoo, tmp_path, monkeypatch) -> Path:
    """Write the plugin tiny-net, and return its folder. After the test, it is neither on Python's path nor imported."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setitem(sys.modules, "zoo_tiny_net", None)
    monkeypatch.delitem(sys.modules, "zoo_tiny_net")
    ran = zoo("new-plugin", "tiny-net", "--dir", tmp_path / "new", "--licence", "Apache-2.0", "--author", 'Ann "A" Oe')
    assert ran.code == 0 and ran.err == ""
    return tmp_path / "new" / "zoo-tiny-net"


def test_the_package_says_the_same_everywhere(written):
    assert {path.name for path in written.iterdir()} == FILES
    project = tomllib.loads((written / "pyproject.toml").read_text())["project"]
    assert project["name"] == "zoo-tiny-net" and project["dependencies"] == ["finezoo"]
    assert project["entry-points"]["zoo.plugins"] == {"tiny-net": "zoo_tiny_net"}
    assert project["license"] == "Apache-2.0" and project["authors"] == [{"name": 'Ann "A" Oe'}]
    licence = (written / "LICENSE").read_text()
    assert re.search(r'Copyright 20\d\d Ann "A" Oe', licence) and licence.lstrip().startswith("Apache License")
    for path in written.iterdir():
        assert "{{" not in path.read_text() and "{%" not in path.read_text()
    test = (written / "test_zoo_tiny_net.py").read_text().splitlines()
    assert len([line for line in test if line.strip()]) == 4, "an import, and a test of three lines"


def test_the_package_passes_every_check_that_needs_no_training_of_its_author(written):
    outcomes = [case.outcome() for case in testing.plugin_cases(written)]
    assert [(each.case.id, each.text) for each in outcomes if each.state != "passed"] == []
    names = {each.case.check.name for each in outcomes}
    formats = {check.name for check in testing.CHECKS if check.name.startswith("format-")}
    assert names == {check.name for check in testing.CHECKS} - {"weights", "schedule", "logger"} - formats


def test_the_weights_that_the_author_is_shown_are_legal(written):
    """Without the marks, the entry is one that zoo accepts, and `zoo check` says what is still an example in it."""
    module = written / "zoo_tiny_net.py"
    before, marked, after = re.split(r"(?<=list\[Weights\] = \[\n)(.*?)(?=^\]$)", module.read_text(), flags=re.M | re.S)
    assert marked.count("# Weights(") == 1
    module.write_text(before + re.sub(r"^    # ", "    ", marked, flags=re.M) + after)
    names: dict = {}
    exec(module.read_text(), names)
    (entry,) = names["zoo_weights"]()
    assert entry.id == "tiny-net.digits" and entry.filename == "tiny-net-digits.keras"


@pytest.mark.parametrize("licence", LICENCES)
def test_each_licence_has_its_text(licence, zoo, tmp_path):
    assert zoo("new-plugin", "tinynet", "--dir", tmp_path, "--licence", licence).code == 0
    text = (tmp_path / "zoo-tinynet" / "LICENSE").read_text()
    assert re.search(r"Copyright (\(c\) )?20\d\d,? the authors of zoo-tinynet", text)
    assert {path.stem for path in (TEMPLATES / "licences").iterdir()} == set(LICENCES)


def test_nothing_is_overwritten(written, zoo):
    (written / "zoo_tiny_net.py").write_text("mine")
    ran = zoo("new-plugin", "tiny-net", "--dir", written.parent)
    assert ran.code == 2 and "overwrites nothing" in ran.err
    assert (written / "zoo_tiny_net.py").read_text() == "mine"
    ran = zoo("new-plugin", "tinynet", "--dir", written / "LICENSE")
    assert ran.code == 1 and "cannot be written" in ran.err


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("TinyNet", "cannot be the name of a plugin.*Try 'tinynet'"),
        ("tiny net", "cannot be the name of a plugin.*Try 'tiny-net'"),
        ("tiny_", "cannot be the name of a plugin.*Try 'tiny'"),
        ("tiny--net", "cannot be the name of a plugin"),
        ("../tiny", "cannot be the name of a plugin"),
        ("t" * 41, "at most 40"),
        ("mobilenet-v2", r"not free: the plugin mobilenetv2 \(finezoo"),
        ("mobilenetv2-035", "not free: the architecture 'mobilenetv2_035' of mobilenetv2"),
        ("light", "not free: the augmentation 'light'"),
        ("plugins", "not free: `zoo list plugins` means something else"),
        ("runtime", "not free: there is a module zoo_runtime"),
        ("odd", r"not free: the plugin odd \(zoo-odd 1.2\)"),
    ],
)
def test_names_that_are_not_legal_or_not_free_are_refused(name, problem, zoo, tmp_path, install_plugin):
    install_plugin("odd", "raise ImportError('broken plugins keep their names')\n")
    ran = zoo("new-plugin", "--dir", tmp_path / "new", "--", name)
    assert ran.code == 2 and re.search(problem, ran.err), ran.err
    assert not (tmp_path / "new").exists()


def test_an_unknown_licence_is_refused(zoo, tmp_path):
    ran = zoo("new-plugin", "tinynet", "--dir", tmp_path, "--licence", "mine")
    assert ran.code == 2 and "one of MIT, Apache-2.0, BSD-3-Clause, ISC. Received: 'mine'" in ran.err


@pytest.mark.slow
def test_the_written_package_installs_passes_its_tests_lists_trains_and_goes(environment_of_a_user, tmp_path):
    python = environment_of_a_user
    made = python("-m", "zoo.cli", "new-plugin", "tinynet", "--dir", tmp_path)
    assert made.returncode == 0, made.stderr
    folder = tmp_path / "zoo-tinynet"
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    installed = python("-m", "pip", "install", *offline, "-e", ".", cwd=folder)
    assert installed.returncode == 0, installed.stdout + installed.stderr
    tested = python("-m", "pytest", "-p", "no:cacheprovider", cwd=folder)
    assert tested.returncode == 0 and re.search(r"= 18 passed in", tested.stdout), tested.stdout + tested.stderr
    listed = python("-m", "zoo.cli", "list", "tinynet", cwd=folder)
    assert listed.returncode == 0 and "13,600" in listed.stdout
    again = python("-m", "zoo.cli", "new-plugin", "tinynet", "--dir", tmp_path / "elsewhere")
    assert again.returncode == 2 and "the plugin tinynet (zoo-tinynet 0.1.0) has it" in again.stderr
    ran = python("-m", "zoo.cli", "finetune", "tinynet", cwd=folder)
    assert ran.returncode == 0, ran.stderr
    assert "warning" not in ran.stderr.lower() and "NO PRETRAINED WEIGHTS" not in ran.stderr
    (metrics,) = (folder / "runs").glob("*/metrics.json")
    assert json.loads(metrics.read_text())["test"]["accuracy"] >= 0.9
    removed = python("-m", "pip", "uninstall", "--yes", "--disable-pip-version-check", "zoo-tinynet")
    assert removed.returncode == 0, removed.stderr
    assert python("-m", "zoo.cli", "list", "tinynet").returncode == 2
