"""Test the command `zoo-runtime` through `main`: what it prints and how it exits."""

from __future__ import annotations

import base64
import copy
import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

import zoo_runtime
from zoo_runtime.cli import main


@dataclass
class Ran:
    code: int
    out: list[str]
    err: list[str]


@pytest.fixture
def run(capsys):
    def call(*arguments: object) -> Ran:
        code = main([os.fspath(a) if isinstance(a, os.PathLike) else str(a) for a in arguments])
        captured = capsys.readouterr()
        return Ran(code, captured.out.splitlines(), captured.err.splitlines())

    return call


@pytest.fixture
def altered(graph, info, tmp_path):
    """Return a function that writes the tiny export with an altered self-test."""

    def make(alter):
        selftest = copy.deepcopy(info.selftest)
        alter(selftest)
        path = tmp_path / "altered.onnx"
        path.write_bytes(graph(dataclasses.replace(info, selftest=selftest).to_metadata()))
        return path

    return make


# predict


def test_a_line_a_picture(run, model, pictures):
    ran = run("predict", model, pictures / "red.jpg", pictures / "more" / "blue.jpeg")
    assert ran.code == 0 and ran.err == []
    assert [line.rsplit(" ", 1)[0] for line in ran.out] == [
        f"{pictures / 'red.jpg'}: red",
        f"{pictures / 'more' / 'blue.jpeg'}: blue",
    ]
    assert 0.9 < float(ran.out[0].rsplit(" ", 1)[1]) < 1


def test_top(run, model, pictures):
    ran = run("predict", model.parent, pictures / "green.JPG", "--top", 2)
    names = ran.out[0].removeprefix(f"{pictures / 'green.JPG'}: ").split()[::2]
    assert ran.code == 0 and names[0] == "green" and len(names) == 2


def test_one_bad_picture_does_not_stop_the_rest(run, model, pictures):
    ran = run("predict", model, pictures, "--threads", 1)
    assert ran.code == 1
    assert sorted(line.split(": ")[1].split()[0] for line in ran.out) == ["blue", "green", "red"]
    assert len(ran.err) == 2 and ran.err[1] == "passed over: 1 .txt"
    assert ran.err[0].startswith(f"{pictures / 'damaged.jpg'}: damaged: ")
    assert ran.err[0].count("damaged.jpg") == 1, "the path stands once"


@pytest.mark.skipif(os.name == "nt", reason="no such names there")
def test_a_line_break_in_a_name_breaks_no_line(run, model, pictures):
    odd = pictures / "two\nlines\u2028ä.jpg"
    os.rename(pictures / "red.jpg", odd)
    os.rename(pictures / "damaged.jpg", pictures / "torn\rapart.jpg")
    ran = run("predict", model, odd, pictures / "torn\rapart.jpg")
    assert len(ran.out) == len(ran.err) == 1
    shown = str(odd).replace("\n", "\\n").replace("\u2028", "\\u2028")
    assert ran.out[0].startswith(f"{shown}: red ") and "torn\\rapart.jpg: " in ran.err[0]
    assert json.loads(run("predict", model, odd, "--json").out[0])["path"] == str(odd)


def test_a_folder_that_fails_does_not_stop_the_rest(run, model, pictures, monkeypatch):
    walk = os.walk

    def failing(root, onerror, **options):
        onerror(PermissionError(13, "Permission denied", os.path.join(root, "lost+found")))
        yield from walk(root, onerror=onerror, **options)

    monkeypatch.setattr(os, "walk", failing)
    ran = run("predict", model, pictures)
    assert ran.code == 1 and len(ran.out) == 3
    assert any("lost+found: cannot be read: Permission denied" in line for line in ran.err)
    lines = [json.loads(line) for line in run("predict", model, pictures, "--json").out]
    assert [line["error"] for line in lines if "error" in line] == ["PictureNotFound", "CorruptPicture"]
    with pytest.raises(zoo_runtime.PictureNotFound):
        zoo_runtime.list_pictures(pictures)


def test_options_may_stand_between_paths(run, model, pictures):
    red, blue = pictures / "red.jpg", pictures / "more" / "blue.jpeg"
    assert run("predict", model, red, "--top", 1, blue).out == run("predict", model, red, blue, "--top", 1).out
    with pytest.raises(SystemExit) as stopped:
        run("predict", model, red, "--nonsense")
    assert stopped.value.code == 2


@pytest.mark.filterwarnings("default::UserWarning")
def test_warnings_are_lines(run, model, pictures):
    (model.parent / "model.tuned.json").write_text("{")
    ran = run("predict", model, pictures / "red.jpg")
    assert ran.code == 0 and len(ran.err) == 1
    assert ran.err[0].startswith("warning: ") and "default settings" in ran.err[0]


def test_json_lines(run, model, pictures):
    ran = run("predict", model, pictures / "red.jpg", pictures / "damaged.jpg", pictures / "gone.jpg", "--json")
    assert ran.code == 1 and ran.err == []
    good, damaged, gone = map(json.loads, ran.out)
    assert list(good) == ["path", "label", "confidence", "probabilities"]
    assert good["path"] == str(pictures / "red.jpg") and good["label"] == "red"
    assert list(good["probabilities"]) == ["red", "green", "blue"]
    assert good["confidence"] == good["probabilities"]["red"]
    assert sum(good["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert list(damaged) == list(gone) == ["path", "error", "message"]
    assert damaged["error"] == "CorruptPicture" and damaged["path"] == str(pictures / "damaged.jpg")
    assert gone["error"] == "PictureNotFound" and "No such file" in gone["message"]


def test_json_top(run, model, pictures):
    (line,) = map(json.loads, run("predict", model, pictures / "red.jpg", "--json", "--top", 1).out)
    assert list(line["probabilities"]) == ["red"]


def test_a_folder_without_pictures(run, model, tmp_path):
    (tmp_path / "empty").mkdir()
    ran = run("predict", model, tmp_path / "empty")
    assert ran.code == 1 and ran.out == []
    assert ran.err[0].startswith("error: no picture was found in ")


def test_a_missing_model(run, pictures):
    ran = run("predict", pictures / "model.onnx", pictures / "red.jpg")
    assert ran.code == 1 and ran.out == []
    assert ran.err[0].startswith("error: ") and "model.onnx" in ran.err[0]


def test_a_name_that_is_not_utf_8(model, pictures):
    """This runs in its own process, because pytest's capture accepts what a real standard output refuses."""
    names = [os.fsencode(pictures) + b"/caf\xe9.jpg", os.fsencode(pictures) + b"/gone\xff.jpg"]
    try:
        os.rename(pictures / "red.jpg", names[0])
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    command = [sys.executable, "-m", "zoo_runtime.cli", "predict", model]
    ran = subprocess.run([*command, *names], capture_output=True)
    assert ran.returncode == 1
    assert rb"caf\udce9.jpg: red " in ran.stdout and rb"gone\udcff.jpg: cannot be read: No such file" in ran.stderr
    ran = subprocess.run([*command, *names, "--json"], capture_output=True)
    good, gone = map(json.loads, ran.stdout.splitlines())
    assert os.fsencode(good["path"]) == names[0] and good["label"] == "red"
    assert os.fsencode(gone["path"]) == names[1] and gone["error"] == "PictureNotFound"


@pytest.mark.skipif(os.name == "nt", reason="pipes close otherwise there")
def test_a_closed_pipe_ends_without_a_traceback(model, pictures):
    command = [sys.executable, "-m", "zoo_runtime.cli", "predict", str(model), *[str(pictures / "red.jpg")] * 50]
    reading, writing = os.pipe()
    os.close(reading)
    ran = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (ran.returncode, ran.stderr) == (1, "")


# info


def test_info(run, model):
    ran = run("info", model)
    assert ran.code == 0 and ran.err == []
    rows = dict(line.split(None, 1) for line in ran.out)
    assert rows["classes"] == "red, green, blue"
    assert rows["task"] == "multiclass"
    assert rows["input"] == "24 x 32 x 3, squash, bilinear"
    assert rows["metrics"] == "accuracy 0.9375"
    assert rows["selftest"] == "probabilities may differ by 0.001 on another machine"


def test_info_shows_how_sure_the_accuracies_are(run, model, tmp_path, info):
    import onnx

    graph = onnx.load(model)
    (entry,) = (each for each in graph.metadata_props if each.key == "zoo.metrics")
    figures = {
        "accuracy": 0.9375,
        "accuracy_interval": [0.7167, 0.9889],
        "pictures": 16,
        "loss_interval": "odd",
        "loss": 1.0,
    }
    entry.value = json.dumps({"test": figures})
    onnx.save(graph, tmp_path / "new.onnx")
    rows = dict(line.split(None, 1) for line in run("info", tmp_path / "new.onnx").out)
    shown = "test: (accuracy 0.94 (0.72 to 0.99 with 95 % confidence), pictures 16, loss_interval odd, loss 1)"
    assert rows["metrics"] == shown


@pytest.mark.parametrize(
    ("accuracy", "interval", "pictures", "text"),
    [
        (141 / 150, (0.8899, 0.9682), 150, "0.94 (0.89 to 0.97 with 95 % confidence, 150 pictures)"),
        (0.95, (0.9456, 0.9541), None, "0.950 (0.946 to 0.954 with 95 % confidence)"),
        (0.97812, (0.97767, 0.97857), None, "0.9781 (0.9777 to 0.9786 with 95 % confidence)"),
        (1.0, (0.2065, 1.0), 1, "1.00 (0.21 to 1.00 with 95 % confidence, 1 picture)"),
        # A network that errs is never shown as perfect.
        (250 / 251, (0.9778, 0.9993), None, "0.996 (0.98 to 1.00 with 95 % confidence)"),
    ],
)
def test_an_accuracy_has_as_many_decimals_as_its_interval_justifies(accuracy, interval, pictures, text):
    from zoo_runtime.workshop import format_accuracy

    assert format_accuracy(accuracy, interval, pictures) == text


def test_info_json_leaves_out_the_pictures_of_the_self_test(run, altered):
    ran = run("info", altered(lambda selftest: selftest.update(decoding=selftest["pictures"])), "--json")
    assert ran.code == 0 and set(json.loads("\n".join(ran.out))["selftest"]) == {"versions", "tolerance"}


def test_info_json(run, model, info):
    ran = run("info", model, "--json")
    shown = json.loads("\n".join(ran.out))
    assert ran.code == 0
    assert shown["classes"] == ["red", "green", "blue"] and shown["image"]["size"] == [24, 32]
    assert shown["metrics"] == info.metrics
    assert "pictures" not in shown["selftest"] and shown["selftest"]["versions"] == info.selftest["versions"]


def test_info_of_a_self_test_that_cannot_be_read(run, altered):
    ran = run("info", altered(lambda selftest: selftest.update(tolerance="x")))
    assert ran.code == 1 and "self-test cannot be read" in ran.err[0]


def test_info_of_garbage(run, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"garbage")
    ran = run("info", tmp_path)
    assert ran.code == 1 and "is a text file that begins with 'garbage', not an exported file." in ran.err[0]


# check


def test_check_passes(run, model):
    ran = run("check", model)
    assert ran.code == 0 and ran.out[-1] == "passed"
    assert ran.out[0].split() == ["pixels", "equal"]
    result = json.loads(run("check", model, "--json").out[0])
    assert result["passed"] is True and result["pixels_equal"] is True
    assert result["device"] == zoo_runtime.versions()


def test_check_fails_on_other_probabilities(run, altered):
    def alter(selftest):
        selftest["pictures"][0]["probabilities"][2] += 0.25

    path = altered(alter)
    ran = run("check", path)
    assert ran.code == 1 and ran.out[-1].startswith("FAILED")
    assert "differ by at most 0.25 (allowed 0.001)" in ran.out[1]
    ran = run("check", path, "--json")
    assert ran.code == 1 and json.loads(ran.out[0])["probability_difference"] == pytest.approx(0.25, abs=1e-4)


def test_check_tells_other_pixels_and_versions(run, altered):
    def alter(selftest):
        sample = bytearray(base64.b64decode(selftest["pictures"][0]["sample"]["pixels"]))
        sample[0] ^= 2
        selftest["pictures"][0]["sample"]["pixels"] = base64.b64encode(sample).decode()
        selftest["pictures"][0]["sha256"] = "0" * 64
        selftest["versions"]["pillow"] = "9.9"

    ran = run("check", altered(alter))
    assert ran.code == 0 and ran.out[-1] == "passed"
    assert ran.out[0].split(None, 1)[1] == "differ by at most 2 of 255 where sampled"
    assert any(line.startswith("pillow") and line.endswith("here, 9.9 where the file was exported") for line in ran.out)


def test_check_without_a_self_test(run, altered):
    ran = run("check", altered(lambda selftest: selftest.clear()))
    assert ran.code == 1 and ran.err == ["error: the file has no self-test. Export it again to add one."]


# usage


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["train"],
        ["predict"],
        ["predict", "model.onnx"],
        ["predict", "model.onnx", "a.jpg", "--top", "0"],
        ["predict", "model.onnx", "a.jpg", "--top", "many"],
        ["predict", "model.onnx", "a.jpg", "--threads", "-1"],
        ["check"],
        ["check", "model.onnx", "--top", "3"],
    ],
)
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("usage: zoo-runtime") and captured.out == ""
    assert "_positive" not in captured.err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_answer_that_cannot_be_written_is_an_error(model, unbuffered):
    code = "from zoo_runtime.cli import run; run()"
    with open("/dev/full", "w") as full:
        ran = subprocess.run(
            [sys.executable, "-c", code, "info", str(model)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    assert ran.returncode == 1 and "cannot be written" in ran.stderr and "Traceback" not in ran.stderr


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"zoo-runtime {zoo_runtime.__version__}\n"


@pytest.mark.skipif(os.name == "nt", reason="no such shell there")
@pytest.mark.parametrize(("closed", "out", "err"), [(">&-", "", "gone.jpg"), ("2>&-", "red", ""), (">&- 2>&-", "", "")])
def test_closed_streams_are_no_crash(model, pictures, closed, out, err):
    command = [sys.executable, "-m", "zoo_runtime.cli", "predict", str(model), str(pictures / "red.jpg"), "gone.jpg"]
    ran = subprocess.run(["sh", "-c", f'exec "$@" {closed}', "sh", *command], capture_output=True, text=True)
    assert ran.returncode == 1 and "Traceback" not in ran.stderr and "gone" not in ran.stdout
    assert (out in ran.stdout) and (err in ran.stderr) and bool(ran.stdout) == bool(out)
