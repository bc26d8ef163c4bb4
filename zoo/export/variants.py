"""Makes, evaluates and checks the variants of an exported file.

A variant is a smaller file of the same network. It computes in int8, or stores its weights in 16 bits. It is refused if
it loses too much accuracy; `zoo.export.acceptance` has the rule. An int8 file is also refused if it is not faster than
the float32 file. The subclasses of `Variant` define the kinds of variants, and `VARIANTS` lists them. The command line
derives the options for variants from that list. `make_variant` does everything that does not depend on the kind.
`zoo.export.int8` and `zoo.export.fp16` make the smaller graphs. Nothing in this module changes the float32 file.

This module must not import heavy packages, because the command line imports it to define the options of its commands.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zoo.export import acceptance

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from zoo.data.dataset import Dataset
    from zoo.evaluate.evaluator import Outputs
    from zoo.reporter import Reporter
    from zoo_runtime import ModelInfo, Predictor
    from zoo_runtime.workshop import Pairs

# How often the two files are timed against one another.
PAIRS = 60
# The metrics that may fall by no more than the limit. With several labels per picture, the fraction of correct
# decisions says little on its own: answering "no" to all of a hundred classes is correct for ninety-nine.
LIMITED_METRICS = ("accuracy", "exact_match", "mean_average_precision")
# The metrics that have a confidence interval; see `zoo.evaluate.metrics.measure`.
INTERVALS = ("accuracy_interval", "exact_match_interval")
# Bounds on the tolerance of an int8 file's self-test. A device that differs by more must not pass.
SMALLEST_TOLERANCE, LARGEST_TOLERANCE = 1e-3, 0.1


@dataclass(frozen=True)
class AcceptanceLimits:
    """Holds the limits that a variant must meet before it is exported.

    Args:
        max_drop: The largest allowed drop in accuracy, as a fraction in 0..1. For multi-label networks, the same limit
            applies to exact match and to mean average precision. `zoo.export.acceptance` says how it is applied.
        any_speed: True accepts a file that is not faster than float32 on this machine. It may be faster on the device.
            False refuses such a file if `Variant.must_be_faster` is True.
    """

    max_drop: float = 0.01
    any_speed: bool = False


@dataclass(frozen=True)
class VariantGraph:
    """Holds the graph of a variant and describes how it was made.

    Args:
        graph: The graph, with the same input and outputs as the float32 graph.
        precision: How the graph was made, such as the quantization settings. The exported file stores this as JSON.
        tolerance: The self-test passes on another machine if no probability differs by more than this, in 0..1. None
            means the default of `zoo_runtime.workshop.record`.
        tried: How the graph was chosen, such as the trials of the int8 search. `VariantFile.figures` contains these
            entries, but the exported file does not.
        calibrated_on: Indices of the training pictures on which the graph was calibrated. They cannot show whether the
            graph gives the same answers as float32.
    """

    graph: onnx.ModelProto
    precision: Mapping[str, Any]
    tolerance: float | None = None
    tried: Mapping[str, Any] = field(default_factory=dict)
    calibrated_on: Sequence[int] = ()


class Variant(abc.ABC):
    """Makes and checks one kind of variant, such as int8. Each kind is a subclass.

    Attributes:
        name: The name of the kind, such as "int8". The command-line option is then `--int8`, and the name of the
            export ends in `-int8`.
        help: The help text of the command-line option.
        must_be_faster: True refuses a file that is not faster than float32 on this machine. The option
            `--NAME-any-speed` turns this check off.
        file: The name of the exported file.
    """

    name: str
    help: str
    must_be_faster: bool = False
    file: str = "model.onnx"

    @property
    def option(self) -> str:
        """The words of a command that ask for the file."""
        return f"--{self.name}"

    @abc.abstractmethod
    def make(
        self, graph: onnx.ModelProto, dataset: Dataset, limits: AcceptanceLimits, reporter: Reporter, *, seed: int
    ) -> VariantGraph:
        """Make the graph of the variant.

        Args:
            graph: The float32 graph, with the outputs `probabilities` and `logits`. This method must not change it.
            dataset: The dataset of the run. This method must not use the test pictures.
            limits: The limits that the finished file must meet.
            reporter: Receives progress messages.
            seed: The seed of every random choice.

        Returns:
            The graph of the variant, and how it was made.

        Raises:
            ConversionFailed: The graph cannot be made.
            ParityFailed: The graph fails the variant's own parity check, such as that of `Fp16.make`.
        """

    def refuse(self, figures: Mapping[str, Any], limits: AcceptanceLimits) -> str | None:
        """Decide whether a file must be refused because it does not meet the limits.

        Args:
            figures: The measurements of the file and of the float32 file; see `VariantFile.figures`.
            limits: The limits on accuracy and speed.

        Returns:
            The reason for refusing the file, as a message to the user. None if the file is accepted.
        """
        reason, _ = acceptance.decide(self.name, figures, limits.max_drop)
        if reason is not None:
            hint = f"; --{self.name}-any-speed also tries files that are not faster here"
            return f"{reason}{hint if self.must_be_faster and not limits.any_speed else ''}"
        if self.must_be_faster and not limits.any_speed and figures["speedup"] <= 1:
            noisy = _noise(figures)
            return (
                f"it is not faster than float32 on this machine ({figures['milliseconds']:.2f} ms against "
                f"{figures['float32_milliseconds']:.2f}{f'; {noisy}' if noisy else ''}); "
                f"--{self.name}-any-speed exports it for a device that differs"
            )
        return None

    def describe(self, figures: Mapping[str, Any]) -> list[str]:
        """Return the lines in which a command reports a file's accuracy, size and speed, compared with float32.

        If the pictures are too few to tell whether the file loses too much accuracy, another line says so.

        Args:
            figures: The measurements of the file and of the float32 file; see `VariantFile.figures`.
        """
        changes = ", ".join(
            f"{key.replace('_', ' ')} {_text(figures, key)} instead of {_text(figures, f'float32_{key}')}"
            for key in LIMITED_METRICS
            if key in figures
        )
        return [
            f"{changes} on {figures['test_pictures']} test pictures, "
            f"{figures['bytes'] / 1e6:.1f} MB instead of {figures['float32_bytes'] / 1e6:.1f}, "
            f"{figures['milliseconds']:.2f} ms instead of {figures['float32_milliseconds']:.2f} "
            f"({_noise(figures) or _speed(figures)})",
            *([figures["busy"]] if figures.get("busy") else []),
            *([figures["too_few"]] if figures.get("too_few") else []),
        ]


class Int8(Variant):
    """Makes int8 files: weights and activations are quantized to 8 bits. See `zoo.export.int8`."""

    name = "int8"
    help = "Make an int8 file, NAME-int8, if it loses little accuracy and is faster on this machine."
    must_be_faster = True

    def make(
        self, graph: onnx.ModelProto, dataset: Dataset, limits: AcceptanceLimits, reporter: Reporter, *, seed: int
    ) -> VariantGraph:
        """Search for the best int8 graph. The arguments are those of `Variant.make`.

        Raises:
            ConversionFailed: The search finds no int8 graph; see `zoo.export.int8.quantize`.
        """
        from zoo.evaluate.metrics import interval
        from zoo.export import comparison, int8
        from zoo.export.parity import PARITY_PICTURES

        calibrated_on, rows, overlap = int8.choose_pictures(dataset.split, seed)
        validation = comparison.validation_set(dataset, rows)
        result = int8.quantize(
            graph,
            comparison.pixels_of(dataset, calibrated_on),
            validation,
            max_drop=limits.max_drop,
            any_speed=limits.any_speed,
            reporter=reporter,
        )
        difference = comparison.between_processors(result.graph, validation.pixels[:PARITY_PICTURES])
        precision = {
            **dataclasses.asdict(result.chosen.config),
            "calibration_pictures": len(calibrated_on),
            "logits_error": result.chosen.error,
            "between_processors": difference,
        }
        tried = {
            "judged_on": result.validation_pictures,
            "judged_on_calibration_pictures": overlap,
            "float32_accuracy_there": result.accuracy,
            "float32_accuracy_there_interval": interval(result.accuracy, result.validation_pictures),
            "tried": [
                {
                    **trial.to_json(),
                    "accuracy_interval": None if trial.failed else interval(trial.accuracy, result.validation_pictures),
                }
                for trial in result.trials
            ],
        }
        tolerance = min(max(difference, SMALLEST_TOLERANCE), LARGEST_TOLERANCE)
        return VariantGraph(result.graph, precision, tolerance, tried, calibrated_on.tolist())

    def describe(self, figures: Mapping[str, Any]) -> list[str]:
        """Return the line of `Variant.describe`, and a line that says how the graph was quantized.

        If the probabilities may differ by more than 0.1 between processors, a third line warns about this.

        Args:
            figures: The measurements of the file and of the float32 file; see `VariantFile.figures`.
        """
        count = len(figures["left_out"])
        operations = "1 operation stays" if count == 1 else f"{count} operations stay"
        scales = "one scale per channel" if figures["per_channel"] else "one scale per tensor"
        overlap = figures["judged_on_calibration_pictures"]
        lines = [
            *super().describe(figures),
            f"{figures['activations']} activations, {figures['weight_bits']}-bit weights, {scales}, "
            f"{figures['calibration']} calibration on {figures['calibration_pictures']} training pictures, "
            f"{operations} in float32; the best of {len(figures['tried'])} candidates "
            f"on {figures['judged_on']} validation and training pictures"
            + (f", {overlap} of which also served for calibration, because there are few pictures" if overlap else ""),
        ]
        if figures["between_processors"] > LARGEST_TOLERANCE:
            lines.append(
                f"a processor that rounds sums in another way may give probabilities that differ by up to "
                f"{figures['between_processors']:.2f} from those here, so that `zoo-runtime check` may fail there"
            )
        return lines


class Fp16(Variant):
    """Makes files that store weights in 16 bits but compute in float32. See `zoo.export.fp16`."""

    name = "fp16"
    help = "Make a file with 16-bit weights, NAME-fp16, which is half as large."

    def make(
        self, graph: onnx.ModelProto, dataset: Dataset, limits: AcceptanceLimits, reporter: Reporter, *, seed: int
    ) -> VariantGraph:
        """Make a graph that stores the weights in 16 bits. The arguments are those of `Variant.make`.

        This method checks the graph against a float32 graph whose weights have been rounded to float16.

        Raises:
            ConversionFailed: onnxruntime cannot run one of the graphs.
            ParityFailed: The outputs of the two graphs differ; see `zoo.export.parity.compare`.
        """
        import numpy as np

        from zoo.convert.session import open_session
        from zoo.export import comparison, fp16, parity

        # The train part is sorted by class, so its rows are taken at equal distances.
        train = dataset.split.train[:: max(1, len(dataset.split.train) // parity.PARITY_PICTURES)]
        rows = np.concatenate([dataset.split.val, train])[: parity.PARITY_PICTURES]
        validation = comparison.validation_set(dataset, rows)
        fp16_graph = fp16.to_fp16(graph)
        graphs = (graph, fp16.rounded(graph), fp16_graph)
        plain, rounded, stored = (validation.outputs(open_session(each)) for each in graphs)
        # The accuracy that the rounding costs is measured later.
        figures = parity.compare(rounded[0], stored[0], rounded[1], stored[1], multilabel=validation.multilabel)
        precision = {
            "logits_error": comparison.relative_error(plain[0], stored[0]),
            "parity_with_rounded": figures["logits_difference"],
        }
        return VariantGraph(fp16_graph, precision)


VARIANTS: tuple[Variant, ...] = (Int8(), Fp16())


def option_words(kind: str) -> list[str]:
    """Return the words of a command that ask for a file of this kind: an option of its own, or `--as NAME`."""
    return [f"--{kind}"] if any(each.name == kind for each in VARIANTS) else ["--as", kind]


@dataclass(frozen=True)
class VariantRequest:
    """Holds a variant that the user requests, and the limits that it must meet.

    Args:
        variant: The kind of file to make.
        limits: The limits on accuracy and speed.
    """

    variant: Variant
    limits: AcceptanceLimits = field(default_factory=AcceptanceLimits)


@dataclass(frozen=True)
class VariantFile:
    """Holds the file of a variant and its measurements.

    Args:
        variant: The kind of file.
        content: The bytes of the main file. Empty if it could not be made.
        figures: The measurements that the run folder stores: metrics of this file and of the float32 file, speedup,
            milliseconds per picture, sizes in bytes, and what was tried. Empty if the file could not be made.
        refusal: Why the file must not be used. None if it may be used.
        record: The name of the file in the run folder that stores `figures`. Empty if they have not been stored.
        metrics: All figures of this file on each part, as metrics.json has them for the float32 file.
        files: All files by name, and
        info: the metadata, if this is the format of a plugin.
    """

    variant: Variant
    content: bytes
    figures: Mapping[str, Any]
    refusal: str | None
    record: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    info: ModelInfo | None = None


# Puts calibration and thresholds into the raw graph of a variant and its metadata.
FinishGraph = Callable[["onnx.ModelProto", "ModelInfo"], "tuple[onnx.ModelProto, ModelInfo]"]


@dataclass(frozen=True)
class Float32File:
    """Holds the float32 file from which variants are made, and with which they are compared.

    Args:
        raw: The graph of the network, which has passed the parity check, with the outputs `probabilities` and `logits`.
        graph: The same with calibrated probabilities, as the file has it.
        info: The metadata of the file.
        outputs: The probabilities of the file, under "validation" and "test"; see
            `zoo.evaluate.evaluator.predict_parts`. The validation part may be empty.
    """

    raw: onnx.ModelProto
    graph: onnx.ModelProto
    info: ModelInfo
    outputs: Mapping[str, Outputs]


def make_variant(
    request: VariantRequest,
    float32: Float32File,
    finish: FinishGraph,
    dataset: Dataset,
    reporter: Reporter,
    *,
    seed: int,
    made: VariantGraph | None = None,
) -> VariantFile:
    """Make a variant of an exported network, and compare it with the float32 file.

    Both files are evaluated on the validation and test pictures. If these are fewer than 512, training pictures are
    added to see whether the two files give the same answers.

    Args:
        request: The variant, and the limits that it must meet.
        float32: The float32 file.
        finish: Fits calibration and thresholds for the graph of the variant, and puts them into it.
        dataset: The dataset of the run.
        reporter: Receives progress messages.
        seed: The seed of every random choice.
        made: The graph of the variant, if it has been made already. None makes it.

    Returns:
        The file and its measurements. If the file does not meet the limits, `refusal` says why.

    Raises:
        ConversionFailed: The graph cannot be made.
        ParityFailed: The graph fails the variant's own parity check, such as that of `Fp16.make`.
        DataError: A picture can no longer be read.
    """
    from zoo.evaluate import evaluator
    from zoo.evaluate import metrics as metric_tools
    from zoo.export import agreement, artifact
    from zoo_runtime import Predictor
    from zoo_runtime.workshop import OtherPrograms

    variant, limits = request.variant, request.limits
    with reporter.timing.measure(f"making {variant.name}"):
        variant_graph = made or variant.make(float32.raw, dataset, limits, reporter, seed=seed)
    plain = artifact.serialize(float32.graph, float32.info)
    # The result of the parity check describes the float32 file, so it is left out.
    precision = {"kind": variant.name, **variant_graph.precision}
    graph, info = finish(variant_graph.graph, dataclasses.replace(float32.info, precision=precision, parity={}))
    info = artifact.with_selftest(graph, info, tolerance=variant_graph.tolerance)
    predictor = Predictor(artifact.serialize(graph, info), **dataset.source.limits)
    variant_outputs = evaluator.predict_parts(predictor, dataset, reporter)
    evaluated = evaluator.measure_parts(variant_outputs, dataset)
    summary = {part: metric_tools.summary(values) for part, values in evaluated.items()}
    content = artifact.serialize(graph, dataclasses.replace(info, metrics=summary))
    train = agreement.other_training_pictures(dataset, variant_graph.calibrated_on, seed)
    graphs = {"float32": float32.graph, variant.name: graph}
    pairs = agreement.gather(graphs, (float32.outputs, variant_outputs), dataset, train, limits.max_drop, reporter)
    with reporter.progress(f"timing {variant.name} beside float32"):
        programs = OtherPrograms()
        speed = compare_speed(Predictor(plain), Predictor(content), dataset.pixels.array[dataset.split.test[:1]])
    figures = {
        "kind": variant.name,
        **compare_metrics(evaluated["test"], evaluator.measure_parts(float32.outputs, dataset)["test"]),
        "max_drop": limits.max_drop,
        "speedup": speed.ratio,
        "speedup_middle_half": list(speed.middle_half),
        "busy": programs.warning(),
        "milliseconds": speed.second,
        "float32_milliseconds": speed.first,
        "bytes": len(content),
        "float32_bytes": len(plain),
        "test_pictures": evaluated["test"]["pictures"],
        **variant_graph.precision,
        "selftest_tolerance": variant_graph.tolerance,
        **variant_graph.tried,
        **pairs,
    }
    figures["refusal"] = variant.refuse(figures, limits)
    figures["too_few"] = acceptance.decide(variant.name, figures, limits.max_drop)[1]
    return VariantFile(variant, content, figures, figures["refusal"], metrics=evaluated)


def compare_metrics(metrics: Mapping[str, Any], float32_metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics to which limits apply and their intervals, of the variant and of the float32 file.

    Args:
        metrics: The metrics of the variant on the test pictures.
        float32_metrics: The metrics of the float32 file on the same pictures.

    Returns:
        Only the metrics in `LIMITED_METRICS`. The keys of the float32 file's metrics start with `float32_`, such as
        `float32_accuracy`.
    """
    keys = [key for key in (*LIMITED_METRICS, *INTERVALS) if key in float32_metrics]
    return {**{key: metrics[key] for key in keys}, **{f"float32_{key}": float32_metrics[key] for key in keys}}


def _speed(figures: Mapping[str, Any]) -> str:
    """Say how many times as fast as float32 a file is."""
    low, high = figures["speedup_middle_half"]
    return f"{figures['speedup']:.2f} times as fast here; {low:.2f} to {high:.2f} in half of {PAIRS} comparisons"


def _noise(figures: Mapping[str, Any]) -> str | None:
    """Say that the measurements do not show which file is faster, or return None if they do."""
    low, high = figures["speedup_middle_half"]
    if not low <= 1 <= high:
        return None
    return (
        f"too close or too noisy to tell which is faster: {low:.2f} to {high:.2f} times as fast in half of {PAIRS} "
        "comparisons"
    )


def _text(figures: Mapping[str, Any], key: str) -> str:
    """Format a metric, with its confidence interval if it has one."""
    from zoo_runtime.workshop import format_accuracy

    interval = figures.get(f"{key}_interval")
    return format_accuracy(figures[key], interval) if interval else f"{figures[key]:.4f}"


def failed(variant: Variant, why: str) -> VariantFile:
    """Return the result for a variant that could not be made: a `VariantFile` without content.

    Args:
        variant: The kind of file.
        why: The reason, as a message to the user.
    """
    return VariantFile(variant, b"", {}, why.removesuffix("."))


def compare_speed(first: Predictor, second: Predictor, pixels: np.ndarray) -> Pairs:
    """Time two exported files alternately on the same picture.

    Args:
        first: Runs the first exported file.
        second: Runs the second exported file.
        pixels: The decoded picture, a uint8 array (1, H, W, C) in 0..255.

    Returns:
        The times without decoding. `first` and `second` are the median times of the two files in milliseconds. `ratio`
        is the time of the first file divided by the time of the second, as the median over 60 pairs of measurements.
        `middle_half` holds the first and the third quartile of this ratio.
    """
    from zoo_runtime.workshop import time_pairs

    return time_pairs(first.probabilities, second.probabilities, [(pixels, pixels)], pairs=PAIRS)
