"""What the columns of a list mean: the usual names, --columns, splits, and the questions that zoo asks."""

from __future__ import annotations

from collections import Counter

import pytest

from zoo.data.reading import ReadingOptions
from zoo.data.sources import open_source
from zoo.errors import DataLayout, EmptyClass, UsageError

KINDS = ("cat", "dog", "cow")


def table(header: str, row) -> str:
    """A header, and 24 rows that `row(i, path, class)` returns."""
    rows = [row(i, f"pictures/{i:02d}.png", KINDS[i % 3]) for i in range(24)]
    return "".join(f"{line}\n" for line in [header, *rows] if line)


def read(path: str, *columns: str, root: str | None = None):
    return open_source(path, reading=ReadingOptions(columns=columns, root=root))


def counts(source) -> dict[str, int]:
    return dict(Counter(source.class_of(p) for p in source.pictures))


def test_byte_order_mark_and_both_kinds_of_path(write_list, tmp_path):
    text = 'Path, LABEL\r\npictures/00.png,ape\r\n"{}/pictures/01.png", bear \r\n./pictures/../pictures/02.png,bear\r\n'
    source = open_source(write_list(text, "utf-8-sig"))
    assert source.name == "pets" and source.classes == ("ape", "bear") and source.remarks == ()
    assert [p.labels[0] for p in source.pictures] == [0, 1, 1]
    assert source.pictures[0].content == tmp_path / "pictures/00.png"
    assert source.pictures[0].name == "pictures/00.png"
    assert all(p.content.is_file() and p.split is None for p in source.pictures)


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("filename,class", lambda i, path, kind: f"{path},{kind}"),
        ("Image Path,Species", lambda i, path, kind: f"{path},{kind}"),
        (",file,category", lambda i, path, kind: f"{i},{path},{kind}"),
        ("id,image,target,age", lambda i, path, kind: f"{i},{path},{kind},{i % 5}"),
        ("animal,picture", lambda i, path, kind: f"{kind},{path}"),
        ("what,where", lambda i, path, kind: f"{kind},{path}"),
    ],
)
def test_the_usual_names_are_recognized_and_said(write_list, header, row):
    source = open_source(write_list(table(header, row)))
    assert counts(source) == {"cat": 8, "dog": 8, "cow": 8}
    paths, classes = source.remarks
    assert "zoo reads the paths from the column" in paths and "zoo reads the classes from the column" in classes


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        (
            "path,breed,species",
            lambda i, path, kind: f"{path},b{i % 4},{kind}",
            "breed and species may hold the classes",
        ),
        ("path,width,height", lambda i, path, kind: f"{path},{i},{i}", "none of them is called label"),
        ("a,b", lambda i, path, kind: f"{i},{kind}", "none of them is called path or holds the paths"),
        ("left,right,label", lambda i, path, kind: f"{path},{path},{kind}", "left and right may hold the paths"),
        ("path,label,labels", lambda i, path, kind: f"{path},{kind},{kind}", "one column label or one column labels"),
    ],
)
def test_a_doubt_is_a_question(write_list, header, row, message):
    with pytest.raises(DataLayout, match=rf"(?s)must name the columns: path,label.*{message}.*--columns path="):
        open_source(write_list(table(header, row)))


def test_columns_that_the_user_names(write_list):
    path = write_list(table("a;b;c;d", lambda i, path, kind: f"{kind};{path};{'train' if i < 18 else 'test'};x{i % 2}"))
    source = read(path, "path=b", "label=a", "split=c")
    assert counts(source) == {"cat": 8, "dog": 8, "cow": 8} and source.remarks == ()
    assert Counter(p.split for p in source.pictures) == {"train": 18, "test": 6}
    assert read(path, "path=2", "label=D").classes == ("x0", "x1")
    assert read(path, "label=d").classes == ("x0", "x1")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("path=b", "label=e"), r"has no column 'e'. It has: a, b, c, d\."),
        (("path=b", "label=5"), "has no column '5'"),
        (("file=b",), "'file' is not something that a column can hold. Allowed: path, label, labels, split"),
        (("path=b", "path=c"), "must name each column once"),
        (("path",), "must name each column once"),
        (("label=a", "labels=b"), "either label or labels"),
    ],
)
def test_columns_that_the_user_names_wrongly(write_list, columns, message):
    path = write_list(table("a,b,c,d", lambda i, path, kind: f"{kind},{path},train,x"))
    with pytest.raises(UsageError, match=message):
        read(path, *columns)


def test_a_list_without_a_header(write_list):
    rows = table("", lambda i, path, kind: f"{path},{kind}")
    source = open_source(write_list(rows))
    assert len(source.pictures) == 24 and "has no header" in source.remarks[0] and "path,label" in source.remarks[0]
    source = open_source(write_list(table("", lambda i, path, kind: f"{kind};{'train' if i < 18 else 'test'};{path}")))
    assert Counter(p.split for p in source.pictures) == {"train": 18, "test": 6}
    assert "label,split,path" in source.remarks[0]
    path = write_list(table("", lambda i, path, kind: f"{path},{kind},{i}"))
    with pytest.raises(DataLayout, match=r"'pictures/00.png,cat,0', which looks like a picture.*path=1,label=2"):
        open_source(path)
    assert counts(read(path, "path=1", "label=2")) == {"cat": 8, "dog": 8, "cow": 8}
    with pytest.raises(UsageError, match="first line is not a header, so give the number"):
        read(path, "path=file", "label=2")


def test_a_list_without_a_header_and_without_endings(write_list, tmp_path):
    """The first row must not be taken for a header."""
    path = write_list(table("", lambda i, path, kind: f"{i:02d},{kind}"))
    source = read(path, root=str(tmp_path / "pictures"))
    assert counts(source) == {"cat": 8, "dog": 8, "cow": 8}
    source = read(path, "path=1", "label=2", root=str(tmp_path / "pictures"))
    assert counts(source) == {"cat": 8, "dog": 8, "cow": 8}


def test_columns_of_zeros_and_ones(write_list):
    """Kaggle's competitions write one column per class."""
    rows = table("image,a,b,c", lambda i, path, kind: f"{path},{float(i % 3 == 0)},{i % 3 == 1},{int(i % 3 > 1)}")
    one = write_list(rows)
    source = open_source(one)
    assert counts(source) == {"a": 8, "b": 8, "c": 8} and source.task == "multiclass"
    assert "zoo reads the columns a, b, c as classes" in source.remarks[1]
    several = write_list(table("image,a,b", lambda i, path, kind: f"{path},{i % 2},{int(i % 3 == 0)}"))
    assert counts(open_source(several)) == {"b": 4, "a": 8, "": 8, "a;b": 4}
    assert open_source(several).multilabel
    mixed = write_list(table("image,a,b,age", lambda i, path, kind: f"{path},{i % 2},{1 - i % 2},{i}"))
    with pytest.raises(DataLayout, match="none of them is called label"):
        open_source(mixed)
    assert counts(read(mixed, "labels=a+b")) == {"b": 12, "a": 12}
    with pytest.raises(DataLayout, match=r"line 4, column 'age': a column of a class must hold 0 or 1. Received: '2'"):
        read(mixed, "labels=a+age")


# --- splits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "values", "parts"),
    [
        ("path,label,split", ("train", "Training", "val", "valid"), {"train": 12, "val": 12}),
        ("path,label,is_valid", ("False", "False", "False", "True"), {"train": 18, "val": 6}),
        ("path,label,set", ("train", "train", "test", "train"), {"train": 18, "test": 6}),
        ("path,label,split", ("train", "train", "train", "train"), {None: 24}),
        # A column of another meaning, whose name is usual for splits.
        ("path,label,set", ("1", "2", "3", "4"), {None: 24}),
    ],
)
def test_columns_that_divide(write_list, header, values, parts):
    source = open_source(write_list(table(header, lambda i, path, kind: f"{path},{kind},{values[(i // 3) % 4]}")))
    assert Counter(p.split for p in source.pictures) == parts


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", DataLayout, "Received: nothing"),
        ("path,label\n", EmptyClass, "no picture"),
        ("path,label\n00.png,a\n01.png,a\n", EmptyClass, "only the class 'a'"),
        ("path,label\n00.png,a\n01.png,\n", DataLayout, "line 3: the column 'label' must not be empty"),
        ("path,label\n00.png,a\n01.png\n02.png,\n", DataLayout, "lines 3, 4: the column 'label' must not be empty"),
        ("path,label\n,a\n", DataLayout, "line 2: the column 'path' must not be empty"),
        ("path,label,split\n00.png,a,train\n01.png,b,\n", DataLayout, "only some of the pictures.*line 3"),
        ("path,label,split\n00.png,a,train\n01.png,b,extra\n", DataLayout, "line 3, column 'split'.*Received: 'extra'"),
        ("path,label,split\n00.png,a,val\n01.png,b,test\n", DataLayout, "no training pictures"),
        (
            "path,label,split\n00.png,a,train\n01.png,b,test\n",
            DataLayout,
            "the test part has classes without training pictures: 'b'",
        ),
        (
            "path,label,split\n00.png,a,train\n01.png,b,train\n02.png,a,test\n",
            EmptyClass,
            "the test part has no picture of 'b'",
        ),
    ],
)
def test_lists_that_zoo_refuses(write_list, tmp_path, text, error, message):
    with pytest.raises(error, match=message):
        read(write_list(text), root=str(tmp_path / "pictures"))


def test_options_of_lists_do_not_fit_folders(tmp_path, put):
    put(tmp_path / "a/1.png")
    put(tmp_path / "b/1.png")
    with pytest.raises(UsageError, match="--columns is for a list of pictures"):
        read(str(tmp_path), "path=a")
    with pytest.raises(UsageError, match="--root is for a list of pictures"):
        read("digits", root=".")


def test_the_options_of_the_command_line(zoo, tmp_path, write_list):
    """The command that the error proposes works."""
    rows = "".join(f"{i:02d}.png;{KINDS[i % 2]}\n" for i in range(24))
    path = write_list("datei;art\n" + rows, name="lists/pets.csv")
    words = ["data", "show", path, "--columns", "path=datei,label=art"]
    ran = zoo(*words)
    root = tmp_path / "pictures"
    assert ran.code == 1 and f"zoo {' '.join(words)} --root {root}" in ran.err, ran.err
    ran = zoo(*words, "--root", root, "--json")
    assert ran.code == 0 and '"cat"' in ran.out and '"dog"' in ran.out, ran.err
    ran = zoo(*words, "--columns", "datei")
    assert ran.code == 2 and "path=filename,label=class" in ran.err


def test_two_columns_of_one_class(write_list):
    with pytest.raises(DataLayout, match="has 2 columns called 'cat'"):
        open_source(write_list(table("image,cat,cat,dog", lambda i, path, kind: f"{path},{i % 2},0,{1 - i % 2}")))
