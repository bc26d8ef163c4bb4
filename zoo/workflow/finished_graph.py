"""Makes the graph of an exported file from a trained network: converted, checked, calibrated and with a self-test."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo import runs
from zoo.data import sources
from zoo.errors import ConstantOutput, ConverterMissing, ExportError
from zoo.evaluate import evaluator
from zoo.evaluate.evaluator import Outputs
from zoo.export.formats import Base
from zoo.export.variants import FinishGraph
from zoo.reporter import Reporter
from zoo.train.feature_tensor import feature_tensor
from zoo.workflow import format_trust, precision, transfer, trust, verdict
from zoo.workflow.checked_graph import convert_and_check, join_and_check
from zoo.workflow.solved import SolvedNetwork
from zoo.workflow.trained import TrainedModel
from zoo.workflow.trust import HeldOut, Trust, TrustOptions
from zoo_runtime import ModelInfo

if TYPE_CHECKING:
    import onnx


def cross_validated(held_out: HeldOut, fitted: Trust, task: str) -> dict[str, Outputs]:
    """Return the calibrated outputs for pictures that were held out in a cross-validation; empty if there are none.

    They come from networks that were trained without these pictures, and not from the exported file.
    """
    if held_out.source != "cross-validation":
        return {}
    likely = fitted.calibration.probabilities(held_out.logits, task)
    return {evaluator.CROSS_VALIDATION: Outputs(held_out.rows, likely)}


def finish_graph(
    trained: TrainedModel,
    raw: onnx.ModelProto,
    info: ModelInfo,
    held_out: HeldOut,
    options: TrustOptions,
    reporter: Reporter,
    *,
    again: bool = False,
) -> tuple[onnx.ModelProto, ModelInfo, Trust]:
    """Fit calibration and thresholds for a graph, put them into it, and record the self-test.

    Args:
        trained: The network with its dataset and its run.
        raw: The graph of the network.
        info: The metadata of the file.
        held_out: Logits of held-out pictures.
        options: What is asked for.
        reporter: Receives messages.
        again: Whether the graph is that of a variant, whose features differ and whose self-test is recorded later.
    """
    from zoo.export import artifact

    model, dataset = trained.model, trained.dataset
    features = model.features if isinstance(model, SolvedNetwork) and not again else None
    # The network itself has been checked on more pictures.
    pixels = dataset.pixels.array[trained.parity_rows()[: trust.CHECKED_PICTURES]]
    graph, info, fitted = trust.finish(raw, info, dataset, held_out, options, pixels, reporter, features)
    if again:
        return graph, info, fitted
    for line in trust.summary_lines(fitted):
        reporter.say(line)
    with reporter.timing.measure("self-test"):
        return graph, artifact.with_selftest(graph, info), fitted


def convert_trained(
    trained: TrainedModel, precision: float | None, reporter: Reporter, *, keep: bool, allow_chance: bool
) -> tuple[onnx.ModelProto, ModelInfo, TrustOptions]:
    """Convert a trained network and check it on pictures of its run; see `convert_and_check`.

    If the network computes the same for every picture and `keep` is True, run.json gets a warning.

    Returns:
        The graph with the outputs `logits`, `probabilities` and pooled features, its metadata, and how it is fitted.

    Raises:
        ConstantOutput: The network computes the same for every picture, and `allow_chance` is False.
        ConverterMissing: TensorFlow or tf2onnx is not installed here. The message says where the file can be made.
    """
    reporter.say("Exporting to ONNX")
    record, dataset = trained.record, trained.dataset
    pixels = dataset.pixels.array[trained.parity_rows()]
    options = TrustOptions(record.task, record.options["seed"], precision, balanced=bool(record.options.get("balance")))
    try:
        if isinstance(trained.model, SolvedNetwork):
            graph, info = join_and_check(trained.model, trained.info(), pixels, reporter, allow_constant=allow_chance)
            return graph, info, options
        features, frozen = feature_tensor(trained.model, trained.architecture, _moved_layers(record))
        graph, info = convert_and_check(
            trained.model, trained.info(), pixels, reporter, allow_constant=allow_chance, features=features
        )
        return graph, info, dataclasses.replace(options, frozen=frozen)
    except ConverterMissing as error:
        raise ConverterMissing(f"{error} {_elsewhere(trained)}") from None
    except ConstantOutput as error:
        if keep:
            trained.run.write_record(trained.record.with_warnings([str(error)]))
        advice = verdict.export_all_the_same(trained)
        raise ConstantOutput(f"{error} {advice}") from None


def _elsewhere(trained: TrainedModel) -> str:
    """Return how the file is made on a computer that has TensorFlow."""
    run, embedded = trained.run, trained.record.options["data"] == sources.EMBEDDED
    command = shlex.join(["zoo", "export", run.id])
    pictures = "" if embedded else " --data FOLDER`, with the folder that has the pictures there"
    return (
        f"The network is trained and kept in {run.folder}. Copy this folder into the folder `runs` of a computer that "
        f"has zoo with TensorFlow, and type there: `{command}{pictures or '`'}."
    )


def _moved_layers(record: runs.RunRecord) -> set[str]:
    """Return the names of the layers that any phase of a run trained."""
    return {name for phase in record.phases for name in phase.get("moved_layers", ())}


@dataclass(frozen=True)
class Finisher:
    """Makes functions that fit calibration and thresholds for a smaller file; see `make_variant`."""

    trained: TrainedModel
    raw: onnx.ModelProto
    held_out: HeldOut
    options: TrustOptions
    reporter: Reporter

    def of(self, variant: str) -> FinishGraph:
        """Return the function for a variant. It raises an ExportError if no threshold holds the wanted precision."""

        def finish(graph: onnx.ModelProto, info: ModelInfo) -> tuple[onnx.ModelProto, ModelInfo]:
            moved = transfer.moved_by(self.raw, graph, self.trained.dataset, self.held_out, self.options.seed)
            graph, info, fitted = finish_graph(
                self.trained, graph, info, moved, self.options, self.reporter, again=True
            )
            refusal = precision.refused_variant(fitted, self.trained, variant)
            if refusal:
                raise ExportError(f"{refusal}.")
            return graph, info

        return finish

    def thresholds(
        self, variant: str, base: Base, info: ModelInfo, run: Callable[[Any], Sequence[Any]]
    ) -> tuple[ModelInfo, bool]:
        """Return the metadata of a file in another format with thresholds that were measured with the file.

        Args:
            variant: The name of the format.
            base: The ONNX graph that the format stores.
            info: The metadata of the ONNX file.
            run: Runs the file; see `zoo.workflow.format_trust.measured`.

        Returns:
            The metadata, and whether there are thresholds.

        Raises:
            ExportError: No threshold holds the wanted precision.
        """
        dataset, seed = self.trained.dataset, self.options.seed
        known = transfer.moved_by(self.raw, base.made.graph, dataset, self.held_out, seed)
        found = format_trust.measured(base.graph, info, run, known, dataset, self.options)
        if found is None:
            return info, False
        if refusal := precision.refused_variant(found, self.trained, variant):
            raise ExportError(f"{refusal}.")
        return dataclasses.replace(info, trust=dict(found.metadata)), True
