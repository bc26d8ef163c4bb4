"""Splits that are named in other languages than English: they are refused with the commands that rename the folders."""

from __future__ import annotations

import shlex
import shutil
import unicodedata
from collections import Counter

import pytest

from zoo.data.sources import open_source
from zoo.data.split_words import foreign_part
from zoo.errors import DataLayout


@pytest.fixture
def make(tmp_path, put, monkeypatch):
    """Return a function that writes two pictures into each of some folders, below the working directory."""

    def write(*folders: str) -> str:
        for folder in folders:
            for i in range(2):
                put(tmp_path / "data" / folder / f"{i}.png", size=(4, 4))
        monkeypatch.chdir(tmp_path)
        return "data"

    return write


def moves(message: str) -> list[list[str]]:
    """The arguments of the `mv` commands in a message."""
    return [words[1:] for line in message.splitlines() if (words := shlex.split(line, posix=True))[:1] == ["mv"]]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("entrenamiento", "train"),
        ("Datos de prueba", "test"),
        (unicodedata.normalize("NFD", "Validación"), "val"),
        ("VALIDIERUNG", "val"),
        ("Prüfung", "test"),
        ("entrainement", "train"),
        ("обучающая_выборка", "train"),
        ("训练集", "train"),
        ("学習データ", "train"),
        ("テスト", "test"),
        ("훈련", "train"),
        ("eğitim", "train"),
        ("entrenamiento y prueba", None),
        ("测试数据集_1", "test"),
        ("학습용 데이터", "train"),
        ("学習机", None),
        ("高評価", None),
        ("provador", None),
        ("banana", None),
    ],
)
def test_words_for_the_parts(name, part):
    assert foreign_part(name) == part


@pytest.mark.parametrize(
    "names",
    [
        {"entrenamiento": "train", "prueba": "test"},
        {"Training": "train", "Validierung": "val", "Test": "test"},
        {"Training": "train", "Validierung": "val"},
        {"训练": "train", "测试": "test", "验证": "val"},
        {"обучение": "train", "тест": "test"},
    ],
)
def test_a_split_is_recognized_and_the_commands_make_one_that_is_read(make, names):
    data = make(*(f"{outer}/{inner}" for outer in names for inner in ("a", "b")))
    with pytest.raises(DataLayout, match="look like the parts of a split") as caught:
        open_source(data)
    for source, target in moves(str(caught.value)):
        shutil.move(source, target)
    source = open_source(data)
    assert source.classes == ("a", "b")
    assert Counter(picture.split for picture in source.pictures) == dict.fromkeys(names.values(), 4)


def test_a_split_whose_test_part_lacks_a_class(make):
    data = make("treino/a", "treino/b", "treino/c", "teste/a", "teste/b")
    with pytest.raises(DataLayout, match="look like the parts of a split"):
        open_source(data)


def test_a_split_inside_the_classes(make):
    data = make("chat/essai", "chat/apprentissage", "chien/essai", "chien/apprentissage")
    with pytest.raises(DataLayout) as caught:
        open_source(data)
    for source, target in moves(str(caught.value)):
        shutil.move(source, target)
    assert Counter(picture.split for picture in open_source(data).pictures) == {"train": 4, "test": 4}


def test_one_known_word_beside_an_unknown_one(make):
    data = make("treino/a", "treino/b", "cobaia/a", "cobaia/b")
    with pytest.raises(DataLayout) as caught:
        open_source(data)
    assert moves(str(caught.value)) == [["data/treino", "data/train"], ["data/cobaia", "data/PART"]]
    assert "where PART is test or val" in str(caught.value)


def test_parts_without_class_folders(make):
    data = make("entrenamiento", "prueba")
    with pytest.raises(DataLayout, match="the names are those of a split, but there are no class folders"):
        open_source(data)


def test_a_word_of_a_split_among_classes_is_remarked(make):
    (remark,) = open_source(make("gatos", "perros", "prueba")).remarks
    assert "'prueba' (test)" in remark
    assert not open_source(make("../other/gatos", "../other/perros").replace("data", "other")).remarks
