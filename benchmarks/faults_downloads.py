"""Faults of downloads, against a web server on this machine. `faults.py` runs them."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.server
import io
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from faults import Place, Ran, fault, finish, wait_for

GROUP = "Downloads of weights"
NAME = "served.h5"
# A plugin whose weights lie on the server of this file. The weights are one long row of numbers.
PLUGIN = """
import os
from zoo.plugin import Weights, hookimpl

def load(model, path):
    import h5py
    import numpy as np
    with h5py.File(path) as file:
        row = file["x"][:]
    ends = np.cumsum([w.size for w in model.get_weights()])[:-1]
    parts = np.split(row[: sum(w.size for w in model.get_weights())], ends)
    model.set_weights([p.reshape(w.shape) for p, w in zip(parts, model.get_weights())])

@hookimpl
def zoo_weights():
    return [Weights(architecture="mnist_convnet", tag="served", url=os.environ["SERVED"], filename="served.h5",
                    hash=os.environ.get("SERVED_HASH") or None, includes_top=False, input_size=(28, 28),
                    licence="MIT", source="here", load=load)]
"""
Handler = http.server.BaseHTTPRequestHandler


@cache
def content() -> bytes:
    """Return the weights file: 8 MB of small numbers in HDF5."""
    import h5py
    import numpy as np

    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file["x"] = np.random.default_rng(0).normal(0, 0.05, 2_000_000).astype("float32")
    return stream.getvalue()


def send(handler: Handler, data: bytes, status: int = 200, length: int | None = None, **headers: str) -> None:
    """Send an answer. The names of headers have underscores instead of hyphens."""
    handler.send_response(status)
    for name, value in {"Content_Length": str(len(data) if length is None else length), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    if handler.command == "GET":
        handler.wfile.write(data)


def part(handler: Handler, upto: int | None = None) -> None:
    """Send the rest of the file that the client asks for, or only the bytes up to a place in the file."""
    asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    start, size = int(asked[1]) if asked else 0, len(content())
    head = {"Content_Range": f"bytes {start}-{size - 1}/{size}"} if start else {}
    send(handler, content()[start:upto], 206 if start else 200, size - start, ETag='"1"', **head)


@contextlib.contextmanager
def serving(place: Place, answer: Callable[[Handler, int], None], published: bool = True) -> Iterator[list[str]]:
    """Run a web server, and let a plugin name its file.

    Args:
        place: Its environment gets the plugin and the address.
        answer: Receives a request, and its number among all GET requests.
        published: Whether the plugin knows the hash of the file.

    Yields:
        The ranges that the GET requests asked for, "" for the whole file.
    """
    asked: list[str] = []

    class Requests(Handler):
        def do_HEAD(self) -> None:
            send(self, b"")

        def do_GET(self) -> None:
            asked.append(self.headers.get("Range", ""))
            with contextlib.suppress(ConnectionError):
                answer(self, len(asked))

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Requests)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/{NAME}"
    install(place, address, f"sha256:{hashlib.sha256(content()).hexdigest()}" if published else "")
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()


def install(place: Place, address: str, known: str) -> None:
    """Put the plugin on the path of the processes of a place."""
    info = place.folder / "site" / "served-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: served\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[zoo.plugins]\nserved = served_plugin\n")
    (info.parent / "served_plugin.py").write_text(PLUGIN)
    paths = [str(info.parent), *filter(None, [place.environment.get("PYTHONPATH")])]
    place.environment |= {"PYTHONPATH": ":".join(paths), "SERVED": address, "SERVED_HASH": known}


def training(place: Place) -> list[str]:
    return place.training("mnist_convnet.served", "--name", "x")


def check(place: Place, ran: Ran, code: int, *, cache_folder: Path | None = None) -> Ran:
    """Check an exit code, and that the file is either absent or whole under its final name."""
    assert ran.code == code, ran.text
    path = (cache_folder or place.cache) / "weights" / NAME
    assert path.is_file() == (code == 0), sorted(path.parent.iterdir()) if path.parent.exists() else "no folder"
    assert not path.is_file() or path.read_bytes() == content()
    if code == 0:
        (record,) = (place.folder / "runs").glob("*/run.json")
        assert json.loads(record.read_text("utf-8"))["weights"]["random"] is False
    return ran


def tried(place: Place, answer: Callable[[Handler, int], None], code: int, published: bool = True) -> Ran:
    with serving(place, answer, published):
        return check(place, place.run(*training(place)), code)


@fault(GROUP, "the connection breaks off halfway; the server can send the rest")
def broken_off(place: Place) -> Ran:
    with serving(place, lambda h, n: part(h, 4_000_000 if n == 1 else None), published=False) as asked:
        ran = check(place, place.run(*training(place)), 0)
    assert asked == ["", "bytes=4000000-"]
    return ran


@fault(GROUP, "the connection breaks off halfway; the server sends whole files only")
def broken_off_without_ranges(place: Place) -> Ran:
    return tried(place, lambda h, n: send(h, content()[: 4_000_000 if n == 1 else None], length=len(content())), 0)


@fault(GROUP, "the connection breaks off at the same byte every time")
def broken_off_again_and_again(place: Place) -> Ran:
    return tried(place, lambda h, n: part(h, 4_000_000), 1)


@fault(GROUP, "`kill -9` during the download, then the same command again", shown="^Weights|^warning")
def killed(place: Place) -> Ran:
    released = threading.Event()

    def answer(handler: Handler, number: int) -> None:
        part(handler, 6_000_000 if number == 1 else None)
        if number == 1:
            released.wait(60)

    with serving(place, answer) as asked:
        process = place.start(*training(place))
        unfinished = place.cache / "weights" / ".downloads" / NAME
        wait_for(lambda: unfinished.exists() and unfinished.stat().st_size >= 5_900_000)
        process.kill()
        assert finish(process).code == -9
        assert not (place.cache / "weights" / NAME).exists()
        released.set()
        ran = check(place, place.run(*training(place)), 0)
    assert asked[0] == "" and int(asked[1].strip("bytes=-")) >= 4 << 20
    return ran


@fault(GROUP, "the file has another hash than the published one")
def wrong_hash(place: Place) -> Ran:
    return tried(place, lambda h, n: send(h, content()[:-1] + b"?"), 1)


@fault(GROUP, "404")
def not_found(place: Place) -> Ran:
    return tried(place, lambda h, n: send(h, b"", 404), 1)


@fault(GROUP, "403")
def forbidden(place: Place) -> Ran:
    return tried(place, lambda h, n: send(h, b"", 403), 1)


@fault(GROUP, "500 twice, then the file")
def recovers(place: Place) -> Ran:
    return tried(place, lambda h, n: send(h, b"", 500) if n < 3 else part(h), 0)


@fault(GROUP, "503 with `Retry-After: 3`, then the file")
def asks_to_wait(place: Place) -> Ran:
    return tried(place, lambda h, n: send(h, b"", 503, Retry_After="3") if n < 2 else part(h), 0)


@fault(GROUP, "the server stops sending for 40 s, then answers again")
def stalls(place: Place) -> Ran:
    def answer(handler: Handler, number: int) -> None:
        part(handler, 4_000_000 if number == 1 else None)
        time.sleep(40 if number == 1 else 0)

    return tried(place, answer, 0)


@fault(GROUP, "a slow but steady server (8 MB in 35 s)", shown="downloading weights|^warning")
def slow(place: Place) -> Ran:
    def answer(handler: Handler, number: int) -> None:
        send(handler, b"", length=len(content()))
        for start in range(0, len(content()), 1 << 18):
            handler.wfile.write(content()[start : start + (1 << 18)])
            time.sleep(1.1)

    return tried(place, answer, 0)


@fault(GROUP, "`Content-Length` is larger than the file, whose hash is known")
def wrong_length(place: Place) -> Ran:
    return tried(place, lambda h, n: send(h, content(), length=len(content()) + 1000), 1)


@fault(GROUP, "the answer is compressed with gzip")
def compressed(place: Place) -> Ran:
    return tried(place, lambda h, n: send(h, gzip.compress(content(), 1), Content_Encoding="gzip"), 0)


@fault(GROUP, "the login page of a hotel's network")
def login_page(place: Place) -> Ran:
    return tried(place, lambda h, n: send(h, b"<!DOCTYPE html><title>Welcome</title>"), 1, published=False)


@fault(GROUP, "the disk of the cache is too small (4 MB)")
def full_disk(place: Place) -> Ran:
    with place.small_disk(4) as disk, serving(place, lambda h, n: part(h)):
        place.environment["ZOO_CACHE"] = str(disk)
        return check(place, place.run(*training(place)), 1, cache_folder=disk)


@fault(GROUP, "the disk fills up during the download, and the server names no size")
def disk_fills_up(place: Place) -> Ran:
    def answer(handler: Handler, number: int) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(content())

    with place.small_disk(4) as disk, serving(place, answer):
        place.environment["ZOO_CACHE"] = str(disk)
        ran = check(place, place.run(*training(place)), 1, cache_folder=disk)
        assert not (disk / "weights" / ".downloads" / NAME).exists()
        return ran


@fault(GROUP, "two commands download the same file at once (the second is shown)")
def two_at_once(place: Place) -> Ran:
    def answer(handler: Handler, number: int) -> None:
        time.sleep(15)
        part(handler)

    with serving(place, answer) as asked:
        first = place.start(*training(place))
        wait_for(lambda: asked)
        other = Place(place.folder / "other", dict(place.environment))
        other.environment |= {"ZOO_CACHE": str(place.cache), "PYTHONPATH": place.environment["PYTHONPATH"]}
        other.folder.mkdir()
        second = other.run(*training(other))
        check(place, finish(first), 0)
    assert second.code == 0 and asked == [""], second.text
    return second


@fault(GROUP, "the cache cannot be written")
def cache_not_writable(place: Place) -> Ran:
    (place.folder / "file").touch()
    place.environment["ZOO_CACHE"] = str(place.folder / "file")
    with serving(place, lambda h, n: part(h)):
        return check(place, place.run(*training(place)), 1, cache_folder=place.folder / "no")


@fault(GROUP, "`ZOO_OFFLINE=1`")
def offline(place: Place) -> Ran:
    place.environment["ZOO_OFFLINE"] = "1"
    return tried(place, lambda h, n: part(h), 1)


@fault(GROUP, "no server listens")
def refused(place: Place) -> Ran:
    install(place, f"http://127.0.0.1:9/{NAME}", "")
    return check(place, place.run(*training(place)), 1)


@fault(GROUP, "`HTTP_PROXY` names a proxy that does not run")
def dead_proxy(place: Place) -> Ran:
    install(place, f"http://weights.example/{NAME}", "")
    place.environment["HTTP_PROXY"] = "http://127.0.0.1:9"
    return check(place, place.run(*training(place)), 1)


@fault(GROUP, "the server's certificate cannot be verified")
def no_certificate(place: Place) -> Ran:
    with serving(place, lambda h, n: part(h)):
        place.environment["SERVED"] = place.environment["SERVED"].replace("http:", "https:")
        return check(place, place.run(*training(place)), 1)
