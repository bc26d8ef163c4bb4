"""The command `zoo-runtime info`: shows what an exported file says about itself."""

from __future__ import annotations

import argparse
import json
from typing import Any

from .options import MODEL_HELP

DESCRIPTION = (
    "Show what an exported file says about itself: classes, picture size, training, test figures. Without a file, show "
    "the engines and the execution providers of this machine."
)
# The parts of a self-test that are left out: they are long, and say nothing to a reader.
PICTURES = ("pictures", "decoding")


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", nargs="?", help=f"{MODEL_HELP} (default: show what this machine can run)")
    command.add_argument("--json", action="store_true", help="print everything as JSON")


def run(options: argparse.Namespace) -> int:
    if options.model is None:
        return _show_machine(as_json=options.json)
    from .._engine import engine_named
    from .._predictor import Predictor
    from .._selftest import tolerance_of

    predictor = Predictor(options.model)
    info = predictor.info
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
    engine = engine_named(predictor.engine)
    rows["engine"] = f"{engine.title} {engine.version()}"
    for label, value in rows.items():
        if value:
            print(f"{label:<13} {value}")
    return 0


def _show_machine(*, as_json: bool) -> int:
    """Print which engines are installed, and on which execution providers ONNX Runtime can run."""
    from .._cores import usable_cores
    from .._engine import ENGINES
    from .._extras import install_line
    from .._plugin_providers import plugin_providers
    from .._session import available_providers

    versions = {engine.name: engine.version() if engine.installed() else None for engine in ENGINES}
    available = available_providers()
    unusable = {name: why for name, provider in plugin_providers().items() if (why := provider.why_not())}
    if as_json:
        values = {"cores": usable_cores(), "engines": versions, "providers": available, "unusable": unusable}
        print(json.dumps(values, indent=2))
        return 0
    print(f"{'cores':<13} {usable_cores()} may be used")
    for engine in ENGINES:
        version = versions[engine.name]
        state = version or f"not installed. {install_line(engine.extra or '')}"
        print(f"{engine.title:<13} {engine.suffix} files: {state}")
    print(f"{'providers':<13} {', '.join(available)}")
    for name, why in unusable.items():
        print(f"{'':<13} {name} is left out: {why}")
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
