"""`zoo runs`, `zoo runs show`, `diff` and `rm` through the command line, on copies of a finished run."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import time
from pathlib import Path

import pytest

from zoo import runs
from zoo.cli import table
from zoo.runs import run_lock
from zoo.workflow import remove_runs
from zoo_runtime.workshop import format_accuracy

OLD = "20250101T000000Z-mobilenetv2_035-aaaaaa"


@pytest.fixture
def make(finished, tmp_path, monkeypatch):
    """A function that copies a finished run into runs/, with other entries in run.json; in the current folder."""
    monkeypatch.chdir(tmp_path)

    def copy(name: str = OLD, **record) -> Path:
        folder = tmp_path / "runs" / name
        shutil.copytree(finished[0], folder)
        values = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps({**values, "id": name, **record}))
        return Path("runs") / name

    return copy


def unfinished(folder: Path, status: str = "running") -> Path:
    """Make a run look as if its process had been killed after the third epoch."""
    values = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**values, "status": status, "phases": [], "seconds": {}}))
    for path in (*folder.glob("model*"), folder / "head.npz", folder / "metrics.json"):
        path.unlink(missing_ok=True)
    (folder / "unfinished").mkdir()
    (folder / "unfinished" / "request.json").write_text('{"phases": []}')
    (folder / "unfinished" / "phases.epoch000003.npz").write_bytes(b"")
    return folder


def at_a_terminal(monkeypatch, answer: str) -> None:
    terminal = io.StringIO(answer)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)


def rows(out: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split() for line in out.partition("\n\n")[0].splitlines()[1:]}


def test_the_list_has_the_figures_of_metrics_json(zoo, make):
    folder = make()
    ran = zoo("runs")
    (listed,) = json.loads(zoo("runs", "--json").out)["runs"]
    measured = json.loads((folder / "metrics.json").read_text())["test"]
    assert listed["score"]["value"] == measured["accuracy"] and listed["score"]["part"] == "test"
    long = format_accuracy(measured["accuracy"], measured["accuracy_interval"])
    short = long.replace(" to ", "-").replace(" with 95 % confidence", "")
    assert ran.code == 0 and ran.out.splitlines()[1].endswith(short)
    assert rows(ran.out)[OLD][1:4] == ["finished", "mobilenetv2_035", "photos"]
    seconds = json.loads((folder / "run.json").read_text())["seconds"]
    assert listed["seconds"] == pytest.approx(sum(seconds.values()))


def test_the_states_are_those_of_the_processes(zoo, make):
    make("a-running", created="2026-01-03T00:00:00Z")
    make("b-killed", created="2026-01-02T00:00:00Z")
    make("c-failed", status="failed: WriteError: no space", created="2026-01-01T00:00:00Z")
    for name in ("a-running", "b-killed"):
        unfinished(Path("runs") / name)
    with run_lock.hold(runs.Run(Path("runs") / "a-running")):
        ran = zoo("runs")
        shown = zoo("runs", "show", "a-running").out
        refused = zoo("runs", "rm", "a-running", "--yes")
    assert [line[1] for line in rows(ran.out).values()] == ["running", "interrupted", "failed"]
    assert ran.out.partition("\n\n")[0].endswith("WriteError: no space")
    assert "`zoo resume RUN` continues it" in ran.out
    assert f"running (process {os.getpid()} on " in shown
    assert refused.code == 1 and "is in use" in refused.err and Path("runs/a-running/run.json").is_file()
    shown = zoo("runs", "show", "b-killed").out
    assert "`zoo resume runs/b-killed` continues it after epoch 3." in shown and "--best-so-far" in shown
    assert "WriteError: no space" in zoo("runs", "show", "c-failed").out


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_line_fits_the_terminal(zoo, make, monkeypatch, width):
    make(status="failed: WriteError: " + "a long reason " * 20)
    make("20250101T000001Z-mobilenetv2_035-bbbbbb")
    make("mein Lauf ü 漢字 with a long name of its own, which goes on")
    assert table.cut_middle("mobilenetv2_035", 10) == "mobil…_035" and table.cut_middle("漢字漢字", 6) == "漢…字"
    monkeypatch.setattr(table, "terminal_width", lambda: width)
    lines = zoo("runs").out.splitlines()
    from rich.cells import cell_len

    # Below 60 columns, the least of what must be said does not fit.
    assert len(lines) == 4 and max(map(cell_len, lines)) <= max(width, 60)
    assert any("bbbbbb" in line for line in lines) and any("mein Lauf ü" in line for line in lines)
    assert any("20250101T000001Z-mobilenetv2_035-bbbbbb" in line for line in lines) == (width == 200)
    assert zoo("runs", "show", "bbbbbb").code == 0


def test_what_is_not_a_run_is_named(zoo, make):
    make()
    folder = Path("runs")
    (folder / "notes.txt").write_text("hello")
    (folder / "empty").mkdir()
    (folder / "gone").symlink_to("nowhere")
    shutil.copytree(folder / OLD, folder / "broken")
    (folder / "broken" / "run.json").write_text('{"schema": 1,')
    (folder / "deep").mkdir()
    (folder / "deep" / "run.json").write_text("[" * 100_000)
    if hasattr(os, "mkfifo"):
        # Reading a named pipe never ends.
        (folder / "pipe").mkdir()
        os.mkfifo(folder / "pipe" / "run.json")
        assert "run.json is not a file" in zoo("runs", "show", "pipe").err
    ran = zoo("runs")
    assert "nested too deeply" in ran.out
    assert ran.code == 0 and rows(ran.out)[OLD][1] == "finished" and rows(ran.out)["broken"][1] == "unreadable"
    for text in ("notes.txt: not a folder", "empty: it has no run.json", "gone: a broken link"):
        assert f"not a run: runs/{text}" in ran.err


def test_no_runs(zoo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = zoo("runs")
    assert ran.code == 0 and "no runs in 'runs'. `zoo finetune" in ran.out
    assert json.loads(zoo("runs", "--json").out) == {"runs": [], "foreign": {}}
    Path("file").write_text("")
    assert zoo("runs", "--runs", "file").code == 2
    ran = zoo("runs", "shwo", "x")
    assert ran.code == 2 and "Did you mean `zoo runs show`?" in ran.err


def test_the_order_and_the_place_of_the_option(zoo, make):
    make("first", created="2026-01-01T00:00:00Z", seconds={"train": 5})
    make("second", created="2026-01-02T00:00:00Z", seconds={"train": 3})
    assert list(rows(zoo("runs").out)) == ["second", "first"]
    assert list(rows(zoo("runs", "--sort", "time").out)) == ["first", "second"]
    os.rename("runs", "others")
    assert zoo("runs", "show", "first").code == 2
    assert zoo("runs", "--runs", "others", "show", "first").code == 0
    assert zoo("runs", "show", "first", "--runs", "others").code == 0


def test_a_thousand_runs_take_a_moment(zoo, make):
    source = make()
    for i in range(1000):
        folder = Path("runs") / f"20260101T000000Z-x-{i:06x}"
        folder.mkdir()
        for name in ("run.json", "metrics.json"):
            os.link(source / name, folder / name)
    started = time.perf_counter()
    ran = zoo("runs")
    assert len(ran.out.splitlines()) == 1002 and time.perf_counter() - started < 5


def test_show_has_everything_on_one_screen(zoo, make, finished):
    folder = make(options={**json.loads((finished[0] / "run.json").read_text())["options"], "label_smoothing": 0.25})
    described = json.loads(zoo("runs", "show", "aaaaaa", "--json").out)
    assert described["settings"]["label_smoothing"] == 0.25 and described["settings"]["batch_size"] == 8
    assert "seed" not in described["settings"]
    with (folder / "pictures.csv").open(newline="") as stream:
        listed = list(csv.DictReader(stream))
    tested = sum(row["part"] == "test" and row["class"] == "discs" for row in listed)
    assert described["data"]["classes"]["discs"]["test"] == tested > 0
    assert described["bytes"] == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert described["command"] == ["zoo", "finetune", "--config", str(folder / "config.toml")]
    exports = {Path(each["path"]): each["same"] for each in described["exports"]}
    assert exports == {folder / "model.onnx": True, finished[1] / "shapes" / "model.onnx": True}
    out = zoo("runs", "show", "aaaaaa").out
    assert len(out.splitlines()) < 45 and str(folder / "report.html") in out and "label_smoothing 0.25" in out


def test_two_equal_runs(zoo, make):
    make("a")
    make("b")
    ran = zoo("runs", "diff", "a", "b")
    assert ran.code == 0 and "differs" not in ran.out and ran.out.count("no difference") == 7
    assert "the exported weights are the same, bit for bit" in ran.out
    assert set(json.loads(zoo("runs", "diff", "a", "b", "--json").out)["equal"].values()) == {True}


def test_what_differs_between_two_runs(zoo, make, finished):
    import onnx

    values = json.loads((finished[0] / "run.json").read_text())
    first = make("a")
    other = make(
        "b",
        options={**values["options"], "seed": 7, "data": "/elsewhere", "wanted_precision": 0.9},
        data={**values["data"], "digest": "0" * 64, "counts": {**values["data"]["counts"], "test": 1}},
        evidence={"text": "340 pictures: a gain of 0.0345"},
        versions={**values["versions"], "numpy": "1.0"},
        plugins=[*values["plugins"], "other (zoo-other 1.0)"],
    )
    with (other / "pictures.csv").open(newline="") as stream:
        listed = list(csv.DictReader(stream))
    test = next(row for row in listed if row["part"] == "test")
    test["part"] = "train"
    listed[0]["class"] = "noise" if listed[0]["class"] != "noise" else "bars"
    listed[1]["sha256"] = "0" * 64
    new = {**listed[2], "sha256": "1" * 64, "picture": "new.jpg"}
    gone = listed.pop(3)
    with (other / "pictures.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(new))
        writer.writeheader()
        writer.writerows([*listed, new])
    for name in ("int8", "fp16"):
        shutil.copy(other / "model.onnx", other / f"model-{name}.onnx")
    shutil.copy(other / "model.onnx", first / "model-fp16.onnx")
    model = onnx.load(other / "model.onnx")
    tensor = max(model.graph.initializer, key=lambda each: len(each.raw_data))
    tensor.raw_data = tensor.raw_data[:-4] + b"\0\0\0@"
    onnx.save(model, other / "model.onnx")
    onnx.save(model, other / "model-fp16.onnx")

    found = json.loads(zoo("runs", "diff", "a", "b", "--json").out)
    names = {key: [row["name"] for row in found[key]] for key in ("configuration", "data", "split", "versions")}
    assert names == {
        "configuration": ["options.wanted_precision", "options.seed"],
        "data": ["options.data"],
        "split": ["test pictures"],
        "versions": ["numpy"],
    }
    assert found["plugins"] == {"only_first": [], "only_second": ["other (zoo-other 1.0)"]}
    pictures = {key: [each["picture"] for each in entries] for key, entries in found["pictures"].items()}
    assert pictures == {
        "added": ["new.jpg"],
        "removed": [gone["picture"]],
        "edited": [listed[1]["picture"]],
        "relabeled": [listed[0]["picture"]],
        "moved": [test["picture"]],
    }
    assert found["pictures"]["moved"][0]["after"] == ["train"]
    assert found["weights"]["same"] is False and found["weights"]["differing"] == 1
    assert not any(found["equal"][name] for name in ("configuration", "data", "split", "plugins", "weights"))
    out = zoo("runs", "diff", "a", "b").out
    assert "seed: A 0 | B 7" in out and "--precision: A - | B 0.9" in out
    assert "--precision 0.9" in zoo("runs", "show", "b").out and f"{test['picture']}: test -> train" in out
    assert "the exported weights differ: 1 of " in out
    variants = {each["name"]: (each["same"], *map(bool, each["sha256"])) for each in found["weights"]["variants"]}
    assert variants == {"fp16": (False, True, True), "int8": (None, False, True)}
    assert "fp16: its weights differ (sha256 " in out and "int8: only B has such a file" in out


def test_an_unfinished_run_is_compared_as_far_as_it_came(zoo, make):
    make("a")
    unfinished(make("b"))
    ran = zoo("runs", "diff", "a", "b")
    assert ran.code == 0 and "not measured: B" in ran.out and "not compared: B has no exported file" in ran.out
    assert "interrupted" in ran.out.splitlines()[1]
    refused = zoo("report", "a", "b")
    assert refused.code == 1 and "(state: interrupted)" in refused.err


def test_rm_says_what_it_deletes_and_asks(zoo, make, finished, monkeypatch):
    folder = make()
    ran = zoo("runs", "rm", "aaaaaa")
    assert ran.code == 2 and "Add --yes" in ran.err and folder.is_dir()
    assert f"The export stays: {finished[1] / 'shapes' / 'model.onnx'}" in ran.out
    at_a_terminal(monkeypatch, "n\n")
    ran = zoo("runs", "rm", "aaaaaa")
    assert ran.code == 1 and "Nothing was removed." in ran.out and (folder / "run.json").is_file()
    at_a_terminal(monkeypatch, "y\n")
    assert zoo("runs", "rm", "aaaaaa").code == 0
    assert os.listdir("runs") == [] and (finished[1] / "shapes" / "model.onnx").is_file()


def test_own_files_stay_unless_they_are_asked_for(zoo, make):
    folder = make()
    (folder / "my notes.txt").write_text("mine")
    (folder / "thesis").mkdir()
    (folder / "model-best.onnx").write_bytes(b"")
    ran = zoo("runs", "rm", folder, "--yes")
    assert ran.code == 0 and "model-best.onnx, my notes.txt, thesis: not of zoo and kept" in ran.out
    assert sorted(os.listdir(folder)) == ["model-best.onnx", "my notes.txt", "thesis"] and os.listdir("runs") == [
        folder.name
    ]
    ran = zoo("runs", "rm", folder.name, "--own-files", "--yes")
    assert ran.code == 0 and os.listdir("runs") == []


@pytest.mark.parametrize("options", [(), ("--own-files",)])
def test_a_file_that_appears_after_the_question_stays(zoo, make, monkeypatch, options):
    from zoo.workflow import remove_runs

    folder, remove = make(), remove_runs.remove
    (folder / "early.txt").write_text("mine")

    def late(*arguments, **keywords):
        (folder / "late.txt").write_text("mine")
        remove(*arguments, **keywords)

    monkeypatch.setattr(remove_runs, "remove", late)
    assert zoo("runs", "rm", folder, "--yes", *options).code == 0
    assert sorted(os.listdir(folder)) == (["late.txt"] if options else ["early.txt", "late.txt"])


def test_what_is_not_a_run_folder_is_never_removed(zoo, make, tmp_path, monkeypatch):
    folder = make()
    Path("photos").mkdir()
    shutil.copy(folder / "run.json", "photos/run.json")
    (tmp_path / "run.json").write_text((folder / "run.json").read_text())
    for given in (".", "/", "..", "runs", "photos", tmp_path, "runs/..", ""):
        ran = zoo("runs", "rm", given, "--yes")
        assert ran.code == 2 and "Removed" not in ran.out, given
    monkeypatch.chdir(folder)
    assert zoo("runs", "rm", ".", "--runs", "..", "--yes").code == 2
    assert zoo("runs", "rm", folder.name, "--runs", "..", "--yes").code == 2
    monkeypatch.chdir(tmp_path)
    assert (folder / "model.onnx").is_file() and Path("photos/run.json").is_file()


def test_of_a_link_only_the_link_is_removed(zoo, make):
    folder = make()
    elsewhere = Path("elsewhere")
    os.rename(folder, elsewhere)
    folder.symlink_to(elsewhere.absolute())
    ran = zoo("runs", "rm", "aaaaaa", "--yes")
    assert ran.code == 0 and "only the link is removed" in ran.out
    assert os.listdir("runs") == [] and (elsewhere / "model.onnx").is_file()


def test_failed_runs_and_runs_without_a_readable_record(zoo, make):
    make("kept")
    make("bad", status="failed: WriteError: '/home/me/a long/way/to/history.csv' cannot be written: full")
    assert "'…/history.csv' cannot be written: full" in zoo("runs").out
    make()
    (Path("runs") / OLD / "run.json").write_text("{")
    assert zoo("runs", "rm", "--failed", "--yes").code == 0
    assert sorted(os.listdir("runs")) == [OLD, "kept"]
    assert zoo("runs", "rm", OLD, "--yes").code == 0 and os.listdir("runs") == ["kept"]
    assert "nothing to remove" in zoo("runs", "rm", "--failed", "--yes").out


def test_a_removal_that_is_cut_off_leaves_no_half_of_a_run(zoo, make, monkeypatch):
    make()

    def fail(path: Path) -> None:
        (path / "model.onnx").unlink()
        raise PermissionError(13, "Permission denied", str(path / "run.json"))

    with monkeypatch.context() as patch:
        patch.setattr(remove_runs.shutil, "rmtree", fail)
        ran = zoo("runs", "rm", "aaaaaa", "--yes")
    assert ran.code == 1 and "the run is removed, but its files cannot all be deleted" in ran.err
    (rest,) = os.listdir("runs")
    assert rest.startswith(".removed-") and "no runs" in (listed := zoo("runs")).out and rest in listed.err
    assert zoo("runs", "rm", "--leftovers", "--yes").code == 0 and os.listdir("runs") == []
