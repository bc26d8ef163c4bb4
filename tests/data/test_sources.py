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
from zoo.errors import DataError, DataLayout, DataNotFound, EmptyClass


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


def test_other_files_in_a_class_are_listed_so_that_they_can_be_reported(tmp_path, put):
    put(tmp_path / "cat/1.png")
    put(tmp_path / "dog/2.png")
    (tmp_path / "dog/notes.txt").write_text("woof")
    assert [name for name, _, _ in listed(open_source(str(tmp_path)))] == ["1.png", "2.png", "notes.txt"]


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


def test_classes_may_be_called_train_and_test(tmp_path, put):
    put(tmp_path / "train/1.png")
    put(tmp_path / "test/2.png")
    assert open_source(str(tmp_path)).classes == ("test", "train")


def test_a_split_beside_another_folder_is_not_taken_for_three_classes(tmp_path, put):
    for name in ("train/cat/1.png", "train/dog/1.png", "test/cat/1.png", "test/dog/1.png", "models/1.png"):
        put(tmp_path / name)
    with pytest.raises(DataLayout, match=r"test, train with folders in them.*but also models"):
        open_source(str(tmp_path))


def test_a_split_folder_of_the_same_part_twice(tmp_path, put):
    for name in ("train", "val", "validation"):
        put(tmp_path / name / "cat/1.png")
        put(tmp_path / name / "dog/1.png")
    with pytest.raises(DataLayout, match="several folders for the val part: val, validation"):
        open_source(str(tmp_path))


def test_a_split_without_train(tmp_path, put):
    for name in ("val/cat/1.png", "val/dog/1.png", "test/cat/1.png", "test/dog/1.png"):
        put(tmp_path / name)
    with pytest.raises(DataLayout, match="no train/ folder"):
        open_source(str(tmp_path))


def test_a_class_of_test_that_train_does_not_know(tmp_path, put):
    for name in ("train/cat/1.png", "train/dog/1.png", "test/cat/1.png", "test/dog/1.png", "test/Cow/1.png"):
        put(tmp_path / name)
    with pytest.raises(DataLayout, match="the test part has classes without training pictures: Cow"):
        open_source(str(tmp_path))


def test_a_class_that_test_lacks(tmp_path, put):
    for name in ("train/cat/1.png", "train/dog/1.png", "test/cat/1.png"):
        put(tmp_path / name)
    with pytest.raises(EmptyClass, match="the test part has no picture of dog"):
        open_source(str(tmp_path))


def test_loose_pictures(tmp_path, put):
    for i in range(3):
        put(tmp_path / f"{i}.png")
    with pytest.raises(
        DataLayout, match=r"has no class folders\. It has 3 files, which are not in class folders\. Make a folder"
    ):
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
    with pytest.raises(EmptyClass, match=r"class folder .*cow' is empty\. Add pictures to it, or remove it"):
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
    os.mkfifo(tmp_path / "dog/pipe.png")
    assert [name for name, _, _ in listed(open_source(str(tmp_path)))] == ["1.png", "2.png", "gone.png"]


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
    with pytest.raises(DataLayout, match=r"is a file, but neither a \.csv nor an \.npz file"):
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


# --- CSV -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path, put):
    """Writes a CSV beside four pictures; `{}` in its text stands for the absolute path of the folder."""
    for name in ("a1", "a2", "b1", "b2"):
        put(tmp_path / f"pictures/{name}.png")

    def write(text: str, encoding: str = "utf-8") -> str:
        path = tmp_path / "pets.csv"
        path.write_bytes(text.replace("{}", str(tmp_path)).encode(encoding))
        return str(path)

    return write


def test_csv_with_a_byte_order_mark_and_both_kinds_of_path(table, tmp_path):
    text = 'Path, LABEL\r\npictures/a1.png,ape\r\n"{}/pictures/b1.png", bear \r\n./pictures/../pictures/b2.png,bear\r\n'
    source = open_source(table(text, "utf-8-sig"))
    assert source.name == "pets" and source.classes == ("ape", "bear")
    assert [p.labels[0] for p in source.pictures] == [0, 1, 1]
    assert source.pictures[0].content == tmp_path / "pictures/a1.png"
    assert source.pictures[0].name == "pictures/a1.png"
    assert all(p.content.is_file() and p.split is None for p in source.pictures)


def test_csv_with_a_split(table):
    rows = ["a1.png,a,train", "b1.png,b,Training", "a2.png,a,val", "b2.png,b,valid"]
    source = open_source(table("path,label,split\n" + "\n".join(f"pictures/{row}" for row in rows)))
    assert [p.split for p in source.pictures] == ["train", "train", "val", "val"]


def test_csv_in_which_all_is_train_has_no_split(table):
    source = open_source(table("split,label,path\ntrain,a,pictures/a1.png\ntrain,b,pictures/b1.png\n"))
    assert parts(source) == {None: 2}


def test_csv_written_on_windows(table):
    source = open_source(table("path,label\npictures\\a1.png,a\npictures\\b1.png,b\n"))
    assert all(p.content.is_file() for p in source.pictures)


def test_csv_with_a_picture_that_does_not_exist_lists_it(table):
    """It is reported as an unreadable picture before training starts."""
    source = open_source(table("path,label\npictures/a1.png,a\npictures/gone.png,b\n"))
    assert [p.name for p in source.pictures] == ["pictures/a1.png", "pictures/gone.png"]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", DataLayout, "Received: nothing"),
        ("file,class\n1.png,a\n", DataLayout, "Received: file,class"),
        ("path;label\n1.png;a\n", DataLayout, "Received: path;label"),
        ("path,label\n", EmptyClass, "no picture"),
        ("path,label\n1.png,a\n2.png,a\n", EmptyClass, "only the class 'a'"),
        ("path,label\n1.png,a\n2.png,\n", DataLayout, "line 3: path and label must not be empty"),
        ("path,label\n1.png,a\n2.png\n", DataLayout, "line 3: path and label must not be empty"),
        ("path,label\n,a\n", DataLayout, "line 2: path and label must not be empty"),
        ("path,label,split\n1.png,a,train\n2.png,b,\n", DataLayout, "a split for only some of the pictures"),
        ("path,label,split\n1.png,a,train\n2.png,b,dev\n", DataLayout, "line 3.*Received: 'dev'"),
        ("path,label,split\n1.png,a,val\n2.png,b,test\n", DataLayout, "no training pictures"),
        (
            "path,label,split\n1.png,a,train\n2.png,b,test\n",
            DataLayout,
            "the test part has classes without training pictures: b",
        ),
        (
            "path,label,split\n1.png,a,train\n2.png,b,train\n3.png,a,test\n",
            EmptyClass,
            "the test part has no picture of b",
        ),
    ],
)
def test_csv_that_zoo_refuses(table, text, error, message):
    with pytest.raises(error, match=message):
        open_source(table(text))


def test_csv_in_another_encoding(table):
    with pytest.raises(DataLayout, match="UTF-8"):
        open_source(table("path,label\nä.png,a\nö.png,b\n", "latin-1"))


# --- npz -------------------------------------------------------------------------------------------------------------


def arrays(count: int = 6, shape: tuple[int, ...] = (5, 4), seed: int = 0, **others: np.ndarray) -> dict:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    return {"x_train": x, "y_train": np.arange(count) % 2, **others}


@pytest.fixture
def archive(tmp_path):
    def write(save=np.savez, **content: np.ndarray) -> str:
        save(tmp_path / "small.npz", **content)
        return str(tmp_path / "small.npz")

    return write


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 1), (5, 4, 3)])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_shapes(archive, shape, save):
    content = arrays(shape=shape)
    source = open_source(archive(save, **content))
    assert source.name == "small" and source.classes == ("0", "1")
    assert [p.labels[0] for p in source.pictures] == [0, 1, 0, 1, 0, 1]
    assert source.pictures[3].name == "x_train[3]" and source.pictures[3].split is None
    assert np.array_equal(source.pictures[3].content, content["x_train"][3])


def test_npz_with_a_test_part(archive):
    content = arrays()
    test = arrays(4, seed=1)
    source = open_source(archive(**content, x_test=test["x_train"], y_test=test["y_train"]))
    assert parts(source) == {"train": 6, "test": 4}
    assert source.pictures[6].name == "x_test[0]"


def test_npz_labels_in_a_column(archive):
    content = arrays()
    content["y_train"] = content["y_train"][:, None]
    assert [p.labels[0] for p in open_source(archive(**content)).pictures] == [0, 1, 0, 1, 0, 1]


def test_npz_numbers_sort_as_numbers(archive):
    content = arrays(12)
    content["y_train"] = np.arange(12, dtype=np.uint8)
    source = open_source(archive(**content))
    assert source.classes[2] == "02" and source.classes[10] == "10"
    assert [p.labels[0] for p in source.pictures] == list(range(12))


def test_npz_with_names(archive):
    content = arrays()
    content["y_train"] = np.array(["cat", "dog"] * 3)
    assert open_source(archive(**content)).classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x_train": np.zeros((6, 5, 4), np.float32)}, DataLayout, r"uint8.*Received: float32 \(6, 5, 4\)"),
        ({"x_train": np.zeros((6, 20), np.uint8)}, DataLayout, r"Received: uint8 \(6, 20\)"),
        ({"x_train": np.zeros((6, 5, 4, 2), np.uint8)}, DataLayout, r"Received: uint8 \(6, 5, 4, 2\)"),
        ({"x_train": np.zeros((5, 5, 4), np.uint8)}, DataLayout, "Received: 5 pictures and 6 labels"),
        ({"y_train": np.zeros(6)}, DataLayout, r"whole numbers or strings.*Received: float64 \(6,\)"),
        ({"y_train": np.zeros((6, 2), int)}, DataLayout, r"Received: int64 \(6, 2\)"),
        ({"y_train": np.array([-1, 0] * 3)}, DataLayout, "Received: -1"),
        ({"y_train": np.zeros(6, int)}, EmptyClass, "only the class '0'"),
        ({"y_train": np.array(["a", "b"] * 3, dtype=object)}, DataLayout, "plain arrays"),
        (
            {"x_test": np.zeros((6, 5, 4), np.uint8)},
            DataLayout,
            "x_test together with y_test. Received: x_train, y_train, x_test",
        ),
        ({"x_train": np.zeros((0, 5, 4), np.uint8), "y_train": np.zeros(0, int)}, EmptyClass, "no picture"),
    ],
)
def test_npz_that_zoo_refuses(archive, change, error, message):
    with pytest.raises(error, match=message):
        open_source(archive(**arrays() | change))


def test_npz_without_the_keys(archive):
    with pytest.raises(DataLayout, match=r"must have the arrays x_train and y_train.*Received: images, labels"):
        open_source(archive(images=np.zeros((2, 4, 4), np.uint8), labels=np.arange(2)))


class Bomb:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_npz_is_never_unpickled(archive, tmp_path):
    bomb = np.empty(6, dtype=object)
    bomb[:] = [Bomb(tmp_path / "exploded")] * 6
    with pytest.raises(DataLayout, match="plain arrays"):
        open_source(archive(**arrays() | {"x_train": bomb}))
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_npz_always_raises_an_error_of_zoo(archive, save):
    """zipfile, zlib and numpy raise a dozen kinds of exceptions, depending on which bytes are damaged."""
    path = Path(archive(save, **arrays()))
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    failed = 0
    for _ in range(200):
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[rng.integers(0, len(whole), 4)] = rng.integers(0, 256, 4)
        path.write_bytes(damaged.tobytes()[: None if rng.random() < 0.7 else rng.integers(0, len(whole))])
        try:
            open_source(str(path))
        except DataError:
            failed += 1
    assert failed > 100


def test_an_npy_named_npz(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    with pytest.raises(DataLayout, match="npz file of plain arrays"):
        open_source(str(tmp_path / "a.npz"))


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
        "loose.png, other.JPG. To use them, move them into the folders of their classes.",
    )
    (tmp_path / "loose.png").unlink()
    (remark,) = open_source(str(tmp_path)).remarks
    assert remark.startswith("1 picture is not used") and "other.JPG. To use it, move it" in remark
    for i in range(4):
        put(tmp_path / f"{i}.png")
    (remark,) = open_source(str(tmp_path)).remarks
    assert "5 pictures are not used" in remark and ": 0.png, 1.png, 2.png and 2 more. To use them" in remark


def test_a_csv_row_with_too_many_values_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("path,label\n1.png,a\nmy, cat1.jpg,cat\n")
    with pytest.raises(DataLayout, match=r"line 3: the row has 3 values for 2 columns.*double quotes"):
        open_source(str(tmp_path / "a.csv"))


def test_labels_of_two_integer_types_stay_whole_numbers(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (20, 4, 4), dtype=np.uint8)
    np.savez(
        tmp_path / "a.npz",
        x_train=x[:10],
        y_train=np.arange(10, dtype=np.int64) % 2 * 10,
        x_test=x[10:],
        y_test=np.arange(10, dtype=np.uint64) % 2 * 10,
    )
    assert open_source(str(tmp_path / "a.npz")).classes == ("00", "10")


def test_empty_labels_in_an_npz(tmp_path):
    x = np.zeros((3, 4, 4), np.uint8)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=np.array(["a", " ", "b"]))
    with pytest.raises(DataLayout, match="label with index 1 is empty"):
        open_source(str(tmp_path / "a.npz"))


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
