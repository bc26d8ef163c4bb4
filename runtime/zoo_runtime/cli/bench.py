"""The command `zoo-runtime bench`: measures an exported file on this machine, or two against one another."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from .options import add_model, add_predictor_options, predictor_options, seconds
from .tune import format_settings, warn_busy

DESCRIPTION = "Measure an exported file on this machine: latency, cold start, memory and throughput."


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_model(command)
    command.add_argument(
        "paths", nargs="*", metavar="path", help="pictures and folders (default: two pictures inside the file)"
    )
    command.add_argument(
        "--compare", action="store_true", help="time two exported files, MODEL and the first path, against one another"
    )
    add_predictor_options(command)
    command.add_argument(
        "--seconds", type=seconds, default=2.0, metavar="S", help="per measurement (default: 2; ignored by --compare)"
    )
    command.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(options: argparse.Namespace) -> int:
    from .. import _bench as measuring
    from .._engine import engine_named

    chosen = predictor_options(options)
    if options.compare:
        if not options.paths:
            options.usage("--compare needs two exported files, and then pictures or folders")
        other, *paths = options.paths
        result = measuring.compare(options.model, other, paths, **chosen)
        if options.json:
            print(json.dumps(result))
            return 0
        _print_left_out(result)
        warn_busy(result)
        print("both run with the default settings and the options given here; tuned settings are ignored")
        for key, label in (("latency", "photo to label"), ("network", "network alone")):
            row = result[key]
            low, high = row["middle_half"]
            verdict = f"the second is {row['ratio']:.2f} times as fast"
            if low <= 1 <= high:
                verdict += ", which may be chance"
            print(
                f"{label:<15} {row['first']:.2f} and {row['second']:.2f} ms; pair by pair, {verdict} "
                f"(middle half of the pairs {low:.2f} to {high:.2f})"
            )
        if not result["same_classes"]:
            print(f"{'labels':<15} not compared, because the files have different classes")
            return 0
        print(f"{'labels':<15} equal for {result['equal_labels']} of {result['pictures']} pictures")
        return 0
    result = measuring.bench(options.model, options.paths, seconds=options.seconds, **chosen)
    if options.json:
        print(json.dumps(result))
        return 0
    print(f"{result['model']}, {result['megabytes']:.1f} MB; {_pictures(result)}")
    _print_left_out(result)
    warn_busy(result)
    engine = engine_named(result["engine"])
    print(f"{engine.title}, {format_settings(result['settings'], engine.settings)}" + _cores())
    print(f"{'milliseconds':<15} {'p50':>8} {'p90':>8} {'p99':>8}")
    for key, label in (("latency", "photo to label"), ("decoding", "  decoding"), ("network", "  network")):
        print(f"{label:<15} " + " ".join(f"{value:8.2f}" for value in result[key].values()))
    start, folder = result["start"], result["folder"]
    peak = "" if start["peak_megabytes"] is None else f", peak memory {start['peak_megabytes']:.0f} MB"
    print(f"{'cold start':<15} {start['seconds']:.3f} s from the start of a process to a label{peak}")
    print("network alone, pictures per second")
    for row in result["throughput"]:
        threads = f"{row['threads']} thread{'s' * (row['threads'] > 1)},"
        print(f"  {threads:<12} batch {row['batch']:<3} {row['network']:8.0f}")
    print(
        f"{folder['pictures']} pictures in a row: {folder['per_second']:.0f} per second "
        f"(decoding alone {folder['decoding_alone']:.0f}, network alone {folder['network_alone']:.0f})"
    )
    return 0


def _cores() -> str:
    """Return how many cores this process may use, if these are not all cores of the machine."""
    from .._cores import is_limited, usable_cores

    return f"; {usable_cores()} of {os.cpu_count()} cores, because of a quota or an affinity" if is_limited() else ""


def _pictures(result: dict[str, Any]) -> str:
    used, named = result["pictures"], result["named"]
    return f"{used} pictures" + (f", evenly chosen from {named:,}" if named > used + len(result["left_out"]) else "")


def _print_left_out(result: dict[str, Any]) -> None:
    from .._limit import with_option_names
    from .._print import one_line

    for why in result["left_out"]:
        print(f"left out: {one_line(with_option_names(why))}", file=sys.stderr)
