"""CSV and other text files: encodings, separators, quotes and blank lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoo.data.sources import open_source
from zoo.errors import DataLayout

KINDS = ("Kätzchen", "Hündchen")


def listed(separator: str = ",", header: str = "path,label", kinds: tuple[str, ...] = KINDS, count: int = 24) -> str:
    rows = [header, *(f"pictures/{i:02d}.png,{kinds[i % len(kinds)]}" for i in range(count))]
    return "".join(f"{row.replace(',', separator)}\r\n" for row in rows)


def check(source, kinds: tuple[str, ...] = KINDS, count: int = 24) -> None:
    assert source.classes == tuple(sorted(kinds))
    assert [source.class_of(p) for p in source.pictures] == [kinds[i % len(kinds)] for i in range(count)]
    assert all(p.content.is_file() for p in source.pictures)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_what_spreadsheets_write(write_list, separator, encoding):
    source = open_source(write_list(listed(separator), encoding))
    check(source)
    assert source.name == "pets" and source.remarks == ()


@pytest.mark.parametrize("first", ["sep=;\r\n", '"sep=;"\r\n', "\ufeffsep=;\r\n", "SEP=;\n"])
def test_the_line_that_names_the_separator(write_list, first):
    check(open_source(write_list(first + listed(";"))))


@pytest.mark.parametrize("name", ["a.tsv", "a.txt", "a.CSV"])
def test_other_endings(write_list, name):
    check(open_source(write_list(listed("\t"), name=name)))


def test_the_separator_is_the_one_that_makes_columns(write_list):
    """The labels hold more semicolons than the rows hold commas."""
    rows = "".join(f"pictures/{i:02d}.png,a;b;c\n" for i in range(24))
    assert open_source(write_list("path,labels\n" + rows)).classes == ("a", "b", "c")
    quoted = "".join(f'"pictures/{i:02d}.png";"{"x, y, z" if i % 2 else "w, v"}"\n' for i in range(24))
    assert open_source(write_list("path;label\n" + quoted)).classes == ("w, v", "x, y, z")


def test_blank_lines_and_rows_of_separators_are_skipped(write_list):
    source = open_source(write_list("\n" + listed() + "\r\n,\r\n  ,  \r\n\r\n"))
    check(source)


def test_rows_of_other_lengths(write_list):
    check(open_source(write_list(listed().replace("00.png,Kätzchen", "00.png,Kätzchen,,,"))))
    with pytest.raises(DataLayout, match=r"pets.csv', line 3: the row has 3 values for 2 columns.*double quotes"):
        open_source(write_list("path,label\npictures/00.png,a\nmy, cat1.jpg,cat\n"))


def test_quoted_values_hold_line_breaks_separators_and_quotes(write_list):
    rows = [f'pictures/{i:02d}.png,{"ab"[i % 2]},"a note\nof two lines, with ""quotes"""\n' for i in range(24)]
    check(open_source(write_list("path,label,note\n" + "".join(rows))), ("a", "b"))
    rows[20] = "pictures/20.png,,x\n"
    with pytest.raises(DataLayout, match=r"line 42: the column 'label' must not be empty"):
        open_source(write_list("path,label,note\n" + "".join(rows)))
    two_lines = [row.replace(",a,", ',"Great\nDane",') for row in rows[:20]]
    assert open_source(write_list("path,label,note\n" + "".join(two_lines))).classes == ("Great Dane", "b")


@pytest.mark.parametrize("label", ['"cat', '"5" pot"'])
def test_quotes_that_are_not_balanced(write_list, label):
    with pytest.raises(DataLayout, match=r"line 3: the double quotes are not balanced"):
        open_source(write_list(f"path,label\npictures/00.png,dog\npictures/01.png,{label}\npictures/02.png,dog\n"))


def test_every_row_in_quotes(write_list):
    """Excel writes so after it opened a list with another separator than its own."""
    check(open_source(write_list("".join(f'"{row}"\r\n' for row in listed().splitlines()))))


def test_lists_of_words_without_a_header(write_list):
    """Caffe writes so. Paths may contain blanks, because the last word is the class."""
    Path(write_list("", name="a")).parent.joinpath("pictures/00.png").rename(
        Path(write_list("", name="a")).parent / "pictures/my cat.png"
    )
    rows = ["pictures/my cat.png 0\n", *(f"pictures/{i:02d}.png {i % 3}\n" for i in range(1, 24))]
    source = open_source(write_list("".join(rows), name="train.txt"))
    check(source, ("0", "1", "2"))
    assert source.pictures[0].name == "pictures/my cat.png" and "has no header" in source.remarks[0]


# --- text that is not Unicode ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "name"),
    [("cp1252", "Windows-1252"), ("mac_roman", "Mac Roman"), ("cp850", r"DOS \(code page 850\)")],
)
def test_an_older_encoding_is_found_by_its_letters_and_said(write_list, encoding, name):
    kinds = ("Löwe", "Bär", "Kätzchen")
    source = open_source(write_list(listed(kinds=kinds), encoding))
    check(source, kinds)
    (remark,) = source.remarks
    assert f"is not in UTF-8. zoo read it as {name.replace(chr(92), '')}: 'Bär', 'Kätzchen', 'Löwe'." in remark


@pytest.mark.parametrize(
    ("kinds", "encoding"),
    [
        (("кошка", "собака"), "cp1251"),
        (("kočka", "želva", "myš", "liška"), "cp1250"),
        (("猫", "犬", "鳥", "ライオン"), "shift_jis"),
        (("猫咪", "狮子"), "gbk"),
    ],
)
def test_an_encoding_that_is_not_clear_is_a_question(write_list, kinds, encoding):
    with pytest.raises(DataLayout, match=r"not in UTF-8, and its encoding is not clear.*CSV UTF-8"):
        open_source(write_list(listed(kinds=kinds), encoding))


def test_the_files_that_exist_decide_the_encoding(write_list, put, tmp_path):
    """Alone, the byte of "ä" in DOS may be "ä", or „ of Windows, or "Ñ" of older Macs."""
    for i in range(6):
        put(tmp_path / f"Bär {i}.png")
    rows = "".join(f"Bär {i}.png,{('Bär', 'x')[i % 2]}\n" for i in range(6))
    source = open_source(write_list("path,label\n" + rows, "cp850"))
    assert source.classes == ("Bär", "x") and all(p.content.is_file() for p in source.pictures)


def test_text_in_a_column_that_is_not_used_does_not_matter(write_list):
    text = listed(header="path,label,note", kinds=("a", "b")).replace(",a", ",a,кошка").replace(",b", ",b,кот")
    source = open_source(write_list(text.replace("path,label,a", "path,label"), "cp1251"))
    check(source, ("a", "b"))
    assert source.remarks == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04rest", "a workbook of Excel"),
        (b"\x1f\x8brest", "compressed with gzip"),
        (b"PAR1rest", r"Change its ending to \.parquet"),
        (b"SQLite format 3\0", "a SQLite database"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"path,label\n\0\0\0\0\0\0", "not a text file"),
    ],
)
def test_a_file_that_is_not_what_its_ending_says(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataLayout, match=message):
        open_source(str(tmp_path / "a.csv"))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_a_text_that_ends_within_a_character_is_refused(write_list, encoding):
    path = Path(write_list(listed(), encoding))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataLayout, match="the text is damaged"):
        open_source(str(path))
