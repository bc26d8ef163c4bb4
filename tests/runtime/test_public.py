"""The public surface: exactly these names, and the errors as the tree that `_errors.py` draws."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import zoo_runtime

NAMES = {
    "INPUT",
    "MAX_PIXELS",
    "OUTPUT",
    "SUFFIXES",
    "CheckResult",
    "CorruptModel",
    "CorruptPicture",
    "ImageSpec",
    "ModelError",
    "ModelInfo",
    "ModelNotFound",
    "NotAPicture",
    "NotAnExport",
    "NotMeasured",
    "NotWritten",
    "Pairs",
    "PictureError",
    "PictureNotFound",
    "PictureTooLarge",
    "Prediction",
    "Predictor",
    "ProviderNotStarted",
    "Settings",
    "UnknownSchema",
    "UnknownTask",
    "UnsupportedPicture",
    "ZooRuntimeError",
    "__version__",
    "check",
    "decode",
    "list_pictures",
    "record",
    "time_pairs",
    "versions",
}


def test_all_is_exactly_these_names():
    assert set(zoo_runtime.__all__) == NAMES
    assert len(zoo_runtime.__all__) == len(NAMES)


def test_every_name_exists_and_no_other_public_name_does():
    public = {name for name in vars(zoo_runtime) if not name.startswith("_")} - {"cli"}
    assert public | {"__version__"} == NAMES


def test_every_public_class_and_function_is_documented():
    for name in NAMES - {"INPUT", "OUTPUT", "MAX_PIXELS", "SUFFIXES", "__version__"}:
        assert (getattr(zoo_runtime, name).__doc__ or "").strip(), name


def test_suffixes_are_lower_case_endings():
    assert {".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".bmp"} <= zoo_runtime.SUFFIXES
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in zoo_runtime.SUFFIXES)


@pytest.mark.parametrize(
    "base, names",
    [
        ("PictureError", "PictureNotFound NotAPicture CorruptPicture PictureTooLarge UnsupportedPicture"),
        ("ModelError", "ModelNotFound CorruptModel NotAnExport UnknownSchema UnknownTask ProviderNotStarted"),
        ("ZooRuntimeError", "PictureError ModelError NotWritten NotMeasured"),
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


def test_the_first_label_waits_for_no_import_that_it_does_not_need():
    shown = "print(sorted({'concurrent.futures', 'hashlib', 'zoo_runtime._bench'} & set(sys.modules)))"
    ran, parts = (
        subprocess.run([sys.executable, "-c", f"import sys, {text}; {shown}"], capture_output=True, check=True)
        for text in ("zoo_runtime.cli", "numpy, onnxruntime, PIL.Image")
    )
    assert ran.stdout == parts.stdout


def test_nothing_is_told_to_anybody_and_nothing_left_in_the_home_folder(model, tmp_path):
    """onnxruntime's telemetry, which is silent by itself where it sees a CI."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {key: value for key, value in os.environ.items() if key in ("PATH", "PYTHONPATH", "PYTHONHOME")}
    code = "import sys; from zoo_runtime.cli import main; sys.exit(main(sys.argv[1:]))"
    subprocess.run(
        [sys.executable, "-c", code, "check", str(model)],
        env={**environment, "HOME": str(home)},
        check=True,
        capture_output=True,
    )
    assert list(home.rglob("*")) == []
