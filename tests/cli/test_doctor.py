"""What `zoo doctor` reports, and which problems it finds."""

from __future__ import annotations

import importlib.util
import json
import re
from importlib import metadata

import pytest

from zoo import backend, runs
from zoo.cli import doctor, known_holes

FIND = importlib.util.find_spec


def test_the_report_of_a_sound_installation(zoo, monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_WEIGHTS_DIR", str(tmp_path))
    (tmp_path / "w.h5").write_bytes(b"x" * 2_000_000)
    monkeypatch.setattr(doctor, "_package_problems", list)
    ran = zoo("doctor", "--json")
    report = json.loads(ran.out)
    assert ran.code == 0, report["problems"]
    assert report.keys() == {"versions", "backend", "plugins", "folders", "providers", "holes", "remarks", "problems"}
    assert report["versions"] == runs.versions() and "CPUExecutionProvider" in report["providers"]
    assert {plugin["state"] for plugin in report["plugins"]} == {"loaded"}
    assert report["folders"]["mirror (ZOO_WEIGHTS_DIR)"] == f"{tmp_path} (1 files, 2 MB)"
    assert report["folders"]["network"] == "forbidden by ZOO_OFFLINE"
    assert report["folders"]["cache (ZOO_CACHE)"].endswith("(does not exist yet)")
    text = zoo("doctor").out.splitlines()
    assert text[-2:] == ["problems", "  none"]
    assert [line for line in text if not line.startswith(" ")] == [
        *("versions", "Keras backend", "plugins", "folders", "onnxruntime providers", "problems")
    ]


def test_the_backend_of_keras_and_what_its_lack_means(zoo, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    monkeypatch.setattr(backend, "CONVERTERS", ("tensorflow", "no_such_converter"))
    monkeypatch.setattr(backend, "BACKENDS", ("tensorflow", "torch"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else FIND(name, *rest))
    ran = zoo("doctor", "--json")
    report = json.loads(ran.out)
    assert ran.code == 1 and report["backend"]["name"] == "torch" and report["backend"]["version"] is None
    assert any(text.startswith("KERAS_BACKEND is 'torch', which is not installed here.") for text in report["problems"])
    assert any(text.startswith("no_such_converter cannot be found.") for text in report["remarks"])
    assert "these packages are not installed" not in ran.out


def test_a_mirror_that_is_not_a_folder(zoo, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ZOO_WEIGHTS_DIR", str(tmp_path / "file"))
    ran = zoo("doctor")
    assert ran.code == 1 and f"ZOO_WEIGHTS_DIR is {str(tmp_path / 'file')!r}, which is not a folder" in ran.out
    assert "file (is not a folder)" in ran.out
    monkeypatch.setenv("ZOO_WEIGHTS_DIR", str(tmp_path / "mistyped"))
    assert "mistyped (does not exist)\n" in zoo("doctor").out


def test_two_distributions_that_contain_the_same_package(monkeypatch):
    installed = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "1" if name.startswith("finezoo") else installed(name))
    (problem,) = [text for text in doctor._package_problems() if "both installed" in text]
    assert "`pip uninstall finezoo-runtime`" in problem


def test_missing_packages_are_named_with_the_command_that_installs_them(monkeypatch):
    versions = runs.versions()
    absent = runs.PACKAGES[0]
    monkeypatch.setattr(runs, "versions", lambda: {key: value for key, value in versions.items() if key != absent})
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "zoo_runtime" else object())
    problems = "\n".join(doctor._package_problems())
    assert f"these packages are not installed: {absent}. Type `pip install --force-reinstall finezoo`" in problems
    assert "its package zoo_runtime is missing" in problems and "zoo_plugins" not in problems
    assert "(from a clone: `pip install --force-reinstall --no-deps .`)" in problems


def test_columns_are_aligned_for_names_of_any_length(zoo, install_plugin):
    install_plugin(
        "a_name_of_more_than_fourteen_letters",
        "from zoo.plugin import hookimpl\n@hookimpl\ndef zoo_weights():\n    return []",
    )
    lines = zoo("doctor").out.splitlines()
    rows = lines[lines.index("plugins") + 1 : lines.index("folders")]
    assert {row.index("  loaded  ") + 2 for row in rows} == {2 + len("a_name_of_more_than_fourteen_letters") + 2}
    assert rows[-1].split() == [
        "a_name_of_more_than_fourteen_letters",
        "loaded",
        "zoo-a_name_of_more_than_fourteen_letters",
        "1.2",
    ]
    versions = lines[1 : lines.index("Keras backend")]
    assert len({len(row) - len(row.split()[-1]) for row in versions}) == 1


LINKS = {"CVE-2026-12480", "CVE-2026-9335", "CVE-2026-12481"}
OLD_KERAS = {"CVE-2026-1462", "GHSA-hqp4-2352-xf5r"}
PILLOW_13 = {"CVE-2026-96639", "CVE-2026-112403", "CVE-2026-112395"}


@pytest.mark.parametrize(
    ("package", "version", "ids"),
    [
        ("keras", "3.15.0", set()),
        ("keras", "3.14.1", LINKS),
        ("keras", "3.15.0rc1", LINKS),
        ("keras", "3.15.0.post1", set()),
        ("keras", "3.12.3", OLD_KERAS),
        ("keras", "3.12.2", OLD_KERAS | LINKS),
        ("keras", "3.13.1", OLD_KERAS | LINKS | {"CVE-2026-0897", "CVE-2026-1669"}),
        ("keras", "3.11.0", OLD_KERAS | LINKS | {"CVE-2025-49655", "CVE-2026-0897", "CVE-2026-1669"}),
        ("pillow", "12.2.0", PILLOW_13 | {"CVE-2026-59199", "CVE-2026-59205", "CVE-2026-59204"}),
        ("pillow", "12.3.0", PILLOW_13),
        ("pillow", "13", set()),
        ("onnx", "1.21.0", {"CVE-2026-44512", "CVE-2026-63632"}),
        ("onnx", "1.22.0", set()),
        ("onnxruntime", "1.13.0", {"CVE-2022-1941"}),
        ("tensorflow", "2.20.0", set()),
        ("pillow", "unknown", set()),
        ("other", "0.1", set()),
    ],
)
def test_known_holes_of_a_version(package, version, ids):
    found = known_holes.found({package: version})
    assert {hole.id for *_, holes in found for hole in holes} == ids


def test_an_installed_version_with_a_hole_is_a_problem_with_its_cure(zoo, monkeypatch):
    installed = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "12.2.0" if name == "pillow" else installed(name))
    monkeypatch.setattr(doctor, "_package_problems", list)
    ran = zoo("doctor")
    assert ran.code == 1
    assert (
        "  pillow 12.2.0 has 6 known holes (known on 2026-11). `pip install 'pillow>=13.0.0'` closes them:\n" in ran.out
    )
    assert "CVE-2026-59199: pasting and cropping can write past a buffer (fixed in 12.3.0; https://" in ran.out
    holes = json.loads(zoo("doctor", "--json").out)["holes"]
    assert holes["known_on"] == "2026-11"
    assert {(hole["package"], hole["version"], hole["fixed"]) for hole in holes["found"]} == {
        ("pillow", "12.2.0", fixed) for fixed in ("12.3.0", "13.0.0")
    }


def test_every_known_hole_says_where_it_is_known_from():
    assert re.fullmatch(r"20\d\d-\d\d", known_holes.KNOWN_ON)
    for hole in known_holes.HOLES:
        assert hole.source.startswith("https://") and re.fullmatch(r"(CVE-\d{4}|GHSA|PYSEC-\d{4})-.+", hole.id)
        assert not hole.affects(hole.fixed) and hole.affects(hole.since or "0.1")
    assert len({(hole.package, hole.id) for hole in known_holes.HOLES}) == len(known_holes.HOLES)
