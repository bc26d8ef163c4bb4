"""The house rules: what zoo uses of the runtime, sizes of files and functions, references that lead somewhere."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

import zoo_runtime
import zoo_runtime.workshop

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = [REPOSITORY / "zoo", REPOSITORY / "plugins" / "zoo_plugins", REPOSITORY / "runtime" / "zoo_runtime"]
SOURCES = sorted(path for package in PACKAGES for path in package.rglob("*.py"))
PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md"), REPOSITORY / "runtime" / "README.md"])
LONGEST_FILE, LONGEST_FUNCTION = 500, 60


def name_of(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


@pytest.mark.parametrize("path", [path for path in SOURCES if "zoo_runtime" not in path.parts], ids=name_of)
def test_zoo_uses_the_public_names_of_the_runtime_alone(path):
    used = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "zoo_runtime":
            assert node.module in ("zoo_runtime", "zoo_runtime.workshop"), (
                f"line {node.lineno} imports from {node.module}"
            )
            used |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            assert not [alias.name for alias in node.names if alias.name.startswith("zoo_runtime._")]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "zoo_runtime":
            used.add(node.attr)
    assert used <= {*zoo_runtime.__all__, *zoo_runtime.workshop.__all__, "workshop"}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_files_and_functions_stay_short(path):
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= LONGEST_FILE
    nodes = ast.walk(ast.parse(text))
    functions = [node for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    sizes = {node.name: node.end_lineno - node.lineno + 1 - documentation(node) for node in functions}
    assert {name: size for name, size in sizes.items() if size > LONGEST_FUNCTION} == {}


def documentation(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the number of lines of a function's docstring."""
    first = node.body[0]
    text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    return first.end_lineno - first.lineno + 1 if text else 0


def references() -> list[tuple[str, str]]:
    """Return (file, dotted name) of every name of ours in backticks, in code and on pages."""
    found = []
    for path in (*SOURCES, *PAGES):
        for name in re.findall(r"`((?:zoo|zoo_plugins|zoo_runtime)(?:\.\w+)+)(?:\([^`]*\))?`", path.read_text("utf-8")):
            found.append((name_of(path), name))
    return found


# Keys of the exported file's metadata begin so too, and the group of entry points.
KEYS = {"zoo.plugins", *(f"zoo.{key}" for key in ("schema", "weights", "precision", "selftest", "metrics", "parity"))}
# The last two are an entry of OpenVINO models, and a file inside those of LiteRT.
KEYS |= {"zoo.weights_sha256", "zoo.json"}
KEYS |= {f"zoo.{key}" for key in ("classes", "task", "image", "architecture", "run", "trust")}
# The file with the metadata in the archive at the end of a .tflite file.
KEYS.add("zoo.json")
# The metadata of Parquet files with answers.
KEYS |= {"zoo.model", "zoo.version"}


def test_references_to_our_own_names_lead_somewhere():
    lost = []
    listed = references()
    assert len(listed) > 50
    for place, name in listed:
        if name not in KEYS and not leads_somewhere(name):
            lost.append(f"{place}: {name}")
    assert lost == []


def leads_somewhere(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute, method or field that a module has."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            here = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            fields = getattr(here, "__dataclass_fields__", {})
            documented = re.search(rf"^\s+{part}: ", getattr(here, "__doc__", "") or "", re.MULTILINE)
            if not hasattr(here, part) and part not in fields and not documented:
                return False
            here = getattr(here, part, None)
        return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_pages_name_exist(page):
    """Only names that begin with a folder of ours; what a user or a run makes does not exist here."""
    folders = ("zoo/", "plugins/", "runtime/", "tests/", "benchmarks/", "docs/", ".ci/")
    named = set(re.findall(r"[`(]([\w./-]+\.(?:py|md|jinja|toml))\b[`)#:]", page.read_text("utf-8")))
    mine = {name for name in named if name.startswith(folders) and "NAME" not in name}
    assert {name for name in mine if not (REPOSITORY / name).exists()} == set()
