"""The checks of a plugin as a package, and of the names and facts of its items.

The docstring of each check is the advice that the author of the plugin reads beside a failure.
"""

from __future__ import annotations

import json
import linecache
import os
import re
import subprocess
import sys
from pathlib import Path

from zoo.plugin import Architecture, Augmentation, Format, Logger, Schedule, Weights
from zoo.plugin.registry import HOOKS, KINDS, Item, squeezed
from zoo.testing.outcomes import Blocked
from zoo.testing.subject import Subject

# What takes long to import, and what no plugin needs before a command uses it.
HEAVY = (
    *("IPython", "PIL", "bokeh", "cv2", "datasets", "dask", "flax", "gradio", "huggingface_hub", "imageio", "jax"),
    *("keras", "keras_cv", "keras_hub", "lightning", "matplotlib", "mlflow", "numba", "numpy", "onnx", "onnxruntime"),
    *("openvino", "pandas", "plotly", "polars", "pyarrow", "requests", "safetensors", "scipy", "skimage", "sklearn"),
    *("seaborn", "sympy", "tensorboard", "tensorflow", "tf2onnx", "tf_keras", "timm", "torch", "torchvision"),
    *("transformers", "wandb"),
)
PLACEHOLDERS = {"", "-", "?", "n/a", "na", "none", "null", "tba", "tbd", "todo", "unknown", "xxx", "fixme"}
# An SPDX expression: identifiers joined by AND, OR and WITH.
LICENCE = re.compile(r"[A-Za-z0-9][\w.+-]*(?: (?:AND|OR|WITH) [A-Za-z0-9][\w.+-]*)*")
ADDRESS = re.compile(r"https?://(?P<host>[\w.-]+)|\bdoi:10\.\d+/\S+|\barXiv:\d{4}\.\d{4,5}")
# As `zoo` itself wants them; see zoo.cli.plugin_commands.
COMMAND = re.compile("[a-z][a-z0-9]*(-[a-z0-9]+)*")
# Keras publishes no hashes of the first files. Of the others, neither hash nor commit was known when they were listed.
# zoo records the hash of the first download.
WITHOUT_HASH = (
    "https://storage.googleapis.com/tensorflow/keras-applications/",
    "hf:timm/deit_tiny_patch16_224.fb_in1k/",
    "hf:timm/hgnetv2_b1.ssld_stage2_ft_in1k/",
    "hf:timm/resnext50_32x4d.fb_swsl_ig1b_ft_in1k/",
    "hf:timm/resnext101_32x4d.",
    "hf:timm/tf_efficientnet_b",
    "hf:timm/tf_efficientnetv2_l.in21k_ft_in1k/",
)
# The commit of a repository fixes the content of its files.
COMMIT = re.compile(r"[0-9a-f]{40}")
# Values of --weights, and kinds that `zoo list` takes, mean something else than the item of this name.
RESERVED = {
    Weights: {"auto", "none"},
    Architecture: {"architectures", "augmentations", "loggers", "plugins", "schedules", "weights"},
}


def check_load(subject: Subject) -> None:
    """The plugin can be imported, and its hooks return what the API asks for.

    `zoo doctor` shows the traceback of an installed plugin. What the module imports belongs into `dependencies` in
    pyproject.toml. A hook takes no argument and returns a list of objects of `zoo.plugin`, or of commands. No name may
    be listed twice.
    """
    for broken in subject.broken:
        # pluggy says what is wrong with a hook in a later line of its text.
        last = broken.trace.strip().splitlines()[-1].strip()
        more = "" if last.partition(": ")[2] in broken.error else f". {last}"
        raise AssertionError(f"plugin {broken} cannot be used: {broken.error}{more}")
    for (_, name), plugins in subject.own.conflicts.items():
        raise AssertionError(f"{' and '.join(map(str, plugins))} bring the same name, {name!r}")
    for plugin, command in subject.own.commands:
        if problem := _command_problem(command):
            raise AssertionError(f"plugin {plugin}: {problem}")
    assert subject.items or subject.own.commands, f"{subject.name} provides nothing: its hooks return empty lists"


def _command_problem(command: object) -> str:
    """Return why `zoo` would leave out a command; an empty text if it would not."""
    import click

    if not isinstance(command, click.Command):
        return f"zoo_commands must return click.Command objects. Received: one of {type(command).__name__}"
    if type(command.name) is not str or not COMMAND.fullmatch(command.name):
        return (
            "the name of a command has lower-case letters, digits and single hyphens, and begins with a letter. "
            f"Received: {command.name!r:.60}"
        )
    return ""


def check_light_import(subject: Subject) -> None:
    """Importing the plugin, and calling its hooks, imports nothing large.

    Every `zoo` command loads every plugin, so one slow import makes them all slow. Move the import into the function
    that needs it, such as `build`. For annotations, import below `if TYPE_CHECKING:`.
    """
    for module in subject.modules:
        found, failed = _imports_of(module, subject.folder)
        if failed and not found:
            # `check_load` says so. A plugin that ends its process here has no imports to look at.
            if subject.broken:
                raise Blocked("load")
            raise AssertionError(f"{module} cannot be imported in a process of its own: {failed}")
        assert not found, "; ".join(_led_by(lines, names) for lines, names in _grouped(found))


def _imports_of(module: str, folder: Path | None) -> tuple[dict[str, list[tuple[str, int]]], str]:
    """Import a plugin in another process.

    Returns:
        For each heavy package, the lines of code that led to its import, innermost first; and why the import failed.
    """
    path = [str(folder)] * (folder is not None) + [each or os.getcwd() for each in sys.path]
    request = {"module": module, "path": path, "heavy": HEAVY, "hooks": list(HOOKS)}
    probe = Path(__file__).with_name("probe.py")
    command = [sys.executable, str(probe), json.dumps(request)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return {}, "it takes longer than two minutes"
    lines = done.stdout.splitlines()
    if not lines:
        return {}, (done.stderr.strip().splitlines() or [f"the process ended with exit code {done.returncode}"])[-1]
    answer = json.loads(lines[-1])
    found = {name: [(file, number) for file, number in led] for name, led in answer["found"].items()}
    return found, answer["failed"]


def _grouped(found: dict[str, list[tuple[str, int]]]) -> list[tuple[list[tuple[str, int]], list[str]]]:
    """Group the packages by the line of the plugin that leads to them. The first of each group brings the others."""
    groups: dict[tuple[str, int], tuple[list[tuple[str, int]], list[str]]] = {}
    for name, lines in found.items():
        outer = lines[-1] if lines else ("", 0)
        groups.setdefault(outer, (lines, []))[1].append(name)
    return list(groups.values())


def _led_by(lines: list[tuple[str, int]], names: list[str]) -> str:
    """Say which line of a plugin imports large packages, and by which other line, if that is not its own."""
    first, *rest = names
    others = f", and with it {', '.join(rest[:4])}{f' and {len(rest) - 4} more' if len(rest) > 4 else ''}" * bool(rest)
    if not lines:
        return f"it imports {first}{others}"
    (file, number), (outer, line) = lines[0], lines[-1]
    text = f"line {line} of {outer} ({linecache.getline(outer, line).strip()}) imports {first}"
    if (outer, line) != (file, number):
        text += f", by line {number} of {file} ({linecache.getline(file, number).strip()})"
    return text + others


def check_ids(subject: Subject, item: Item) -> None:
    """Names are legal, unique, and lead to what exists.

    Two plugins that bring the same name lose it both, and names that differ only in hyphens, underscores or capitals
    cannot be told apart. `zoo info NAME` needs one meaning. Name an architecture that exists in `Weights`, and a
    schedule that exists in `default_schedule`.
    """
    registry, kind = subject.registry, type(item)
    mine = subject.own.plugin_of(item)
    name = item.id if isinstance(item, Weights) else item.name
    for (kind_of, key), plugins in registry.conflicts.items():
        if kind_of is kind and key == ((item.architecture, item.tag) if isinstance(item, Weights) else item.name):
            brings = [str(plugin) for plugin in plugins if plugin != mine]
            raise AssertionError(f"{KINDS[kind]} {name!r} is brought by {' and '.join(brings)} too; zoo uses neither")
    part = item.tag if isinstance(item, Weights) else item.name
    assert part not in RESERVED.get(kind, ()), f"{part!r} means something else to zoo; choose another name"
    if isinstance(item, Weights):
        known = {each.name for each in registry.all(Architecture)}
        known |= {str(key) for kind_of, key in registry.conflicts if kind_of is Architecture}
        assert item.architecture in known, f"{name!r}: no plugin brings an architecture {item.architecture!r}"
        return
    others: list[Architecture | Augmentation | Schedule | Logger | Format] = [
        *registry.all(Architecture),
        *registry.all(Augmentation),
        *registry.all(Schedule),
        *registry.all(Logger),
        *registry.all(Format),
    ]
    for other in others:
        other_kind = type(other)
        same = other_kind is kind and other.name == item.name and registry.plugin_of(other) == mine
        if not same and squeezed(other.name) == squeezed(item.name):
            raise AssertionError(
                f"{KINDS[kind]} {name!r} looks like {KINDS[other_kind]} {other.name!r} "
                f"of {registry.plugin_of(other)}; `zoo info` and `zoo list` need names that differ"
            )
    if isinstance(item, Architecture):
        known = {each.name for each in registry.all(Schedule)}
        assert item.default_schedule in known, f"default_schedule {item.default_schedule!r} does not exist"


def check_metadata(subject: Subject, item: Item) -> None:
    """Licence, source and hash are stated, so that users may and can rely on them.

    `licence` is an SPDX identifier such as "MIT", "Apache-2.0" or "CC-BY-4.0" (https://spdx.org/licenses). `source`
    has the address of the paper or the repository. Each file of weights has a `hash`; `sha256sum FILE` prints it. A
    file of Hugging Face may have the whole id of a commit as its revision instead. `summary` is one line.
    """
    summary = getattr(item, "summary", "")
    assert "\n" not in summary, f"the summary must be one line. Received: {summary!r}"
    if isinstance(item, (Architecture, Weights)):
        _check_facts(item.licence, item.source)
    if isinstance(item, Weights):
        fixed = item.url.startswith(WITHOUT_HASH) or COMMIT.fullmatch(item.origin.revision)
        assert item.hash or fixed, f"{item.filename} has no hash, so that a replaced file would not be noticed"


def _check_facts(licence: str, source: str) -> None:
    for label, text in (("licence", licence), ("source", source)):
        assert text.strip().lower() not in PLACEHOLDERS, f"{label} is the placeholder {text!r}"
    assert LICENCE.fullmatch(licence), f"the licence {licence!r} is no SPDX identifier"
    address = ADDRESS.search(source)
    assert address, f"the source {source!r} names no address, DOI or arXiv number"
    host = (address["host"] or "").lower()
    assert not re.search(r"(^|\.)example(\.(org|com|net))?$", host), f"the source {source!r} is an example"
