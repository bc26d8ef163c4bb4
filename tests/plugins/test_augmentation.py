"""Augmentation policies: the contract, checked by the kit, and effects measured on dots, ramps and flat colours."""

from __future__ import annotations

import numpy as np
import pytest
from builtin_plugins import builtin
from PIL import Image

from zoo import testing
from zoo.data import augment as policies
from zoo.errors import UsageError
from zoo.plugin import Augmentation
from zoo_plugins import randaugment

POLICIES = list(builtin(Augmentation))
# These policies mix pictures of a batch with one another.
MIXING = ("mixup", "cutmix")
COUNT = 300
SEEDS = np.arange(COUNT, dtype=np.uint64) + np.uint64(1 << 40)


@pytest.fixture
def run(plugins):
    """Return a function that applies a policy to pictures and labels.

    Parameters that are not given have their neutral values, which change nothing.
    """
    neutral = {"flip": False, "crop": 1.0}

    def run(name, images, labels=None, **given):
        policy = plugins.augmentation(name)
        parameters = {**{key: neutral.get(key, 0.0) for key in policy.parameters}, **given}
        labels = np.ones((len(images), 1), "float32") if labels is None else labels
        images, labels = policies.build(policy, parameters)(images.copy(), labels.copy(), SEEDS[: len(images)])
        return np.asarray(images), np.asarray(labels)

    return run


def same(picture: np.ndarray) -> np.ndarray:
    """Repeat one picture, (height, width) or (height, width, channels), COUNT times."""
    picture = picture[..., None] if picture.ndim == 2 else picture
    return np.broadcast_to(picture, (COUNT, *picture.shape)).astype("float32")


def dots(size: tuple[int, int], right: int, down: int) -> np.ndarray:
    """Repeat a black picture with one white dot, `right` and `down` pixels from its centre."""
    picture = np.zeros(size, "float32")
    picture[size[0] // 2 + down, size[1] // 2 + right] = 255
    return same(picture)


def places(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Locate the dot of each picture: (x, y) in pixels from the centre, x to the right and y down."""
    y, x = np.indices(images.shape[1:3], dtype=float)
    shares = images[..., 0] / images.sum(axis=(1, 2, 3))[:, None, None]
    return (shares * (x - images.shape[2] // 2)).sum((1, 2)), (shares * (y - images.shape[1] // 2)).sum((1, 2))


@pytest.mark.parametrize("name", POLICIES)
def test_policies_keep_the_rules(name):
    for case in testing.plugin_cases(name, only=["augmentation-arrays", "augmentation-seeds"]):
        case.run()


@pytest.mark.parametrize("shape", [(20, 20, 1), (20, 20, 3), (31, 18, 3)], ids=str)
@pytest.mark.parametrize("name", POLICIES)
def test_a_picture_depends_on_its_seed_alone(plugins, name, shape):
    """Its place in the batch does not matter, nor do the other pictures, unless the policy mixes pictures."""
    policy = plugins.augmentation(name)
    augment = policies.build(policy, policy.parameters)
    images = testing.synthetic_pixels(6, shape[:2], shape[2]).astype("float32")
    labels, seeds = np.eye(6, dtype="float32"), SEEDS[:6]
    out, marks = map(np.asarray, augment(images.copy(), labels.copy(), seeds))
    assert out.shape == images.shape and out.min() >= 0 and out.max() <= 255
    order = [4, 0, 5, 2, 1, 3]
    moved, moved_marks = map(np.asarray, augment(images[order], labels[order], seeds[order]))
    assert np.array_equal(moved, out[order]) and np.array_equal(moved_marks, marks[order])
    if name not in MIXING:
        assert np.array_equal(marks, labels)
        for i in range(6):
            alone, _ = augment(images[i : i + 1].copy(), labels[i : i + 1].copy(), seeds[i : i + 1])
            assert np.array_equal(alone[0], out[i])


# Values of parameters that change a picture as little as possible.
LITTLE = {"smallest": 0.01, "largest": 0.01, "aspect": 1.0, "operations": 1, "alpha": 1.0, "crop": 1.0} | dict.fromkeys(
    ("rotation", "shift", "shear", "zoom", "brightness", "contrast", "saturation", "hue", "erasing", "probability"), 0.0
)
LITTLE["magnitude"] = 0.0
# Policies whose only other parameters are these.
FLIPPING = [
    name for name, policy in builtin(Augmentation).items() if {"flip"} <= policy.parameters.keys() <= {"flip", *LITTLE}
]


@pytest.mark.parametrize("name", FLIPPING)
def test_half_the_pictures_are_mirrored_unless_flip_is_off(plugins, name):
    """The picture is a ramp, and all other changes are as small as possible.

    Each picture is alone in its batch, so that mixtures mix it with itself.
    """
    assert len(FLIPPING) >= 8
    policy = plugins.augmentation(name)
    ramp = same(np.tile(np.linspace(20, 200, 32), (16, 1)))[:1]
    for flip, least, most in ((True, 0.38 * COUNT, 0.62 * COUNT), (False, 0, 0)):
        parameters = {key: LITTLE[key] for key in policy.parameters if key != "flip"} | {"flip": flip}
        augment = policies.build(policy, parameters)
        outs = [augment(ramp.copy(), np.ones((1, 1), "float32"), SEEDS[i : i + 1])[0] for i in range(COUNT)]
        falling = [out[0, :, 0].mean() > out[0, :, -1].mean() for out in outs]
        assert least <= sum(falling) <= most
        if name not in ("randaugment", "mixup"):
            assert all(
                np.abs(out[:, :, :: -1 if down else 1] - ramp).max() < 1e-3
                for out, down in zip(outs, falling, strict=True)
            )


def test_course_rotates_by_up_to_its_angle_without_a_shear_in_pictures_that_are_not_square(run):
    right, _ = run("course", dots((41, 65), 14, 0), rotation=45.0)
    down, _ = run("course", dots((41, 65), 0, 14), rotation=45.0)
    (x, y), (u, v) = places(right), places(down)
    angles = np.degrees(np.arctan2(y, x))
    assert -45.5 < angles.min() < -42 and 42 < angles.max() < 45.5
    assert np.abs(np.hypot(x, y) - 14).max() < 0.3 and np.abs(np.hypot(u, v) - 14).max() < 0.3
    assert np.abs((x * u + y * v) / 14**2).max() < 0.03, "right angles must stay right angles"
    assert abs(angles.mean()) < 5


def test_course_shifts_by_up_to_its_fraction_of_each_side(run):
    out, _ = run("course", dots((41, 81), 0, 0), shift=0.2)
    x, y = places(out)
    assert -16.3 < x.min() < -15 and 15 < x.max() < 16.3
    assert -8.3 < y.min() < -7.5 and 7.5 < y.max() < 8.3
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.2


def test_course_shears_by_an_angle_in_radians(run):
    """Keras 2's matrix moves what is right of the centre up or down, and leaves what is below it."""
    x, y = places(run("course", dots((65, 65), 16, 0), shear=0.4)[0])
    angles = np.arcsin(np.clip(y / x, -1, 1))
    assert -0.41 < angles.min() < -0.37 and 0.37 < angles.max() < 0.41
    assert np.abs(x - 16 / np.cos(angles)).max() < 0.1
    x, y = places(run("course", dots((65, 65), 0, 16), shear=0.4)[0])
    assert np.abs(x).max() < 0.01 and np.abs(y - 16).max() < 0.01


def test_course_zooms_both_sides_independently(run):
    across = 20 / places(run("course", dots((65, 65), 20, 0), zoom=0.2)[0])[0]
    along = 20 / places(run("course", dots((65, 65), 0, 20), zoom=0.2)[0])[1]
    for factor in (across, along):
        assert 0.79 < factor.min() < 0.82 and 1.18 < factor.max() < 1.21
    assert abs(np.corrcoef(across, along)[0, 1]) < 0.2


@pytest.mark.parametrize("name", ["light", "course"])
def test_pixels_outside_the_picture_repeat_its_edge(run, name):
    rows = np.tile(np.arange(40.0)[:, None], (1, 30))
    out, _ = run(name, same(rows), shift=0.4)
    moved = out[:, 20, 15, 0] - 20
    assert moved.min() < -15 and moved.max() > 15
    expected = np.clip(np.arange(40) + moved[:, None], 0, 39)
    assert np.abs(out[..., 0] - expected[:, :, None]).max() < 1e-3


def test_light_shifts_by_up_to_its_fraction_of_each_side(run):
    x, y = places(run("light", dots((41, 81), 0, 0), shift=0.2)[0])
    assert -16.3 < x.min() < -15 and 15 < x.max() < 16.3
    assert -8.3 < y.min() < -7.5 and 7.5 < y.max() < 8.3
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.2


def test_light_rotates_by_up_to_its_angle(run):
    x, y = places(run("light", dots((33, 33), 12, 0), rotation=30.0)[0])
    angles = np.degrees(np.arctan2(y, x))
    assert -30.5 < angles.min() < -28 and 28 < angles.max() < 30.5
    assert np.abs(np.hypot(x, y) - 12).max() < 0.3


def test_standard_shows_a_part_of_the_picture(run):
    """The part has at least the requested area, its sides change by up to 4:3, and it lies within the picture."""
    across = run("standard", same(np.tile(np.arange(101.0), (61, 1))), crop=0.4)[0][:, 30, :, 0]
    along = run("standard", same(np.tile(np.arange(61.0)[:, None], (1, 101))), crop=0.4)[0][:, :, 50, 0]
    # At the edge, half a pixel may be repeated, so the slopes are measured away from it.
    x, y = (across[:, 90] - across[:, 10]) / 80, (along[:, 50] - along[:, 10]) / 40
    assert 0.39 < (x * y).min() < 0.43 and 0.97 < (x * y).max() < 1.01
    assert 0.74 < (x / y).min() < 0.82 and 1.22 < (x / y).max() < 1.34
    assert x.max() < 1.01 and y.max() < 1.01
    assert across[:, 1].min() > 0 and across[:, -2].max() < 100 and np.ptp(across[:, 50]) > 15


def test_brightness_and_contrast_stay_in_their_range(run):
    flat, _ = run("standard", same(np.full((8, 8, 3), 100.0)), brightness=0.2)
    assert np.ptp(flat, axis=(1, 2, 3)).max() < 1e-3
    assert 79.9 < flat.min() < 82 and 118 < flat.max() < 120.1

    two = np.full((8, 8, 3), 50.0)
    two[:4] = 150
    out, _ = run("standard", same(two), contrast=0.2)
    difference = out[:, 0].mean((1, 2)) - out[:, -1].mean((1, 2))
    assert 79.9 < difference.min() < 82 and 118 < difference.max() < 120.1
    assert np.abs(out.mean((1, 2, 3)) - 100).max() < 1e-3


def test_saturation_and_hue_keep_the_brightness(run):
    luma = np.array([0.299, 0.587, 0.114])
    colour = same(np.full((4, 4, 3), (150.0, 100.0, 60.0)))
    grey = same(np.full((4, 4, 3), 90.0))
    for parameters in ({"saturation": 0.4}, {"hue": 0.1}):
        out, _ = run("strong", colour, **parameters)
        assert np.abs(out @ luma - colour @ luma).max() < 0.05
        assert np.abs(run("strong", grey, **parameters)[0] - 90).max() < 0.05, "grey must stay grey"
    saturated, _ = run("strong", colour, saturation=0.4)
    factor = (saturated[..., 0] - saturated[..., 2])[:, 0, 0] / 90
    assert 0.599 < factor.min() < 0.62 and 1.38 < factor.max() < 1.401
    yiq = np.array([[0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    before = yiq @ colour[0, 0, 0]
    turned = run("strong", colour, hue=0.1)[0][:, 0, 0] @ yiq.T
    angles = np.degrees(np.angle((turned[:, 0] + 1j * turned[:, 1]) / (before[0] + 1j * before[1])))
    assert -36.1 < angles.min() < -33 and 33 < angles.max() < 36.1
    ten, _ = run("strong", same(np.full((4, 4), 90.0)), saturation=0.4, hue=0.5)
    assert np.abs(ten - 90).max() < 1e-3, "pictures of one channel have no colour to change"


def test_erasing_fills_one_rectangle_of_the_requested_area(run):
    parameters = {"smallest": 0.05, "largest": 0.3, "aspect": 3.0}
    out, _ = run("erasing", same(np.full((60, 80, 3), 100.5)), probability=0.6, **parameters)
    erased = (out != 100.5).all(axis=3)
    hit = erased.any(axis=(1, 2))
    assert 0.5 < hit.mean() < 0.7
    high, wide = erased.any(axis=2).sum(axis=1)[hit], erased.any(axis=1).sum(axis=1)[hit]
    assert np.array_equal(high * wide, erased.sum(axis=(1, 2))[hit]), "the erased pixels must form one rectangle"
    shares = high * wide / (60 * 80)
    assert 0.045 < shares.min() < 0.07 and 0.25 < shares.max() < 0.305
    assert 0.3 < (high / wide).min() < 0.45 and 2.3 < (high / wide).max() < 3.2
    filled = out[erased]
    assert 120 < filled.mean() < 135 and filled.min() == 0 and filled.max() == 255
    assert (run("erasing", same(np.full((20, 20), 100.5)), probability=0.0, **parameters)[0] == 100.5).all()


@pytest.mark.parametrize(("name", "alpha"), [("mixup", 0.2), ("mixup", 1.0), ("cutmix", 1.0)])
def test_labels_are_mixed_as_the_pixels_are(run, name, alpha):
    """Every picture has its own grey and its own class, so that its pixels show which pictures it is made of."""
    greys = np.linspace(0, 255, COUNT).astype("float32")
    images = np.broadcast_to(greys[:, None, None, None], (COUNT, 20, 30, 3))
    out, labels = run(name, images, np.eye(COUNT, dtype="float32"), alpha=alpha)
    assert np.allclose(labels.sum(axis=1), 1) and ((labels > 0).sum(axis=1) <= 2).all()
    own = labels.diagonal()
    assert own.min() < 0.25 and own.max() > 0.9
    if name == "mixup":
        assert np.abs(out - (labels @ greys)[:, None, None, None]).max() < 1e-2
        # Beta(0.2, 0.2) has its mass near 0 and 1; Beta(1, 1) is uniform.
        assert (0.5 < np.mean((own < 0.1) | (own > 0.9)) < 0.8) if alpha == 0.2 else (0.4 < own.mean() < 0.6)
    else:
        share = (out[..., 0] == greys[:, None, None]).mean(axis=(1, 2))
        assert np.abs(share - own).max() < 1e-6
        assert np.isin(out, greys).all()
    # Pictures with several labels or none: each label is mixed like the pixels.
    several = (np.random.default_rng(0).random((COUNT, 4)) < 0.4).astype("float32")
    _, mixed = run(name, images, several, alpha=alpha)
    assert np.abs(mixed - labels @ several).max() < 1e-6


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("operation", randaugment.OPERATIONS)
def test_randaugment_operations_change_pixels(operation, mode):
    """At full strength every operation changes the picture; at none, only those without a strength do."""
    # Darker than 0..255, so that autocontrast and equalize have something to stretch.
    pixels = testing.synthetic_pixels(1, (40, 60), 3 if mode == "RGB" else 1)[0] // 2 + 20
    image = Image.fromarray(pixels if mode == "RGB" else pixels[..., 0])
    idle = operation == "identity" or (operation == "color" and mode == "L")
    without_strength = operation in ("autocontrast", "equalize")
    for sign in (1, -1):
        full, none = (randaugment.apply(image, operation, strength, sign) for strength in (1.0, 0.0))
        assert full.size == none.size == image.size and full.mode == none.mode == mode
        assert (full.tobytes() == image.tobytes()) == idle
        assert (none.tobytes() == image.tobytes()) != without_strength
    if operation == "autocontrast":
        assert randaugment.apply(image.convert("L"), operation, 1.0, 1).getextrema() == (0, 255)


def test_randaugment_strengths(run):
    grey = Image.new("L", (60, 40), 100)

    def value(name, strength, sign):
        return randaugment.apply(grey, name, strength, sign).getpixel((0, 0))

    assert (value("brightness", 0.5, 1), value("brightness", 1, -1)) == (145, 10)
    assert (value("solarize", 0.5, 1), value("solarize", 1, 1)) == (100, 155)
    assert value("posterize", 1, 1) == 96
    moved = randaugment.apply(grey, "translate_x", 0.5, 1)
    assert moved.getpixel((59, 20)) == 128 and moved.getpixel((60 - 16, 20)) == 100
    dot = Image.new("L", (61, 41), randaugment.GREY)
    dot.putpixel((30 + 16, 20), 255)
    for name, angle in (("rotate", 30), ("shear_y", np.degrees(np.arctan(0.3)))):
        x, y = places(np.asarray(randaugment.apply(dot, name, 1.0, 1), "float32")[None, ..., None] - randaugment.GREY)
        assert abs(abs(np.degrees(np.arctan2(y, x))[0]) - angle) < 1
    out, _ = run("randaugment", same(testing.synthetic_pixels(1, (24, 24), 1)[0]), operations=3, magnitude=30)
    assert len(np.unique(out.reshape(COUNT, -1), axis=0)) > COUNT / 2


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("course:rotation=200", r"rotation must be a number from 0 to 180 \(degrees\). Received: 200.0"),
        ("light:shift=-0.1", "shift must be a number from 0 to 1"),
        ("standard:crop=0", "crop must be a number from 0.05 to 1"),
        ("strong:hue=0.6", "hue must be"),
        ("mixup:alpha=0", "alpha must be"),
        ("cutmix:alpha=0", "alpha must be"),
        ("randaugment:operations=0", "operations must be a whole number from 1 to 14"),
        ("randaugment:magnitude=31", "magnitude must be a number from 0 to 30"),
        ("erasing:smallest=0.5", "smallest must not be above largest"),
        ("erasing:probability=2", "probability must be"),
    ],
)
def test_policies_refuse_parameters_out_of_range(plugins, text, problem):
    with pytest.raises(UsageError, match=f"the policy {text.partition(':')[0]} does not accept .*{problem}"):
        policies.build(*policies.parse(text, plugins))


def test_policies_refuse_values_of_another_type(plugins):
    for name, key, value in (("light", "flip", 1), ("course", "zoom", "0.2"), ("course", "zoom", True)):
        policy = plugins.augmentation(name)
        with pytest.raises(ValueError, match=f"{key} must be"):
            policy.build(**{**policy.parameters, key: value})
