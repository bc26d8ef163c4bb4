"""Exports an interrupted run as it stands: the network with its best weights so far. The run can be resumed afterwards.

Nothing in the run folder changes. The exported file says that its training is unfinished.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import config, files, runs
from zoo.config import ResolvedConfig
from zoo.data.dataset import Dataset
from zoo.errors import RunError
from zoo.plugin.registry import Registry
from zoo.reporter import Reporter
from zoo.runs import run_lock
from zoo.train.frozen.stats import CacheStats
from zoo.train.safe_points import SafePoints
from zoo.workflow import replaced, request_file
from zoo.workflow.carry_out import train_config, training_data
from zoo.workflow.export import ExportResult, export_model
from zoo.workflow.keras_network import build_network
from zoo.workflow.replaced import NewExport
from zoo.workflow.trained import TrainedModel
from zoo.workflow.unfinished import load_again

if TYPE_CHECKING:
    import keras

    from zoo.workflow.solved import SolvedNetwork


@dataclass(frozen=True)
class _Standing:
    """What an unfinished run has reached.

    Args:
        model: The network.
        text: How far the training is, such as "epoch 3 of phase 'top'".
        phases: The records of the phases so far, for run.json.
        best_epoch: The number of the epoch whose weights the network has.
        head: The fields of its head, if it is not that of the settings.
        rows: The places of pictures among the training pictures that were held out, int64 (held out,). None if the run
            has a validation part.
        logits: Their out-of-fold logits, float64 (held out, units), NaN where there are none. None if there are none.
    """

    model: keras.Model | SolvedNetwork
    text: str
    phases: list[dict[str, Any]]
    best_epoch: int
    head: dict[str, Any] | None = None
    rows: np.ndarray | None = None
    logits: np.ndarray | None = None


def export_best_so_far(
    folder: Path,
    registry: Registry,
    reporter: Reporter,
    *,
    name: str | None,
    exported: Path,
    data: str | None = None,
    allow_chance: bool = False,
    replace: bool = False,
    precision: float | None = None,
    typed: Sequence[str] = (),
) -> ExportResult:
    """Export an interrupted run with its best weights so far.

    Args:
        folder: The run folder.
        registry: The loaded plugins.
        reporter: Receives progress messages and warnings.
        name: The name of the export. None uses the name of the run with "-unfinished".
        exported: The folder of exports.
        data: The path of the run's pictures, if they have moved.
        allow_chance: True also exports a network that has learned nothing.
        replace: True also replaces exports of other pictures.
        precision: The wanted precision. None means that of the run, and 0 means none.
        typed: The words after `zoo export RUN` that the user typed, for commands in messages.

    Returns:
        See `zoo.workflow.export.export_model`.

    Raises:
        RunError: The run is finished or has no whole epoch, or its pictures have changed.
        ZooError: See `zoo.workflow.export.export_run`.
    """
    run = runs.Run(folder)
    record = run.read_record()
    words = shlex.join(["zoo", "export", str(folder)])
    if record.status == "trained":
        raise RunError(f"the training of {str(folder)!r} is finished. Leave out --best-so-far: `{words}`.")
    if not (folder / request_file.FILE).is_file():
        raise RunError(f"{str(folder)!r} has no safe points, so that nothing of it can be exported.")
    asked = request_file.read(run)
    name = config.checked_name(name or f"{record.name}-unfinished")
    files.check_writable(exported / name, "--exported FOLDER")
    resolved, dataset = load_again(run, record, asked, registry, reporter, data)
    place = str(record.options["data"])
    new = NewExport(run.id, folder.parent, tuple(record.classes), record.task, place, dataset.digest)
    replaced.check_targets(exported, name, (), new, replace=replace)
    standing = _standing(run, resolved, dataset, registry, reporter)
    text = f"the training is unfinished: {standing.text}"
    reporter.warn(f"{text}. `zoo resume {shlex.quote(str(folder))}` finishes it.")
    head = record.head if standing.head is None else standing.head
    changes: dict[str, Any] = {"phases": standing.phases, "best_epoch": standing.best_epoch, "head": head}
    record = dataclasses.replace(record, **changes, others={**record.others, "unfinished": text}).with_warnings([text])
    known, network = _by_digest(standing, dataset), standing.model
    return export_model(
        TrainedModel(network, resolved.architecture, dataset, run, record, name, place, typed, out_of_fold=known),
        exported,
        reporter,
        keep=False,
        allow_chance=allow_chance,
        replace=replace,
        precision=(resolved.requested.wanted_precision if precision is None else precision) or None,
    )


def _by_digest(standing: _Standing, dataset: Dataset) -> dict[str, np.ndarray]:
    """Return the out-of-fold logits by the sha256 of the picture."""
    if standing.rows is None or standing.logits is None:
        return {}
    digests, known = dataset.pixels.digests, np.isfinite(standing.logits).all(axis=1)
    rows = dataset.split.train[standing.rows[known]]
    return {digests[i]: row for i, row in zip(rows, standing.logits[known].astype("float32"), strict=True)}


def _standing(
    run: runs.Run, resolved: ResolvedConfig, dataset: Dataset, registry: Registry, reporter: Reporter
) -> _Standing:
    """Return what an unfinished run has reached.

    Raises:
        RunError: No epoch is finished.
    """
    points = SafePoints(run_lock.folder_of(run), reporter)
    if resolved.schedule.by_evidence:
        standing = _by_evidence(points, resolved, dataset, registry, reporter)
    else:
        standing = _of_phases(points, resolved, dataset, registry, reporter)
    if standing is None:
        raise RunError(
            f"{str(run.folder)!r} has no network yet that could be exported, because its training was interrupted too "
            f"early. `zoo resume {shlex.quote(str(run.folder))}` continues it."
        )
    return standing


def _of_phases(
    points: SafePoints, resolved: ResolvedConfig, dataset: Dataset, registry: Registry, reporter: Reporter
) -> _Standing | None:
    from zoo.train.so_far import best_so_far

    settings = train_config(resolved, dataset)
    if resolved.requested.folds is not None:
        settings = dataclasses.replace(settings, keep_best=False)
    network, training = build_network(resolved, registry, reporter), points.training("phases")
    found = best_so_far(network, resolved.phases, training_data(dataset), settings, training)
    if found is None:
        return None
    text = f"{len(found.history)} epochs, in phase {found.phases[-1]['name']!r}; these are the weights of epoch "
    stages = len(found.network.architecture.stages)
    text += f"{found.best_epoch}"
    if stages < len(resolved.architecture.stages):
        text += f", and the network has {stages} of {len(resolved.architecture.stages)} stages"
    return _Standing(found.network.model, text, found.phases, found.best_epoch)


def _by_evidence(
    points: SafePoints, resolved: ResolvedConfig, dataset: Dataset, registry: Registry, reporter: Reporter
) -> _Standing | None:
    from zoo.train import evidence
    from zoo.workflow import by_evidence

    stored = points.finished(by_evidence.HEAD)
    if stored is None:
        return None
    data, settings = training_data(dataset), train_config(resolved, dataset)
    chosen, phase = evidence.from_values(stored), dict(stored.facts["phase"])
    head = dataclasses.asdict(chosen.head)
    if points.training("refit").load() is None:
        backbone, groups = by_evidence.features_of(resolved, data, settings, registry, reporter, CacheStats())
        model = by_evidence.head_alone(backbone, chosen, groups, resolved, registry, reporter)
        return _Standing(model, "only the head is trained", [phase], 1, head, chosen.fit.rows, chosen.fit.logits)
    trials = by_evidence.trials_of(chosen, resolved, data, settings, registry, reporter, points)
    # The trials are finished, so that this trains nothing.
    decided = by_evidence.found_by(trials, resolved)
    so_far = trials.so_far(decided)
    if so_far is None:
        return None
    text = f"{len(so_far.history)} epochs after the head, in phase {so_far.phases[-1]['name']!r}"
    phases, logits = [phase, *so_far.phases], decided.logits
    return _Standing(so_far.network.model, text, phases, 1 + so_far.best_epoch, head, chosen.fit.rows, logits)
