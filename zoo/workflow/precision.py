"""Decides which precision an export promises, and what to do where no threshold holds it.

`zoo.workflow.trust` finds the threshold itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from zoo import runs
from zoo.export.variants import VARIANTS, option_words
from zoo.reporter import Reporter
from zoo.workflow import trust
from zoo.workflow.trained import TrainedModel
from zoo.workflow.trust import Trust
from zoo_runtime import ModelError, Predictor

OPTION = "--precision"


def wanted(
    typed: float | None,
    run: runs.Run,
    record: runs.RunRecord,
    reporter: Reporter,
    beside: Path | None = None,
    size: Sequence[int] = (),
) -> float | None:
    """Return the precision that an export asks for; None for none.

    If the user does not say, it is that of the run's latest float32 export, which trust.json in the run folder records.

    Args:
        typed: What the user typed with --precision; 0 means none. None if the user typed nothing.
        run: The run folder.
        record: The content of run.json.
        reporter: Receives a message about a precision that the user did not type.
        beside: Where the float32 export is, if only smaller files are made. If it comes from this run and has this
            size, its precision counts.
        size: The (height, width) in pixels of the export.
    """
    if typed is not None:
        return typed or None
    requested = record.options.get("wanted_precision") or None
    found, source = requested, "the training"
    if (run.folder / trust.FILE).is_file():
        entry = run.read_json(trust.FILE).get("unknown")
        if entry:
            found, source = entry.get("precision") or None, "the latest float32 export of the run"
    with contextlib.suppress(ModelError):
        info = None if beside is None else Predictor(beside, tuned=False).info
        if info is not None and info.run.get("id") == run.id and list(info.image.size) == list(size):
            found, source = info.trust.get("unknown", {}).get("precision") or None, f"{beside}"
    if found is not None:
        reporter.say(f"Precision: {found:g} is asked for, as by {source}; `{OPTION} none` asks for none")
    elif requested is not None:
        reporter.say(
            f"Precision: none is asked for, as by {source}; `{OPTION} {requested:g}` asks for that of the training"
        )
    return found


def refused(fitted: Trust, trained: TrainedModel, variants: Sequence[str] = ()) -> str | None:
    """Return why no file is put in place, if no threshold holds the wanted precision, and what to do.

    Args:
        fitted: What was fitted for the float32 file.
        trained: The network with its run.
        variants: The names of smaller files that are not made for that reason.
    """
    if fitted.refusal is None:
        return None
    # With such a word, the export would make only the smaller file.
    smaller = [word for name in variants for word in option_words(name)]
    command = trained.export_command(OPTION, fitted.possible or "none", without=(OPTION, "--as", *smaller))
    without = f" `{OPTION} none` asks for no precision." if fitted.possible else ""
    then = ""
    if smaller:
        made = trained.export_command(*smaller, without=(OPTION, "--as", *smaller))
        then = f" Then `{made}` makes the smaller {'file' if len(smaller) == 1 else 'files'}."
    return f"no file is exported: {fitted.refusal}. The run is kept; `{command}` exports it.{without}{then}"


def refused_variant(fitted: Trust, trained: TrainedModel, name: str) -> str | None:
    """Return why a smaller file is not put in place, if no threshold holds the wanted precision, and what to do.

    Args:
        fitted: What was fitted for the smaller file.
        trained: The network with its run.
        name: The name of the smaller file's kind, such as "int8".
    """
    if fitted.refusal is None:
        return None
    dropped = (OPTION, "--as", *(f"--{each.name}" for each in VARIANTS))
    command = trained.export_command(*option_words(name), OPTION, fitted.possible or "none", without=dropped)
    without = f", and `{OPTION} none` asks for no precision" if fitted.possible else ""
    return f"{fitted.refusal}. `{command}` exports it{without}"
