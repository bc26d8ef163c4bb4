"""Bounded caches: which sets are evicted, in which order, and which stay."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zoo import files

KB = 1024


@pytest.fixture
def cache(tmp_path) -> Path:
    """Four sets of 8 KB, last used in the order of their names: `a` longest ago, `d` most recently."""
    for age, name in enumerate("dcba"):
        folder = tmp_path / "cache" / name
        folder.mkdir(parents=True)
        (folder / "values").write_bytes(b"x" * 8 * KB)
        os.utime(folder, (1e9 - 100 * age, 1e9 - 100 * age))
    return tmp_path / "cache"


def left(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir())


def make_room(cache: Path, needed: int, limit: int = 1000 * KB, disk: int = 1000 * KB, keep: str = "") -> list[str]:
    """Make room on a disk that has `disk` bytes for the cache; return the names of the sets that are left."""
    files.make_room(
        files.sets(cache),
        needed,
        limit=limit,
        free=lambda: disk - 8 * KB * len(left(cache)),
        keep={cache / name for name in keep},
    )
    return left(cache)


def test_sets_are_listed_from_the_most_recently_used(cache):
    (cache / f"{files.SCRATCH}x").mkdir()
    (cache / "loose file").touch()
    assert [(path.name, size) for _, size, path in files.sets(cache)] == [(name, 8 * KB) for name in "dcba"]
    assert files.sets(cache / "nowhere") == []


@pytest.mark.parametrize(
    ("needed", "limit", "expected"),
    [(8 * KB, 40 * KB, "abcd"), (8 * KB + 1, 40 * KB, "bcd"), (20 * KB, 40 * KB, "cd"), (40 * KB, 40 * KB, "")],
)
def test_the_least_recently_used_sets_are_evicted_until_the_limit_holds(cache, needed, limit, expected):
    assert make_room(cache, needed, limit=limit) == list(expected)


@pytest.mark.parametrize(
    ("needed", "disk", "expected"),
    [(8 * KB, 40 * KB, "abcd"), (8 * KB + 1, 40 * KB, "bcd"), (17 * KB, 40 * KB, "cd"), (99 * KB, 40 * KB, "")],
)
def test_the_least_recently_used_sets_are_evicted_until_the_disk_has_room(cache, needed, disk, expected):
    assert make_room(cache, needed, disk=disk) == list(expected)


def test_sets_that_must_stay_do_stay_and_still_count(cache):
    assert make_room(cache, 8 * KB, limit=24 * KB, keep="ac") == ["a", "c"]
    assert make_room(cache, 24 * KB, limit=24 * KB, keep="ac") == ["a", "c"]


def test_a_set_that_another_process_holds_open_frees_nothing(cache):
    """The space is measured again after each eviction, so that the next set is evicted too."""
    free = iter([0, 0, 8 * KB])
    files.make_room(files.sets(cache), 8 * KB, limit=1000 * KB, free=lambda: next(free))
    assert left(cache) == ["c", "d"]


def test_an_evicted_set_leaves_nothing_behind(cache):
    files.evict(cache / "a")
    files.evict(cache / "not there")
    assert left(cache) == ["b", "c", "d"]


@pytest.mark.skipif(os.name == "nt", reason="Windows does not remove open files")
def test_a_mark_of_use_ends_with_its_user(cache):
    class User:
        pass

    first, second = User(), User()
    files.mark_used(cache / "a", first)
    end = files.mark_used(cache / "a", second)
    assert files.in_use(cache / "a") and not files.in_use(cache / "b") and not files.in_use(cache / "missing")
    del first
    assert files.in_use(cache / "a")
    end()
    assert not files.in_use(cache / "a")
