"""The command `zoo-runtime tune`: finds the settings that suit this machine, and saves them beside the file."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from .options import add_model, provider_names, seconds

DESCRIPTION = (
    "Measure threads, spinning and memory on this machine, and save the best settings beside the file. Then compare it "
    "with the files of the same network for other engines, such as exported/NAME-openvino beside exported/NAME."
)


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
    from .._engine import engine_of
    from .._session import model_file

    def progress(text: str) -> None:
        if not options.json:
            print(text, file=sys.stderr)

    result = measuring.tune(options.model, seconds=options.seconds, providers=options.providers, progress=progress)
    if options.json:
        print(json.dumps(result))
        return 0
    engine = engine_of(model_file(options.model))
    width = max(len(format_settings(row, engine.settings)) for row in result["table"])
    print(f"{'network alone, milliseconds':<{width}} {'p50':>8} {'p90':>8}")
    for row in sorted(result["table"], key=lambda row: row["p50"]):
        print(f"{format_settings(row, engine.settings):<{width}} {row['p50']:8.2f} {row['p90']:8.2f}")
    more = f"more than {measuring.WORTH:.0%} faster than the default in each of {ROUNDS} rounds"
    print(f"chosen          {format_settings(result['settings'], engine.settings)}")
    if result["usual"]:
        print(f"why             this is the default; no other settings were {more}")
    else:
        print(f"why             {more}; among such settings, it has the fewest threads within 3 % of the fastest")
    print(f"saved in        {result['file']}")
    _print_beside(result["beside"])
    warn_busy(result)
    return 0


def _print_beside(beside: dict[str, Any]) -> None:
    """Print the figures of the files for other engines, and which file is the fastest."""
    from .._engine import engine_named

    files = beside["files"]
    width = max((len(row["model"]) for row in files), default=0)
    for row in files:
        if row is files[0]:
            print("\nthe same network on other engines, milliseconds")
        engine = engine_named(row["engine"])
        chosen = format_settings(row["settings"], engine.settings)
        print(f"{row['model']:<{width}} {engine.title:<12} {row['p50']:8.2f}  {chosen}")
    for model, why in beside["left_out"].items():
        print(f"left out: {model}: {why}", file=sys.stderr)
    if files and beside["fastest"] == files[0]["model"]:
        print(f"fastest         {beside['fastest']}; no other is more than 3 % faster")
    elif files:
        fastest = next(row for row in files if row["model"] == beside["fastest"])
        ratio = files[0]["p50"] / fastest["p50"]
        print(f"fastest         {beside['fastest']}, {ratio:.2f} times as fast. Give it to your program instead.")


def warn_busy(result: dict[str, Any]) -> None:
    """Say on standard error that other programs disturbed a measurement, if they did."""
    if result["busy"]:
        print(f"warning: {result['busy']}", file=sys.stderr)


def format_settings(row: dict[str, Any], used: tuple[str, ...] = ("spinning", "arena")) -> str:
    """Format the settings of a row of measurements, such as "cpu, 2 threads, sleeping, memory kept".

    Args:
        row: The settings.
        used: The names of the settings that the engine uses; see `Engine`.
    """
    names = [name if isinstance(name, str) else name[0] for name in row["providers"]]
    count = row["threads"]
    parts = [*names, "default threads" if count is None else f"{count} thread{'s' * (count > 1)}"]
    if "spinning" in used:
        parts.append({None: "spinning briefly", True: "spinning", False: "sleeping"}[row["spinning"]])
    if "arena" in used:
        parts.append("memory kept" if row["arena"] else "memory freed")
    return ", ".join(parts)
