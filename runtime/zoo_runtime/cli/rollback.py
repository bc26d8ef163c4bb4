"""The command `zoo-runtime rollback`: exchanges the present exported file and the one before it."""

from __future__ import annotations

import argparse

from .options import KEY_HELP
from .update import as_json, show_checks, show_files

DESCRIPTION = (
    "Exchange the exported file and the one that the latest update replaced. A second call exchanges them again."
)


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", metavar="DIR", help="the folder that holds model.onnx and model.previous.onnx")
    command.add_argument("--require-signature", metavar="PUB", help=KEY_HELP)
    command.add_argument("--json", action="store_true", help="print the result as JSON")


def run(options: argparse.Namespace) -> int:
    from .._update import rollback

    result = rollback(options.folder, require_signature=options.require_signature)
    if options.json:
        print(as_json(result))
        return 0
    show_checks(result)
    show_files(result)
    if result.previous:
        print(f"               another `zoo-runtime rollback {options.folder}` exchanges them again")
    return 0
