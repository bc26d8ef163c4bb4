"""The two distributions: what the wheels hold, that their metadata agree, and that a clone needs nothing else."""

from __future__ import annotations

import email
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import zoo_runtime

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module", params=[".", "runtime"])
def wheel(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", REPOSITORY / request.param, "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*command, "--wheel-dir", folder, "--quiet"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return request.param, zipfile.ZipFile(path)


def metadata(archive: zipfile.ZipFile):
    (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    return email.message_from_bytes(archive.read(name))


def test_no_top_level_module_but_ours(wheel):
    which, archive = wheel
    top = {name.split("/")[0] for name in archive.namelist()}
    modules = {name for name in top if not name.endswith(".dist-info")}
    assert modules == ({"zoo", "zoo_plugins", "zoo_runtime"} if which == "." else {"zoo_runtime"})


def test_every_source_file_is_in_the_wheel(wheel):
    which, archive = wheel
    folders = {"zoo": "zoo", "zoo_plugins": "plugins/zoo_plugins", "zoo_runtime": "runtime/zoo_runtime"}
    for package, folder in folders.items() if which == "." else [("zoo_runtime", "runtime/zoo_runtime")]:
        sources = [
            path for path in (REPOSITORY / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts
        ]
        assert len(sources) >= 5
        for path in sources:
            name = f"{package}/{path.relative_to(REPOSITORY / folder).as_posix()}"
            assert archive.read(name) == path.read_bytes()
        # Type checkers read a package's annotations only if it says that it has them.
        assert f"{package}/py.typed" in archive.namelist()


def test_name_version_and_commands(wheel):
    which, archive = wheel
    facts = metadata(archive)
    assert facts["Name"] == ("finezoo" if which == "." else "finezoo-runtime")
    assert facts["Version"] == zoo_runtime.__version__
    assert set(facts["Requires-Python"].split(",")) == {">=3.11", "<3.14"}
    (name,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
    scripts = archive.read(name).decode()
    assert "zoo-runtime = zoo_runtime.cli:run" in scripts
    assert ("zoo = zoo.__main__:run" in scripts) is (which == ".")


def test_the_runtime_needs_three_packages_and_finezoo_none_of_them_in_an_older_version():
    def floors(path: str) -> dict[str, tuple[int, ...]]:
        dependencies = tomllib.loads((REPOSITORY / path).read_text())["project"]["dependencies"]
        pairs = [line.split(">=") for line in dependencies]
        return {name: tuple(map(int, version.split("."))) for name, version in pairs}

    runtime, workshop = floors("runtime/pyproject.toml"), floors("pyproject.toml")
    assert set(runtime) == {"numpy", "onnxruntime", "pillow"}
    assert {name for name, version in runtime.items() if workshop[name] < version} == set()
    # Older versions have known holes.
    assert workshop["keras"] >= (3, 15) and workshop["onnx"] >= (1, 21)
    assert workshop["pillow"] >= (12, 3) and workshop["onnxruntime"] >= (1, 27)


def test_the_runtime_imports_nothing_it_does_not_need(tmp_path):
    """In a process where every other package of the workshop is made unimportable."""
    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'tensorflow', 'keras', 'onnx', 'click', 'pluggy', 'zoo', 'zoo_plugins',\n"
        "                                  'sklearn', 'scipy', 'requests', 'rich'}:\n"
        "            raise ImportError('not on the device: ' + name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from zoo_runtime.cli import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    model = REPOSITORY / "exported" / "mobilenetv2_035-digits"
    done = subprocess.run([sys.executable, "-c", code, "check", os.fspath(model)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "passed" in done.stdout
