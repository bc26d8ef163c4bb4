"""What is said of single pictures: dark, bright, blurred, blank, few colors, tiny, odd shapes and sizes, turned."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from zoo import files
from zoo.data.check import quality
from zoo.data.check.headers import Header
from zoo.data.check.quality import odd_sizes
from zoo.reporter import Reporter
from zoo.workflow.data_check import check


@pytest.fixture
def named(tmp_path, scenes):
    """Return a function that checks good pictures and one more, and returns the kinds of findings that name it."""

    def find(image: Image.Image, **options: object) -> set[str]:
        folder = tmp_path / "data" / "a"
        folder.mkdir(parents=True)
        for seed in range(8):
            scenes(seed).save(folder / f"{seed}.jpg", quality=95)
        image.save(folder / "this.png", **options)
        result = check(str(tmp_path / "data"), Reporter())
        names = [picture.name for picture in result.checked.source.pictures]
        return {
            finding.kind
            for finding in result.findings
            for item in finding.items
            if any(names[i].endswith("this.png") for i in item.pictures)
        }

    return find


def test_a_good_picture_is_not_named(named, scenes):
    assert named(scenes(50)) == set()


def test_a_second_check_measures_nothing_and_a_damaged_file_is_made_again(tmp_path, scenes, monkeypatch):
    folder = tmp_path / "data" / "a"
    folder.mkdir(parents=True)
    for seed in range(8):
        scenes(seed).point(lambda level, darker=seed < 2: level // (5 if darker else 1)).save(folder / f"{seed}.png")

    def found() -> dict[str, int]:
        return {each.kind: len(each.items) for each in check(str(tmp_path / "data"), Reporter()).findings}

    first = found()
    assert first["dark"] == 2
    (path,) = (files.cache() / "pixels").glob(f"*/{quality.FILE}")
    with monkeypatch.context() as patched:
        patched.setattr(quality, "_measured", lambda *_: pytest.fail("measured again"))
        assert found() == first
    path.write_bytes(path.read_bytes()[:-10])
    assert found() == first and path.stat().st_size > 100


def test_dark(named, scenes):
    assert named(scenes(50).point(lambda level: level // 5)) == {"dark"}


def test_bright(named):
    image = Image.new("RGB", (160, 120), "white")
    noise = np.random.default_rng(0).integers(244, 256, (120, 160, 3), dtype=np.uint8)
    image.paste(Image.fromarray(noise))
    ImageDraw.Draw(image).ellipse((70, 50, 84, 64), "black")
    assert "bright" in named(image)


def test_blurred(named, scenes):
    assert named(scenes(50).filter(ImageFilter.GaussianBlur(6))) == {"blurred"}


def test_blank(named):
    assert named(Image.new("RGB", (160, 120), (200, 30, 30))) == {"blank"}


def test_few_colors(named):
    image = Image.new("RGB", (160, 120), "blue")
    ImageDraw.Draw(image).rectangle((20, 20, 80, 90), "yellow")
    assert named(image) == {"low_information"}


def test_tiny_and_far_smaller_than_the_others(named, scenes):
    assert {"tiny", "odd_size"} <= named(scenes(50).resize((24, 24)))


def test_very_long(named, scenes):
    assert named(scenes(50, (240, 80))) == {"odd_shape"}


def test_turned(named, scenes):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert named(scenes(50), exif=exif) == {"turned"}


def test_sizes_are_odd_only_far_from_a_usual_size():
    def header(side: int) -> Header:
        return Header("PNG", (side, side), "RGB")

    assert odd_sizes([header(200)] * 20 + [header(190), header(60), header(700), None]) == [21, 22]
    assert odd_sizes([header(side) for side in range(50, 1000, 50)]) == []
    assert odd_sizes([None, None]) == []


def test_what_most_pictures_have_in_common_is_said_once(tmp_path, scenes):
    folder = tmp_path / "data" / "a"
    folder.mkdir(parents=True)
    for seed in range(6):
        scenes(seed).resize((20, 20)).save(folder / f"{seed}.png")
    (tiny,) = [each for each in check(str(tmp_path / "data"), Reporter()).findings if each.kind == "tiny"]
    assert tiny.title == "6 of 6 pictures have a side of less than 32 pixels; this is usual in these pictures"
