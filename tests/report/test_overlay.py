"""Thumbnails and heat maps: proportions, and the place of the heat for every way of resizing."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from zoo.data.sources import Picture
from zoo.report import overlay
from zoo_runtime import ImageSpec


def picture_of(content):
    return Picture("it", content, (0,), None)


def opened(uri):
    head, _, body = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(body)))


def test_thumbnails_keep_the_proportions_and_the_orientation(tmp_path):
    """The file is stored lying on its side, and its upper left corner is red when it stands upright."""
    pixels = np.zeros((600, 900, 3), np.uint8)
    pixels[500:, :150, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.jpg"
    Image.fromarray(pixels).save(path, exif=exif, quality=95)
    small = overlay.thumbnail(picture_of(path), ImageSpec((64, 64)), 192)
    assert small.pixels.shape == (192, 128, 3)
    assert small.pixels[5, 5, 0] > 200 and small.pixels[5, -5, 0] < 50 and small.pixels[-5, 5, 0] < 50
    assert opened(small.uri()).size == (128, 192)


def test_pixels_of_small_pictures_stay_visible():
    digit = np.random.default_rng(0).integers(0, 256, (8, 6), dtype=np.uint8)
    small = overlay.thumbnail(picture_of(digit), ImageSpec((8, 8), channels=1), 192)
    assert small.pixels.shape == (192, 144, 3)
    assert np.array_equal(small.pixels[::24, ::24, 0], digit)
    assert np.abs(np.asarray(opened(small.uri())).astype(int) - small.pixels).mean() < 4


@pytest.mark.parametrize("resize", ["squash", "pad", "crop"])
def test_a_thumbnail_can_be_made_of_what_the_network_saw(tmp_path, resize):
    """For a file that is gone, or that takes long to decode."""
    from zoo_runtime import decode

    pixels = np.random.default_rng(0).integers(0, 256, (6, 12, 3)).repeat(20, axis=0).repeat(20, axis=1)
    path = tmp_path / "a.png"
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    spec = ImageSpec((96, 96), resize=resize, fraction=1.0)
    small = overlay.from_decoded(decode(path, spec), picture_of(path), spec, 96)
    assert small.whole == (resize != "crop")
    assert small.pixels.shape == ((96, 96, 3) if resize == "crop" else (48, 96, 3))
    whole = overlay.thumbnail(picture_of(path), spec, 96).pixels.astype(int)
    expected = (
        whole if resize != "crop" else np.asarray(Image.fromarray(pixels[:, 60:180].astype(np.uint8)).resize((96, 96)))
    )
    assert np.abs(small.pixels.astype(int) - expected).mean() < 8


def heat_of(pixels):
    """Return the heat map of a network that sees bright places: the mean brightness of each cell of 8 x 8 pixels."""
    height, width = pixels.shape[:2]
    return pixels.mean(axis=2).reshape(height // 8, 8, width // 8, 8).mean(axis=(1, 3)).astype(np.float32)


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize("size", [(300, 150), (120, 240), (200, 200)])
@pytest.mark.parametrize("place", [(0.35, 0.35), (0.65, 0.35), (0.4, 0.6)])
def test_heat_lies_over_its_place_in_the_picture(tmp_path, resize, size, place):
    """A bright spot on a dark picture: the overlay is brightest there, whatever was cut or added."""
    from zoo_runtime import decode

    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    side = min(size)
    # Inside the center, which every way of resizing shows.
    spot = width / 2 + (place[0] - 0.5) * side, height / 2 + (place[1] - 0.5) * side
    gray = np.where(np.hypot(x - spot[0], y - spot[1]) < side / 14, 255, 20).astype(np.uint8)
    picture = picture_of(np.repeat(gray[..., None], 3, axis=2))
    spec = ImageSpec((128, 96), resize=resize)
    small = overlay.thumbnail(picture, spec)
    flat = overlay.Thumbnail(np.full_like(small.pixels, 60))
    drawn = overlay.overlay(flat, heat_of(decode(picture.content, spec)) - 19.9, size, spec).pixels
    assert drawn.shape == small.pixels.shape
    weight = np.maximum(drawn.sum(axis=2).astype(float) - 330, 0)
    rows, columns = np.mgrid[0 : drawn.shape[0], 0 : drawn.shape[1]]
    found = (
        (columns * weight).sum() / weight.sum() / drawn.shape[1],
        (rows * weight).sum() / weight.sum() / drawn.shape[0],
    )
    assert found == pytest.approx((spot[0] / width, spot[1] / height), abs=0.06)


def test_what_the_network_did_not_see_is_dark():
    picture = picture_of(np.full((100, 200, 3), 200, np.uint8))
    spec = ImageSpec((64, 64), resize="crop", fraction=1.0)
    drawn = overlay.overlay(overlay.thumbnail(picture, spec), np.ones((4, 4)), (200, 100), spec).pixels
    # The network sees the middle half.
    assert drawn[:, :45].max() < 80 and drawn[:, -45:].max() < 80 and drawn[:, 50:140].max(axis=2).min() > 180


def test_more_heat_is_brighter():
    lightness = overlay.colors(np.linspace(0, 1, 50)) @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(lightness) > 0).all()
