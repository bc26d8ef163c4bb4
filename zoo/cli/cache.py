"""The command about zoo's cache: `zoo cache`, and `zoo cache prune`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from zoo.cli import table
from zoo.cli.console import load_registry
from zoo.cli.table import Column

if TYPE_CHECKING:
    from zoo.workflow.caches import CacheContent, Entry

COLUMNS = (
    Column("KIND"),
    Column("SIZE", right=True),
    Column("LAST USED", dropped=2, right=True),
    Column("WHAT", least=20),
)
SHOWN_FOREIGN = 10


@click.group(invoke_without_command=True, short_help="Show what zoo keeps on the disk, and remove some of it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def cache(context: click.Context, as_json: bool) -> None:
    """Show what zoo keeps in its cache: decoded pictures, features, converted networks, weights.

    The cache is the folder that ZOO_CACHE names, or the usual cache folder of your system.
    """
    if context.invoked_subcommand is not None:
        return
    from zoo import files
    from zoo.workflow import caches

    content = caches.read(load_registry())
    if as_json:
        click.echo(json.dumps(_to_json(content)))
        return
    total = sum(each.bytes for each in content.entries)
    click.echo(f"Cache      {_place(content)}")
    text = f"{files.size_text(total)} in use, {files.size_text(caches.free(content.folder))} free on its disk"
    click.echo(f"Disk       {text}")
    if content.entries:
        click.echo("")
        for line in entry_lines(content.entries):
            click.echo(line)
        click.echo("")
    for kind, size in caches.totals(content).items():
        limit = content.limits.get(kind)
        at_most = f" of at most {files.size_text(limit)}" if limit else ""
        count = sum(each.kind == kind for each in content.entries)
        click.echo(f"{kind.capitalize():11}{files.size_text(size)}{at_most} ({count})")
    _name_others(content)
    if content.entries:
        click.echo("Remove     zoo cache prune [--older-than 30d] [--pictures] [--features] [--weights] [--all]")


def _place(content: CacheContent) -> str:
    text = table.one_line(str(content.folder))
    real = os.path.realpath(content.folder)
    if not os.path.lexists(content.folder):
        return f"{text} (does not exist yet)"
    link = f" -> {table.one_line(real)}" if os.path.islink(content.folder) else ""
    read_only = "" if os.access(content.folder, os.W_OK) else " (you have no permission to write to it)"
    return f"{text}{link}{read_only}"


def entry_lines(entries: Sequence[Entry]) -> list[str]:
    """Return a table of entries of the cache."""
    from zoo.files import size_text

    now = time.time()
    cells = []
    for each in entries:
        where = f" {each.path.name}" if each.kind in ("weights", "downloads") else ""
        notes = [text for text in ("in use" if each.in_use else "", each.loss) if text]
        note = f" ({'; '.join(notes)})" if notes else ""
        age = table.age(now - each.used)
        cells.append([each.kind, size_text(each.bytes), age, f"{each.about}{note}{where}"])
    return [table.joined(line) for line in table.layout(COLUMNS, cells, table.terminal_width())]


def _name_others(content: CacheContent) -> None:
    """Name what zoo did not make, what cannot be read, and the folders that zoo reads weights from."""
    from zoo import files

    for name, why in list(content.foreign.items())[:SHOWN_FOREIGN]:
        click.echo(f"Not of zoo {table.one_line(name)} ({why}); zoo does not remove it")
    if len(content.foreign) > SHOWN_FOREIGN:
        click.echo(f"           and {len(content.foreign) - SHOWN_FOREIGN} more (--json names them)")
    for name, why in content.problems.items():
        click.echo(f"warning: {table.one_line(name)} cannot be read: {why}", err=True)
    if files.mirror() is not None:
        click.echo(f"Mirror     {files.mirror()} (ZOO_WEIGHTS_DIR; yours, zoo does not remove anything there)")


def _to_json(content: CacheContent) -> dict[str, Any]:
    from zoo.workflow import caches

    return {
        "folder": str(content.folder),
        "bytes": sum(each.bytes for each in content.entries),
        "free": caches.free(content.folder),
        "limits": dict(content.limits),
        "entries": [{**vars(each), "path": str(each.path)} for each in content.entries],
        "foreign": dict(content.foreign),
        "problems": dict(content.problems),
    }


def _parse_age(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    from zoo.workflow import caches

    try:
        return caches.parse_age(value)
    except ValueError:
        raise click.BadParameter(f"must be an age, such as 30d, 12h or 2w. Received: {value!r}.") from None


@cache.command("prune", short_help="Remove parts of the cache, after asking.")
@click.option("--pictures", is_flag=True, help="Remove decoded pictures.")
@click.option("--features", is_flag=True, help="Remove features, and the converted networks that compute them.")
@click.option("--weights", is_flag=True, help="Remove downloaded weights, and unfinished downloads.")
@click.option("--all", "everything", is_flag=True, help="Remove all of these.")
@click.option(
    "--older-than",
    callback=_parse_age,
    metavar="AGE",
    help="Remove only what was not used for this long: 30d, 12h, 2w.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def prune(
    pictures: bool,
    features: bool,
    weights: bool,
    everything: bool,
    older_than: float | None,
    dry_run: bool,
    yes: bool,
) -> int:
    """Remove parts of the cache, after saying which. zoo computes or downloads them again when it needs them.

    Without options, it removes decoded pictures, features and converted networks that have not been used for 30 days,
    and what killed processes left behind. It never removes what a process uses or what zoo did not make.
    """
    from zoo.workflow import caches

    asked = {
        (caches.PICTURES,): pictures,
        (caches.FEATURES, caches.NETWORKS): features,
        (caches.WEIGHTS, caches.DOWNLOADS): weights,
    }
    kinds = [kind for group, given in asked.items() if given or everything for kind in group]
    content = caches.read(load_registry())
    chosen = caches.choose(content, kinds, older_than)
    for name, why in content.problems.items():
        click.echo(f"warning: {table.one_line(name)} cannot be read: {why}", err=True)
    used = [each for each in content.entries if each.in_use and (not kinds or each.kind in kinds)]
    if used:
        click.echo(f"In use, so that they stay: {len(used)}")
    if not chosen:
        click.echo("There is nothing to remove.")
        if content.entries and not kinds:
            click.echo("--pictures, --features, --weights and --all also remove what was used lately.")
        return 0
    return _remove(chosen, dry_run=dry_run, yes=yes)


def _remove(chosen: Sequence[Entry], *, dry_run: bool, yes: bool) -> int:
    """Say what is removed, ask, and remove it. Return the exit code."""
    from zoo.cli.run_rm import confirmed
    from zoo.files import size_text
    from zoo.workflow import caches

    for line in entry_lines(chosen):
        click.echo(line)
    size = size_text(sum(each.bytes for each in chosen))
    if dry_run:
        click.echo(f"This would free {size}. Nothing was removed.")
        return 0
    if not confirmed(f"Remove these {len(chosen)} ({size})?", yes, "removed"):
        return 1
    freed, problems = caches.remove(chosen)
    for name, why in problems.items():
        click.echo(f"error: {table.one_line(name)} was not removed: {why}", err=True)
    click.echo(f"Freed      {size_text(freed)}")
    return int(bool(problems))
