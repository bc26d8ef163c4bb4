"""Whether a variant is accepted: four questions about pairs of answers, what is said, and metrics without pairs."""

from __future__ import annotations

import re

import numpy as np
import pytest

from zoo.export import acceptance, agreement, variants


def answers(pictures, lost=0, won=0, wrong=0):
    """Return the probabilities of float32 and of a variant, and the true classes, of pictures of four classes.

    The true class is 0. `lost` pictures are wrong with the variant alone, `won` ones with float32 alone, and both files
    give different wrong answers for `wrong` ones.
    """
    float32, variant = np.zeros(pictures, int), np.zeros(pictures, int)
    variant[:lost] = 1
    float32[lost : lost + won] = 1
    float32[lost + won : lost + won + wrong], variant[lost + won : lost + won + wrong] = 2, 3
    return np.eye(4)[float32], np.eye(4)[variant], np.eye(4)[np.zeros(pictures, int)]


def measured(test, validation=(0, 0), training=(0, 0), max_drop=0.01, **figures):
    """Return the figures of a variant with (pictures, lost, won ...) in each part."""
    parts = {"test": answers(*test), "validation": answers(*validation), "training": answers(*training)}
    float32, variant, targets = ({part: arrays[i] for part, arrays in parts.items()} for i in range(3))
    return {**agreement.compare_parts(float32, variant, targets, max_drop, multilabel=False), **figures}


def decided(*parts, max_drop=0.01, **figures):
    return acceptance.decide("int8", measured(*parts, **figures), max_drop)


def test_one_lost_picture_of_27_refuses_nothing():
    refusal, note = decided((27, 1), (27, 0), (264, 2, 1, 2))
    assert refusal is None
    assert note == (
        "54 validation and test pictures are too few to tell whether int8 loses more than 1 point: 1 lost, 0 won; "
        "it gives the same class as float32 on 312 of 318 pictures"
    )


def test_without_a_validation_part_the_test_pictures_stand_alone():
    refusal, note = decided((27, 1), max_drop=0.025)
    assert refusal is None
    assert note == (
        "27 test pictures are too few to tell whether int8 loses more than 2.5 points: 1 lost, 0 won; "
        "it gives the same class as float32 on 26 of 27 pictures"
    )


@pytest.mark.parametrize(
    ("parts", "fall"),
    [
        (((27, 9),), r"accuracy falls from 1.00 \(.*\) to 0.67 \(.*\) on the test pictures, by 33.33 points"),
        (((1000, 30, 5),), r"accuracy falls from 0.99.* to 0.97.* on the test pictures, by 2.50 points \(probably"),
        (((27, 2), (27, 5)), r"accuracy falls from 1.00.* to 0.87.* on the validation and test pictures, by 12.96"),
    ],
)
def test_a_drop_that_the_pictures_show_is_refused(parts, fall):
    refusal, note = decided(*parts)
    assert note is None
    lost, won = sum(part[1] for part in parts), sum(sum(part[2:3]) for part in parts)
    assert f": {lost} lost, {won} won of {sum(part[0] for part in parts)})" in refusal
    assert refusal.endswith("; --max-drop allows 1")
    assert re.match(fall, refusal)


@pytest.mark.parametrize("test", [(1000, 12, 8), (300, 0), (1000, 15, 5), (1000, 0, 50)])
def test_enough_pictures_accept_without_a_note(test):
    # The other parts are not asked, even if they look bad.
    assert decided(test, (27, 5), (100, 60), logits_error=3.0) == (None, None)


def test_a_broken_file_is_refused_by_its_changed_answers():
    """27 test pictures with as many lost as won pictures show nothing about accuracy."""
    refusal, note = decided((27, 3, 3, 3), (27, 2, 2, 2), (264, 70))
    assert note is None
    assert refusal == (
        "it gives another class than float32 on 85 of 318 pictures, and 54 validation and test pictures are too few "
        "to tell whether int8 loses more than 1 point"
    )
    assert decided((27, 3, 3, 3), (27, 2, 2, 2), (264, 20))[0] is None


@pytest.mark.parametrize(("error", "refused"), [(0.15, False), (0.25, True), (float("inf"), True)])
def test_logits_decide_if_all_pictures_are_few(error, refused):
    refusal, note = decided((6, 1), (6, 0), logits_error=error)
    assert (refusal is not None) == refused == (note is None)
    if refused:
        assert f"its outputs before the probabilities differ from float32 by {100 * error:.0f} % of" in refusal
    # With 200 pictures of the same answers, the logits are not asked.
    assert decided((6, 1), (6, 0), (200, 2), logits_error=error)[0] is None


def several_labels(pictures, flipped, seed=0):
    """Return probabilities of float32 and of a variant, and true labels. The variant inverts some of the pictures."""
    truth = np.random.default_rng(seed).integers(0, 2, (pictures, 5)).astype(float)
    float32 = np.clip(truth, 0.1, 0.9)
    variant = float32.copy()
    variant[:flipped] = 1 - variant[:flipped]
    return {"test": float32}, {"test": variant}, {"test": truth}


@pytest.mark.parametrize(
    ("pictures", "flipped", "refused"),
    [(40, 0, None), (40, 1, None), (40, 20, "falls"), (1000, 5, None), (1000, 30, "falls")],
)
def test_several_labels(pictures, flipped, refused):
    from zoo.evaluate.metrics import measure

    empty = {part: np.zeros((0, 5)) for part in ("validation", "training")}
    float32, variant, targets = ({**arrays, **empty} for arrays in several_labels(pictures, flipped))
    before, after = (
        measure(each["test"], targets["test"], list("abcde"), multilabel=True) for each in (float32, variant)
    )
    figures = agreement.compare_parts(float32, variant, targets, 0.01, multilabel=True)
    assert ("least_drops" in figures) == (pictures < 500)
    for key in variants.LIMITED_METRICS:
        figures |= {key: after[key], f"float32_{key}": before[key]}
    refusal, note = acceptance.decide("fp16", figures, 0.01)
    assert refused is None if refusal is None else refused in refusal
    assert (note is not None) == (refusal is None and pictures == 40)
    if note:
        assert f"the same classes as float32 on {40 - flipped} of 40 pictures" in note


@pytest.mark.parametrize(("pictures", "bound", "refused"), [(100, 0.0, False), (100, 0.03, True), (500, 0.0, True)])
def test_the_mean_average_precision_needs_500_pictures_or_a_bound(pictures, bound, refused):
    figures = measured((pictures, 0), exact_match=1.0, float32_exact_match=1.0, accuracy=1.0, float32_accuracy=1.0)
    figures |= {"mean_average_precision": 0.85, "float32_mean_average_precision": 0.9}
    figures["least_drops"] = {"mean_average_precision": bound}
    refusal, _ = acceptance.decide("fp16", figures, 0.01)
    assert (refusal is not None) == refused
    if refused:
        assert "mean average precision falls from 0.9000 to 0.8500 on the test pictures, by 5.00 points" in refusal


def test_the_refusal_of_a_file_that_must_be_faster_names_the_way_out():
    figures = {**measured((27, 9)), "speedup": 2.0}
    assert (
        variants.Int8()
        .refuse(figures, variants.AcceptanceLimits())
        .endswith("; --max-drop allows 1; --int8-any-speed also tries files that are not faster here")
    )
    assert variants.Int8().refuse(figures, variants.AcceptanceLimits(any_speed=True)).endswith("allows 1")
    assert variants.Fp16().refuse(figures, variants.AcceptanceLimits()).endswith("allows 1")
    assert variants.Fp16().refuse(figures, variants.AcceptanceLimits(max_drop=0.5)) is None
