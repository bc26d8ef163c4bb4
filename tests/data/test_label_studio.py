"""Exports of Label Studio: CSV, JSON-MIN and JSON, with choices, with boxes, and with annotators that disagree."""

from __future__ import annotations

import csv
import json
from collections import Counter

import pytest

from zoo.data.reading import ReadingOptions
from zoo.data.sources import open_source
from zoo.errors import DataLayout

UPLOADED = "/data/upload/3/1a2b3c{0:02d}-{0:02d}.png"
KINDS = ("cat", "dog")


def counts(source) -> dict[str, int]:
    return dict(Counter(source.class_of(picture) for picture in source.pictures))


def task(i: int, choices: list[str] | None = None, image: str = UPLOADED) -> dict:
    result = {
        "value": {"choices": choices or [KINDS[i % 2]]},
        "from_name": "choice",
        "to_name": "image",
        "type": "choices",
    }
    return {
        "id": i,
        "annotations": [{"id": i + 5, "completed_by": 1, "result": [result], "was_cancelled": False}],
        "file_upload": "x",
        "data": {"image": image.format(i)},
        "created_at": "2024-01-01",
        "project": 3,
    }


@pytest.fixture
def write(tmp_path, write_list):
    def to_json(tasks: list[dict], name: str = "export.json") -> str:
        return write_list(json.dumps(tasks).replace("{}", "{ }"), name=name)

    return to_json


def read(path: str, tmp_path):
    source = open_source(path, reading=ReadingOptions(root=str(tmp_path / "pictures")))
    names = {picture.content for picture in source.pictures}
    assert all(name.is_file() for name in names) and len(names) == len(source.pictures)
    for picture in source.pictures:
        assert picture.content.name[:2] == picture.name[-6:-4]
    return source


def row(i: int, choice: object) -> dict:
    added = {
        "id": i,
        "annotator": 1,
        "annotation_id": i,
        "created_at": f"t{i}",
        "updated_at": f"t{i}",
        "lead_time": 2.5,
    }
    return {"image": UPLOADED.format(i), "choice": choice, **added}


def test_json_min_and_csv(tmp_path, write):
    rows = [row(i, KINDS[i % 2]) for i in range(24)]
    assert counts(read(write(rows), tmp_path)) == {"cat": 12, "dog": 12}
    with (tmp_path / "export.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    source = read(str(tmp_path / "export.csv"), tmp_path)
    assert counts(source) == {"cat": 12, "dog": 12}
    assert "is an export of Label Studio" in source.remarks[0]


def test_several_choices_of_a_csv(tmp_path, write):
    rows = [row(i, {"choices": ["cat", "dog"]} if i < 6 else KINDS[i % 2]) for i in range(24)]
    source = read(write(rows), tmp_path)
    assert source.multilabel and counts(source)["cat;dog"] == 6


def test_json(tmp_path, write):
    tasks = [task(i) for i in range(24)]
    tasks[3]["annotations"][0]["was_cancelled"] = True
    tasks[4]["annotations"] = []
    source = read(write(tasks), tmp_path)
    assert counts(source) == {"cat": 11, "dog": 11} and not source.multilabel
    assert any("2 of 24 tasks have no choice" in remark for remark in source.remarks)


def test_json_with_several_choices(tmp_path, write):
    source = read(write([task(i, ["cat", "dog"] if i < 6 else None) for i in range(24)]), tmp_path)
    assert source.multilabel and counts(source)["cat;dog"] == 6


def test_files_that_label_studio_reads_from_a_folder(write):
    path = write([task(i, image="/data/local-files/?d=pictures/{:02d}%2Epng") for i in range(24)])
    assert all(picture.content.is_file() for picture in open_source(path).pictures)


def test_the_error_proposes_a_root_that_works(tmp_path, write):
    path = write([task(i) for i in range(24)])
    with pytest.raises(DataLayout, match=r"is perhaps '.*pictures/00.png'") as caught:
        open_source(path)
    root = str(caught.value).rpartition("--root ")[2]
    assert len(open_source(path, reading=ReadingOptions(root=root)).pictures) == 24


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda result: result.update(type="rectanglelabels", value={"x": 1}), "of the kind rectanglelabels"),
        (lambda result: result.update(from_name="other"), "with 2 questions: choice, other"),
    ],
)
def test_exports_that_are_refused(write, change, message):
    tasks = [task(i) for i in range(24)]
    for each in tasks[:: 1 if "kind" in message else 2]:
        change(each["annotations"][0]["result"][0])
    with pytest.raises(DataLayout, match=message):
        open_source(write(tasks))


def test_annotators_that_disagree(write):
    tasks = [task(i) for i in range(24)]
    tasks[1]["annotations"] += task(0)["annotations"]
    with pytest.raises(DataLayout, match="entry 2: the annotations of this task disagree: 'dog' and 'cat'"):
        open_source(write(tasks))


def test_boxes_in_json_min(write):
    with pytest.raises(DataLayout, match="entry 1: the column 'choice' holds regions"):
        open_source(write([row(i, [{"x": 1, "rectanglelabels": ["cat"]}]) for i in range(24)]))


@pytest.mark.parametrize("label", [{"id": 1, "name": "cat"}, [{"id": 1, "name": "cat"}]])
def test_labels_that_are_objects(write, label):
    with pytest.raises(DataLayout, match="entry 1: the column 'label' holds an object with 'id', 'name'"):
        open_source(write([{"path": f"pictures/{i:02d}.png", "label": label} for i in range(24)], "pets.json"))
