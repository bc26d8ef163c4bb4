"""Folders: which folders are classes or parts of a split, what is refused with which commands, and what is left out."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
from collections import Counter
from pathlib import Path

import pytest

from zoo.data.dataset import digest_of, reload
from zoo.data.layouts import labels_in_names
from zoo.data.reading import ReadingOptions
from zoo.data.sources import open_source
from zoo.data.splits import part_of
from zoo.errors import DataLayout, EmptyClass
from zoo.reporter import Reporter
from zoo_runtime import ImageSpec, list_pictures


@pytest.fixture
def make(tmp_path, put):
    """Return a function that writes pictures, a number in each of some folders, and returns the path of the data."""

    def write(**folders: int) -> str:
        return tree({name.replace("__", "/"): count for name, count in folders.items()})

    def tree(folders: dict[str, int]) -> str:
        for folder, count in folders.items():
            for i in range(count):
                put(tmp_path / "data" / folder / f"{i}.png", size=(4, 4))
        return str(tmp_path / "data")

    write.tree = tree
    return write


def counts(source) -> dict[object, int]:
    """The number of pictures of each class, or of each class and part if there is a split."""
    return dict(
        Counter(
            source.class_of(picture) if picture.split is None else (source.class_of(picture), picture.split)
            for picture in source.pictures
        )
    )


def refused(data: str, **reading) -> DataLayout:
    """The error of a folder that is not read."""
    with pytest.raises(DataLayout) as caught:
        open_source(data, reading=ReadingOptions(**reading))
    return caught.value


def read_with(data: str, options) -> dict[object, int]:
    """What is read with the options of a remedy."""
    words = dict(zip(options[::2], options[1::2], strict=True))
    excluded = tuple(value for name, value in zip(options[::2], options[1::2], strict=True) if name == "--exclude")
    classes = tuple(words["--classes"].split(",")) if "--classes" in words else None
    return counts(open_source(words.get("--data", data), reading=ReadingOptions(classes=classes, exclude=excluded)))


# --- parts of a split -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "part"),
    [
        *((name, "train") for name in ("train", "Training", "TRAIN", "training_set", "train-set", "trainset")),
        *((name, "train") for name in ("train2017", "Train Images", "training data", "images_train", "train_1")),
        *((name, "val") for name in ("val", "valid", "Validation", "validation_set", "valset", "dev", "eval")),
        *((name, "test") for name in ("test", "Testing", "test_set", "testset", "test1", "holdout", "test_images")),
        *(
            (name, None)
            for name in ("trains", "contest", "cat", "train test", "steam train", "latest", "valley", "тест")
        ),
    ],
)
def test_names_of_parts(name, part):
    assert part_of(name) == part


@pytest.mark.parametrize("names", [("training_set", "test_set"), ("Train", "TEST"), ("flowers_train", "flowers_test")])
def test_a_split_above_the_classes(make, names):
    train, test = names
    data = make.tree({f"{train}/cat": 3, f"{train}/dog": 2, f"{test}/cat": 1, f"{test}/dog": 1})
    expected = {("cat", "train"): 3, ("dog", "train"): 2, ("cat", "test"): 1, ("dog", "test"): 1}
    assert counts(open_source(data)) == expected
    # Names of classes that are given change nothing here.
    if part_of(train):
        assert counts(open_source(data, reading=ReadingOptions(classes=("cat", "dog")))) == expected


def test_a_split_inside_the_classes(make):
    data = make(cat__train=3, cat__test=1, dog__train=2, dog__test=1)
    source = open_source(data)
    assert counts(source) == {("cat", "train"): 3, ("dog", "train"): 2, ("cat", "test"): 1, ("dog", "test"): 1}
    assert "with a split in it: test/ is the test part, train/ is the train part" in source.findings.layout


def test_a_part_beside_classes_of_the_same_names(make):
    source = open_source(make(cat=3, dog=2, test__cat=1, test__dog=1))
    assert counts(source) == {("cat", "train"): 3, ("dog", "train"): 2, ("cat", "test"): 1, ("dog", "test"): 1}


def test_a_part_in_a_folder_of_the_same_name(make):
    data = make(seg_train__seg_train__sea=2, seg_train__seg_train__ice=2, seg_test__seg_test__sea=1)
    make(seg_test__seg_test__ice=1)
    assert counts(open_source(data))[("ice", "train")] == 2


def test_pictures_of_a_part_without_class_folders_are_left_out(make):
    source = open_source(make(train__cat=2, train__dog=2, test=3))
    assert counts(source) == {"cat": 2, "dog": 2}
    (left,) = source.findings.left_out
    assert (left.path, left.pictures) == ("test/", 3)


@pytest.mark.parametrize(
    "folders", [{"valid": 2, "invalid": 2}, {"train": 2, "plane": 2}, {"Dev": 2, "Ana": 2}, {"test1": 2, "test2": 2}]
)
def test_classes_that_are_named_like_parts(make, folders):
    assert counts(open_source(make.tree(folders))) == folders


# --- what is refused, and the options that decide it ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folders", "message", "outcomes"),
    [
        pytest.param(
            {"cat": 2, "dog": 2, "test": 3},
            "'cat' 2, 'dog' 2, 'test' 3. The name 'test' is that of a part",
            [{"cat": 2, "dog": 2}, {"cat": 2, "dog": 2, "test": 3}],
            id="unlabeled test pictures beside the classes",
        ),
        pytest.param(
            {"train/cat": 2, "train/dog": 2, "test/cat": 2, "test/dog": 2, "mo[d]els": 1},
            "like a split, but also 'mo[d]els' 1",
            [
                {("cat", "train"): 2, ("dog", "train"): 2, ("cat", "test"): 2, ("dog", "test"): 2},
                {"train": 4, "test": 4, "mo[d]els": 1},
            ],
            id="another folder beside a split",
        ),
        pytest.param(
            {"train": 2, "test": 2},
            "the names are those of a split, but there are no class folders in them",
            [{"train": 2, "test": 2}],
            id="a split of loose pictures",
        ),
        pytest.param(
            {"train/cat": 2, "train/dog": 2, "val/cat": 1, "val/dog": 1, "valid/cat": 1, "valid/dog": 1},
            "several folders for the val part: 'val' 2, 'valid' 2",
            [{("cat", "train"): 2, ("dog", "train"): 2, ("cat", "val"): 1, ("dog", "val"): 1}] * 2,
            id="the same part twice",
        ),
        pytest.param(
            {"train/cat": 2, "train/dog": 2, "test/unknown": 5},
            "only the folder 'unknown' with 5 pictures, which is not a class",
            [{"cat": 2, "dog": 2}],
            id="unlabeled test pictures in a folder",
        ),
        pytest.param(
            {"photos/photos/cat": 2, "photos/photos/dog": 2},
            "The classes are probably the folders in",
            [{"cat": 2, "dog": 2}],
            id="one folder in another",
        ),
        pytest.param(
            {"2021/cat": 2, "2021/dog": 2, "2022/cat": 2, "2022/dog": 2, "2022/cow": 2},
            "The classes are probably 'cat', 'cow', 'dog'",
            [{"cat": 4, "dog": 4, "cow": 2}, {"2021": 4, "2022": 6}],
            id="years above the classes",
        ),
        pytest.param(
            {"cat/home": 2, "cat/park": 2, "dog/home": 2, "dog/park": 2},
            "have the same folders inside, with 'home' 4, 'park' 4 pictures",
            [{"cat": 4, "dog": 4}, {"home": 4, "park": 4}],
            id="the same folders in all classes",
        ),
        pytest.param(
            {"cat/train": 2, "cat/test": 2, "dog": 4},
            "'cat' has 'test' 2, 'train' 2 inside, like the parts of a split, but 'dog' has none",
            [{"cat": 2, "dog": 4}, {"cat": 4, "dog": 4}],
            id="a split inside one class",
        ),
        pytest.param(
            {"cat": 2, "cat/test": 1, "dog": 2, "dog/test": 1},
            "'cat' has 'test' 1 inside",
            [{"cat": 2, "dog": 2}, {"cat": 3, "dog": 3}],
            id="test pictures inside the classes",
        ),
        pytest.param(
            {"ill/images": 2, "ill/masks": 2, "well/images": 2, "well/masks": 2},
            "Masks are not pictures of the class",
            [{"ill": 2, "well": 2}],
            id="masks",
        ),
    ],
)
def test_what_can_be_understood_in_two_ways_is_refused_with_the_options_for_each(make, folders, message, outcomes):
    data = make.tree(folders)
    error = refused(data)
    assert message in str(error)
    assert [read_with(data, options) for _, options in error.remedies] == outcomes


@pytest.mark.parametrize(
    ("folders", "others", "message"),
    [
        ({"images": 3}, ["labels/1.txt"], "like a data set for object detection"),
        ({"JPEGImages": 3}, ["Annotations/1.xml", "ImageSets/Main/train.txt"], "for object detection"),
        ({"train/images": 3, "valid/images": 2}, ["train/labels/1.txt", "valid/labels/1.txt"], "object detection"),
        ({"images/train": 3, "images/val": 2}, ["labels/train/1.txt"], "for object detection"),
        ({"images": 3, "masks": 3}, [], "for segmentation"),
        (
            {"train2017": 3, "val2017": 2},
            ["annotations/a.json"],
            "'annotations' beside the pictures may describe boxes",
        ),
    ],
)
def test_data_for_other_tasks(make, folders, others, message):
    data = make.tree(folders)
    for name in others:
        Path(data, name).parent.mkdir(parents=True, exist_ok=True)
        Path(data, name).write_text("{}")
    assert message in str(refused(data))


def test_folders_inside_classes_that_are_partly_the_same_stay_readable(make):
    assert counts(open_source(make(cat__kitchen=1, cat__park=1, dog__kitchen=1, dog__street=1))) == {"cat": 2, "dog": 2}


def test_a_camera_card_for_each_class(make):
    assert counts(open_source(make(cat__100APPLE=1, dog__100APPLE=2))) == {"cat": 1, "dog": 2}


def test_groups_of_classes_are_remarked(make):
    source = open_source(make(animal__cat=2, animal__dog=2, car__bus=2, car__van=2))
    assert counts(source) == {"animal": 4, "car": 4}
    assert any("a level deeper" in text and "--classes cat,dog,bus,van" in text for text in source.remarks)
    named = open_source(str(source.pictures[0].content.parents[2]), reading=ReadingOptions(classes=("cat", "van")))
    assert counts(named) == {"cat": 2, "van": 2}


def test_names_of_dates_are_remarked(make):
    (remark,) = open_source(make.tree({"Photos from 2021": 2, "Photos from 2022": 2})).remarks
    assert "Check that these names say what the pictures show" in remark


def test_a_folder_for_each_picture(make):
    assert "a folder of its own" in str(refused(make.tree({f"scan{i}": 1 for i in range(6)})))


def test_the_command_of_each_way_is_complete_and_works(zoo, make):
    data = make(cat=2, dog=2, test=3)
    ran = zoo("finetune", "mobilenet_025", "--data", data, "--size", 96, "--classes", "cat,dog,test,cow")
    assert ran.code == 1 and "--classes names 'cow', but" in ran.err
    ran = zoo("finetune", "mobilenet_025", "--dry-run", "--data", data)
    assert ran.code == 1 and not ran.out
    commands = [line.split(": ", 1)[1].strip() for line in ran.err.splitlines() if ": zoo" in line.replace(":  ", ": ")]
    assert [shlex.split(command)[:5] for command in commands] == [
        ["zoo", "finetune", "mobilenet_025", "--dry-run", "--data"]
    ] * 2
    shown = [zoo(*shlex.split(command)[1:]) for command in commands]
    assert [each.code for each in shown] == [0, 0]
    assert "4 pictures of 2 classes" in shown[0].out and "7 pictures of 3 classes" in shown[1].out


# --- loose pictures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["cat.1.jpg", "cat.2.jpg", "dog.1.jpg", "dog.2.jpg"], {"cat", "dog"}),
        (
            ["Abyssinian_1.jpg", "Abyssinian_2.jpg", "great_pyrenees_10.jpg", "great_pyrenees_9.jpg"],
            {"Abyssinian", "great_pyrenees"},
        ),
        (["001-cat.png", "002-cat.png", "003-dog.png", "004-dog.png"], {"cat", "dog"}),
        (["cat (1).jpg", "cat (2).jpg", "dog (1).jpg", "dog (2).jpg"], {"cat", "dog"}),
        (["IMG_0001.jpg", "IMG_0002.jpg", "DSC0001.jpg", "DSC0002.jpg"], set()),
        (["cat1.jpg", "cat2.jpg", "cat3.jpg"], set()),
        (["anna.jpg", "bob.jpg", "carl.jpg", "dora.jpg"], set()),
    ],
)
def test_labels_in_the_names_of_files(names, labels):
    assert set(labels_in_names(names).values()) == labels


def test_loose_pictures_with_labels_in_their_names_are_shown_as_a_list_that_can_be_read(tmp_path, put):
    for label in ("cat", "dog"):
        for i in range(4):
            put(tmp_path / f"{label}.{i}.png")
    message = str(refused(str(tmp_path)))
    assert "suggest 2 classes: 'cat' 4, 'dog' 4" in message
    lines = [line.strip() for line in message.splitlines() if line.startswith("    ") and "," in line]
    assert lines == ["path,label", "cat.0.png,cat", "dog.0.png,dog"]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    assert open_source(str(tmp_path / "labels.csv")).classes == ("cat", "dog")
    assert refused(str(tmp_path)).remedies == (
        ("if labels.csv lists the classes", ["--data", str(tmp_path / "labels.csv")]),
    )


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["photos.zip"], "It has 'photos.zip'. Unpack it"),
        (["a.txt", "b.txt", "c.mov"], "It has 2 .txt, 1 .mov, but no pictures"),
        (["cats/a.txt"], "It has 1 .txt, but no pictures"),
    ],
)
def test_folders_without_pictures(tmp_path, files, message):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert message in str(refused(str(tmp_path)))


# --- files beside pictures --------------------------------------------------------------------------------------------


def test_other_files_are_counted_by_ending_and_are_no_pictures(make, put, tmp_path):
    data = Path(make(cat=3, dog=3))
    for name in ("cat/0.json", "cat/1.json", "dog/0.xml", "cat/IMG.AAE", "dog/IMG.MOV", "cat/README", "labels.csv"):
        (data / name).write_text("{}")
    for name in ("cat/Icon\r", "cat/ehthumbs.db", "dog/Thumbs.db", "dog/.DS_Store", "dog/._0.png"):
        (data / name).write_text("x")
    source = open_source(str(data))
    assert counts(source) == {"cat": 3, "dog": 3} and not source.remarks
    assert source.findings.passed_over == {
        ".aae": 1, ".csv": 1, ".json": 2, ".mov": 1, ".xml": 1, "without an ending": 1
    }  # fmt: skip


def test_pictures_with_a_strange_ending_or_none_are_known_by_their_content(make, put):
    data = Path(make(cat=2, dog=2))
    picture = put(data / "cat/a.jpg").read_bytes()
    for name in ("cat/b.JPG_large", "cat/c.jpeg~", "cat/d", "dog/e.png.orig"):
        (data / name).write_bytes(picture)
    for name in ("cat/f.dat", "dog/g", "dog/h.jpg.txt"):
        (data / name).write_text("not a picture")
    assert counts(open_source(str(data))) == {"cat": 6, "dog": 3}


def test_prediction_and_training_read_the_same_files_of_a_folder(make, put):
    data = Path(make(cat=2, dog=2))
    picture = put(data / "cat/a.jpg").read_bytes()
    for name in ("cat/b.JPG_large", "dog/d", "dog/g.dat", "dog/h.jpg.txt", "cat/.hidden.jpg", "dog/Thumbs.db"):
        (data / name).write_bytes(picture if "dat" not in name else b"x")
    (data / "cat/a.CR2").write_bytes(b"x")
    assert [str(picture.content) for picture in open_source(str(data)).pictures] == list_pictures(data)


def test_kinds_that_cannot_be_read_are_named_with_the_way_to_convert_them(zoo, make, put):
    data = Path(make(cat=4, dog=4))
    for name in ("cat/1.CR2", "cat/IMG_2.dng", "dog/drawing.svg"):
        (data / name).write_bytes(b"\0" * 50)
    (data / "dog/0.NEF").write_bytes(b"\0" * 50)  # The raw file of 0.png is no picture of its own.
    source = open_source(str(data))
    assert counts(source) == {"cat": 5, "dog": 5} and source.findings.passed_over == {".cr2": 1, ".nef": 1}
    ran = zoo("data", "show", data)
    assert ran.code == 0 and "1 .dng file is camera raw, a format that zoo cannot read: export" in ran.err
    assert "1 .svg file" in ran.err and "Split: about 6 to train on, 2 to test" in ran.out
    ran = zoo(
        "finetune",
        "mobilenet_025",
        "--data",
        data,
        "--weights",
        "none",
        "--classes",
        "cat,dog",
        "--exclude",
        "[0-2].png",
    )
    assert ran.code == 1 and "more than 20%" in ran.err and "DataError" not in ran.err
    assert "1 .dng file is camera raw" in ran.err


def test_folders_without_pictures_are_left_out_and_empty_ones_are_named(make):
    data = Path(make(cat=2, dog=2))
    (data / "docs").mkdir()
    (data / "docs/notes.txt").write_text("x")
    source = open_source(str(data))
    (left,) = source.findings.left_out
    assert source.classes == ("cat", "dog") and (left.path, left.why) == ("docs/", "it has no pictures, only 1 .txt")
    (data / "New Folder").mkdir()
    with pytest.raises(EmptyClass, match=r"New Folder' is empty.*--exclude '/New Folder'"):
        open_source(str(data))
    assert open_source(str(data), reading=ReadingOptions(exclude=("/New Folder",))).classes == ("cat", "dog")


def test_what_is_excluded_leaves_no_empty_class(make):
    source = open_source(make(cat=2, dog=2, raw=3), reading=ReadingOptions(exclude=("raw/*",)))
    assert counts(source) == {"cat": 2, "dog": 2}


def test_what_classes_leave_out_is_named_by_its_folder(make):
    data = make(train__cat=2, train__dog=2, train__cow=3, test__cat=1, test__dog=1, test__cow=1, notes=2)
    source = open_source(data, reading=ReadingOptions(classes=("cat", "dog")))
    assert counts(source) == {("cat", "train"): 2, ("dog", "train"): 2, ("cat", "test"): 1, ("dog", "test"): 1}
    left = {(each.path, each.pictures) for each in source.findings.left_out}
    assert left == {("train/cow/", 3), ("test/cow/", 1), ("notes/", 2)}


def test_a_pattern_that_was_typed_from_outside_the_data_is_explained(make):
    (remark,) = open_source(make(cat=2, dog=2), reading=ReadingOptions(exclude=("data/cat/old",))).remarks
    assert "--exclude 'data/cat/old' matches nothing" in remark and "probably 'cat/old'" in remark


# --- what zoo wrote ---------------------------------------------------------------------------------------------------


def test_runs_and_exports_in_the_data_are_left_out_by_their_content(make, finished):
    run, exported, _ = finished
    data = Path(make(cat=2, dog=2))
    shutil.copytree(run.parent, data / "old runs")
    shutil.copytree(exported, data / "exported")
    shutil.copytree(run, data / "cat" / run.name)
    source = open_source(str(data))
    assert counts(source) == {"cat": 2, "dog": 2}
    assert {(each.path, each.why) for each in source.findings.left_out} == {
        ("old runs/", "written by zoo"), ("exported/", "written by zoo"), (f"cat/{run.name}/", "written by zoo")
    }  # fmt: skip


def test_classes_called_runs_and_exported_are_classes(make):
    data = Path(make(runs=2, exported=2))
    (data / "runs/run.json").write_text("{}")
    (data / "exported/model.onnx").write_text("not one of zoo")
    assert counts(open_source(str(data))) == {"runs": 2, "exported": 2}


# --- names of classes -------------------------------------------------------------------------------------------------


def test_one_name_in_two_forms_of_unicode_is_one_class(make):
    data = make.tree({"train/caf\u00e9": 2, "train/tea": 2, "test/cafe\u0301": 1, "test/tea": 1})
    assert counts(open_source(data)) == {
        ("caf\u00e9", "train"): 2, ("tea", "train"): 2, ("caf\u00e9", "test"): 1, ("tea", "test"): 1
    }  # fmt: skip


def test_a_run_of_an_older_version_keeps_its_names_in_nfd_and_their_order(make):
    """In NFC, the name with the accent sorts behind "cafz"; in NFD, before it."""
    data = make.tree({"cafe\u0301": 2, "cafz": 3})
    source = open_source(data)
    assert source.classes == ("cafz", "caf\u00e9")
    names = {"cafz": "cafz", "caf\u00e9": "cafe\u0301"}
    lines = sorted(f"{picture.digest()} {names[source.class_of(picture)]}" for picture in source.pictures)
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    parts = {picture.digest(): "train" for picture in source.pictures}
    spec = ImageSpec(size=(4, 4))
    again = reload(source, spec, parts=parts, digest=digest, how="", run="r", reporter=Reporter())
    assert again.source.classes == ("cafe\u0301", "cafz")
    assert again.targets.sum(0).tolist() == [2, 3] and counts(again.source) == {"cafe\u0301": 2, "cafz": 3}
    new = reload(source, spec, parts=parts, digest=again_digest(source), how="", run="r", reporter=Reporter())
    assert new.source.classes == source.classes


def again_digest(source) -> str:
    """The digest of a run of this version."""
    pictures = source.pictures
    return digest_of(source, [picture.digest() for picture in pictures], range(len(pictures)))


@pytest.mark.parametrize(
    ("first", "second", "difference"),
    [
        ("cat", "Cat", "upper and lower case"),
        ("cat", "cat ", "blanks"),
        ("hot dog", "hot\u00a0dog", "blanks"),
        ("cat", "c\u0430t", "CYRILLIC SMALL LETTER A"),
        ("cat", "ca\u200bt", "ZERO WIDTH SPACE"),
        ("cat", "\uff43at", "FULLWIDTH LATIN SMALL LETTER C"),
    ],
)
def test_names_that_look_alike_are_refused_unless_they_are_named(make, tmp_path, first, second, difference):
    data = make.tree({first: 2, second: 1, "dog": 2})
    error = refused(data)
    assert f"{first!r} (2)" in str(error) and f"{second!r} (1)" in str(error) and difference in str(error)
    meant = ReadingOptions(classes=(first, second, "dog"))
    assert counts(open_source(data, reading=meant)) == {first: 2, second: 1, "dog": 2}


@pytest.mark.parametrize("names", [("A", "a", "B"), ("masse", "ma\u00dfe"), ("m2", "m\u00b2"), ("cat", "cat2")])
def test_names_that_differ_visibly(make, names):
    assert set(open_source(make.tree(dict.fromkeys(names, 2))).classes) == set(names)


def test_names_that_look_alike_in_two_parts(make):
    error = refused(make(train__Cats=2, train__dogs=2, test__cats=1, test__dogs=1))
    assert "'cats' (1) and 'Cats' (2) differ only in upper and lower case" in str(error)


def test_labels_that_look_alike_in_a_list(tmp_path, put):
    for i in range(1, 5):
        put(tmp_path / f"{i}.png")
    (tmp_path / "a.csv").write_text("path,label\n1.png,cat\n2.png,Cat\n3.png,cat \n4.png,dog\n")
    assert "'cat' (2) and 'Cat' (1) differ only in upper and lower case" in str(refused(str(tmp_path / "a.csv")))


def test_names_keep_their_letters_in_a_locale_without_them(make, monkeypatch):
    """In the locale C without UTF-8 mode, Python decodes no byte of a name that is not ASCII."""
    data = make.tree({"caf\u00e9": 2, "tea": 2})
    monkeypatch.setattr(os, "fsencode", lambda text: os.fspath(text).encode("ascii", "surrogateescape"))
    from zoo.data.names import normalized

    assert normalized("caf\u00e9".encode().decode("ascii", "surrogateescape")) == "caf\u00e9"
    assert open_source(data).classes == ("caf\u00e9", "tea")


# --- what is printed --------------------------------------------------------------------------------------------------


def test_classes_and_counts_are_printed_before_training(zoo, make):
    data = make.tree({f"class{i:02}": 2 + i for i in range(13)})
    ran = zoo("finetune", "mobilenet_025", "--data", data, "--dry-run")
    assert ran.code == 0 and "104 pictures of 13 classes (a folder for each class):" in ran.out
    assert "'class09' 11 and 3 more (fewest: 'class00' 2, most: 'class12' 14)" in ran.out


def test_a_dry_run_reads_no_picture_and_makes_no_folder(zoo, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = zoo("finetune", "mobilenet_025", "--data", photos, "--schedule", "scratch", "--dry-run")
    assert ran.code == 0 and ran.out.splitlines()[:2] == [
        "72 pictures of 3 classes (a folder for each class):",
        "  'bars' 24, 'discs' 24, 'noise' 24",
    ]
    assert "Split: about 48 to train on, 12 to validate, 12 to test" in ran.out
    assert not list(tmp_path.iterdir()) and not Path(os.environ["ZOO_CACHE"]).exists()
    ran = zoo("finetune", "mobilenet_025", "--data", photos, "--schedule", "nonsense", "--dry-run")
    assert ran.code == 2


def test_a_dry_run_fails_where_the_training_would(zoo, make):
    data = make(cat=1, dog=4)
    ran = zoo("finetune", "mobilenet_025", "--data", data, "--dry-run")
    assert ran.code == 1 and "error: class 'cat' has 1 picture" in ran.err
    ran = zoo("data", "show", data)
    assert ran.code == 0 and "training is not possible: class 'cat' has 1 picture" in ran.err


def test_what_is_read_as_json(zoo, make):
    data = make(train__cat=3, train__dog=2, test__cat=1, test__dog=1)
    (Path(data) / "README.md").write_text("x")
    ran = zoo("data", "show", data, "--json")
    found = json.loads(ran.out)
    assert found["classes"] == {
        "cat": {"pictures": 4, "train": 3, "test": 1},
        "dog": {"pictures": 3, "train": 2, "test": 1},
    }
    assert found["passed_over"] == {".md": 1} and found["split"]["counts"] == {"train": 5, "val": 0, "test": 2}
    ran = zoo("data", "show", data)
    assert [line.split() for line in ran.out.splitlines()[1:4]] == [
        ["train", "test"], ["'cat'", "3", "1"], ["'dog'", "2", "1"]
    ]  # fmt: skip


def test_the_group_without_a_command_says_what_to_type(zoo, make):
    data = make(cat=1)
    ran = zoo("data", data)
    assert ran.code == 2 and f"Did you mean `zoo data show {data}`?" in ran.err


@pytest.mark.parametrize("wrapped", [True, False])
def test_data_show_says_what_keeps_a_training_from_starting(zoo, make, wrapped):
    parts = ("photos/train", "photos/test") if wrapped else ("val", "test")
    data = make.tree({f"{part}/{label}": 4 for part in parts for label in "ab"})
    shown, trained = zoo("data", "show", data), zoo("finetune", "mobilenet_025", "--data", data, "--dry-run")
    assert trained.code == 1 and shown.code == wrapped
    reason = trained.err.strip().removeprefix("error: ").splitlines()[0]
    assert (reason if wrapped else f"training is not possible: {reason}") in shown.err and "Split:" not in shown.out
    if wrapped:
        checked = zoo("data", "check", data)
        assert checked.code == 1 and reason in checked.err and f"zoo data check {data}/photos" in checked.err


def test_a_list_in_the_train_part_is_proposed(make):
    """Roboflow writes such a list for pictures with several labels."""
    data = make.tree({"train": 4, "valid": 4, "test": 4})
    (Path(data) / "train" / "_classes.csv").write_text("filename, cat, dog\n")
    text = str(refused(data))
    assert "if train/_classes.csv lists the classes:" in text and "test/_classes.csv" not in text


def test_all_classes_may_be_said_to_differ(make):
    data = make(cat=2, Cat=2)
    assert "meant alike" in str(refused(data))
    assert open_source(data, reading=ReadingOptions(classes=("*",))).classes == ("Cat", "cat")


@pytest.mark.parametrize(
    ("link", "target", "option"),
    [("kitten", "cat", "/kitten"), ("aaa", "dog", "/aaa"), ("dog/../kitten", "../data/cat", "/kitten")],
)
def test_one_class_folder_under_two_names_is_refused(make, link, target, option):
    data = make(cat=3, dog=3)
    (Path(data) / link).symlink_to(target)
    error = refused(data)
    assert "is a link to" in str(error) and error.remedies[0][1] == ["--exclude", option]
    assert read_with(data, error.remedies[0][1]) == {"cat": 3, "dog": 3}


def test_one_part_under_two_names_is_refused(make):
    data = make.tree({f"{part}/{label}": 3 for part in ("train", "test") for label in ("a", "b")})
    (Path(data) / "val").symlink_to("test")
    error = refused(data)
    assert error.remedies[0][1] == ["--exclude", "/val"] and "'val' is a link to" in str(error)
    assert len(open_source(data, reading=ReadingOptions(exclude=("/val",))).pictures) == 12


@pytest.mark.parametrize(
    ("names", "is_hinted"),
    [
        (("cat", "cats"), True),
        (("Berry", "berries"), True),
        (("box", "boxes"), True),
        (("glass", "glasses"), True),
        (("cat", "cas"), False),
        (("a", "as"), False),
        (("bus", "buss"), False),
    ],
)
def test_a_singular_and_its_plural_are_hinted_at(make, names, is_hinted):
    data = make(**dict.fromkeys(names, 2), other=2)
    assert [("singular" in remark) for remark in open_source(data).remarks] == [True] * is_hinted
    assert not open_source(data, reading=ReadingOptions(classes=(*names, "other"))).remarks


def test_one_class_with_folders_inside_can_be_evaluated_if_it_is_named(make):
    data = make.tree({"cat/indoors": 2, "cat/outdoors": 2})
    with pytest.raises(DataLayout) as caught:
        open_source(data, fewest_classes=1)
    what, options = caught.value.remedies[1]
    assert what == "if 'cat' is a class"
    assert counts(open_source(data, reading=ReadingOptions(classes=(options[1],)), fewest_classes=1)) == {"cat": 4}
    assert len(refused(data).remedies) == 1
