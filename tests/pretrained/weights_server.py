"""A web server on this machine, and what tests of downloads need: entries and the contents of the cache."""

from __future__ import annotations

import hashlib
import http.server
import threading
from pathlib import Path

from zoo import files
from zoo.plugin import Weights
from zoo.pretrained import download, fetch


class Server:
    """A web server on this machine. `answers` maps a path to bytes, a status, or a function of the handler."""

    def __init__(self) -> None:
        self.answers: dict = {}
        self.requests: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                outer.requests.append(f"HEAD {self.path}")
                self._answer(b"")

            def do_GET(self) -> None:
                outer.requests.append(f"GET {self.path}")
                self._answer(None)

            def _answer(self, body: bytes | None) -> None:
                answer = outer.answers.get(self.path, 404)
                if callable(answer):
                    answer(self)
                    return
                status, data = (answer, b"gone") if isinstance(answer, int) else (200, answer)
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data if body is None else body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=[0.01], daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def entry(url: str = "http://127.0.0.1:9/w.h5", filename: str = "w.h5", size: int = 224, **others) -> Weights:
    return Weights(
        architecture="net",
        tag="imagenet1k",
        url=url,
        filename=filename,
        includes_top=False,
        input_size=(size, size),
        licence="MIT",
        source="here",
        **others,
    )


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def store() -> Path:
    return files.cache() / "weights"


def stored() -> list[str]:
    return sorted(path.name for path in store().iterdir() if path.name != download.FOLDER) if store().exists() else []


def unfinished() -> list[str]:
    """Return the names of the unfinished downloads, without their locks."""
    names = (path.name for path in (store() / download.FOLDER).iterdir())
    return sorted(name for name in names if not name.endswith(".lock"))


def place(folder: Path, name: str, data: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    return folder / name


def find(*entries: Weights, size: int = 224, **options) -> fetch.WeightsFile:
    return fetch.find(entries, (size, size), **options)
