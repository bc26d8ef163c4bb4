"""What the READMEs tell a plugin author, and whoever sets up a device, works as it stands there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

from zoo import testing
from zoo.plugin import registry

README = Path(__file__).resolve().parent.parent / "README.md"


def block(first_line: str) -> str:
    (found,) = re.findall(rf"^```\w+\n({re.escape(first_line)}\n.*?)^```$", README.read_text("utf-8"), re.M | re.S)
    return found


def test_the_example_plugin_is_listed_keeps_the_contract_and_trains(zoo, install_plugin, photos, tmp_path, monkeypatch):
    install_plugin("quick", block("# zoo_quick.py"))
    listed = zoo("list", "quick")
    assert listed.code == 0 and "93,248" in listed.out and "three convolutions" in listed.out
    plugins = registry.load()
    testing.check_architecture(plugins.architecture("quick"))
    testing.check_schedule(plugins.schedule("plain"), plugins.architecture("quick"))
    ran = zoo(
        *("finetune", "quick", "--data", photos, "--size", 32, "--schedule", "plain", "--epochs", 8),
        *("--batch-size", 8, "--runs", tmp_path / "runs", "--exported", tmp_path / "exported"),
    )
    assert ran.code == 0, ran.err
    assert (tmp_path / "exported" / "quick-photos" / "model.onnx").stat().st_size > 4 * 93_248
    # The example's own test, as the README prints it.
    monkeypatch.setitem(sys.modules, "zoo_quick", sys.modules["quick_plugin_module"])
    names: dict = {}
    exec(block("# test_zoo_quick.py"), names)
    names["test_it_keeps_the_contract"]()


def test_every_option_and_command_of_the_readme_exists(zoo):
    text = README.read_text("utf-8")
    commands = set(re.findall(r"(?:^|`| )zoo (list|info|finetune|evaluate|export|plot|predict|doctor)\b", text, re.M))
    assert len(commands) == 8
    helps = "".join(zoo(command, "--help").out for command in sorted(commands))
    options = set(re.findall(r"`(--[a-z-]+)`", text))
    assert len(options) >= 10
    assert {option for option in options if option not in helps} == set()


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
