"""The command `zoo-runtime tune`: finds the settings that suit this machine, and saves them beside the file."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from .options import add_model, provider_names, seconds

DESCRIPTION = "Measure threads, spinning and memory on this machine, and save the best settings beside the file."


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_model(command)
    command.add_argument(
        "--providers", type=provider_names, metavar="P,...", help="where the network may run (default: cpu)"
    )
    command.add_argument(
        "--seconds", type=seconds, default=2.0, metavar="S", help="per combination of settings (default: 2)"
    )
    command.add_argument("--json", action="store_true", help="print the table as JSON")


def run(options: argparse.Namespace) -> int:
    from .. import _tune as measuring
    from .._bench import ROUNDS

    def progress(text: str) -> None:
        if not options.json:
            print(text, file=sys.stderr)

    result = measuring.tune(options.model, seconds=options.seconds, providers=options.providers, progress=progress)
    if options.json:
        print(json.dumps(result))
        return 0
    width = max(len(format_settings(row)) for row in result["table"])
    print(f"{'network alone, milliseconds':<{width}} {'p50':>8} {'p90':>8}")
    for row in sorted(result["table"], key=lambda row: row["p50"]):
        print(f"{format_settings(row):<{width}} {row['p50']:8.2f} {row['p90']:8.2f}")
    more = f"more than {measuring.WORTH:.0%} faster than the default in each of {ROUNDS} rounds"
    print(f"chosen          {format_settings(result['settings'])}")
    if result["usual"]:
        print(f"why             this is the default; no other settings were {more}")
    else:
        print(f"why             {more}; among such settings, it has the fewest threads within 3 % of the fastest")
    print(f"saved in        {result['file']}")
    warn_busy(result)
    return 0


def warn_busy(result: dict[str, Any]) -> None:
    """Say on standard error that other programs disturbed a measurement, if they did."""
    if result["busy"]:
        print(f"warning: {result['busy']}", file=sys.stderr)


def format_settings(row: dict[str, Any]) -> str:
    """Format the settings of a row of measurements, such as "cpu, 2 threads, sleeping, memory kept"."""
    names = [name if isinstance(name, str) else name[0] for name in row["providers"]]
    count = row["threads"]
    threads = "default threads" if count is None else f"{count} thread{'s' * (count > 1)}"
    waits = {None: "spinning briefly", True: "spinning", False: "sleeping"}[row["spinning"]]
    return f"{', '.join(names)}, {threads}, {waits}, {'memory kept' if row['arena'] else 'memory freed'}"
