"""What `zoo list` and `zoo info` show. Cheap: no Keras, numpy, Pillow or onnxruntime."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from typing import Any

import click

from zoo.cli.console import load_registry
from zoo.errors import UnknownName
from zoo.plugin import Architecture, Augmentation, Schedule, Weights
from zoo.plugin.registry import Registry, squeezed
from zoo.pretrained import fetch

COLUMNS = {
    "architecture": ("name", "parameters", "size", "top1", "licence", "at_hand", "plugin", "summary"),
    "weights": ("name", "size", "top", "top1", "top5", "licence", "at_hand", "plugin", "file"),
    "augmentation": ("name", "plugin", "summary"),
    "schedule": ("name", "plugin", "summary"),
    "plugin": ("name", "distribution", "version", "state"),
}
TITLES = {"top1": "top-1", "top5": "top-5", "at_hand": "at hand"}
NUMBERS = {"parameters", "size", "top1", "top5"}

KIND_NAMES = ("architectures", "weights", "augmentations", "schedules", "plugins")


def rows(registry: Registry, kinds: Sequence[str], part: str) -> list[dict[str, Any]]:
    """List things as plain data.

    Args:
        registry: The loaded plugins.
        kinds: Of "architectures", "weights", "augmentations", "schedules", "plugins".
        part: What the name must contain; capitals, hyphens and underscores do not matter.

    Returns:
        A dictionary a thing, with at least kind, name, plugin.
    """
    makers = {
        "architectures": lambda: [_architecture(registry, item) for item in registry.all(Architecture)],
        "weights": lambda: [_weights(registry, item) for item in registry.all(Weights)],
        "augmentations": lambda: [_plain(registry, "augmentation", item) for item in registry.all(Augmentation)],
        "schedules": lambda: [_plain(registry, "schedule", item) for item in registry.all(Schedule)],
        "plugins": lambda: _plugins(registry),
    }
    return [row for kind in kinds for row in makers[kind]() if squeezed(part) in squeezed(row["name"])]


def _architecture(registry: Registry, item: Architecture) -> dict[str, Any]:
    entries = registry.weights_of(item.name, top=False)
    return {
        "kind": "architecture",
        "name": item.name,
        "parameters": item.parameters,
        "size": list(item.input_size),
        "top1": entries[0].top1 if entries else None,
        "licence": item.licence,
        "at_hand": any(fetch.find_local(entry) for entry in entries),
        "plugin": registry.plugin_of(item).name,
        "summary": item.summary,
    }


def _weights(registry: Registry, item: Weights) -> dict[str, Any]:
    return {
        "kind": "weights",
        "name": item.id,
        "size": list(item.input_size),
        "top": item.includes_top,
        "top1": item.top1,
        "top5": item.top5,
        "licence": item.licence,
        "at_hand": bool(fetch.find_local(item)),
        "plugin": registry.plugin_of(item).name,
        "file": item.filename,
        "url": item.url,
    }


def _plain(registry: Registry, kind: str, item: Augmentation | Schedule) -> dict[str, Any]:
    return {"kind": kind, "name": item.name, "plugin": registry.plugin_of(item).name, "summary": item.summary}


def _plugins(registry: Registry) -> list[dict[str, Any]]:
    states = [(plugin, "loaded") for plugin in registry.plugins]
    states += [(plugin, f"broken: {plugin.error}") for plugin in registry.broken]
    return [
        {
            "kind": "plugin",
            "name": plugin.name,
            "plugin": plugin.name,
            "distribution": plugin.distribution,
            "version": plugin.version,
            "state": state,
        }
        for plugin, state in states
    ]


def table(listed: Sequence[dict[str, Any]]) -> str:
    """Lay rows of one kind out under their titles."""
    columns = COLUMNS[listed[0]["kind"]]
    cells = [[TITLES.get(column, column) for column in columns]]
    cells += [[_cell(column, row[column]) for column in columns] for row in listed]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = []
    for line in cells:
        padded = [
            text.rjust(width) if column in NUMBERS else text.ljust(width)
            for column, text, width in zip(columns, line, widths, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _cell(column: str, value: Any) -> str:
    if value is None:
        return "-"
    if column == "parameters":
        # A backbone without parameters, as that of mnist_dense, does not mean a network without any.
        return f"{value:,}" if value else "-"
    if column == "size":
        return "x".join(map(str, value))
    if column in ("top1", "top5"):
        return f"{value:.3f}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def describe(registry: Registry, name: str) -> str:
    """Tell all that is known of one thing, whatever its kind.

    Raises:
        UnknownName: Nothing has that name.
        DuplicateName: Two plugins bring it.
    """
    head, _, tag = name.partition(".")
    head = registry.canonical_name(head)
    known = {kind: {item.name for item in registry.all(kind)} for kind in (Architecture, Augmentation, Schedule)}
    for kind, key in registry.conflicts:
        if kind in known:
            known[kind].add(key)
    if head in known[Architecture]:
        architecture, _ = registry.resolve(name)
        return _describe_architecture(registry, architecture, tag or None)
    if name in known[Schedule]:
        return _describe_schedule(registry, registry.schedule(name))
    if name in known[Augmentation]:
        item = registry.augmentation(name)
        facts = {"plugin": registry.plugin_of(item), **{f"default {k}": v for k, v in item.parameters.items()}}
        return f"{name}: {item.summary}\n{_facts(facts)}"
    raise UnknownName("architecture, schedule or augmentation", name, set().union(*known.values()), "See `zoo list`.")


def _describe_architecture(registry: Registry, item: Architecture, tag: str | None) -> str:
    head = item.head
    parts = [f"1x1 convolution to {head.reduce}"] if head.reduce else []
    parts += [f"{head.pool} pool"]
    parts += [f"dropout {head.dropout:g}"] if head.dropout else []
    parts += [f"dense {units}" for units in head.hidden]
    facts = {
        "plugin": registry.plugin_of(item),
        "parameters": f"{item.parameters:,} without head" if item.parameters else "none before the head",
        "input": f"{item.input_size[0]}x{item.input_size[1]}x{item.channels}, at least {item.min_size}x{item.min_size}",
        "head": ", ".join(parts),
        "schedule": f"{item.default_schedule} (scratch on random weights)",
        "learning rate": f"{item.learning_rate:g} from random weights",
        "stages": ", ".join(stage.name for stage in item.stages),
        "classifier": "zoo export --top" if item.build_classifier else "none published",
        "licence": item.licence,
        "source": item.source,
    }
    text = f"{item.name}: {item.summary}\n{_facts(facts)}"
    for entry in registry.weights_of(item.name, tag):
        text += f"\n\n{entry.id}, {'with' if entry.includes_top else 'without'} top\n" + _facts(_weights_facts(entry))
    return text


def _weights_facts(entry: Weights) -> dict[str, Any]:
    found = fetch.find_local(entry)
    return {
        "size": "x".join(map(str, entry.input_size)),
        "top-1, top-5": f"{entry.top1}, {entry.top5 or '-'} (reported, ImageNet)" if entry.top1 else "not reported",
        "at hand": f"{found[0]} ({found[1]})" if found else "no",
        "file": entry.filename + (f", {entry.bytes:,} bytes" if entry.bytes else ""),
        "url": entry.url,
        "hash": entry.hash or "none published; recorded on first download",
        "licence": entry.licence,
        "source": entry.source,
        "paper": entry.paper or "-",
    }


def _describe_schedule(registry: Registry, item: Schedule) -> str:
    text = f"{item.name}: {item.summary}\n" + _facts({"plugin": registry.plugin_of(item)})
    phases = item.phases
    if callable(phases):
        if not registry.all(Architecture):
            return text + "\nphases depend on the architecture, and there is none"
        example = registry.all(Architecture)[0]
        text += f"\nphases depend on the architecture; for {example.name}:"
        phases = item.phases_for(example)
    for phase in phases:
        text += (
            f"\n  {phase.name}: trains {phase.train}, {phase.epochs} epochs, {phase.optimizer} at "
            f"{phase.learning_rate:g} ({phase.lr_schedule}), BatchNorm {phase.batch_norm}"
        )
    return text


def _facts(facts: dict[str, Any]) -> str:
    width = max(map(len, facts)) + 2
    return "\n".join(
        textwrap.fill(
            f"  {label:<{width}}{value}",
            100,
            subsequent_indent=" " * (width + 2),
            break_long_words=False,
            break_on_hyphens=False,
        )
        for label, value in facts.items()
    )


@click.command("list")
@click.argument("kind", required=False)
@click.argument("filter", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print a list of JSON objects.")
def list_command(kind: str | None, filter: str | None, as_json: bool) -> None:
    """Show what can be chosen.

    KIND is architectures (the default), weights, augmentations, schedules or plugins; FILTER is a part of the name.
    With --json and no KIND, everything is listed.
    """
    pass

    if kind is not None and kind not in KIND_NAMES:
        if filter is not None:
            raise click.UsageError(f"KIND must be one of {', '.join(KIND_NAMES)}. Received: {kind!r}.")
        kind, filter = None, kind
    listed = rows(load_registry(), (kind,) if kind else KIND_NAMES if as_json else ("architectures",), filter or "")
    if as_json:
        click.echo(json.dumps(listed, indent=1))
    elif listed:
        click.echo(table(listed))
    else:
        raise click.UsageError(
            f"nothing of kind {kind or 'architectures'} has {filter!r} in its name. Kinds: {', '.join(KIND_NAMES)}."
        )


@click.command()
@click.argument("name")
def info(name: str) -> None:
    """Show all that is known of one architecture, weights, augmentation policy or schedule."""
    pass

    click.echo(describe(load_registry(), name))
