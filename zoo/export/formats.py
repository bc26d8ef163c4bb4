"""Makes, runs and checks exported files in the formats of plugins, such as LiteRT and OpenVINO.

A format stores one of the graphs that zoo makes: float32, fp16 or int8. `make_format` gives the ONNX file of that graph
to the plugin, runs what the plugin made on real pictures, and compares the answers with those of the float32 file, as
for the variants of `zoo.export.variants`. The file is refused, with its figures, if it loses too much accuracy, or if
it computes something else than the ONNX file of the same graph. Whatever a plugin raises becomes an `ExportError`.

`zoo.workflow.export_formats` puts the files in place. `zoo.export.format_metadata` reads their metadata.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import ZooError
from zoo.export import acceptance
from zoo.export.format_files import Writer
from zoo.export.format_variant import FormatVariant, for_devices, variant_named
from zoo.export.variants import (
    AcceptanceLimits,
    FinishGraph,
    Float32File,
    VariantFile,
    VariantGraph,
    VariantRequest,
    compare_metrics,
    compare_speed,
)
from zoo.plugin import Format

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from zoo.data.dataset import Dataset
    from zoo.evaluate.evaluator import Outputs
    from zoo.reporter import Reporter
    from zoo_runtime import ModelInfo, Predictor

# How many pictures show whether a file computes what the ONNX file of the same graph computes.
COMPARED_PICTURES = 64
CALIBRATION_PICTURES = 128
# A self-test that passes must hold for processors that round in another way. See `zoo.export.variants`.
SMALLEST_TOLERANCE, LARGEST_TOLERANCE = 1e-3, 0.1


@dataclass(frozen=True)
class Base:
    """The ONNX graph that formats store, finished as the graph of an exported file.

    Args:
        graph: The graph, with the public outputs.
        info: Its metadata, with calibration and thresholds, without a self-test.
        made: How the graph was made.
    """

    graph: onnx.ModelProto
    info: ModelInfo
    made: VariantGraph


OwnThresholds = Callable[[str, Base, "ModelInfo", Callable[[Any], "list[np.ndarray]"]], "tuple[ModelInfo, bool]"]


@dataclass
class Bases:
    """Makes each graph that formats store once, however many formats store it.

    Args:
        float32: The float32 file.
        dataset: The dataset of the run.
        finisher: Returns the function that puts calibration and thresholds into the graph of a named format.
        reporter: Receives progress messages.
        seed: The seed of every random choice.
        thresholds: Measures the thresholds of a file with the file itself: takes the name of the format, the graph, the
            metadata and the function that runs the file, and returns the metadata and whether they have thresholds.
            None leaves those of the ONNX file.
    """

    float32: Float32File
    dataset: Dataset
    finisher: Callable[[str], FinishGraph]
    reporter: Reporter
    seed: int
    thresholds: OwnThresholds | None = None
    _made: dict[tuple[str, float], VariantGraph | ZooError] = field(default_factory=dict)
    _bases: dict[tuple[str, float], Base] = field(default_factory=dict)

    def shared(self, request: VariantRequest, requests: Sequence[VariantRequest]) -> VariantGraph | None:
        """Return the graph for an ONNX variant if a format that is asked for too stores the same; else None.

        Raises:
            ZooError: The graph could not be made.
        """
        limits, kind = request.limits, request.variant.name
        formats = [each for each in requests if isinstance(each.variant, FormatVariant)]
        alike = any(
            each.variant.of().graph == kind and each.limits.max_drop == limits.max_drop  # type: ignore[attr-defined]
            for each in formats
        )
        # A search for a graph that is faster here may end with another one.
        if not alike or (request.variant.must_be_faster and not limits.any_speed):
            return None
        return self._graph(kind, limits)

    def _graph(self, kind: str, limits: AcceptanceLimits) -> VariantGraph:
        key = kind, limits.max_drop
        if key not in self._made:
            try:
                with self.reporter.timing.measure(f"making {kind}"):
                    variant, limits = variant_named(kind), for_devices(limits)
                    self._made[key] = variant.make(
                        self.float32.raw, self.dataset, limits, self.reporter, seed=self.seed
                    )
            except ZooError as error:
                self._made[key] = error
        found = self._made[key]
        if isinstance(found, ZooError):
            raise found
        return found

    def of(self, variant: FormatVariant, limits: AcceptanceLimits) -> Base:
        """Return the graph that a format stores.

        Raises:
            ZooError: It could not be made, now or for an earlier format.
        """
        kind = variant.of().graph
        if kind == "float32":
            info = dataclasses.replace(self.float32.info, parity={})
            return Base(self.float32.graph, info, VariantGraph(self.float32.graph, {}))
        key = kind, limits.max_drop
        if key not in self._bases:
            made, info = self._graph(kind, limits), dataclasses.replace(self.float32.info, parity={})
            graph, info = self.finisher(variant.name)(made.graph, info)
            self._bases[key] = Base(graph, info, made)
        return self._bases[key]


def make_format(
    variant: FormatVariant, limits: AcceptanceLimits, bases: Bases, dataset: Dataset, reporter: Reporter
) -> VariantFile:
    """Make the files of a format, and compare them with the float32 file.

    Args:
        variant: The format.
        limits: The limits on accuracy. A file may be slower than the float32 file.
        bases: Has the graphs that formats store.
        dataset: The dataset of the run.
        reporter: Receives progress messages.

    Returns:
        The files and their measurements. If they are refused, `refusal` says why.

    Raises:
        ExportError: The plugin raised an error, or its files do not run or lack an output.
        ZooError: The graph that the format stores could not be made; see `Bases.of`.
    """
    from zoo.convert.keras_to_onnx import public
    from zoo.evaluate import evaluator
    from zoo.evaluate import metrics as metric_tools
    from zoo.export import artifact
    from zoo.export.weights_digest import graph_sha256

    base, kind = bases.of(variant, limits), variant.of()
    precision = {"kind": variant.name, "graph": kind.graph, **base.made.precision}
    info = dataclasses.replace(base.info, precision=precision, selftest={}, metrics={})
    writer = Writer(kind, base.graph, _calibration(dataset, bases.seed))
    with reporter.progress(f"making {variant.name}"), reporter.timing.measure(f"making {variant.name}"):
        files, run = writer.files(info)
    predictor = _predictor(kind, info, run, dataset)
    plain = artifact.serialize(base.graph, info)
    same = _compare_with_onnx(kind, predictor, plain, dataset)
    if bases.thresholds is not None and same["probabilities_difference"] > SMALLEST_TOLERANCE:
        # A threshold that was fitted to the ONNX file would promise too much or too little.
        info, own = bases.thresholds(variant.name, base, info, run)
        same["own_thresholds"] = own
        predictor = _predictor(kind, info, run, dataset)
    outputs = evaluator.predict_parts(predictor, dataset, reporter)
    evaluated = evaluator.measure_parts(outputs, dataset)
    tolerance = min(max(SMALLEST_TOLERANCE, same["probabilities_difference"]), LARGEST_TOLERANCE)
    summary = {part: metric_tools.summary(values) for part, values in evaluated.items()}
    with reporter.progress(f"making {variant.name}"), reporter.timing.measure(f"making {variant.name}"):
        info = artifact.with_selftest_of(
            predictor,
            dataclasses.replace(info, precision={**precision, "same_as_onnx": same}, metrics=summary),
            tolerance,
        )
        files, run = writer.files(info)
        _check_selftest(kind, info, run, dataset)
    figures = {
        **_figures(variant, limits, bases, predictor, outputs),
        "bytes": sum(map(len, files.values())),
        "graph": kind.graph,
        "weights_sha256": graph_sha256(public(base.graph)),
        **base.made.precision,
        "same_as_onnx": same,
        "selftest_tolerance": tolerance,
        **base.made.tried,
    }
    figures["refusal"] = refusal_of(kind, same) or variant.refuse(figures, limits)
    figures["too_few"] = acceptance.decide(variant.name, figures, limits.max_drop)[1]
    main = files[kind.file]
    return VariantFile(variant, main, figures, figures["refusal"], metrics=evaluated, files=files, info=info)


def _figures(
    variant: FormatVariant,
    limits: AcceptanceLimits,
    bases: Bases,
    predictor: Predictor,
    outputs: Mapping[str, Outputs],
) -> dict[str, Any]:
    """Compare the files of a format with the float32 file: accuracy, answers to the same pictures, and speed."""
    from zoo.evaluate import evaluator
    from zoo.export import agreement, artifact
    from zoo_runtime import Predictor
    from zoo_runtime.workshop import OtherPrograms

    dataset, float32, reporter = bases.dataset, bases.float32, bases.reporter
    calibrated_on = bases.of(variant, limits).made.calibrated_on
    train = agreement.other_training_pictures(dataset, calibrated_on, bases.seed)
    runners: dict[str, Any] = {"float32": float32.graph, variant.name: predictor.probabilities}
    pairs = agreement.gather(runners, (float32.outputs, outputs), dataset, train, limits.max_drop, reporter)
    with reporter.progress(f"timing {variant.name} beside float32"):
        programs, first = OtherPrograms(), artifact.serialize(float32.graph, float32.info)
        speed = compare_speed(Predictor(first), predictor, dataset.pixels.array[dataset.split.test[:1]])
    evaluated, plain = (evaluator.measure_parts(each, dataset)["test"] for each in (outputs, float32.outputs))
    return {
        "kind": variant.name,
        "file": variant.file,
        **compare_metrics(evaluated, plain),
        "max_drop": limits.max_drop,
        "speedup": speed.ratio,
        "speedup_middle_half": list(speed.middle_half),
        "busy": programs.warning(),
        "milliseconds": speed.second,
        "float32_milliseconds": speed.first,
        "float32_bytes": len(first),
        "test_pictures": evaluated["pictures"],
        **pairs,
    }


def refusal_of(kind: Format, same: Mapping[str, Any]) -> str | None:
    """Return why a file is refused that computes something else than the ONNX file of the same graph.

    Args:
        kind: The format.
        same: What `differences` returns.
    """
    difference = same["probabilities_difference"]
    if kind.tolerance is None or difference <= kind.tolerance:
        return None
    return (
        f"its probabilities differ from those of the ONNX file by up to {difference:.2g} on {same['pictures']} real "
        f"pictures (allowed {kind.tolerance:g}), and the likeliest class on {same['pictures'] - same['top1_equal']} of "
        "them"
    )


def _predictor(kind: Format, info: ModelInfo, run: Callable[[Any], list[np.ndarray]], dataset: Dataset) -> Predictor:
    """Return a predictor that answers with the files of a format."""
    from zoo_runtime.workshop import OtherPredictor

    engine = {".tflite": "litert", ".xml": "openvino"}.get(Path(kind.file).suffix, "onnxruntime")
    return OtherPredictor(info, run, engine=engine, **dataset.source.limits)


def _calibration(dataset: Dataset, seed: int) -> np.ndarray:
    """Return training pictures for formats that measure ranges themselves."""
    from zoo.export import comparison, int8

    return comparison.pixels_of(dataset, int8.choose_pictures(dataset.split, seed)[0][:CALIBRATION_PICTURES])


def _compare_with_onnx(kind: Format, predictor: Predictor, onnx_file: bytes, dataset: Dataset) -> dict[str, Any]:
    """Compare the outputs of a file with those of the ONNX file of the same graph, on pictures it was not trained on.

    Returns:
        `pictures`, `tolerance`, `probabilities_difference` (the largest difference of a probability),
        `probabilities_mean_difference`, `outlier_score_difference` if there is a score, and `top1_equal`, the number of
        pictures with the same likeliest class.
    """
    import numpy as np

    from zoo_runtime import Predictor

    split = dataset.split
    rows = np.concatenate([split.val, split.test, split.train])[:COMPARED_PICTURES]
    pixels, reference = np.ascontiguousarray(dataset.pixels.array[rows]), Predictor(onnx_file)
    batches = [pixels[i : i + 16] for i in range(0, len(pixels), 16)]
    first, second = (
        [np.concatenate(each) for each in zip(*(one.outputs(batch) for batch in batches), strict=True)]
        for one in (reference, predictor)
    )
    return differences(kind, first, second)


def differences(kind: Format, first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> dict[str, Any]:
    """Return how far the outputs of a file are from those of the ONNX file; see `_compare_with_onnx`.

    Args:
        kind: The format.
        first: The outputs of the ONNX file: probabilities (pictures, classes), and scores (pictures,) if there are any.
        second: Those of the file.
    """
    import numpy as np

    figures: dict[str, Any] = {"pictures": len(first[0]), "tolerance": kind.tolerance}
    apart = np.abs(first[0] - second[0])
    figures["probabilities_difference"] = float(apart.max())
    figures["probabilities_mean_difference"] = float(apart.mean())
    if len(first) > 1:
        figures["outlier_score_difference"] = float(np.abs(first[1] - second[1]).max())
    figures["top1_equal"] = int((first[0].argmax(axis=1) == second[0].argmax(axis=1)).sum())
    return figures


def _check_selftest(kind: Format, info: ModelInfo, run: Callable[[Any], list[np.ndarray]], dataset: Dataset) -> None:
    """Run the self-test of the finished files, which were made again to carry it.

    Raises:
        ParityFailed: They do not pass.
    """
    import zoo_runtime
    from zoo.errors import ParityFailed

    result = zoo_runtime.check(_predictor(kind, info, run, dataset))
    if not (result.passed and result.pixels_equal):
        raise ParityFailed(f"the {kind.name} file fails its own self-test: {result}.")
