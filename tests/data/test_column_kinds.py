"""The question which column holds what: its commands name columns that are chosen from their values."""

from __future__ import annotations

import pytest

from zoo.data.reading import ReadingOptions, parse_names
from zoo.data.sources import open_source
from zoo.errors import DataLayout


def remedies(path: str) -> list[str]:
    with pytest.raises(DataLayout) as caught:
        open_source(path)
    return [options[1] for _, options in caught.value.remedies]


def table(header: str, row) -> str:
    return "\n".join([header, *(row(i, f"pictures/{i:02d}.png", ("Hund", "Katze")[i % 2]) for i in range(24))])


@pytest.mark.parametrize(
    ("header", "row", "columns"),
    [
        ("Datei,Art,Bemerkung", lambda i, path, kind: f"{path},{kind},schön {i}", ["path=Datei,label=Art"]),
        ("Bemerkung,Datei,Tag,Art", lambda i, path, kind: f"b{i},{path},{i % 3},{kind}", ["path=Datei,label=Art"]),
        (
            "Datei,Art,Ort,Zeit",
            lambda i, path, kind: f"{path[:-4]},{kind},{'abc'[i % 3]},2020-01-0{i % 4 + 1}",
            ["path=Datei,label=Art", "path=Datei,label=Ort"],
        ),
        (
            "path,label,label",
            lambda i, path, kind: f"{path},{kind},{'ab'[i % 2]}",
            ["path=path,label=2", "path=path,label=3"],
        ),
        (
            "path,path,label",
            lambda i, path, kind: f"{path},pictures/{23 - i:02d}.png,{kind}",
            ["path=1,label=label", "path=2,label=label"],
        ),
        ('"a,b",Art,Note', lambda i, path, kind: f"{path},{kind},{i}", ['"path=a,b",label=Art']),
    ],
)
def test_the_commands_name_columns_with_files_and_with_repeated_words(write_list, header, row, columns):
    path = write_list(table(header, row))
    assert remedies(path) == columns
    for each in columns:
        source = open_source(path, reading=ReadingOptions(columns=parse_names([each])))
        assert len(source.pictures) == 24 and all(picture.content.is_file() for picture in source.pictures)


def test_a_list_without_files(write_list):
    path = write_list(table("a,b,c", lambda i, path, kind: f"{i},{kind},{i + 30}"))
    with pytest.raises(DataLayout, match=r"(?s)No column holds names of files.*path=NAME,label=b"):
        open_source(path)


def test_two_columns_of_a_split(write_list):
    path = write_list(table("path,label,split,split", lambda i, path, kind: f"{path},{kind},train,test"))
    assert remedies(path) == ["split=3"]
