"""Evaluates an exported file or a run on pictures.

This module decides the order of the steps. The steps themselves are in `zoo.evaluate`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo import runs
from zoo.data import pixels as pixel_cache
from zoo.data import sources
from zoo.data.reading import ReadingOptions
from zoo.errors import DataLayout, UsageError
from zoo.evaluate import evaluator
from zoo.plugin.registry import Registry
from zoo.reporter import Reporter
from zoo.workflow.own_pictures import changes_for, open_pictures, recorded_reading
from zoo.workflow.replaced import EXPORTED_FILE
from zoo.workflow.solved import SolvedNetwork, open_trained
from zoo_runtime import ImageSpec, ModelError, ModelInfo, Predictor
from zoo_runtime.workshop import exported_in


def evaluate(
    model: Path,
    registry: Registry,
    reporter: Reporter,
    *,
    data: str | None,
    part: str | None,
    runs_folder: Path,
    again: Sequence[str] = ("zoo", "evaluate", "MODEL"),
    reading: ReadingOptions | None = None,
) -> dict[str, Any]:
    """Evaluate an exported file or a run on pictures.

    Args:
        model: The path of an exported file or of a run folder.
        registry: The loaded plugins.
        reporter: Receives progress messages, and warnings about pictures that are unreadable or were used in training.
        data: The path of the pictures, or "digits"; see `zoo.data.sources`. None means the pictures of the run.
        part: "train", "val", "test" or "all". None means the test part if there is one, else all.
        runs_folder: The folder of runs. If `model` is an exported file, its run is looked up there. The run's files say
            which pictures the network was trained on.
        again: The words of the command that the user typed, for error messages.
        reading: How the pictures are read. Options that are not given are those of the run. On pictures at another
            place, all classes are used unless `reading` names some.

    Returns:
        The metrics that `zoo.evaluate.metrics.measure` returns, and an additional key `part` with the name of the part.

    Raises:
        UsageError: No pictures are given and the run of the file is not available, or the pictures have no such part.
        DataError: The pictures cannot be read, or the network cannot predict their classes.
        RunError: The run is not finished, one of its files is missing or damaged, or its pictures have changed.
        ConversionFailed: The run has no exported file, and its network cannot be converted.
        InstallationError: The run has no exported file, and Keras cannot be imported.
        zoo_runtime.ModelError: The file is not a usable exported file.
    """
    predictor, run, record = _open_model(model, runs_folder, registry, reporter)
    if run is None or record is None:
        if data is None:
            raise UsageError(
                f"give pictures with --data FOLDER. The run of this file, which knows its own pictures, is not in "
                f"{str(runs_folder)!r}."
            )
        source = _open_labeled(data, again, reading)
    elif data is None:
        source = open_pictures(run, record, None, again, reading)
    else:
        source = _open_labeled(data, again, _reading(reading or ReadingOptions(), data, record))
    predictor.max_pixels = source.max_pixels
    predictor.formats = source.formats
    digests = pixel_cache.digests_of(source.pictures)
    if run is not None:
        changes_for(run, source, digests, reporter)
    readable = set(range(len(digests)))
    known_parts = run.parts() if run else {}
    unreadable = {os.path.basename(each["picture"]) for each in record.data.get("left_out", ())} if record else set()
    name = data or source.name
    pictures = evaluator.EvaluationPictures(source, digests, readable, known_parts, name, unreadable)
    return evaluator.evaluate(predictor, pictures, reporter, part=part)


def _open_labeled(data: str, again: Sequence[str], reading: ReadingOptions | None) -> sources.Source:
    """List the pictures that the user names, which need class folders or labels.

    Raises:
        DataError: The pictures cannot be found or have no labels. The message then names `zoo predict`.
    """
    try:
        return sources.open_source(data, reading=reading, fewest_classes=1)
    except DataLayout as error:
        command = shlex.join(["zoo", "predict", *again[2:3], data])
        raise DataLayout(f"{error}\nTo label pictures whose classes are not known: `{command}`.") from None


def _reading(typed: ReadingOptions, data: str, record: runs.RunRecord | None) -> ReadingOptions:
    """Return how pictures that a user names are read.

    Args:
        typed: What the user typed.
        data: The path of the pictures.
        record: The record of the run, if it is available. Its options hold where the user typed none. Its classes,
            columns and root hold only for the run's own place, because other pictures may differ in them.
    """
    if record is None:
        return typed
    recorded = recorded_reading(record)
    if sources.location(data) != record.options.get("data"):
        recorded = dataclasses.replace(recorded, classes=None, columns=(), root=None)
    return typed.over(recorded)


def _open_model(
    model: Path, runs_folder: Path, registry: Registry, reporter: Reporter
) -> tuple[Predictor, runs.Run | None, runs.RunRecord | None]:
    """Open an exported file or a run folder.

    Args:
        model: The path of an exported file, of a folder that holds one, or of a run folder.
        runs_folder: The folder of runs. If `model` is an exported file, the run that made it is looked up there.
        registry: The loaded plugins.
        reporter: Receives progress messages.

    Returns:
        The predictor, the run, and the run record. If `model` is an exported file whose run is not in `runs_folder`,
        the run and the record are None.

    Raises:
        RunError: The run is not finished, or run.json or model.keras is missing or damaged.
        ConversionFailed: The run has no exported file, and its network cannot be converted.
        InstallationError: The run has no exported file, and Keras cannot be imported.
        zoo_runtime.ModelError: The file is not a usable exported file.
    """
    if (model.is_dir() and not exported_in(str(model))) or (model / runs.RECORD).is_file():
        run, record = runs.load(model)
        if run.exported.is_file():
            return Predictor(run.exported), run, record
        return Predictor(_exported_for_now(run, record, registry, reporter)), run, record
    predictor = Predictor(model)
    folder = runs_folder / str(predictor.info.run.get("id", ""))
    if predictor.info.run.get("id") and (folder / runs.RECORD).is_file():
        return predictor, *runs.load(folder)
    return predictor, None, None


def _exported_for_now(run: runs.Run, record: runs.RunRecord, registry: Registry, reporter: Reporter) -> bytes:
    """Convert the network of a run that has no exported file, and return the bytes of an exported file.

    No file is written. Parity is not checked, and the exported file has no self-test and no outlier score.

    Raises:
        RunError: The trained network is damaged, or only its head is kept and the weights below it are not available.
        ConversionFailed: The network cannot be converted.
        InstallationError: Keras cannot be imported.
    """
    from zoo.convert.keras_to_onnx import convert
    from zoo.export import artifact
    from zoo.workflow import trust

    info = ModelInfo(classes=tuple(record.classes), task=record.task, image=ImageSpec(**record.image))
    trained = open_trained(run, record, registry, reporter)
    graph = trained.graph() if isinstance(trained, SolvedNetwork) else convert(trained)
    if not (run.folder / trust.FILE).is_file():
        return artifact.serialize(graph, info)
    fitted = trust.reopened(run.read_json(trust.FILE))
    graph = trust.attach(graph, fitted, record.task)
    return artifact.serialize(graph, dataclasses.replace(info, trust=dict(fitted.metadata)))


def resolve_model(text: str, exported: Path, runs_folder: Path, *, to_predict: bool = False) -> Path:
    """Return the path of the exported file or run folder that a user names.

    Args:
        text: A path, the name of an export, or the id of a run.
        exported: The folder of exports.
        runs_folder: The folder of runs.
        to_predict: True returns the exported file of a run instead of the run folder.

    Raises:
        UsageError: There is no such file, export or run. Or `to_predict` is True and the run has no exported file.
        RunError: `to_predict` is True, and the run is not finished or is damaged.
    """
    places = [Path(text), exported / text, runs_folder / text]
    # The last characters of an id.
    places += filter(None, [runs.locate(text, runs_folder)])
    for path in places:
        # Path.is_file raises an error for names that are too long, and for folders without permission to enter.
        if os.path.isfile(path):
            return path
        if (files := exported_in(str(path))) and not os.path.isfile(path / runs.RECORD):
            # The ONNX file comes first.
            return Path(files[0])
        # All checks of a place come before the next place: a run folder at this path precedes an export of this name.
        if os.path.isfile(path / runs.RECORD):
            folder = path
            break
    else:
        raise UsageError(_not_found(text, exported, runs_folder))
    if not to_predict:
        return folder
    if os.path.isfile(folder / EXPORTED_FILE):
        return folder / EXPORTED_FILE
    runs.load(folder)
    raise UsageError(f"the run {text!r} has no exported file; `zoo export {text}` makes one.")


def find_run(text: str, exported: Path, runs_folder: Path, command: str, typed: Sequence[str] = ()) -> Path:
    """Find the run folder that a user names by its path or by the run's id.

    Args:
        text: What the user typed.
        exported: The folder of exports.
        runs_folder: The folder of runs.
        command: The command that the user typed, such as "zoo export", for messages.
        typed: The other words that the user typed, such as ["--fp16"]. If an error message suggests a corrected
            command, this command repeats these words.

    Returns:
        The path of the run folder.

    Raises:
        UsageError: There is no such run. If `text` names an export instead, the message suggests the same command with
            the run that made the export.
    """
    found = runs.locate(text, runs_folder)
    if found:
        return found
    for path in (Path(text), exported / text):
        file = path if os.path.isfile(path) else Path(next(iter(exported_in(str(path))), path / EXPORTED_FILE))
        with contextlib.suppress(ModelError):
            identity = Predictor(file, tuned=False).info.run.get("id")
            if not identity:
                raise UsageError(f"{text!r} is a published network, which no run made. `{command}` needs a run.")
            folder = runs.locate(str(identity), runs_folder)
            if folder:
                words = shlex.join([str(folder), *typed])
                raise UsageError(f"{text!r} is an export, not a run. It came from {folder}: `{command} {words}`.")
            raise UsageError(
                f"{text!r} is an export, not a run. It came from the run {identity}, which is not in "
                f"{str(runs_folder)!r}. Name the folder of that run, or its parent folder with --runs."
            )
    return runs.find(text, runs_folder)


def _not_found(text: str, exported: Path, runs_folder: Path) -> str:
    """Return the error message for a string that does not name an exported file, an export or a run.

    The message lists the exports and the latest runs, and suggests a similar name.
    """
    exports = sorted(path.name for path in exported.glob("*") if exported_in(str(path)))
    nearest = difflib.get_close_matches(Path(text).name, [*exports, *runs.names(runs_folder)], n=1)
    hint = f" Did you mean {nearest[0]}?" if nearest else ""
    if os.path.isdir(text):
        try:
            Predictor(text)
        except ModelError as error:
            # The runtime says what the folder holds instead.
            hint = f" {str(error)[:1].upper()}{str(error)[1:]}"
    return (
        f"there is no exported file, export or run called {text!r}.{hint} "
        f"Exports in {str(exported)!r}: {', '.join(exports) or 'none'}. "
        f"Runs in {str(runs_folder)!r}: {runs.latest(runs_folder)}."
    )
