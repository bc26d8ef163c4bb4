"""Slips of a new user: a forgotten option or a wrong file gets an answer that says what to type."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with folders of pictures, a file of pictures, and a run."""
    for name in ("photos", "my photos", "3", "run1", "run2"):
        (tmp_path / name).mkdir()
    for name in ("run1", "run2"):
        (tmp_path / name / "run.json").touch()
    (tmp_path / "labels.csv").touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", ["finetune", "lr-find"])
@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("mobilenetv2", "photos/"), "mobilenetv2 --data photos/"),
        (("mobilenetv2", "labels.csv"), "mobilenetv2 --data labels.csv"),
        (("mobilenetv2", "digits"), "mobilenetv2 --data digits"),
        (("mobilenetv2", "my photos", "--epochs", "3"), "mobilenetv2 --data 'my photos' --epochs 3"),
        (("--epochs", "3", "mobilenetv2", "3"), "--epochs 3 mobilenetv2 --data 3"),
        (("mobilenetv2", "3", "--epochs", "3"), "mobilenetv2 --data 3 --epochs 3"),
        (("--weights", "photos", "mobilenetv2", "photos"), "--weights photos mobilenetv2 --data photos"),
        (("mobilenetv2", "photos", "--weights", "photos"), "mobilenetv2 --data photos --weights photos"),
    ],
)
def test_a_forgotten_data_option(zoo, here, command, arguments, hint):
    ran = zoo(command, *arguments)
    assert ran.code == 2 and f"Give pictures with --data: `zoo {command} {hint}`" in ran.err


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (("evaluate", "shapes", "photos"), "zoo evaluate shapes --data photos"),
        (("export", "20260101T120000Z-net-aaaaaa", "photos"), "zoo export 20260101T120000Z-net-aaaaaa --data photos"),
        (("augment", "preview", "light", "photos"), "zoo augment preview light --data photos"),
        (
            ("finetune", "mobilenetv2", "photos", "--name", "photos"),
            "zoo finetune mobilenetv2 --data photos --name photos",
        ),
        (("finetune", "photos", "--name", "photos"), "zoo finetune mobilenetv2 --data photos --name photos"),
        (("export", "photos", "--top", "--size", "96"), "zoo export mobilenetv2 --data photos --top --size 96"),
    ],
)
def test_a_forgotten_data_option_of_other_commands(zoo, here, arguments, command):
    ran = zoo(*arguments)
    assert ran.code == 2 and f"`{command}`" in ran.err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("export", "run1", "run2"), "unexpected argument 'run2'. Give pictures with --data, such as"),
        (("evaluate", "run1", "nothing-of-this-name"), "unexpected argument 'nothing-of-this-name'."),
        (("finetune", "mobilenetv2", "--", "photos"), "unexpected argument 'photos'."),
        (("finetune", "--", "photos"), "'photos' is a path, not an architecture."),
        (("finetune", "photos", "--data", "photos"), "'photos' is a path, not an architecture."),
        (("verify", "photos", "--data", "photos"), "'photos' is a path, not an architecture."),
        (("finetune", "run1"), "'run1' is a path, not an architecture."),
    ],
)
def test_no_command_is_suggested_where_none_would_work(zoo, here, arguments, problem):
    ran = zoo(*arguments)
    assert ran.code == 2 and problem in ran.err and "`zoo " not in ran.err.replace("`zoo list` shows", "")


@pytest.mark.parametrize(
    "arguments", [("mobilenetv2", "a.jpg", "b.jpg", "c.jpg", "d.jpg"), ("mobilenetv2", "more", "--data", "photos")]
)
def test_several_arguments_are_one_folder(zoo, arguments):
    ran = zoo("finetune", *arguments)
    assert ran.code == 2 and "unexpected arguments: " in ran.err and "all pictures with one --data" in ran.err
    assert "d.jpg" not in ran.err


@pytest.mark.parametrize("command", ["finetune", "lr-find"])
def test_a_folder_instead_of_an_architecture(zoo, photos, command):
    ran = zoo(command, photos)
    assert ran.code == 2 and "is a path, not an architecture" in ran.err
    assert f"`zoo {command} mobilenetv2 --data {photos}`" in ran.err


def test_a_misspelled_architecture(zoo):
    ran = zoo("finetune", "mobilnetv2")
    assert ran.code == 2 and "Did you mean mobilenetv2" in ran.err


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("train", "finetune"), ("classify", "predict"), ("exprot", "export"), ("finetune2", "finetune")],
)
def test_an_unknown_command_suggests_one(zoo, typed, meant):
    ran = zoo(typed, "mobilenetv2")
    assert ran.code == 2 and f"there is no command {typed!r}. Did you mean `zoo {meant}`?" in ran.err
    assert "`zoo --help` lists the commands" in zoo("abracadabra").err


def test_the_start_of_a_name_suggests_the_family(zoo):
    ran = zoo("info", "mobilenetv3")
    assert ran.code == 2 and "Did you mean mobilenetv3_large, " in ran.err and "or mobilenetv3_small" in ran.err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--lr", "0.1"), "No such option '--lr'. Did you mean '--learning-rate'?"),
        (("--seed", "x"), "must be a whole number from 0 to 2147483647. Received: 'x'."),
        (("--batch-size", "0"), "must be a whole number from 1 to 4096. Received: '0'."),
        (("--patience", "-1"), "must be a whole number of 0 or more. Received: '-1'."),
        (("--weights", "cat.jpg"), "the weights file 'cat.jpg' cannot be read: No such file"),
    ],
)
def test_an_option_says_what_is_allowed(zoo, option, message):
    ran = zoo("finetune", "mobilenetv2", *option)
    assert ran.code and message in " ".join(ran.err.split())


def test_the_summaries_of_all_commands_fit_a_terminal(zoo):
    printed = zoo("--help").out
    lines = printed.partition("Commands:\n")[2].splitlines()
    assert len(lines) == 22 and not any(line.endswith("...") for line in lines)
    assert max(map(len, printed.splitlines())) <= 80


def test_swapped_arguments_of_predict(zoo, finished, photos):
    picture = next((photos / "discs").iterdir())
    ran = zoo("predict", picture, finished[1] / "shapes" / "model.onnx")
    assert ran.code == 2 and "protobuf" not in ran.err.lower()
    assert f"zoo predict {finished[1] / 'shapes' / 'model.onnx'} {picture}" in ran.err


@pytest.mark.parametrize("command", ["export", "plot"])
def test_an_export_instead_of_a_run(zoo, finished, tmp_path, monkeypatch, command):
    run, exported, _ = finished
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exported").symlink_to(exported)
    for text in ("shapes", "exported/shapes", "exported/shapes/model.onnx"):
        ran = zoo(command, text, "--runs", run.parent)
        assert (
            ran.code == 2 and f"{text!r} is an export, not a run. It came from {run}: `zoo {command} {run}`" in ran.err
        )
    ran = zoo(command, "shapes")
    assert ran.code == 2 and f"It came from the run {run.name}, which is not in 'runs'" in ran.err


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("export", ("--fp16", "--max-drop", "2.0", "--name", "my shapes")),
        ("export", ("--size", "64x64", "--exported", "exported")),
        ("plot", ("--output", "a.png", "--smooth", "0.5")),
    ],
)
def test_the_suggested_command_repeats_the_options(zoo, finished, tmp_path, monkeypatch, command, options):
    run, exported, _ = finished
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exported").symlink_to(exported)
    ran = zoo(command, "shapes", *options, "--runs", run.parent)
    assert ran.code == 2
    (suggested,) = re.findall(r"`(.*)`", ran.err)
    words = shlex.split(suggested)
    assert words[:3] == ["zoo", command, str(run)]
    assert sorted(words[3:]) == sorted(options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("finetune", "--data", "my photos"), "ARCH is missing. Name an architecture, such as mobilenetv2: "),
        (("finetune", "--data", "my photos"), "`zoo finetune mobilenetv2 --data 'my photos'`"),
        (("lr-find",), "`zoo lr-find mobilenetv2`"),
        (("finetune", "photos", "mobilenetv2"), "`zoo finetune mobilenetv2 --data photos`"),
        (("finetune", "photos", "vgg16", "--epochs", "3"), "`zoo finetune vgg16 --epochs 3 --data photos`"),
        (("evaluate", "photos", "shapes"), "`zoo evaluate shapes --data photos`"),
        (("export", "mobilenetv2"), "is an architecture, not a run. `zoo export mobilenetv2 --top` exports"),
        (("export", "mnist_dense"), "there is no run 'mnist_dense'"),
        (("schedule", "fine-tune", "mobilenetv2"), "Did you mean `zoo schedule show fine-tune mobilenetv2`?"),
        (("schedule", "shwo", "full", "vgg16"), "Did you mean `zoo schedule show full vgg16`?"),
        (("augment", "light"), "Did you mean `zoo augment preview light`?"),
        (("list", "weight"), "Did you mean `zoo list weights`?"),
        (("finetune", "mobilenetv2", "--epoch", "3"), "No such option '--epoch'. Did you mean '--epochs'?"),
    ],
)
def test_the_right_command_is_suggested(zoo, here, arguments, message):
    ran = zoo(*arguments)
    assert ran.code == 2 and message in ran.err


def test_help_and_options_work_as_ever(zoo):
    assert zoo("finetune", "--help").code == 0
    ran = zoo("finetune", "mobilenetv2", "--no-such-option")
    assert ran.code == 2 and "--no-such-option" in ran.err


def test_augment_preview_has_pictures_of_its_own(zoo, tmp_path):
    ran = zoo("augment", "preview", "light", "--output", tmp_path / "sheet.png")
    assert ran.code == 0, ran.err
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert min(sheet.size) > 100


def write_picture(path):
    Image.new("RGB", (40, 40)).save(path, "PNG")


def write_onnx(path):
    path.write_bytes(b"\x08\x08\x12\x03zoo")


def write_text(path):
    path.write_text("weights")


CODE = """
import sys
from zoo import cli
sys.argv = ["zoo", *sys.argv[1:]]
try:
    cli.main()
finally:
    print("imported:", *sorted({"keras", "tensorflow"} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("model.onnx", write_onnx),
        ("cat.png", write_picture),
        ("cat.h5", write_picture),
        ("model.keras", write_text),
        ("model.h5", write_onnx),
    ],
)
def test_a_file_that_holds_no_weights_is_refused_before_keras_starts(tmp_path, photos, name, write):
    write(tmp_path / name)
    command = ["finetune", "mobilenetv2_035", "--data", photos, "--size", 32, "--weights", tmp_path / name]
    done = subprocess.run(
        [sys.executable, "-c", CODE, *map(str, command)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 1, done.stderr
    assert f"{str(tmp_path / name)!r} does not hold weights that zoo can load" in done.stderr
    assert ".h5" in done.stderr and "model.keras" in done.stderr and "Traceback" not in done.stderr
    assert done.stdout.splitlines()[-1] == "imported:"
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == []


@pytest.mark.parametrize("parameters", [829_536, 1_000])
def test_an_h5_file_of_another_network_is_refused_before_keras_starts(tmp_path, photos, parameters):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.create_dataset("conv1/conv1/kernel:0", data=np.zeros(parameters, "float32"))
        file.attrs["layer_names"], file["conv1"].attrs["weight_names"] = ["conv1"], ["conv1/kernel:0"]
    command = ["finetune", "mobilenetv2_035", "--data", photos, "--size", 32, "--weights", tmp_path / "other.h5"]
    done = subprocess.run(
        [sys.executable, "-c", CODE, *map(str, command)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 1, done.stderr
    assert f"does not fit mobilenetv2_035: the file holds {parameters:,} parameters" in done.stderr
    assert ", and 410,208 are needed" in done.stderr
    assert done.stdout.splitlines()[-1] == "imported:"
    assert not (tmp_path / "runs").exists()


def test_weights_of_another_network_are_refused_in_plain_words(zoo, finished, photos, tmp_path):
    other = tmp_path / "model.keras"
    shutil.copyfile(finished[0] / "model.keras", other)
    folders = ("--runs", tmp_path / "runs", "--exported", tmp_path / "exported")
    ran = zoo("finetune", "mobilenet_025", "--data", photos, "--size", 32, "--weights", other, *folders)
    assert ran.code == 1 and f"error: {str(other)!r}" in ran.err and "Traceback" not in ran.err
    assert "does not fit" in ran.err or "another architecture" in ran.err
    assert not (tmp_path / "exported").exists()
