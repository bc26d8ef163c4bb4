"""`zoo sweep`: trials in child processes, a leaderboard, and the export of the best one."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from zoo import runs
from zoo.runs import run_lock


def rows(folder):
    return {row["name"]: row for row in csv.DictReader((folder / "leaderboard.csv").open())}


def changed(folder):
    """Return when each file that says that a step is done was written."""
    files = [*folder.glob("trials/*/head.json"), *folder.glob("trials/*/folds*.json"), *folder.glob("**/run.json")]
    # What failed is tried again.
    return {path: path.stat().st_mtime_ns for path in files if "conv4-" not in str(path)}


@pytest.mark.slow
def test_the_best_trial_is_exported_and_nothing_is_done_twice(zoo, networks, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # A network whose weights are damaged costs its own rows alone.
    (tmp_path / "conv4.weights.h5").write_bytes(b"no weights")
    words = ["--data", photos, "--sizes", "32", "--schedules", "fine-tune", "--epochs", "1", "--seed", 3]
    ran = zoo("sweep", *words)
    assert ran.code == 0, ran.err
    folder = tmp_path / "sweep-photos"
    found = rows(folder)
    assert set(found) == {
        *(f"conv{filters}-32-exact-head" for filters in (4, 64)),
        "conv64-32-fine-tune",
    }
    assert found["conv4-32-exact-head"]["state"] == "failed" and "failed: conv4-32-exact-head" in ran.out
    assert "conv4.weights.h5" in found["conv4-32-exact-head"]["problem"]
    # 60 pictures are not for the test; a fold has about a fifth of them, because near-duplicates stand together.
    head = found["conv64-32-exact-head"]
    assert head["pictures"] == "60" and float(head["accuracy"]) >= 0.9
    assert all(10 <= int(row["pictures"]) <= 60 for row in found.values() if row["schedule"] == "fine-tune")
    (winner,) = [row for row in found.values() if row["state"] == "winner"]
    assert f"Take       {winner['name']}\n" in ran.out and "no other trial has seen these pictures" in ran.out
    # Test pictures have judged the winner alone, and it alone is exported.
    assert [path.parts[-4] for path in folder.glob("trials/*/runs/*/metrics.json")] == [winner["name"]]
    assert (tmp_path / "exported" / "conv64-photos" / "model.onnx").is_file()
    page = (folder / "leaderboard.html").read_text("utf-8")
    assert all(f'data-value="{row["accuracy"]}"' in page for row in found.values() if row["accuracy"])
    # The same command has nothing to do, and --resume is the same.
    before = changed(folder)
    again = zoo("sweep", "--resume", folder, "--json")
    result = json.loads(again.out)
    assert again.code == 0 and result["winner"] == winner["name"] and not result["stopped"]
    assert changed(folder) == before and rows(folder).keys() >= found.keys()
    other = zoo("sweep", *words[:-1], 4)
    assert other.code == 2 and "has a sweep with other settings" in other.err and "--resume sweep-photos" in other.err


@pytest.mark.slow
@pytest.mark.every
@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
def test_a_crash_is_retried_and_ctrl_c_keeps_everything(networks, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--data", str(photos), "--networks", "conv4", "--sizes", "24", "--schedules", "head-only"]
    words += ["--epochs", "40", "--batch-size", "4"]
    process = subprocess.Popen(
        [sys.executable, "-m", "zoo", "sweep", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    trial = tmp_path / "sweep-photos" / "trials" / "conv4-24-head-only"

    def position():
        return next(iter(trial.glob("runs/*/unfinished/fold1.epoch*.npz")), None)

    def worker(other_than=None):
        ends = time.monotonic() + 120
        while time.monotonic() < ends and process.poll() is None:
            for path in trial.glob("runs/*/unfinished"):
                pid = (run_lock.holder(runs.Run(path.parent)) or {}).get("pid")
                if pid not in (None, other_than) and position():
                    return pid
            time.sleep(0.02)
        raise AssertionError(process.communicate())

    first = worker()
    os.kill(first, signal.SIGKILL)
    second = worker(other_than=first)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "everything is kept" in err.lower() and "zoo sweep --resume sweep-photos" in err
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)
    log = (trial / "log.txt").read_text()
    assert log.count("$ zoo finetune") == 1 and log.count("$ zoo resume") == 1 and position() is not None
    done = subprocess.run(
        [sys.executable, "-m", "zoo", "sweep", "--resume", "sweep-photos"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert len(list(trial.glob("runs/*/run.json"))) == 1
    row = rows(tmp_path / "sweep-photos")["conv4-24-head-only"]
    assert row["state"] in ("winner", "close", "behind", "out") and int(row["pictures"]) >= 12


def test_a_budget_that_is_too_small_says_so(zoo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = zoo("sweep", "--weights", "none", "--networks", "mnist_convnet", "--schedules", "scratch", "--budget", "1s")
    assert ran.code == 1 and "the time was over before a network was judged" in ran.err
    assert "zoo sweep --resume sweep-digits" in ran.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--networks", "mobilenetv9"], 2, "Did you mean mobilenetv"),
        (["--schedules", "fine-tone"], 2, "Did you mean fine-tune"),
        (["--sizes", "12o"], 2, "must be SIDE or HEIGHTxWIDTH"),
        (["--budget", "soon"], 2, "must be a time such as 30m"),
        (["--budget", "5"], 2, "must be a time such as 30m"),
        (["--address", "here:1"], 2, "--address goes with --ray"),
        (["--ray", "--address", "127.0.0.1:9", "--networks", "mobilenetv2"], 2, "there is no Ray cluster at"),
        (["--trial-cpus", "1"], 2, "--trial-cpus goes with --ray"),
        (["--resume", "nowhere"], 2, "there is no sweep in 'nowhere'"),
        (["--resume", "nowhere", "--sizes", "96"], 2, "Leave out --sizes"),
        (["--size", "96"], 2, "--sizes"),
        (["--max-drop", "2"], 2, "--max-drop goes with"),
        (["--data", "nowhere"], 1, "nowhere"),
        (["--networks", ","], 2, "must be names, separated by commas"),
        (["--schedules", "a/fine-tune.toml,fine-tune"], 2, "have the same name"),
        (["--data", "digits"], 2, "there are no pretrained weights on this computer"),
    ],
)
def test_wrong_requests_are_refused(zoo, tmp_path, monkeypatch, arguments, code, message):
    if "--ray" in arguments:
        pytest.importorskip("ray.tune", reason="Ray is not installed: pip install 'finezoo[ray]'")
    monkeypatch.chdir(tmp_path)
    ran = zoo("sweep", *arguments)
    assert ran.code == code and message in ran.err, ran.err
    assert not list(tmp_path.glob("sweep-*/trials"))


def test_ray_that_is_missing_is_named(zoo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    ran = zoo("sweep", "--ray", "--networks", "mobilenetv2")
    assert ran.code == 1 and "pip install 'finezoo[ray]'" in ran.err
    # Nothing is left that would refuse the next command.
    assert not list(tmp_path.iterdir())


def test_other_settings_are_named_as_typed(zoo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("sweep", "--weights", "none", "--networks", "mnist_convnet", "--schedules", "scratch", "--budget", "1s")
    assert zoo(*words).code == 1
    ran = zoo(*words, "--sizes", "24,24x32", "--cv", 4)
    assert ran.code == 2 and "--sizes was not given and is 24x24 24x32; the end of the command" in ran.err
    assert "the end of the command was not given and is --cv 4. Name another folder" in ran.err


def test_a_second_process_is_kept_away(zoo, tmp_path, monkeypatch):
    import filelock

    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweep-digits").mkdir()
    with filelock.FileLock(tmp_path / "sweep-digits" / "sweep.lock"):
        ran = zoo("sweep", "--networks", "mobilenetv2")
    assert ran.code == 1 and "another process works on the sweep" in ran.err


def begun(zoo, *words):
    """Begin a sweep that has no time to judge anything."""
    return zoo("sweep", "--networks", "mnist_convnet", "--weights", "none", "--budget", "0.001s", *words)


def test_what_has_changed_since_the_sweep_began_is_named(zoo, make_photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_photos(tmp_path / "photos", 3)
    (tmp_path / "own.toml").write_text("[[phase]]\nname = 'all'\ntrain = 'all'\nepochs = 1\nlearning_rate = 0.1\n")
    words = ["--data", "photos", "--schedules", "own.toml"]
    first = begun(zoo, *words)
    assert first.code == 1 and "the time was over before" in first.err, first.err
    state = tmp_path / "sweep-photos" / "sweep.json"
    known = json.loads(state.read_text())
    # The state of another version, and one that is damaged.
    state.write_text(json.dumps({**known, "format": 99}))
    assert "another version of zoo made the sweep" in begun(zoo, *words).err
    state.write_text("{")
    assert "is damaged" in begun(zoo, *words).err
    state.write_text(json.dumps(known))
    assert "the time was over before" in begun(zoo, *words).err
    (tmp_path / "own.toml").write_text("[[phase]]\nname = 'all'\ntrain = 'all'\nepochs = 2\nlearning_rate = 0.1\n")
    edited = begun(zoo, *words)
    assert edited.code == 2 and "has changed since the sweep began" in edited.err
    (tmp_path / "photos" / "bars" / "bars000.jpg").unlink()
    words[-1] = "scratch"
    begun(zoo, *words, "--output", "other")
    make_photos(tmp_path / "photos", 4)
    more = begun(zoo, *words, "--output", "other")
    assert more.code == 1 and "the pictures have changed since the sweep began" in more.err


def test_trials_get_what_the_user_has_chosen(zoo, tmp_path, monkeypatch):
    from zoo.workflow import sweep

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOO_PLUGINS", "all-of-them")
    monkeypatch.setenv("ZOO_SIGN_PASSPHRASE", "secret")
    asked = []

    def workflow(requested, *others, **options):
        asked.append(requested)
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "sweep", workflow)
    zoo("--no-plugins", "sweep", "--networks", "mnist_convnet", "--ray", "--trial-cpus", 3, "--budget", "2m")
    zoo("--no-plugins", "sweep", "--networks", "mnist_convnet")
    on_ray, alone = asked
    assert on_ray.environment["ZOO_PLUGINS"] == alone.environment["ZOO_PLUGINS"] == ""
    assert on_ray.environment["ZOO_CACHE"] == os.environ["ZOO_CACHE"]
    assert "ZOO_SIGN_PASSPHRASE" not in on_ray.environment
    assert (on_ray.threads, alone.threads) == (3, None)
    assert on_ray.again == "zoo --no-plugins sweep --resume sweep-digits --ray --trial-cpus 3 --budget 120s"
    assert alone.again == "zoo --no-plugins sweep --resume sweep-digits"


def test_the_table_holds_no_formula_and_the_page_no_markup(tmp_path):
    from zoo.cli import sweep as command
    from zoo.report import leaderboard
    from zoo.workflow.sweep_results import Row, SweepResult

    good = Row("a-b", "a", "", "b", "winner", 1, None, 0.5, (0.1, 0.9), 2, 0.7, 0.0, 0.0, 1.0, None, "")
    bad = Row("c-d", "c", "", "d", "failed", None, None, None, None, 0, None, None, None, 1.0, None, "=1+1 <b>no</b>")
    found = SweepResult("x<i>y", tmp_path, (good, bad), "a-b", None, None, None, "=<b>", False, 1.0, "zoo sweep")
    command._write_table(found, tmp_path / "leaderboard.csv")
    assert rows(tmp_path)["c-d"]["problem"] == "'=1+1 <b>no</b>"
    page = leaderboard.render(found.to_json())
    assert "<b>" not in page and "<i>" not in page and "&lt;b&gt;no" in page
