"""`zoo finetune` from the command to the files: what is printed and written, and what is refused with which message."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from zoo.plugin import registry
from zoo.train.network import stage_of

QUICK = ("--size", 32, "--epochs", 1, "--batch-size", 16)


def folders(path):
    return ("--runs", path / "runs", "--exported", path / "exported")


def test_what_is_printed(finished):
    run, exported, printed = finished
    assert "NO PRETRAINED WEIGHTS" in printed and "RANDOM weights" in printed
    assert "ZOO_OFFLINE=1 forbids downloads" in printed and "ZOO_WEIGHTS_DIR" in printed
    assert "https://storage.googleapis.com/" in printed and "_0.35_96_no_top.h5" in printed
    assert "Phase 1/1 scratch: trains all, 105 layers" in printed
    assert f"Predict    zoo-runtime predict {exported / 'shapes' / 'model.onnx'} " in printed
    record = json.loads((run / "run.json").read_text())
    assert record["options"]["schedule"] == "scratch" and record["weights"]["random"] is True
    assert run.name.split("-")[1] == "mobilenetv2_035" and len(run.name.split("-")[2]) == 6
    assert sorted(p.name for p in run.iterdir()) == [
        "config.toml",
        "curves.png",
        "examples.json",
        "history.csv",
        "label_issues.csv",
        "label_issues.html",
        "label_issues.json",
        "metrics.json",
        "model.keras",
        "model.onnx",
        "pictures.csv",
        "predictions.csv",
        "report.html",
        "run.json",
        "trust.json",
    ]


def test_the_printed_line_predicts(finished):
    """In a new process that has never seen TensorFlow."""
    _, _, printed = finished
    (line,) = [line for line in printed.splitlines() if line.startswith("Predict")]
    _, _, _, file, picture = line.split()
    done = subprocess.run(
        [sys.executable, "-m", "zoo_runtime.cli", "predict", file, picture, "--json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["path"] == picture and result["label"] in ("bars", "discs", "noise")
    assert sum(result["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_a_saved_model_loads_in_a_new_process_without_plugins(finished):
    run, _, _ = finished
    code = (
        "import sys, numpy, keras\n"
        f"model = keras.models.load_model({os.fspath(run / 'model.keras')!r})\n"
        "out = model.predict_on_batch(numpy.zeros((1, 32, 32, 3), 'float32'))\n"
        "assert not [name for name in sys.modules if name.startswith('zoo')]\n"
        "print(out.shape, abs(float(out.sum()) - 1) < 1e-5)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip().endswith("(1, 3) True"), done.stderr[-2000:]


def test_no_export_leaves_none_but_evaluates(zoo, photos, tmp_path):
    quick = ("--size", 32, "--epochs", 8, "--batch-size", 8)
    ran = zoo("finetune", "mnist_convnet", "--data", photos, *quick, *folders(tmp_path), "--no-export")
    assert ran.code == 0, ran.err
    assert "NO PRETRAINED" not in ran.err and "Export  " not in ran.out
    assert "Test pictures, through the converted network:" in ran.out and "exported file" not in ran.out
    (run,) = (tmp_path / "runs").iterdir()
    assert not (tmp_path / "exported").exists() and not (run / "model.onnx").exists()
    metrics = json.loads((run / "metrics.json").read_text())
    assert json.loads(zoo("evaluate", run, "--json").out) == {"part": "test", **metrics["test"]}
    ran = zoo("predict", run, next(photos.rglob("*.jpg")))
    assert ran.code == 2 and f"`zoo export {run}` makes one" in ran.err
    assert zoo("export", run, "--exported", tmp_path / "exported").code == 0
    assert (tmp_path / "exported" / "mnist_convnet-photos" / "model.onnx").is_file()


@pytest.mark.slow
def test_options_are_obeyed_and_recorded(zoo, finished, photos, tmp_path):
    first, _, _ = finished
    ran = zoo(
        *("finetune", "mobilenetv2_035", "--data", photos, "--size", "32x48", "--resize", "crop:0.8", "--seed", 7),
        *("--weights", first / "model.keras", "--schedule", "full", "--epochs", "1,2", "--learning-rate", "0.01,0.002"),
        *("--optimizer", "sgd", "--batch-size", 10, "--val-split", 0.3, "--augment", "light", "--name", "mine"),
        *("--rate", "one-cycle", "--clip-norm", 2, "--ema", 0.9, "--profile", *folders(tmp_path)),
        *("--compute", "bfloat16", "--allow-chance"),
    )
    assert ran.code == 0, ran.err
    table = ran.out.partition(" seconds   share  step\n")[2].splitlines()
    steps = {line[18:]: float(line[:8]) for line in table if "%" in line}
    outer = [name for name in steps if not name.startswith(" ")]
    assert outer[:5] == ["start", "weights", "pictures", "training", "export"] and outer[-1] == "in all"
    assert sum(steps[name] for name in outer[:-1]) == pytest.approx(steps["in all"], abs=0.1)
    assert {"  phase head", "  phase all", "    first step", "    validation", "  checking parity"} <= steps.keys()
    assert 0.1 < float(table[-1].split()[2]) < 50 and table[-1].startswith("Peak memory ")
    (run,) = (tmp_path / "runs").iterdir()
    record = json.loads((run / "run.json").read_text())
    assert record["image"] == {"size": [32, 48], "channels": 3, "resize": "crop", "fraction": 0.8, "filter": "bilinear"}
    phases = [(p["name"], p["epochs_run"], p["learning_rate"], p["optimizer"]) for p in record["phases"]]
    assert phases == [("head", 1, 0.01, "sgd"), ("all", 2, 0.002, "sgd")]
    assert all((p["rate"], p["clip_norm"], p["ema"]) == ("one-cycle", 2, 0.9) for p in record["phases"])
    assert record["phases"][0]["moved_layers"] == ["logits"] and record["phases"][0]["moved_parameters"] == 1280 * 3 + 3
    assert record["data"]["counts"] == {"train": 39, "val": 21, "test": 12}
    assert record["options"]["precision"] == "bfloat16"
    assert record["options"]["augment"] == "light" and record["options"]["batch_size"] == 10
    assert (tmp_path / "exported" / "mine" / "model.onnx").is_file()


def test_frozen_random_weights_are_warned_of_and_never_exported(zoo, photos, tmp_path):
    """A frozen random MobileNetV2 gives the same logits for every picture, so that parity would mean nothing."""
    ran = zoo(
        *("finetune", "mobilenetv2_035", "--data", photos, "--weights", "none", "--schedule", "head-only", *QUICK),
        *folders(tmp_path),
    )
    assert ran.code == 1
    assert "keeps layers frozen that have random weights" in ran.err and "same logits for every picture" in ran.err
    assert not (tmp_path / "exported").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist_convnet", "mobilenetv2_035"])
def test_same_command_same_bytes_of_weights(zoo, photos, tmp_path, name):
    """Another seed gives other weights. Two epochs of all layers, with augmentation."""
    import keras

    def weights(seed, folder):
        arguments = ("--data", photos, "--size", 32, "--epochs", 2, "--augment", "light", "--weights", "none")
        options = ("--seed", seed, "--no-export", "--allow-chance", "--runs", tmp_path / folder)
        ran = zoo("finetune", name, *arguments, *options)
        assert ran.code == 0, ran.err
        (run,) = (tmp_path / folder).iterdir()
        return keras.models.load_model(run / "model.keras", compile=False).get_weights()

    first, second, third = weights(1, "a"), weights(1, "b"), weights(2, "c")
    assert all(np.array_equal(x, y) for x, y in zip(first, second, strict=True))
    assert not np.array_equal(first[0], third[0])


@pytest.mark.slow
def test_a_run_continues_from_a_runs_own_model(zoo, finished, photos, tmp_path):
    run, _, _ = finished
    ran = zoo(
        *("finetune", "mobilenetv2_035", "--data", photos, "--size", 32, "--weights", run / "model.keras"),
        *("--schedule", "head-only", "--epochs", 10, "--batch-size", 8, "--learning-rate", 0.01, *folders(tmp_path)),
    )
    assert ran.code == 0, ran.err
    (second,) = (tmp_path / "runs").iterdir()
    import keras

    before, after = (keras.models.load_model(folder / "model.keras", compile=False) for folder in (run, second))
    network = registry.load().architecture("mobilenetv2_035")
    for layer in stage_of(network, [layer.name for layer in before.layers]):
        for old, new in zip(before.get_layer(layer).weights, after.get_layer(layer).weights, strict=True):
            assert old.numpy().tobytes() == new.numpy().tobytes(), "the head alone may move"
    assert json.loads((second / "metrics.json").read_text())["test"]["accuracy"] >= 0.75
    record = json.loads((second / "run.json").read_text())
    assert record["weights"]["random"] is False and record["weights"]["file"] == "model.keras"


def test_bad_pictures_are_left_out_and_listed(zoo, photos, tmp_path):
    import shutil

    data = tmp_path / "photos"
    shutil.copytree(photos, data)
    (data / "discs" / "notes.txt").write_text("not a picture")
    (data / "bars" / "empty.jpg").write_bytes(b"")
    whole = next((data / "noise").iterdir()).read_bytes()
    (data / "noise" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    ran = zoo("finetune", "mnist_convnet", "--data", data, *QUICK, *folders(tmp_path), "--no-export", "--allow-chance")
    assert ran.code == 0, ran.err
    assert "2 of 74 files are left out: " in ran.err and "Passed over, because they are not pictures: 1 .txt" in ran.out
    (run,) = (tmp_path / "runs").iterdir()
    assert "bars/empty.jpg: the file is empty" in ran.err and "notes.txt" not in ran.err
    assert (
        "noise/cut.jpg: the file ends before the picture does" in ran.err
        and f"{run / 'run.json'} lists them." in ran.err
    )
    left_out = {
        os.path.basename(x["picture"]): x["why"] for x in json.loads((run / "run.json").read_text())["data"]["left_out"]
    }
    assert set(left_out) == {"empty.jpg", "cut.jpg"}
    assert left_out["cut.jpg"].startswith("CorruptPicture") and left_out["empty.jpg"].startswith("NotAPicture")
    assert "the file given" not in ran.err and "CorruptPicture" not in ran.err


def test_a_class_without_readable_pictures_is_named_with_its_files(zoo, photos, tmp_path, monkeypatch):
    import shutil

    # As if pillow-heif was not installed, although another test may have imported it.
    for name in ("pillow_heif", "pillow_heif.as_plugin"):
        monkeypatch.setitem(sys.modules, name, None)
    data = tmp_path / "photos"
    shutil.copytree(photos / "bars", data / "bars")
    (data / "dogs").mkdir()
    for i in range(4):
        (data / "dogs" / f"IMG_{i}.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes([i]))
    ran = zoo("finetune", "mnist_convnet", "--data", data, *QUICK, *folders(tmp_path))
    assert ran.code == 1
    assert "class 'dogs' has no picture that can be read, and needs 3. These files cannot be read: " in ran.err
    assert "dogs/IMG_0.jpg: a HEIC picture, as iPhones save them" in ran.err and "dogs/IMG_3.jpg: " in ran.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--data", "nowhere"], 1, "there is nothing at 'nowhere'"),
        (["--weights", "imagenet1k"], 1, "ZOO_OFFLINE=1 forbids downloads"),
        (["--weights", "imagnet1k"], 2, "Did you mean imagenet1k"),
        (["--weights", "no/such/file.h5"], 1, "'no/such/file.h5' cannot be read"),
        (["--epochs", "1,2,3,4"], 2, "--epochs takes one value"),
        (["--learning-rate", "0.1,0.2,0.3,0.4"], 2, "--learning-rate takes one value"),
        (["--schedule", "fine-tun"], 2, "Did you mean fine-tune?"),
        (["--schedule", "nowhere.toml"], 2, "nowhere.toml"),
        (["--augment", "lihgt"], 2, "Did you mean light?"),
        (["--views", "3"], 2, "--views goes with --augment"),
        (["--epochs", "many"], 2, "whole numbers"),
        (["--epochs", "99999999999"], 2, "whole numbers from 0 to 999999, "),
        (["--epochs", "0"], 2, "nothing to train"),
        (["--size", "8"], 2, "at least 32 x 32"),
        (["--size", "big"], 2, "SIDE or HEIGHTxWIDTH"),
        (["--resize", "stretch"], 2, "squash, crop"),
        (["--resize", "pad:0.5"], 2, "squash, crop, pad or crop:FRACTION"),
        (["--resize", "crop:1.5"], 2, "Received: 'crop:1.5'"),
        (["--name", "../up"], 2, "--name may hold"),
        (["--optimizer", "adamax"], 2, "adamax"),
        (["--learning-rate", "-1"], 2, "numbers above 0"),
        (["--val-split", "1.5"], 2, "1.5"),
    ],
)
def test_wrong_requests_are_refused_before_anything_is_made(zoo, tmp_path, arguments, code, message):
    """The weights are not available, but no block about them hides the error."""
    ran = zoo("finetune", "mobilenetv2_035", *folders(tmp_path), *arguments)
    assert ran.code == code
    assert message in ran.err and "Traceback" not in ran.err and "NO PRETRAINED" not in ran.err
    assert "Weights:" not in ran.out and list(tmp_path.iterdir()) == []


def test_explicit_weights_fail_with_the_same_advice(zoo, tmp_path):
    ran = zoo("finetune", "mobilenetv2_035.imagenet1k", "--size", 224, *folders(tmp_path))
    assert ran.code == 1
    assert "_0.35_224_no_top.h5" in ran.err and "ZOO_WEIGHTS_DIR" in ran.err and "--weights FILE" in ran.err
    ran = zoo("finetune", "mobilenetv2_035.imagenet1k", "--weights", "none", *folders(tmp_path))
    assert ran.code == 2 and "give one of them" in ran.err


def test_a_foreign_weights_file_is_named(zoo, photos, tmp_path):
    foreign = tmp_path / "foreign.h5"
    foreign.write_bytes(b"\x89HDF\r\n\x1a\nrubbish")
    ran = zoo("finetune", "mobilenetv2_035", "--data", photos, "--size", 32, "--weights", foreign, *folders(tmp_path))
    assert ran.code == 1
    assert "foreign.h5" in ran.err and "does not fit" in ran.err and "Traceback" not in ran.err
    assert not (tmp_path / "runs").exists()


def test_an_interrupted_run_says_so_and_replaces_nothing(zoo, photos, tmp_path, monkeypatch):
    from zoo.train import engine

    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "train", interrupt)
    before = tmp_path / "exported" / "mobilenetv2_035-photos" / "model.onnx"
    before.parent.mkdir(parents=True)
    before.write_bytes(b"the one before")
    ran = zoo("finetune", "mobilenetv2_035", "--data", photos, *QUICK, *folders(tmp_path), "--replace")
    assert ran.code == 130
    (run,) = (tmp_path / "runs").iterdir()
    assert json.loads((run / "run.json").read_text())["status"] == "interrupted"
    assert before.read_bytes() == b"the one before"
    assert f"training was interrupted. `zoo resume {run}` continues it from the beginning" in ran.err
    for command in (("predict", run, photos), ("export", run), ("evaluate", run)):
        ran = zoo(*command)
        assert ran.code == 1 and "training did not finish (status 'interrupted'). Resume it: " in ran.err
        assert f"`zoo resume {run}`" in ran.err and f"`zoo export {run} --best-so-far`" in ran.err


def test_an_interrupted_export_names_the_command_that_finishes_it(zoo, photos, tmp_path, monkeypatch):
    from zoo.workflow import carry_out

    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(carry_out, "export_model", interrupt)
    ran = zoo("finetune", "mnist_dense", "--data", photos, *QUICK, *folders(tmp_path))
    (run,) = (tmp_path / "runs").iterdir()
    assert ran.code == 130 and f"the network is trained and kept in {run}. `zoo resume {run}` finishes the" in ran.err


def test_predict_reports_one_bad_picture_and_labels_the_rest(zoo, finished, tmp_path):
    _, exported, _ = finished
    for name, value in (("a", 10), ("c", 200)):
        Image.fromarray(np.full((40, 40, 3), value, np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    ran = zoo("predict", "shapes", tmp_path, "--json", "--exported", exported)
    assert ran.code == 1
    lines = [json.loads(line) for line in ran.out.splitlines()]
    assert [os.path.basename(line["path"]) for line in lines] == ["a.png", "b.png", "c.png"]
    assert set(lines[0]) == {"path", "label", "confidence", "probabilities", "unknown"}
    assert set(lines[1]) == {"path", "error", "message"} and lines[1]["error"] in ("CorruptPicture", "NotAPicture")
    there = zoo("predict", "shapes", tmp_path / "a.png", "--providers", "cpu", "--json", "--exported", exported)
    assert json.loads(there.out) == lines[0]
    ran = zoo("predict", "shapes", tmp_path / "a.png", "--providers", "abacus", "--exported", exported)
    assert ran.code == 2 and "Received: 'abacus'" in ran.err and "cpu" in ran.err


def test_doctor_finds_no_problems_here(zoo):
    ran = zoo("doctor", "--json")
    report = json.loads(ran.out)
    assert ran.code == 0 and report["problems"] == []
    assert report["versions"]["keras"] and "CPUExecutionProvider" in report["providers"]
    assert {plugin["state"] for plugin in report["plugins"]} == {"loaded"}
    assert report["folders"]["network"] == "forbidden by ZOO_OFFLINE"
