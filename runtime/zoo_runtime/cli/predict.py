"""The command `zoo-runtime predict`: labels pictures."""

from __future__ import annotations

import argparse
import sys

from .options import add_key, add_model, add_predictor_options, positive, predictor_options

DESCRIPTION = "Label pictures, one line per picture."
COVERAGE_HELP = "also show the classes that the picture may be of, with this probability: 0.9, 0.95 or 0.99"


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_model(command)
    command.add_argument(
        "paths", nargs="+", metavar="path", help="a picture, a folder of pictures, or - for a picture on standard input"
    )
    command.add_argument(
        "--top", type=positive, metavar="K", help="show the K likeliest classes (default: 1; with --json: all)"
    )
    command.add_argument("--coverage", type=float, metavar="C", help=COVERAGE_HELP)
    command.add_argument("--json", action="store_true", help="print one JSON object per picture")
    command.add_argument("--csv", metavar="FILE", help="also add a row per picture to a table; - prints the table")
    command.add_argument(
        "--allow-url", action="store_true", help="download pictures from http:// and https:// addresses"
    )
    add_predictor_options(command)
    add_key(command)


def run(options: argparse.Namespace) -> int:
    from .._errors import ModelError
    from .._print import print_predictions

    if options.json and options.csv == "-":
        options.usage("--json and --csv - both print to standard output. Give --csv a file, or leave one of them out.")
    try:
        return print_predictions(
            options.model,
            options.paths,
            top=options.top,
            as_json=options.json,
            coverage=options.coverage,
            csv=options.csv,
            allow_url=options.allow_url,
            require_signature=options.require_signature,
            **predictor_options(options),
        )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModelError:
        from .._foreign import swapped

        words = swapped(options.words, options.model, options.paths)
        if words is None:
            raise
        import shlex

        print(
            f"error: {options.model!r} is not an exported file. Give the exported file first, then pictures: "
            f"`{shlex.join(['zoo-runtime', *words])}`.",
            file=sys.stderr,
        )
        return 2
