"""Decides whether the network of a run has learned enough to be exported, and reports why not.

`zoo.evaluate.verdict` has the rule.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from zoo import runs
from zoo.evaluate import evaluator
from zoo.evaluate.evaluator import Outputs
from zoo.reporter import Reporter
from zoo.workflow.trained import TrainedModel


def judge(
    trained: TrainedModel,
    outputs: Mapping[str, Outputs],
    reporter: Reporter,
    *,
    allow_chance: bool,
) -> tuple[runs.RunRecord, str | None]:
    """Judge the network of a run by its probabilities on held-out pictures, and report the warnings.

    Args:
        trained: The network with its dataset and its run.
        outputs: Probabilities of pictures that the network was not trained on; see
            `zoo.evaluate.evaluator.measure_parts`.
        reporter: Receives the warnings.
        allow_chance: True never refuses a network.

    Returns:
        The record with the warnings, and the reason for refusing the network. The reason is None if the network has
        learned something or `allow_chance` is True.
    """
    record = trained.record
    phases = [phase for phase in record.phases if phase.get("epochs_run")]
    solved = bool(phases) and all("solution" in phase for phase in phases)
    balanced = bool(record.options.get("balance"))
    # Folds of a schedule that trains all its phases decide nothing.
    chosen = record.evidence is not None
    verdict = evaluator.judge_parts(outputs, trained.dataset, balanced=balanced, solved=solved, chosen=chosen)
    warnings = [*_not_finite(trained.run), *verdict.warnings]
    for text in warnings:
        reporter.warn(text)
    record = record.with_warnings(warnings)
    if verdict.learned or allow_chance:
        return record, None
    advice = export_all_the_same(trained)
    return record, f"no file is exported, because the network has learned nothing. {advice}"


def export_all_the_same(trained: TrainedModel) -> str:
    """Return a sentence with the command that exports a network that has learned nothing."""
    command = trained.export_command("--allow-chance")
    return f"The run is kept; `{command}` exports it all the same."


def _not_finite(run: runs.Run) -> list[str]:
    """Return a warning if the validation loss of some epochs of a run was not finite, else nothing."""
    texts = [row.get("val_loss") for row in run.read_history()]
    # Without validation pictures, the column is empty.
    losses = [float(text) for text in texts if text]
    count = sum(not math.isfinite(loss) for loss in losses)
    if not count:
        return []
    return [f"the validation loss was not finite in {count} of {len(losses)} epochs. Try a lower --learning-rate."]
