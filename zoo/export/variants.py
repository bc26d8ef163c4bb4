"""Variants of an exported file: int8, 16-bit weights. Each one is made, judged, and refused if it loses too much.

A variant is a subclass of `Variant` in `VARIANTS`. The command line derives its options from that list, and
`make_variant` does for all of them what does not depend on the kind. Nothing here touches the float32 export.

Importing this module is cheap: the command line does so to know its options.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from zoo.data.dataset import Dataset
    from zoo.export.int8 import ValidationSet
    from zoo.reporter import Reporter
    from zoo_runtime import ModelInfo, Pairs, Predictor

PAIRS = 60
# The metrics that may fall by no more than the limit. With several labels per picture, the share of right decisions
# alone says little: answering "no" to all of a hundred classes is right for ninety-nine.
JUDGED = ("accuracy", "exact_match", "mean_average_precision")
# Bounds on the tolerance of an int8 file's self-test: a device that differs by more should be found out.
TOLERANCES = 1e-3, 0.1


@dataclass(frozen=True)
class AcceptanceLimits:
    """What a variant may cost.

    Args:
        max_drop: The largest loss of accuracy on the test pictures, in 0..1.
        any_speed: True accepts a file that is slower than float32 on this machine, for a device that differs.
    """

    max_drop: float = 0.01
    any_speed: bool = False


@dataclass(frozen=True)
class VariantGraph:
    """A graph that a variant made.

    Args:
        graph: With the same input and outputs as the float32 graph.
        precision: How it was made; the exported file carries this.
        tolerance: How far the probabilities of the self-test may differ on another machine; None takes the usual bound.
        tried: Further figures for the run folder.
    """

    graph: onnx.ModelProto
    precision: Mapping[str, Any]
    tolerance: float | None = None
    tried: Mapping[str, Any] = field(default_factory=dict)


class Variant(abc.ABC):
    """One kind of smaller file.

    Attributes:
        name: The option that asks for it (`--name`), the ending of the export's name, and the kind stated in the file.
        help: The help text of the option.
        must_be_faster: Whether a file is refused that is not faster than float32 on this machine. The option
            `--name-any-speed` then accepts it all the same.
    """

    name: str
    help: str
    must_be_faster: bool = False

    @abc.abstractmethod
    def make(
        self, graph: onnx.ModelProto, dataset: Dataset, limits: AcceptanceLimits, reporter: Reporter, *, seed: int
    ) -> VariantGraph:
        """Make the graph.

        Args:
            graph: The float32 graph, with the outputs `probabilities` and `logits`.
            dataset: The pictures of the run. Test pictures must not be used.
            limits: What the variant may cost.
            reporter: Receives progress messages.
            seed: Decides every random choice.

        Raises:
            ConversionFailed: The graph cannot be made.
            ParityFailed: The graph does not compute what it should.
        """

    def refuse(self, figures: Mapping[str, Any], limits: AcceptanceLimits) -> str | None:
        """Say why a file is refused, or return None.

        Args:
            figures: See `VariantFile.figures`.
            limits: What the variant may cost.
        """
        for key in JUDGED:
            if key in figures:
                before, after = figures[f"float32_{key}"], figures[key]
                # Written so that a NaN is refused. Accuracies are counts, whose differences a float may miss by a hair.
                if not before - after <= limits.max_drop + 1e-9:
                    hint = f"; --{self.name}-any-speed also tries what is not faster here"
                    return (
                        f"{key.replace('_', ' ')} falls from {before:.4f} to {after:.4f} on the test pictures, by "
                        f"{100 * (before - after):.2f} points; --max-drop allows {100 * limits.max_drop:g}"
                        f"{hint if self.must_be_faster and not limits.any_speed else ''}"
                    )
        if self.must_be_faster and not limits.any_speed and figures["speedup"] <= 1:
            return (
                f"it is not faster than float32 on this machine ({figures['milliseconds']:.2f} ms against "
                f"{figures['float32_milliseconds']:.2f}); --{self.name}-any-speed exports it for a device that differs"
            )
        return None

    def describe(self, figures: Mapping[str, Any]) -> list[str]:
        """Return the lines that a command prints: what the file costs and gains, and how it was made."""
        changes = ", ".join(
            f"{key.replace('_', ' ')} {figures[key]:.4f} instead of {figures[f'float32_{key}']:.4f}"
            for key in JUDGED
            if key in figures
        )
        return [
            f"{changes} on {figures['test_pictures']} test pictures, "
            f"{figures['bytes'] / 1e6:.1f} MB instead of {figures['float32_bytes'] / 1e6:.1f}, "
            f"{figures['milliseconds']:.2f} ms instead of {figures['float32_milliseconds']:.2f} "
            f"({figures['speedup']:.2f} times as fast here)"
        ]


class Int8(Variant):
    """8-bit integers, quantized with calibration on training pictures; see `zoo.export.int8`."""

    name = "int8"
    help = "Make an int8 file, NAME-int8, where it loses little and is faster here."
    must_be_faster = True

    def make(
        self, graph: onnx.ModelProto, dataset: Dataset, limits: AcceptanceLimits, reporter: Reporter, *, seed: int
    ) -> VariantGraph:
        """Search for the best way of quantizing the graph; arguments as of `Variant.make`."""
        import numpy as np

        from zoo.export import int8
        from zoo.export.parity import PARITY_PICTURES

        train = np.random.default_rng(seed).permutation(dataset.split.train)
        count = max(1, min(int8.CALIBRATION_PICTURES, len(train) // 2))
        # Validation pictures come first: on those that it was trained on, a network hides what it lost.
        judged = np.concatenate([dataset.split.val, train[count:]])[: int8.JUDGING_PICTURES]
        validation = _validation_set(dataset, judged)
        with reporter.progress("trying ways to int8") as progress:
            outcome = int8.quantize(
                graph,
                _pixels(dataset, train[:count]),
                validation,
                max_drop=limits.max_drop,
                any_speed=limits.any_speed,
                progress=progress,
            )
        apart = int8.between_processors(outcome.graph, validation.pixels[:PARITY_PICTURES])
        precision = {
            **dataclasses.asdict(outcome.chosen.config),
            "calibration_pictures": count,
            "logits_error": outcome.chosen.error,
            "between_processors": apart,
        }
        tried = {
            "judged_on": outcome.judged_on,
            "float32_accuracy_there": outcome.accuracy,
            "tried": [trial.to_json() for trial in outcome.trials],
        }
        return VariantGraph(outcome.graph, precision, min(max(apart, TOLERANCES[0]), TOLERANCES[1]), tried)

    def describe(self, figures: Mapping[str, Any]) -> list[str]:
        """Add how the graph was quantized."""
        scales = "one scale a channel" if figures["per_channel"] else "one scale a tensor"
        lines = [
            *super().describe(figures),
            f"{figures['activations']} activations, weights of {figures['weight_bits']} bits, {scales}, "
            f"ranges by {figures['calibration']} on "
            f"{figures['calibration_pictures']} training pictures, {len(figures['left_out'])} operations left in "
            f"float32; {len(figures['tried'])} ways tried on {figures['judged_on']} validation and training pictures",
        ]
        if figures["between_processors"] > TOLERANCES[1]:
            lines.append(
                f"a processor that adds up in another way may give probabilities up to "
                f"{figures['between_processors']:.2f} apart from those here, so that `zoo-runtime check` may fail there"
            )
        return lines


class Fp16(Variant):
    """Weights stored in 16 bits; the graph computes in float32. See `zoo.export.fp16`."""

    name = "fp16"
    help = "Make a file with 16-bit weights, NAME-fp16, half as large."

    def make(
        self, graph: onnx.ModelProto, dataset: Dataset, limits: AcceptanceLimits, reporter: Reporter, *, seed: int
    ) -> VariantGraph:
        """Round the weights, and prove that the graph does what they do; arguments as of `Variant.make`."""
        import numpy as np

        from zoo.convert.session import open_session
        from zoo.export import fp16, int8, parity

        rows = np.concatenate([dataset.split.val, dataset.split.train])[: parity.PARITY_PICTURES]
        validation = _validation_set(dataset, rows)
        made = fp16.to_fp16(graph)
        graphs = (graph, fp16.rounded(graph), made)
        plain, rounded, stored = (validation.outputs(open_session(one)) for one in graphs)
        # What rounding itself costs is judged on the test pictures.
        figures = parity.compare(rounded[0], stored[0], rounded[1], stored[1], multilabel=validation.multilabel)
        precision = {
            "logits_error": int8.relative_error(plain[0], stored[0]),
            "parity_with_rounded": figures["logits_difference"],
        }
        return VariantGraph(made, precision)


VARIANTS: tuple[Variant, ...] = (Int8(), Fp16())


@dataclass(frozen=True)
class VariantRequest:
    """A variant that the user asks for, and what it may cost."""

    variant: Variant
    limits: AcceptanceLimits = field(default_factory=AcceptanceLimits)


@dataclass(frozen=True)
class VariantFile:
    """A variant that was made, and what it costs.

    Args:
        variant: Its kind.
        content: The file; empty where nothing was made.
        figures: The figures for the run folder: accuracies, speedup, sizes, and what was tried. Empty where nothing was
            made.
        refusal: Why the file must not be used; None where it may.
        record: The name of the file in the run folder that holds the figures.
    """

    variant: Variant
    content: bytes
    figures: Mapping[str, Any]
    refusal: str | None
    record: str = ""


def make_variant(
    request: VariantRequest,
    graph: onnx.ModelProto,
    info: ModelInfo,
    dataset: Dataset,
    metrics: Mapping[str, Any],
    reporter: Reporter,
    *,
    seed: int,
) -> VariantFile:
    """Make a variant of an exported network and judge it on the test pictures.

    Args:
        request: The variant, and what it may cost.
        graph: The float32 graph that has passed parity, with the outputs `probabilities` and `logits`.
        info: What the float32 file says of itself.
        dataset: The pictures of the run.
        metrics: The figures of the float32 file, by "validation" and "test".
        reporter: Receives progress messages.
        seed: Decides which training pictures are used.

    Raises:
        ConversionFailed: The graph cannot be made.
        ParityFailed: The graph does not compute what it should.
    """
    from zoo.evaluate import evaluator
    from zoo.evaluate import metrics as metric_tools
    from zoo.export import artifact
    from zoo_runtime import Predictor

    variant, limits = request.variant, request.limits
    with reporter.timing.measure(f"making {variant.name}"):
        made = variant.make(graph, dataset, limits, reporter, seed=seed)
    plain = artifact.serialize(graph, info)
    # The parity figures are those of the float32 file.
    info = dataclasses.replace(info, precision={"kind": variant.name, **made.precision}, parity={})
    info = artifact.with_selftest(made.graph, info, tolerance=made.tolerance)
    changed = evaluator.judge(Predictor(artifact.serialize(made.graph, info)), dataset, reporter)
    summary = {key: metric_tools.summary(figures) for key, figures in changed.items()}
    content = artifact.serialize(made.graph, dataclasses.replace(info, metrics=summary))
    sample = dataset.pixels.array[dataset.split.test[:1]]
    speed = compare_speed(Predictor(plain), Predictor(content), sample)
    judged = [key for key in JUDGED if key in metrics["test"]]
    figures = {
        "kind": variant.name,
        **{key: changed["test"][key] for key in judged},
        **{f"float32_{key}": metrics["test"][key] for key in judged},
        "max_drop": limits.max_drop,
        "speedup": speed.ratio,
        "milliseconds": speed.second,
        "float32_milliseconds": speed.first,
        "bytes": len(content),
        "float32_bytes": len(plain),
        "test_pictures": changed["test"]["pictures"],
        **made.precision,
        "selftest_tolerance": made.tolerance,
        **made.tried,
    }
    figures["refusal"] = variant.refuse(figures, limits)
    return VariantFile(variant, content, figures, figures["refusal"])


def failed(variant: Variant, why: str) -> VariantFile:
    """Return what stands for a variant that could not be made."""
    return VariantFile(variant, b"", {}, why.removesuffix("."))


def compare_speed(first: Predictor, second: Predictor, pixels: np.ndarray) -> Pairs:
    """Time two predictors' networks by turns, on one picture, a uint8 array (1, height, width, channels)."""
    from zoo_runtime import time_pairs

    return time_pairs(first.probabilities, second.probabilities, [(pixels, pixels)], pairs=PAIRS)


def _validation_set(dataset: Dataset, rows: np.ndarray) -> ValidationSet:
    from zoo.export.int8 import ValidationSet

    return ValidationSet(_pixels(dataset, rows), dataset.targets[rows], dataset.source.multilabel)


def _pixels(dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    """Return a copy of some pictures, a uint8 array (pictures, height, width, channels)."""
    import numpy as np

    return np.ascontiguousarray(dataset.pixels.array[rows])
