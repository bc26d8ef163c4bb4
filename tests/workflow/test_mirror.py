"""Mirrors: what `zoo weights fetch` puts there, what `zoo weights verify` finds, and what `zoo weights list` says."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess

import pytest

PLUGIN = """
import hashlib
from zoo.plugin import Architecture, Stage, Weights, hookimpl

@hookimpl
def zoo_architectures():
    return [Architecture(name="owlnet", summary="owls", build=lambda shape: None, input_size=(8, 8), min_size=8,
                         parameters=1, stages=(Stage("all", ("a",)),), source="https://example.org", licence="MIT")]

@hookimpl
def zoo_weights():
    facts = dict(architecture="owlnet", tag="owls", source="https://example.org/owls")
    yield Weights(url="package:owl_data/owl-*.h5", filename="owl.h5", includes_top=True, top_optional=True,
                  input_size=(8, 8), licence="CC-BY-NC-4.0", hash="md5:" + hashlib.md5(b"owl").hexdigest(), **facts)
    yield Weights(url="https://example.org/other.h5", includes_top=False, input_size=(16, 16), licence="MIT", **facts)
"""


@pytest.fixture
def owls(install_plugin, tmp_path):
    """A plugin with two weights files: one in its Python package, and one that cannot be downloaded."""
    install_plugin("owls", PLUGIN)
    site = tmp_path / "site-owls"
    (site / "owl_data").mkdir()
    (site / "owl_data" / "__init__.py").touch()
    (site / "owl_data" / "owl-4711.h5").write_bytes(b"owl")
    info = site / "owl_data-3.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: owl-data\nVersion: 3.0\n")
    (info / "LICENSE").write_text("Owls may not be sold.\n")
    (info / "RECORD").write_text("owl_data/__init__.py,,\nowl_data-3.0.dist-info/LICENSE,,\n")
    return site


def test_a_mirror_is_made_checked_and_used(zoo, owls, tmp_path, monkeypatch):
    mirror = tmp_path / "mirror"
    ran = zoo("weights", "fetch", "owlnet", "--to", mirror)
    assert ran.code == 1 and "1 of 2 files is not available. other.h5: other.h5 is not available locally" in ran.err
    assert "https://example.org/other.h5" in ran.err and "owl.h5: copied, 3 bytes" in ran.out
    digest = hashlib.sha256(b"owl").hexdigest()
    assert (mirror / "SHA256SUMS").read_text() == f"{digest}  owl.h5\n"
    assert (mirror / "LICENCE-owl-data-LICENSE.txt").read_text() == "Owls may not be sold.\n"
    notes = (mirror / "LICENCES.txt").read_text()
    assert "licence  CC-BY-NC-4.0\n           This licence forbids commercial use.\n" in notes
    assert "package  owl-data 3.0; its licence files are beside this one" in notes
    (facts,) = json.loads((mirror / "weights.json").read_text())
    assert facts["file"] == "owl.h5" and facts["top"] == "optional" and facts["commercial_use"] is False
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=mirror, check=True)
    ran = zoo("weights", "verify", mirror)
    assert ran.code == 0 and ran.out == "ok         owl.h5\n1 file, 3 bytes: all are as they should be.\n"

    shutil.rmtree(owls / "owl_data")
    rows = json.loads(zoo("weights", "list", "owlnet", "--json").out)
    assert [row["at_hand"] for row in rows] == [False, False]
    monkeypatch.setenv("ZOO_WEIGHTS_DIR", str(mirror))
    rows = json.loads(zoo("weights", "list", "owlnet", "--json").out)
    assert [row["at_hand"] for row in rows] == [True, False]
    (mirror / "other.h5").write_bytes(b"other")
    ran = zoo("weights", "fetch", "owlnet.owls", "--to", mirror, "--json")
    assert ran.code == 0, ran.err
    assert [(row["file"], row["state"]) for row in json.loads(ran.out)] == [
        ("owl.h5", "was there"),
        ("other.h5", "was there"),
    ]


def test_a_file_of_another_content_is_not_replaced(zoo, owls, tmp_path):
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "owl.h5").write_bytes(b"mine")
    ran = zoo("weights", "fetch", "owlnet", "--to", tmp_path / "mirror")
    assert ran.code == 1 and "is not the published file of this name, and it is not replaced" in ran.err
    assert (tmp_path / "mirror" / "owl.h5").read_bytes() == b"mine"


def test_what_is_wrong_with_a_mirror_is_named(zoo, owls, tmp_path):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    assert "holds no weights files" in zoo("weights", "verify", mirror).err
    assert "cannot be read: No such file" in zoo("weights", "verify", tmp_path / "nowhere").err
    for name in ("a.h5", "b.safetensors", "owl.h5", "c.pth"):
        (mirror / name).write_bytes(name.encode())
    sums = {"a.h5": b"a.h5", "b.safetensors": b"another", "gone.h5": b"gone", "../../outside.h5": b"x"}
    text = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sums.items())
    (mirror / "SHA256SUMS").write_text(text + "rubbish\n")
    ran = zoo("weights", "verify", mirror)
    assert ran.code == 1
    lines = ran.out.splitlines()
    assert [line.split("  ")[0].strip() for line in lines[:5]] == [
        "ok",
        "damaged",
        "not listed c.pth (neither SHA256SUMS nor a plugin knows its hash)",
        "missing",
        "not the published file owl.h5 (md5 " + hashlib.md5(b"owl").hexdigest()[:12] + "… was published)",
    ]
    assert lines[5] == "4 of 5 files are not proved to be right." and "outside" not in ran.out


def test_names_that_mean_nothing_are_refused(zoo, owls, tmp_path):
    assert (
        "no plugin lists weights of mnist_dense" in zoo("weights", "fetch", "mnist_dense", "--to", tmp_path / "m").err
    )
    assert "no architecture called 'owlent'" in zoo("weights", "fetch", "owlent", "--to", tmp_path / "m").err
    assert not (tmp_path / "m").exists()
    assert zoo("weights", "list", "nothing-like-this").code == 2


def test_lists_and_facts_show_licence_commerce_top_and_origin(zoo, owls):
    lines = zoo("weights", "list", "owlnet", "--licence").out.splitlines()
    assert lines[0].split() == ["name", "file", "licence", "commerce", "source"]
    assert lines[1].split() == ["owlnet.owls", "owl.h5", "CC-BY-NC-4.0", "forbidden", "https://example.org/owls"]
    assert lines[2].split()[2:4] == ["MIT", "-"]
    row = next(line.split() for line in zoo("list", "weights", "owlnet").out.splitlines() if line.endswith("owl.h5"))
    assert row[:3] == ["owlnet.owls", "8x8", "both"]
    text = zoo("info", "owlnet.owls").out
    assert "owlnet.owls, with or without top\n" in text and "  url           package:owl_data/owl-*.h5\n" in text
    assert "CC-BY-NC-4.0; it forbids commercial use\n" in text
    assert text.count("  file          owl.h5") == 1, "a file that serves with and without its top is listed once"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
def test_a_mirror_of_a_stranger_is_read_in_time(zoo, owls, tmp_path):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    os.mkfifo(mirror / "pipe.h5")
    (mirror / "device.h5").symlink_to("/dev/zero")
    (mirror / "nowhere.h5").symlink_to(tmp_path / "absent")
    (mirror / "folder.h5").mkdir()
    names = ("pipe.h5", "device.h5", "nowhere.h5", "folder.h5", "gone\x1b[2J.h5", "x" * 300)
    (mirror / "SHA256SUMS").write_text("".join(f"{'0' * 64}  {name}\n" for name in names))
    ran = zoo("weights", "verify", mirror)
    assert ran.code == 1 and ran.out.count("damaged") == 4 and "\x1b" not in ran.out
    for name in ("SHA256SUMS", "weights.json"):
        (mirror / name).unlink(missing_ok=True)
        (mirror / name).symlink_to("/dev/zero")
    assert "holds no weights files" in zoo("weights", "verify", mirror).err
    (mirror / "weights.json").unlink()
    (mirror / "weights.json").write_text("[" * 100_000)
    (mirror / "owl.h5").symlink_to(tmp_path / "absent")
    assert "is not replaced" in zoo("weights", "fetch", "owlnet", "--to", mirror).err
    (mirror / "owl.h5").unlink()
    assert "owl.h5: copied" in zoo("weights", "fetch", "owlnet", "--to", mirror).out
    assert not (tmp_path / "absent").exists() and not (mirror / "SHA256SUMS").is_symlink()
