"""Groups: what stays together, and what is cut so that a class can still be split."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from zoo.data.check.groups import group, same_pictures
from zoo.data.check.near import Links
from zoo.data.sources import Picture


def links(*rows: tuple[int, int, float], copy: bool = False) -> Links:
    first, second, score = (np.array(column) for column in zip(*rows, strict=True)) if rows else (np.zeros(0),) * 3
    flags = np.zeros(len(rows), bool)
    return Links(
        first.astype(np.int64),
        second.astype(np.int64),
        score.astype(np.float32),
        flags,
        np.zeros(len(rows), np.int8),
        flags | copy,
        np.zeros(0, np.int64),
    )


def pictures(*counts: int) -> list[Picture]:
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    return [Picture(str(i), Path(str(i)), (label,), None) for i, label in enumerate(labels)]


def grouped(found: Links, *counts: int, digests: list[str] | None = None, keys: list[str | None] | None = None):
    those = pictures(*counts)
    digests = digests or [f"d{i}" for i in range(len(those))]
    return group(those, digests, range(len(those)), found, keys)


def test_without_links_every_picture_stands_alone_under_its_digest():
    result = grouped(links(), 3, 3, digests=["a", "b", "a", "c", "d", "e"])
    assert result.texts == ("a", "b", "a", "c", "d", "e") and result.linked == () and result.cut == 0


def test_links_and_copies_join_to_one_group():
    digests = [*"abcd", "a", *"fghijklmnopqrst"]
    result = grouped(links((0, 1, 0.95), (1, 2, 0.99)), 20, digests=digests)
    assert result.linked == ((0, 1, 2, 4),)
    assert [result.texts[i] for i in (0, 1, 2, 4)] == ["a"] * 4 and len(set(result.texts)) == 17


def test_a_chain_that_joins_a_whole_class_is_cut_at_its_weak_links():
    """Frames of a camera that does not move: every tenth one begins a scene."""
    chain = [(i, i + 1, 0.94 if i % 10 == 9 else 0.97) for i in range(99)]
    result = grouped(links(*chain), 100, 100)
    assert result.linked == tuple(tuple(range(start, start + 10)) for start in range(0, 100, 10))
    assert result.cut == 1


def test_a_class_of_pictures_that_are_all_the_same_can_still_be_split():
    chain = [(i, i + 1, 0.9999) for i in range(19)]
    result = grouped(links(*chain), 20, 20)
    assert len(set(result.texts)) == 40 and result.linked == () and result.cut == 1


def test_a_small_class_keeps_as_many_groups_as_a_split_needs():
    result = grouped(links((0, 1, 0.99), (2, 3, 0.99)), 4, 40)
    assert len(set(result.texts[:4])) == 4 and result.cut == 2
    assert grouped(links((0, 1, 0.99)), 4, 40).linked == ((0, 1),)


def test_a_group_may_have_pictures_of_two_classes():
    result = grouped(links((3, 22, 0.99)), 20, 20)
    assert result.linked == ((3, 22),)


def test_keys_join_what_the_user_says_whatever_its_size():
    keys = ["x"] * 15 + ["y"] * 4 + [None]
    result = grouped(links((14, 15, 0.99)), 20, keys=keys)
    assert len(set(result.texts)) == 2 and len(set(result.texts[:19])) == 1
    assert result.linked == ((14, 15),)


def test_the_same_picture_is_joined_by_copies_alone_and_not_in_a_still_scene():
    digests = [f"d{i}" for i in range(30)]
    found = same_pictures(digests, range(30), links((0, 1, 0.99), (1, 2, 0.99), copy=True))
    assert found == [(0, 1, 2)]
    assert same_pictures(digests, range(30), links((0, 1, 0.95))) == []
    still = links(*((i, i + 1, 0.999) for i in range(20)), copy=True)
    assert same_pictures([*digests[:29], "d3"], range(30), still) == [(3, 29)]
