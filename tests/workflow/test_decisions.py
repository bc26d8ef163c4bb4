"""`zoo data apply`: what decisions do to the list, and what is wrong with a file of decisions."""

from __future__ import annotations

import csv
import json
import shutil

import pytest

COLUMNS = ["run", "sha256", "picture", "class", "action", "label"]


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return finished[0]


@pytest.fixture
def pictures(run):
    with (run / "pictures.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def apply(zoo, run, tmp_path):
    """Return a function that writes decisions.csv, applies it, and returns what was printed."""

    def apply(rows, *options, columns=COLUMNS, **writing):
        path = tmp_path / "decisions.csv"
        encoding = writing.pop("encoding", "utf-8")
        with path.open("w", newline="", encoding=encoding) as stream:
            writer = csv.writer(stream, **writing)
            writer.writerow(columns)
            writer.writerows([[row[name] for name in columns] for row in rows])
        return zoo("data", "apply", path, "--run", run, *options)

    return apply


def decision(run, picture, action, label=""):
    return {"run": run.name, **{name: picture[name] for name in ("sha256", "picture", "class")}} | {
        "action": action,
        "label": label,
    }


def listed(path="photos-checked.csv"):
    with open(path, newline="", encoding="utf-8") as stream:
        return {row["path"]: row for row in csv.DictReader(stream)}


def of(pictures, part, label, count=1):
    return [row for row in pictures if row["part"] == part and row["class"] == label][:count]


def test_a_list_has_the_new_labels_and_the_same_parts(zoo, run, apply, pictures):
    (kept,), (moved,) = of(pictures, "train", "bars"), of(pictures, "train", "discs")
    (gone,), (tested,) = of(pictures, "train", "noise"), of(pictures, "test", "noise")
    rows = [
        decision(run, kept, "keep"),
        decision(run, moved, "relabel", "noise"),
        decision(run, gone, "remove"),
        decision(run, tested, "relabel", "bars"),
    ]
    before = [(path, path.stat().st_mtime_ns) for path in run.parent.parent.rglob("*.jpg")]
    ran = apply(rows)
    assert ran.code == 0, ran.err
    assert "1 kept, 2 relabeled, 1 removed" in ran.out
    assert "1 test picture is relabeled or removed" in ran.err
    found = listed()
    assert len(found) == len(pictures) - 1 and gone["picture"] not in found
    assert found[moved["picture"]]["label"] == "noise" and found[tested["picture"]]["label"] == "bars"
    assert all(found[row["picture"]]["split"] == row["part"] for row in pictures if row is not gone)
    assert before == [(path, path.stat().st_mtime_ns) for path, _ in before]
    shown = json.loads(zoo("data", "show", "photos-checked.csv", "--json").out)
    assert shown["pictures"] == len(pictures) - 1
    again = apply(rows)
    assert again.code == 2 and "exists already" in again.err
    assert apply(rows[:1], "--replace").code == 0 and len(listed()) == len(pictures)
    assert apply(rows[:1], "--no-split", "--output", "new.csv").code == 0
    assert "split" not in next(iter(listed("new.csv").values()))


def test_the_decisions_name_their_run(zoo, run, apply, pictures, tmp_path):
    rows = [decision(run, pictures[0], "keep")]
    apply(rows)
    ran = zoo("data", "apply", tmp_path / "decisions.csv", "--runs", run.parent, "--replace")
    assert ran.code == 0, ran.err
    ran = zoo("data", "apply", tmp_path / "decisions.csv", "--replace")
    assert ran.code == 2 and f"about the run {run.name}" in ran.err
    other = apply([{**rows[0], "run": "20260101T000000Z-other-abcdef"}], "--replace")
    assert other.code == 1 and "not " + run.name in other.err


@pytest.mark.parametrize(
    "writing",
    [
        {"delimiter": ";"},
        {"delimiter": "\t", "encoding": "utf-16"},
        {"encoding": "utf-8-sig", "quoting": csv.QUOTE_ALL},
    ],
    ids=["semicolons", "utf-16", "bom"],
)
def test_what_spreadsheets_make_of_the_file_is_read(run, apply, pictures, writing):
    (moved,) = of(pictures, "train", "discs")
    ran = apply([decision(run, moved, "Relabel", " NOISE ")], **writing)
    assert ran.code == 0, ran.err
    assert listed()[moved["picture"]]["label"] == "noise"


def test_the_file_without_names_is_enough(run, apply, pictures):
    (gone,) = of(pictures, "train", "discs")
    ran = apply([decision(run, gone, "remove")], columns=["sha256", "action"])
    assert ran.code == 0 and "1 removed" in ran.out, ran.err


def test_no_decisions_give_the_list_of_the_run(apply, pictures):
    ran = apply([])
    assert ran.code == 0 and "has no decisions" in ran.err and len(listed()) == len(pictures)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"action": "relable"}, "Did you mean relabel?"),
        ({"action": "relabel", "label": "disks"}, "Did you mean 'discs'?"),
        ({"action": "relabel"}, "relabel needs a label"),
        ({"action": "keep", "label": "noise"}, "the action is keep, but there is a label 'noise'"),
        ({"action": "keep", "class": "noise"}, "has the label 'bars' in the run, not 'noise'"),
        ({"action": "keep", "sha256": "0" * 64}, "but its content was different"),
        ({"action": "keep", "sha256": "0" * 64, "picture": "elsewhere.jpg"}, "the run has no picture with the sha256"),
    ],
)
def test_a_wrong_row_is_named(run, apply, pictures, changes, said):
    ran = apply([{**decision(run, pictures[0], "keep"), **changes}])
    assert ran.code == 1 and said in ran.err and "line 2" in ran.err
    assert not list(run.parent.glob("*.csv"))


def test_two_decisions_about_one_picture_must_agree(run, apply, pictures):
    first = pictures[0]
    assert apply([decision(run, first, "keep"), decision(run, first, "keep")]).code == 0
    ran = apply([decision(run, first, "keep"), decision(run, first, "remove")], "--replace")
    assert ran.code == 1 and "has two decisions, keep and remove" in ran.err


def test_a_part_without_a_class_is_refused_with_a_way_out(run, apply, pictures):
    tests = of(pictures, "test", "bars", 99)
    rows = [decision(run, row, "remove") for row in tests]
    ran = apply(rows)
    assert ran.code == 1 and "--no-split" in ran.err and "photos-checked.csv" in ran.err
    assert apply(rows, "--no-split").code == 0
    every = [decision(run, row, "remove") for row in pictures if row["class"] != "bars"]
    ran = apply(every, "--replace")
    assert ran.code == 1 and "training needs 2 classes" in ran.err


def test_another_file_is_refused(zoo, run, tmp_path):
    for name, content, said in (
        ("pictures.csv", "path,label\na.jpg,x\n", "has no column 'sha256' and 'action'"),
        ("page.html", "<html>", "is not a file of decisions"),
    ):
        (tmp_path / name).write_text(content)
        ran = zoo("data", "apply", tmp_path / name, "--run", run)
        assert ran.code == 1 and said in ran.err
    ran = zoo("data", "apply", tmp_path / "nothing.csv")
    assert ran.code == 1 and "label_issues.html" in ran.err


def test_copies_follow_and_moved_pictures_are_found(zoo, finished, photos, tmp_path, monkeypatch):
    from zoo.data.decisions import Decision, Entry, apply
    from zoo.errors import DataError

    monkeypatch.chdir(tmp_path)
    entries = [
        Entry("a.jpg", "1", "train", ("cat",)),
        Entry("copy of a.jpg", "1", "train", ("cat",)),
        Entry("b.jpg", "2", "train", ("dog",)),
        Entry("c.jpg", "2", "train", ("cat",)),
        Entry("d.jpg", "3", "train", ("dog",)),
    ]

    def decide(*rows):
        made = [Decision("line", "", sha, name, None, action, label) for sha, name, action, label in rows]
        return apply(made, entries, ["cat", "dog"], multilabel=False, run="run")

    found = decide(("1", "a.jpg", "relabel", "dog"))
    assert [entry.labels for entry in found.entries[:2]] == [("dog",), ("dog",)] and "copy of a.jpg" in found.remarks[0]
    assert [entry.picture for entry in decide(("2", "b.jpg", "remove", "")).entries[2:]] == ["c.jpg", "d.jpg"]
    with pytest.raises(DataError, match="is a copy of"):
        decide(("1", "a.jpg", "relabel", "dog"), ("1", "copy of a.jpg", "keep", ""))
    moved = tmp_path / "moved"
    shutil.copytree(photos, moved)
    (moved / "bars" / "new.jpg").write_bytes((moved / "bars" / "bars000.jpg").read_bytes() + b"more")
    (moved / "discs" / "discs003.jpg").unlink()
    with (finished[0] / "pictures.csv").open(newline="", encoding="utf-8") as stream:
        first = next(csv.DictReader(stream))
    (tmp_path / "d.csv").write_text(f"sha256,action\n{first['sha256']},keep\n")
    ran = zoo("data", "apply", "d.csv", "--run", finished[0], "--data", moved)
    assert ran.code == 0, ran.err
    assert "1 picture of the run is missing or changed" in ran.err and "1 picture was not in the run" in ran.err
    # All pictures are below the folder of the list.
    assert all(path.startswith("moved/") for path in listed())
