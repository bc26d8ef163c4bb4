"""The page of `zoo export --web` in headless Chromium, with the real onnxruntime-web.

These tests are skipped with a reason where playwright, Chromium or the npm package are missing. ZOO_TEST_ORT_WEB names
the package; otherwise it is downloaded from the npm registry.
"""

from __future__ import annotations

import base64
import functools
import http.server
import io
import itertools
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.errors import ZooError
from zoo.reporter import Reporter
from zoo.workflow import web
from zoo_runtime import ImageSpec, Predictor, decode

REPOSITORY = Path(__file__).parent.parent.parent
sys.path.insert(0, str(REPOSITORY / "tests" / "export"))
from tiny_export import tiny_export  # noqa: E402

pytestmark = pytest.mark.real

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update"]
FLAGS += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
# Stricter than what the page asks for itself: it holds for workers, too.
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'"
)
CLASSES = ("<img src=x onerror=document.title='hacked'>", "b & c", "bleu ciel")
TRUST = {"unknown": {"threshold": 0.6}, "outliers": {"threshold": 0.9}, "sets": {"0.9": 0.2, "0.95": 0.1}}


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    given = os.environ.get("ZOO_TEST_ORT_WEB")
    if given:
        return Path(given)
    patch = pytest.MonkeyPatch()
    patch.delenv("ZOO_OFFLINE", raising=False)
    patch.setenv("ZOO_CACHE", str(tmp_path_factory.mktemp("npm")))
    try:
        web.find_engine(None, Reporter())
        (found,) = Path(os.environ["ZOO_CACHE"]).glob("weights/*.tgz")
        return found
    except ZooError as error:
        pytest.skip(f"the npm package cannot be downloaded: {error}")
    finally:
        patch.undo()


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not path:
        pytest.skip("Chromium was not found; CHROMIUM may name its file")
    with api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield running
        running.close()


class Served:
    """Serves a folder on one port, which `close` frees. The next server on this port is the same site for a browser."""

    def __init__(self, folder: Path, port: int = 0):
        class Handler(http.server.SimpleHTTPRequestHandler):
            def end_headers(self):
                self.send_header("Content-Security-Policy", POLICY)
                super().end_headers()

            def log_message(self, *_):
                pass

        handler = functools.partial(Handler, directory=os.fspath(folder))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
        self.port = self._server.server_port
        self.url = f"http://localhost:{self.port}/"
        threading.Thread(target=self._server.serve_forever, args=[0.02], daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def served():
    running = []

    def serve(folder: Path, port: int = 0) -> Served:
        running.append(Served(folder, port))
        return running[-1]

    yield serve
    for each in running:
        each.close()


@pytest.fixture
def write(zoo, package, tmp_path):
    """Return a function that makes the page for an exported file given as bytes, and returns its folder."""

    def make(model: bytes, name: str = "colors", folder: str = "page") -> Path:
        path = tmp_path / "model.onnx"
        path.write_bytes(model)
        done = zoo("export", path, "--web", tmp_path / folder, "--ort-web", package, "--name", name, "--replace")
        assert done.code == 0, done.err
        return tmp_path / folder

    return make


def until(condition, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the page did not get there"
        time.sleep(0.05)


def opened(context, url: str):
    page = context.new_page()
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: message.type == "error" and page.problems.append(message.text))
    page.goto(url)
    page.wait_for_selector("#loading", state="hidden", timeout=60_000)
    return page


def give(page, name: str, content: bytes) -> None:
    page.set_input_files("#files", {"name": name, "mimeType": "application/octet-stream", "buffer": content})
    until(lambda: "…" not in page.locator("#list span").all_text_contents())


def plain(color, format: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (40, 30), color).save(stream, format, **options)
    return stream.getvalue()


def bars(page) -> dict[str, float]:
    names, shares = (page.locator(f"#bars .{each}").all_text_contents() for each in ("name", "percent"))
    return {name: float(share.lstrip("> ").split()[0]) for name, share in zip(names, shares, strict=True)}


def test_answers_are_those_of_the_runtime_and_names_are_text(browser, served, write):
    model = tiny_export(CLASSES, ImageSpec((24, 32)), trust=TRUST)
    predictor = Predictor(model)
    page = opened(browser.new_context(), served(write(model, "A <b>bold</b> name")).url)
    assert page.title() == page.inner_text("h1") == "A <b>bold</b> name"
    for color in ((250, 10, 10), (10, 250, 10), (90, 100, 110), (255, 0, 30)):
        give(page, f"{color}.png", plain(color))
        answer = predictor(plain(color))
        assert page.inner_text("#label") == (answer.label or "unknown")
        shown = bars(page)
        assert shown.keys() == answer.probabilities.keys()
        assert all(abs(shown[name] - 100 * answer.probabilities[name]) <= 0.06 for name in shown)
        assert page.is_visible("#outlier") is answer.outlier
        details = page.inner_text("#details")
        assert ", ".join(answer.labels_at(0.9)) in details and f"{answer.outlier_score:.3f}" in details
    assert page.title() == "A <b>bold</b> name" and page.locator("#bars img").count() == 0
    assert page.problems == []


@pytest.mark.parametrize(("task", "channels"), [("multilabel", 3), ("binary", 3), ("multiclass", 1)])
def test_other_tasks_and_gray_networks(browser, served, write, task, channels):
    classes = ("red", "green") if task == "binary" else ("red", "green", "blue")
    model = tiny_export(classes, ImageSpec((16, 16), channels=channels), task=task)
    predictor = Predictor(model)
    page = opened(browser.new_context(), served(write(model)).url)
    for color in ((250, 240, 10), (0, 0, 0), (30, 200, 90)):
        give(page, "x.png", plain(color))
        answer = predictor(plain(color))
        wanted = ", ".join(answer.labels) or "none of the classes"
        assert page.inner_text("#label") == wanted
        assert all(abs(share - 100 * answer.probabilities[name]) <= 0.06 for name, share in bars(page).items())
    assert page.problems == []


def test_pixels_are_those_of_pillow_bit_for_bit(browser, served, write):
    """All ways of resizing, filters and EXIF turns, on PNG files; transparent ones within one level."""
    context = browser.new_context(bypass_csp=True)
    page = opened(context, served(write(tiny_export(CLASSES, ImageSpec((8, 8))))).url)
    code = """async ([text, image]) => {
        const { inputOfFile } = await import("./decode.js");
        const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
        return Array.from(await inputOfFile(new Blob([bytes]), image));
    }"""
    rng = np.random.default_rng(0)
    ways = [("squash", 0.875), ("crop", 0.875), ("crop", 1.0), ("crop", 0.3), ("pad", 0.875)]
    turns = itertools.cycle(range(1, 9))
    compared = 0
    for (width, height), (resize, fraction), method in itertools.product(
        [(100, 67), (40, 360), (11, 17), (1, 1), (300, 31)], ways, ("bilinear", "bicubic", "lanczos")
    ):
        spec = ImageSpec((32, 48), (3, 1)[compared % 2], resize, fraction, method)
        exif = Image.Exif()
        exif[0x0112] = next(turns)
        stream = io.BytesIO()
        mode = "RGBA" if compared % 7 == 6 else "RGB"
        pixels = rng.integers(0, 256, (height, width, len(mode)), dtype=np.uint8)
        Image.fromarray(pixels).save(stream, "PNG", exif=exif)
        wanted = decode(stream.getvalue(), spec).astype(int).ravel()
        given = page.evaluate(code, [base64.b64encode(stream.getvalue()).decode(), spec.to_json()])
        assert np.abs(wanted - given).max() <= (1 if mode == "RGBA" else 0), (spec, width, height, exif[0x0112])
        compared += 1
    assert compared == 75


def damaged() -> dict[str, bytes]:
    jpeg, png = plain((200, 10, 10), "JPEG"), plain((200, 10, 10))
    broken = bytearray(png)
    broken[png.index(b"IDAT") + 8] ^= 0xFF
    clear = io.BytesIO()
    Image.new("RGBA", (9, 9), (255, 0, 0, 0)).save(clear, "PNG")
    return {
        "truncated.jpg": jpeg[:-20],
        "truncated.png": png[:-20],
        "damaged.png": bytes(broken),
        "clear.png": clear.getvalue(),
        "empty.jpg": b"",
        "notes.txt": b"no picture",
    }


def test_what_cannot_be_read_is_said_and_the_page_goes_on(browser, served, write):
    page = opened(browser.new_context(), served(write(tiny_export(CLASSES, ImageSpec((8, 8))))).url)
    for name, content in damaged().items():
        give(page, name, content)
        assert page.inner_text("#message").startswith(f"{name}: ") and not page.is_visible("#result")
    give(page, "good.jpg", plain((250, 10, 10), "JPEG"))
    assert page.inner_text("#label") == CLASSES[0] and not page.is_visible("#message")
    # Newest first: the good picture, and two files that no browser can show.
    until(lambda: [picture.is_visible() for picture in page.locator("#list img").all()[:3]] == [True, False, False])


def test_profiles_and_gamma_do_not_change_the_pixels(browser, served, write):
    from PIL import ImageCms, PngImagePlugin

    model = tiny_export(CLASSES, ImageSpec((8, 8)))
    predictor = Predictor(model)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    gamma = PngImagePlugin.PngInfo()
    gamma.add(b"gAMA", (100_000).to_bytes(4, "big"))
    page = opened(browser.new_context(), served(write(model)).url)
    for content in (plain((90, 120, 60), "JPEG", icc_profile=profile), plain((90, 120, 60), pnginfo=gamma)):
        give(page, "x", content)
        wanted = predictor(content).probabilities
        assert all(abs(share - 100 * wanted[name]) <= 0.06 for name, share in bars(page).items())


def test_offline_after_the_first_visit_and_a_new_export_replaces_the_old_one(browser, served, write):
    context = browser.new_context()
    folder = write(tiny_export(("red", "green", "blue"), ImageSpec((8, 8))), "first")
    site = served(folder)
    page = opened(context, site.url)
    until(lambda: "works offline" in page.inner_text("#offline"))
    site.close()
    page = opened(context, site.url)
    assert page.inner_text("h1") == "first"
    give(page, "x.png", plain((10, 250, 10)))
    assert page.inner_text("#label") == "green"
    first = cache_names(context, page)

    folder = write(tiny_export(("rouge", "vert", "bleu"), ImageSpec((8, 8))), "second")
    site = served(folder, site.port)
    page = opened(context, site.url)
    assert page.inner_text("h1") == "second"
    give(page, "x.png", plain((10, 250, 10)))
    assert page.inner_text("#label") == "vert"
    # The new service worker fills its cache before it removes that of the old one.
    until(lambda: not set(first) & set(cache_names(context, page)))
    second = cache_names(context, page)
    site.close()
    page = opened(context, site.url)
    assert page.inner_text("h1") == "second" and cache_names(context, page) == second
    give(page, "x.png", plain((10, 10, 250)))
    assert page.inner_text("#label") == "bleu"


def cache_names(context, page) -> list[str]:
    # The page's policy forbids scripts from outside, so that the worker is asked.
    (worker,) = context.service_workers[-1:]
    return worker.evaluate("() => caches.keys()")


def test_the_camera_starts_labels_and_stops(browser, served, write):
    model = tiny_export(("red", "green", "blue"), ImageSpec((24, 24)))
    context = browser.new_context(permissions=["camera"])
    page = opened(context, served(write(model)).url)
    page.click("#camera")
    # Chromium's pretended camera shows green.
    until(lambda: page.is_visible("#result") and page.inner_text("#label") == "green")
    assert page.get_attribute("#camera", "aria-pressed") == "true" and page.is_visible("#video")
    page.click("#camera")
    assert page.inner_text("#camera") == "Start camera" and not page.is_visible("#video")
    assert page.problems == []


def test_keyboard_and_narrow_windows(browser, served, write):
    context = browser.new_context(viewport={"width": 390, "height": 844})
    names = ("a" * 80, "Pelargonium × hortorum 'Frau Emma Hößle'", "c")
    page = opened(context, served(write(tiny_export(names, ImageSpec((8, 8))))).url)
    give(page, "x.png", plain((250, 10, 10)))
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.locator("*:focus").get_attribute("id"))
    assert reached[:2] == ["choose", "camera"]
    box = page.locator("body").bounding_box()
    assert box["width"] <= 390 and page.locator("#label").bounding_box()["width"] <= 390


def test_100_real_pictures_have_the_labels_of_the_runtime(zoo, real_weights, test_data, package, browser, tmp_path):
    place = ("--exported", tmp_path, "--runs", tmp_path / "runs", "--name", "published")
    done = zoo("export", "mobilenetv2", "--top", *place)
    assert done.code == 0, done.err
    script = REPOSITORY / "benchmarks" / "browser.py"
    command = [sys.executable, script, tmp_path / "published", "--ort-web", package]
    folders = [test_data / "flowers", test_data / "catsdogs" / "test"]
    done = subprocess.run([*command, *folders], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pictures                        100" in done.stdout
