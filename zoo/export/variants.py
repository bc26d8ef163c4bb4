"""Smaller files of a network that is exported: int8, or weights of 16 bits; made, judged, and refused where they lose.

Nothing here touches the float32 export.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.data.dataset import Dataset
from zoo.evaluate import metrics as metric_tools
from zoo.evaluate.evaluator import judge
from zoo.export.parity import PARITY_PICTURES
from zoo.reporter import Reporter
from zoo_runtime import ModelInfo, Pairs, Predictor, time_pairs

if TYPE_CHECKING:
    import onnx

KINDS = ("int8", "fp16")
PAIRS = 60
# What may fall by no more than the bound. Of several labels, right decisions alone say little: saying no to all of a
# hundred classes is right for ninety-nine.
JUDGED = ("accuracy", "exact_match", "mean_average_precision")
# Of the self-test of an int8 file: what differs by more on a device is to be found out there.
TOLERANCES = 1e-3, 0.1


@dataclass(frozen=True)
class AcceptanceLimits:
    """What a smaller file may cost.

    Args:
        max_drop: Loss of accuracy on the test pictures, in 0..1.
        any_speed: Whether an int8 file may be slower on this machine than the float32 one.
    """

    max_drop: float = 0.01
    any_speed: bool = False


@dataclass(frozen=True)
class Variant:
    """A smaller file and what it costs.

    Args:
        kind: "int8" or "fp16".
        content: The file.
        metrics: As those of the float32 file: "validation" and "test".
        figures: For the run folder: accuracies, speedup, sizes, and what was tried; empty where nothing was made.
        refusal: Why it is not to be used; None where it is.
        record: Name of the file in the run folder that has the figures.
    """

    kind: str
    content: bytes
    metrics: dict[str, Any]
    figures: dict[str, Any]
    refusal: str | None
    record: str = ""


def make(
    kind: str,
    graph: onnx.ModelProto,
    info: ModelInfo,
    dataset: Dataset,
    metrics: dict[str, Any],
    limits: AcceptanceLimits,
    reporter: Reporter,
    *,
    seed: int,
) -> Variant:
    """Make a smaller file of an exported network and judge it.

    Args:
        kind: "int8" or "fp16".
        graph: What `convert` gave and parity has passed, with both outputs.
        info: What the float32 file says of itself.
        dataset: The run's pictures.
        metrics: Figures of the float32 file.
        limits: What it may cost.
        reporter: Hears of every step.
        seed: Decides which training pictures ranges are found on.

    Raises:
        ConversionFailed: onnxruntime refuses to quantise the network.
        ParityFailed: The 16-bit weights are not read back as they were written.
    """
    from zoo.export import artifact

    with reporter.timing.measure(f"making {kind}"):
        if kind == "int8":
            made, precision, tried = _int8(graph, dataset, limits, reporter, seed)
        else:
            made, precision, tried = _fp16(graph, dataset)
    tolerance = precision.pop("tolerance")
    plain = artifact.serialize(graph, info)
    # Parity is the float32 file's.
    info = dataclasses.replace(info, precision={"kind": kind, **precision}, parity={})
    info = artifact.with_selftest(made, info, tolerance=tolerance)
    changed = judge(Predictor(artifact.serialize(made, info)), dataset, reporter)
    summary = {key: metric_tools.summary(figures) for key, figures in changed.items()}
    content = artifact.serialize(made, dataclasses.replace(info, metrics=summary))
    judged = {key: (metrics["test"][key], changed["test"][key]) for key in JUDGED if key in metrics["test"]}
    sample = dataset.pixels.array[dataset.split.test[:1]]
    speed = compare_speed(Predictor(plain), Predictor(content), sample)
    figures = {
        "kind": kind,
        **{key: after for key, (_, after) in judged.items()},
        **{f"float32_{key}": before for key, (before, _) in judged.items()},
        "max_drop": limits.max_drop,
        "speedup": speed.ratio,
        "milliseconds": speed.second,
        "float32_milliseconds": speed.first,
        "bytes": len(content),
        "float32_bytes": len(plain),
        "test_pictures": changed["test"]["pictures"],
        **precision,
        "selftest_tolerance": tolerance,
        **tried,
    }
    figures["refusal"] = _refusal(figures, limits)
    return Variant(kind, content, changed, figures, figures["refusal"])


def failed(kind: str, why: str) -> Variant:
    """What stands for a smaller file that came to nothing."""
    return Variant(kind, b"", {}, {}, why.removesuffix("."))


def compare_speed(first: Predictor, second: Predictor, pixels: np.ndarray) -> Pairs:
    """Time two predictors' networks by turns, on one picture, uint8 array (1, height, width, channels)."""
    return time_pairs(first.probabilities, second.probabilities, [(pixels, pixels)], pairs=PAIRS)


def describe(figures: dict[str, Any]) -> list[str]:
    """Lines for the end of a command: what the smaller file costs and gains, and how it was made."""
    changes = ", ".join(
        f"{key.replace('_', ' ')} {figures[key]:.4f} instead of {figures[f'float32_{key}']:.4f}"
        for key in JUDGED
        if key in figures
    )
    lines = [
        f"{changes} on {figures['test_pictures']} test pictures, "
        f"{figures['bytes'] / 1e6:.1f} MB instead of {figures['float32_bytes'] / 1e6:.1f}, "
        f"{figures['milliseconds']:.2f} ms instead of {figures['float32_milliseconds']:.2f} "
        f"({figures['speedup']:.2f} times as fast here)"
    ]
    if figures["kind"] == "int8":
        config = "one scale a channel" if figures["per_channel"] else "one scale a tensor"
        lines.append(
            f"{figures['activations']} activations, weights of {figures['weight_bits']} bits, {config}, "
            f"ranges by {figures['calibration']} on "
            f"{figures['calibration_pictures']} training pictures, {len(figures['left_out'])} operations left in "
            f"float32; {len(figures['tried'])} ways tried on {figures['judged_on']} validation and training pictures"
        )
        if figures["between_processors"] > TOLERANCES[1]:
            lines.append(
                f"a processor that adds up in another way may give probabilities up to "
                f"{figures['between_processors']:.2f} apart from those here, so that `zoo-runtime check` may fail there"
            )
    return lines


def _refusal(figures: dict[str, Any], limits: AcceptanceLimits) -> str | None:
    for key in JUDGED:
        if key in figures:
            before, after = figures[f"float32_{key}"], figures[key]
            # Written so that a NaN is refused; accuracies are counts, whose differences a float may miss by a hair.
            if not before - after <= limits.max_drop + 1e-9:
                slower = "; --int8-any-speed tries what is not faster here too"
                return (
                    f"{key.replace('_', ' ')} falls from {before:.4f} to {after:.4f} on the test pictures, by "
                    f"{100 * (before - after):.2f} points; --max-drop allows {100 * limits.max_drop:g}"
                    f"{slower if figures['kind'] == 'int8' and not limits.any_speed else ''}"
                )
    if figures["kind"] == "int8" and not limits.any_speed and figures["speedup"] <= 1:
        return (
            f"it is not faster than float32 on this machine ({figures['milliseconds']:.2f} ms against "
            f"{figures['float32_milliseconds']:.2f}); --int8-any-speed exports it for a device that differs"
        )
    return None


def _int8(
    graph: onnx.ModelProto, dataset: Dataset, limits: AcceptanceLimits, reporter: Reporter, seed: int
) -> tuple[onnx.ModelProto, dict[str, Any], dict[str, Any]]:
    from zoo.export import int8

    train = np.random.default_rng(seed).permutation(dataset.split.train)
    count = max(1, min(int8.CALIBRATION_PICTURES, len(train) // 2))
    # Validation pictures first: a network is surest of those it was trained on, and hides there what it lost.
    judged = np.concatenate([dataset.split.val, train[count:]])[: int8.JUDGING_PICTURES]
    judge = int8.ValidationSet(_pixels(dataset, judged), dataset.targets[judged], dataset.source.multilabel)
    with reporter.progress("trying ways to int8") as progress:
        outcome = int8.quantize(
            *(graph, _pixels(dataset, train[:count]), judge),
            max_drop=limits.max_drop,
            any_speed=limits.any_speed,
            progress=progress,
        )
    config = outcome.chosen.config
    apart = int8.between_processors(outcome.graph, judge.pixels[:PARITY_PICTURES])
    precision = {
        **dataclasses.asdict(config),
        "calibration_pictures": count,
        "logits_error": outcome.chosen.error,
        "between_processors": apart,
        "tolerance": min(max(apart, TOLERANCES[0]), TOLERANCES[1]),
    }
    tried = {
        "judged_on": outcome.judged_on,
        "float32_accuracy_there": outcome.accuracy,
        "tried": [trial.to_json() for trial in outcome.trials],
    }
    return outcome.graph, precision, tried


def _fp16(graph: onnx.ModelProto, dataset: Dataset) -> tuple[onnx.ModelProto, dict[str, Any], dict[str, Any]]:
    from zoo.convert.session import open_session
    from zoo.export import fp16, int8, parity

    rows = np.concatenate([dataset.split.val, dataset.split.train])[:PARITY_PICTURES]
    judge = int8.ValidationSet(_pixels(dataset, rows), dataset.targets[rows], dataset.source.multilabel)
    made = fp16.to_fp16(graph)
    plain, rounded, stored = (judge.outputs(open_session(one)) for one in (graph, fp16.rounded(graph), made))
    # The file must do what rounded weights do; what rounding itself does is judged on the test pictures.
    figures = parity.compare(rounded[0], stored[0], rounded[1], stored[1], multilabel=judge.multilabel)
    precision = {
        "logits_error": int8.relative_error(plain[0], stored[0]),
        "parity_with_rounded": figures["logits_difference"],
        "tolerance": None,
    }
    return made, precision, {}


def _pixels(dataset: Dataset, rows: Sequence[int]) -> np.ndarray:
    return np.ascontiguousarray(dataset.pixels.array[rows])
