"""Compares the page of `zoo export --web` in headless Chromium with zoo_runtime, picture by picture.

    python benchmarks/browser.py MODEL PICTURES...

PICTURES are files or folders; of a folder, --count pictures are drawn at random. Prints how many labels agree, how far
the probabilities and the pixels lie apart, and the worst picture. Exits with 1 if a label differs although the two
likeliest classes lie more than 0.05 apart, or if the median difference of the probabilities is above 0.02.

Needs `pip install playwright` and Chromium (Debian: `apt-get install chromium`); CHROMIUM names another browser file.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import functools
import http.server
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo_runtime import PictureError, Predictor, list_pictures

MARGIN, MEDIAN = 0.05, 0.02
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
FLAGS += ("--disable-background-networking", "--disable-component-update")

# In the page: starts a worker of the page, and returns a function that asks it and prepares the pixels as it does.
START = """async () => {
  const { inputOfFile } = await import("./decode.js");
  const info = await (await fetch("model.json")).json();
  const worker = new Worker("worker.js", { type: "module" });
  await new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => data.ready ? resolve() : data.failed && reject(new Error(data.failed));
  });
  window.predict = async (text) => {
    const file = new Blob([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))]);
    const answer = new Promise((resolve) => { worker.onmessage = ({ data }) => resolve(data); });
    worker.postMessage({ id: 0, file });
    const answered = await answer;
    if (answered.error) return answered;
    const pixels = await inputOfFile(file, info.image);
    let binary = "";
    for (let at = 0; at < pixels.length; at += 8192) binary += String.fromCharCode(...pixels.subarray(at, at + 8192));
    return { ...answered, pixels: btoa(binary) };
  };
}"""


@dataclass(frozen=True)
class Compared:
    """How the browser's answer for a picture differs from that of zoo_runtime.

    Args:
        path: The picture.
        same: Whether the label is the same.
        margin: The distance of zoo_runtime's two largest probabilities, in 0..1.
        probability: The largest difference of a probability, in 0..1.
        pixel: The largest difference of a pixel's level, in 0..255.
        mean_pixel: The mean difference of the levels.
        seconds: How long the browser took.
    """

    path: str
    same: bool
    margin: float
    probability: float
    pixel: int
    mean_pixel: float
    seconds: float


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder as `python -m http.server` does, and yield its address."""
    handler = functools.partial(_Quiet, directory=os.fspath(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
    try:
        yield f"http://localhost:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


def chromium() -> str:
    """Return the path of the browser."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not found:
        sys.exit("Chromium was not found. Install it, or let CHROMIUM name its file.")
    return found


def compare(predictor: Predictor, page: Any, path: str) -> Compared | str:
    """Compare the answers for one picture. Return a line of text if one of both cannot read it."""
    data = Path(path).read_bytes()
    answer = page.evaluate("(text) => window.predict(text)", base64.b64encode(data).decode())
    try:
        pixels = predictor.decode(data)
    except PictureError as error:
        return f"{path}: zoo_runtime: {error}; browser: {answer.get('error', 'labeled')}"
    if "error" in answer:
        return f"{path}: zoo_runtime labels it; browser: {answer['error']}"
    row = predictor.probabilities(pixels[None])[0]
    other = np.array(answer["probabilities"])
    theirs = np.frombuffer(base64.b64decode(answer["pixels"]), np.uint8).reshape(pixels.shape)
    apart = abs(pixels.astype(int) - theirs)
    largest = np.sort(row)[::-1]
    return Compared(
        path,
        int(row.argmax()) == int(other.argmax()),
        float(largest[0] - largest[1]),
        float(abs(row - other).max()),
        int(apart.max()),
        float(apart.mean()),
        answer["seconds"],
    )


def report(results: list[Compared]) -> bool:
    """Print the figures. Return whether the limits hold."""
    clear = [each for each in results if each.margin > MARGIN]
    wrong = [each for each in clear if not each.same]
    median = statistics.median(each.probability for each in results)
    worst = max(results, key=lambda each: each.probability)
    equal = sum(each.pixel == 0 for each in results)
    print(f"pictures                        {len(results)}")
    print(f"same label                      {sum(each.same for each in results)} of {len(results)}")
    print(f"same label, margin above {MARGIN}   {len(clear) - len(wrong)} of {len(clear)}")
    print(f"probabilities apart             median {median:.2g}, worst {worst.probability:.2g} ({worst.path})")
    print(f"pixels equal bit for bit        {equal} of {len(results)}")
    levels = statistics.mean(each.mean_pixel for each in results)
    print(f"levels apart                    mean {levels:.2g}, largest {max(each.pixel for each in results)} of 255")
    print(f"time in the browser             median {1000 * statistics.median(each.seconds for each in results):.0f} ms")
    for each in wrong:
        print(f"other label: {each.path}, margin {each.margin:.3f}")
    return not wrong and median <= MEDIAN


def main() -> int:
    """Run the comparison. Return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="an exported file, or its folder")
    parser.add_argument("pictures", nargs="+", help="pictures and folders")
    parser.add_argument("--count", type=int, default=50, help="pictures of each folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ort-web", help="the npm package onnxruntime-web")
    options = parser.parse_args()
    paths = []
    for place in options.pictures:
        listed = list_pictures(place) if os.path.isdir(place) else [place]
        paths += random.Random(options.seed).sample(listed, min(options.count, len(listed)))
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        command = [sys.executable, "-m", "zoo.cli", "export", options.model, "--web", f"{folder}/page"]
        command += ["--ort-web", options.ort_web] if options.ort_web else []
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        predictor = Predictor(f"{folder}/page/model.onnx", tuned=False)
        browser = playwright.chromium.launch(executable_path=chromium(), args=[*FLAGS])
        print(f"Chromium {browser.version}")
        with served(Path(folder) / "page") as url:
            # The page itself forbids what the script below does.
            page = browser.new_context(bypass_csp=True).new_page()
            page.goto(url)
            page.evaluate(START)
            compared = [compare(predictor, page, path) for path in paths]
        browser.close()
    for each in compared:
        if isinstance(each, str):
            print(each)
    results = [each for each in compared if isinstance(each, Compared)]
    return 0 if results and report(results) else 1


if __name__ == "__main__":
    sys.exit(main())
