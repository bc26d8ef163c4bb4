"""Near-duplicates: what counts as one, what does not, and that a second look costs nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps
from scipy import ndimage

from zoo import files
from zoo.data import pixels, sources
from zoo.data.check import hashes, near, thumbnails
from zoo_runtime import ImageSpec

# What imagehash.phash 4.3.2 returns for four pictures and for their mirror images.
REFERENCE = [
    ("86d3ec71a4b95546", "d386b926f1ec0713"),
    ("de0306e656b9ab46", "8b56539303ecfe11"),
    ("e3f6564b19a9a056", "b6a3031e4efcb503"),
    ("f916cc435bf92606", "ac4b99160eacf353"),
]


def test_the_hash_has_the_bits_of_imagehash():
    rng = np.random.default_rng(5)
    small = [Image.fromarray(rng.integers(0, 256, (6, 6), dtype=np.uint8)) for _ in REFERENCE]
    thumbs = np.stack([np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC)) for image in small])
    found = hashes.phash(thumbs)
    for way, texts in zip(hashes.UPRIGHT, zip(*REFERENCE, strict=True), strict=True):
        assert [np.packbits(row > 0).tobytes().hex() for row in found[way]] == list(texts)


def test_the_hash_of_a_turned_picture_is_that_of_the_picture_turned():
    thumbs = np.random.default_rng(5).integers(0, 256, (20, 32, 32), dtype=np.uint8)
    found = hashes.phash(thumbs)
    assert len(found) == 8
    for way, signs in found.items():
        turned = hashes.phash(np.ascontiguousarray(way.of(thumbs)))[hashes.UPRIGHT[0]]
        # The transform of a turned picture is rounded otherwise, and a frequency may be as large as the median.
        assert (signs == turned).mean() > 0.999


def test_copies_that_were_saved_again_are_found_and_other_pictures_are_not(tmp_path, scenes, linked):
    folder = tmp_path / "a"
    folder.mkdir()
    for seed in range(40):
        scenes(seed).save(folder / f"{seed:02}.png")
    original = scenes(7)
    ImageOps.mirror(original).save(folder / "mirror.jpg", quality=60)
    original.save(folder / "quality.jpg", quality=60)
    original.resize((80, 60)).save(folder / "smaller.jpg", quality=85)
    original.save(folder / "web.webp", quality=70)
    original.crop((4, 2, 156, 117)).save(folder / "crop.jpg", quality=85)
    ImageOps.autocontrast(original, cutoff=5).save(folder / "brighter.jpg")
    found = linked(tmp_path)
    family = {"07.png", "mirror.jpg", "quality.jpg", "smaller.jpg", "web.webp", "crop.jpg", "brighter.jpg"}
    assert {name for pair in found for name in pair} == family
    copies = {pair[1] for pair, (_, _, copy) in found.items() if copy and pair[0] == "07.png"}
    assert copies == {"mirror.jpg", "quality.jpg", "smaller.jpg", "web.webp"}
    assert found["07.png", "mirror.jpg"][1] and not found["07.png", "quality.jpg"][1]
    assert found["07.png", "crop.jpg"][0] >= near.SIMILAR


@pytest.mark.parametrize(
    ("operation", "way", "words"),
    [
        (Image.Transpose.ROTATE_90, (False, 1), ", turned by 270 degrees"),
        (Image.Transpose.ROTATE_180, (False, 2), ", turned by 180 degrees"),
        (Image.Transpose.ROTATE_270, (False, 3), ", turned by 90 degrees"),
        (Image.Transpose.FLIP_TOP_BOTTOM, (True, 2), ", upside down"),
        (Image.Transpose.TRANSPOSE, (True, 1), ", mirrored, turned by 270 degrees"),
        (Image.Transpose.TRANSVERSE, (True, 3), ", mirrored, turned by 90 degrees"),
    ],
)
@pytest.mark.parametrize("later", [False, True])
def test_turned_copies_are_found_and_are_not_called_copies(
    zoo, tmp_path, scenes, links_in, operation, way, words, later
):
    folder = tmp_path / "a"
    folder.mkdir()
    for seed in range(20):
        scenes(seed).save(folder / f"{seed:02}.png")
    # The copy comes after its original in the list, or before it, and is then turned the other way.
    copy = "turned.jpg" if later else "00-turned.jpg"
    scenes(7).transpose(operation).resize((90, 90)).save(folder / copy, quality=70)
    names, links = links_in(tmp_path, ImageSpec(size=(96, 96)))
    pairs = {(names[i], names[j]) for i, j in zip(links.first, links.second, strict=True)}
    back = (way[0], way[1] if way[0] else -way[1] % 4)
    assert pairs == {("07.png", copy) if later else (copy, "07.png")}
    assert (bool(links.mirrored[0]), int(links.turned[0])) == (way if later else back)
    assert links.score[0] >= near.COPY and not links.copy.any()
    if later:
        found = json.loads(zoo("data", "check", tmp_path, "--json").out)["findings"]
        (pair,) = next(each["items"] for each in found if each["kind"] == "look_alikes")
        assert pair["detail"].endswith(words) and len(pair["pictures"]) == 2


def test_a_turned_picture_of_other_colors_is_another_picture(tmp_path, scenes, linked):
    folder = tmp_path / "a"
    folder.mkdir()
    red, green, blue = scenes(7).transpose(Image.Transpose.ROTATE_90).split()
    scenes(7).save(folder / "0.png")
    Image.merge("RGB", (blue, green, red)).save(folder / "1.png")
    assert linked(tmp_path) == {}


def test_blank_pictures_are_named_and_do_not_match_one_another(tmp_path, linked):
    folder = tmp_path / "a"
    folder.mkdir()
    for level in (0, 128, 250):
        Image.new("RGB", (80, 60), (level, level, level)).save(folder / f"{level}.png")
    noise = np.random.default_rng(0).integers(126, 130, (2, 60, 80, 3), dtype=np.uint8)
    for i, picture in enumerate(noise):
        Image.fromarray(picture).save(folder / f"noise{i}.png")
    assert linked(tmp_path) == {}
    source = sources.open_source(str(tmp_path), fewest_classes=1)
    spec = ImageSpec(size=(96, 96))
    decoded = pixels.load_pixels(source.pictures, spec, files.cache() / "pixels")
    blank = [source.pictures[i].name.rpartition("/")[2] for i in near.find(source.pictures, decoded, spec).blank]
    assert {"0.png", "128.png", "250.png"} <= set(blank)


def test_handwritten_digits_are_alike_and_are_not_copies(tmp_path, linked):
    from sklearn.datasets import load_digits

    spec = ImageSpec(size=(64, 64))
    source = sources.open_source("digits")
    decoded = pixels.load_pixels(source.pictures, spec, files.cache() / "pixels")
    assert len(near.find(source.pictures, decoded, spec)) == 0
    # As files, their size is known from the header.
    (tmp_path / "a").mkdir()
    for i, picture in enumerate(load_digits().images[:200]):
        Image.fromarray(np.round(picture * 15.9).astype(np.uint8)).save(tmp_path / "a" / f"{i}.png")
    assert linked(tmp_path, spec) == {}


def test_the_borders_of_padded_pictures_do_not_make_them_alike(tmp_path, scenes, linked):
    folder = tmp_path / "a"
    folder.mkdir()
    for seed in range(12):
        scenes(seed, (240, 40)).save(folder / f"{seed:02}.png")
    scenes(3, (240, 40)).save(folder / "again.jpg", quality=70)
    assert set(linked(tmp_path, ImageSpec(size=(96, 96), resize="pad"))) == {("03.png", "again.jpg")}


def test_gray_pictures_of_one_channel_are_compared_too(tmp_path, scenes, linked):
    folder = tmp_path / "a"
    folder.mkdir()
    for seed in range(6):
        scenes(seed).convert("L").save(folder / f"{seed}.png")
    scenes(2).convert("L").save(folder / "again.jpg", quality=70)
    found = linked(tmp_path, ImageSpec(size=(64, 64), channels=1))
    assert set(found) == {("2.png", "again.jpg")} and found["2.png", "again.jpg"][2]


@pytest.fixture
def pair(tmp_path, scenes):
    """A folder with a picture and its copy."""
    (tmp_path / "a").mkdir()
    for name, seed in (("0.png", 0), ("1.png", 1), ("again.jpg", 0)):
        scenes(seed).save(tmp_path / "a" / name)
    return tmp_path


def test_a_second_look_compares_nothing(pair, linked, monkeypatch):
    first = linked(pair)
    monkeypatch.setattr(hashes, "candidates", lambda *_, **__: pytest.fail("compared again"))
    assert linked(pair) == first != {}


@pytest.mark.parametrize("name", [near.FILE, thumbnails.FILE])
def test_damaged_files_in_the_cache_are_made_again(pair, linked, name):
    first = linked(pair)
    (path,) = (files.cache() / "pixels").glob(f"*/{name}")
    path.write_bytes(path.read_bytes()[:-200])
    if name == thumbnails.FILE:
        (path.parent / near.FILE).unlink()
    assert linked(pair) == first != {}
    assert not list(path.parent.glob(".*"))


def test_a_cache_that_cannot_be_written_to_costs_time_alone(pair, linked, monkeypatch):
    first = linked(pair)
    for path in (files.cache() / "pixels").glob("*/*-1.np*"):
        path.unlink()
        # A folder at this place can neither be read nor replaced.
        path.mkdir()
    assert linked(pair) == first != {}


def every_way(signs: np.ndarray, mirrored: np.ndarray) -> dict[hashes.Orientation, np.ndarray]:
    """Return hashes for all orientations, of which those of turned pictures are near no other hash."""
    far = np.random.default_rng(9).choice(np.array([-1, 1], np.int8), (6, *signs.shape))
    return dict(zip((*hashes.UPRIGHT, *hashes.TURNED), (signs, mirrored, *far), strict=True))


def test_pictures_that_are_all_alike_take_memory_for_a_few_links_each():
    """3,000 equal hashes have 4.5 million pairs; each keeps eight."""
    signs = np.ones((3000, 64), np.int8)
    pairs = hashes.candidates(every_way(signs, -signs), np.zeros(3000, np.float32))
    assert len(pairs.first) <= 3000 * hashes.NEAREST
    assert not pairs.mirrored.any() and set(pairs.first) | set(pairs.second) == set(range(3000))


def test_all_pairs_of_hashes_within_the_distance_are_found():
    rng = np.random.default_rng(0)
    distance = hashes.distance_for(3000)
    assert distance == 18 and [hashes.distance_for(count) for count in (10_001, 30_001)] == [16, 14]
    signs = rng.choice(np.array([-1, 1], np.int8), (3000, 64))
    signs[2900:] = signs[:100]
    flips = rng.permuted(np.tile(np.arange(64) < distance, (100, 1)), axis=1)
    signs[2900:][flips] *= -1
    mirrored = rng.choice(np.array([-1, 1], np.int8), (3000, 64))
    pairs = hashes.candidates(every_way(signs, mirrored), np.zeros(3000, np.float32))
    found = {(int(i), int(j)) for i, j in zip(pairs.first, pairs.second, strict=True)}
    assert {(i, 2900 + i) for i in range(100)} <= found
    exact = (64 - signs.astype(int) @ signs.T.astype(int)) // 2
    expected = {(int(i), int(j)) for i, j in zip(*np.nonzero(np.triu(exact <= distance, 1)), strict=True)}
    plain = {
        pair
        for pair, flipped in zip(zip(pairs.first, pairs.second, strict=True), pairs.mirrored, strict=True)
        if not flipped
    }
    assert {(int(i), int(j)) for i, j in plain} == expected


def test_pictures_of_two_areas_are_not_alike(tmp_path, linked):
    """They have nearly the same gray levels everywhere but at the edge, and 0.93 or more of correlation."""
    folder = tmp_path / "a"
    folder.mkdir()
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:120, :160]
    for number in range(30):
        edge = 80 + rng.uniform(-4, 4) + rng.uniform(4, 10) * np.sin(y / rng.uniform(8, 30) + rng.uniform(0, 6))
        fur = ndimage.gaussian_filter(rng.normal(0, 40, (120, 160)), 2) * 2
        levels = np.where(x < edge, 20, 220) + fur
        image = Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))
        image.save(folder / f"{number:02}.png")
    image.resize((80, 60)).save(folder / "again.jpg", quality=60)
    assert set(linked(tmp_path)) == {("29.png", "again.jpg")}


def test_smooth_pictures_without_details_are_found_too(tmp_path, scenes, linked):
    """Their details are the noise of the format alone, and differ."""
    folder = tmp_path / "a"
    folder.mkdir()
    # The hashes of other such pictures are too far from those of their copies.
    for seed in (1, 4):
        smooth = scenes(seed).filter(ImageFilter.GaussianBlur(30))
        smooth.save(folder / f"{seed}.png")
        smooth.save(folder / f"{seed}.jpg", quality=30)
    assert {(f"{seed}.jpg", f"{seed}.png") for seed in (1, 4)} <= set(linked(tmp_path))


def test_turned_hashes_are_compared_with_those_of_the_same_brightness_in_all_blocks():
    rng = np.random.default_rng(0)
    count = 3000
    signs, other = (rng.choice(np.array([-1, 1], np.int8), (count, 64)) for _ in range(2))
    gray = rng.permutation(np.linspace(20, 230, count)).astype(np.float32)
    order = np.argsort(gray)
    ways = every_way(signs, other)
    quarter, back = hashes.Orientation(False, 1), hashes.Orientation(False, 3)
    # Every tenth picture is a turned copy of the tenth darker one, at the level of the one before it.
    for number in range(10, count, 10):
        dark, bright = order[number - 10], order[number]
        near_by = number % 20 == 0
        gray[bright] = gray[dark] + (1.9 if near_by else 2.1)
        ways[quarter][dark] = signs[bright]
        ways[back][bright] = signs[dark]
    pairs = hashes.candidates(ways, gray)
    found = {
        (int(i), int(j)): int(turned)
        for i, j, turned in zip(pairs.first, pairs.second, pairs.turned, strict=True)
        if turned
    }
    expected = {}
    for number in range(20, count, 20):
        dark, bright = int(order[number - 10]), int(order[number])
        expected[min(dark, bright), max(dark, bright)] = 1 if dark < bright else 3
    assert {pair: found.get(pair) for pair in expected} == expected
