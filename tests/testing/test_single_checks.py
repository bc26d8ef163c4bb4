"""The functions of the kit that check one object: they accept what keeps the contract, and name each violation."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest

from zoo import testing
from zoo.errors import InvalidPluginData
from zoo.plugin import Architecture, Augmentation, Head, Logger, Phase, RunLog, Schedule, Stage, normalize


def build(shape):
    import keras

    pixels = keras.Input(shape)
    x = keras.layers.Conv2D(4, 3, name="one")(normalize(pixels, "tf"))
    return keras.Model(pixels, keras.layers.Conv2D(4, 3, name="two")(x))


def architecture(**changes) -> Architecture:
    """Return a sound architecture of two convolutions, with some fields changed."""
    values = {
        "name": "tiny",
        "summary": "two convolutions",
        "build": build,
        "input_size": (32, 32),
        "min_size": 8,
        "parameters": 3 * 9 * 4 + 4 + 4 * 9 * 4 + 4,
        "stages": (Stage("a", ("one",)), Stage("b", ("two",))),
        "source": "here",
        "licence": "MIT",
    }
    return Architecture(**{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"parameters": 17}, "17 promised"),
        ({"stages": (Stage("a", ("one", "two", "three")),)}, "do not exist: three"),
        ({"stages": (Stage("a", ("one", "two")), Stage("b", ("three_*",)))}, r"do not exist: three_\*"),
        ({"stages": (Stage("a", ("one", "two")), Stage("b", ("t*",)))}, "one stage only: two"),
    ],
)
def test_the_kit_finds_violations_of_the_contract(changes, problem):
    with pytest.raises((AssertionError, InvalidPluginData), match=problem):
        testing.check_architecture(architecture(**changes), (16, 16))


def build_unnamed(shape):
    import keras

    pixels = keras.Input(shape)
    x = keras.layers.Conv2D(4, 3)(normalize(pixels, "tf"))
    return keras.Model(pixels, keras.layers.Conv2D(4, 3)(x))


def test_unnamed_layers_have_the_same_names_in_every_build():
    """Keras counts unnamed layers over the process; stages, saved files and weights need the same names each time."""
    from zoo import backend
    from zoo.train.network import build_backbone

    def count() -> int:
        return int(backend.start().layers.Conv2D(4, 3).name.removeprefix("conv2d").removeprefix("_") or 0)

    first = count()
    unnamed = architecture(build=build_unnamed, stages=(Stage("a", ("conv2d",)), Stage("b", ("conv2d_1",))))
    for _ in range(2):
        names = [layer.name for layer in build_backbone(unnamed, (16, 16)).layers]
        assert names == ["input_layer", "normalize", "conv2d", "conv2d_1"]
    assert count() == first + 1, "layers built elsewhere must continue their own count"
    testing.check_architecture(unnamed, (16, 16))


@pytest.mark.parametrize("pool", ["avg", "max", "flatten", "l2norm", "roi"])
def test_heads_train_save_and_export(pool):
    head = Head(pool=pool, hidden=(6,), dropout=0.3, weight_l2=1e-4, weight_l1=1e-5, reduce=3)
    testing.check_architecture(architecture(head=head), (16, 16))


def build_blind(shape):
    """The output does not depend on the picture."""
    import keras

    pixels = keras.Input(shape)
    x = keras.layers.Rescaling(0.0)(pixels)
    x = keras.layers.Conv2D(4, 3, name="one")(x)
    return keras.Model(pixels, keras.layers.Conv2D(4, 3, name="two")(x))


def test_the_kit_finds_a_network_that_does_not_look_at_the_picture():
    with pytest.raises(AssertionError, match="does not depend on the picture"):
        testing.check_architecture(architecture(build=build_blind), (16, 16))


def policy(function) -> Augmentation:
    return Augmentation(name="policy", summary="a policy", build=lambda: function)


def halves(images, labels, seeds):
    """Darken each picture by a factor that its seed decides."""
    return (images * (0.5 + (seeds % 7)[:, None, None, None] / 14)).astype("float32"), labels


def test_the_kit_accepts_a_sound_policy():
    testing.check_augmentation(policy(halves))
    testing.check_augmentation(policy(lambda images, labels, seeds: (images, labels)), channels=1)


def test_the_kit_accepts_a_policy_that_ignores_its_seeds():
    testing.check_augmentation(policy(lambda images, labels, seeds: (images[:, :, ::-1], labels)))


def unseeded(images, labels, seeds):
    return np.random.default_rng().uniform(0, 255, images.shape).astype("float32"), labels


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (lambda images, labels, seeds: (images[:, ::2], labels), "pictures became float32"),
        (lambda images, labels, seeds: (images.astype("uint8"), labels), "pictures became uint8"),
        (lambda images, labels, seeds: (images + 1, labels), "pixels left 0..255"),
        (lambda images, labels, seeds: (images, labels[:, :1]), "labels became"),
        (lambda images, labels, seeds: (images, labels * 2), "labels left 0..1"),
        (lambda images, labels, seeds: (images, labels / 2), "no longer sum to 1"),
        (unseeded, "the same seeds gave other pictures"),
    ],
)
def test_the_kit_finds_policies_that_break_the_contract(function, problem):
    with pytest.raises(AssertionError, match=problem):
        testing.check_augmentation(policy(function))


@pytest.mark.parametrize(
    ("train", "problem"), [("last:3", "last:3"), ("from:three", "three"), ("last:1", None), ("all", None)]
)
def test_the_kit_checks_that_a_schedule_fits(train, problem):
    phases = (Phase(name="only", train=train, epochs=1, learning_rate=1e-3),)
    schedule = Schedule(name="mine", summary="one phase", phases=phases)
    if problem is None:
        testing.check_schedule(schedule, architecture())
        return
    with pytest.raises(AssertionError, match=f"mine: .*{problem}"):
        testing.check_schedule(schedule, architecture())


def test_a_schedule_that_ends_with_a_part_of_the_network_is_refused():
    phase = Phase(name="cut", train="all", depth=1, epochs=1, learning_rate=1e-3)
    schedule = Schedule(name="short", summary="never grows", phases=(phase,))
    with pytest.raises(AssertionError, match="short: "):
        testing.check_schedule(schedule, architecture())
    whole = dataclasses.replace(phase, depth=None)
    testing.check_schedule(dataclasses.replace(schedule, phases=(phase, whole)), architecture())


def spoil(run):
    (run.folder / "report.html").write_text("mine")
    return RunLog()


@pytest.mark.parametrize(
    ("opened", "problem"),
    [
        (lambda run: print("hello") or RunLog(), "prints to stdout: 'hello"),
        (lambda run: np.random.random() and RunLog(), "changes the random state"),
        (lambda run: {}, r"must return a zoo\.plugin\.RunLog"),
        (spoil, "changes files of the run: report.html"),
    ],
)
def test_the_kit_finds_loggers_that_touch_what_is_not_theirs(opened, problem):
    with pytest.raises(AssertionError, match=problem):
        testing.check_logger(Logger(name="mine", summary="s", open=opened))
    testing.check_logger(Logger(name="mine", summary="s", open=lambda run: RunLog()))


def test_the_kit_finds_a_logger_that_leaves_a_thread_behind(monkeypatch):
    monkeypatch.setattr("zoo.testing.loggers.PATIENCE", 0.2)
    stop = threading.Event()

    class Sender(RunLog):
        def __init__(self, ends: bool) -> None:
            self.ends, self.stop = ends, threading.Event()
            waits = self.stop if ends else stop
            threading.Thread(target=waits.wait, args=(30,), name="sends figures").start()

        def end(self, state: str, reason: str) -> None:
            if self.ends:
                self.stop.set()

    try:
        with pytest.raises(AssertionError, match=r"leaves threads behind .*: sends figures, sends figures\. End them"):
            testing.check_logger(Logger(name="mine", summary="s", open=lambda run: Sender(ends=False)))
        testing.check_logger(Logger(name="mine", summary="s", open=lambda run: Sender(ends=True)))
    finally:
        stop.set()


def test_synthetic_pixels_depend_on_the_seed_alone():
    pixels = testing.synthetic_pixels(3, (8, 12), 3, seed=5)
    assert pixels.shape == (3, 8, 12, 3) and pixels.dtype == np.uint8
    assert np.array_equal(pixels, testing.synthetic_pixels(3, (8, 12), 3, seed=5))
    assert not np.array_equal(pixels, testing.synthetic_pixels(3, (8, 12), 3, seed=6))
    assert not np.array_equal(pixels[0], pixels[1])
