"""`zoo data check` and `zoo data restore`, as a user types them."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.data.check import quarantine


@pytest.fixture
def clean(tmp_path, scenes) -> Path:
    """Two classes of eight different pictures."""
    for label in ("a", "b"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(8):
            scenes(i + 100 * (label == "b")).save(tmp_path / "photos" / label / f"{i}.jpg", quality=92)
    return tmp_path / "photos"


def divide(clean: Path, train: range = range(2, 8), test: range = range(2)) -> None:
    """Move the pictures of each class with these numbers to train/ and test/."""
    for part, numbers in (("train", train), ("test", test)):
        for label in ("a", "b"):
            (clean / part / label).mkdir(parents=True)
            for i in numbers:
                (clean / label / f"{i}.jpg").rename(clean / part / label / f"{i}.jpg")
    (clean / "a").rmdir()
    (clean / "b").rmdir()


@pytest.fixture
def messy(clean, scenes) -> Path:
    """The same with a broken file, copies, a copy with another label, and a blank picture."""
    (clean / "a" / "broken.jpg").write_bytes((clean / "a" / "0.jpg").read_bytes()[:900])
    (clean / "a" / "1 (1).jpg").write_bytes((clean / "a" / "1.jpg").read_bytes())
    scenes(2).resize((80, 60)).save(clean / "a" / "2-small.jpg", quality=70)
    scenes(3).save(clean / "b" / "3-wrong.png")
    Image.new("RGB", (160, 120), "black").save(clean / "b" / "black.png")
    return clean


def kinds(found: dict) -> dict[str, list[list[str]]]:
    return {
        each["kind"]: [[name.rpartition("photos/")[2] for name in item["pictures"]] for item in each["items"]]
        for each in found["findings"]
    }


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_clean_pictures(zoo, clean):
    ran = zoo("data", "check", clean, "--strict")
    assert ran.code == 0 and "Nothing was found that needs attention." in ran.out
    assert "16 pictures of 2 classes (a folder for each class):" in ran.out and "'a' 8, 'b' 8" in ran.out
    assert "Sizes      160x120 to 160x120" in ran.out and "Formats    JPEG 16" in ran.out


def test_what_is_found_is_named_with_what_to_do(zoo, messy):
    ran = zoo("data", "check", messy)
    assert ran.code == 0
    assert "error: 1 file cannot be read and is left out" in ran.out and "broken.jpg" in ran.out
    assert "error: 1 picture has several copies with different labels" in ran.out and "('a', 'b')" in ran.out
    assert "warning: 1 picture has a single color and nothing else" in ran.out
    assert "note: 1 picture has byte-equal copies" in ran.out
    assert "--quarantine leaves them, as they may be frames" in ran.out


def test_json_names_everything(zoo, messy):
    ran = zoo("data", "check", messy, "--json")
    found = json.loads(ran.out)
    assert (found["pictures"], found["readable"]) == (21, 20)
    assert found["classes"]["b"] == {"pictures": 10}
    assert found["formats"] == {"JPEG": 18, "PNG": 2}
    assert kinds(found) == {
        "unreadable": [["a/broken.jpg"]],
        "contradicting_labels": [["a/3.jpg", "b/3-wrong.png"]],
        "blank": [["b/black.png"]],
        "exact_copies": [["a/1 (1).jpg", "a/1.jpg"]],
        "saved_again": [["a/2-small.jpg", "a/2.jpg"]],
    }


@pytest.mark.parametrize("kind", ["broken", "label", "part", "fine"])
def test_strict_fails_on_leaks_contradictions_and_unreadable_files_alone(zoo, clean, kind):
    if kind == "broken":
        (clean / "a" / "broken.jpg").write_bytes(b"")
    if kind == "label":
        (clean / "b" / "copy.jpg").write_bytes((clean / "a" / "0.jpg").read_bytes())
    if kind == "part":
        divide(clean)
        Image.open(clean / "test" / "a" / "0.jpg").save(clean / "train" / "a" / "again.jpg", quality=60)
    if kind == "fine":
        (clean / "a" / "copy.jpg").write_bytes((clean / "a" / "0.jpg").read_bytes())
    assert zoo("data", "check", clean).code == 0
    assert zoo("data", "check", clean, "--strict").code == (kind != "fine")
    if kind == "part":
        found = kinds(json.loads(zoo("data", "check", clean, "--json").out))
        assert found == {"copies_across_parts": [["train/a/again.jpg", "test/a/0.jpg"]]} or found == {
            "copies_across_parts": [["test/a/0.jpg", "train/a/again.jpg"]]
        }


def test_the_page_shows_pictures_and_fetches_nothing(zoo, messy, tmp_path):
    odd = messy / "a" / "<b>&.jpg"
    (messy / "a" / "4.jpg").rename(odd)
    page = tmp_path / "out" / "page.html"
    assert zoo("data", "check", messy, "--html", page).code == 0
    text = page.read_text("utf-8")
    assert "<b>&" not in text and "&lt;b&gt;&amp;.jpg" in text
    assert not re.findall(r"(?:src|href)=\"(?!data:)", text) and "http" not in text
    assert text.count("data:image/jpeg;base64,") >= 20
    assert "1 picture has several copies with different labels" in text


def test_the_page_replaces_a_page_and_no_other_file(zoo, clean):
    table = clean / "list.csv"
    text = "path,label\n" + "".join(f"{x}/{i}.jpg,{x}\n" for x in "ab" for i in range(8))
    table.write_text(text)
    ran = zoo("data", "check", table, "--html", table)
    assert ran.code == 2 and "exists and is not a page" in ran.err and table.read_text() == text
    for _ in range(2):
        assert zoo("data", "check", table, "--html", clean / "page.html").code == 0


def test_the_quarantine_moves_what_is_wrong_and_gives_it_back(zoo, messy, tmp_path):
    before = files_below(messy)
    away = tmp_path / "away"
    ran = zoo("data", "check", messy, "--quarantine", away, "--strict")
    assert ran.code == 1 and "Moved      4 files" in ran.out and f"zoo data restore {away}" in ran.out
    assert set(files_below(away)) == {
        *("quarantine.csv", "a/broken.jpg", "a/1 (1).jpg", "a/3.jpg", "b/3-wrong.png"),
    }
    with (away / "quarantine.csv").open(newline="") as stream:
        reasons = {Path(row["moved_from"]).name: row["reason"] for row in csv.DictReader(stream)}
    assert reasons["1 (1).jpg"].startswith("copy of ") and reasons["1 (1).jpg"].endswith("a/1.jpg")
    assert "has a copy with another label" in reasons["3.jpg"] and "cannot be read" in reasons["broken.jpg"]
    assert before == {**files_below(messy), **{k: v for k, v in files_below(away).items() if k != "quarantine.csv"}}
    assert zoo("data", "check", messy, "--strict").code == 0
    back = zoo("data", "restore", away)
    assert back.code == 0 and "Moved      4 files back" in back.out
    assert files_below(messy) == before


def test_nothing_is_overwritten_in_the_quarantine_or_on_the_way_back(zoo, messy, tmp_path):
    away = tmp_path / "away"
    (away / "a").mkdir(parents=True)
    (away / "a" / "broken.jpg").write_bytes(b"mine")
    (away / "quarantine.csv").write_text("moved_from,moved_to,reason,time\n")
    assert zoo("data", "check", messy, "--quarantine", away).code == 0
    assert (away / "a" / "broken.jpg").read_bytes() == b"mine"
    assert (away / "a" / "broken (2).jpg").stat().st_size == 900
    (messy / "a" / "broken.jpg").write_bytes(b"new")
    back = zoo("data", "restore", away)
    assert back.code == 1 and "not moved, place taken" in back.err and "Moved      3 files back" in back.out
    assert (messy / "a" / "broken.jpg").read_bytes() == b"new"
    (messy / "a" / "broken.jpg").unlink()
    assert zoo("data", "restore", away).code == 0
    assert (messy / "a" / "broken.jpg").stat().st_size == 900


def test_the_quarantine_works_across_disks(zoo, messy, tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(quarantine.os, "link", refuse)
    before = files_below(messy)
    old = os.stat(messy / "a" / "1 (1).jpg").st_mtime
    assert zoo("data", "check", messy, "--quarantine", tmp_path / "away").code == 0
    assert os.stat(tmp_path / "away" / "a" / "1 (1).jpg").st_mtime == old
    assert zoo("data", "restore", tmp_path / "away").code == 0
    assert files_below(messy) == before


def test_a_link_is_moved_as_a_link(zoo, clean, tmp_path):
    (clean / "a" / "gone.jpg").symlink_to("../nowhere.jpg")
    (clean / "a" / "linked.jpg").symlink_to(clean / "a" / "7.jpg")
    assert zoo("data", "check", clean, "--quarantine", tmp_path / "away").code == 0
    moved = {path.name for path in (tmp_path / "away" / "a").iterdir()}
    assert "gone.jpg" in moved and len(moved) == 2
    assert zoo("data", "restore", tmp_path / "away").code == 0
    assert (clean / "a" / "linked.jpg").read_bytes() == (clean / "a" / "7.jpg").read_bytes()


def test_a_file_that_cannot_be_moved_stays_and_is_said(zoo, messy, tmp_path, monkeypatch):
    before, unlink = files_below(messy), Path.unlink

    def refuse(self: Path, missing_ok: bool = False) -> None:
        if messy in self.parents:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(quarantine.Path, "unlink", refuse)
    ran = zoo("data", "check", messy, "--quarantine", tmp_path / "away")
    assert ran.code == 1 and "cannot be moved: Permission denied. 0 files were moved" in ran.err
    monkeypatch.undo()
    assert files_below(messy) == before and set(files_below(tmp_path / "away")) == {"quarantine.csv"}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_names_that_are_not_text_are_moved_and_given_back(zoo, clean, tmp_path):
    name = os.fsencode(clean / "a") + b"/caf\xe9\n.jpg"
    with open(name, "wb") as stream:
        stream.write(b"no picture")
    assert json.loads(zoo("data", "check", clean, "--json", "--html", tmp_path / "x.html").out)["readable"] == 16
    assert zoo("data", "check", clean, "--quarantine", tmp_path / "away").code == 0
    assert not os.path.exists(name)
    assert zoo("data", "restore", tmp_path / "away").code == 0
    assert os.path.exists(name)


def test_a_folder_without_a_readable_picture(zoo, tmp_path):
    (tmp_path / "photos" / "a").mkdir(parents=True)
    (tmp_path / "photos" / "a" / "1.jpg").write_bytes(b"x")
    ran = zoo("data", "check", tmp_path / "photos", "--strict", "--html", tmp_path / "x.html")
    assert ran.code == 1 and "Unreadable 1 of 1 pictures" in ran.out


def test_several_labels_per_picture(zoo, clean, scenes):
    scenes(0).save(clean / "again.jpg", quality=60)
    table = clean / "list.csv"
    table.write_text("path,labels\na/0.jpg,x;y\nagain.jpg,y\na/1.jpg,\na/2.jpg,x\n")
    found = kinds(json.loads(zoo("data", "check", table, "--json").out))
    assert found["contradicting_labels"] == [["a/0.jpg", "again.jpg"]]


def test_of_copies_the_one_in_the_test_part_stays(zoo, clean, tmp_path):
    divide(clean)
    (clean / "train" / "a" / "copy.jpg").write_bytes((clean / "test" / "a" / "1.jpg").read_bytes())
    assert zoo("data", "check", clean, "--quarantine", tmp_path / "away").code == 0
    assert (clean / "test" / "a" / "1.jpg").exists() and (tmp_path / "away" / "train" / "a" / "copy.jpg").exists()


@pytest.mark.parametrize(
    "names",
    [
        ("x.jpg", "x (1).jpg", "x (2).jpg"),
        ("x.jpg", "x copy.jpg", "x copy 2.jpg"),
        ("x.jpg", "Kopie von x.jpg", "x - Kopie.jpg"),
        ("x.jpg", "Copia de x.jpg", "Copy of x.jpg"),
        ("long name.jpg", "x (1).jpg", "x copy.jpg"),
    ],
)
def test_of_byte_equal_copies_the_plain_name_stays(zoo, clean, tmp_path, names):
    for name in names:
        (clean / "a" / name).write_bytes((clean / "a" / "1.jpg").read_bytes())
    (clean / "a" / "1.jpg").unlink()
    assert zoo("data", "check", clean, "--quarantine", tmp_path / "away").code == 0
    assert {path.name for path in (clean / "a").iterdir()} - {f"{i}.jpg" for i in range(8)} == {names[0]}
    assert {path.name for path in (tmp_path / "away" / "a").iterdir()} == set(names[1:])


def test_frames_of_a_burst_stay(zoo, clean, tmp_path, scenes):
    for i in range(3):
        frame = np.asarray(scenes(500), dtype=np.int16) + i
        Image.fromarray(frame.clip(0, 255).astype(np.uint8)).save(clean / "a" / f"frame{i}.jpg", quality=90)
    ran = zoo("data", "check", clean, "--quarantine", tmp_path / "away")
    assert "frame0.jpg" in ran.out and "Moved      nothing" in ran.out
    assert not (tmp_path / "away").exists() or not list((tmp_path / "away").iterdir())


@pytest.mark.parametrize(
    ("place", "message"),
    [("..", "contains the data"), ("../full", "is not empty"), ("runs/old", "writes runs"), ("exported", "exports")],
)
def test_a_quarantine_in_a_folder_of_something_else_is_refused(zoo, messy, tmp_path, monkeypatch, place, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    before = files_below(tmp_path)
    ran = zoo("data", "check", messy, "--quarantine", messy / place if place.startswith(".") else place)
    assert ran.code == 2 and message in ran.err and "../quarantine" in ran.err
    assert files_below(tmp_path) == before


@pytest.mark.parametrize("place", ["", "away", "a/deep/er", "../photos"])
def test_a_quarantine_that_would_be_read_as_pictures_is_refused(zoo, messy, place):
    before = files_below(messy)
    ran = zoo("data", "check", messy, "--quarantine", messy / place)
    assert ran.code == 2 and "is inside" in ran.err and ".quarantine" in ran.err
    assert files_below(messy) == before


def test_a_hidden_quarantine_inside_is_left_out_of_reading(zoo, messy):
    assert zoo("data", "check", messy, "--quarantine", messy / ".quarantine").code == 0
    ran = zoo("data", "check", messy, "--strict")
    assert ran.code == 0 and "17 pictures of 2 classes" in ran.out


def test_an_excluded_quarantine_inside_is_left_out_of_reading(zoo, messy):
    ran = zoo("data", "check", messy, "--quarantine", messy / "old" / "1", "--exclude", "old")
    assert ran.code == 0, ran.err
    assert "17 pictures of 2 classes" in zoo("data", "check", messy, "--exclude", "old").out
    assert (messy / "old" / "1" / "quarantine.csv").exists()
    # Later commands need not exclude it: it is known by its list.
    ran = zoo("data", "show", messy)
    assert "17 pictures of 2 classes" in ran.out and "Left out: 'old/' (written by zoo)" in ran.out


def test_dark_pictures_of_16_bits_get_the_advice_to_read_fewer_levels(zoo, tmp_path):
    levels = np.random.default_rng(0).integers(0, 4096, (12, 40, 40)).astype(np.uint16)
    for i, picture in enumerate(levels):
        path = tmp_path / "xray" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    ran = zoo("data", "check", tmp_path / "xray")
    assert "very dark" in ran.out and "such as --levels 12" in ran.out
    ran = zoo("data", "check", tmp_path / "xray", "--levels", "12")
    assert ran.code == 0 and "very dark" not in ran.out, ran.err
    assert zoo("data", "check", tmp_path / "xray", "--levels", "7").code == 2


def test_files_of_a_list_are_not_moved(zoo, clean, tmp_path):
    table = clean / "list.csv"
    table.write_text("path,label\n" + "".join(f"{x}/{i}.jpg,{x}\n" for x in "ab" for i in range(8)))
    ran = zoo("data", "check", table, "--quarantine", tmp_path / "away")
    assert ran.code == 2 and "is not a folder" in ran.err and not (tmp_path / "away").exists()
    ran = zoo("data", "check", table)
    assert ran.code == 0 and "--quarantine" not in ran.out
    # Its advice names only what can be done with a list.
    with table.open("a") as stream:
        stream.write("a/none.jpg,a\n")
    ran = zoo("data", "check", table, "--exclude", "nothing.here")
    assert "Repair, convert or remove them.\n" in ran.out and "--quarantine" not in ran.out
    assert (ran.out + ran.err).count("--exclude 'nothing.here' matches nothing") == 1


def test_a_quarantine_that_was_renamed_keeps_its_list(zoo, messy, tmp_path):
    before = files_below(messy)
    assert zoo("data", "check", messy, "--quarantine", tmp_path / "away").code == 0
    listed = (tmp_path / "away" / "quarantine.csv").read_bytes()
    (tmp_path / "away").rename(tmp_path / "renamed")
    ran = zoo("data", "restore", tmp_path / "renamed")
    assert ran.code == 1 and "none of the 4 files" in ran.err and "move it back first" in ran.err
    assert (tmp_path / "renamed" / "quarantine.csv").read_bytes() == listed
    (tmp_path / "renamed").rename(tmp_path / "away")
    assert zoo("data", "restore", tmp_path / "away").code == 0
    assert files_below(messy) == before


@pytest.mark.parametrize("cut", ["/photos/a/1.jpg", '"/photos/a/1.jpg', "/photos/a/1.jpg,"])
def test_a_row_that_was_cut_short_is_skipped(zoo, messy, tmp_path, cut):
    before = files_below(messy)
    assert zoo("data", "check", messy, "--quarantine", tmp_path / "away").code == 0
    with (tmp_path / "away" / "quarantine.csv").open("a") as stream:
        stream.write(cut)
    ran = zoo("data", "restore", tmp_path / "away")
    assert ran.code == 0 and "Moved      4 files back" in ran.out
    assert files_below(messy) == before


def test_what_is_no_quarantine_is_said(zoo, clean):
    ran = zoo("data", "restore", clean)
    assert ran.code == 1 and "is not a quarantine" in ran.err


def test_arrays_and_digits_are_checked_too(zoo, tmp_path, scenes):
    pictures = np.stack([np.asarray(scenes(i)) for i in range(12)])
    pictures[5] = pictures[4]
    np.savez(tmp_path / "some.npz", x_train=pictures, y_train=np.arange(12) % 2)
    found = json.loads(zoo("data", "check", tmp_path / "some.npz", "--json").out)
    assert kinds(found)["contradicting_labels"] == [["x_train[4]", "x_train[5]"]]
    assert found["formats"] == {"array": 12}
    ran = zoo("data", "check", "digits", "--strict")
    assert ran.code == 0 and "1797 of 1797 pictures have a side of less than 32 pixels" in ran.out


def test_groups_across_parts_are_a_leak(zoo, clean):
    divide(clean, train=range(4), test=range(4, 8))
    ran = zoo("data", "check", clean, "--strict", "--group-by", r"([ab])/[34]|\d")
    assert ran.code == 1 and "2 groups of --group-by are in several parts" in ran.out
    assert zoo("data", "check", clean, "--group-by", "zebra").code == 2


def test_a_forgotten_argument_and_a_missing_folder(zoo, tmp_path):
    assert zoo("data", "check").code == 2
    ran = zoo("data", "check", tmp_path / "nowhere")
    assert ran.code == 1 and "there is nothing at" in ran.err
    assert "check" in zoo("data", "--help").out
    ran = zoo("data", tmp_path)
    assert ran.code == 2 and f"Did you mean `zoo data show {tmp_path}`?" in ran.err
    assert "Did you mean `zoo data check x`?" in zoo("data", "chek", "x").err


def test_the_command_that_lists_everything_reads_the_same_pictures(zoo, clean):
    for i in range(5):
        Image.new("RGB", (60 + i, 60)).save(clean / "a" / f"empty{i}.png")
    expression = r"(\w+)\."
    ran = zoo("data", "check", clean, "--exclude", "*.txt", "--classes", "a,b", "--group-by", expression)
    words = f"--classes a,b --exclude '*.txt' --group-by '{expression}'"
    assert f"All names  zoo data check {clean} {words} --json" in ran.out
