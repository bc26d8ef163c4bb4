"""Reading options: --classes and --exclude on every kind of source, and in every command that reads a run again."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from zoo.data.reading import ReadingOptions, format_names, parse_names
from zoo.data.sources import open_source
from zoo.errors import DataLayout

NOT_GIVEN = {"columns": [], "root": None, "max_pixels": None, "formats": None}


def counts(source) -> dict[str, int]:
    """The number of pictures of each class."""
    return dict(Counter(source.class_of(picture) for picture in source.pictures))


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ((), None),
        (("cats,dogs",), ("cats", "dogs")),
        (("cats", "dogs, cows"), ("cats", "dogs", "cows")),
        (('"cats, black",dogs',), ("cats, black", "dogs")),
        (('"cat ",cat',), ("cat ", "cat")),
        (('"5"" disk",b',), ('5" disk', "b")),
        (("cafe\u0301",), ("caf\u00e9",)),
    ],
)
def test_names_of_classes_and_the_text_that_gives_them_again(values, names):
    assert parse_names(values) == names
    if names:
        assert parse_names([format_names(names)]) == names


@pytest.mark.parametrize("value", ["", "a,,b", "a,", '"a', '"a"b'])
def test_names_that_cannot_be_read(zoo, value):
    ran = zoo("finetune", "mnist_convnet", "--classes", value)
    assert ran.code == 2 and "must be names separated by commas" in ran.err


@pytest.mark.parametrize("value", ["", "/", "!"])
def test_patterns_that_cannot_be_read(zoo, value):
    ran = zoo("data", "show", "digits", "--exclude", value)
    assert ran.code == 2 and f"as in .gitignore, such as raw, '*.png' or 'cats/old'. Received: {value!r}" in ran.err


def test_classes_of_the_embedded_digits():
    source = open_source("digits", reading=ReadingOptions(classes=("8", "3")))
    assert source.classes == ("3", "8") and source.task == "binary"
    assert counts(source) == {"3": 183, "8": 174}


def test_a_class_that_is_absent_is_an_error_with_the_nearest_name(photos):
    with pytest.raises(DataLayout, match=r"names 'Disc' \(did you mean 'discs'\?\).*has no such class. It has 'bars'"):
        open_source(str(photos), reading=ReadingOptions(classes=("bars", "Disc")))


def test_several_labels_lose_those_that_are_not_named(tmp_path, put):
    for i in (1, 2, 3):
        put(tmp_path / f"{i}.png")
    (tmp_path / "a.csv").write_text("path,labels\n1.png,cat;dog\n2.png,dog\n3.png,cow\n")
    source = open_source(str(tmp_path / "a.csv"), reading=ReadingOptions(classes=("cat", "cow")))
    assert [source.class_of(picture) for picture in source.pictures] == ["cat", "", "cow"]


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        (("raw",), {"cat": 2, "dog": 2}),
        (("*.jpg",), {"cat": 1, "dog": 2}),
        (("cat/raw",), {"cat": 2, "dog": 3}),
        (("**/raw/*",), {"cat": 2, "dog": 2}),
        (("/raw",), {"cat": 3, "dog": 3}),
        (("*.jpg", "!cat/2.jpg"), {"cat": 2, "dog": 2}),
    ],
)
def test_patterns_are_those_of_gitignore(tmp_path, put, patterns, left):
    for name in ("cat/1.png", "cat/2.jpg", "cat/raw/3.jpg", "dog/1.png", "dog/2.jpg", "dog/raw/3.png"):
        put(tmp_path / name)
    assert counts(open_source(str(tmp_path), reading=ReadingOptions(exclude=patterns))) == left


def test_a_pattern_that_matches_nothing_is_named(tmp_path, put):
    for name in ("cat/1.png", "dog/1.png"):
        put(tmp_path / name)
    (remark,) = open_source(str(tmp_path), reading=ReadingOptions(exclude=("cat/raw",))).remarks
    assert remark.startswith("--exclude 'cat/raw' matches nothing.")


def test_a_run_is_read_again_as_it_was(zoo, photos, tmp_path):
    folders = ["--runs", tmp_path / "runs", "--exported", tmp_path / "exported"]
    reading = ["--classes", "discs,bars", "--exclude", "*00.jpg", "--exclude", "*1?.jpg"]
    words = ["mnist_convnet", "--data", photos, "--size", 28, "--epochs", 1, "--allow-chance"]
    ran = zoo("finetune", *words, *reading, *folders)
    assert ran.code == 0, ran.err
    (run,) = (tmp_path / "runs").iterdir()
    record = json.loads((run / "run.json").read_text("utf-8"))
    assert record["options"]["reading"] == {"classes": ["discs", "bars"], "exclude": ["*00.jpg", "*1?.jpg"]} | NOT_GIVEN
    assert record["classes"] == ["bars", "discs"]

    ran = zoo("evaluate", run, "--part", "all", "--json", *folders)
    assert ran.code == 0 and json.loads(ran.out)["pictures"] == 2 * 13, ran.err
    # On the same folder, named again, the options of the run hold; those that are typed replace them.
    ran = zoo("evaluate", run, "--data", photos, "--part", "all", "--json", *folders)
    assert ran.code == 0 and json.loads(ran.out)["pictures"] == 2 * 13, ran.err
    ran = zoo("evaluate", run, "--data", photos, "--part", "all", "--json", "--exclude", "*2?.jpg", *folders)
    assert ran.code == 0 and json.loads(ran.out)["pictures"] == 2 * 20, ran.err
    ran = zoo("export", run, "--name", "again", "--allow-chance", *folders)
    assert ran.code == 0, ran.err
    ran = zoo("export", run, "--name", "other", "--classes", "noise,bars", *folders)
    assert ran.code == 1 and "have changed since" in ran.err


def test_commands_that_zoo_suggests_repeat_the_options(zoo, photos, tmp_path):
    ran = zoo("finetune", "mnist_convnet", photos, "--classes", "bars,discs", "--exclude", "*0.jpg")
    assert ran.code == 2
    assert f"`zoo finetune mnist_convnet --data {photos} --classes bars,discs --exclude '*0.jpg'`" in ran.err


def test_options_of_older_and_newer_runs():
    assert ReadingOptions.from_json(None) == ReadingOptions.from_json({}) == ReadingOptions()
    given = ReadingOptions(classes=("a",), exclude=("b",))
    assert ReadingOptions.from_json({**given.to_json(), "invented later": 3}) == given
    assert ReadingOptions(exclude=("c",)).over(given) == ReadingOptions(classes=("a",), exclude=("c",))
    assert Path not in map(type, given.to_json().values())
