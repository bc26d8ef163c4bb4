"""Arrays in .npz files: names, labels and pixels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from zoo.data.reading import ReadingOptions
from zoo.data.sources import open_source
from zoo.errors import DataError, DataLayout, EmptyClass, UsageError


def parts(source) -> dict[str | None, int]:
    return dict(Counter(picture.split for picture in source.pictures))


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
        ({"x_train": np.zeros((6, 20), np.uint8)}, DataLayout, r"Received: uint8 \(6, 20\)\.$"),
        ({"x_train": np.zeros((6, 784), np.uint8)}, DataLayout, r"x_train = x_train.reshape\(-1, 28, 28\)"),
        ({"x_train": np.zeros((6, 3072), np.uint8)}, DataLayout, r"x_train = x_train.reshape\(-1, 32, 32, 3\)"),
        ({"x_train": np.zeros((6, 5, 4, 2), np.uint8)}, DataLayout, r"Received: uint8 \(6, 5, 4, 2\)"),
        ({"x_train": np.zeros((5, 5, 4), np.uint8)}, DataLayout, "Received: 5 pictures and 6 labels"),
        ({"y_train": np.full(6, 0.5)}, DataLayout, r"whole numbers or strings.*Received: float64 \(6,\)"),
        ({"y_train": np.zeros((6, 2), int)}, DataLayout, r"Received: int64 \(6, 2\)"),
        ({"y_train": np.array([-1, 0] * 3)}, DataLayout, "Received: -1"),
        ({"y_train": np.zeros(6, int)}, EmptyClass, "only the class '0'"),
        (
            {"y_train": np.array(["a", "b"] * 3, dtype=object)},
            DataLayout,
            "y_train is not a plain array",
        ),
        (
            {"x_test": np.zeros((6, 5, 4), np.uint8)},
            DataLayout,
            "x_test with y_test.*Received: x_train, y_train, x_test.",
        ),
        ({"x_train": np.zeros((0, 5, 4), np.uint8), "y_train": np.zeros(0, int)}, EmptyClass, "no picture"),
    ],
)
def test_npz_that_zoo_refuses(archive, change, error, message):
    with pytest.raises(error, match=message):
        open_source(archive(**arrays() | change))


@pytest.mark.parametrize(
    ("keys", "columns"),
    [
        (("arr_0", "arr_1"), ("x_train=arr_0", "y_train=arr_1")),
        (("pixels", "kinds"), ("x=pixels", "y=kinds")),
        (("x_val", "y_val"), ("x_train=x_val", "y_train=y_val")),
    ],
)
def test_names_that_are_not_usual_need_columns(archive, keys, columns):
    path = archive(**dict(zip(keys, arrays().values(), strict=True)))
    with pytest.raises(DataLayout, match=rf"must have the arrays x_train and y_train.*Received: {keys[0]}, {keys[1]}"):
        open_source(path)
    assert open_source(path, reading=ReadingOptions(columns=columns)).classes == ("0", "1")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("x=x_train",), "needs x_train and y_train"),
        (("x=x_train", "y=nothing"), "has no array 'nothing'. It has: x_train, y_train"),
        (("path=x_train", "label=y_train"), "'path' is not a meaning of an array"),
    ],
)
def test_columns_that_do_not_fit(archive, columns, message):
    with pytest.raises(UsageError, match=message):
        open_source(archive(**arrays()), reading=ReadingOptions(columns=columns))


@pytest.mark.parametrize(
    "keys",
    [
        ("x", "y"),
        ("X", "y"),
        ("images", "labels"),
        ("data", "target"),
        ("X_train", "Y_train"),
        ("train_images", "train_labels"),
        ("images_train", "labels_train"),
        ("trainImages", "trainLabels"),
    ],
)
def test_usual_names(archive, keys):
    source = open_source(archive(**dict(zip(keys, arrays().values(), strict=True))))
    assert source.classes == ("0", "1") and source.pictures[3].name == f"{keys[0]}[3]" and source.remarks == ()


def test_usual_names_of_parts(archive):
    """MedMNIST writes so, with labels (N, 1)."""
    content = {}
    for i, part in enumerate(("train", "val", "test")):
        given = arrays(4 + i, seed=i)
        content |= {f"{part}_images": given["x_train"], f"{part}_labels": given["y_train"][:, None]}
    assert parts(open_source(archive(**content))) == {"train": 4, "val": 5, "test": 6}
    content = {
        key.replace("val_images", "x_valid").replace("val_labels", "y_valid"): value for key, value in content.items()
    }
    assert parts(open_source(archive(**content))) == {"train": 4, "val": 5, "test": 6}


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (
            {"x_val": np.zeros((2, 5, 4), np.uint8)},
            "may have x_val with y_val",
        ),
        ({"x_extra": np.zeros((2, 5, 4), np.uint8)}, "does not know what to do with x_extra"),
        ({"arr_0": np.zeros(6)}, "does not know what to do with arr_0"),
        ({"images": np.zeros((2, 5, 4), np.uint8), "labels": np.arange(2)}, "must have the arrays"),
        ({"train_images": np.zeros((2, 5, 4), np.uint8)}, "x_train and train_images mean the same"),
    ],
)
def test_an_array_that_would_be_ignored_is_an_error(archive, others, message):
    with pytest.raises(DataLayout, match=message):
        open_source(archive(**arrays(), **others))


def test_other_arrays_are_said(archive):
    (remark,) = open_source(archive(**arrays(), mean=np.zeros(3), ids=np.arange(6))).remarks
    assert remark.endswith("these arrays are not used: mean, ids.")


# --- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (np.eye(3)[[0, 1, 2, 0, 1, 2]], ("0", "1", "2")),
        (np.eye(12, dtype=bool)[[0, 1, 11, 0, 1, 11]], ("00", "01", "11")),
        (np.arange(6, dtype=np.float32) % 2, ("0", "1")),
        (np.arange(6) % 2 == 0, ("False", "True")),
        (np.array([b"cat", b"dog"] * 3), ("cat", "dog")),
    ],
)
def test_labels_of_other_types(archive, labels, classes):
    source = open_source(archive(**arrays() | {"y_train": labels}))
    assert source.classes == classes and source.task != "multilabel"
    assert [len(p.labels) for p in source.pictures] == [1] * 6


def test_several_labels_per_picture(archive):
    labels = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]] * 2)
    source = open_source(archive(**arrays() | {"y_train": labels, "class_names": np.array(["cat", "dog", "cow"])}))
    assert source.multilabel and source.classes == ("cat", "cow", "dog")
    assert [source.class_of(p) for p in source.pictures] == ["cat;cow", "", "dog"] * 2


def test_class_names(archive):
    content = arrays() | {"label_names": np.array(["dog", "cat"])}
    source = open_source(archive(**content))
    assert source.classes == ("cat", "dog") and source.class_of(source.pictures[0]) == "dog"
    with pytest.raises(DataLayout, match="label_names has 2 names, but the labels go up to 5"):
        open_source(archive(**content | {"y_train": np.arange(6)}))


# --- pixels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("convert", "line"),
    [
        (lambda x: x / 255, r"x_train = \(x_train \* 255\).round\(\).astype\('uint8'\)"),
        (lambda x: x / 127.5 - 1, r"x_train = \(\(x_train \+ 1\) \* 127.5\).round\(\).astype\('uint8'\)"),
        (lambda x: x - 100.0, "Undo the normalization"),
        (lambda x: x + 0.25, r"x_train = x_train.round\(\).astype\('uint8'\)"),
        (lambda x: x.astype(np.uint16) * 257, r"x_train = \(x_train >> 8\).astype\('uint8'\)"),
        (lambda x: x > 100, r"x_train = x_train.astype\('uint8'\) \* 255"),
        (lambda x: np.stack([x] * 4, axis=-1), r"x_train = x_train\[..., :3\]"),
        (lambda x: np.stack([x] * 4, axis=1), r"x_train = x_train\[:, :3\].transpose\(0, 2, 3, 1\)"),
    ],
)
def test_other_pixels_are_refused_with_the_line_that_converts_them(archive, convert, line):
    """And the line works."""
    content = arrays(shape=(8, 8))
    wrong = convert(np.clip(content["x_train"], 0, 200))
    with pytest.raises(DataLayout, match=line) as error:
        open_source(archive(**content | {"x_train": wrong}))
    code = str(error.value).rpartition(": ")[2]
    if "Undo" not in str(error.value):
        names = {"x_train": wrong, "np": np}
        exec(code, names)
        assert len(open_source(archive(**content | {"x_train": names["x_train"]})).pictures) == 6


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x.astype(np.float32),
        lambda x: x.astype(np.int64),
        lambda x: x.transpose(0, 3, 1, 2),
        lambda x: x.transpose(0, 3, 1, 2).astype(np.float64),
    ],
)
def test_conversions_that_lose_nothing_are_made_and_said(archive, convert):
    content = arrays(shape=(8, 7, 3))
    source = open_source(archive(**content | {"x_train": convert(content["x_train"])}))
    assert all(np.array_equal(p.content, x) for p, x in zip(source.pictures, content["x_train"], strict=True))
    assert all(p.content.dtype == np.uint8 for p in source.pictures) and source.remarks


class Bomb:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_npz_is_never_unpickled(archive, tmp_path):
    bomb = np.empty(6, dtype=object)
    bomb[:] = [Bomb(tmp_path / "exploded")] * 6
    with pytest.raises(DataLayout, match="x_train is not a plain array but holds Python objects"):
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
    with pytest.raises(DataLayout, match="it is damaged, or only its name ends in"):
        open_source(str(tmp_path / "a.npz"))


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
    with pytest.raises(DataLayout, match="label with index 1 of y_train is empty"):
        open_source(str(tmp_path / "a.npz"))


def test_a_file_that_is_not_an_archive_is_not_offered_for_unpickling(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"no archive")
    with pytest.raises(DataLayout, match="only its name ends in") as caught:
        open_source(str(tmp_path / "a.npz"))
    assert "pickle" not in str(caught.value)


def test_names_lose_blanks_and_line_breaks_as_those_of_lists_do(archive):
    content = arrays()
    names = np.array([" cat ", "big\ndog", "cow\t"])
    numbers = np.arange(len(content["y_train"])) % 3
    assert open_source(archive(**content | {"y_train": numbers, "class_names": names})).classes == (
        *("big dog", "cat", "cow"),
    )
    assert open_source(archive(**content | {"y_train": names[numbers]})).classes == ("big dog", "cat", "cow")
    with pytest.raises(DataLayout, match="must differ"):
        names = np.array(["cat", "cat ", "cow"])
        open_source(archive(**content | {"y_train": numbers, "class_names": names}))
    with pytest.raises(DataLayout, match="labels must not be empty"):
        open_source(archive(**content | {"y_train": np.array(["cat", " ", "cow"])[numbers]}))
