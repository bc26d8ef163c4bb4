"""`zoo cache` and `zoo cache prune`: what is listed, what goes, and what always stays."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from zoo import files

DAY = 86400


@pytest.fixture
def cache(finished, tmp_path, monkeypatch) -> Path:
    """The cache of a finished run, with weights, foreign files and what killed processes left."""
    folder = tmp_path / "cache"
    shutil.copytree(finished[0].parent.parent / "cache", folder)
    monkeypatch.setenv("ZOO_CACHE", str(folder))
    monkeypatch.delenv("ZOO_OFFLINE")
    weights = folder / "weights"
    weights.mkdir(exist_ok=True)
    known = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_96_no_top.h5"
    for name in (known, "unknown.h5"):
        (weights / name).write_bytes(b"weights")
        (weights / f"{name}.sha256").write_text("0  x\n")
    (weights / "by hand.h5").write_bytes(b"mine")
    (weights / ".downloads").mkdir(exist_ok=True)
    (weights / ".downloads" / "part.h5").write_bytes(b"part")
    (weights / ".downloads" / "part.h5.json").write_text("{}")
    (folder / "pixels" / "holiday").mkdir()
    (folder / "notes.txt").write_text("mine")
    for name, age in ((".partial-old", 2 * 3600), (".partial-new", 0)):
        (folder / "pixels" / name).mkdir()
        os.utime(folder / "pixels" / name, (time.time() - age,) * 2)
    return folder


def entries(zoo) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for each in json.loads(zoo("cache", "--json").out)["entries"]:
        found.setdefault(each["kind"], []).append(each)
    return found


FOREIGN = ("notes.txt", "pixels/holiday", "weights/by hand.h5", "pixels/.partial-new")


def test_the_list_names_what_is_kept(zoo, cache):
    listed = entries(zoo)
    assert listed["pictures"][0]["about"].startswith("photos: 72 pictures, 32x32 (")
    assert {each["about"].partition(":")[0] for each in listed.get("features", ())} <= {"photos"}
    about = {Path(each["path"]).name: each for each in listed["weights"]}
    assert set(about) == {"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_96_no_top.h5", "unknown.h5"}
    assert "no installed plugin" in about["unknown.h5"]["loss"]
    assert "mobilenetv2_035.imagenet1k" in next(each["about"] for each in about.values() if not each["loss"])
    assert [Path(each["path"]).name for each in listed["leftovers"]] == [".partial-old"]
    ran = zoo("cache")
    for text in ("of at most 8.6 GB", "notes.txt (zoo did not make it)", "by hand.h5 (put there by hand"):
        assert text in ran.out
    pixels = next((cache / "pixels").glob("*/pixels.npy"))
    assert listed["pictures"][0]["bytes"] >= pixels.stat().st_size * 0.5


def test_prune_all_keeps_what_zoo_did_not_make(zoo, cache):
    ran = zoo("cache", "prune", "--all")
    assert ran.code == 2 and "Add --yes" in ran.err and "zoo cannot download it again" in ran.out
    before = sorted(cache.rglob("*"))
    ran = zoo("cache", "prune", "--all", "--dry-run")
    assert ran.code == 0 and "Nothing was removed." in ran.out and sorted(cache.rglob("*")) == before
    ran = zoo("cache", "prune", "--all", "--yes")
    assert ran.code == 0 and entries(zoo) == {}
    assert all((cache / name).exists() for name in FOREIGN)
    assert not list((cache / "pixels").glob("*/pixels.npy")) and not (cache / "pixels" / ".partial-old").exists()
    assert not (cache / "weights" / ".downloads" / "part.h5.json").exists()
    # The next download is compared with the record.
    assert (cache / "weights" / "unknown.h5.sha256").exists()


def test_prune_removes_what_was_not_used_for_long(zoo, cache):
    kinds = set(entries(zoo))
    assert zoo("cache", "prune", "--yes").code == 0
    assert set(entries(zoo)) == kinds - {"leftovers"}
    for path in (*(cache / "pixels").iterdir(), *(cache / "weights").iterdir()):
        os.utime(path, (time.time() - 31 * DAY,) * 2)
    assert zoo("cache", "prune", "--older-than", "32d", "--yes").code == 0 and "pictures" in entries(zoo)
    assert zoo("cache", "prune", "--yes").code == 0
    assert set(entries(zoo)) == kinds - {"leftovers", "pictures"} and "weights" in entries(zoo)
    assert zoo("cache", "prune", "--weights", "--older-than", "4w", "--yes").code == 0
    assert "weights" not in entries(zoo) and "downloads" in entries(zoo)
    ran = zoo("cache", "prune", "--older-than", "soon")
    assert ran.code == 2 and "such as 30d, 12h or 2w. Received: 'soon'" in ran.err


HOLDER = """
import sys
from pathlib import Path
from zoo import files

class User: pass
user = User()
files.mark_used(Path(sys.argv[1]), user)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows does not remove open files")
def test_prune_keeps_what_a_process_uses_until_it_is_killed(zoo, cache):
    (used,) = [path.parent for path in (cache / "pixels").glob("*/pixels.npy")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLDER, used], **pipes) as process:
        assert process.stdout.readline() == b"held\n"
        ran = zoo("cache", "prune", "--all", "--yes")
        assert ran.code == 0 and "In use, so that they stay: 1" in ran.out and (used / "pixels.npy").is_file()
        assert [each["in_use"] for each in entries(zoo)["pictures"]] == [True]
        process.kill()
    assert zoo("cache", "prune", "--pictures", "--yes").code == 0 and not used.exists()


def test_a_cache_that_does_not_exist_or_is_a_link(zoo, cache, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "link"))
    ran = zoo("cache")
    assert ran.code == 0 and "does not exist yet" in ran.out and "0 bytes in use" in ran.out
    assert "nothing to remove" in zoo("cache", "prune", "--all", "--yes").out
    (tmp_path / "link").symlink_to(cache)
    assert f"link -> {cache}" in zoo("cache").out
    assert zoo("cache", "prune", "--all", "--yes").code == 0
    assert (tmp_path / "link").is_symlink() and (cache / "notes.txt").is_file() and entries(zoo) == {}


def test_what_cannot_be_removed_is_named(zoo, cache, monkeypatch):
    monkeypatch.setattr(files, "evict", lambda path: None)
    ran = zoo("cache", "prune", "--pictures", "--yes")
    assert ran.code == 1 and "was not removed" in ran.err and "pictures" in entries(zoo)
