"""The tools that zoo.plugin gives to augmentation policies, through the door that third parties use."""

from __future__ import annotations

import numpy as np
import pytest

from zoo.errors import InvalidPluginData
from zoo.plugin import ParameterRange, check_parameters, picture_generators, random_horizontal_flip

RANGES = {
    "flip": bool,
    "blur": ParameterRange(0, 2.5, "pixels"),
    "steps": ParameterRange(1, 4, "a count", integer=True),
}


def test_parameters_within_their_ranges_pass():
    check_parameters(RANGES, flip=False, blur=0, steps=4)
    check_parameters(RANGES, blur=2.5)


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"flip": 1}, r"flip must be true or false\. Received: 1\."),
        ({"blur": 2.6}, r"blur must be a number from 0 to 2\.5 \(pixels\)\. Received: 2\.6\."),
        ({"blur": -0.1}, "Received: -0.1"),
        ({"blur": float("nan")}, "Received: nan"),
        ({"blur": True}, "Received: True"),
        ({"blur": "1"}, "Received: '1'"),
        ({"steps": 2.0}, r"steps must be a whole number from 1 to 4 \(a count\)\. Received: 2\.0\."),
        ({"steps": 5}, "Received: 5"),
        ({"flip": True, "blur": 1, "steps": 0}, "steps must be"),
    ],
    ids=str,
)
def test_values_of_another_type_or_out_of_range_are_refused(parameters, problem):
    with pytest.raises(ValueError, match=problem):
        check_parameters(RANGES, **parameters)


def test_mistakes_of_the_plugin_are_not_blamed_on_the_user():
    with pytest.raises(InvalidPluginData, match=r"no range is given for 'blurr'\. Known: flip, blur, steps"):
        check_parameters(RANGES, blurr=1)
    with pytest.raises(InvalidPluginData, match="minimum must not be above maximum"):
        ParameterRange(2, 1, "pixels")


def test_generators_depend_on_the_seeds_alone():
    seeds = np.array([3, 1 << 63, 3], "uint64")
    first, second, third = (generator.random(4) for generator in picture_generators(seeds))
    assert np.array_equal(first, third) and not np.array_equal(first, second)
    assert np.array_equal(second, picture_generators(seeds[1:2])[0].random(4))


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_half_of_the_pictures_are_flipped_and_the_others_are_copies(dtype):
    seeds = np.arange(400, dtype="uint64")
    images = np.broadcast_to(np.arange(5, dtype=dtype)[None, None, :, None], (400, 3, 5, 2))
    before = images.copy()
    out = random_horizontal_flip(images, picture_generators(seeds))
    assert out.dtype == dtype and np.array_equal(images, before)
    flipped = out[:, 0, 0, 0] == 4
    assert 160 < flipped.sum() < 240
    assert np.array_equal(out[flipped], images[flipped][:, :, ::-1]) and np.array_equal(out[~flipped], images[~flipped])


def test_disabled_flips_draw_the_same_numbers():
    """What a policy draws afterwards must not depend on `flip`."""
    images = np.arange(24, dtype="float32").reshape(2, 2, 3, 2)
    on, off = (picture_generators(np.arange(2, dtype="uint64")) for _ in range(2))
    random_horizontal_flip(images, on)
    assert np.array_equal(random_horizontal_flip(images, off, enabled=False), images)
    assert [generator.random() for generator in on] == [generator.random() for generator in off]


BLUR = """
from zoo.plugin import Augmentation, ParameterRange, check_parameters, hookimpl

def build(*, blur):
    check_parameters({"blur": ParameterRange(0, 2.5, "pixels")}, blur=blur)
    return lambda images, labels, seeds: (images, labels)

@hookimpl
def zoo_augmentations():
    yield Augmentation(name="blurry", summary="blurs", build=build, parameters={"blur": 1.0})
"""


def test_a_user_sees_the_ranges_of_a_third_party_policy(zoo, install_plugin, photos, tmp_path):
    install_plugin("blurry", BLUR)
    ran = zoo("finetune", "vgg16", "--data", photos, "--augment", "blurry:blur=9", "--runs", tmp_path / "runs")
    assert ran.code == 2 and "blur must be a number from 0 to 2.5 (pixels). Received: 9.0" in ran.err
