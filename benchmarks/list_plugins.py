"""Measures how much installed plugins slow `zoo list` down: with 20 small plugins and without them, in turn.

    python benchmarks/list_plugins.py --plugins 20 --repeats 15

Each plugin is a package of its own, which pip builds and installs into a temporary folder: an architecture, weights, an
augmentation, a schedule and a command. They import nothing large, as the documentation asks. pip needs hatchling, which
`pip install -e '.[test]'` has installed.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "zoo-bench-{i}"
version = "1.{i}"

[project.entry-points."zoo.plugins"]
bench{i} = "zoo_bench_{i}"
"""

MODULE = '''
import click

from zoo.plugin import Architecture, Augmentation, Head, Phase, Schedule, Stage, Weights, hookimpl, normalize

zoo_api = 1


def build(input_shape):
    import keras

    pixels = keras.Input(input_shape, name="image")
    x = normalize(pixels, "tf")
    for i, filters in enumerate((32, 64)):
        x = keras.layers.Conv2D(filters, 3, strides=2, padding="same", activation="relu", name=f"conv{{i}}")(x)
    return keras.Model(pixels, x)


def build_policy(strength):
    return lambda images, labels, seeds: ((images * strength).clip(0, 255), labels)


@hookimpl
def zoo_architectures():
    stages = (Stage("low", ("conv0",)), Stage("high", ("conv1",)))
    for size in (32, 64, 96):
        yield Architecture(name=f"bench{i}_{{size}}", summary="two convolutions", build=build, input_size=(size, size),
                           min_size=8, parameters=19_392, stages=stages, head=Head(dropout=0.2),
                           source="https://example.org/bench", licence="MIT")


@hookimpl
def zoo_weights():
    for size in (32, 64, 96):
        yield Weights(architecture=f"bench{i}_{{size}}", tag="own", url=f"https://example.org/{{size}}.h5",
                      filename=f"bench{i}_{{size}}.h5", includes_top=False, input_size=(size, size), licence="MIT",
                      source="https://example.org/bench")


@hookimpl
def zoo_augmentations():
    return [Augmentation(name="dim{i}", summary="darker", build=build_policy, parameters={{"strength": 0.9}})]


@hookimpl
def zoo_schedules():
    phases = (Phase(name="all", train="all", epochs=20, learning_rate=1e-3),)
    return [Schedule(name="plain{i}", summary="every layer", phases=phases)]


@click.command("bench{i}")
def command():
    """Says hello."""
    click.echo("hello")


@hookimpl
def zoo_commands():
    return [command]
'''


def install(folder: Path, count: int) -> Path:
    """Write, build and install the plugins, and return the folder for PYTHONPATH."""
    sources = []
    for i in range(count):
        source = folder / "sources" / f"zoo-bench-{i}"
        (source / f"zoo_bench_{i}").mkdir(parents=True)
        (source / "pyproject.toml").write_text(PROJECT.format(i=i))
        (source / f"zoo_bench_{i}" / "__init__.py").write_text(MODULE.format(i=i))
        sources.append(str(source))
    site = folder / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--disable-pip-version-check", "--target", str(site), *sources], check=True)
    return site


def seconds(arguments: list[str], path: str, bytecode: str) -> tuple[float, float]:
    """Return how long one command takes and its processor time, in seconds. It must succeed without a warning."""
    # Packages that pip has installed have bytecode. A folder of its own leaves those of the sources alone.
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONPYCACHEPREFIX": bytecode}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    ran = subprocess.run([sys.executable, "-m", "zoo", *arguments], env=environment, capture_output=True, text=True)
    took, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ran.returncode == 0 and not ran.stderr, ran.stderr
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plugins", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        site = install(Path(folder), options.plugins)
        own = os.environ.get("PYTHONPATH", "")
        paths = {"without": own, f"with {options.plugins}": os.pathsep.join(filter(None, [str(site), own]))}
        print(f"Seconds of {options.repeats} runs in turn: median, fastest; processor time: median, least")
        for arguments in (["list"], ["list", "plugins"], ["--help"], ["runs", "--help"]):
            taken: dict[str, list[tuple[float, float]]] = {name: [] for name in paths}
            for i in range(options.repeats + 1):
                for name, path in paths.items():
                    took = seconds(arguments, path, str(Path(folder) / "bytecode"))
                    # The first run writes the bytecode.
                    taken[name] += [took] if i else []
            for name, values in taken.items():
                wall, spent = zip(*values, strict=True)
                figures = [statistics.median(wall), min(wall), statistics.median(spent), min(spent)]
                print(f"zoo {' '.join(arguments):14} {name:10}", *(f"{each:8.3f}" for each in figures))


if __name__ == "__main__":
    main()
