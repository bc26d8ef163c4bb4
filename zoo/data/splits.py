"""Recognizes folders that are named like the parts of a split: train, training_set, Valid, test1, seg_train, ..."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from zoo.data.names import normalized

_WORDS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "holdout"), "test"),
}
# Words that often stand beside the name of a part and say nothing: test_images, training-set, val2017.
_FILLERS = "set|sets|data|dataset|datasets|images|image|imgs|img|pics|pictures|photos|samples|folder|split|part|subset"
_PART = re.compile(rf"({'|'.join(sorted(_WORDS, key=len, reverse=True))})(?:{_FILLERS})?")
_FILLER = re.compile(rf"(?:{_FILLERS}|\d+)")
# Names of persons and usual names of classes. They are parts only beside another part.
_WEAK = {"dev", "eval", "evaluation", "holdout", "trn", "tst", "validate"}


def _part_and_rest(name: str) -> tuple[str, str, str] | None:
    """Return the part that a name stands for, the word for it, and the other words of the name. None if it has none."""
    tokens = re.findall(r"[^\W\d_]+|\d+", normalized(name).lower())
    found = [(match[1], i) for i, token in enumerate(tokens) if (match := _PART.fullmatch(token))]
    if len(found) != 1:
        return None
    word, position = found[0]
    rest = [token for i, token in enumerate(tokens) if i != position and not _FILLER.fullmatch(token)]
    return _WORDS[word], word, " ".join(rest)


def part_of(name: str) -> str | None:
    """Return the part that a folder of this name stands for, "train", "val" or "test", or None."""
    found = _part_and_rest(name)
    return found[0] if found and not found[2] else None


def parts_among(folders: Sequence[Path]) -> dict[Path, str]:
    """Return those of some folders that are named like parts of a split, with their parts.

    Other words in the names are allowed if the same stand in the names of several parts: flowers_train, flowers_test.
    """
    named = {folder: found for folder in folders if (found := _part_and_rest(folder.name))}
    parts_with: dict[str, set[str]] = {}
    for part, _, rest in named.values():
        parts_with.setdefault(rest, set()).add(part)
    return {
        folder: part
        for folder, (part, _, rest) in named.items()
        if not rest or (len(parts_with[rest]) > 1 and "train" in parts_with[rest])
    }


def is_certain(folder: Path, beside: Iterable[Path]) -> bool:
    """Return whether a folder that stands among class folders is probably no class, judging by its name.

    "train" may be a class, and so may "valid" beside "invalid", and "dev", which is also the name of a person.

    Args:
        folder: A folder that is named like a part.
        beside: The other folders.
    """
    found = _part_and_rest(folder.name)
    if found is None or found[0] == "train" or found[1] in _WEAK:
        return False
    return not (found[1] == "valid" and any("invalid" in other.name.lower() for other in beside))
