"""Weights from Python packages, hubs and folders: where they are found, how they are downloaded, what is said."""

from __future__ import annotations

import dataclasses
import json

import pytest
from weights_server import entry, find, place, sha256, store, stored

from zoo import files
from zoo.errors import HashMismatch, InvalidPluginData, WeightsUnavailable
from zoo.plugin.origins import parse
from zoo.pretrained import fetch, places, select
from zoo.reporter import Reporter

pytestmark = pytest.mark.usefixtures("online")

OWL = b"\x80\x02owl"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed Python package with two weights files; importing it would fail."""
    site = tmp_path / "site"
    place(site / "owl_weights" / "models", "owl-57934424.pth", OWL)
    place(site / "owl_weights", "__init__.py", b"raise ImportError('imported')")
    place(site / "owl_weights-1.2.dist-info", "METADATA", b"Metadata-Version: 2.1\nName: owl-weights\nVersion: 1.2\n")
    place(site / "owl_weights-1.2.dist-info", "top_level.txt", b"owl_weights\n")
    monkeypatch.syspath_prepend(str(site))
    return site / "owl_weights" / "models"


@pytest.mark.parametrize("name", ["owl_weights/models", "owl-weights/owl_weights/models"])
def test_a_file_in_a_package_by_its_module_or_its_distribution(package, name):
    wanted = entry(f"package:{name}/owl-*.pth", "owl.pth", hash=f"sha256:{sha256(OWL)}")
    found = find(wanted)
    assert (found.path, found.place) == (package / "owl-57934424.pth", "package")
    record = select.describe(found)
    assert record["origin"] == wanted.url and record["url"] is None and record["package"] == "owl-weights 1.2"
    assert entry(f"package:{name}/owl-57934424.pth", "").filename == "owl-57934424.pth"
    place(package, "owl-57934425.pth", b"")
    with pytest.raises(
        WeightsUnavailable, match=r"must be one file, and 2 match \(owl-57934424\.pth, owl-57934425\.pth\)"
    ):
        find(wanted)


def test_a_file_in_a_package_has_its_hash_and_gives_way_to_the_mirror(package, tmp_path, monkeypatch):
    wanted = entry("package:owl_weights/models/owl-*.pth", "owl.pth", hash=f"sha256:{'0' * 64}")
    with pytest.raises(HashMismatch, match="but 0000000"):
        find(wanted)
    monkeypatch.setenv("ZOO_WEIGHTS_DIR", str(tmp_path / "mirror"))
    place(tmp_path / "mirror", "owl.pth", b"mirrored")
    assert find(entry(wanted.url, "owl.pth")).place == "mirror"


def test_a_package_that_is_not_installed_is_named_with_the_command(package):
    absent = entry("package:no_such_owls/w.pth")
    with pytest.raises(WeightsUnavailable, match="the Python package no_such_owls is not installed"):
        find(absent)
    assert fetch.advice(absent).startswith("Type `pip install no-such-owls`, or put w.h5 into a folder")
    with pytest.raises(WeightsUnavailable, match="owl_weights is installed, but it has no file models/other"):
        find(entry("package:owl_weights/models/other.pth"))
    assert fetch.waiting_label(absent, "weights") == "checking weights"


def test_a_folder(tmp_path, monkeypatch):
    path = place(tmp_path / "mine", "owl-1.h5", b"x")
    found = find(entry(f"file:{path.parent}/owl-*.h5", "owl.h5"))
    assert (found.path, found.place) == (path, "folder")
    record = select.describe(found)
    assert record["origin"] == "file:owl.h5" and str(tmp_path) not in json.dumps(record), "no path of this computer"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find(entry("file:~/mine/owl-1.h5", "")).path == path
    with pytest.raises(WeightsUnavailable, match="does not exist, or it cannot be read"):
        find(entry("file:///nowhere/w.h5"))


# --- hubs ------------------------------------------------------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_file_of_hugging_face_is_downloaded_with_a_token(monkeypatch, tmp_path, server, hdf5):
    heard = []

    def answer(handler):
        heard.append(handler.headers.get("Authorization"))
        handler.send_response(200 if heard[-1] == "Bearer hf_secret" or handler.command == "HEAD" else 401)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(data)

    data = hdf5()
    server.answers[f"/owls/net/resolve/{COMMIT}/sub/model.h5"] = answer
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    wanted = entry(f"hf:owls/net/sub/model.h5@{COMMIT}", "")
    assert wanted.filename == "owls--net--0123456789ab--sub--model.h5"
    with pytest.raises(WeightsUnavailable, match=r"answers 401 .*accept its terms on its page, and let HF_TOKEN hold"):
        find(wanted)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    found = find(wanted)
    assert (found.place, found.path) == ("download", store() / wanted.filename)
    record = select.describe(found)
    assert record["url"] == f"https://huggingface.co/owls/net/resolve/{COMMIT}/sub/model.h5"
    assert record["origin"] == wanted.url and "hf_secret" not in json.dumps(record)
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text("hf_other\n")
    monkeypatch.delenv("HF_TOKEN")
    assert places.download_of(wanted).headers == {"Authorization": "Bearer hf_other"}
    assert find(wanted).place == "cache"


def test_a_token_is_not_sent_on_to_another_server(monkeypatch, tmp_path, server, hdf5):
    data, heard = hdf5(), {}

    def redirect(handler):
        handler.send_response(302)
        handler.send_header("Location", server.url.replace("127.0.0.1", "localhost") + "/cdn")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    def cdn(handler):
        heard[handler.command] = handler.headers.get("Authorization")
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(data)

    server.answers |= {"/owls/net/resolve/main/model.h5": redirect, "/cdn": cdn}
    monkeypatch.setenv("HF_ENDPOINT", server.url + "/")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert find(entry("hf:owls/net/model.h5@main", "")).place == "download"
    assert heard["GET"] is None


def test_the_local_cache_of_hugging_face_is_read(monkeypatch, tmp_path, server):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    repository = tmp_path / "hf" / "hub" / "models--owls--net"
    path = place(repository / "snapshots" / COMMIT, "model.safetensors", b"x")
    for revision in (COMMIT, "main"):
        wanted = entry(f"hf:owls/net/model.safetensors@{revision}", "")
        if revision == "main":
            assert fetch.find_local(wanted) is None
            place(repository / "refs", "main", COMMIT.encode())
        found = find(wanted)
        assert (found.path, found.place) == (path, "Hugging Face's cache")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "elsewhere"))
    assert fetch.find_local(wanted) is None
    assert server.requests == [] and stored() == []


def test_a_preset_of_keras_hub_has_an_address_and_a_cache(monkeypatch, tmp_path):
    wanted = entry("keras-hub:keras/resnetv1/keras/resnet_50_imagenet/2", "")
    assert wanted.filename == "keras--resnetv1--keras--resnet_50_imagenet--2--model.weights.h5"
    address = "https://www.kaggle.com/api/v1/models/keras/resnetv1/keras/resnet_50_imagenet/2/download/model.weights.h5"
    assert places.download_of(wanted).address == address and address in fetch.advice(wanted)
    assert parse(wanted.url.replace("hub:", "hub:kaggle://")) == wanted.origin
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    path = place(tmp_path / "models/keras/resnetv1/keras/resnet_50_imagenet/2", "model.weights.h5", b"x")
    assert fetch.find_local(wanted) == (path, "Kaggle's cache")


def test_without_a_network_the_messages_are_those_of_addresses(monkeypatch):
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    with pytest.raises(
        WeightsUnavailable, match=r"net--main--w\.h5 is not available locally, and ZOO_OFFLINE=1 forbids"
    ):
        find(entry("hf:owls/net/w.h5@main", ""))
    assert not (files.cache() / "weights").exists()


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://x/w.h5", "w.h5", "/w.h5", "package:owls", "package:owls/../w.h5", "package:owls/a/../../w.h5"),
        *("package:ow ls/w.h5", "package:owls/*/w.h5", "package:owls//w.h5", "package:../w.h5", "package:owls/\0.h5"),
        *(
            "hf:owls/net/w.h5",
            "hf:owls/w.h5@main",
            "hf:owls/net/../w.h5@main",
            "hf:owls/net/w.h5@../x",
            "hf:o/n/*.h5@main",
        ),
        *("hf:owls/net/w.h5@a b", "keras-hub:resnet_50_imagenet", "keras-hub:keras/a/keras/b/latest"),
        *("keras-hub:keras/a/keras/../2", "file:w.h5", "file:../w.h5", "file:/owls/*/w.h5", "file:/owls/"),
    ],
)
def test_origins_that_lead_elsewhere_are_refused(url):
    with pytest.raises(InvalidPluginData, match=r"url must be|has the form"):
        entry(url)


def test_an_origin_with_a_star_needs_a_name():
    with pytest.raises(InvalidPluginData, match="filename must be given"):
        entry("package:owls/w-*.h5", "")
    assert entry("https://example.org/a/w.h5?download=true", "").filename == "w.h5"


# --- what weights say ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("licence", "commercial_use", "forbidden"),
    [
        *(("MIT", None, False), ("CC-BY-NC-4.0", None, True), ("CC-BY-NC-SA-2.0", None, True), ("NCSA", None, False)),
        *(("Non-Commercial licence of Owls", None, True), ("research use only", None, True), ("MIT", False, True)),
        ("CC-BY-NC-4.0 with an exception", True, False),
    ],
)
def test_licences_that_forbid_commerce_are_said_and_recorded(tmp_path, licence, commercial_use, forbidden):
    path = place(tmp_path, "w.h5", b"x")
    wanted = dataclasses.replace(entry(f"file:{path}"), licence=licence, commercial_use=commercial_use)
    found = find(wanted)
    warnings = select.say(found, Reporter())
    assert len(warnings) == forbidden and all("forbids commercial use" in text for text in warnings)
    assert select.describe(found).get("commercial_use") is (False if forbidden else None)


@pytest.mark.parametrize("origin", ["hf:owls/net/w.h5@main", "https://example.org/w.h5", "package:owls/w.h5"])
def test_an_origin_in_place_of_a_file_is_explained(zoo, origin):
    ran = zoo("finetune", "mnist_convnet", "--weights", origin)
    assert ran.code == 1 and "Weights from there need a plugin that describes them; docs/plugins.md" in ran.err


@pytest.mark.parametrize("url", ["https://me:secret@owls.org/w.h5", "https://", "http://[::1/w.h5", "https://x y/w.h5"])
def test_an_address_is_complete_and_holds_no_password(url):
    with pytest.raises(InvalidPluginData, match="a complete address without spaces, and without a user name"):
        entry(url)


@pytest.mark.parametrize("name", ["..", ".h5", "a\nb.h5", "\x1b[2J.h5", "a:b.h5", "a\\b.h5", "w" * 300, "../w.h5"])
def test_names_of_files_that_no_folder_should_hold_are_refused(name):
    with pytest.raises(InvalidPluginData, match="filename must be a file name"):
        entry(filename=name)


@pytest.mark.parametrize("token", ["hf_one\nhf_two", "hf secret", "hf_é"])
def test_a_token_that_cannot_be_sent_is_not_shown(monkeypatch, server, token):
    server.answers["/owls/net/resolve/main/w.h5"] = 401
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    with pytest.raises(WeightsUnavailable, match="answers 401") as caught:
        find(entry("hf:owls/net/w.h5@main", ""))
    assert token not in str(caught.value) and repr(token)[1:-1] not in str(caught.value)
    monkeypatch.setenv("HF_ENDPOINT", server.url.replace("//", "//me:secret@"))
    assert "secret" not in places.download_of(entry("hf:owls/net/w.h5@main", "")).address
