"""What `zoo doctor` reports, and which problems it finds."""

from __future__ import annotations

import json
from importlib import metadata

from zoo import runs
from zoo.cli import doctor


def test_the_report_of_a_sound_installation(zoo, monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_WEIGHTS_DIR", str(tmp_path))
    (tmp_path / "w.h5").write_bytes(b"x" * 2_000_000)
    monkeypatch.setattr(doctor, "_package_problems", list)
    ran = zoo("doctor", "--json")
    report = json.loads(ran.out)
    assert ran.code == 0, report["problems"]
    assert report.keys() == {"versions", "plugins", "folders", "providers", "problems"}
    assert report["versions"] == runs.versions() and "CPUExecutionProvider" in report["providers"]
    assert {plugin["state"] for plugin in report["plugins"]} == {"loaded"}
    assert report["folders"]["mirror (ZOO_WEIGHTS_DIR)"] == f"{tmp_path} (1 files, 2 MB)"
    assert report["folders"]["network"] == "forbidden by ZOO_OFFLINE"
    assert report["folders"]["cache (ZOO_CACHE)"].endswith("(does not exist yet)")
    text = zoo("doctor").out.splitlines()
    assert text[-2:] == ["problems", "  none"]
    assert [line for line in text if not line.startswith(" ")] == [
        *("versions", "plugins", "folders", "onnxruntime providers", "problems")
    ]


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


def test_long_names_of_plugins_stay_in_their_column(zoo, install_plugin):
    install_plugin(
        "efficientnet_lite_of_owls", "from zoo.plugin import hookimpl\n@hookimpl\ndef zoo_weights():\n    return []"
    )
    lines = zoo("doctor").out.splitlines()
    rows = [line for line in lines if " loaded " in line]
    assert any(line.startswith("  efficientnet_lite_of_owls loaded ") for line in rows)
    assert len({line.index(" loaded ") for line in rows}) == 1
