"""Downloads that break off, are continued, tried again, killed or done twice at once, from servers of all kinds."""

from __future__ import annotations

import contextlib
import email.utils
import gzip
import hashlib
import random
import re
import signal
import subprocess
import sys
import threading
import time

import filelock
import pytest
from weights_server import entry, find, sha256, store, stored, unfinished

from zoo import files
from zoo.errors import WeightsUnavailable
from zoo.pretrained import download, fetch, network

pytestmark = pytest.mark.usefixtures("online")


class Ranged:
    """Answers as a server that can send a part of a file.

    Args:
        data: The file.
        cuts: For each GET in turn, after how many bytes the connection breaks off; None for not at all.
        headers: More headers, such as an ETag.
        ranges: Whether the server sends parts. If not, it ignores the header Range.
        pause: Seconds to wait before each kB.
    """

    def __init__(self, data, cuts=(), headers=None, ranges=True, pause=0.0):
        self.data, self.cuts, self.ranges, self.pause = data, list(cuts), ranges, pause
        self.headers = {"ETag": '"1"'} if headers is None else headers
        self.asked: list[tuple[str | None, str | None]] = []
        self.sent = 0

    def __call__(self, handler) -> None:
        asked, condition = handler.headers.get("Range"), handler.headers.get("If-Range")
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and self.ranges else 0
        if condition not in (None, self.headers.get("ETag"), self.headers.get("Last-Modified")):
            start = 0
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(self.data) - 1}/{len(self.data)}")
        handler.send_header("Content-Length", str(len(self.data) - start))
        for name, value in self.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command != "GET":
            return
        self.asked.append((asked, condition))
        cut = self.cuts.pop(0) if self.cuts else None
        body = self.data[start : len(self.data) if cut is None else start + cut]
        for at in range(0, len(body), 1000 if self.pause else len(body)):
            if self.pause:
                time.sleep(self.pause)
            handler.wfile.write(body[at : at + (1000 if self.pause else len(body))])
        self.sent += len(body)


class Interrupt(Exception):
    """Stands for Ctrl-C."""


def interrupted(wanted) -> int:
    """Interrupt a download soon after its begin. Return the number of bytes that have arrived."""
    heard = []

    def stop(done: int, total: int) -> None:
        heard.append(done)
        raise Interrupt

    with pytest.raises(Interrupt):
        find(wanted, progress=stop)
    assert stored() == []
    return heard[0]


# --- transfers that are continued ------------------------------------------------------------------------------------


def test_a_transfer_that_breaks_off_goes_on_where_it_was(server, hdf5):
    data, heard, said = hdf5(), [], []
    answer = server.answers["/w.h5"] = Ranged(data, [15_000, 10_000])
    found = find(entry(f"{server.url}/w.h5"), progress=lambda done, total: heard.append((done, total)), say=said.append)
    assert found.path.read_bytes() == data and answer.sent == len(data)
    assert answer.asked == [(None, None), ("bytes=15000-", '"1"'), ("bytes=25000-", '"1"')]
    assert heard == sorted(heard) and heard[-1] == (len(data), len(data))
    assert len(said) == 2 and "w.h5: the transfer broke off after 15 kB of 42 kB" in said[0]
    assert (stored(), unfinished()) == (["w.h5", "w.h5.sha256"], [])


@pytest.mark.parametrize("headers", [{"ETag": '"a"'}, {"Last-Modified": "Mon, 02 Nov 2026 10:00:00 GMT"}])
def test_an_interrupted_download_is_continued_later(server, hdf5, headers):
    data = hdf5()
    answer = server.answers["/w.h5"] = Ranged(data, headers=headers)
    got = interrupted(entry(f"{server.url}/w.h5"))
    assert unfinished() == ["w.h5", "w.h5.json"]
    assert find(entry(f"{server.url}/w.h5")).path.read_bytes() == data
    assert answer.asked == [(None, None), (f"bytes={got}-", next(iter(headers.values())))]


@pytest.mark.parametrize("kind", ["condition kept", "condition ignored", "another place", "shorter"])
def test_a_file_that_changed_on_the_server_is_taken_from_the_beginning(server, hdf5, kind):
    data = hdf5(1)
    server.answers["/w.h5"] = Ranged(hdf5())
    got = interrupted(entry(f"{server.url}/w.h5"))
    if kind == "condition kept":
        server.answers["/w.h5"] = Ranged(data, headers={"ETag": '"2"'})
    else:

        def answer(handler) -> None:
            place = {"condition ignored": f"{got}-{len(data) - 1}/{len(data)}", "another place": "5-9/42144"}
            asked = "Range" in handler.headers
            handler.send_response((416 if kind == "shorter" else 206) if asked else 200)
            if asked:
                handler.send_header("Content-Range", f"bytes {place.get(kind, '*/1000')}")
            body = b"wrong" if asked else data
            handler.send_header("Content-Length", str(len(body)))
            handler.send_header("ETag", '"2"')
            handler.end_headers()
            handler.wfile.write(body if handler.command == "GET" else b"")

        server.answers["/w.h5"] = answer
    assert find(entry(f"{server.url}/w.h5")).path.read_bytes() == data
    assert unfinished() == []


def test_a_server_that_sends_no_parts_starts_from_the_beginning(server, hdf5):
    data = hdf5()
    answer = server.answers["/w.h5"] = Ranged(data, [30_000], ranges=False)
    assert find(entry(f"{server.url}/w.h5")).path.read_bytes() == data
    assert len(answer.asked) == 2 and answer.sent == 30_000 + len(data)


def test_a_part_that_was_damaged_on_the_disk_does_not_spoil_the_file(server, hdf5):
    data = hdf5()
    answer = server.answers["/w.h5"] = Ranged(data)
    wanted = entry(f"{server.url}/w.h5", hash=f"sha256:{sha256(data)}")
    got = interrupted(wanted)
    part = store() / download.FOLDER / "w.h5"
    part.write_bytes(b"\0" * part.stat().st_size)
    assert find(wanted).path.read_bytes() == data
    assert [asked for asked, _ in answer.asked] == [None, f"bytes={got}-", None]


def test_a_whole_file_that_was_not_moved_is_used(server, hdf5):
    """A process was killed between the last byte and the move. The server has nothing more to send: 416."""
    data = hdf5()
    wanted = entry(f"{server.url}/w.h5", hash=f"sha256:{sha256(data)}")
    server.answers["/w.h5"] = Ranged(data)
    got = interrupted(wanted)
    (store() / download.FOLDER / "w.h5").write_bytes(data)
    notes = store() / download.FOLDER / "w.h5.json"
    notes.write_text(notes.read_text().replace(f'"kept": {got}', f'"kept": {len(data)}'))

    def nothing_more(handler) -> None:
        handler.send_response(416)
        handler.send_header("Content-Range", f"bytes */{len(data)}")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    server.answers["/w.h5"] = nothing_more
    assert find(wanted).path.read_bytes() == data


@pytest.mark.parametrize("notes", ["", "[]", "{", '{"url": "x"}', '{"url": 3, "kept": "a"}', '{"other": 1}'])
def test_damaged_notes_on_an_unfinished_file_are_ignored(server, hdf5, notes):
    server.answers["/w.h5"] = Ranged(hdf5())
    interrupted(entry(f"{server.url}/w.h5"))
    (store() / download.FOLDER / "w.h5.json").write_text(notes)
    assert find(entry(f"{server.url}/w.h5")).path.read_bytes() == hdf5()


def test_the_part_of_a_file_at_another_address_is_not_used(server, hdf5):
    server.answers["/w.h5"] = Ranged(hdf5())
    answer = server.answers["/new/w.h5"] = Ranged(hdf5(1))
    interrupted(entry(f"{server.url}/w.h5"))
    assert find(entry(f"{server.url}/new/w.h5")).path.read_bytes() == hdf5(1)
    assert answer.asked == [(None, None)]


# --- wrong files -----------------------------------------------------------------------------------------------------


def test_a_file_with_a_wrong_hash_leaves_nothing_for_the_next_attempt(server, hdf5):
    data = hdf5()
    server.answers["/w.h5"] = Ranged(hdf5(1), [20_000])
    wanted = entry(f"{server.url}/w.h5", hash=f"sha256:{sha256(data)}")
    with pytest.raises(WeightsUnavailable, match=f"sha256:{sha256(hdf5(1))}, but {sha256(data)} was published"):
        find(wanted)
    assert (stored(), unfinished()) == ([], [])
    answer = server.answers["/w.h5"] = Ranged(data)
    assert find(wanted).path.read_bytes() == data and answer.asked == [(None, None)]


def test_the_md5_of_google_cloud_storage_is_checked(server, hdf5):
    data = hdf5()
    md5 = {"x-goog-hash": "crc32c=AAAAAA==, md5=1B2M2Y8AsgTpgAmY7PhCfg=="}
    server.answers["/w.h5"] = Ranged(data, headers=md5)
    with pytest.raises(WeightsUnavailable, match="but d41d8cd98f00b204e9800998ecf8427e was announced by the server"):
        find(entry(f"{server.url}/w.h5"))
    assert find(entry(f"{server.url}/w.h5", hash=f"sha256:{sha256(data)}")).path.read_bytes() == data


@pytest.mark.parametrize(
    ("more", "message"), [(5000, "broke off after 42 kB of 47 kB"), (-5000, "not a complete HDF5")]
)
def test_a_wrong_length(server, hdf5, more, message):
    data = hdf5()

    def lie(handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data) + more))
        handler.end_headers()
        handler.wfile.write(data if handler.command == "GET" else b"")

    server.answers["/w.h5"] = lie
    with pytest.raises(WeightsUnavailable, match=message):
        find(entry(f"{server.url}/w.h5"))
    assert stored() == []


def test_a_compressed_answer_is_unpacked(server, hdf5):
    data = hdf5()
    server.answers["/w.h5"] = Ranged(gzip.compress(data), headers={"Content-Encoding": "gzip", "ETag": '"1"'})
    interrupted(entry(f"{server.url}/w.h5"))
    assert find(entry(f"{server.url}/w.h5")).path.read_bytes() == data


# --- further attempts ------------------------------------------------------------------------------------------------


class Busy:
    """Answers a few GETs with a status that passes, and then with the file."""

    def __init__(self, data, times, status=503, headers=()):
        self.left, self.status, self.headers, self.then = times, status, dict(headers), Ranged(data)

    def __call__(self, handler) -> None:
        if handler.command == "HEAD" or not self.left:
            self.then(handler)
            return
        self.left -= 1
        handler.send_response(self.status)
        for name, value in {**self.headers, "Content-Length": "0"}.items():
            handler.send_header(name, value)
        handler.end_headers()


@pytest.fixture
def waits(monkeypatch):
    """Keeps the seconds that zoo would wait, and does not wait."""
    kept: list[float] = []
    monkeypatch.setattr(download.time, "sleep", kept.append)
    monkeypatch.setattr(download, "WAITS", (1.0, 2.0, 4.0))
    return kept


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_server_that_recovers(server, hdf5, waits, status):
    said: list[str] = []
    server.answers["/w.h5"] = Busy(hdf5(), 3, status)
    assert find(entry(f"{server.url}/w.h5"), say=said.append).path.read_bytes() == hdf5()
    assert waits == [1, 2, 4] and f"w.h5: the server answers {status} (" in said[0]
    assert said[1].endswith("trying again in 2 s.")


@pytest.mark.parametrize(("status", "requests"), [(500, 4), (403, 1), (404, 1), (407, 1), (410, 1), (599, 1)])
def test_a_server_that_does_not_recover(server, hdf5, waits, status, requests):
    server.answers["/w.h5"] = status
    with pytest.raises(WeightsUnavailable, match=f"failed: the server answers {status}"):
        find(entry(f"{server.url}/w.h5"))
    assert server.requests.count("GET /w.h5") == requests and len(waits) == requests - 1


def test_the_server_says_when_to_try_again(server, hdf5, waits):
    server.answers["/w.h5"] = Busy(hdf5(), 1, 429, {"Retry-After": "7"})
    find(entry(f"{server.url}/w.h5"))
    later = email.utils.formatdate(time.time() + 20, usegmt=True)
    server.answers["/v.h5"] = Busy(hdf5(), 1, 503, {"Retry-After": later})
    find(entry(f"{server.url}/v.h5", "v.h5"))
    assert waits[0] == 7 and 15 < waits[1] <= 20
    server.answers["/u.h5"] = Busy(hdf5(), 1, 429, {"Retry-After": "3600"})
    with pytest.raises(WeightsUnavailable, match=r"answers 429 .* and it asks to wait 3600 s"):
        find(entry(f"{server.url}/u.h5", "u.h5"))
    assert network.retry_after({"Retry-After": "soon"}) is None and network.retry_after({}) is None


def test_a_slow_but_steady_server_is_not_given_up(monkeypatch, server, hdf5):
    monkeypatch.setattr(download, "READ_SECONDS", 0.2)
    server.answers["/w.h5"] = Ranged(hdf5(), pause=0.02)
    started = time.monotonic()
    assert find(entry(f"{server.url}/w.h5")).path.read_bytes() == hdf5()
    assert time.monotonic() - started > 3 * 0.2


def test_a_circle_of_redirects(server):
    def again(handler) -> None:
        handler.send_response(302)
        handler.send_header("Location", "/w.h5")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    server.answers["/w.h5"] = again
    with pytest.raises(WeightsUnavailable, match="the server redirects in a circle"):
        find(entry(f"{server.url}/w.h5"))


# --- networks --------------------------------------------------------------------------------------------------------


def test_the_environment_names_a_proxy(monkeypatch, server, hdf5):
    monkeypatch.setenv("HTTP_PROXY", server.url)
    monkeypatch.delenv("NO_PROXY")
    server.answers["http://weights.example/w.h5"] = Ranged(hdf5())
    assert find(entry("http://weights.example/w.h5")).path.read_bytes() == hdf5()
    monkeypatch.setenv("NO_PROXY", "weights.example")
    with pytest.raises(WeightsUnavailable, match="cannot be reached"):
        find(entry("http://weights.example/v.h5", "v.h5"))


def test_a_proxy_that_does_not_work_is_named_as_such(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY")
    with pytest.raises(
        WeightsUnavailable, match=r"the proxy does not work \(.*refused\)\. .*HTTPS_PROXY and HTTP_PROXY"
    ):
        find(entry("http://weights.example/w.h5"))


def test_a_failed_encryption_is_explained(server):
    with pytest.raises(
        WeightsUnavailable, match=r"certificate is not accepted .*the date of this computer, which is 20"
    ):
        find(entry(server.url.replace("http:", "https:") + "/w.h5"))


def test_without_the_network_the_message_names_address_hash_and_folders():
    text = fetch.advice(entry("http://weights.example/a.h5", hash="sha256:" + "0" * 64, bytes=14_000_000))
    assert f"Download http://weights.example/a.h5 (14 MB, sha256 {'0' * 64})\nas w.h5 into a folder" in text
    assert "set ZOO_WEIGHTS_DIR" in text and str(store()) in text


# --- the disk --------------------------------------------------------------------------------------------------------


def test_a_full_disk(monkeypatch, server, hdf5):
    server.answers["/w.h5"] = Ranged(hdf5())
    usage = download.shutil.disk_usage(".")
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(WeightsUnavailable, match=r"No space left.*42 kB are needed, and 1.0 kB are free\. Free some"):
        find(entry(f"{server.url}/w.h5"))
    assert (stored(), unfinished()) == ([], [])


LIMITED = """
import resource, sys
from weights_server import entry, find
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
find(entry(sys.argv[1]))
"""


def test_a_disk_that_fills_up_while_the_file_is_written(server, hdf5):
    """The limit on the size of a file makes the system refuse a write, as a full disk does."""
    server.answers["/w.h5"] = Ranged(hdf5())
    ran = subprocess.run(python(LIMITED, server), capture_output=True, text=True, timeout=60)
    assert "weights' cannot be written: File too large. Free some space" in ran.stderr
    assert (stored(), unfinished()) == ([], [])


def test_unfinished_files_of_long_ago_are_removed(monkeypatch, server, hdf5):
    server.answers["/w.h5"] = server.answers["/v.h5"] = Ranged(hdf5())
    interrupted(entry(f"{server.url}/w.h5"))
    monkeypatch.setattr(download, "LEFTOVER_SECONDS", -1)
    find(entry(f"{server.url}/v.h5", "v.h5"))
    assert unfinished() == []


# --- several processes -----------------------------------------------------------------------------------------------

FIND = """
import sys
from weights_server import entry, find
print(find(entry(sys.argv[1]), say=print).sha256)
"""


def python(code: str, server) -> list[str]:
    folder = __file__.rpartition("/")[0]
    return [sys.executable, "-c", f"import sys; sys.path.insert(0, {folder!r})\n{code}", f"{server.url}/w.h5"]


def test_two_processes_download_once_and_a_killed_one_blocks_nobody(server, hdf5):
    data = hdf5()
    answer = server.answers["/w.h5"] = Ranged(data, pause=0.05)
    first = subprocess.Popen(python(FIND, server), stdout=subprocess.PIPE, text=True)
    until(lambda: "GET /w.h5" in server.requests)
    second = subprocess.Popen(python(FIND, server), stdout=subprocess.PIPE, text=True)
    assert second.stdout.readline() == "w.h5: another process is downloading it; waiting for that.\n"
    first.kill()
    first.wait()
    answer.pause = 0.0
    assert second.communicate(timeout=30)[0].strip() == sha256(data)
    assert server.requests.count("GET /w.h5") == 2 and stored() == ["w.h5", "w.h5.sha256"]
    third = subprocess.run(python(FIND, server), stdout=subprocess.PIPE, text=True, timeout=30)
    assert third.stdout.strip() == sha256(data) and server.requests.count("GET /w.h5") == 2


def test_a_process_that_hangs_is_not_waited_for_for_ever(monkeypatch, server, hdf5):
    monkeypatch.setattr(download, "PATIENCE_SECONDS", 0.1)
    server.answers["/w.h5"] = Ranged(hdf5())
    (store() / download.FOLDER).mkdir(parents=True)
    with filelock.FileLock(store() / download.FOLDER / "w.h5.lock"):
        assert find(entry(f"{server.url}/w.h5")).path.read_bytes() == hdf5()
    assert (stored(), unfinished()) == (["w.h5", "w.h5.sha256"], [])


def test_a_read_only_cache_with_the_file_in_it(tmp_path_factory, monkeypatch, server, hdf5):
    """The message of a cache that cannot be written is tested with the other places."""
    server.answers["/w.h5"] = Ranged(hdf5())
    found = find(entry(f"{server.url}/w.h5"))
    found.path.parent.chmod(0o555)
    again = subprocess.run(python(FIND, server), stdout=subprocess.PIPE, text=True, timeout=30)
    assert again.stdout.strip() == sha256(hdf5())
    found.path.parent.chmod(0o755)


@pytest.mark.slow
def test_kills_at_20_random_moments_leave_nothing_half_written(server, tmp_path):
    """The file is larger than what is flushed at once, so that the kills hit every part of a download."""
    import h5py
    import numpy as np

    with h5py.File(tmp_path / "large.h5", "w") as file:
        file["x"] = np.random.default_rng(0).integers(0, 256, 12_000_000, dtype=np.uint8)
    data = (tmp_path / "large.h5").read_bytes()
    answer = server.answers["/w.h5"] = Ranged(data)
    draw = random.Random(0)
    for _ in range(20):
        process = subprocess.Popen(python(FIND, server), stdout=subprocess.PIPE)
        threading.Timer(draw.uniform(0.1, 1.5), process.send_signal, [signal.SIGKILL]).start()
        process.wait()
        path = files.cache() / "weights" / "w.h5"
        if path.exists():
            assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256(data)
            path.unlink()
    assert find(entry(f"{server.url}/w.h5")).path.read_bytes() == data
    assert len(answer.asked) > 1


def until(condition) -> None:
    """Wait at most 30 s for a condition."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    "value", ["9" * 400, "Mon, 01 Jan 99999999999999999999 00:00:00 GMT", "Mon, 01 Jan 2030 00:00:00 +99999999999999"]
)
def test_a_server_that_asks_to_wait_for_ever(server, waits, value):
    server.answers["/w.h5"] = Busy(b"", 9, 503, {"Retry-After": value})
    with pytest.raises(WeightsUnavailable, match="answers 503"):
        find(entry(f"{server.url}/w.h5"))


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/w.h5", "http://[::1"])
def test_a_redirect_leads_to_no_file_of_this_computer(server, target):
    def away(handler):
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.end_headers()

    server.answers["/w.h5"] = away
    with pytest.raises(WeightsUnavailable, match="cannot be reached: "):
        find(entry(f"{server.url}/w.h5"))
    assert not (store() / "w.h5").exists()


@pytest.mark.parametrize("length", [None, "99999999", "9" * 5000])
def test_a_server_that_never_stops_does_not_fill_the_disk(server, monkeypatch, length):
    monkeypatch.setattr(download, "HARMLESS", 1 << 20)
    sent = []

    def endless(handler):
        handler.send_response(200)
        if length:
            handler.send_header("Content-Length", length)
        handler.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(1000 if handler.command == "GET" else 0):
                handler.wfile.write(bytes(1 << 16))
                sent.append(1 << 16)

    server.answers["/w.h5"] = endless
    with pytest.raises(WeightsUnavailable, match=r"the server sends more than 1\.1 MB, so this is not the file"):
        find(entry(f"{server.url}/w.h5", bytes=1000))
    assert sum(sent) < 32 << 20 and not list((store() / download.FOLDER).glob("w.h5"))
