"""The documentation works as it stands: the plugin example, the runtime's service, commands, options and links."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from zoo import testing

REPOSITORY = Path(__file__).resolve().parent.parent
README = REPOSITORY / "README.md"
PAGES = [
    *(README, REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "SECURITY.md", REPOSITORY / "exported" / "README.md"),
    *sorted((REPOSITORY / "docs").glob("*.md")),
    *sorted((REPOSITORY / "examples").rglob("*.md")),
]


def files_of(page: Path) -> dict[str, str]:
    """Return the files that a page prints: a line "`NAME`:", then the content in a fenced block."""
    return dict(re.findall(r"^`([\w.-]+)`:\n\n```\w+\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S))


@pytest.mark.slow
def test_the_example_plugin_installs_lists_passes_its_test_trains_and_goes(environment_of_a_user, photos, tmp_path):
    files = files_of(REPOSITORY / "docs" / "plugins.md")
    assert set(files) == {"pyproject.toml", "zoo_quick.py", "test_zoo_quick.py"}
    folder = tmp_path / "plugin"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    python = environment_of_a_user

    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    installed = python("-m", "pip", "install", *offline, ".", cwd=folder)
    assert installed.returncode == 0, installed.stdout + installed.stderr
    listed = python("-m", "zoo.cli", "list", "quick")
    assert listed.returncode == 0, listed.stderr
    assert "93,248" in listed.stdout and "three convolutions" in listed.stdout
    assert "plain" in python("-m", "zoo.cli", "list", "schedules").stdout

    tested = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_zoo_quick.py", cwd=folder)
    assert tested.returncode == 0 and "16 passed, 1 skipped" in tested.stdout, tested.stdout + tested.stderr

    ran = python(
        *("-m", "zoo.cli", "finetune", "quick", "--data", photos, "--size", 32, "--schedule", "plain"),
        *("--epochs", 8, "--batch-size", 8),
    )
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "exported" / "quick-photos" / "model.onnx").stat().st_size > 4 * 93_248

    removed = python("-m", "pip", "uninstall", "--yes", "--disable-pip-version-check", "zoo-quick")
    assert removed.returncode == 0, removed.stderr
    gone = python("-m", "zoo.cli", "list", "quick")
    assert gone.returncode == 2 and "three convolutions" not in gone.stdout


def commands() -> dict[str, click.Command]:
    """Return every command by what a user types after `zoo`: "finetune", "augment preview"."""
    from zoo import cli

    found: dict[str, click.Command] = {}
    for name, command in cli.cli.commands.items():
        if isinstance(command, click.Group):
            found |= {f"{name} {inner}": one for inner, one in command.commands.items()}
        if not isinstance(command, click.Group) or command.invoke_without_command:
            found[name] = command
    return found


def options_of(command: click.Command) -> set[str]:
    """Return the long options of a command."""
    texts = {text for parameter in command.params for text in (*parameter.opts, *parameter.secondary_opts)}
    return {text for text in texts if text.startswith("--")} | {"--help"}


def code_of(page: Path) -> list[str]:
    """Return all code of a page: inline spans, and the lines of indented and fenced blocks, comments removed."""
    text = page.read_text("utf-8")
    fenced = re.findall(r"^```\w*\n(.*?)^```$", text, re.M | re.S)
    text = re.sub(r"^```\w*\n.*?^```$", "", text, flags=re.M | re.S)
    lines = [*(line for block in fenced for line in block.splitlines()), *re.findall(r"^ {4}(.*)$", text, re.M)]
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]
    return [piece.strip() for line in [*lines, *spans] for piece in re.sub(r"\s#.*", "", line).split("&&")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_every_command_and_option_that_a_page_names_exists(page):
    known = commands()
    everything = set().union(*map(options_of, known.values()))
    folder = REPOSITORY / "runtime" / "zoo_runtime" / "cli"
    runtime = "".join(path.read_text("utf-8") for path in sorted(folder.glob("*.py")))
    scripts = "".join(path.read_text("utf-8") for path in sorted((REPOSITORY / "benchmarks").glob("*.py")))
    for code in code_of(page):
        # Optional parts stand in brackets: [--json], ARCH[.TAG].
        words = re.sub(r"\[(--?\w[^\]]*)\]", r" \1 ", code)
        if re.fullmatch(r"--[a-z0-9-]+( .*)?", code):
            option = code.split()[0]
            assert option in everything or f'"{option}"' in runtime + scripts, code
        elif re.match(r"zoo [a-z]", code):
            _, first, *rest = shlex.split(words)
            name = f"{first} {rest[0]}" if rest and f"{first} {rest[0]}" in known else first
            if first not in known and any(key.startswith(f"{first} ") for key in known) and not rest:
                continue
            assert name in known, code
            options = {word.split("=")[0] for word in rest if re.match(r"--[a-z]", word)}
            assert options <= options_of(known[name]), code


def test_every_command_is_in_the_readme_and_every_option_of_finetune_in_its_page():
    code = code_of(README)
    for name in commands():
        assert any(re.match(rf"zoo {name}\b", piece) for piece in code), f"README.md does not name `zoo {name}`"
    text = (REPOSITORY / "docs" / "options.md").read_text("utf-8")
    named = set(re.findall(r"`(--[a-z0-9-]+)", text))
    assert options_of(commands()["finetune"]) - {"--help"} <= named


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_every_link_of_a_page_leads_somewhere(page):
    text = re.sub(r"^```\w*\n.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            linked = (page.parent / path).resolve() if path else page
            assert linked.exists(), target
            if anchor:
                titles = re.findall(r"^#+ (.*)$", linked.read_text("utf-8"), re.M)
                anchors = {re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles}
                assert anchor in anchors, target


def test_the_readme_is_short():
    assert len(README.read_text("utf-8").splitlines()) <= 200


def test_both_distributions_carry_the_same_licence():
    whole, runtime = ((REPOSITORY / folder / "LICENSE").read_text("utf-8") for folder in (".", "runtime"))
    assert whole == runtime and "Apache License" in whole


def test_the_service_of_the_runtimes_page_works(tmp_path, finished):
    """Labels what comes, keeps what it cannot read, and is not stopped by a folder or a picture half written."""
    text = (README.parent / "runtime" / "README.md").read_text("utf-8")
    (code,) = re.findall(r"^```python\n(import os\n.*?)^```$", text, re.M | re.S)
    (tmp_path / "watch.py").write_text(code)
    inbox = tmp_path / "inbox"
    (inbox / "folder").mkdir(parents=True)
    run, _, _ = finished
    sample = json.loads((run / "run.json").read_text())["options"]["data"]
    picture = next(path for path in sorted(Path(sample).rglob("*.jpg")))
    (inbox / "a.jpg").write_bytes(picture.read_bytes())
    (inbox / "b.jpg").write_bytes(b"no picture")
    (inbox / "c.jpg.part").write_bytes(b"half")
    process = subprocess.Popen(
        [sys.executable, "-u", tmp_path / "watch.py", run / "model.onnx", tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert re.fullmatch(r"a\.jpg: (bars|discs|noise) \d\.\d{3}\n", process.stdout.readline())
        assert process.stderr.readline().startswith("b.jpg: ")
        (inbox / "d.jpg").write_bytes(picture.read_bytes())
        assert process.stdout.readline().startswith("d.jpg: ")
        end = time.monotonic() + 20
        while (inbox / "d.jpg").exists() and time.monotonic() < end:
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    assert sorted(path.name for path in inbox.iterdir()) == ["c.jpg.part", "folder"]
    assert [path.read_bytes() for path in (tmp_path / "refused").iterdir()] == [b"no picture"]


def test_the_page_lists_every_check_with_its_rule():
    page = (REPOSITORY / "docs" / "plugins.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| [a-z ]+ \| (.*) \|$", page, re.M))
    assert rows == {check.name: check.rule for check in testing.CHECKS}


def test_the_example_policy_keeps_the_contract_and_refuses_what_is_out_of_range():
    page = (REPOSITORY / "docs" / "plugins.md").read_text("utf-8")
    (code,) = re.findall(r"^```python\n(from zoo\.plugin import \(\n    Augmentation,.*?)^```$", page, re.M | re.S)
    names: dict = {}
    exec(code, names)
    (policy,) = names["zoo_augmentations"]()
    testing.check_augmentation(policy)
    with pytest.raises(ValueError, match="strength must be a number from 0 to 255"):
        policy.build(flip=True, strength=256)
