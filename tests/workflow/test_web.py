"""`zoo export --web`: what the folder holds, what it replaces, and where onnxruntime-web comes from."""

from __future__ import annotations

import errno
import hashlib
import http.server
import json
import os
import re
import shutil
import sys
import threading
from pathlib import Path

import pytest

from zoo.export import ort_web, web_page
from zoo.pretrained import download
from zoo_runtime import ImageSpec, Predictor

sys.path.insert(0, str(Path(__file__).parent.parent / "export"))
from tiny_export import fake_package, packed, tiny_export

TRUST = {
    "unknown": {"threshold": 0.6},
    "outliers": {"threshold": 0.4},
    "sets": {"0.9": 0.2, "0.95": 0.1},
}
CLASSES = ("</title><script>alert(1)</script>", "b & c", "blau")


@pytest.fixture
def model(tmp_path) -> Path:
    path = tmp_path / "colors" / "model.onnx"
    path.parent.mkdir()
    path.write_bytes(tiny_export(CLASSES, ImageSpec((24, 32), levels=12), trust=TRUST))
    return path


@pytest.fixture
def package(tmp_path) -> Path:
    return fake_package(tmp_path / "npm")


@pytest.fixture
def export(zoo, model, package, tmp_path):
    """Return a function that writes the page with more options, and returns the result of the command."""

    def run(*options: object, what: object = None, web: object = tmp_path / "page"):
        return zoo("export", what or model.parent, "--web", web, "--ort-web", package, *options)

    return run


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_page_has_the_file_itself_and_everything_that_it_needs(export, model, package, tmp_path):
    done = export("--name", "Farben <b>")
    assert done.code == 0, done.err
    assert "Page " in done.out and "python -m http.server --directory" in done.out
    page = content(tmp_path / "page")
    assert page["model.onnx"] == model.read_bytes()
    for name in ort_web.NAMES:
        assert page[f"ort/{name}"] == (package / "dist" / name).read_bytes()
    assert b"MIT License" in page["ort/LICENSE"] and b"Copyright (c) Microsoft" in page["ort/LICENSE"]
    assert b"Farben &lt;b&gt;" in page["index.html"] and b"<b>" not in page["index.html"]
    assert b"{title}" not in page["index.html"] and b"{version}" not in page["index.html"]
    described = json.loads(page["model.json"])
    info = Predictor(model).info
    assert described["classes"] == list(info.classes) and described["task"] == info.task
    assert described["image"] == info.image.to_json() and described["image"]["levels"] == 12
    assert described["trust"] == {"unknown_below": 0.6, "outlier_above": 0.4, "sets": {"0.9": 0.2, "0.95": 0.1}}
    assert described["bytes"] == {"engine": len(page[f"ort/{ort_web.NAMES[2]}"]), "model": len(page["model.onnx"])}


def test_every_reference_stays_inside_the_folder(export, tmp_path):
    export()
    page = content(tmp_path / "page")
    ours = {name: data.decode() for name, data in page.items() if not name.startswith("ort/") and name != "model.onnx"}
    for text in ours.values():
        # These two are names, not addresses.
        text = re.sub(r"http://(www\.w3\.org|ns\.adobe\.com)/", "", text)
        assert re.findall(r"(?:https?:)?//[\w.]+\.\w+/", text) == []
    named = set(re.findall(r'(?:href|src)="([^"#]+)"', ours["index.html"]))
    named |= {each for text in ours.values() for each in re.findall(r'(?:from|import\() ?"\./([^"]+)"', text)}
    named |= {
        each for text in ours.values() for each in re.findall(r'(?:Worker|here|register|fetched)\("([^"]+)"', text)
    }
    assert len(named) >= 12 and named <= set(page)


def test_the_service_worker_knows_the_digest_of_every_file_and_a_new_export_has_a_new_version(export, model, tmp_path):
    def worker() -> dict:
        text = (tmp_path / "page" / "sw.js").read_text()
        return json.loads(re.match(r"const EXPORT = (\{.*?\n\});", text, re.S)[1])

    export()
    first, page = worker(), content(tmp_path / "page")
    assert set(first["files"]) == set(page) - {"sw.js", "zoo-page.json"}
    assert first["files"] == {name: hashlib.sha256(page[name]).hexdigest() for name in first["files"]}
    assert f'content="{first["version"]}"'.encode() in page["index.html"]
    assert export().code == 0 and worker() == first
    model.write_bytes(tiny_export(CLASSES, ImageSpec((24, 32))))
    assert export().code == 0
    second = worker()
    assert second["version"] != first["version"]
    assert (tmp_path / "page" / "model.onnx").read_bytes() == model.read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_folder_of_somebody_else_is_not_touched(export, tmp_path):
    folder = tmp_path / "page"
    folder.mkdir()
    assert export().code == 0  # an empty folder is taken
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    for options in ((), ("--replace",)):
        done = export(*options, web=other)
        assert done.code == 2 and "thesis.txt" in done.err and "zoo did not write it" in done.err
    assert content(other) == {"thesis.txt": b"years of work"}
    file = tmp_path / "file"
    file.write_text("x")
    assert export(web=file).code == 2 and file.read_text() == "x"


def test_files_that_were_added_or_changed_are_not_lost(export, model, tmp_path):
    export()
    folder = tmp_path / "page"
    (folder / "CNAME").write_text("flowers.example")
    for options in ((), ("--replace",)):
        done = export(*options)
        assert done.code == 2 and "CNAME" in done.err and "would be lost" in done.err
    (folder / "CNAME").unlink()
    (folder / "style.css").write_text("body { color: red }")
    done = export()
    assert done.code == 2 and "style.css" in done.err and "--replace" in done.err
    assert (folder / "style.css").read_text() == "body { color: red }"
    assert export("--replace").code == 0
    assert (folder / "style.css").read_bytes() == (web_page.SOURCES / "style.css").read_bytes()
    model.write_bytes(tiny_export(("one", "two"), ImageSpec((24, 32))))
    done = export()
    assert done.code == 2 and "other classes" in done.err
    assert export("--replace").code == 0
    assert json.loads((folder / "model.json").read_text())["classes"] == ["one", "two"]


def test_links_and_empty_folders_are_not_lost(export, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    export()
    folder = tmp_path / "page"
    (folder / "pictures").symlink_to(elsewhere)
    (folder / "uploads" / "new").mkdir(parents=True)
    for options in ((), ("--replace",)):
        done = export(*options)
        assert done.code == 2 and "would be lost: pictures, uploads/new/." in done.err
    (folder / "pictures").unlink()
    shutil.rmtree(folder / "uploads")
    (folder / "style.css").rename(elsewhere / "style.css")
    (folder / "style.css").symlink_to(elsewhere / "style.css")
    done = export("--replace")
    assert done.code == 2 and "would be lost: style.css." in done.err and (folder / "style.css").is_symlink()
    other = tmp_path / "other"
    (other / "empty").mkdir(parents=True)
    done = export("--replace", web=other)
    assert done.code == 2 and "zoo did not write it: empty/." in done.err and (other / "empty").is_dir()


def test_the_current_folder_is_not_replaced(export, tmp_path, monkeypatch):
    export()
    monkeypatch.chdir(tmp_path / "page")
    done = export(web=".")
    assert done.code == 2 and "current one" in done.err


@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_a_write_that_fails_leaves_the_earlier_page(export, model, tmp_path, monkeypatch, step):
    export()
    before = content(tmp_path / "page")
    model.write_bytes(tiny_export(CLASSES, ImageSpec((8, 8))))
    real, calls = getattr(os, step), []

    def fail(*arguments):
        calls.append(arguments)
        if step == "fsync" or len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(os, step, fail)
    done = export()
    assert done.code == 1 and "No space left on device" in done.err
    assert content(tmp_path / "page") == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_mounted_folder_is_named_as_such(export, tmp_path, monkeypatch):
    (tmp_path / "page").mkdir()

    def fail(*arguments):
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(os, "rename", fail)
    done = export()
    assert done.code == 1 and "is mounted there: name a folder in it" in done.err


def test_a_run_gives_the_page_of_its_exported_file_and_is_not_exported_again(finished, zoo, package, tmp_path):
    run, exported, _ = finished
    before = {path: path.stat().st_mtime_ns for path in [*run.rglob("*"), *exported.rglob("*")]}
    done = zoo("export", run, "--web", tmp_path / "page", "--ort-web", package, "--exported", exported)
    assert done.code == 0, done.err
    assert (tmp_path / "page" / "model.onnx").read_bytes() == (run / "model.onnx").read_bytes()
    assert "<title>shapes</title>" in (tmp_path / "page" / "index.html").read_text()
    assert {path: path.stat().st_mtime_ns for path in [*run.rglob("*"), *exported.rglob("*")]} == before
    named = zoo("export", "shapes", "--web", tmp_path / "again", "--ort-web", package, "--exported", exported)
    assert named.code == 0 and content(tmp_path / "again") == content(tmp_path / "page")


def test_options_that_do_not_go_together(zoo, model, tmp_path):
    done = zoo("export", model, "--ort-web", tmp_path)
    assert done.code == 2 and "--ort-web goes with --web" in done.err
    done = zoo("export", model, "--web", tmp_path / "page", "--int8", "--fp16")
    assert done.code == 2 and "one of --int8 and --fp16" in done.err
    assert not (tmp_path / "page").exists()


def test_what_is_no_exported_file_makes_no_page(export, tmp_path):
    other = tmp_path / "model.keras"
    other.write_bytes(b"PK\x03\x04 not ONNX")
    done = export(what=other)
    assert done.code == 1 and "model.keras" in done.err and "not an exported file" in done.err
    done = export(what="nothing")
    assert done.code == 2 and "there is no run 'nothing'" in done.err
    assert not (tmp_path / "page").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "missing.tgz", "nothing is there"),
        (lambda folder: fake_package(folder / "short", leave_out=ort_web.NAMES[2]), ort_web.NAMES[2]),
        (lambda folder: folder, "no package.json"),
        (lambda folder: write(folder / "x.tgz", b"<!doctype html>"), "not the npm package"),
        (lambda folder: write(folder / "y.tgz", packed(fake_package(folder / "z"))[:200]), "not the npm package"),
        (lambda folder: renamed(fake_package(folder / "other")), "names 'left-pad'"),
    ],
)
def test_an_npm_package_that_is_not_the_right_one(zoo, model, tmp_path, make, message):
    folder = tmp_path / "given"
    folder.mkdir()
    done = zoo("export", model, "--web", tmp_path / "page", "--ort-web", make(folder))
    assert done.code == 2 and message in done.err and "npm pack onnxruntime-web@" in done.err
    assert not (tmp_path / "page").exists()


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def renamed(package: Path) -> Path:
    (package / "package.json").write_text('{"name": "left-pad", "version": "1.0.0"}')
    return package


def test_a_packed_package_and_another_version(zoo, model, tmp_path):
    path = write(tmp_path / "new.tgz", packed(fake_package(tmp_path / "new", version="9.9.9")))
    done = zoo("export", model, "--web", tmp_path / "page", "--ort-web", path)
    assert done.code == 0 and "9.9.9" in done.err and f"tested with {ort_web.VERSION}" in done.err
    assert json.loads((tmp_path / "page" / "zoo-page.json").read_text())["onnxruntime-web"] == "9.9.9"


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """Serve a small package as the npm registry does. Yield the list of requests, and a dictionary of settings."""
    data = packed(fake_package(tmp_path / "published"))
    monkeypatch.setattr(ort_web, "SHA512", hashlib.sha512(data).hexdigest())
    monkeypatch.setattr(ort_web, "BYTES", len(data))
    state = {"requests": [], "data": data}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            state["requests"].append(f"{self.command} {self.path}")
            self.send_response(200)
            self.send_header("Content-Length", str(len(state["data"])))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(state["data"])

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    for name in [name for name in os.environ if name.lower().startswith("npm_config_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("ZOO_OFFLINE")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(download, "WAITS", (0.0,))
    state["url"] = f"http://127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("setting", ["variable", "file"])
def test_the_package_is_downloaded_once_from_the_registry_that_npm_names(
    zoo, model, npm, tmp_path, monkeypatch, setting
):
    if setting == "variable":
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", npm["url"] + "/")
    else:
        (tmp_path / ".npmrc").write_text(f"fund=false\nregistry = {npm['url']}\n")
    for _ in range(2):
        done = zoo("export", model, "--web", tmp_path / "page")
        assert done.code == 0, done.err
    assert npm["requests"].count(f"GET /onnxruntime-web/-/onnxruntime-web-{ort_web.VERSION}.tgz") == 1
    assert (tmp_path / "page" / "ort" / ort_web.NAMES[0]).read_bytes() == f"content of {ort_web.NAMES[0]}".encode()
    listed = zoo("cache")
    assert "onnxruntime-web, for pages" in listed.out and "unknown weights" not in listed.out


def test_another_file_than_the_published_one_is_refused(zoo, model, npm, tmp_path, monkeypatch):
    monkeypatch.setenv("npm_config_registry", npm["url"])
    npm["data"] = packed(fake_package(tmp_path / "altered", version="6.6.6"))
    done = zoo("export", model, "--web", tmp_path / "page")
    assert done.code == 1 and "sha512" in done.err and "--ort-web" in done.err
    assert not (tmp_path / "page").exists()


def test_without_the_network_the_message_says_what_to_do(zoo, model, tmp_path, monkeypatch):
    done = zoo("export", model, "--web", tmp_path / "page")
    assert done.code == 1 and "ZOO_OFFLINE" in done.err
    assert f"npm pack onnxruntime-web@{ort_web.VERSION}" in done.err and "--ort-web onnxruntime-web-" in done.err
    monkeypatch.setenv("npm_config_registry", "registry.example")
    done = zoo("export", model, "--web", tmp_path / "page")
    assert done.code == 2 and "begins with https://" in done.err
    assert not (tmp_path / "page").exists()
