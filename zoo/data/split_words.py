"""Recognizes the parts of a split that are named in other languages than English: entrenamiento, Validierung, 测试, ...

zoo does not read such folders as parts, because many of these words have other meanings too. It says what they look
like, and how to rename them. `zoo.data.splits` recognizes the English names.
"""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from zoo.data.names import normalized, quoted
from zoo.data.splits import part_of

# Spanish, Portuguese, French, Italian, German, Dutch, the Scandinavian languages, Finnish, Polish, Czech, Turkish,
# Indonesian, Vietnamese, Russian, Ukrainian, Arabic, Hebrew and Hindi.
_WORDS = {
    "train": "entrenamiento entreno entrenar treinamento treino treinar apprentissage entraînement entrainement "
    "addestramento allenamento trainings trainingsdaten trainieren lernen lerndaten träning træning trening opplæring "
    "koulutus opetus treningowy treningowe treningowa uczenie uczący uczące trénovací trénink trénování eğitim "
    "pelatihan latih huấnluyện обучение обучающая обучающие обучающий тренировка тренировочный тренировочная "
    "тренировочные навчання тренування تدريب التدريب אימון प्रशिक्षण",
    "val": "validación validação validazione convalida validierung validierungsdaten validierungsset validatie "
    "validering validointi walidacja walidacyjny walidacyjne walidacyjna validace validační doğrulama validasi "
    "валидация валидационный валидационная валидационные валідація التحقق תיקוף सत्यापन",
    "test": "prueba pruebas teste testes essai essais prova collaudo prüfung pruefung testdaten testset testi "
    "testowy testowe testowa próba testovací testování sınama pengujian uji kiểmtra тест тестовая тестовые тестовый "
    "тестирование испытание اختبار الاختبار בדיקה מבחן परीक्षण",
}
# Chinese, Japanese and Korean words stand without blanks beside others: 训练集, 学習データ.
_IDEOGRAPHS = {
    "train": "训练|訓練|学習|學習|훈련|학습",
    "val": "验证|驗證|検証|검증",
    "test": "测试|測試|テスト|테스트|시험",
}
# Words that stand beside these and say nothing, so that 学習机 (a desk for learning) is not a part.
_BESIDE = "集|组|組|用|数据|數據|データ|セット|画像|图片|圖片|图像|圖像|样本|樣本|데이터|세트|셋|용|이미지"


def _plain(text: str) -> str:
    """Return a text in lower case without accents."""
    decomposed = unicodedata.normalize("NFD", text.casefold().replace("ı", "i"))
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))


@cache
def _known() -> tuple[dict[str, str], dict[str, str]]:
    """Return the words without accents, and the ideographs, with their parts."""
    words = {_plain(word): part for part, several in _WORDS.items() for word in several.split()}
    signs = {_plain(word): part for part, several in _IDEOGRAPHS.items() for word in several.split("|")}
    return words, signs


def foreign_part(name: str) -> str | None:
    """Return the part that a folder stands for if its name has a word for it in another language than English.

    Returns:
        "train", "val" or "test". None if the name has no such word, or words for several parts.
    """
    words, signs = _known()
    plain = _plain(normalized(name))
    # \w does not match the vowel signs of Hindi, which are removed here anyway.
    tokens = re.findall(r"[^\W\d_]+", plain)
    found = {words[token] for token in (*tokens, "".join(tokens)) if token in words}
    beside = f"(?:{_plain(_BESIDE)}|[\\W\\d_])*"
    found |= {part for sign, part in signs.items() if re.fullmatch(f"{beside}{sign}{beside}", plain)}
    return found.pop() if len(found) == 1 else None


def likely_parts(folders: Iterable[Path]) -> dict[Path, str]:
    """Return the folders that are named like parts of a split in any language, at least one of them not in English.

    Returns:
        The folders with their parts. Empty if all names are English, or if two folders would be the same part.
    """
    folders = list(folders)
    found = {folder: part for folder in folders if (part := part_of(folder.name) or foreign_part(folder.name))}
    if all(part_of(folder.name) for folder in found) or len(set(found.values())) < len(found):
        return {}
    return found


def is_whole_split(folders: Iterable[Path]) -> bool:
    """Return whether all of some folders are named like the parts of one split, at least one of them not in English."""
    folders = list(folders)
    parts = likely_parts(folders)
    return len(parts) == len(folders) > 1 and "train" in parts.values()


def rename_advice(folders: Iterable[Path]) -> str:
    """Say that some folders look like the parts of a split, and how to rename them. Empty if they do not.

    Args:
        folders: All folders that stand beside each other.
    """
    folders = list(folders)
    parts = likely_parts(folders)
    if not parts:
        return ""
    return _advice(parts, [folder for folder in folders if folder not in parts])


def _advice(parts: Mapping[Path, str], others: list[Path]) -> str:
    meant = ", ".join(f"{quoted(normalized(folder.name))} ({part})" for folder, part in parts.items())
    head = f" {meant} {'looks like a part' if len(parts) == 1 else 'look like the parts'} of a split. zoo reads splits "
    head += "whose folders are called train, val and test. If this is one, rename the folders:"
    moves = [(folder, part) for folder, part in parts.items() if not part_of(folder.name)]
    moves += [(folder, "PART") for folder in others if part_of(folder.name) is None]
    lines = [f"    mv {shlex.quote(str(each))} {shlex.quote(str(each.with_name(part)))}" for each, part in moves[:10]]
    if any(part == "PART" for _, part in moves):
        left = sorted({"train", "val", "test"} - set(parts.values()))
        lines.append(f"  where PART is {' or '.join(left) or 'train, val or test'}. Otherwise:")
    else:
        lines.append("  Otherwise:")
    return "\n".join([head, *lines])


def inner_rename_advice(inner: Mapping[Path, Iterable[Path]]) -> str:
    """Say that the folders inside all classes look like the parts of a split, and how to rename them; else "".

    Args:
        inner: Maps each class folder to the folders in it.
    """
    first = list(next(iter(inner.values())))
    if not is_whole_split(first):
        return ""
    parts = likely_parts(first)
    named = {folder.name: part for folder, part in parts.items() if not part_of(folder.name)}
    meant = ", ".join(f"{quoted(normalized(name))} ({part})" for name, part in named.items())
    moves = [
        f"    mv {shlex.quote(str(folder))} {shlex.quote(str(folder.with_name(named[folder.name])))}"
        for folders in inner.values()
        for folder in folders
        if folder.name in named
    ]
    more = [f"    and {len(moves) - 10} more"] if len(moves) > 10 else []
    head = f" The inner folders {meant} look like the parts of a split in each class. If so, rename them:"
    return "\n".join([head, *moves[:10], *more, "  Otherwise:"])
