"""Class names from the cells of a list: numbers, several labels, repetitions and doubtful columns."""

from __future__ import annotations

from collections import Counter

import pytest

from zoo.data.reading import ReadingOptions
from zoo.data.sources import open_source
from zoo.errors import DataLayout, UnreadablePictures


def listed(labels: list[str], header: str = "path,label") -> str:
    rows = [f'pictures/{i:02d}.png,"{labels[i % len(labels)]}"' for i in range(24)]
    return "\n".join([header, *rows]) + "\n"


def read(path: str, *columns: str):
    return open_source(path, reading=ReadingOptions(columns=columns))


def counts(source) -> dict[str, int]:
    return dict(Counter(source.class_of(p) for p in source.pictures))


@pytest.mark.parametrize(
    ("given", "classes"),
    [
        (["1", "2", "10"], ("01", "02", "10")),
        (["1.0", "2.0", "10.0"], ("01", "02", "10")),
        (["0", "1"], ("0", "1")),
        (["001", "2"], ("001", "002")),
        (["1", "2", "1.0"], ("1", "2")),
        (["1", "01.0"], ("01.0", "1")),
        # Two spellings of one number are two classes, and names that are not all numbers stay as they are.
        (["7", "07"], ("07", "7")),
        (["1", "2", "x"], ("1", "2", "x")),
        (["-1", "1"], ("-1", "1")),
        (["0.5", "1.0"], ("0.5", "1.0")),
    ],
)
def test_whole_numbers_sort_as_numbers(write_list, given, classes):
    assert open_source(write_list(listed(given))).classes == classes


def test_accents_are_one_class_however_they_are_written(write_list):
    assert open_source(write_list(listed(["caf\u00e9", "cafe\u0301", "dog"]))).classes == ("caf\u00e9", "dog")


def test_several_labels(write_list):
    source = open_source(write_list(listed(["cat; indoors", "", "dog;"], "path,labels")))
    assert counts(source) == {"cat;indoors": 8, "": 8, "dog": 8} and source.multilabel and source.remarks == ()


@pytest.mark.parametrize("separator", ["|", ",", ", "])
def test_another_separator_of_labels_is_taken_by_evidence_and_said(write_list, separator):
    path = write_list(listed([f"cat{separator}indoors", "cat", "dog"], "path,labels"))
    source = open_source(path)
    assert counts(source) == {"cat;indoors": 8, "cat": 8, "dog": 8}
    assert f"zoo takes {separator.strip()!r} for the separator" in source.remarks[0]
    assert open_source(write_list(listed(["Paris, France", "Rome, Italy"], "path,labels"))).classes == (
        "Paris, France",
        "Rome, Italy",
    )


@pytest.mark.parametrize("separator", ["|", ",", ";"])
def test_a_class_that_looks_like_several_is_a_question(write_list, separator):
    path = write_list(listed([f"cat{separator}dog", "cat", "dog"]))
    with pytest.raises(DataLayout, match=r"(?s)looks like several.*--columns labels=label.*--columns label=label"):
        open_source(path)
    assert counts(read(path, "labels=label")) == {"cat;dog": 8, "cat": 8, "dog": 8}
    assert read(path, "label=label").classes == ("cat", f"cat{separator}dog", "dog")


def test_a_column_with_a_value_of_its_own_in_each_row_is_a_question(write_list):
    path = write_list(listed([f"{i}.5" for i in range(24)]))
    with pytest.raises(DataLayout, match=r"(?s)has 24 different values in 24 rows.*right: +--columns label=label"):
        open_source(path)
    assert len(read(path, "label=label").classes) == 24


@pytest.mark.parametrize("missing", ["nan", "NaN", "#N/A", "<NA>"])
def test_a_missing_value_as_a_class_is_a_question(write_list, missing):
    path = write_list(listed(["cat", "dog", missing]))
    with pytest.raises(DataLayout, match=f"the class '{missing}' in the column 'label' looks like a missing value"):
        open_source(path)
    assert missing in read(path, "label=label").classes


def test_the_same_file_twice(write_list):
    """The same label counts once; different ones contradict each other, unless a picture may have several."""
    path = write_list(listed(["cat", "dog"]) + "./pictures/00.png,cat\npictures/../pictures/00.png,cat\n")
    source = open_source(path)
    assert len(source.pictures) == 24 and "2 lines name files that an earlier line names too" in source.remarks[0]
    path = write_list(listed(["cat", "dog"]) + "pictures\\00.png,dog\n")
    with pytest.raises(DataLayout, match=r"(?s)lines 2, 26: .* two classes, 'cat' and 'dog'.*--columns labels=label"):
        open_source(path)
    source = read(path, "labels=label")
    assert len(source.pictures) == 24 and source.class_of(source.pictures[0]) == "cat;dog"


def test_the_same_file_in_two_parts(write_list):
    rows = "".join(f"pictures/{i:02d}.png,{'ab'[i % 2]},train\n" for i in range(24))
    with pytest.raises(DataLayout, match=r"lines 2, 26: 'pictures/00.png' is in two parts, train and test"):
        open_source(write_list("path,label,split\n" + rows + "pictures/00.png,a,test\n"))


def test_a_few_files_that_do_not_exist_are_counted_as_unreadable(write_list, tmp_path):
    from zoo.data.pixels import check_readable, digests_of

    text = listed(["cat", "dog"]).replace("00.png", "gone.png")
    source = open_source(write_list(text))
    digests = digests_of(source.pictures)
    assert [i for i, digest in enumerate(digests) if not digest] == [0]
    with pytest.raises(UnreadablePictures, match=r"pictures/gone\.png"):
        check_readable(source.pictures[:2], {0: "PictureNotFound: it cannot be read"})


def test_blanks_separate_labels_whose_words_stand_alone_elsewhere(write_list):
    """As the list of PASCAL VOC that fastai uses in its course: fname,labels,is_valid."""
    names = ("car", "person", "car person", "person car")
    rows = "".join(f"pictures/{i:02d}.png,{names[i % 4]}\n" for i in range(24))
    source = open_source(write_list("path,labels\n" + rows))
    assert source.classes == ("car", "person") and "zoo takes ' ' for the separator" in source.remarks[0]
    rows = "".join(f"pictures/{i:02d}.png,{('fire truck', 'fire engine')[i % 2]}\n" for i in range(24))
    assert open_source(write_list("path,labels\n" + rows)).classes == ("fire engine", "fire truck")
