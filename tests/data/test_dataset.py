"""Loading pictures for a training: near-duplicates stay on one side, and what the check says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hearing import Heard
from PIL import Image, ImageOps

from zoo.data import dataset, split
from zoo.data.sources import open_source
from zoo_runtime import ImageSpec

SPEC = ImageSpec(size=(64, 64))


@pytest.fixture
def folder(tmp_path, scenes) -> Path:
    """Two classes of 20 different pictures."""
    for label in ("a", "b"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for i in range(20):
            scenes(i + 100 * (label == "b")).save(tmp_path / "data" / label / f"{i:02}.jpg", quality=92)
    return tmp_path / "data"


def load(folder: Path, seed: int = 0, **options) -> tuple[dataset.Dataset, Heard]:
    heard = Heard()
    source = open_source(str(folder))
    values = {"seed": seed, "val_fraction": None, "reporter": heard, "data": str(folder), **options}
    return dataset.load(source, SPEC, **values), heard


def sides(data: dataset.Dataset) -> dict[str, str]:
    return {data.source.pictures[i].name: part for part in ("train", "val", "test") for i in getattr(data.split, part)}


def test_nothing_is_said_of_pictures_without_near_duplicates_and_the_split_is_that_of_their_digests(folder):
    data, heard = load(folder)
    assert not [line for line in heard.said if "zoo data check" in line or "alike" in line] and heard.warned == []
    assert data.together == data.pixels.digests
    plain = split.split(
        *(data.source.pictures, data.pixels.digests, data.pixels.usable, data.source.classes),
        seed=0,
    )
    assert all(np.array_equal(getattr(plain, part), getattr(data.split, part)) for part in ("train", "val", "test"))
    assert json.loads(json.dumps(data.check))["lines"] == []


@pytest.mark.parametrize("seed", range(4))
def test_pictures_that_were_saved_again_are_on_the_side_of_their_original(folder, seed):
    for path in sorted(folder.glob("*/*.jpg")):
        image = Image.open(path)
        changed = (image, ImageOps.mirror(image), image.resize((80, 60)))[int(path.stem) % 3]
        changed.save(path.with_name(f"{path.stem}-again.jpg"), quality=60)
    data, heard = load(folder, seed)
    side = sides(data)
    assert len(side) == 80
    assert all(side[name] == side[name.replace("-again", "")] for name in side)
    (line,) = [line for line in heard.said if line.startswith("Near-duplicates")]
    assert line.startswith("Near-duplicates: 80 pictures in 40 groups; each group stays on one side of the split.")
    assert f"`zoo data check {folder}`" in line
    assert data.check["near_duplicates"]["number_of_groups"] == 40
    assert [len(getattr(data.split, part)) for part in ("train", "val", "test")] == [56, 12, 12]


def test_only_classes_with_a_torn_group_are_divided_anew(folder):
    before, _ = load(folder)
    train = [i for i in before.split.train if before.source.pictures[i].labels == (0,)]
    Image.open(before.source.pictures[train[0]].name).save(folder / "a" / "20.jpg", quality=50)
    after, _ = load(folder)
    side = sides(after)
    assert side[str(folder / "a" / "20.jpg")] == side[before.source.pictures[train[0]].name]
    assert {name: part for name, part in side.items() if "/b/" in name} == {
        name: part for name, part in sides(before).items() if "/b/" in name
    }


def test_near_duplicates_in_two_given_parts_are_a_warning_that_names_them(folder, scenes):
    (folder / "train").mkdir()
    for label in ("a", "b"):
        (folder / "test" / label).mkdir(parents=True)
        for i in range(3):
            scenes(500 + i + 10 * (label == "b")).save(folder / "test" / label / f"{i}.jpg")
        shutil.move(folder / label, folder / "train" / label)
    Image.open(folder / "train" / "a" / "05.jpg").save(folder / "test" / "a" / "x.webp", quality=80)
    data, heard = load(folder)
    (warning,) = heard.warned
    assert warning.startswith("1 pair of near-duplicates is in two parts of the given split: ")
    assert "05.jpg (train) = " in warning or "x.webp (test) = " in warning
    assert len(data.check["across_parts"]) == 1 and data.check["lines"][0] == warning


def test_a_picture_with_two_labels_is_a_warning(folder):
    ImageOps.mirror(Image.open(folder / "a" / "05.jpg")).save(folder / "b" / "05-mirrored.jpg", quality=80)
    data, heard = load(folder)
    assert heard.warned[0].startswith("1 picture is there several times, with different labels: ")
    assert "05.jpg (a) = " in heard.warned[0] and "05-mirrored.jpg (b)" in heard.warned[0]
    assert len(data.check["contradicting"]) == 1


def test_blank_pictures_are_a_warning(folder):
    Image.new("RGB", (50, 50), "white").save(folder / "a" / "white.png")
    data, heard = load(folder)
    assert heard.warned[0].startswith("1 picture has a single color and nothing else: ")
    assert data.check["blank"] == [str(folder / "a" / "white.png")]


def test_classes_that_are_all_alike_can_still_be_trained_on(folder, scenes):
    """A camera that does not move: 20 frames of a scene in which nearly nothing happens."""
    rng = np.random.default_rng(0)
    for label, seed in (("a", 0), ("b", 1)):
        still = np.asarray(scenes(seed)).astype(int)
        for i in range(20):
            noisy = still + rng.integers(-6, 7, still.shape)
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / label / f"{i:02}.jpg", quality=90)
    data, heard = load(folder)
    assert [len(getattr(data.split, part)) for part in ("train", "val", "test")] == [28, 6, 6]
    assert any(line.startswith("Look-alikes: 2 groups would hold too many") for line in heard.said)
    assert heard.warned == []
