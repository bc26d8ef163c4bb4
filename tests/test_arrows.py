"""Who may import whom, read from the source code; and commands that must import nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

# Which of our parts each part may import, from the bottom up. A part may always import itself. A part is a module or a
# package directly below `zoo`.
BOTTOM = {"zoo.errors", "zoo.interrupts", "zoo.reporter", "zoo_runtime"}
# Training on several processes.
HOSTS = {"zoo.hosts"}
TOOLS = BOTTOM | {"zoo.files", "zoo.backend", "zoo.installed", "zoo.plugin"}
ALLOWED = {
    "zoo_runtime": set(),
    "zoo.errors": set(),
    "zoo.interrupts": set(),
    "zoo.reporter": set(),
    "zoo.hosts": {"zoo.errors", "zoo.interrupts"},
    "zoo.files": {"zoo.errors"},
    "zoo.backend": {"zoo.errors", "zoo.interrupts"},
    "zoo.installed": {"zoo.errors"},
    "zoo.plugin": {"zoo.errors", "zoo.installed"},
    "zoo_plugins": {"zoo.plugin"},
    "zoo.runs": {"zoo.errors", "zoo.files"},
    "zoo.pretrained": {"zoo.errors", "zoo.files", "zoo.reporter", "zoo.plugin"},
    "zoo.convert": {"zoo.errors", "zoo.backend", "zoo.interrupts"},
    "zoo.data": TOOLS,
    "zoo.evaluate": BOTTOM | {"zoo.data"},
    "zoo.archives": BOTTOM | {"zoo.files"},
    "zoo.report": BOTTOM | {"zoo.files", "zoo.plugin", "zoo.runs", "zoo.data"},
    "zoo.train": TOOLS | HOSTS | {"zoo.convert", "zoo.data"},
    "zoo.export": BOTTOM | {"zoo.files", "zoo.plugin", "zoo.data", "zoo.convert", "zoo.evaluate"},
    "zoo.config": TOOLS | {"zoo.pretrained", "zoo.data", "zoo.train"},
}
ALLOWED["zoo.workflow"] = set(ALLOWED) - {"zoo_plugins"}
ALLOWED["zoo.testing"] = TOOLS | {"zoo.pretrained", "zoo.convert", "zoo.train", "zoo.export"}
ALLOWED["zoo.scaffold"] = {"zoo.errors", "zoo.installed", "zoo.plugin"}
ALLOWED["zoo.cli"] = set(ALLOWED) - {"zoo_plugins"}
ALLOWED["zoo.__main__"] = {"zoo.cli"}
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
    assert ours <= ALLOWED[part] | {part}


@pytest.mark.parametrize(("module", "path"), list(sources()), ids=lambda value: str(value).rpartition("/")[2])
def test_only_convert_imports_tensorflow(module, path):
    heavy = {name.split(".")[0] for name in imports(module, path)} & {"tensorflow", "tf2onnx"}
    # TensorFlow's converter makes the files of LiteRT.
    assert not heavy or part_of(module) == "zoo.convert" or module == "zoo_plugins.litert"


HEAVY = ("tensorflow", "keras", "numpy", "PIL", "onnxruntime", "onnx", "sklearn", "filelock", "requests", "matplotlib")
LIGHT_COMMANDS = [
    ["list"],
    ["list", "--json"],
    ["info", "mobilenetv2"],
    ["info", "fine-tune"],
    ["--help"],
    ["--version"],
    ["augment", "--help"],
    ["data", "--help"],
    ["data", "show", "--help"],
    ["schedule", "--help"],
    ["schedule", "show", "--help"],
    ["augment", "preview", "--help"],
    ["data", "--help"],
    ["data", "check", "--help"],
    ["data", "restore", "--help"],
    ["runs"],
    *(["runs", command, "--help"] for command in ("show", "diff", "rm")),
    ["cache", "prune", "--help"],
    *(
        [command, "--help"]
        for command in (
            "list",
            "info",
            "finetune",
            "resume",
            "lr-find",
            "evaluate",
            "export",
            "plot",
            "report",
            "predict",
            "verify",
            "doctor",
            "runs",
            "cache",
            "check",
            "new-plugin",
            "compare",
            "sweep",
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
