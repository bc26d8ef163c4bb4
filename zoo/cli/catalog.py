"""The commands `zoo list` and `zoo info`, and the text that they print.

Both commands are quick, because nothing here imports Keras, numpy, Pillow or onnxruntime.
"""

from __future__ import annotations

import difflib
import json
import textwrap
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.console import load_registry
from zoo.errors import UnknownName

if TYPE_CHECKING:
    from zoo.plugin import Architecture, Augmentation, Logger, Schedule, Weights
    from zoo.plugin.registry import Registry

COLUMNS = {
    "architecture": ("name", "parameters", "size", "top1", "licence", "at_hand", "plugin", "summary"),
    "weights": ("name", "size", "top", "top1", "top5", "licence", "at_hand", "plugin", "file"),
    "licence": ("name", "file", "licence", "commerce", "source"),
    "augmentation": ("name", "plugin", "summary"),
    "schedule": ("name", "plugin", "summary"),
    "logger": ("name", "plugin", "installed", "summary"),
    "plugin": ("name", "distribution", "version", "state"),
}
TITLES = {"top1": "top-1", "top5": "top-5", "at_hand": "local"}
NUMBERS = {"parameters", "size", "top-1", "top-5"}
EXAMPLE = "mobilenetv2"
"""`zoo info SCHEDULE` shows the phases for this architecture, or for the first one if no plugin provides it."""
SCRATCH = "scratch if the weights are random"
NO_HASH = "none published; zoo records it on the first download"

KIND_NAMES = ("architectures", "weights", "augmentations", "schedules", "loggers", "plugins")


def rows(registry: Registry, kinds: Sequence[str], part: str) -> list[dict[str, Any]]:
    """List architectures, weights, augmentations, schedules, loggers or plugins as dictionaries.

    Args:
        registry: The loaded plugins.
        kinds: Names from `KIND_NAMES`: what to list, in this order.
        part: Only names that contain this text are listed; letter case, hyphens and underscores are ignored.

    Returns:
        One dictionary per item. It has at least the keys kind, name and plugin.
    """
    from zoo.plugin import Architecture, Augmentation, Logger, Schedule, Weights
    from zoo.plugin.registry import squeezed

    makers = {
        "architectures": lambda: [_architecture(registry, item) for item in registry.all(Architecture)],
        "weights": lambda: [_weights(registry, item) for item in registry.all(Weights)],
        "augmentations": lambda: [_plain(registry, "augmentation", item) for item in registry.all(Augmentation)],
        "schedules": lambda: [_plain(registry, "schedule", item) for item in registry.all(Schedule)],
        "loggers": lambda: [_logger(registry, item) for item in registry.all(Logger)],
        "plugins": lambda: _plugins(registry),
    }
    return [row for kind in kinds for row in makers[kind]() if squeezed(part) in squeezed(row["name"])]


def _architecture(registry: Registry, item: Architecture) -> dict[str, Any]:
    from zoo.pretrained import fetch

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
    from zoo.pretrained import fetch

    return {
        "kind": "weights",
        "name": item.id,
        "size": list(item.input_size),
        "top": item.includes_top,
        "top_optional": item.top_optional,
        "top1": item.top1,
        "top5": item.top5,
        "licence": item.licence,
        "commercial_use": False if item.forbids_commerce else None,
        "at_hand": bool(fetch.find_local(item)),
        "plugin": registry.plugin_of(item).name,
        "file": item.filename,
        "url": item.url,
        "source": item.source,
        "resize": item.resize,
        "filter": item.filter,
    }


def _plain(registry: Registry, kind: str, item: Augmentation | Schedule | Logger) -> dict[str, Any]:
    return {"kind": kind, "name": item.name, "plugin": registry.plugin_of(item).name, "summary": item.summary}


def _logger(registry: Registry, item: Logger) -> dict[str, Any]:
    return {**_plain(registry, "logger", item), "installed": not item.missing()}


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
    """Format items of one kind, such as architectures, as a table.

    Args:
        listed: The result of `rows` for one kind; at least one row.
    """
    columns = COLUMNS[listed[0]["kind"]]
    cells = [[TITLES.get(column, column) for column in columns]]
    cells += [[_cell(column, _value(row, column)) for column in columns] for row in listed]
    return _columns(cells, NUMBERS)


def _value(row: dict[str, Any], column: str) -> Any:
    """Return what a column shows of an item."""
    if column == "top" and row["top_optional"]:
        return "both"
    if column == "commerce":
        return "forbidden" if row["commercial_use"] is False else None
    return row[column]


def _columns(cells: Sequence[Sequence[str]], right: Collection[str]) -> str:
    """Format cells as a table with aligned columns.

    Args:
        cells: The lines of the table. The first line holds the titles.
        right: The titles of the columns that are aligned to the right.
    """
    titles = cells[0]
    widths = [max(len(line[i]) for line in cells) for i in range(len(titles))]
    lines = []
    for line in cells:
        padded = [
            text.rjust(width) if title in right else text.ljust(width)
            for title, text, width in zip(titles, line, widths, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _cell(column: str, value: Any) -> str:
    if value is None:
        return "-"
    if column == "parameters":
        # All parameters of mnist_dense are in its head; "0" would say that the network has none.
        return f"{value:,}" if value else "-"
    if column == "size":
        return "x".join(map(str, value))
    if column in ("top1", "top5"):
        return f"{value:.3f}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def describe(registry: Registry, name: str) -> str:
    """Describe an architecture, its published weights, a schedule, a policy or a logger in several lines of text.

    Args:
        registry: The loaded plugins.
        name: The name as the user typed it ("mobilenetv2", "mobilenetv2.imagenet1k", "fine-tune").

    Raises:
        UnknownName: Nothing has that name.
        DuplicateName: Two or more plugins provide that name.
    """
    from zoo.plugin import Architecture, Augmentation, Logger, Schedule

    head, _, tag = name.partition(".")
    head = registry.canonical_name(head)
    known: dict[type, set[str]] = {
        Architecture: {item.name for item in registry.all(Architecture)},
        Augmentation: {item.name for item in registry.all(Augmentation)},
        Schedule: {item.name for item in registry.all(Schedule)},
        Logger: {item.name for item in registry.all(Logger)},
    }
    for kind, key in registry.conflicts:
        if kind in known:
            known[kind].add(str(key))
    if head in known[Architecture]:
        architecture, _ = registry.resolve(name)
        return _describe_architecture(registry, architecture, tag or None)
    if name in known[Schedule]:
        return _describe_schedule(registry, registry.schedule(name))
    if name in known[Augmentation]:
        item = registry.augmentation(name)
        facts = {"plugin": registry.plugin_of(item), **{f"default {k}": v for k, v in item.parameters.items()}}
        return f"{name}: {item.summary}\n{_facts(facts)}"
    if name in known[Logger]:
        logger = registry.logger(name)
        missing = f"no; run `{logger.install}`" if logger.missing() else "yes"
        return f"{name}: {logger.summary}\n{_facts({'plugin': registry.plugin_of(logger), 'installed': missing})}"
    kinds = "architecture, schedule, augmentation or logger"
    raise UnknownName(kinds, name, set().union(*known.values()), "See `zoo list`.")


def _describe_architecture(registry: Registry, item: Architecture, tag: str | None) -> str:
    head = item.head
    published = registry.weights_of(item.name, tag, top=True) if item.build_classifier else []
    parts = [f"1x1 convolution to {head.reduce}"] if head.reduce else []
    parts += [f"{head.pool} pool"]
    parts += [f"dropout {head.dropout:g}"] if head.dropout else []
    parts += [f"dense {units}" for units in head.hidden]
    facts = {
        "plugin": registry.plugin_of(item),
        "parameters": f"{item.parameters:,} without head" if item.parameters else "none before the head",
        "input": f"{item.input_size[0]}x{item.input_size[1]}x{item.channels}, at least {item.min_size}x{item.min_size}",
        "head": ", ".join(parts),
        "schedule": "scratch" if item.default_schedule == "scratch" else f"{item.default_schedule}; {SCRATCH}",
        "learning rate": f"{item.learning_rate:g} if the weights are random",
        "stages": ", ".join(stage.name for stage in item.stages),
        "classifier": f"`zoo export {published[0].id} --top` exports it" if published else "none published",
        "licence": item.licence,
        "source": item.source,
    }
    text = f"{item.name}: {item.summary}\n{_facts(facts)}"
    entries = registry.weights_of(item.name, tag)
    if tag:
        for entry in entries:
            text += f"\n\n{entry.id}, {_top(entry)} top\n"
            text += _facts(_weights_facts(entry))
        return text
    for identity in dict.fromkeys(entry.id for entry in entries):
        text += "\n\n" + _weights_table(registry, [entry for entry in entries if entry.id == identity])
    return text


def _weights_table(registry: Registry, entries: Sequence[Weights]) -> str:
    """Describe all weights files that have the same id, such as "mobilenetv2.imagenet1k", in several lines of text.

    The first lines describe all files together, for example their plugin, source and licence. A table with one row per
    file follows.

    Args:
        registry: The loaded plugins.
        entries: The files; at least one.
    """
    from zoo.pretrained import fetch

    identity = entries[0].id
    hashed = any(entry.hash for entry in entries)
    facts = {
        "plugin": registry.plugin_of(entries[0]),
        "address": _common([entry.url.rpartition("/")[0] + "/" for entry in entries]),
        "licence": _common([entry.licence for entry in entries]),
        "source": _common([entry.source for entry in entries]),
        "paper": _common([entry.paper or "-" for entry in entries]),
        "top-1": "reported by the publisher, on ImageNet",
    }
    if not hashed:
        facts["hash"] = NO_HASH
    titles = ["size", "top", "top-1", "local", "bytes", *(["hash"] if hashed else []), "file"]
    cells = [
        [
            _cell("size", entry.input_size),
            _top(entry),
            _cell("top1", entry.top1),
            _cell("at_hand", bool(fetch.find_local(entry))),
            f"{entry.bytes:,}" if entry.bytes else "-",
            *([f"{entry.hash[:15]}…" if entry.hash else "-"] if hashed else []),
            entry.filename,
        ]
        for entry in entries
    ]
    count = f"{len(entries)} file{'s' if len(entries) > 1 else ''}"
    return f"{identity}: {count}; `zoo info {identity}` shows them in full\n{_facts(facts)}\n" + textwrap.indent(
        _columns([titles, *cells], {"size", "top-1", "bytes"}), "  "
    )


def _top(entry: Weights) -> str:
    """Say whether a file is for the network with its top: "with", "without", or both."""
    return "with or without" if entry.top_optional else "with" if entry.includes_top else "without"


def _common(values: Sequence[str]) -> str:
    """Return the first value if all values are equal, else "differs from file to file".

    Args:
        values: One fact about several files, such as the licence of each file.
    """
    return values[0] if len(set(values)) == 1 else "differs from file to file"


def _weights_facts(entry: Weights) -> dict[str, Any]:
    from zoo.pretrained import fetch

    found = fetch.find_local(entry)
    facts = {
        "size": _cell("size", entry.input_size),
        "top-1, top-5": f"{entry.top1}, {entry.top5 or '-'} (reported, ImageNet)" if entry.top1 else "not reported",
        "local": f"{found[0]} ({found[1]})" if found else "no",
        "file": entry.filename + (f", {entry.bytes:,} bytes" if entry.bytes else ""),
        "url": entry.url,
        "hash": entry.hash or NO_HASH,
        "licence": entry.licence + ("; it forbids commercial use" if entry.forbids_commerce else ""),
        "source": entry.source,
        "paper": entry.paper or "-",
    }
    if entry.resize or entry.filter:
        facts["resize"] = f"{entry.resize or 'squash'}, {entry.filter or 'bilinear'}: the default for these weights"
    return facts


def _describe_schedule(registry: Registry, item: Schedule) -> str:
    from zoo.plugin import Architecture

    text = f"{item.name}: {item.summary}\n" + _facts({"plugin": registry.plugin_of(item)})
    phases, more = item.phases, "shows which layers each phase trains."
    if callable(phases):
        architectures = registry.all(Architecture)
        if not architectures:
            return f"{text}\nThe phases depend on the architecture, and no plugin brings one."
        example = next((known for known in architectures if known.name == EXAMPLE), architectures[0])
        text += f"\nThe phases depend on the architecture. Those of {example.name} are:"
        phases, more = item.phases_for(example), "shows the phases and their layers for another architecture."
    for phase in phases:
        epochs = f"{phase.epochs} epoch{'s' if phase.epochs > 1 else ''}"
        text += (
            f"\n  {phase.name}: trains {phase.train}, {epochs}, {phase.optimizer} at "
            f"{phase.learning_rate:g} ({phase.lr_schedule}), BatchNorm {phase.batch_norm}"
        )
    return f"{text}\n`zoo schedule show {item.name} ARCH` {more}"


def _facts(facts: dict[str, Any]) -> str:
    """Format facts, one per line: first the label, then the value.

    All values begin in the same column. Long values are wrapped at spaces.
    """
    width = max(map(len, facts)) + 2
    return "\n".join(
        textwrap.fill(
            f"{value}",
            100,
            initial_indent=f"  {label:<{width}}",
            subsequent_indent=" " * (width + 2),
            break_long_words=False,
            break_on_hyphens=False,
        )
        # A file name or an address that is longer than a line stays beside its label.
        if " " in str(value)
        else f"  {label:<{width}}{value}"
        for label, value in facts.items()
    )


@click.command("list", short_help="List networks, weights, augmentations, schedules or loggers.")
@click.argument("kind", required=False)
@click.argument("filter", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print a list of JSON objects.")
def list_command(kind: str | None, filter: str | None, as_json: bool) -> None:
    """List the networks, weights, augmentations, schedules, loggers or plugins that you can choose from.

    KIND is architectures (the default), weights, augmentations, schedules, loggers or plugins. With FILTER, only
    names that contain this text are listed. With --json and without KIND, all kinds are listed.
    """
    similar: list[str] = []
    if kind is not None and kind not in KIND_NAMES:
        if filter is not None:
            raise click.UsageError(f"KIND must be one of {', '.join(KIND_NAMES)}. Received: {kind!r}.")
        similar = difflib.get_close_matches(kind, KIND_NAMES, n=1, cutoff=0.8)
        kind, filter = None, kind
    listed = rows(load_registry(), (kind,) if kind else KIND_NAMES if as_json else ("architectures",), filter or "")
    if as_json:
        click.echo(json.dumps(listed, indent=1))
    elif listed:
        click.echo(table(listed))
    else:
        hint = f"Did you mean `zoo list {similar[0]}`? " if similar else ""
        raise click.UsageError(
            f"no name among the {kind or 'architectures'} contains {filter!r}. {hint}"
            f"`zoo list KIND` lists another kind; KIND is one of {', '.join(KIND_NAMES)}."
        )


@click.command(short_help="Describe a network, weights, a policy or a schedule.")
@click.argument("name")
def info(name: str) -> None:
    """Describe one architecture, published weights, augmentation policy, schedule or logger.

    NAME is a name that `zoo list` shows. For an architecture, its weights files are listed too. For a name with a tag,
    such as mobilenetv2.imagenet1k, all facts about each weights file are shown.
    """
    click.echo(describe(load_registry(), name))
