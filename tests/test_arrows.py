"""The arrows of the design: who may import whom, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

# What each part may import of ours. A part may always import itself.
BOTTOM = {"zoo.errors", "zoo.timing", "zoo.reporter", "zoo.paths", "zoo.backend", "zoo.application"}
PLUGINS = BOTTOM | {"zoo.plugin", "zoo.hookspecs", "zoo.registry"}
STORES = PLUGINS | {"zoo.data", "zoo.weights", "zoo.runs", "zoo_runtime"}
ALLOWED = {
    "zoo.errors": set(),
    "zoo.timing": set(),
    "zoo.reporter": {"zoo.timing"},
    "zoo.paths": set(),
    "zoo.backend": {"zoo.errors"},
    "zoo.application": {"zoo.errors"},
    "zoo.augmentation_tools": {"zoo.errors"},
    "zoo.plugin": {"zoo.errors", "zoo.application", "zoo.augmentation_tools"},
    "zoo.hookspecs": {"zoo.plugin"},
    "zoo.registry": {"zoo.errors", "zoo.plugin", "zoo.hookspecs"},
    "zoo.data": {"zoo.errors", "zoo.paths", "zoo_runtime"},
    "zoo.weights": {"zoo.errors", "zoo.paths", "zoo.plugin"},
    "zoo.runs": {"zoo.errors"},
    "zoo.convert": {"zoo.errors", "zoo.backend"},
    "zoo.train": STORES | {"zoo.convert"},
    "zoo.evaluate": STORES,
    "zoo.export": STORES | {"zoo.convert"},
    "zoo.testing": STORES | {"zoo.schedules", "zoo.convert", "zoo.train", "zoo.evaluate", "zoo.export"},
    "zoo.origin": STORES,
    "zoo.prepared": STORES,
    "zoo.augmentation": STORES | {"zoo.prepared", "zoo.train"},
    "zoo.schedules": PLUGINS | {"zoo.train"},
    "zoo.recipe": STORES | {"zoo.augmentation", "zoo.schedules", "zoo.origin", "zoo.prepared", "zoo.train"},
    "zoo.compact": STORES | {"zoo.prepared", "zoo.convert", "zoo.evaluate", "zoo.export"},
    "zoo.delivery": STORES | {"zoo.compact", "zoo.prepared", "zoo.convert", "zoo.evaluate", "zoo.export"},
    "zoo.workflow": STORES
    | {"zoo.compact", "zoo.delivery"}
    | {"zoo.recipe", "zoo.origin", "zoo.prepared", "zoo.convert", "zoo.train", "zoo.evaluate", "zoo.export"},
    "zoo.listing": {"zoo.errors", "zoo.plugin", "zoo.registry", "zoo.weights"},
    "zoo.doctor": {"zoo.paths", "zoo.plugin", "zoo.registry", "zoo.runs"},
    "zoo.cli": STORES
    | {
        "zoo.compact",
        "zoo.schedules",
        "zoo.augmentation",
        "zoo.recipe",
        "zoo.workflow",
        "zoo.listing",
        "zoo.doctor",
        "zoo.evaluate",
    },
    "zoo_plugins": {"zoo.plugin"},
    "zoo_runtime": set(),
}
FOLDERS = {"zoo": "zoo", "zoo_plugins": "plugins/zoo_plugins", "zoo_runtime": "runtime/zoo_runtime"}


def sources():
    for package, folder in FOLDERS.items():
        root = REPOSITORY / folder
        for path in sorted(root.rglob("*.py")):
            parts = [package, *path.relative_to(root).with_suffix("").parts]
            yield ".".join(part for part in parts if part != "__init__"), path


def part_of(module: str) -> str:
    top, *rest = module.split(".")
    return f"{top}.{rest[0]}" if top == "zoo" and rest else top


def imports(module: str, path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= 1 or "zoo_runtime" in module, "relative imports stay inside zoo_runtime"
            if node.level:
                continue
            # `from zoo import weights` imports zoo.weights.
            found |= {f"{node.module}.{name.name}" if node.module == "zoo" else node.module for name in node.names}
    return found


@pytest.mark.parametrize(("module", "path"), list(sources()), ids=lambda value: str(value).rpartition("/")[2])
def test_imports_follow_the_arrows(module, path):
    part = part_of(module)
    if part == "zoo":
        assert imports(module, path) == set()
        return
    ours = {part_of(name) for name in imports(module, path) if name.split(".")[0] in FOLDERS}
    allowed = ALLOWED[part] | {part}
    if part == "zoo.plugin":
        allowed = allowed - {"zoo.plugin"}
    assert ours <= allowed


@pytest.mark.parametrize(("module", "path"), list(sources()), ids=lambda value: str(value).rpartition("/")[2])
def test_only_convert_imports_tensorflow(module, path):
    heavy = {name.split(".")[0] for name in imports(module, path)} & {"tensorflow", "tf2onnx"}
    assert not heavy or part_of(module) == "zoo.convert"


HEAVY = ("tensorflow", "keras", "numpy", "PIL", "onnxruntime", "onnx", "sklearn", "pooch", "requests", "matplotlib")
LIGHT_COMMANDS = [
    ["list"],
    ["list", "--json"],
    ["info", "mobilenetv2"],
    ["info", "fine-tune"],
    ["--help"],
    ["--version"],
    ["augment", "--help"],
    ["schedule", "--help"],
    ["schedule", "show", "--help"],
    ["augment", "preview", "--help"],
    *(
        [command, "--help"]
        for command in (
            "list",
            "info",
            "finetune",
            "lr-find",
            "evaluate",
            "export",
            "plot",
            "predict",
            "verify",
            "doctor",
        )
    ),
]


@pytest.mark.parametrize("arguments", LIGHT_COMMANDS, ids=" ".join)
def test_light_commands_import_nothing_heavy(arguments):
    code = (
        "import sys\n"
        f"sys.argv = ['zoo', *{arguments!r}]\n"
        "from zoo.cli import main\n"
        "try: main()\n"
        "except SystemExit as stopped: assert not stopped.code, stopped.code\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("HEAVY []")
    assert len(done.stdout) > 20
