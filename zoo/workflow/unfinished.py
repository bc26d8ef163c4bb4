"""Resumes interrupted runs: checks that nothing has changed that decides the result, and continues."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

from zoo import backend, config, interrupts, runs
from zoo.config import ResolvedConfig
from zoo.data.dataset import Dataset
from zoo.errors import DataError, DuplicateName, RunError, UnknownName, WeightsError
from zoo.plugin.registry import Registry
from zoo.reporter import Reporter, joined
from zoo.runs import run_lock
from zoo.workflow import export_formats, missing_plugins, own_pictures, replaced, request_file
from zoo.workflow.carry_out import carry_out
from zoo.workflow.export import ExportResult
from zoo.workflow.finetune import agree, load_dataset, plugins_of
from zoo.workflow.judging import EVERYTHING, Judging
from zoo.workflow.replaced import NewExport
from zoo.workflow.request_file import RunRequest


def finished_text(folder: Path) -> str:
    """Return the message for a run that is finished."""
    words = shlex.join(["zoo", "export", str(folder)])
    return f"{str(folder)!r} is finished; there is nothing to resume. `{words}` exports its network again."


@interrupts.handled()
def resume(
    folder: Path,
    registry: Registry,
    reporter: Reporter,
    *,
    data: str | None = None,
    judging: Judging = EVERYTHING,
) -> ExportResult | None:
    """Continue an interrupted run after its latest safe point, with all that it was asked for.

    The weights are those that the run would have had without the interruption, bit for bit.

    Args:
        folder: The run folder.
        registry: The loaded plugins.
        reporter: Receives progress messages and warnings.
        data: The path of the run's pictures, if they have moved. None means the path in the request.
        judging: How far the run is judged by held-out pictures.

    Returns:
        The run folder, the metrics, and the paths of the exported files. None if the run is finished.

    Raises:
        RunError: The run has no safe points, another process works on it, or its pictures, weights or backend have
            changed.
        ZooError: A step failed.
        KeyboardInterrupt: The run was interrupted again.
        Judged: The run was only to be judged.
    """
    run, record, asked = open_unfinished(folder)
    if asked is None:
        return None
    resolved, dataset = load_again(run, record, asked, registry, reporter, data)
    agree(resolved, dataset, registry)
    new = NewExport(run.id, run.folder.parent, resolved.source.classes, resolved.source.task)
    new = dataclasses.replace(new, data=str(record.options["data"]), digest=dataset.digest)
    if asked.config.export:
        variants = export_formats.resolve(asked.variants, registry, lambda text: None)
        replaced.check_targets(asked.config.exported, resolved.name, variants, new, replace=asked.replace)

    def begin() -> None:
        # Another process may have continued the run while this one read the pictures.
        there, now = (run.folder / request_file.FILE).is_file(), run.read_record()
        if not there or (now.status, now.resumed) != (record.status, record.resumed):
            raise RunError(f"another process has continued {str(run.folder)!r} meanwhile. `zoo runs` shows its state.")
        reporter.say(f"Resuming run {run.folder}")
        if record.status != "trained":
            run.write_record(running)

    running = record
    if record.status != "trained":
        running = dataclasses.replace(record.with_status("running"), resumed=[*record.resumed, runs.now()])
    return carry_out(resolved, dataset, registry, run, running, asked, reporter, begin, resumed=True, judging=judging)


def open_unfinished(folder: Path) -> tuple[runs.Run, runs.RunRecord, RunRequest | None]:
    """Open a run that is to be resumed. The request is None if the run is finished.

    Raises:
        RunError: The run cannot be resumed.
    """
    run = runs.Run(folder)
    record = run.read_record()
    state = run_lock.state(run, record)
    if state == "finished":
        return run, record, None
    if state == "running":
        raise RunError(run_lock.in_use(run))
    if not (folder / request_file.FILE).is_file():
        words = list(record.command)
        again = shlex.join(words) if words[:2] == ["zoo", "finetune"] else "zoo finetune"
        raise RunError(
            f"{str(folder)!r} has no safe points (status {record.status!r}): an older version of zoo made it, or its "
            f"folder {runs.UNFINISHED!r} was removed. Start the run again: `{again}`."
        )
    asked = request_file.read(run)
    if asked.backend != backend.wanted() and record.status != "trained":
        raise RunError(
            f"{str(folder)!r} trains on the Keras backend {asked.backend!r}, and this is {backend.wanted()!r}. Set the "
            f"environment variable KERAS_BACKEND={asked.backend}."
        )
    return run, record, asked


def load_again(
    run: runs.Run, record: runs.RunRecord, asked: RunRequest, registry: Registry, reporter: Reporter, data: str | None
) -> tuple[ResolvedConfig, Dataset]:
    """Resolve the settings of an unfinished run again, and load its pictures.

    Args:
        run: The run folder.
        record: The content of run.json.
        asked: What the run was asked for.
        registry: The loaded plugins.
        reporter: Receives progress messages, and a warning if versions have changed.
        data: The path of the run's pictures, if they have moved.

    Raises:
        RunError: The pictures or the weights are not those of the run.
        PluginMissing: A plugin that the run needs is not installed.
    """
    requested = asked.config if data is None else dataclasses.replace(asked.config, data=data)
    command = shlex.join(["zoo", "resume", str(run.folder), "--data"])
    try:
        try:
            resolved = config.resolve(requested, registry, reporter, asked.schedule)
        except (UnknownName, DuplicateName, WeightsError) as error:
            missing_plugins.refuse(run, record, registry, "cannot go on without a plugin that it was made with", error)
        _check_weights(run, record, resolved)
        _warn_of_versions(record, resolved, registry, reporter)
        validation = not (asked.schedule.by_evidence or requested.folds is not None)
        dataset = load_dataset(resolved, reporter, validation=validation)
    except DataError as error:
        raise RunError(
            f"the pictures of {run.id} cannot be read: {error}\nThe run can be resumed once they are back. If they "
            f"were moved, name the new place: `{command} FOLDER`."
        ) from error
    _check_pictures(run, record, dataset, command)
    return resolved, dataset


def _check_weights(run: runs.Run, record: runs.RunRecord, resolved: ResolvedConfig) -> None:
    """Check that training starts from the same weights."""
    before, now = record.weights.get("sha256"), resolved.weights.record.get("sha256")
    if before != now:
        name = record.weights.get("file") or "random weights"
        raise RunError(
            f"{str(run.folder)!r} cannot be resumed, because it started from {name}, which is not there as it was. Put "
            "the file back, or start the run again."
        )


def _warn_of_versions(record: runs.RunRecord, resolved: ResolvedConfig, registry: Registry, reporter: Reporter) -> None:
    """Warn if packages or plugins are not those that the run began with."""
    changes = runs.changed_versions(record.versions)
    changes += [plugin for plugin in plugins_of(resolved, registry) if plugin not in record.plugins]
    if changes:
        reporter.warn(
            f"the run began with other versions ({joined(changes, 6)}). It continues, but its weights may differ from "
            "those of a run without interruption."
        )


def _check_pictures(run: runs.Run, record: runs.RunRecord, dataset: Dataset, command: str) -> None:
    """Check that the pictures, their classes and their split are those of the run."""
    listed = run.pictures() if (run.folder / "pictures.csv").is_file() else None
    keys = ("part", "class", "sha256")

    def content(rows: list[dict[str, str]]) -> list[list[str]]:
        return sorted([row[key] for key in keys] for row in rows)

    if record.data.get("digest") == dataset.digest:
        if listed is None:
            run.write_pictures(dataset.listed())
            return
        if content(listed) == content(dataset.listed()):
            return
    changes = own_pictures.compare(listed or [], dataset.source, dataset.pixels.digests)
    count = len(changes.added)
    added = f"{count} {'was' if count == 1 else 'were'} added" if count else ""
    what = "; ".join(text for text in (changes.text, added) if text) or "their order or their split is another one"
    raise RunError(
        f"{str(run.folder)!r} cannot be resumed, because its pictures have changed: {what}. Put them back as they "
        f"were (`{command} FOLDER` names another place), or start a new run with `zoo finetune`."
    )
