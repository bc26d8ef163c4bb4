"""The pixel cache: it holds the decoder's own pixels, decodes once, is bounded, and is never half-written."""

from __future__ import annotations

import collections
import errno
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from subprocess import PIPE
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import zoo_runtime
from zoo import files
from zoo.data import memory
from zoo.data import pixels as module
from zoo.data.memory import RELEASED_BYTES, MappedRows
from zoo.data.pixels import check_readable, left_out_text, load_pixels
from zoo.data.sources import Picture, open_source
from zoo.errors import DataError, UnreadablePictures
from zoo_runtime import ImageSpec

SPEC = ImageSpec(size=(20, 16))


@pytest.fixture
def pictures(tmp_path, put) -> tuple[Picture, ...]:
    """Ten pictures in two classes, of several formats and modes, one of them turned by EXIF."""
    for i, name in enumerate(("a/0.jpg", "a/1.png", "b/2.webp", "b/3.bmp", "a/4.jpg", "b/5.tif")):
        put(tmp_path / "data" / name, size=(40 + 9 * i, 60 - 5 * i))
    noise = np.random.default_rng(7).integers(0, 256, (30, 50, 4), dtype=np.uint8)
    Image.fromarray(noise[..., 0]).save(tmp_path / "data/a/6-grey.png")
    Image.fromarray(noise).save(tmp_path / "data/b/7-alpha.png")
    Image.fromarray(noise[..., :3]).quantize(16).save(tmp_path / "data/a/8-palette.gif")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise[..., :3]).save(tmp_path / "data/b/9-turned.jpg", exif=exif)
    return open_source(str(tmp_path / "data")).pictures


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "pixels"


@pytest.fixture
def decoded(monkeypatch) -> list[object]:
    """The sources that the decoder has been called with."""
    calls = []
    decode = zoo_runtime.decode

    def counting(source, spec, **options):
        calls.append(source)
        return decode(source, spec, **options)

    monkeypatch.setattr(zoo_runtime, "decode", counting)
    return calls


def entries(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir()) if cache.exists() else []


def some(put, folder: Path, count: int, start: int = 0) -> list[Picture]:
    """Write different pictures, numbered from `start`; the same number always gives the same file."""
    files = [put(folder / f"{i}.png", seed=i) for i in range(start, start + count)]
    return [Picture(str(file), file, (0,), None) for file in files]


# --- what comes out --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        ImageSpec(size=(16, 20), channels=1),
        ImageSpec(size=(24, 24), resize="crop", fraction=0.9),
        ImageSpec(size=(24, 12), resize="pad", filter="lanczos"),
    ],
)
def test_pixels_are_the_decoders_to_the_bit(pictures, cache, spec):
    found = load_pixels(pictures, spec, cache)
    assert found.array.shape == (10, *spec.size, spec.channels) and found.array.dtype == np.uint8
    assert not found.cached and not found.bad and found.usable == list(range(10))
    for row, picture in zip(found.array, pictures, strict=True):
        assert np.array_equal(row, zoo_runtime.decode(picture.content, spec)), picture.name
    assert [picture.digest() for picture in pictures] == list(found.digests)


def test_arrays_of_an_npz_too(tmp_path, cache):
    x = np.random.default_rng(0).integers(0, 256, (300, 9, 7), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", x_train=x, y_train=np.arange(300) % 3)
    source = open_source(str(tmp_path / "x.npz"))
    found = load_pixels(source.pictures, SPEC, cache)
    for row, picture in zip(found.array, x, strict=True):
        assert np.array_equal(row, zoo_runtime.decode(picture, SPEC))


def test_the_second_call_decodes_nothing(pictures, cache, decoded):
    first = load_pixels(pictures, SPEC, cache)
    assert len(decoded) == 10
    second = load_pixels(pictures, SPEC, cache)
    assert len(decoded) == 10
    assert (first.cached, second.cached) == (False, True)
    assert np.array_equal(first.array, second.array) and first.digests == second.digests
    assert isinstance(second.array, np.memmap) and not second.array.flags.writeable
    assert len(entries(cache)) == 1


def test_a_changed_file_gives_other_pixels(pictures, cache, put):
    before = load_pixels(pictures, SPEC, cache)
    put(pictures[3].content, seed=99)
    after = load_pixels(pictures, SPEC, cache)
    assert not after.cached
    changed = [i for i in range(10) if not np.array_equal(before.array[i], after.array[i])]
    assert changed == [3] and before.digests[3] != after.digests[3]


@pytest.mark.parametrize(
    "change",
    [
        {"size": (20, 17)},
        {"channels": 1},
        {"resize": "pad"},
        {"resize": "crop", "fraction": 0.5},
        {"filter": "bicubic"},
    ],
)
def test_another_spec_gives_other_pixels(pictures, cache, change):
    before = load_pixels(pictures, SPEC, cache)
    after = load_pixels(pictures, ImageSpec(**{**SPEC.to_json(), **change}), cache)
    assert not after.cached and not np.array_equal(before.array, after.array)


def test_another_decoder_gives_other_pixels(pictures, cache, monkeypatch):
    load_pixels(pictures, SPEC, cache)
    here = zoo_runtime.versions()
    monkeypatch.setattr("zoo.data.pixels.versions", lambda: {**here, "libjpeg": "another"})
    assert not load_pixels(pictures, SPEC, cache).cached


def test_a_picture_refused_at_one_limit_is_found_at_another(pictures, cache, put):
    Image.new("RGB", (300, 200)).save(pictures[3].content)
    for limit, bad in ((50_000, [3]), (60_000, []), (50_000, [3]), (59_999, [3])):
        assert sorted(load_pixels(pictures, SPEC, cache, max_pixels=limit).bad) == bad, limit
    assert load_pixels(pictures, SPEC, cache, max_pixels=60_000).cached
    assert load_pixels(pictures, SPEC, cache, max_pixels=50_000).bad[3] == (
        "PictureTooLarge: 300 x 200 is more than 50000 pixels, the limit set by --max-pixels; "
        "--max-pixels 60000 reads it"
    )


def test_a_larger_limit_that_changes_nothing_decodes_nothing(pictures, cache, monkeypatch, decoded):
    """Where the default limit has refused no picture, all of them are known at any larger one."""
    monkeypatch.setattr(module, "MAX_PIXELS", 60_000)
    first = load_pixels(pictures, SPEC, cache, max_pixels=60_000)
    assert load_pixels(pictures, SPEC, cache, max_pixels=10**9).key == first.key and len(decoded) == 10
    assert not load_pixels(pictures, SPEC, cache, max_pixels=59_999).cached

    Image.new("RGB", (301, 200)).save(pictures[3].content)
    assert sorted(load_pixels(pictures, SPEC, cache, max_pixels=60_000).bad) == [3]
    larger = load_pixels(pictures, SPEC, cache, max_pixels=70_000)
    assert not larger.bad and not larger.cached


def test_arrays_have_the_same_limit(cache, tmp_path):
    np.savez(tmp_path / "x.npz", x_train=np.zeros((4, 30, 40), np.uint8), y_train=np.arange(4) % 2)
    found = load_pixels(open_source(str(tmp_path / "x.npz")).pictures, SPEC, cache, max_pixels=299)
    assert len(found.bad) == 4 and found.bad[0].endswith("; --max-pixels 300 reads it")


def test_progress_rises_to_all(pictures, cache):
    heard = []
    load_pixels(pictures, SPEC, cache, lambda done, total: heard.append((done, total)))
    assert heard[-1] == (10, 10) and sorted(set(heard)) == heard


# --- bad pictures ----------------------------------------------------------------------------------------------------


@pytest.fixture
def messy(tmp_path, put) -> tuple[Picture, ...]:
    """Twenty good pictures and one bad file of each kind."""
    folder = tmp_path / "messy"
    for i in range(20):
        put(folder / "ab"[i % 2] / f"{i:02}.jpg")
    whole = put(tmp_path / "whole.png", size=(60, 60)).read_bytes()
    (folder / "a/cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "a/empty.jpg").touch()
    (folder / "b/gone.jpg").symlink_to(folder / "nowhere")
    (folder / "b/notes.png").write_text("not a picture")
    return open_source(str(folder)).pictures


KINDS = {
    "cut.png": "CorruptPicture",
    "empty.jpg": "NotAPicture",
    "gone.jpg": "PictureNotFound",
    "notes.png": "NotAPicture",
}


def test_bad_pictures_are_listed_with_the_reason(messy, cache):
    found = load_pixels(messy, SPEC, cache)
    assert {Path(messy[i].name).name: why.partition(":")[0] for i, why in found.bad.items()} == KINDS
    assert len(found.usable) == 20 and not set(found.usable) & set(found.bad)
    assert all(found.array[i].max() == 0 for i in found.bad) and all(found.array[i].max() > 0 for i in found.usable)
    assert [i for i, digest in enumerate(found.digests) if not digest] == [
        i for i, picture in enumerate(messy) if picture.name.endswith("gone.jpg")
    ]
    check_readable(messy, found.bad)


def test_the_reasons_are_remembered_and_name_no_path_of_another_run(messy, cache, tmp_path):
    """The cache identifies pictures by their content, so that their paths may have changed."""
    first = load_pixels(messy, SPEC, cache)
    shutil.move(tmp_path / "messy", tmp_path / "moved")
    second = load_pixels(open_source(str(tmp_path / "moved")).pictures, SPEC, cache)
    assert second.cached and second.bad == first.bad
    assert not any(str(tmp_path) in why for why in second.bad.values())


def test_a_csv_may_contain_paths_that_no_file_can_have(tmp_path, put, cache):
    put(tmp_path / "1.png")
    put(tmp_path / "2.png")
    (tmp_path / "a.csv").write_text(f"path,label\n1.png,a\n2.png,b\n.,a\n{'x' * 300}.png,b\n")
    pictures = [*open_source(str(tmp_path / "a.csv")).pictures, Picture("nul", Path("a\0b"), (0,), None)]
    found = load_pixels(pictures, SPEC, cache)
    assert found.usable == [0, 1]
    assert all(why.startswith("PictureNotFound: it cannot be read") for why in found.bad.values())


def test_a_file_without_permission_is_a_bad_picture(open_folder, put, unprivileged):
    pictures = some(put, open_folder, 6)
    pictures[2].content.chmod(0)
    with unprivileged():
        found = load_pixels(pictures, SPEC, open_folder / "cache")
    assert found.bad == {2: "PictureNotFound: it cannot be read: Permission denied."}


def test_more_than_a_fifth_is_an_error_that_names_them(tmp_path, put, cache):
    pictures = some(put, tmp_path / "x", 19)
    for i in range(4):
        pictures[i].content.write_bytes(b"")
    # 4 of 20 are exactly a fifth, which is still accepted.
    twenty = [*pictures, *some(put, tmp_path / "x", 1, start=50)]
    check_readable(twenty, load_pixels(twenty, SPEC, cache).bad)
    with pytest.raises(UnreadablePictures, match="4 of 19 pictures cannot be read, more than 20%") as caught:
        check_readable(pictures, load_pixels(pictures, SPEC, cache).bad)
    for picture in pictures[:4]:
        assert f"{picture.name}: the file is empty" in str(caught.value)


def test_a_long_list_of_bad_pictures_is_cut(tmp_path, put, cache):
    pictures = some(put, tmp_path / "x", 30)
    for picture in pictures[:25]:
        picture.content.write_bytes(b"?")
    with pytest.raises(UnreadablePictures, match="and 15 more") as caught:
        check_readable(pictures, load_pixels(pictures, SPEC, cache).bad)
    assert str(caught.value).count("not a picture in a supported format\n") == 10


# --- the folder ------------------------------------------------------------------------------------------------------


def test_the_cache_is_bounded_and_the_least_recently_used_set_goes(tmp_path, put, cache, monkeypatch):
    size = 10 * 20 * 16 * 3
    monkeypatch.setattr(module, "CACHE_BYTES", 3 * size + size // 2)
    sets = [some(put, tmp_path / f"s{k}", 10, start=100 * k) for k in range(4)]
    for k in range(3):
        load_pixels(sets[k], SPEC, cache)
        for path in cache.iterdir():
            # Make the ages differ by more than the resolution of the file system's clock.
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 100))
    assert load_pixels(sets[0], SPEC, cache).cached
    load_pixels(sets[3], SPEC, cache)
    assert len(entries(cache)) == 3
    assert [load_pixels(sets[k], SPEC, cache).cached for k in (0, 2, 3)] == [True, True, True]
    assert not load_pixels(sets[1], SPEC, cache).cached


def test_a_set_that_is_in_use_can_be_evicted(tmp_path, put, cache, monkeypatch):
    monkeypatch.setattr(module, "CACHE_BYTES", 1)
    mine = load_pixels(some(put, tmp_path / "a", 10), SPEC, cache)
    before = mine.array.copy()
    load_pixels(some(put, tmp_path / "b", 10, start=50), SPEC, cache)
    assert len(entries(cache)) == 1
    assert np.array_equal(mine.array, before)


class Stop(Exception):
    pass


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
def test_nothing_half_written_is_left_and_the_rest_is_not_decoded(tmp_path, put, cache, decoded, monkeypatch, error):
    pictures = some(put, tmp_path / "x", 400)
    decode = zoo_runtime.decode
    # Slow enough for the main thread to stop the others in time, even on a busy machine.
    monkeypatch.setattr(
        zoo_runtime, "decode", lambda *given, **options: (time.sleep(0.003), decode(*given, **options))[1]
    )

    def interrupt(done, total):
        raise error

    with pytest.raises(error):
        load_pixels(pictures, SPEC, cache, interrupt)
    assert entries(cache) == []
    assert len(decoded) < 300
    assert not load_pixels(pictures, SPEC, cache).cached


def test_a_broken_decoder_leaves_nothing(pictures, cache, monkeypatch):
    monkeypatch.setattr(zoo_runtime, "decode", lambda *_, **__: np.zeros((3, 3, 3), np.uint8)[None].repeat(2, 0))
    with pytest.raises(Exception, match="broadcast"):
        load_pixels(pictures, SPEC, cache)
    assert entries(cache) == []


def test_a_disk_that_is_too_small_is_noticed_before_anything_is_evicted(tmp_path, put, cache, monkeypatch):
    load_pixels(some(put, tmp_path / "a", 10), SPEC, cache)
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage(10**6, 10**6, 5000))
    pictures, warnings = some(put, tmp_path / "b", 30, start=50), []
    found = load_pixels(pictures, SPEC, cache, warn=warnings.append)
    assert np.array_equal(found.array[3], zoo_runtime.decode(pictures[3].content, SPEC)) and not found.cached
    assert "5.0 kB are free. They stay in memory" in warnings[0] and "ZOO_CACHE to a folder on a larger" in warnings[0]
    monkeypatch.setattr(memory, "MEMORY_BYTES", 1000)
    with pytest.raises(DataError, match=r"5.0 kB are free. Set ZOO_CACHE to a folder on a larger disk, or use a small"):
        load_pixels(pictures, SPEC, cache)
    assert len(entries(cache)) == 1


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="space cannot be reserved here")
def test_a_disk_that_fills_up_while_decoding_is_no_crash(pictures, cache, monkeypatch):
    """Writing to a memory map on a full disk would end in SIGBUS, so the space is reserved first."""

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    warnings = []
    found = load_pixels(pictures, SPEC, cache, warn=warnings.append)
    assert np.array_equal(found.array[0], zoo_runtime.decode(pictures[0].content, SPEC))
    assert "No space left on device. They stay in memory, and the next run decodes them again" in warnings[0]
    assert entries(cache) == []


@pytest.mark.parametrize("times", [1, 2])
def test_a_cache_that_is_removed_while_pictures_are_decoded(pictures, cache, monkeypatch, times):
    left, warnings = [times], []

    def remove(done, total):
        if left[0] and done == total:
            left[0] -= 1
            shutil.rmtree(cache)

    found = load_pixels(pictures, SPEC, cache, remove, warn=warnings.append)
    assert np.array_equal(found.array[0], zoo_runtime.decode(pictures[0].content, SPEC))
    assert len(warnings) == times - 1 and load_pixels(pictures, SPEC, cache).cached == (times == 1)


def test_large_temporary_arrays_are_in_a_file_without_a_name(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(memory, "TEMPORARY_BYTES", 1000)
    parts = [np.arange(600.0).reshape(200, 3), np.ones((1, 3))]
    # Where the folder cannot be made, the array is in memory.
    (tmp_path / "cache").write_text("a file")
    assert type(memory.stacked(parts)) is np.ndarray
    (tmp_path / "cache").unlink()
    joined = memory.stacked(parts)
    assert isinstance(joined, np.memmap) and joined.dtype == np.float64 and list((tmp_path / "cache").iterdir()) == []
    assert np.array_equal(joined, np.concatenate(parts))
    assert type(memory.temporary((10, 3), np.float32)) is np.ndarray


@pytest.mark.skipif(not hasattr(os, "fstatvfs"), reason="this system has no fstatvfs")
def test_where_space_cannot_be_reserved_free_space_is_asked_for(tmp_path, monkeypatch):
    """A full disk under a mapped file would end the process with a bus error."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    monkeypatch.setattr(memory, "TEMPORARY_BYTES", 100)
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    assert isinstance(memory.temporary((30, 3), np.float32), np.memmap)
    monkeypatch.setattr(os, "fstatvfs", lambda descriptor: SimpleNamespace(f_bavail=1, f_frsize=359))
    assert type(memory.temporary((30, 3), np.float32)) is np.ndarray


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="space cannot be reserved here")
def test_the_space_is_reserved_before_anything_is_written(tmp_path):
    array = memory.create(tmp_path / "pixels.npy", (100, 64, 64, 3))
    status = (tmp_path / "pixels.npy").stat()
    assert status.st_blocks * 512 >= status.st_size > array.nbytes == 100 * 64 * 64 * 3


def test_a_cache_that_cannot_be_written(open_folder, tmp_path, put, unprivileged, pictures, monkeypatch):
    monkeypatch.setattr(memory, "MEMORY_BYTES", 0)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot be written to .*Set ZOO_CACHE"):
        load_pixels(pictures, SPEC, tmp_path / "file")
    closed = open_folder / "closed"
    closed.mkdir(0o755)
    own = some(put, open_folder / "x", 4)
    with unprivileged(), pytest.raises(DataError, match="Permission denied"):
        load_pixels(own, SPEC, closed)


def test_a_cache_of_another_user_can_be_read(open_folder, put, unprivileged):
    pictures = some(put, open_folder / "x", 4)
    load_pixels(pictures, SPEC, open_folder / "cache")
    with unprivileged():
        assert load_pixels(pictures, SPEC, open_folder / "cache").cached


@pytest.mark.parametrize("damage", ["cut", "empty", "junk", "no bad.json", "bad bad.json"])
def test_a_damaged_set_is_decoded_again(pictures, cache, damage):
    whole = load_pixels(pictures, SPEC, cache).array.copy()
    (place,) = cache.iterdir()
    if damage == "no bad.json":
        (place / "bad.json").unlink()
    elif damage == "bad bad.json":
        (place / "bad.json").write_text("{")
    else:
        data = (place / "pixels.npy").read_bytes()
        (place / "pixels.npy").write_bytes({"cut": data[:-1], "empty": b"", "junk": b"junk" * 99}[damage])
    again = load_pixels(pictures, SPEC, cache)
    assert not again.cached and np.array_equal(again.array, whole)
    assert load_pixels(pictures, SPEC, cache).cached


def test_leftovers_of_killed_processes_are_removed_after_an_hour(pictures, cache):
    """A younger folder may belong to a process that is decoding now."""
    for name, age in ((".partial-old", 4000), (".partial-young", 1000)):
        (cache / name).mkdir(parents=True)
        (cache / name / "pixels.npy").write_bytes(b"x")
        for path in (cache / name / "pixels.npy", cache / name):
            os.utime(path, (time.time() - age, time.time() - age))
    load_pixels(pictures, SPEC, cache)
    assert [name for name in entries(cache) if name.startswith(".")] == [".partial-young"]


def test_unfinished_sets_are_not_evicted(pictures, cache, monkeypatch):
    monkeypatch.setattr(module, "CACHE_BYTES", 1)
    with files.scratch_folder(cache) as temporary:
        (temporary / "pixels.npy").write_bytes(b"x" * 1000)
        load_pixels(pictures, SPEC, cache)
        assert (temporary / "pixels.npy").exists()


def test_two_threads_at_once(pictures, cache):
    barrier = threading.Barrier(2)
    results = []

    def work():
        barrier.wait()
        results.append(load_pixels(pictures, SPEC, cache))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2 and np.array_equal(results[0].array, results[1].array)
    assert len(entries(cache)) == 1


def test_another_run_finishes_first(pictures, cache, monkeypatch):
    """Two runs decode the same pictures. The second finds the set of the first in place and uses it."""
    put = module._put
    first = []

    def late(temporary, place, digests):
        shutil.copytree(temporary, place)
        first.append((place / "pixels.npy").stat().st_ino)
        put(temporary, place, digests)

    monkeypatch.setattr(module, "_put", late)
    found = load_pixels(pictures, SPEC, cache)
    assert [path.stat().st_ino for path in cache.glob("*/pixels.npy")] == first
    assert np.array_equal(found.array[0], zoo_runtime.decode(pictures[0].content, SPEC))


PROCESS = """
import hashlib, json, sys
from pathlib import Path
from subprocess import PIPE
from zoo.data.pixels import load_pixels
from zoo.data.sources import open_source
from zoo_runtime import ImageSpec
pictures = open_source(sys.argv[1]).pictures
print("ready", flush=True)
sys.stdin.readline()
found = load_pixels(pictures, ImageSpec(size=(64, 64)), Path(sys.argv[2]))
print(json.dumps([hashlib.sha256(found.array.tobytes()).hexdigest(), len(found.bad)]))
"""


def test_two_processes_at_once(tmp_path, put, cache):
    for i in range(60):
        put(tmp_path / "data" / "ab"[i % 2] / f"{i}.jpg")
    command = [sys.executable, "-c", PROCESS, str(tmp_path / "data"), str(cache)]
    runs = [subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True) for _ in range(2)]
    for run in runs:
        assert run.stdout.readline() == "ready\n"
    for run in runs:
        run.stdin.write("\n")
        run.stdin.flush()
    outputs = [run.communicate(timeout=60) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    assert json.loads(outputs[0][0]) == json.loads(outputs[1][0]) and json.loads(outputs[0][0])[1] == 0
    assert len(entries(cache)) == 1


# --- files that change while they are read ---------------------------------------------------------------------------


def test_a_temporary_failure_is_an_error_and_is_not_remembered(pictures, cache, monkeypatch):
    """After too many open files or a short network failure, the picture must not count as bad forever."""
    opened = Picture.open
    failing = {"on": False}

    def flaky(self):
        if failing["on"] and self is pictures[3]:
            raise OSError(errno.EMFILE, "Too many open files")
        return opened(self)

    def after_digests(*arguments):
        failing["on"] = True
        return create(*arguments)

    create = memory.create
    monkeypatch.setattr(Picture, "open", flaky)
    monkeypatch.setattr(module, "create", after_digests)
    with pytest.raises(
        DataError, match=r"could be read a moment ago, but it cannot be read now: Too many open files\. Run again"
    ):
        load_pixels(pictures, SPEC, cache)
    assert entries(cache) == []
    monkeypatch.undo()
    assert load_pixels(pictures, SPEC, cache).bad == {}


def test_a_file_that_changes_while_it_is_read_is_not_kept_under_its_old_digest(pictures, cache, monkeypatch):
    def after_digests(*arguments):
        pictures[2].content.write_bytes(pictures[5].content.read_bytes())
        return create(*arguments)

    create = memory.create
    monkeypatch.setattr(module, "create", after_digests)
    with pytest.raises(DataError, match="changed while it was read"):
        load_pixels(pictures, SPEC, cache)
    assert entries(cache) == []


@pytest.mark.parametrize("damage", ["rubbish", "short"])
def test_a_set_with_wrong_content_is_decoded_again(pictures, cache, damage):
    before = load_pixels(pictures, SPEC, cache).array.copy()
    (place,) = cache.iterdir()
    if damage == "rubbish":
        (place / "bad.json").write_text("[]")
    else:
        np.save(place / "pixels.npy", before[:3])
    again = load_pixels(pictures, SPEC, cache)
    assert not again.cached and np.array_equal(again.array, before)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_in_a_csv_is_a_bad_picture_and_does_not_hang(tmp_path, put, cache):
    for i in range(5):
        put(tmp_path / f"{i}.png")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "a.csv").write_text("path,label\n0.png,a\n1.png,b\n2.png,a\n3.png,b\n4.png,b\npipe.jpg,a\n")
    found = load_pixels(open_source(str(tmp_path / "a.csv")).pictures, SPEC, cache)
    assert found.bad == {5: "PictureNotFound: it cannot be read: it is not a regular file."}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="reads /proc")
def test_pages_that_were_read_are_released(tmp_path):
    """Reading a set of twice the limit keeps no more than the limit in memory, and gives the right values."""
    rows = 2 * RELEASED_BYTES // (1 << 20)
    written = np.lib.format.open_memmap(tmp_path / "set.npy", "w+", np.uint8, (rows, 1 << 20))
    writer = MappedRows(written)
    for row in range(rows):
        written[row] = row % 251
        writer.touched(written[row].nbytes)
    del written, writer
    array = np.load(tmp_path / "set.npy", mmap_mode="r")
    reader, most = MappedRows(array), 0
    for row in range(rows):
        assert (reader[np.array([row])] == row % 251).all()
        most = max(most, _mapped(tmp_path / "set.npy"))
    assert 0 < most <= RELEASED_BYTES + (1 << 20)


def _mapped(path):
    """Return how many bytes of a mapped file this process has in memory."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1]) * 1024
    return found


# --- the text on files that are left out -----------------------------------------------------------------------------


def test_files_that_are_left_out_are_named_with_their_reasons():
    bad = {"a/1.jpg": "CorruptPicture: it is cut off.", "b/2.jpg": "NotAPicture: it is empty"}
    reasons = "a/1.jpg: it is cut off; b/2.jpg: it is empty"
    assert left_out_text(bad, 75) == f"2 of 75 files are left out: {reasons}"
    assert left_out_text(bad) == f"2 files are left out: {reasons}"


@pytest.mark.parametrize(("total", "begins"), [(None, "1 file is"), (1, "1 of 1 file is"), (25, "1 of 25 files is")])
def test_one_file_that_is_left_out(total, begins):
    assert left_out_text({"1.jpg": "NotAPicture"}, total) == f"{begins} left out: 1.jpg: NotAPicture"


@pytest.mark.parametrize(("count", "ends"), [(5, "4.jpg: bad"), (6, "4.jpg: bad; and 1 more"), (9, "bad; and 4 more")])
def test_five_files_are_named_and_the_others_are_counted(count, ends):
    text = left_out_text({f"{i}.jpg": "bad" for i in range(count)})
    assert text.startswith(f"{count} files are left out: 0.jpg: bad; 1.jpg: bad; ") and text.endswith(ends)
    assert text.count(".jpg") == 5


@pytest.mark.skipif(os.name == "nt", reason="Windows does not remove open files")
def test_a_set_is_in_use_as_long_as_a_part_of_its_array(pictures, cache):
    (part,) = [load_pixels(pictures, ImageSpec(size=(8, 8)), cache, name="mine").array[1:]]
    (place,) = cache.iterdir()
    assert files.in_use(place) and json.loads((place / "about.json").read_text())["data"] == "mine"
    del part
    assert not files.in_use(place)
