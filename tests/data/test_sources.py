"""Sources: which pictures are found, with which names and labels, and the error for each wrong layout."""

from __future__ import annotations

import os
import shutil
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo import config
from zoo.data.sources import location, open_source, short_name
from zoo.errors import DataLayout, DataNotFound, EmptyClass


def listed(source) -> list[tuple[str, str, str | None]]:
    """(file name, class, split) of every picture, in order."""
    return [(Path(p.name).name, source.class_of(p), p.split) for p in source.pictures]


def parts(source) -> dict[str | None, int]:
    return dict(Counter(picture.split for picture in source.pictures))


# --- folders ---------------------------------------------------------------------------------------------------------


def test_class_folders_are_the_classes_in_the_order_of_their_names(tmp_path, put):
    for name in ("zebra/1.png", "ape/2.png", "ape/10.png", "Bear/x.jpg"):
        put(tmp_path / "my animals!" / name)
    source = open_source(str(tmp_path / "my animals!"))
    assert source.classes == ("Bear", "ape", "zebra")
    assert source.name == "my-animals" and source.size is None
    assert listed(source) == [
        ("x.jpg", "Bear", None),
        ("10.png", "ape", None),
        ("2.png", "ape", None),
        ("1.png", "zebra", None),
    ]
    assert [p.content for p in source.pictures] == [Path(p.name) for p in source.pictures]


def test_folders_inside_a_class_belong_to_it(tmp_path, put):
    for name in ("cat/1.png", "cat/monday/2.png", "cat/monday/early/3.png", "dog/4.png"):
        put(tmp_path / name)
    assert Counter(label for _, label, _ in listed(open_source(str(tmp_path)))) == {"cat": 3, "dog": 1}


def test_leftovers_of_file_managers_are_neither_pictures_nor_classes(tmp_path, put):
    put(tmp_path / "cat/1.png")
    put(tmp_path / "dog/2.png")
    hidden = ["cat/.DS_Store", "cat/._1.png", "cat/Thumbs.db", "dog/desktop.ini", "dog/.thumbs/2.png", ".git/x/1.png"]
    for name in [*hidden, "__MACOSX/cat/._1.png", "cat/@eaDir/1.png", "dog/sub/THUMBS.DB"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(tmp_path / "cat/1.png", tmp_path / name)
    source = open_source(str(tmp_path))
    assert listed(source) == [("1.png", "cat", None), ("2.png", "dog", None)]


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (("train", "val", "test"), {"train": 4, "val": 4, "test": 4}),
        (("training", "validation", "testing"), {"train": 4, "val": 4, "test": 4}),
        (("Train", "Valid", "TEST"), {"train": 4, "val": 4, "test": 4}),
        (("train", "test"), {"train": 4, "test": 4}),
        (("train", "val"), {"train": 4, "val": 4}),
        (("train",), {None: 4}),
    ],
)
def test_split_folders(tmp_path, put, folders, expected):
    for folder in folders:
        for name in ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"):
            put(tmp_path / folder / name)
    source = open_source(str(tmp_path))
    assert source.classes == ("cat", "dog")
    assert parts(source) == expected
    for picture in source.pictures:
        assert source.class_of(picture) == Path(picture.name).parent.name


def test_classes_may_be_called_train_and_plane(tmp_path, put):
    """This also holds if the folder of a class contains further folders."""
    put(tmp_path / "train/steam/1.png")
    put(tmp_path / "train/2.png")
    put(tmp_path / "plane/3.png")
    source = open_source(str(tmp_path))
    assert source.classes == ("plane", "train")
    assert parts(source) == {None: 3}


def test_a_split_without_train(tmp_path, put):
    for name in ("val/cat/1.png", "val/dog/1.png", "test/cat/1.png", "test/dog/1.png"):
        put(tmp_path / name)
    with pytest.raises(DataLayout, match="no train/ folder"):
        open_source(str(tmp_path))


def test_a_class_of_test_that_train_does_not_know(tmp_path, put):
    for name in ("train/cat/1.png", "train/dog/1.png", "test/cat/1.png", "test/dog/1.png", "test/Cow/1.png"):
        put(tmp_path / name)
    with pytest.raises(DataLayout, match="the test part has classes without training pictures: 'Cow'"):
        open_source(str(tmp_path))


def test_a_class_that_test_lacks(tmp_path, put):
    for name in ("train/cat/1.png", "train/dog/1.png", "test/cat/1.png"):
        put(tmp_path / name)
    with pytest.raises(EmptyClass, match="the test part has no picture of 'dog'"):
        open_source(str(tmp_path))


def test_loose_pictures(tmp_path, put):
    for i in range(3):
        put(tmp_path / f"{i}.png")
    with pytest.raises(DataLayout, match=r"has 3 pictures but no class folders\. Make a folder for each class"):
        open_source(str(tmp_path))


def test_an_empty_folder(tmp_path):
    with pytest.raises(DataLayout, match="The folder is empty"):
        open_source(str(tmp_path))


def test_one_class(tmp_path, put):
    put(tmp_path / "cat/1.png")
    with pytest.raises(EmptyClass, match="only the class 'cat'"):
        open_source(str(tmp_path))


def test_an_empty_class(tmp_path, put):
    put(tmp_path / "cat/1.png")
    put(tmp_path / "dog/1.png")
    (tmp_path / "cow").mkdir()
    (tmp_path / "cow/.DS_Store").touch()
    with pytest.raises(EmptyClass, match=r"class folder .*cow' is empty\. Add pictures to it, or remove it, or leave"):
        open_source(str(tmp_path))


def test_links_are_followed_but_no_folder_is_entered_twice(tmp_path, put):
    put(tmp_path / "elsewhere/1.png")
    put(tmp_path / "elsewhere/deep/2.png")
    data = tmp_path / "data"
    put(data / "cat/3.png")
    put(data / "dog/4.png")
    (data / "cat/more").symlink_to(tmp_path / "elsewhere")
    (data / "cat/again").symlink_to(tmp_path / "elsewhere")
    (data / "cat/round").symlink_to(data / "cat")
    (data / "cat/up").symlink_to(data)
    (data / "cow").symlink_to(tmp_path / "elsewhere/deep")
    found = listed(open_source(str(data)))
    assert Counter((label, name) for name, label, _ in found) == {
        ("cat", "1.png"): 1,
        ("cat", "2.png"): 1,
        ("cat", "3.png"): 1,
        ("cow", "2.png"): 1,
        ("dog", "4.png"): 1,
    }


def test_a_broken_link_is_listed_and_a_pipe_is_not(tmp_path, put):
    put(tmp_path / "cat/1.png")
    put(tmp_path / "dog/2.png")
    (tmp_path / "dog/gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "dog/itself.png").symlink_to("itself.png")
    (tmp_path / "dog/up").symlink_to("..")
    os.mkfifo(tmp_path / "dog/pipe.png")
    source = open_source(str(tmp_path))
    assert [name for name, _, _ in listed(source)] == ["1.png", "2.png", "gone.png", "itself.png"]
    assert source.findings.passed_over == {"pipe or device": 1} and len(source.missing) == 2


def test_file_names_that_are_not_valid_utf_8(tmp_path, put):
    """File names are bytes on Linux, but messages, run.json and the exported file are UTF-8."""
    for folder in (b"caf\xe9", b"bar"):
        os.mkdir(os.fsencode(tmp_path) + b"/" + folder)
    target = os.fsencode(tmp_path) + b"/caf\xe9/gru\xdf.png"
    os.rename(put(tmp_path / "a.png"), target)
    put(tmp_path / "bar/1.png")
    source = open_source(str(tmp_path))
    assert source.classes == ("bar", "caf\\udce9")
    strange = source.pictures[1]
    assert strange.name.encode().endswith(b"gru\\udcdf.png")
    assert os.fsencode(strange.content) == target and len(strange.digest()) == 64


def test_folders_that_may_not_be_read_are_named(open_folder, put, unprivileged):
    for name in ("cat/1.png", "cat/secret/2.png", "dog/3.png"):
        put(open_folder / name)
    (open_folder / "cat/secret").chmod(0)
    with unprivileged(), pytest.raises(DataNotFound, match="secret' cannot be read: Permission denied"):
        open_source(str(open_folder))
    open_folder.chmod(0o311)
    with unprivileged(), pytest.raises(DataNotFound, match="cannot be read: Permission denied"):
        open_source(str(open_folder))


@pytest.mark.parametrize("path", ["nowhere", "", "a\0b", "x" * 5000, "~nobody-of-that-name/x", "~/nowhere"])
def test_a_path_that_does_not_exist(path):
    with pytest.raises(
        DataNotFound, match=r"there is nothing at .*\. zoo reads one of these:|cannot be read: File name too long"
    ):
        open_source(path)


def test_a_file_of_another_type(tmp_path, put):
    with pytest.raises(DataLayout, match=r"is a file, but not a list that zoo reads: \.csv, "):
        open_source(str(put(tmp_path / "1.png")))


@pytest.mark.parametrize(
    ("text", "short"),
    [
        *(("My Cats & Dogs", "My-Cats-Dogs"), ("..", "data"), ("", "data"), ("a.b_c-1", "a.b_c-1")),
        *(("é", "e"), ("e\u0301", "e"), ("собаки", "sobaki"), ("птицы", "ptitsy"), ("قطط", "qtt"), ("🐶", "dog")),
        # Many Chinese characters are spelled alike, and some characters not at all.
        *(("猫", "Mao-a810"), ("毛", "Mao-99a8"), ("\u200b", "data-f4e4"), ("\udcff", "data-8f1d")),
        ("a" * 300, f"{'a' * 80}-9835"),
    ],
)
def test_short_names_are_fit_for_folders(text, short):
    assert short_name(text) == short
    assert config.checked_name(short_name(text)) == short


# --- digits, digests -------------------------------------------------------------------------------------------------


def test_digits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = open_source("digits")
    assert source.name == "digits" and source.size == (64, 64) and len(source.pictures) == 1797
    assert source.classes == tuple("0123456789")
    assert [p.labels[0] for p in source.pictures[:5]] == [0, 1, 2, 3, 4]
    stacked = np.stack([p.content for p in source.pictures])
    assert stacked.shape == (1797, 8, 8) and stacked.dtype == np.uint8
    # scikit-learn's values 0..16 become 0..255. The checksum proves that no picture has changed.
    assert (stacked.min(), stacked.max(), zlib.crc32(stacked.tobytes())) == (0, 255, 766230820)


def test_a_folder_called_digits_takes_precedence(tmp_path, put, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "digits/one/1.png")
    put(tmp_path / "digits/two/2.png")
    assert open_source("digits").classes == ("one", "two")


def test_digests_depend_on_bytes_and_shapes(tmp_path, put):
    put(tmp_path / "d/a/1.png", seed=1)
    put(tmp_path / "d/b/copy.png", seed=1)
    Image.fromarray(np.zeros((3, 3, 3), np.uint8)).save(tmp_path / "d/b/other.png")
    first, copy, other = (p.digest() for p in open_source(str(tmp_path / "d")).pictures)
    assert first == copy != other
    x = np.arange(24, dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x_train=np.stack([x.reshape(4, 6), x.reshape(4, 6)]), y_train=np.arange(2))
    np.savez(tmp_path / "b.npz", x_train=np.stack([x.reshape(6, 4), x.reshape(6, 4)]), y_train=np.arange(2))
    a, b = (open_source(str(tmp_path / f"{name}.npz")).pictures for name in "ab")
    assert a[0].digest() == a[1].digest() != b[0].digest()


# --- nothing is left out without a message ---------------------------------------------------------------------------


def test_a_class_folder_that_is_a_broken_link(tmp_path, put):
    put(tmp_path / "a/1.png")
    put(tmp_path / "b/1.png")
    (tmp_path / "c").symlink_to("/nowhere")
    with pytest.raises(DataLayout, match=r"c' is a broken link: '/nowhere' does not exist\. Repair or remove the link"):
        open_source(str(tmp_path))


def test_pictures_beside_the_class_folders_are_remarked(tmp_path, put):
    for name in ("a/1.png", "b/1.png", "loose.png", "other.JPG"):
        put(tmp_path / name)
    (tmp_path / "README.txt").write_text("not a picture")
    source = open_source(str(tmp_path))
    assert len(source.pictures) == 2
    assert source.remarks == (
        f"2 pictures are not used, because they are directly in {str(tmp_path)!r} and not in a class folder: "
        "'loose.png', 'other.JPG'. To use them, move them into the folders of their classes.",
    )
    (tmp_path / "loose.png").unlink()
    (remark,) = open_source(str(tmp_path)).remarks
    assert remark.startswith("1 picture is not used") and "'other.JPG'. To use it, move it" in remark
    for i in range(4):
        put(tmp_path / f"{i}.png")
    (remark,) = open_source(str(tmp_path)).remarks
    assert "5 pictures are not used" in remark and ": '0.png', '1.png', '2.png' and 2 more. To use" in remark


def test_one_class_is_enough_to_evaluate_by(tmp_path, put):
    put(tmp_path / "a/1.png")
    assert open_source(str(tmp_path), fewest_classes=1).classes == ("a",)
    with pytest.raises(EmptyClass, match="two classes or more"):
        open_source(str(tmp_path))


def test_where_a_source_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert location("digits") == "digits"
    (tmp_path / "digits").mkdir()
    assert location("digits") == str(tmp_path / "digits")
    assert location("../x") == str(tmp_path.parent / "x")


@pytest.mark.parametrize(
    ("address", "advice"),
    [
        ("https://example.org/cats.zip", "download it, unpack it"),
        ("s3://bucket/cats", "download it"),
        ("file:///home/jo/my%20cats", "Give the path alone: '/home/jo/my cats'"),
    ],
)
def test_addresses_are_no_paths(zoo, address, advice):
    for command in (("data", "show"), ("data", "check"), ("finetune", "mobilenetv2", "--data")):
        ran = zoo(*command, address)
        assert ran.code == 1 and "is an address, not a path" in ran.err and advice in ran.err
        assert "zoo reads one of these" not in ran.err
