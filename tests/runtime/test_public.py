"""Test the public names, the tree of errors, what is imported when, and the silence of ONNX Runtime."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import zoo_runtime
import zoo_runtime.workshop
from zoo_runtime import cli

NAMES = {
    "DEFAULT_FORMATS",
    "FORMATS",
    "CameraError",
    "MAX_PIXELS",
    "SUFFIXES",
    "BadSignature",
    "CheckResult",
    "CorruptModel",
    "CorruptPicture",
    "DriftCounter",
    "EngineNotInstalled",
    "FakePredictor",
    "ImageSpec",
    "ModelError",
    "ModelInfo",
    "ModelNotFound",
    "NotAPicture",
    "NotAnExport",
    "NotMeasured",
    "NotUpdated",
    "NotWritten",
    "PictureError",
    "PictureNotFound",
    "PictureTooLarge",
    "Prediction",
    "Predictor",
    "ProviderNotStarted",
    "Settings",
    "Shift",
    "Signer",
    "UnknownSchema",
    "UnknownTask",
    "UnsafeModel",
    "UnsupportedPicture",
    "Updated",
    "Vote",
    "ZooRuntimeError",
    "__version__",
    "check",
    "decode",
    "highest_level",
    "list_pictures",
    "frames",
    "rollback",
    "update",
    "verify_signature",
}

WORKSHOP = {
    "WEIGHTS_DIGEST",
    "with_labels",
    "IGNORED",
    "INPUT",
    "OUTPUT",
    "OtherPredictor",
    "OtherPrograms",
    "Pairs",
    "conversion_advice",
    "exported_in",
    "format_accuracy",
    "format_pixels",
    "is_picture",
    "is_quarantine",
    "is_readable",
    "is_written_by_zoo",
    "parse_formats",
    "parse_pixels",
    "parse_providers",
    "pixel_figures",
    "print_predictions",
    "record",
    "session_options",
    "time_pairs",
    "usable_cores",
    "versions",
    "with_option_names",
}


def test_all_is_exactly_these_names():
    assert set(zoo_runtime.__all__) == NAMES
    assert len(zoo_runtime.__all__) == len(NAMES)


LAZY = {"FakePredictor", "Signer", "Updated", "Vote", "frames", "rollback", "update", "verify_signature"}
"""Names that are imported on first use."""


def test_every_name_exists_and_no_other_public_name_does():
    public = {name for name in vars(zoo_runtime) if not name.startswith("_")} - {"cli", "workshop"}
    assert (public - LAZY) | LAZY | {"__version__"} == NAMES
    assert all(getattr(zoo_runtime, name) is not None for name in NAMES)
    with pytest.raises(AttributeError, match="no attribute 'Predicter'"):
        _ = zoo_runtime.Predicter


def test_what_only_zoo_needs_stands_apart():
    workshop = zoo_runtime.workshop
    assert set(workshop.__all__) == WORKSHOP and not WORKSHOP & NAMES
    # Programs that were written for earlier versions find the names where they were.
    assert all(getattr(zoo_runtime, name) is getattr(workshop, name) for name in WORKSHOP)


CONSTANTS = {"DEFAULT_FORMATS", "FORMATS", "MAX_PIXELS", "SUFFIXES", "__version__"}


def test_every_public_class_and_function_is_documented():
    for name in NAMES - CONSTANTS:
        text = getattr(zoo_runtime, name).__doc__ or ""
        # A dataclass without a docstring gets its signature as one.
        assert text.strip() and not text.startswith(f"{name}("), name


def test_docstrings_name_arguments_shapes_and_errors():
    """Every public function and method says what it takes, and arrays have a dtype and a shape."""
    for owner in sorted(NAMES - CONSTANTS):
        value = getattr(zoo_runtime, owner)
        members = [(owner, value)] if inspect.isfunction(value) else []
        if inspect.isclass(value):
            members = [(f"{owner}.{name}", each) for name, each in vars(value).items() if name[0] != "_"]
            members += [(f"{owner}()", value.__call__)] if "__call__" in vars(value) else []
        for name, member in members:
            function = inspect.unwrap(getattr(member, "__func__", member))
            if not inspect.isfunction(function):
                continue
            text = function.__doc__ or ""
            assert text.strip(), name
            given = [each for each in inspect.signature(function).parameters if each not in ("self", "cls")]
            missing = [each for each in given if f"{each}:" not in text and f"`{each}`" not in text]
            assert not missing, (name, missing)
            if "NDArray" in str(function.__annotations__.get("return", "")):
                assert re.search(r"(uint8|float32) arrays?[^.]*\(", text.partition("Returns:")[2]), name
            if re.search(r"^\s+raise ", inspect.getsource(function), re.M):
                assert "Raises:" in text, name


def test_suffixes_are_lower_case_endings():
    assert {".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".bmp"} <= zoo_runtime.SUFFIXES
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in zoo_runtime.SUFFIXES)


@pytest.mark.parametrize(
    "base, names",
    [
        ("PictureError", "PictureNotFound NotAPicture CorruptPicture PictureTooLarge UnsupportedPicture"),
        (
            "ModelError",
            "ModelNotFound CorruptModel NotAnExport UnsafeModel BadSignature UnknownSchema UnknownTask "
            "ProviderNotStarted",
        ),
        ("ZooRuntimeError", "PictureError ModelError CameraError NotWritten NotMeasured NotUpdated"),
    ],
)
def test_error_tree(base, names):
    for name in names.split():
        assert getattr(zoo_runtime, name).__bases__ == (getattr(zoo_runtime, base),)
    assert zoo_runtime.ZooRuntimeError.__bases__ == (Exception,)


def test_a_device_needs_only_onnxruntime_numpy_and_pillow():
    """Importing and loading must not reach for the workshop's packages, which a device does not have."""
    code = (
        "import sys, zoo_runtime, zoo_runtime.cli, zoo_runtime._bench\n"
        "heavy = {'tensorflow', 'keras', 'onnx', 'click', 'rich', 'pluggy', 'zoo', 'zoo_plugins', 'sklearn', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def modules_after(code: str, *arguments: object) -> set[str]:
    """Run code in a process of its own, and return the modules that it has loaded."""
    code += "\nimport sys; print(*sys.modules, sep='\\n', file=sys.stderr)"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stderr.split())


def test_nothing_is_imported_before_it_is_needed(model, pictures):
    """The import, the command and the first label of a process must not wait for what they do not use."""
    needed = modules_after("import numpy, PIL.Image")
    imported = modules_after("import zoo_runtime") - needed
    assert "zoo_runtime._predictor" in imported
    assert not imported & {"onnxruntime", "argparse", "hashlib", "concurrent.futures"}
    assert not imported & {"zoo_runtime._fake", "zoo_runtime._png", "zoo_runtime._tiff", "zoo_runtime._jpeg2000"}
    assert not imported & {"zoo_runtime.cli", "zoo_runtime._print", "zoo_runtime._bench"}

    code = "import sys; from zoo_runtime.cli import main; main(sys.argv[1:])"
    labelled = modules_after(code, "predict", model, pictures / "red.jpg")
    assert {"onnxruntime", "zoo_runtime._print"} <= labelled
    needed = modules_after("import argparse, numpy, onnxruntime, PIL.JpegImagePlugin")
    assert not (labelled - needed) & {"hashlib", "concurrent.futures", "zoo_runtime._bench", "PIL.PngImagePlugin"}


def test_print_predictions_prints_what_the_command_prints(model, pictures, capsys):
    paths = [str(pictures / "red.jpg"), str(pictures / "damaged.jpg")]
    assert zoo_runtime.workshop.print_predictions(str(model), paths, top=2) == 1
    ours = capsys.readouterr()
    assert cli.main(["predict", str(model), *paths, "--top", "2"]) == 1
    assert ours == capsys.readouterr()
    assert ours.out.startswith(f"{paths[0]}: red ") and ours.err.startswith(f"{paths[1]}: damaged: ")


def test_parse_providers():
    assert zoo_runtime.workshop.parse_providers("cpu") == ["cpu"]
    assert zoo_runtime.workshop.parse_providers(" CPU, CPUExecutionProvider") == ["CPU", "CPUExecutionProvider"]
    for text in ("cpu,nonsense", "nonsense", "", "cpu,"):
        with pytest.raises(ValueError, match=r"cpu.*Received: '(nonsense)?'"):
            zoo_runtime.workshop.parse_providers(text)


def test_the_readme_names_the_lowest_versions():
    folder = Path(__file__).resolve().parents[2] / "runtime"
    needs = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    rows = re.findall(r"^\| (\w+) \| (\d[\d.]*) \|", (folder / "README.md").read_text("utf-8"), re.M)
    assert sorted(f"{name.lower()}>={version}" for name, version in rows) == sorted(needs)


def test_the_readme_lists_all_commands_and_all_errors():
    text = (Path(__file__).resolve().parents[2] / "runtime" / "README.md").read_text("utf-8")
    listed = re.findall(r"^    zoo-runtime (\w+) ", text.split("## Commands")[1].split("## In a program")[0], re.M)
    assert set(listed) == set(cli.COMMANDS)
    tree = re.search(r"^    ZooRuntimeError\n((?:        .*\n)+)", text, re.M)[1]
    errors = {
        name
        for name in zoo_runtime.__all__
        if isinstance(getattr(zoo_runtime, name), type) and issubclass(getattr(zoo_runtime, name), Exception)
    }
    assert set(re.findall(r"\w+", tree)) == errors - {"ZooRuntimeError"}


def test_the_fake_predictor_of_the_readme_works():
    text = (Path(__file__).resolve().parents[2] / "runtime" / "README.md").read_text("utf-8")
    (program,) = [code for code in re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S) if "FakePredictor(" in code]
    assert program.count("assert") == 3
    exec(program, {})


PROGRAM = """
from pathlib import Path
import numpy as np
import numpy.typing as npt
from zoo_runtime import FakePredictor, PictureError, Prediction, Predictor, Vote, check, frames


def label(predictor: Predictor, frame: npt.NDArray[np.uint8], names: list[str], paths: list[Path]) -> str | None:
    several: list[Prediction] = predictor(["cat.jpg", Path("dog.jpg"), b"", frame])
    several += predictor(names) + predictor(paths) + predictor((frame, frame)) + predictor([])
    one: Prediction = predictor(frame, order="bgr")
    rows: npt.NDArray[np.float32] = predictor.probabilities(predictor.decode("cat.jpg")[None])
    for path, result in predictor.predict_folder("photos"):
        print(path, result.args if isinstance(result, PictureError) else result.label, rows.shape)
    vote = Vote(0.5)
    for each in frames("0", say=print):
        vote.add(predictor(each, order="bgr").label)
    check(predictor).passed
    return one.label or several[0].top(1)[0][0]


label(FakePredictor(["cats", {"cats": 0.4}, Prediction(None, 0.5, {}, unknown=True)]), np.zeros(1, np.uint8), [], [])
"""


@pytest.mark.slow
def test_a_program_of_a_user_passes_mypy_strict(tmp_path):
    pytest.importorskip("mypy", reason="needs mypy, which pip install 'finezoo[test]' brings")
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports", "silent", "--cache-dir", tmp_path, path]
    folder = Path(zoo_runtime.__file__).resolve().parents[1]
    # A checkout has to be named. mypy finds what is installed, and refuses to have site-packages named.
    env = os.environ if folder.name == "site-packages" else {**os.environ, "MYPYPATH": str(folder)}
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert (folder / "zoo_runtime" / "py.typed").exists()


def test_the_command_alone_prints_its_help(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([])
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("usage: zoo-runtime") and all(f"\n    {name} " in err for name in cli.COMMANDS)


@pytest.mark.parametrize("words", [["predict", "model", "-dash.jpg"], ["predict", "model", "a.jpg", "-dash.jpg"]])
def test_a_file_that_looks_like_an_option_gets_a_hint(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        cli.main(words)
    assert "is meant as a file" not in capsys.readouterr().err
    (tmp_path / "-dash.jpg").touch()
    with pytest.raises(SystemExit, match="2"):
        cli.main(words)
    assert capsys.readouterr().err.endswith("If '-dash.jpg' is meant as a file, write './-dash.jpg'.\n")


def test_a_missing_extra_names_the_pip_of_its_own_environment(monkeypatch):
    from zoo_runtime._extras import install_line

    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/pip")
    monkeypatch.setattr(sys, "executable", "/usr/bin/python")
    assert install_line("camera").startswith("Run `pip install 'finezoo-runtime[camera]'` (")
    # /opt/zoo/venv/bin/zoo-runtime, typed in a shell in which that environment is not active.
    monkeypatch.setattr(sys, "executable", "/opt/zoo/venv/bin/python")
    assert "`/opt/zoo/venv/bin/python -m pip install 'finezoo-runtime[camera]'`" in install_line("camera")


# Telemetry of ONNX Runtime

ENVIRONMENT = {key: value for key, value in os.environ.items() if key in ("PATH", "PYTHONPATH", "PYTHONHOME")}
"""The environment without the variables of a CI. In a CI, ONNX Runtime sends nothing anyway."""


def test_nothing_is_sent_and_nothing_is_left_in_the_home_folder(model, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    code = "import sys; from zoo_runtime.cli import main; sys.exit(main(sys.argv[1:]))"
    subprocess.run(
        [sys.executable, "-c", code, "check", str(model)],
        env={**ENVIRONMENT, "HOME": str(home)},
        check=True,
        capture_output=True,
    )
    assert list(home.rglob("*")) == []


@pytest.mark.parametrize("given, kept", [(None, "1"), ("0", "0"), ("", "")])
def test_the_environment_is_written_on_first_use_and_never_against_the_user(model, given, kept):
    code = (
        "import os, sys\n"
        "before = dict(os.environ)\n"
        "import zoo_runtime, zoo_runtime.cli, zoo_runtime._bench\n"
        "assert dict(os.environ) == before, 'importing changed the environment'\n"
        "zoo_runtime.Predictor(sys.argv[1])\n"
        "changed = {key: value for key, value in os.environ.items() if before.get(key) != value}\n"
        "assert set(changed) <= {'ORT_DISABLE_TELEMETRY'}, changed\n"
        "print(repr(os.environ['ORT_DISABLE_TELEMETRY']))"
    )
    # Values other than "1" may switch the telemetry on. "CI" keeps it silent for this test.
    environment = {**ENVIRONMENT, "CI": "true", **({} if given is None else {"ORT_DISABLE_TELEMETRY": given})}
    ran = subprocess.run([sys.executable, "-c", code, str(model)], env=environment, capture_output=True, text=True)
    assert (ran.stdout.strip(), ran.stderr) == (repr(kept), "")


def test_onnxruntime_is_imported_in_one_place():
    """Any other import could come first, before the telemetry is switched off."""
    importing = []
    for path in Path(zoo_runtime.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            importing += [path.name for name in names if name.split(".")[0] == "onnxruntime"]
    assert importing == ["_onnxruntime.py"]
