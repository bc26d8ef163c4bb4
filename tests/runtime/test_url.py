"""Test `zoo-runtime predict --allow-url` against a local web server."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from zoo_runtime import _url
from zoo_runtime.cli import main


@pytest.fixture
def server(pictures):
    """Serve pictures, redirects and misbehavior. The attribute `seen` has the headers of each request."""
    seen: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append({"path": self.path, **{k.lower(): v for k, v in self.headers.items()}})
            name = self.path[1:].partition("?")[0]
            if name.startswith("to/"):
                self.send_response(302)
                self.send_header("Location", name[3:].replace(",", "/"))
                self.end_headers()
            elif name == "loop":
                self.send_response(302)
                self.send_header("Location", "/loop")
                self.end_headers()
            elif name == "slow":
                self.send_response(200)
                self.end_headers()
                for _ in range(100):
                    self.wfile.write(b"x")
                    self.wfile.flush()
                    time.sleep(0.05)
            elif name == "slow-head":
                self.send_response(200)
                self.flush_headers()
                for _ in range(200):
                    self.wfile.write(b"X")
                    self.wfile.flush()
                    time.sleep(0.05)
            elif name in ("huge", "short"):
                self.send_response(200)
                self.send_header("Content-Length", str(10**9 if name == "huge" else 1000))
                self.end_headers()
                self.wfile.write(b"x" * 10)
            elif name == "endless":
                self.send_response(200)
                self.end_headers()
                for _ in range(100):
                    self.wfile.write(bytes(2**16))
            elif (pictures / name).is_file():
                self.send_response(200)
                self.end_headers()
                self.wfile.write((pictures / name).read_bytes())
            else:
                self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.seen = seen
    made.handle_error = lambda *_: None
    threading.Thread(target=made.serve_forever, daemon=True).start()
    made.url = f"http://127.0.0.1:{made.server_address[1]}/"
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def predict(model, capsys, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: object) -> tuple[int, list[str], list[str]]:
        code = main(["predict", str(model), *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err.splitlines()

    return run


def test_pictures_are_downloaded_only_if_that_is_allowed(predict, server):
    address = server.url + "red.jpg"
    code, out, err = predict(address)
    assert (code, out) == (1, []) and "or use `zoo-runtime predict --allow-url`" in err[0] and not server.seen
    code, out, err = predict("--allow-url", address, server.url + "green.JPG?size=big picture")
    assert code == 0 and err == [] and out[0].startswith(f"{address}: red ") and ": green " in out[1]
    assert predict("--allow-url", server.url + "to/" + address.replace("/", ","))[0] == 0


def test_a_login_is_sent_to_its_host_only_and_never_shown(predict, server):
    address = server.url.replace("//", "//ann:se%40cret@")
    code, out, _ = predict("--allow-url", address + "to/,red.jpg")
    assert code == 0 and "ann:***@" in out[0] and "cret" not in out[0]
    assert server.seen[0]["authorization"] == "Basic YW5uOnNlQGNyZXQ=" and "authorization" not in server.seen[1]
    _, _, err = predict("--allow-url", address + "gone.jpg")
    assert "ann:***@" in err[0] and "cret" not in err[0] and "the server answered 404" in err[0]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("loop", "infinite loop"),
        ("to/file:,,,,etc,passwd", "redirects to file://"),
        ("to/ftp:,,localhost,x", "redirects to ftp://"),
        ("huge", "are more than the"),
        ("endless", "more than the"),
        ("short", "only 10 of 1,000 bytes"),
        ("damaged.jpg", "damaged"),
        ("notes.txt", "a text file"),
        ("slow", "it takes too long"),
        ("slow-head", "it takes too long"),
    ],
)
def test_what_a_server_can_do_wrong(predict, server, monkeypatch, path, words):
    monkeypatch.setattr(_url, "LARGEST", 10**6)
    monkeypatch.setattr(_url.Download.__init__, "__defaults__", (1.0,))
    began = time.monotonic()
    code, out, err = predict("--allow-url", server.url + path)
    assert (code, out) == (1, []) and words in err[0] and time.monotonic() - began < 4
    assert "the file given" not in err[0] and err[0].startswith(server.url)


def test_a_redirect_does_not_lead_from_the_internet_into_the_local_network(predict, server, monkeypatch):
    """The first connection counts as one to the internet."""
    real, count = _url.ipaddress.ip_address, iter(range(10))
    public = real("93.184.216.34")
    monkeypatch.setattr(_url.ipaddress, "ip_address", lambda text: real(text) if next(count) else public)
    code, out, err = predict("--allow-url", server.url + "to/" + server.url.replace("/", ",") + "red.jpg")
    assert (code, out) == (1, []) and "from the internet into the local network" in err[0]
    assert [each["path"][:4] for each in server.seen] == ["/to/"]


def test_addresses_that_lead_nowhere(predict):
    for address in ("http://127.0.0.1:9/x.jpg", "http:///x.jpg", "http://[bad/x.jpg", "http://localhost:99999/x"):
        code, _, err = predict("--allow-url", address)
        assert code == 1 and "cannot be downloaded: " in err[0] and len(err) == 1
    assert "the port in the address must be a number from 1 to 65535" in err[0]
