"""The command `zoo-runtime info`: shows what an exported file says about itself."""

from __future__ import annotations

import argparse
import json
from typing import Any

from .options import add_model

DESCRIPTION = "Show what an exported file says about itself: classes, picture size, training, test figures."
# The parts of a self-test that are left out: they are long, and say nothing to a reader.
PICTURES = ("pictures", "decoding")


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_model(command)
    command.add_argument("--json", action="store_true", help="print everything as JSON")


def run(options: argparse.Namespace) -> int:
    from .._predictor import Predictor
    from .._selftest import tolerance_of

    info = Predictor(options.model).info
    if options.json:
        selftest = {key: value for key, value in info.selftest.items() if key not in PICTURES}
        shown = {key: getattr(info, key) for key in info.__dataclass_fields__}
        print(json.dumps({**shown, "image": info.image.to_json(), "selftest": selftest}, indent=2))
        return 0
    height, width = info.image.size
    names = ", ".join(info.classes[:10]) + (f", … ({len(info.classes)} classes)" if len(info.classes) > 10 else "")
    kept = f" (center {info.image.fraction:g})" if info.image.resize == "crop" else ""
    rows: dict[str, str | None] = {
        "classes": names,
        "task": info.task,
        "input": f"{height} x {width} x {info.image.channels}, {info.image.resize}{kept}, {info.image.filter}",
        **{
            key: _brief(getattr(info, key))
            for key in ("architecture", "weights", "precision", "data", "metrics", "trust", "parity", "run")
        },
    }
    tolerance = tolerance_of(info)
    if tolerance is not None:
        allowed = f"probabilities may differ by {tolerance:g} on another machine"
        if (info.precision.get("between_processors") or 0) > (tolerance or 1):
            allowed += "; processors that add int8 numbers in another way may differ more, and `check` fails there"
        rows["selftest"] = allowed
    for label, value in rows.items():
        if value:
            print(f"{label:<13} {value}")
    return 0


def _brief(value: dict[str, Any]) -> str:
    """Format the numbers and short strings of a nested dictionary on one line.

    An accuracy stands with its confidence interval, if the file has one. All other lists are left out, and so are
    strings of more than 100 characters. `zoo-runtime info --json` shows both.
    """
    from .._print import format_accuracy

    parts = []
    for key, item in value.items():
        if isinstance(item, dict):
            inner = _brief(item)
            if inner:
                parts.append(f"{key}: ({inner})")
        elif isinstance(item, float):
            interval = value.get(f"{key}_interval")
            if isinstance(interval, list) and [type(bound) for bound in interval] == [float, float]:
                parts.append(f"{key} {format_accuracy(item, interval)}")
            else:
                parts.append(f"{key} {item:.4g}")
        elif isinstance(item, (str, int)) and len(str(item)) <= 100:
            parts.append(f"{key} {item}")
    return ", ".join(parts)
