"""Weights files: the order of places, downloads from servers of all kinds, and the files that are refused."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator

import pytest
from weights_server import entry, find, place, sha256, store, stored, unfinished

from zoo import files
from zoo.errors import HashMismatch, WeightsUnavailable
from zoo.plugin import IMAGENET1K, ClassIndex
from zoo.pretrained import download, fetch, network

pytestmark = pytest.mark.usefixtures("online")

# --- places ----------------------------------------------------------------------------------------------------------


def test_mirror_before_cache_before_keras_before_the_network(tmp_path, monkeypatch, server, hdf5):
    data = hdf5()
    server.answers["/w.h5"] = data
    wanted = entry(f"{server.url}/w.h5")
    monkeypatch.setenv("ZOO_WEIGHTS_DIR", str(tmp_path / "mirror"))
    copies = [
        ("mirror", place(tmp_path / "mirror", "w.h5", b"mirror")),
        ("cache", place(store(), "w.h5", b"cache")),
        ("Keras's cache", place(files.keras_cache(), "w.h5", b"keras")),
    ]
    for where, path in copies:
        assert fetch.find_local(wanted) == (path, where)
        found = find(wanted)
        assert (found.path, found.place) == (path, where)
        assert found.sha256 == sha256(path.read_bytes())
        assert found.entry is found.wanted is wanted and found.reason == ""
        path.unlink()
    assert server.requests == []
    assert fetch.find_local(wanted) is None
    found = find(wanted)
    assert (found.path, found.place, found.sha256) == (store() / "w.h5", "download", sha256(data))
    assert found.path.read_bytes() == data
    assert find(wanted).place == "cache"
    assert server.requests.count("GET /w.h5") == 1


def test_places_come_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "c"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "k"))
    assert files.cache() == tmp_path / "c" and files.keras_cache() == tmp_path / "k" / "models"
    assert files.mirror() is None
    monkeypatch.setenv("ZOO_WEIGHTS_DIR", "~/mirror")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.mirror() == tmp_path / "mirror"
    monkeypatch.delenv("ZOO_CACHE")
    monkeypatch.delenv("KERAS_HOME")
    assert files.cache().name == "zoo" and files.keras_cache() == tmp_path / ".keras" / "models"


def test_a_file_that_cannot_be_read_is_named(monkeypatch, tmp_path):
    path = place(store(), "w.h5", b"x")

    def refuse(*_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(fetch, "digest_of", refuse)
    with pytest.raises(WeightsUnavailable, match=r"w\.h5' cannot be read: Permission denied"):
        find(entry())


# --- without a network -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["1", "yes", "true"])
def test_offline_makes_no_connection_at_all(monkeypatch, server, hdf5, value):
    """Not even the name of the server is looked up."""
    server.answers["/w.h5"] = hdf5()
    touched = []

    def trap(*arguments, **_):
        touched.append(arguments)
        raise OSError("no network here")

    for name in ("socket", "create_connection", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, trap)
    monkeypatch.setenv("ZOO_OFFLINE", value)
    with pytest.raises(
        WeightsUnavailable, match=r"w\.h5 is not available locally, and ZOO_OFFLINE=1 forbids downloads"
    ):
        find(entry(f"{server.url}/w.h5"), entry("http://example.invalid/o.h5", "o.h5", 160))
    with pytest.raises(WeightsUnavailable):
        fetch.find_file(IMAGENET1K)
    assert touched == [] and server.requests == []
    monkeypatch.delenv("ZOO_OFFLINE")
    with pytest.raises(WeightsUnavailable):
        find(entry(f"{server.url}/w.h5"))
    assert touched


@pytest.mark.parametrize("value", ["", "0", "false", "no"])
def test_values_of_zoo_offline_that_mean_no(monkeypatch, value):
    monkeypatch.setenv("ZOO_OFFLINE", value)
    assert not files.offline()


def test_a_port_on_which_no_server_listens(hdf5):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        started = time.monotonic()
        with pytest.raises(WeightsUnavailable, match=r"/w\.h5 cannot be reached: .*refused"):
            find(entry(f"http://127.0.0.1:{unused.getsockname()[1]}/w.h5"))
    assert time.monotonic() - started < 1 and stored() == []


def test_a_name_that_does_not_resolve(monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(WeightsUnavailable, match=r"cannot be reached: .*Name or service not known"):
        find(entry("http://weights.example/w.h5"))


def test_a_name_server_that_never_answers(monkeypatch):
    """No timeout of a socket covers the lookup of a name."""
    monkeypatch.setattr(network, "CONNECT_SECONDS", 0.3)
    released = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: released.wait(20))
    started = time.monotonic()
    with pytest.raises(WeightsUnavailable, match=r"no answer within 0\.3 s"):
        find(entry("http://weights.example/w.h5"))
    assert time.monotonic() - started < 2
    released.set()


@contextlib.contextmanager
def silent_server(backlog: int = 5) -> Iterator[int]:
    """Provide a port on which the system accepts connections that are never answered."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(backlog)
        yield listener.getsockname()[1]


def test_a_server_that_accepts_and_never_answers(monkeypatch):
    assert network.CONNECT_SECONDS == 5
    monkeypatch.setattr(network, "CONNECT_SECONDS", 0.4)
    with silent_server() as port:
        started = time.monotonic()
        with pytest.raises(WeightsUnavailable, match=r"no answer within|timed out"):
            find(entry(f"http://127.0.0.1:{port}/w.h5"))
        assert 0.3 < time.monotonic() - started < 2
    assert stored() == []


def test_addresses_that_do_not_respond_do_not_hide_the_one_that_works(monkeypatch, server, hdf5):
    """This happens where IPv6 is announced but dropped: each connection to it hangs until the timeout."""
    server.answers["/w.h5"] = hdf5()
    monkeypatch.setattr(network, "CONNECT_SECONDS", 2)
    monkeypatch.setattr(network, "IMPATIENT_SECONDS", 0.2)
    with silent_server(backlog=0) as dead, contextlib.ExitStack() as stack:
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", dead))
        with socket.socket() as probe:
            probe.settimeout(0.1)
            if probe.connect_ex(("127.0.0.1", dead)) == 0:
                pytest.skip("a full backlog does not make connections hang on this system")
        live = int(server.url.rpartition(":")[2])
        answers = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in (dead, dead, dead, live)
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)
        started = time.monotonic()
        assert network.unreachable(f"{server.url}/w.h5") == ""
        assert time.monotonic() - started < 1.8


# --- downloads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_a_download_with_a_published_hash(server, hdf5, algorithm):
    data = hdf5()
    server.answers["/w.h5"] = data
    known = f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
    heard = []
    found = find(entry(f"{server.url}/w.h5", hash=known), progress=lambda done, total: heard.append((done, total)))
    assert found.path.read_bytes() == data and found.sha256 == sha256(data)
    assert heard[-1] == (len(data), len(data)) and all(total == len(data) for _, total in heard)
    assert stored() == ["w.h5", "w.h5.sha256"]


def test_a_download_follows_redirects(server, hdf5):
    data = hdf5()
    server.answers["/real.h5"] = data

    def elsewhere(handler) -> None:
        handler.send_response(302)
        handler.send_header("Location", "/real.h5")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    server.answers["/w.h5"] = elsewhere
    assert find(entry(f"{server.url}/w.h5")).path.read_bytes() == data


def test_others_may_read_what_is_downloaded(server, hdf5):
    """Several users may share a cache."""
    server.answers["/w.h5"] = hdf5()
    found = find(entry(f"{server.url}/w.h5"))
    usual = place(store(), "usual", b"")
    assert stat.S_IMODE(found.path.stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)


HTML = b"<!DOCTYPE html><title>Welcome to the Grand Hotel</title>" + b" " * 30000


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cut", "failed: .*IncompleteRead|failed: .*(broken|closed)"),
        ("cut without length", "not a complete HDF5 file .*truncated"),
        ("html", "not a complete HDF5 file"),
        ("empty", "not a complete HDF5 file"),
        (404, "404"),
        (403, "403"),
        (500, "500"),
        ("wrong hash", "hash"),
        ("wrong length", r"the server sent \d+ bytes instead of 12345"),
    ],
)
def test_servers_that_do_not_send_the_file(server, hdf5, kind, message):
    """No file is left, neither under the final name nor under another."""
    data = hdf5()

    def cut(handler) -> None:
        handler.send_response(200)
        if kind == "cut":
            handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(data[: len(data) // 2])

    answers = {"html": HTML, "empty": b"", "wrong hash": hdf5(1), "cut": cut, "cut without length": cut}
    server.answers["/w.h5"] = kind if isinstance(kind, int) else answers.get(kind, data)
    facts = {"wrong hash": {"hash": f"sha256:{sha256(data)}"}, "wrong length": {"bytes": 12345}}
    with pytest.raises(WeightsUnavailable, match=message) as caught:
        find(entry(f"{server.url}/w.h5", **facts.get(kind, {})))
    assert f"downloading {server.url}/w.h5 failed" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert stored() == [] and unfinished() in ([], ["w.h5"])
    # A second attempt succeeds without any cleaning up.
    server.answers["/w.h5"] = data
    assert find(entry(f"{server.url}/w.h5")).place == "download"


def test_a_server_that_stops_in_the_middle(monkeypatch, server, hdf5):
    monkeypatch.setattr(download, "READ_SECONDS", 0.3)
    released = threading.Event()

    def stall(handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "50000")
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(hdf5()[:1000])
            released.wait(20)

    server.answers["/w.h5"] = stall
    started = time.monotonic()
    with pytest.raises(WeightsUnavailable, match=r"failed: .*timed out"):
        find(entry(f"{server.url}/w.h5"))
    assert time.monotonic() - started < 5 and stored() == []
    released.set()


def test_an_interrupted_download_leaves_nothing_if_it_cannot_be_continued(server, hdf5):
    """This server names no version of the file, and no hash is published."""
    server.answers["/w.h5"] = hdf5()

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find(entry(f"{server.url}/w.h5"), progress=interrupt)
    assert stored() == []
    assert find(entry(f"{server.url}/w.h5")).path.read_bytes() == hdf5()


def test_leftovers_of_a_killed_download_are_removed_after_an_hour(server, hdf5):
    server.answers["/w.h5"] = hdf5()
    old = place(store() / ".partial-1", "tmp123", b"x")
    for path in (old, old.parent):
        os.utime(path, (time.time() - 4000, time.time() - 4000))
    find(entry(f"{server.url}/w.h5"))
    assert stored() == ["w.h5", "w.h5.sha256"]


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path, server, hdf5):
    server.answers["/w.h5"] = hdf5()
    (tmp_path / "file").touch()
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "file"))
    with pytest.raises(WeightsUnavailable, match=r"failed: .*(Not a directory|File exists)"):
        find(entry(f"{server.url}/w.h5"))


def test_two_downloads_at_once(server, hdf5):
    data = hdf5()
    server.answers["/w.h5"] = data
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(find(entry(f"{server.url}/w.h5")).sha256)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [sha256(data)] * 4 and stored() == ["w.h5", "w.h5.sha256"]


# --- hashes ----------------------------------------------------------------------------------------------------------


def test_a_local_file_is_checked_against_the_published_hash(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_WEIGHTS_DIR", str(tmp_path / "mirror"))
    place(tmp_path / "mirror", "w.h5", b"another")
    with pytest.raises(HashMismatch, match=rf"w\.h5' has md5 {hashlib.md5(b'another').hexdigest()}, but 0+ was publ"):
        find(entry(hash="md5:" + "0" * 32))


def test_the_digest_is_recorded_at_the_first_download_and_checked_ever_after(server, hdf5):
    data = hdf5()
    server.answers["/w.h5"] = data
    wanted = entry(f"{server.url}/w.h5")
    find(wanted)
    # This is the format that `sha256sum -c` reads.
    assert (store() / "w.h5.sha256").read_text() == f"{sha256(data)}  w.h5\n"
    damaged = bytearray(data)
    damaged[5000] ^= 1
    place(store(), "w.h5", bytes(damaged))
    with pytest.raises(HashMismatch, match=r"recorded in 'w\.h5\.sha256' when it was first downloaded.*Move it away"):
        find(wanted)
    (store() / "w.h5").unlink()
    assert find(wanted).sha256 == sha256(data)


def test_another_file_at_a_later_download_is_refused(server, hdf5):
    server.answers["/w.h5"] = hdf5()
    wanted = entry(f"{server.url}/w.h5")
    find(wanted).path.unlink()
    server.answers["/w.h5"] = hdf5(1)
    with pytest.raises(WeightsUnavailable, match=r"an earlier download had.*remove '.*w\.h5\.sha256' if the publisher"):
        find(wanted)
    assert stored() == ["w.h5.sha256"]
    (store() / "w.h5.sha256").unlink()
    assert find(wanted).place == "download"


@pytest.mark.parametrize("record", ["", "\n", "\xff"])
def test_a_damaged_record_is_ignored(record):
    place(store(), "w.h5", b"x")
    place(store(), "w.h5.sha256", record.encode("latin-1"))
    assert find(entry()).sha256 == sha256(b"x")


# --- resolutions -----------------------------------------------------------------------------------------------------

SIDES = (96, 128, 160, 192, 224)


@pytest.mark.parametrize(
    ("size", "order"),
    [
        ((160, 160), [160, 192, 128, 224, 96]),
        ((224, 224), [224, 192, 160, 128, 96]),
        ((64, 64), [96, 128, 160, 192, 224]),
        ((500, 500), [224, 192, 160, 128, 96]),
        ((144, 144), [160, 128, 192, 96, 224]),
        ((100, 225), [160, 128, 192, 96, 224]),
    ],
)
def test_resolutions_are_sorted_by_distance_and_the_larger_of_two_comes_first(size, order):
    entries = [entry(filename=f"{side}.h5", size=side) for side in SIDES]
    assert [e.input_size[0] for e in fetch.by_fit(entries, size)] == order
    assert [e.input_size[0] for e in fetch.by_fit(entries[::-1], size)] == order


def test_the_nearest_local_resolution_is_used_if_the_best_is_not_available(server):
    entries = [entry(f"{server.url}/{side}.h5", f"{side}.h5", side) for side in SIDES]
    place(store(), "96.h5", b"96")
    place(store(), "224.h5", b"224")
    found = find(*entries, size=128)
    assert (found.entry, found.wanted) == (entries[0], entries[1])
    assert found.path.name == "96.h5" and found.place == "cache" and found.sha256 == sha256(b"96")
    assert "404" in found.reason and f"{server.url}/128.h5" in found.reason
    # 96 and 224 are equally far from 160, so the larger one is used.
    assert find(*entries, size=160).entry is entries[4]


def test_the_best_resolution_is_downloaded_although_another_is_local(server, hdf5):
    server.answers["/128.h5"] = hdf5()
    entries = [entry(f"{server.url}/{side}.h5", f"{side}.h5", side) for side in SIDES]
    place(store(), "96.h5", b"96")
    found = find(*entries, size=128)
    assert found.place == "download" and found.entry is found.wanted is entries[1]


def test_a_damaged_file_is_not_passed_over_for_another_resolution():
    entries = [entry(filename="160.h5", size=160, hash="md5:" + "0" * 32), entry(filename="128.h5", size=128)]
    place(store(), "160.h5", b"160")
    place(store(), "128.h5", b"128")
    with pytest.raises(HashMismatch):
        find(*entries, size=160)


# --- class names -----------------------------------------------------------------------------------------------------


def index(**others) -> ClassIndex:
    return ClassIndex(**{"url": "http://127.0.0.1:9/i.json", "filename": "i.json", **others})


def test_a_class_index_is_found_like_weights(server, tmp_path, monkeypatch):
    data = json.dumps({"1": ["n2", "goldfish"], "0": ["n1", "tench"]}).encode()
    server.answers["/i.json"] = data
    wanted = index(url=f"{server.url}/i.json", hash=f"md5:{hashlib.md5(data).hexdigest()}")
    path = fetch.find_file(wanted)
    assert path == store() / "i.json"
    assert fetch.read_class_index(path) == ["n1_tench", "n2_goldfish"]
    monkeypatch.setenv("ZOO_WEIGHTS_DIR", str(tmp_path / "mirror"))
    place(tmp_path / "mirror", "i.json", data)
    assert fetch.find_file(wanted).parent == tmp_path / "mirror"


def test_a_login_page_is_not_a_class_index(server):
    server.answers["/i.json"] = HTML
    with pytest.raises(WeightsUnavailable, match=r"downloading .* failed"):
        fetch.find_file(index(url=f"{server.url}/i.json"))
    assert stored() == []


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '[["a", "b"]]',
        '{"1": ["a", "b"]}',
        '{"0": "cat"}',
        '{"0": [1, 2]}',
        '{"0": null}',
        "\xff",
        "3",
    ],
)
def test_a_corrupt_class_index(tmp_path, content):
    path = place(tmp_path, "i.json", content.encode("latin-1"))
    with pytest.raises(HashMismatch, match=r"i\.json' is not a class index file.*Remove it"):
        fetch.read_class_index(path)


def test_the_label_says_downloading_only_once_bytes_arrive(monkeypatch):
    assert fetch.waiting_label(entry(), "weights") == "asking 127.0.0.1 for weights"
    assert fetch.waiting_label(index(), "class names") == "asking 127.0.0.1 for class names"
    place(store(), "w.h5", b"x")
    assert fetch.waiting_label(entry(), "weights") == "checking weights"
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    assert fetch.waiting_label(index(), "class names") == "checking class names"


def test_advice_names_address_and_folders():
    text = fetch.advice(entry("http://weights.example/w.h5"))
    assert "http://weights.example/w.h5" in text and "ZOO_WEIGHTS_DIR" in text and str(store()) in text
