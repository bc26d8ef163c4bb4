"""The commands for authors of plugins: `zoo new-plugin` and `zoo check`."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.console import quoted
from zoo.cli.table import colored
from zoo.errors import UsageError
from zoo.reporter import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo.testing import Case, Outcome

WORDS = {
    "passed": "pass",
    "failed": "FAIL",
    "skipped": "skip",
    "expected": "expected",
    "unexpected": "UNEXPECTED",
}
INDENT = " " * 12


@click.command("new-plugin", short_help="Write a plugin of your own, ready to install.")
@click.argument("name")
@click.option("--dir", "folder", type=click.Path(path_type=Path), default=".", help="Where its folder is created.")
@click.option(
    "--licence",
    "--license",
    metavar="NAME",
    default="MIT",
    show_default=True,
    help="MIT, Apache-2.0, BSD-3-Clause or ISC.",
)
@click.option("--author", help="Who holds the copyright, for the licence. Default: the authors of the package.")
def new_plugin(name: str, folder: Path, licence: str, author: str | None) -> None:
    """Write a package with a network, an augmentation and a place for weights, which you edit or delete.

    The package zoo-NAME works as it is written: it can be installed, it passes its own tests, and its network NAME can
    be trained. No file is overwritten.
    """
    from zoo.scaffold import write_plugin

    place = write_plugin(name, folder, licence=licence, author=author)
    click.echo(f"Written: {place}")
    for path in sorted(each for each in place.rglob("*") if each.is_file()):
        click.echo(f"  {path.relative_to(place)}")
    click.echo("Next:")
    for line in (
        f"cd {quoted(place)}",
        "pip install -e '.[test]' && pytest",
        f"zoo list {name}",
        f"zoo finetune {name}",
    ):
        click.echo(f"  {line}")
    click.echo(f"Then edit zoo_{name.replace('-', '_')}.py. `zoo check {name}` says what is wrong, and what to do.")


def _expected(context: click.Context, option: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    for name, _, why in pairs:
        if not name or not why.strip():
            raise click.BadParameter(f"give CHECK=REASON. Received: {name!r}.", context, option)
    return {name: why for name, _, why in pairs}


@click.command("check", short_help="Check a plugin against the rules of the plugin API.")
@click.argument("plugin", required=False)
@click.option("--only", metavar="CHECK", multiple=True, help="Run this check alone; may be repeated.")
@click.option(
    "--expect",
    metavar="CHECK=REASON",
    multiple=True,
    callback=_expected,
    help="This check is expected to fail; may be repeated. CHECK may name one item too, as in tinynet-stages.",
)
@click.option("--list", "listing", is_flag=True, help="List the checks and their rules, and check nothing.")
@click.option("--explain", is_flag=True, help="Like --list, with advice.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(
    plugin: str | None, only: Sequence[str], expect: dict[str, str], listing: bool, explain: bool, as_json: bool
) -> int:
    """Check whether a plugin keeps the rules of the plugin API.

    PLUGIN is the name of a plugin, of its distribution or of one of its items, such as a network. It may also be a
    module, or the path of a module or of a project folder; such a plugin need not be installed.

    The exit code is 1 if a check fails, or passes although --expect says that it fails.
    """
    from zoo import backend, testing
    from zoo.plugin import Architecture

    if listing or explain:
        _show_checks(testing.CHECKS, only, explain, as_json)
        return 0
    if plugin is None:
        raise click.UsageError("PLUGIN is missing. `zoo list plugins` shows the installed plugins.")
    cases = testing.plugin_cases(plugin, expected_failures=expect, only=only)
    if not cases:
        raise UsageError(f"{plugin} provides nothing that {' or '.join(only)} could check.")
    if any(case.check.about == (Architecture,) for case in cases):
        # Otherwise each check of a network would fail with the same message.
        backend.check()
    outcomes = []
    width = max(len(case.label) for case in cases), max(len(case.check.name) for case in cases)
    for case in cases:
        outcome = case.outcome()
        outcomes.append(outcome)
        if not as_json:
            _show(outcome, width)
    counts = {state: sum(each.state == state for each in outcomes) for state in WORDS}
    if as_json:
        click.echo(json.dumps({"plugin": plugin, "counts": counts, "checks": list(map(_json, outcomes))}, indent=1))
    else:
        _show_summary(outcomes, counts)
    return 1 if any(outcome.bad for outcome in outcomes) else 0


def _show(outcome: Outcome, width: tuple[int, int]) -> None:
    """Print the line of one check, and what to do if it failed."""
    case = outcome.case
    word = colored(f"{WORDS[outcome.state]:<10}", "failed" if outcome.bad else "trained" if outcome.text else "")
    line = f"{word}  {case.label:<{width[0]}}  {case.check.name:<{width[1]}}  {outcome.seconds:6.1f} s"
    note = outcome.text if outcome.state in ("skipped", "expected") else ""
    click.echo(f"{line}  {note}".rstrip())
    if outcome.bad:
        for paragraph in (outcome.text, *([case.check.advice] if outcome.state == "failed" else [])):
            for text in paragraph.splitlines():
                click.echo(_wrapped(text))


def _wrapped(text: str) -> str:
    return textwrap.fill(
        text, 100, initial_indent=INDENT, subsequent_indent=INDENT, break_long_words=False, break_on_hyphens=False
    )


def _show_summary(outcomes: Sequence[Outcome], counts: dict[str, int]) -> None:
    texts = [f"{count} {state}" for state, count in counts.items() if count]
    seconds = sum(outcome.seconds for outcome in outcomes)
    click.echo(f"{counted(len(outcomes), 'check')} in {seconds:.0f} s: {', '.join(texts)}")


def _json(outcome: Outcome) -> dict[str, Any]:
    case: Case = outcome.case
    return {
        "check": case.check.name,
        "item": case.label,
        "state": outcome.state,
        "text": outcome.text,
        "advice": case.check.advice if outcome.bad else "",
        "seconds": round(outcome.seconds, 3),
    }


def _show_checks(checks: Any, only: Sequence[str], explain: bool, as_json: bool) -> None:
    from zoo.errors import UnknownName
    from zoo.plugin.registry import KINDS

    names = [each.name for each in checks]
    for name in only:
        if name not in names:
            raise UnknownName("check", name, names)
    chosen = [each for each in checks if not only or each.name in only]
    if as_json:
        facts = [
            {"check": each.name, "about": [KINDS[kind] for kind in each.about or ()] or ["plugin"], "rule": each.rule}
            | ({"advice": each.advice} if explain else {})
            for each in chosen
        ]
        click.echo(json.dumps(facts, indent=1))
        return
    for each in chosen:
        click.echo(f"{each.name:<20}  {' '.join(each.rule.split())}")
        if explain:
            click.echo(textwrap.indent(textwrap.fill(each.advice, 96, break_on_hyphens=False), "    ") + "\n")
