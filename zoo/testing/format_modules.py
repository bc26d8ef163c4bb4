"""Checks that a format names the packages that its functions import. It reads the plugin's code, and runs nothing."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from typing import Any

from zoo.plugin import Format, Logger
from zoo.testing.outcomes import Skipped
from zoo.testing.subject import Subject

OWN = {"zoo", "zoo_plugins", "zoo_runtime"}
# What `pip install finezoo` brings, for a zoo that is used without having been installed.
ALWAYS = {
    *("PIL", "click", "h5py", "keras", "numpy", "onnx", "onnxruntime", "pluggy", "requests", "scipy", "sklearn"),
    *("tensorflow", "tf2onnx", "flatbuffers"),
}


def check_format_needs(subject: Subject, format: Format) -> None:
    """A format names the packages that it imports (`needs`), and the command that installs them (`install`).

    Without them, `--as` says at once what to install. With a package that is not named, the export fails after the
    training. A package that zoo itself or a named one depends on need not be named.
    """
    if format.make is None:
        raise Skipped("zoo itself makes this file")
    needs = {name for item in subject.items if isinstance(item, (Format, Logger)) for name in item.needs}
    needs = needs if format.needs else set()
    named = {name.split(".")[0] for name in {*needs, *format.needs}}
    own = OWN | {module.split(".")[0] for module in subject.modules}
    known = own | ALWAYS | named | set(sys.stdlib_module_names)
    brought: set[str] | None = None
    for function in (format.make, format.run):
        for name, line in _imports(function):
            if name in known:
                continue
            if brought is None:
                brought = _brought_by(named | ALWAYS)
            assert _distributions_of(name) & brought, (
                f"the code imports {name} (line {line}), which is not in needs={tuple(format.needs)}"
            )
    if format.needs:
        # A command that does not even name a package would not help anybody.
        assert re.search(r"\binstall\b|https?://", format.install), f"install is no command: {format.install!r}"


def _imports(function: Callable[..., Any] | None) -> Iterator[tuple[str, int]]:
    """Yield the name and the line of each package that the module of a function imports, also within functions."""
    while isinstance(function, functools.partial):
        function = function.func
    module = inspect.getmodule(inspect.unwrap(function)) if function is not None else None
    try:
        tree = ast.parse(inspect.getsource(module)) if module is not None else ast.Module([], [])
    except (OSError, TypeError, SyntaxError):
        # A module without source code, such as a compiled one.
        return
    for node in _without_annotations(tree):
        if isinstance(node, ast.Import):
            yield from ((each.name.split(".")[0], node.lineno) for each in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.split(".")[0], node.lineno


def _without_annotations(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes but those below `if TYPE_CHECKING:`."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        yield child
        yield from _without_annotations(child)


@functools.cache
def _packages() -> dict[str, list[str]]:
    return {name: list(found) for name, found in metadata.packages_distributions().items()}


def _distributions_of(module: str) -> set[str]:
    return {_plain(each) for each in _packages().get(module, [])}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _brought_by(modules: Iterable[str]) -> set[str]:
    """Return the distributions of some modules, with all that they depend on."""
    waiting = {name for module in modules for name in _distributions_of(module)} | {"finezoo"}
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        found.add(name)
        try:
            required = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for each in required:
            wanted = re.match(r"[\w.-]+", each)
            if wanted and "extra ==" not in each and _plain(wanted[0]) not in found:
                waiting.add(_plain(wanted[0]))
    return found
