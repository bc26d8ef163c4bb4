"""The command `zoo-runtime check`: runs the self-test of an exported file."""

from __future__ import annotations

import argparse
import json

from .options import add_key, add_model

DESCRIPTION = (
    "Run the file's self-test: does this machine give the same pixels and probabilities as the machine that exported "
    "the file?"
)


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_model(command)
    add_key(command)
    command.add_argument("--json", action="store_true", help="print the result as JSON")


def run(options: argparse.Namespace) -> int:
    from .._predictor import Predictor
    from .._selftest import check
    from .._session import model_file

    if options.require_signature:
        from .._signature import verify_signature

        signed_by = verify_signature(model_file(options.model), options.require_signature)
        if not options.json:
            print(f"signature      valid, of the key {signed_by}")
    result = check(Predictor(options.model))
    if options.json:
        print(json.dumps(vars(result)))
        return 0 if result.passed else 1
    pixels = "equal" if result.pixels_equal else f"differ by at most {result.pixel_difference} of 255 where sampled"
    print(f"pixels         {pixels}")
    print(f"probabilities  differ by at most {result.probability_difference:.2g} (allowed {result.tolerance:g})")
    for name, here in result.device.items():
        there = result.workshop.get(name, "unknown")
        print(f"{name:<14} {here}" + ("" if here == there else f" here, {there} where the file was exported"))
    if result.passed:
        print("passed")
    elif result.probability_difference == float("inf"):
        print("FAILED: the network returns values that are not numbers, so the file is damaged. Copy it again.")
    else:
        print("FAILED: this machine does not reproduce the probabilities measured when the file was exported")
    return 0 if result.passed else 1
