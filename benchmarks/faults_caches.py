"""Faults of the caches of decoded pictures, features and networks. `faults.py` runs them."""

from __future__ import annotations

import shutil

from faults import Place, Ran, fault, finish, read_until

GROUP = "Caches and pictures"
# Lets something happen to a picture after its digest is known, and before it is decoded.
AFTER_LISTING = """
import pathlib
from zoo.data import pixels
digests_of = pixels.digests_of
def late(pictures):
    digests = digests_of(pictures)
    {}
    return digests
pixels.digests_of = late
"""


def training(place: Place, *options: object) -> list[str]:
    return place.training("mnist_convnet", "--weights", "none", *options)


@fault(GROUP, "the disk of the cache is full: pictures are decoded into memory")
def full_disk(place: Place) -> Ran:
    with place.small_disk(1) as disk:
        (disk / "fill").write_bytes(b"x" * 1_040_000)
        place.environment["ZOO_CACHE"] = str(disk)
        ran = place.run(*training(place, "--size", 64))
    assert ran.code == 0, ran.text
    return ran


@fault(GROUP, "the cache cannot be written: pictures are decoded into memory")
def not_writable(place: Place) -> Ran:
    (place.folder / "file").touch()
    place.environment["ZOO_CACHE"] = str(place.folder / "file")
    ran = place.run(*training(place))
    assert ran.code == 0, ran.text
    return ran


@fault(GROUP, "the cache is deleted while a network trains")
def deleted(place: Place) -> Ran:
    process = place.start(*training(place, "--epochs", 30))
    begun = read_until(process, "epoch   1")
    shutil.rmtree(place.cache)
    ran = finish(process)
    assert ran.code == 0, begun + ran.text
    return ran


@fault(GROUP, "two commands fill the same cache at once (the second is shown)")
def two_at_once(place: Place) -> Ran:
    first, second = (place.start(*training(place, "--name", name)) for name in ("a", "b"))
    results = finish(first), finish(second)
    assert [ran.code for ran in results] == [0, 0], results
    assert len([path for path in (place.cache / "pixels").iterdir() if path.is_dir()]) == 1
    return results[1]


@fault(GROUP, "a picture vanishes between listing and decoding")
def vanishes(place: Place) -> Ran:
    ran = place.run(*training(place), before=AFTER_LISTING.format("pathlib.Path('photos/dark/3.png').unlink()"))
    assert ran.code == 1 and "3.png" in ran.text, ran.text
    return ran


@fault(GROUP, "a picture changes between listing and decoding")
def changes(place: Place) -> Ran:
    change = "pathlib.Path('photos/dark/3.png').write_bytes(pathlib.Path('photos/dark/4.png').read_bytes())"
    ran = place.run(*training(place), before=AFTER_LISTING.format(change))
    assert ran.code == 1 and "3.png" in ran.text, ran.text
    return ran
