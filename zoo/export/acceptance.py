"""Decides whether a variant loses too much accuracy to be exported.

Four questions are asked one after the other. Each is asked only if the one before cannot be answered, because there are
too few pictures:

1. Do the test pictures show that the drop in accuracy exceeds the limit, or that it does not?
2. Do the validation and test pictures together show it?
3. Do all available pictures show that float32 and variant give different answers for more than the limit plus 20 points
   of them, or for fewer? These include training pictures, but none on which an int8 file was calibrated. A file that
   changes few answers cannot lose much accuracy.
4. Do the logits change by more than a fifth of their spread?

If questions 1 and 2 have no answer, the file is accepted unless question 3 or 4 shows that it is broken. A note then
says that the pictures are too few to tell. `zoo.export.paired` counts and computes confidence bounds, and
`zoo.export.agreement` runs both files on the pictures.

Metrics that are not counts of pictures, such as the mean average precision, have a rule of their own: with 500 test
pictures or more, the measured drop decides. With fewer, it must also exceed the limit by its bootstrap bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zoo.export.paired import QUANTILE, ROUNDING, Conclusion, PairedCounts

# A graph is faithful if its logits change by at most this fraction of their spread.
FAITHFUL_ERROR = 0.2
# Answers may change on this fraction of pictures beyond the limit on the drop. Some changes are harmless: of the
# pictures that float32 finds hard, nearly as many are won as lost. Int8 files of `mobilenetv2_035` were measured, with
# `--size 96 --schedule exact-head`, accuracies of 0.55 to 0.88 and 60 to 180 pictures. Good ones changed 0 to 10 % of
# the answers. Useless ones, with one scale per tensor, changed 39 to 72 %.
CHANGED_MARGIN = 0.2
# From this number of test pictures on, the measured drop of a metric without paired counts decides.
POINT_RULE_PICTURES = 500
# The metrics of multi-label networks that are not counts of pictures.
UNPAIRED_METRICS = ("accuracy", "mean_average_precision")


def decide(name: str, figures: Mapping[str, Any], max_drop: float) -> tuple[str | None, str | None]:
    """Decide whether a variant loses too much accuracy; the docstring of this module has the rule.

    Args:
        name: The kind of the variant, such as "int8".
        figures: The measurements of the variant, among them those of `zoo.export.agreement`. Without these, nothing is
            decided. If `logits_error` is missing, question 4 is not asked.
        max_drop: The largest allowed drop in accuracy, as a fraction in 0..1.

    Returns:
        The reason for refusing the file, and a note that the pictures are too few to tell. Each is None if it does not
        apply.
    """
    if "paired" not in figures:
        return None, None
    counts = {part: PairedCounts.from_json(values) for part, values in figures["paired"].items()}
    fallen = _unpaired_refusal(figures, max_drop)
    if fallen:
        return fallen, None
    label, held_out = "test", counts["test"]
    conclusion = held_out.conclude(max_drop)
    if conclusion is Conclusion.UNCLEAR and counts["validation_and_test"].pictures > held_out.pictures:
        label, held_out = "validation and test", counts["validation_and_test"]
        conclusion = held_out.conclude(max_drop)
    if conclusion is Conclusion.WITHIN:
        return None, None
    if conclusion is Conclusion.EXCEEDED:
        metric = "exact match" if "exact_match" in figures else "accuracy"
        return f"{metric} {_fall(held_out, label)}; --max-drop allows {100 * max_drop:g}", None
    limit = f"{100 * max_drop:g} point{'s' * (max_drop != 0.01)}"
    few = f"{held_out.pictures} {label} pictures are too few to tell whether {name} loses more than {limit}"
    everything = counts["all"]
    answers = "classes" if "exact_match" in figures else "class"
    changed = everything.conclude_changed(max_drop + CHANGED_MARGIN)
    if changed is Conclusion.EXCEEDED:
        other = "other classes" if "exact_match" in figures else "another class"
        why = f"it gives {other} than float32 on {everything.changed} of {everything.pictures} pictures"
        return f"{why}, and {few}", None
    error = figures.get("logits_error", 0.0)
    if changed is Conclusion.UNCLEAR and not error <= FAITHFUL_ERROR:
        why = f"its outputs before the probabilities differ from float32 by {100 * error:.0f} % of their spread"
        return f"{why} (allowed {100 * FAITHFUL_ERROR:g} %), and {few}", None
    same = f"the same {answers} as float32 on {everything.pictures - everything.changed} of {everything.pictures}"
    return None, f"{few}: {held_out.lost} lost, {held_out.won} won; it gives {same} pictures"


def may_be_within(counts: PairedCounts, max_drop: float, quantile: float = QUANTILE) -> bool:
    """Return whether the drop in accuracy may be within a limit, as far as the pictures show it.

    The search for the best int8 file asks this about each candidate. It asks the first and the third question of this
    module about one set of pictures.

    Args:
        counts: The counts of these pictures.
        max_drop: The largest allowed drop, as a fraction in 0..1.
        quantile: How far the bounds of the drop lie from the measured drop; see `PairedCounts.conclude`.
    """
    conclusion = counts.conclude(max_drop, quantile)
    if conclusion is Conclusion.UNCLEAR:
        return counts.conclude_changed(max_drop + CHANGED_MARGIN) is not Conclusion.EXCEEDED
    return conclusion is Conclusion.WITHIN


def _fall(counts: PairedCounts, label: str) -> str:
    """Describe a drop in accuracy, such as "falls from 0.95 (...) to 0.92 (...) on the test pictures, by 3 points"."""
    from zoo.evaluate.metrics import interval
    from zoo_runtime.workshop import format_accuracy

    before, after = (format_accuracy(each, interval(each, counts.pictures)) for each in counts.accuracies)
    low, high = counts.bounds
    return (
        f"falls from {before} to {after} on the {label} pictures, by {100 * counts.drop:.2f} points "
        f"(probably {100 * low:.2f} to {100 * high:.2f}: {counts.lost} lost, {counts.won} won of {counts.pictures})"
    )


def _unpaired_refusal(figures: Mapping[str, Any], max_drop: float) -> str | None:
    """Return why a metric that is not a count of pictures has fallen too much, or None if it has not."""
    if "exact_match" not in figures:
        return None
    few = figures["paired"]["test"]["pictures"] < POINT_RULE_PICTURES
    for key in UNPAIRED_METRICS:
        before, after = figures[f"float32_{key}"], figures[key]
        # These forms of the conditions also refuse a NaN.
        fallen = not before - after <= max_drop + ROUNDING
        if fallen and not (few and figures["least_drops"].get(key, 0.0) <= max_drop):
            return (
                f"{key.replace('_', ' ')} falls from {before:.4f} to {after:.4f} on the test pictures, by "
                f"{100 * (before - after):.2f} points; --max-drop allows {100 * max_drop:g}"
            )
    return None
