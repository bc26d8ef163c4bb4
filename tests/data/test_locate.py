"""Where the files of a list are: paths of other machines, missing endings, and --root."""

from __future__ import annotations

import os
import time
import unicodedata
from pathlib import Path

import pytest

from zoo.data.reading import ReadingOptions
from zoo.data.sources import open_source
from zoo.errors import DataLayout, DataNotFound


def listed(path, count: int = 24) -> str:
    return "path,label\n" + "".join(f"{path(i)},{'ab'[i % 2]}\n" for i in range(count))


def read(path: str, root: object = None):
    return open_source(path, reading=ReadingOptions(root=None if root is None else str(root)))


def check(source, tmp_path) -> None:
    assert [p.content.resolve() for p in source.pictures] == [tmp_path / f"pictures/{i:02d}.png" for i in range(24)]


@pytest.mark.parametrize(
    "path",
    [
        "pictures/{:02d}.png",
        "./pictures/{:02d}.png",
        "pictures\\{:02d}.png",
        ".\\pictures\\{:02d}.png",
        "{}/pictures/{:02d}.png",
        "file://{}/pictures/{:02d}.png",
        "file:{}/pictures/{:02d}.png",
        "file://localhost{}/%70ictures/{:02d}.png",
    ],
)
def test_paths_in_other_forms(write_list, tmp_path, path):
    source = read(write_list(listed(lambda i: path.replace("{}", str(tmp_path)).format(i))))
    check(source, tmp_path)
    assert source.remarks == ()


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_that_a_mac_wrote(write_list, put, tmp_path, form):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    for i in range(4):
        put(tmp_path / unicodedata.normalize(form, f"Bär/é{i}.png"))
    source = read(write_list(listed(lambda i: unicodedata.normalize(other, f"Bär/é{i}.png"), 4)))
    assert all(p.content.is_file() for p in source.pictures)


def test_a_missing_ending_is_added_and_said(write_list, tmp_path):
    (tmp_path / "pictures/00.txt").write_text("not a picture")
    source = read(write_list(listed(lambda i: f"pictures/{i:02d}")))
    check(source, tmp_path)
    assert "lack their endings; zoo added .png" in source.remarks[0]
    os.link(tmp_path / "pictures/03.png", tmp_path / "pictures/03.jpg")
    with pytest.raises(DataLayout, match=r"line 5: there is no file 'pictures/03', and 03.jpg and 03.png both fit"):
        read(write_list(listed(lambda i: f"pictures/{i:02d}")))


@pytest.mark.parametrize(
    ("path", "name", "root"),
    [
        ("{:02d}.png", "pets.csv", "pictures"),
        ("{:02d}", "pets.csv", "pictures"),
        ("{:02d}.png", "lists/pets.csv", "pictures"),
        ("pictures/{:02d}.png", "lists/pets.csv", "."),
        ("C:\\Users\\Jo\\pictures\\{:02d}.png", "pets.csv", "."),
        ("/home/jo/pictures/{:02d}.png", "pets.csv", "."),
        ("\\\\server\\share\\{:02d}.png", "pets.csv", "."),
    ],
)
def test_a_list_of_which_no_file_exists_proposes_a_root_that_works(write_list, tmp_path, path, name, root):
    file = write_list(listed(path.format), name=name)
    with pytest.raises(DataLayout) as error:
        read(file)
    text = str(error.value)
    assert text.startswith(f"none of the 24 pictures that {file!r} names exists. Paths in a list count from the folder")
    assert f"for {path.format(0)!r}, zoo looked for " in text
    proposed = text.rpartition("--root ")[2]
    assert Path(proposed).resolve() == (tmp_path / root).resolve()
    check(read(file, proposed), tmp_path)


def test_names_that_differ_in_case(write_list, tmp_path):
    """A list from Windows, where 00.PNG and 00.png are one file."""
    source = read(write_list(listed(lambda i: f"pictures/{i:02d}.PNG")))
    check(source, tmp_path)
    assert "24 names differ from those of the files in upper and lower case" in source.remarks[0]


def test_nothing_is_proposed_if_nothing_is_found(write_list):
    with pytest.raises(DataLayout, match=r"for 'x0.png', zoo looked for .*--root FOLDER\.$"):
        read(write_list(listed("x{}.png".format)))


def test_a_root_that_does_not_help(write_list, tmp_path):
    file = write_list(listed("x{}.png".format))
    with pytest.raises(DataLayout, match="which --root names"):
        read(file, tmp_path)
    with pytest.raises(DataNotFound, match=r"'.*nowhere' is not a folder"):
        read(file, tmp_path / "nowhere")


def test_names_below_the_root_are_found_in_several_folders(write_list, put, tmp_path):
    """A data set in parts: the list has names, and two folders have the files."""
    for i in range(24):
        put(tmp_path / f"data/part_{i % 2}/p{i}.png")
    file = write_list(listed("p{}".format))
    with pytest.raises(DataLayout, match=rf"--root {tmp_path}$"):
        read(file)
    source = read(file, tmp_path)
    assert all(p.content == tmp_path / f"data/part_{i % 2}/p{i}.png" for i, p in enumerate(source.pictures))
    assert "24 of 24 pictures were found by name below" in source.remarks[0]
    put(tmp_path / "other/p3.png")
    with pytest.raises(DataLayout, match=r"line 5: 'p3' fits several files below"):
        read(file, tmp_path)


def test_addresses_are_not_paths(write_list):
    with pytest.raises(DataLayout, match=r"line 2: 'https://x.org/0.jpg' is an address on the network.*download"):
        read(write_list(listed("https://x.org/{}.jpg".format)))


def test_not_every_file_of_a_long_list_is_looked_for(write_list, monkeypatch):
    """Looking for each of a million files would take minutes on a network disk."""
    looked: list[object] = []
    exists = os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda path: looked.append(path) or exists(path))
    rows = "".join(f"pictures/{i}.png,{i % 100}\n" for i in range(20_000))
    source = read(write_list("path,label\npictures/00.png,0\n" + rows))
    assert len(source.pictures) == 20_001 and len(source.classes) == 100
    assert len(looked) < 1000


def test_a_file_url_that_is_not_valid_is_refused(write_list):
    with pytest.raises(DataLayout, match=r"line 2: .* is not a valid address of a file"):
        open_source(write_list("path,label\nfile://[0.png,a\nfile://[1.png,b\n"))


def test_names_that_differ_in_case_are_proposed_in_another_folder(write_list):
    file = write_list(listed(lambda i: f"{i:02d}.PNG"))
    with pytest.raises(DataLayout, match=r"'00.PNG' is perhaps '.*pictures/00.png'") as error:
        read(file)
    assert error.value.remedies[0][1][0] == "--root"
    assert (
        "differ from those of the files in upper and lower case" in read(file, error.value.remedies[0][1][1]).remarks[0]
    )


def test_many_folders_with_files_of_the_same_name(write_list, tmp_path):
    """The search is quick even if every name fits thousands of files; it took hours for 100,000 rows."""
    picture = (tmp_path / "pictures/00.png").read_bytes()
    for i in range(3000):
        (tmp_path / f"set/a/s{i}").mkdir(parents=True)
        (tmp_path / f"set/a/s{i}/0.png").write_bytes(picture)
    file = write_list(listed(lambda i: f"/elsewhere/a/s{i}/0.png", 3000))
    start = time.monotonic()
    with pytest.raises(DataLayout, match=r"perhaps '.*set/a/s0/0.png'"):
        read(file)
    source = read(file, tmp_path)
    assert [p.content for p in source.pictures] == [tmp_path / f"set/a/s{i}/0.png" for i in range(3000)]
    assert time.monotonic() - start < 10


def test_long_texts_are_not_paths(write_list):
    """A column of captions does not stop the search for the column of paths."""
    rows = "".join(f"pictures/{i:02d}.png,{i} {'words ' * 100},{'ab'[i % 2]}\n" for i in range(24))
    file = write_list("pic,caption,kind\n" + rows)
    with pytest.raises(DataLayout) as error:
        read(file)
    assert error.value.remedies[0][1] == ["--columns", "path=pic,label=kind"]
