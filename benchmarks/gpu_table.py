"""Prints what `gpu.py` has measured as a table, and says what limits the training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

COLUMNS = (("all layers", "all"), ("unaltered", "unaltered"), ("head alone", "head"))


def table(results: Path) -> str:
    """Return all results in a folder as text, with what they say about the limits."""
    found = [json.loads(path.read_text()) for path in sorted(results.glob("*-*-*.json"))]
    found += [json.loads(path.read_text()) for path in sorted(results.glob("timm-*.json"))]
    good = [each for each in found if "engine" in each]
    lines = [f"not measured: {each['part']} {each['network']}: {why(each)}" for each in found if each not in good]
    keys = ("engine", "on_gpu", "gpu", "compute", "size", "batch", "pictures", "epochs")
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for each in good:
        groups.setdefault(tuple(each[key] for key in keys), []).append(each)
    for (engine, on_gpu, device, compute, size, batch, pictures, epochs), group in groups.items():
        place = device or "an accelerator"
        lines += ["", f"{engine}: {place if on_gpu else 'A PROCESSOR, which says nothing about GPUs'}"]
        lines.append(f"{compute}, {size}x{size}, batches of {batch}, {pictures} pictures, {epochs} epochs")
        lines += [*_rates(group), *_limits(group), *_features(group), *map(_accuracy, group)]
    return "\n".join(line for line in lines if line is not None) if found else "nothing is measured yet"


def why(each: dict[str, Any]) -> str:
    """Return why something was not measured."""
    return each.get("skipped") or each.get("failed", "").strip().rpartition("\n")[2] or "it failed without a word"


def _rates(group: list[dict[str, Any]]) -> list[str]:
    """Return the images a second as a table."""
    rows = [each for each in group if each["part"] in ("train", "keras", "timm", "pipeline")]
    if not rows:
        return []
    heads = "".join(f"{title:>12}" for title, _ in COLUMNS)
    lines = [f"{'images a second':28}{heads}{'first epochs':>16}{'parameters':>13}"]
    for each in sorted(rows, key=lambda each: each["network"]):
        what = "batches alone" if each["part"] == "pipeline" else f"{each['network']} {each['part']}"
        cells = "".join(f"{each[key]['images_per_second']:>12,.1f}" if key in each else " " * 12 for _, key in COLUMNS)
        first = ", ".join(f"{each[key]['first_epoch']:.0f}" for _, key in COLUMNS if key in each) + " s"
        lines.append(f"{what:28}{cells}{first:>16}" + (f"{each['parameters']:>13,}" if "parameters" in each else ""))
    return lines


def _limits(group: list[dict[str, Any]]) -> list[str]:
    """Say how far the batches are the limit, and how zoo compares with plain Keras."""
    rates = {(each["part"], each["network"]): each for each in group}
    alone = next((each for each in group if each["part"] == "pipeline"), None)
    lines = []
    for (part, name), each in rates.items():
        if part != "train":
            continue
        with_light, without = (each[key]["images_per_second"] for key in ("all", "unaltered"))
        says = f"{name}: augmentation costs {max(0.0, 1 - with_light / without):.0%} of the images a second"
        if alone is not None:
            share = with_light / alone["all"]["images_per_second"]
            says += f"; the batches alone would take {share:.0%} of the time of an epoch"
            says += ", and are the limit" if share > 0.8 else ""
        if ("keras", name) in rates:
            other = rates["keras", name]["all"]["images_per_second"]
            says += f"; without augmentation, zoo trains {without / other:.2f} times as many as plain Keras"
        lines.append(says)
    return lines


def _features(group: list[dict[str, Any]]) -> list[str]:
    lines = []
    for each in group:
        if each["part"] != "features":
            continue
        says = f"{each['network']}: features by the backend {each['backend']['images_per_second']:,.1f} images a second"
        if "onnxruntime" in each:
            says += f", by ONNX Runtime on the processor {each['onnxruntime']['images_per_second']:,.1f}"
            says += f"; they differ by {each['difference']:.1e} of the greatest one"
            if "moved_by_noise" in each:
                says += f", and a rounding error of a pixel changes them by {each['moved_by_noise']:.1e}"
        lines.append(says + (f"; {each['why_not_onnxruntime']}" if "why_not_onnxruntime" in each else ""))
    return lines


def _accuracy(each: dict[str, Any]) -> str | None:
    if each["part"] != "accuracy":
        return None
    here, other = each["here"], each["processor"]
    apart = abs(here["val_accuracy"] - other["val_accuracy"])
    verdict = "equal" if apart <= 0.01 else f"NOT EQUAL: {apart:.3f} apart"
    return (
        f"accuracy after 5 epochs on digits: {here['val_accuracy']:.3f} ({here['engine']}), "
        f"{other['val_accuracy']:.3f} ({other['engine']}): {verdict}; losses {here['loss']:.4f}, {other['loss']:.4f}"
    )
