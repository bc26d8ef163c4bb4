"""Fixtures for all tests: an isolated environment, all plugins, the command `zoo`, pictures, and a finished run."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import site
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """If a process of pytest-xdist ends by itself, say how: pytest-xdist does not."""
    if error:
        process = node.gateway._io.popen
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
        print(f"\n{node.gateway.id} ended with {process.returncode}; minus a number is a signal", file=sys.stderr)


@pytest.fixture(autouse=True)
def environment(tmp_path_factory, monkeypatch):
    """Isolate every test from the user's caches and weights, and switch off zoo's downloads."""
    home = tmp_path_factory.mktemp("home")
    for name in ("ZOO_WEIGHTS_DIR", "ZOO_STRICT_PLUGINS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ZOO_CACHE", str(home / "cache"))
    monkeypatch.setenv("KERAS_HOME", str(home / "keras"))
    monkeypatch.setenv("ZOO_OFFLINE", "1")


@pytest.fixture(scope="session")
def plugins():
    """Load all installed plugins, and return the registry.

    A test that installs another plugin must load a new registry.
    """
    from zoo.plugin import registry

    return registry.load()


@dataclass
class Ran:
    """The exit code of a command, and its output on stdout and stderr."""

    code: int
    out: str
    err: str


@pytest.fixture
def zoo(monkeypatch, capsys):
    """Return a function that runs the command `zoo` with some arguments and returns a `Ran`.

    The command runs in the process of the tests, so that they import TensorFlow only once.
    """

    def run(*arguments: object) -> Ran:
        from zoo import cli

        monkeypatch.setattr(sys, "argv", ["zoo", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        return Ran(stopped.value.code or 0, captured.out, captured.err)

    return run


def write_photos(folder: Path, per_class: int, size: tuple[int, int] = (60, 80), seed: int = 0) -> None:
    """Write synthetic JPEGs of three classes that a network can distinguish: green bars, red discs and blue noise.

    Args:
        folder: One folder per class is created in it.
        per_class: Number of pictures per class. All pictures are different.
        size: (height, width) in pixels.
        seed: The same seed gives the same pictures.
    """
    rng = np.random.default_rng(seed)
    height, width = size
    y, x = np.mgrid[0:height, 0:width]
    for label in ("bars", "discs", "noise"):
        (folder / label).mkdir(parents=True, exist_ok=True)
        for i in range(per_class):
            picture = rng.integers(0, 60, (height, width, 3))
            shift = rng.integers(-8, 9, 2)
            if label == "discs":
                picture[np.hypot(y - height / 2 - shift[0], x - width / 2 - shift[1]) < height / 3, 0] = 230
            elif label == "bars":
                picture[:, ((x + shift[0]) // 8 % 2 == 0)[0], 1] = 230
            else:
                picture[..., 2] = rng.integers(0, 256, (height, width))
            Image.fromarray(picture.astype(np.uint8)).save(folder / label / f"{label}{i:03}.jpg", quality=92)


def scene(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Make a picture of soft colored areas with some detail. Two seeds give pictures that have nothing in common.

    Args:
        seed: The same seed gives the same picture.
        size: (width, height) in pixels.
    """
    rng = np.random.default_rng(seed)
    areas = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    detail = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    return Image.blend(areas, detail, 0.25)


@pytest.fixture
def scenes():
    """Return the function `scene`, which makes pictures that differ as photographs do."""
    return scene


@pytest.fixture(scope="session")
def make_photos():
    """Return the function `write_photos`; a test cannot import it, because several folders have a conftest."""
    return write_photos


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """Return a function that makes a folder once for all processes of pytest-xdist: `shared(name, make)`.

    No test may change what is in it.
    """

    def folder(name: str, make: Callable[[Path], None]) -> Path:
        if "PYTEST_XDIST_WORKER" not in os.environ:
            path = tmp_path_factory.mktemp(name)
            make(path)
            return path
        # The tests of the runtime alone do without this package.
        import filelock

        path = tmp_path_factory.getbasetemp().parent / name
        done = path.with_suffix(".done")
        with filelock.FileLock(path.with_suffix(".lock")):
            if not done.exists():
                # What has failed halfway in another process is made again.
                shutil.rmtree(path, ignore_errors=True)
                path.mkdir()
                make(path)
                done.touch()
        return path

    return folder


@pytest.fixture(scope="session")
def photos(shared) -> Path:
    """Write three class folders with 24 synthetic pictures each, and return their parent folder."""
    return shared("data", lambda folder: write_photos(folder / "photos", 24)) / "photos"


@pytest.fixture(scope="session")
def finished(shared, photos):
    """Fine-tune the smallest MobileNetV2 on `photos`; return (run folder, folder of exports, printed text)."""
    folder = shared("finished", lambda folder: _fine_tune(folder, photos))
    (run,) = (folder / "runs").iterdir()
    return run, folder / "exported", (folder / "printed.txt").read_text()


def _fine_tune(folder: Path, photos: Path) -> None:
    """Fine-tune the smallest MobileNetV2 on pictures, into a folder. What it printed is in printed.txt."""
    from zoo import cli

    patch = pytest.MonkeyPatch()
    patch.setenv("ZOO_CACHE", str(folder / "cache"))
    patch.setenv("KERAS_HOME", str(folder / "keras"))
    patch.setenv("ZOO_OFFLINE", "1")
    patch.delenv("ZOO_WEIGHTS_DIR", raising=False)
    arguments = ["finetune", "mobilenetv2_035", "--data", photos, "--size", 32, "--epochs", 25, "--batch-size", 8]
    arguments += ["--runs", folder / "runs", "--exported", folder / "exported", "--name", "shapes"]
    patch.setattr(sys, "argv", ["zoo", *map(str, arguments)])
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stopped:
        cli.main()
    patch.undo()
    assert not stopped.value.code, err.getvalue()
    (folder / "printed.txt").write_text(out.getvalue() + err.getvalue())


@pytest.fixture
def install_plugin(tmp_path, monkeypatch):
    """Return a function that installs a plugin for one test: a module and distribution metadata on sys.path."""

    def install(name: str, code: str, distribution: str | None = None) -> None:
        folder = tmp_path / f"site-{name}"
        distribution = distribution or f"zoo-{name}"
        info = folder / f"{distribution.replace('-', '_')}-1.2.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[zoo.plugins]\n{name} = {name}_plugin_module\n")
        (folder / f"{name}_plugin_module.py").write_text(code)
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.setenv(
            "PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        )
        monkeypatch.delitem(sys.modules, f"{name}_plugin_module", raising=False)

    return install


@pytest.fixture
def environment_of_a_user(tmp_path, monkeypatch):
    """Make a virtual environment that sees everything installed here, and into which packages can be installed.

    Returns:
        A function that runs `python ARGUMENTS` in it and returns the finished process.
    """
    folder = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (python,) = [path for path in (folder / "bin" / "python", folder / "Scripts" / "python.exe") if path.exists()]
    (own,) = {Path(path) for path in folder.rglob("site-packages")}
    # addsitedir, so that an editable installation of zoo is found too.
    seen = [path for path in site.getsitepackages() if os.path.isdir(path)]
    (own / "seen.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in seen))
    for name in ("PIP_TARGET", "PIP_PREFIX", "PIP_USER"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess:
        command = [python, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=cwd or tmp_path)

    return run


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Return the folder of real pictures that ZOO_TEST_DATA names. Skip the test if the variable is not set."""
    given = os.environ.get("ZOO_TEST_DATA")
    if not given:
        pytest.skip("ZOO_TEST_DATA does not name a folder of real pictures")
    return Path(given)


REAL_WEIGHTS = os.environ.get("ZOO_WEIGHTS_DIR")


@pytest.fixture
def real_weights(monkeypatch) -> Path:
    """Set ZOO_WEIGHTS_DIR to the folder that the user chose, and return it. Skip the test if the user chose none.

    The user's choice is the value of ZOO_WEIGHTS_DIR before the tests start; the fixture `environment` removes it.
    """
    if not REAL_WEIGHTS:
        pytest.skip("ZOO_WEIGHTS_DIR does not name a folder of real weights")
    monkeypatch.setenv("ZOO_WEIGHTS_DIR", REAL_WEIGHTS)
    return Path(REAL_WEIGHTS)
