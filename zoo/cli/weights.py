"""The commands about published weights: `zoo weights list`, `zoo weights fetch` and `zoo weights verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from zoo.cli import catalog, table
from zoo.cli.console import ConsoleReporter, load_registry

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(short_help="List weights with their licences; make and check a mirror.")
def weights() -> None:
    """List published weights, and make a mirror of them for machines without a network."""


@weights.command("list", short_help="List weights, or their licences.")
@click.argument("filter", required=False)
@click.option("--licence", "--license", is_flag=True, help="Show licence and source of each file.")
@json_option
def list_weights(filter: str | None, licence: bool, as_json: bool) -> None:
    """List the published weights that the plugins know. With FILTER, only names that contain this text are listed."""
    listed = catalog.rows(load_registry(), ("weights",), filter or "")
    if as_json:
        click.echo(json.dumps(listed, indent=1))
        return
    if not listed:
        raise click.UsageError(f"no name among the weights contains {filter!r}. `zoo weights list` shows all.")
    if licence:
        listed = [{**row, "kind": "licence"} for row in listed]
    click.echo(catalog.table(listed))


@weights.command(short_help="Put weights into a folder for machines without a network.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--to", "folder", required=True, type=click.Path(path_type=Path), metavar="DIR", help="The mirror.")
@click.option("--top", is_flag=True, help="Also the files with a top, for `zoo export --top` and `zoo verify`.")
@json_option
def fetch(names: tuple[str, ...], folder: Path, top: bool, as_json: bool) -> None:
    """Copy or download the weights of each NAME (such as mobilenetv2 or mobilenetv2.imagenet1k) into a folder.

    The folder is a mirror: copy it to a machine without a network, and let ZOO_WEIGHTS_DIR name it there. It also gets
    SHA256SUMS, and the licences of the weights in LICENCES.txt.
    """
    from zoo.workflow import mirror

    reporter = ConsoleReporter(only_warnings=as_json)
    done = mirror.make(names, folder, load_registry(), reporter, top=top)
    if as_json:
        click.echo(json.dumps([_to_json(each) for each in done], indent=1))
        return
    click.echo(f"Mirror     {table.one_line(str(folder))}: {mirror.summary(done)}")
    click.echo(f"Licences   {table.one_line(str(folder / mirror.NOTES))}")
    click.echo(f"Use it     ZOO_WEIGHTS_DIR={table.one_line(str(folder.absolute()))} zoo finetune {names[0]}")


@weights.command(short_help="Check every file of a mirror.")
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@json_option
def verify(folder: Path, as_json: bool) -> int:
    """Check the weights files in DIR against its SHA256SUMS and the published hashes.

    The exit code is 1 if a file is missing, damaged, not the published one, or not listed.
    """
    from zoo.workflow import mirror

    found = mirror.verify(folder, load_registry())
    if as_json:
        click.echo(json.dumps([_to_json(each) for each in found], indent=1))
    else:
        for each in found:
            about = f" ({each.about})" if each.about else ""
            click.echo(f"{each.state:<10} {table.one_line(each.name)}{about}")
        click.echo(mirror.summary(found))
    return 0 if all(each.good for each in found) else 1


def _to_json(each: Any) -> dict[str, Any]:
    return {"file": each.name, "bytes": each.bytes, "sha256": each.sha256, "state": each.state, "about": each.about}
