"""--group-by: keys from paths and columns, and the errors."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from hearing import Heard

from zoo.data import dataset
from zoo.data.group_by import keys_of
from zoo.data.sources import open_source
from zoo.errors import EmptyClass, UsageError
from zoo.reporter import Reporter
from zoo_runtime import ImageSpec


@pytest.fixture
def animals(tmp_path, put):
    """Two classes of eight animals each, with five pictures of every animal. The path to the folder has numbers too."""
    root = tmp_path / "2021-07" / "animals"
    for label in ("cat", "dog"):
        for animal in range(8):
            for i in range(5):
                put(root / label / f"{label}{animal}_{i}.png")
    return root


def keys(root, group_by: str, reporter: Reporter | None = None) -> tuple[str | None, ...]:
    return keys_of(group_by, open_source(str(root)), str(root), reporter or Reporter())


def test_the_first_group_or_the_whole_match_is_the_key(animals):
    assert keys(animals, r"([a-z]+\d)_")[:6] == ("cat0",) * 5 + ("cat1",)
    assert set(keys(animals, r"\d(?=_)")) == set("01234567")


def test_the_path_above_the_folder_takes_no_part(animals):
    assert "2021" not in keys(animals, r"\d+")
    assert keys(animals, r"^(cat|dog)/")[0] == "cat"


def test_the_path_may_be_written_in_several_ways(animals, monkeypatch):
    monkeypatch.chdir(animals.parent)
    for text in ("animals", "./animals", "animals/", str(animals)):
        assert keys(text, r"^([a-z]+)/")[0] == "cat"
    monkeypatch.chdir(animals)
    assert keys(".", r"^([a-z]+)/")[0] == "cat"


def test_pictures_without_a_key_are_named_and_stand_alone(animals):
    heard = Heard()
    assert keys(animals, r"cat/(cat\d)", heard).count(None) == 40
    assert "40 of 80 pictures are not matched by --group-by" in heard.warned[0] and "dog0_0.png" in heard.warned[0]


@pytest.mark.parametrize(
    ("group_by", "words"),
    [
        ("(", "is not a valid regular expression"),
        ("zebra", "gives no picture a group. It is searched in paths such as 'cat/cat0_0.png'"),
        ("()cat", "gives no picture a group"),
        ("column:animal", "needs a list of pictures"),
    ],
)
def test_what_cannot_be_meant_is_refused(animals, group_by, words):
    with pytest.raises(UsageError) as caught:
        keys(animals, group_by)
    assert words in str(caught.value)


def test_arrays_have_no_paths():
    with pytest.raises(UsageError, match="needs pictures with paths"):
        keys_of(".*", open_source("digits"), "digits", Reporter())


def test_a_column_of_a_table(animals):
    table = animals / "list.csv"
    with table.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "Animal"])
        for path in sorted(animals.glob("*/*.png")):
            missing = {"cat0_0.png": "", "dog0_0.png": "NaN"}
            writer.writerow([path.relative_to(animals), path.parent.name, missing.get(path.name, path.name[:4])])
    heard = Heard()
    assert keys(table, "column: animal ", heard)[:6] == (None, "cat0", "cat0", "cat0", "cat0", "cat1")
    assert "2 of 80 pictures have no value in 'column: animal '" in heard.warned[0]
    with pytest.raises(UsageError, match=r"has no column 'owner'\. It has: path, label, Animal\."):
        keys(table, "column:owner")


def load(root, group_by, **options):
    options = {"seed": 0, "val_fraction": None, "reporter": Heard(), **options}
    source = open_source(str(root))
    return dataset.load(source, ImageSpec(size=(16, 16)), group_by=group_by, data=str(root), **options)


@pytest.mark.parametrize("seed", range(5))
def test_an_animal_is_on_one_side_of_the_split(animals, seed):
    data = load(animals, r"(\w+\d)_", seed=seed)
    names = [picture.name.rpartition("/")[2][:4] for picture in data.source.pictures]
    sides = [{names[i] for i in part} for part in (data.split.train, data.split.val, data.split.test)]
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    assert all({"cat", "dog"} == {name[:3] for name in side} for side in sides)
    assert data.split.how.endswith(rf"seed {seed}, grouped by '(\\w+\\d)_'")
    assert len({data.together[i] for i in range(5)}) == 1 and len(set(data.together)) == 16


def test_an_animal_is_in_one_fold(animals):
    from zoo.train.folds import folds_of

    data = load(animals, r"(\w+\d)_", validation=False)
    fold_of = folds_of(data.targets, data.split.train, data.together, 5, 0)
    for animal in set(data.together):
        assert len({fold for fold, i in zip(fold_of, data.split.train, strict=True) if data.together[i] == animal}) <= 1
    assert np.all(np.bincount(fold_of) > 0)


def test_a_class_of_one_animal_is_an_error_that_names_it(animals):
    for path in (animals / "dog").glob("dog[1-7]_*"):
        path.unlink()
    with pytest.raises(EmptyClass, match=r"every class needs 3 groups: 'dog' has 1 group\. Add pictures"):
        load(animals, r"(\w+\d)_")
    with pytest.raises(EmptyClass, match=r"every class needs 2 groups: 'dog' has 1 group\."):
        load(animals, r"(\w+\d)_", validation=False)


def test_a_group_in_two_parts_of_a_given_split_is_said(animals):
    split = animals.parent / "split"
    for part in ("train", "test"):
        for label in ("cat", "dog"):
            (split / part / label).mkdir(parents=True)
    for path in animals.glob("*/*.png"):
        part = "test" if path.stem.endswith("_4") and path.stem[3] in "67" else "train"
        path.rename(split / part / path.parent.name / path.name)
    heard = Heard()
    data = load(split, r"(\w+\d)_", reporter=heard)
    assert any("4 groups of --group-by are in two parts of the given split" in text for text in heard.warned)
    assert sorted(data.check["groups_across_parts"]) == ["cat6", "cat7", "dog6", "dog7"]


def test_a_dry_run_counts_groups_as_the_training_does(zoo, animals):
    words = ["finetune", "mobilenet_025", "--data", animals, "--dry-run", "--schedule", "scratch", "--group-by"]
    ran = zoo(*words, r"(\w+\d)_")
    split = load(animals, r"(\w+\d)_", seed=0, val_fraction=None, reporter=Reporter()).split
    assert ran.code == 0, ran.err
    assert (
        f"Split: about {len(split.train)} to train on, {len(split.val)} to validate, {len(split.test)} to test "
        f"({split.how})" in ran.out
    )
    assert zoo(*words, "nothing").code == 2
    assert zoo(*words, "(cat|dog)/").code == 1


def test_the_number_of_groups_is_said(zoo, animals):
    heard = Heard()
    keys(animals, r"(cat\d|dog)", heard)
    assert heard.said == [r"Groups: 9 groups by --group-by '(cat\\d|dog)', of 5 to 40 pictures; the largest is 'dog'"]
    found = {"groups": 9, "pictures": 80, "alone": 0, "smallest": 5, "largest": 40, "largest_key": "dog"}
    ran = zoo("data", "show", animals, "--group-by", r"(cat\d|dog)", "--json")
    assert json.loads(ran.out)["group_by"] == found
    assert "every class needs 2 groups" in json.loads(ran.out)["split"]["problem"]
    ran = zoo("data", "show", animals, "--group-by", r"(\w+\d)_")
    assert "Groups: 16 groups by --group-by" in ran.out and "of 5 pictures" in ran.out and "grouped by" in ran.out
    check = load(animals, r"(\w+\d)_").check["group_by"]
    assert check == found | {"groups": 16, "largest": 5, "largest_key": check["largest_key"]}
