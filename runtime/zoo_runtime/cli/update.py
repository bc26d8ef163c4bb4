"""The command `zoo-runtime update`: puts a new exported file in the place of the present one, if it works here."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from .options import KEY_HELP

if TYPE_CHECKING:
    from .._format import ModelInfo
    from .._update import Updated

DESCRIPTION = (
    "Put a new exported file in the place of the present one. It must pass its self-test on this machine. The old file "
    "is kept, and `zoo-runtime rollback DIR` goes back to it."
)


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", metavar="DIR", help="the folder that holds model.onnx")
    command.add_argument("new", metavar="NEW.onnx", help="the new file, or the folder of its export")
    command.add_argument("--require-signature", metavar="PUB", help=KEY_HELP)
    command.add_argument(
        "--allow-other-classes", action="store_true", help="also accept a file with other classes, or in another order"
    )
    command.add_argument(
        "--not-older", action="store_true", help="refuse a file whose run is older than that of the present file"
    )
    command.add_argument("--json", action="store_true", help="print the result as JSON")


def run(options: argparse.Namespace) -> int:
    from .._update import update

    result = update(
        options.folder,
        options.new,
        require_signature=options.require_signature,
        allow_other_classes=options.allow_other_classes,
        not_older=options.not_older,
    )
    if options.json:
        print(as_json(result))
        return 0
    show_checks(result)
    if not result.changed:
        print(f"unchanged      {result.file} is this file already")
        return 0
    show_files(result)
    if result.previous:
        print(f"               `zoo-runtime rollback {options.folder}` exchanges the two")
    return 0


def show_files(result: Updated) -> None:
    """Print which file is in place now, and which is kept."""
    print(f"now            {result.file}: {_origin(result.info)}")
    if result.previous:
        before = _origin(result.before) if result.before else "a file that cannot be used"
        print(f"kept           {result.previous}: {before}")
    for note in result.notes:
        print(f"note           {note}")


def _origin(info: ModelInfo) -> str:
    run = info.run.get("id")
    made = f"run {run}" if run else f"weights {info.weights.get('id') or 'of unknown origin'}"
    kind = info.precision.get("kind")
    return f"{made}, {kind}" if kind else made


def show_checks(result: Updated) -> None:
    """Print what was checked."""
    if result.signed_by:
        print(f"signature      valid, of the key {result.signed_by}")
    difference = result.selftest.probability_difference
    print(f"self-test      passed, probabilities differ by at most {difference:.2g}")


def as_json(result: Updated) -> str:
    """Return a result as JSON, without the metadata of the files."""
    return json.dumps(
        {
            "changed": result.changed,
            "file": result.file,
            "previous": result.previous,
            "signed_by": result.signed_by,
            "selftest": vars(result.selftest),
            "run": result.info.run.get("id"),
            "run_before": result.before.run.get("id") if result.before else None,
            "notes": list(result.notes),
        }
    )
