"""Several lists that make up one data set: of Kaggle, Roboflow and Hugging Face, in shards, and without labels."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.data.reading import ReadingOptions
from zoo.data.sources import open_source
from zoo.errors import DataLayout

SPLIT = {("cat", "train"): 6, ("dog", "train"): 6, ("cat", "test"): 2, ("dog", "test"): 2}
PARTS = {"train": 12, "test": 4}


@pytest.fixture
def make(tmp_path, put):
    """Return a function that writes pictures, and lists as text, and returns the path of the data."""

    def write(pictures: dict[str, int], **lists: str) -> str:
        for folder, count in pictures.items():
            for i in range(count):
                put(tmp_path / "data" / folder / f"{i:02d}.png", size=(4, 4))
        for name, text in lists.items():
            path = tmp_path / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return str(tmp_path / "data")

    return write


def rows(header: str, count: int, row: str, start: int = 0) -> str:
    """A list whose rows have the number {0} and the class {1}."""
    lines = [row.format(i, ("cat", "dog")[i % 2], i % 2, 1 - i % 2) for i in range(start, start + count)]
    return "\n".join(([header] if header else []) + lines) + "\n"


def counts(source) -> dict:
    for picture in source.pictures:
        assert not isinstance(picture.content, Path) or picture.content.is_file()
    return dict(Counter((source.class_of(picture), picture.split) for picture in source.pictures))


def test_a_list_for_each_part_beside_the_pictures(make):
    data = make(
        {"images": 20},
        **{
            "train.csv": rows("path,label", 12, "images/{0:02d}.png,{1}"),
            "val.csv": rows("path,label", 4, "images/{0:02d}.png,{1}", 12),
            "test_labels.csv": rows("path,label", 4, "images/{0:02d}.png,{1}", 16),
        },
    )
    source = open_source(data)
    assert counts(source) == SPLIT | {("cat", "val"): 2, ("dog", "val"): 2}
    assert "'train.csv' (train), 'val.csv' (val), 'test_labels.csv' (test) as one data set" in source.remarks[0]
    left = open_source(data, reading=ReadingOptions(exclude=("val.csv",)))
    assert counts(left) == SPLIT and [each.path for each in left.findings.left_out] == ["val.csv"]


def test_a_contest_with_hidden_labels(make):
    data = make(
        {"train_images": 12, "test_images": 4},
        **{
            "train.csv": rows("image_id,label", 12, "{0:02d},{1}"),
            "test.csv": rows("image_id", 4, "t{0:02d}"),
            "sample_submission.csv": rows("image_id,label", 4, "t{0:02d},cat"),
        },
    )
    for i, path in enumerate(sorted(Path(data, "test_images").iterdir())):
        path.rename(path.with_name(f"t{i:02d}.png"))
    source = open_source(data)
    assert counts(source) == {("cat", None): 6, ("dog", None): 6}
    assert [(each.path, each.why) for each in source.findings.left_out] == [("test.csv", "it has no column 'label'")]


def test_lists_of_roboflow(make):
    header, row = "filename, cat, dog", "{0:02d}.png, {3}, {2}"
    data = make(PARTS, **{f"{part}/_classes.csv": rows(header, count, row) for part, count in PARTS.items()})
    source = open_source(data)
    assert counts(source) == SPLIT and not source.multilabel
    assert {picture.name for picture in source.pictures if picture.split == "test"} == {
        f"test/{i:02d}.png" for i in range(4)
    }


def test_metadata_of_hugging_face(make):
    row = '{{"file_name": "{0:02d}.png", "label": "{1}"}}'
    data = make(PARTS, **{f"{part}/metadata.jsonl": rows("", count, row) for part, count in PARTS.items()})
    assert counts(open_source(data)) == SPLIT


def test_metadata_beside_the_pictures(make):
    data = make({"": 12}, **{"metadata.csv": rows("file_name,label", 12, "{0:02d}.png,{1}")})
    assert counts(open_source(data)) == {("cat", None): 6, ("dog", None): 6}


def shard(path: Path, count: int, seed: int, labels: list[int] | None = None) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    rng, images = np.random.default_rng(seed), []
    for _ in range(count):
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(stream, "PNG")
        images.append({"bytes": stream.getvalue(), "path": None})
    names = {"info": {"features": {"label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}}}
    table = pyarrow.table({"image": images, "label": labels or [i % 2 for i in range(count)]})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table.replace_schema_metadata({b"huggingface": json.dumps(names).encode()}), path)


@pytest.mark.parametrize("folder", ["data/", ""])
def test_shards(tmp_path, folder):
    for i in range(3):
        shard(tmp_path / f"photos/{folder}train-0000{i}-of-00003.parquet", 4, i)
    shard(tmp_path / f"photos/{folder}test-00000-of-00001.parquet", 4, 7)
    source = open_source(str(tmp_path / "photos"))
    assert counts(source) == SPLIT and len({picture.digest() for picture in source.pictures}) == 16
    assert len({picture.name for picture in source.pictures}) == 16
    (tmp_path / f"photos/{folder}train-00001-of-00003.parquet").unlink()
    source = open_source(str(tmp_path / "photos"))
    assert any("has 2 of the 3 shards" in remark for remark in source.remarks)


def test_shards_with_hidden_labels_and_shards_in_the_folders_of_parts(tmp_path):
    shard(tmp_path / "photos/train/0000.parquet", 6, 0)
    shard(tmp_path / "photos/train/0001.parquet", 6, 1)
    shard(tmp_path / "photos/test/0000.parquet", 4, 2, [-1] * 4)
    source = open_source(str(tmp_path / "photos"))
    assert counts(source) == {("cat", None): 6, ("dog", None): 6}
    assert source.findings.left_out[0].path == "test/0000.parquet"


def test_folders_of_classes_have_precedence(make):
    data = make({"cat": 4, "dog": 4}, **{"train.csv": rows("path,label", 4, "cat/{0:02d}.png,x")})
    assert counts(open_source(data)) == {("cat", None): 4, ("dog", None): 4}


def test_two_lists_for_one_part_are_refused_with_the_command_for_each(make):
    text = rows("path,label", 12, "images/{0:02d}.png,{1}")
    data = make({"images": 12}, **{"train.csv": text, "train_labels.csv": text})
    with pytest.raises(DataLayout, match="several lists for one part") as caught:
        open_source(data)
    for _, options in caught.value.remedies:
        assert len(open_source(options[1]).pictures) == 12
    assert len(caught.value.remedies) == 2


def test_lists_of_other_names_are_proposed(make):
    text = rows("path,label", 12, "images/{0:02d}.png,{1}")
    data = make({"images": 12}, **{"animals.csv": text, "more.csv": text})
    with pytest.raises(DataLayout, match="which would be the only class") as caught:
        open_source(data)
    assert [options[1] for _, options in caught.value.remedies] == [f"{data}/animals.csv", f"{data}/more.csv"]


def test_a_row_that_is_wrong_is_named_with_its_list(make):
    text = rows("path,label", 4, "images/{0:02d}.png,{1}")
    data = make({"images": 16}, **{"train.csv": text, "test.csv": "path,label\nimages/05.png,cat\nimages/06.png,\n"})
    with pytest.raises(DataLayout, match=r"test.csv', line 3: the column 'label' must not be empty"):
        open_source(data)
    Path(data, "test.csv").write_text("path,label\nimages/00.png,cat\n")
    with pytest.raises(DataLayout, match=r"train.csv', line 2; '.*test.csv', line 2: 'images/00.png' is in two parts"):
        open_source(data)


def test_groups_by_a_column_and_no_quarantine(zoo, make, tmp_path):
    row = "{0:02d}.png,{1},p{0}"
    data = make(PARTS, **{f"{part}/metadata.csv": rows("file_name,label,who", n, row) for part, n in PARTS.items()})
    ran = zoo("data", "check", data, "--group-by", "column:who", "--json")
    found = {each["kind"]: each for each in json.loads(ran.out)["findings"]}
    assert len(found["groups_across_parts"]["items"]) == 4
    ran = zoo("data", "check", data, "--quarantine", tmp_path / "away")
    assert ran.code == 2 and "is read by its lists" in ran.err and not (tmp_path / "away").exists()


def test_a_training_with_several_lists(zoo, make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = make(
        PARTS, **{f"{part}/metadata.csv": rows("file_name,label", n, "{0:02d}.png,{1}") for part, n in PARTS.items()}
    )
    ran = zoo("finetune", "mnist_convnet", "--size", 28, "--epochs", 1, "--allow-chance", "--data", data)
    assert ran.code == 0, ran.err
    (run,) = (tmp_path / "runs").iterdir()
    with (run / "pictures.csv").open(newline="") as stream:
        assert Counter(row["part"] for row in csv.DictReader(stream))["test"] == 4
    ran = zoo("evaluate", run, "--part", "all", "--json")
    assert ran.code == 0 and json.loads(ran.out)["pictures"] == 16, ran.err


def test_pictures_of_one_name_in_the_folders_of_two_parts(make):
    lists = {f"{part}.csv": rows("id,label", n, "{0:02d},{1}") for part, n in PARTS.items()}
    source = open_source(make(PARTS, **lists))
    assert counts(source) == SPLIT
    assert all(picture.content.parent.name == picture.split for picture in source.pictures)


def test_lists_without_a_header(make):
    lists = {f"{part}.csv": rows("", n, part + "/{0:02d}.png,{1}") for part, n in PARTS.items()}
    source = open_source(make(PARTS, **lists))
    assert counts(source) == SPLIT and "as if its first line were path,label. " in source.remarks[1]
    make({}, **{"test.csv": rows("path,label", 4, "test/{0:02d}.png,{1}")})
    with pytest.raises(DataLayout, match=r"'.*test.csv' has a header, unlike the list of the train part"):
        open_source(str(make({})))


def test_columns_of_classes_that_differ(make):
    lists = {"train.csv": rows("path,a,b", 12, "train/{0:02d}.png,{2},{3}"), "test.csv": "path,a\ntest/00.png,1\n"}
    with pytest.raises(DataLayout, match=r"test.csv' has no column 'b'"):
        open_source(make(PARTS, **lists))


def test_lists_of_caffe_are_proposed(make):
    data = make(PARTS, **{"train.txt": rows("", 12, "train/{0:02d}.png {2}"), "README.txt": "Hello"})
    with pytest.raises(DataLayout) as caught:
        open_source(data)
    remedies = [options for _, options in caught.value.remedies if options[0] == "--data"]
    assert remedies == [["--data", f"{data}/train.txt"]]
    assert len(open_source(remedies[0][1]).pictures) == 12


def test_columns_and_root_for_several_lists(make):
    lists = {f"lists/{part}.csv": rows("a,b,c", n, "{0:02d}.png,{1},x{2}") for part, n in PARTS.items()}
    data = make(PARTS, **lists)
    for name in PARTS:
        Path(data, "lists", f"{name}.csv").rename(Path(data, f"{name}.csv"))
    with pytest.raises(DataLayout, match=r"train.csv' must name the columns"):
        open_source(data)
    source = open_source(data, reading=ReadingOptions(columns=("path=a", "label=c")))
    assert source.classes == ("x0", "x1") and len(source.pictures) == 16
    Path(data, "test.csv").unlink()
    source = open_source(data, reading=ReadingOptions(columns=("path=a", "label=b"), root=f"{data}/train"))
    assert counts(source) == {("cat", None): 6, ("dog", None): 6}
