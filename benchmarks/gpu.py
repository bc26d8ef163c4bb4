"""Measures training on a GPU: images a second, beside plain Keras and timm, and what limits them.

    KERAS_BACKEND=jax python benchmarks/gpu.py RESULTS

Parts (`--parts`), each of them for every network (`--networks`):

    train     zoo's own training, all layers and the head alone, from decoded pictures in memory, augmented by `light`
    keras     the same network in `model.fit` with in-memory arrays, as Keras's guide does, without augmentation
    timm      the training step of the same network of timm on PyTorch, in channels_last and autocast
    pipeline  zoo's batches alone: decoded pictures, with and without augmentation, and no network
    features  the frozen backbone once over the pictures: by the backend in float32, and by onnxruntime on the processor
    accuracy  a small network is trained on scikit-learn's digits here and on the processor, from the same weights

All train in bfloat16 (zoo: `--compute bfloat16`) at 224x224 with AdamW and random weights; pictures are noise. Every
epoch is timed; the first one, in which the backend compiles, does not count, and the median of the others does.

Each measurement runs in a process of its own and is written to RESULTS/PART-NETWORK.json when it ends. What is there is
not measured again, so that a command with a time limit is simply repeated: `--limit 540` starts nothing after 540
seconds, and ends what runs at that time. `--again` measures all of it anew. The table is printed at the end, and by
`--table`.

Without a GPU, or with `--small`, a few pictures are measured at 96x96 in batches of 8, to see that everything runs. The
table says that these are figures of a processor: they say nothing about GPUs. One environment has one backend:
`pip install 'tensorflow[and-cuda]' tf2onnx`, `pip install 'jax[cuda12]'`, or `pip install torch timm`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# The names of zoo -> (function of keras.applications, name in timm).
NETWORKS = {
    "mobilenetv2": ("MobileNetV2", "mobilenetv2_100"),
    "resnet50": ("ResNet50", "resnet50"),
    "efficientnetv2_s": ("EfficientNetV2S", "tf_efficientnetv2_s"),
    "convnext_tiny": ("ConvNeXtTiny", "convnext_tiny"),
}
PARTS = ("train", "keras", "timm", "pipeline", "features", "accuracy")
CLASSES = 10
RATE = 1e-4


class Skipped(Exception):
    """Raised with the reason if something cannot be measured here."""


def pictures_for(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures of noise, uint8 (count, size, size, 3), and their targets, uint8 (count, CLASSES)."""
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 256, (options.count, options.size, options.size, 3), dtype=np.uint8)
    return pictures, np.eye(CLASSES, dtype=np.uint8)[np.arange(options.count) % CLASSES]


def rate_of(seconds: list[float], count: int) -> float:
    """Return the images a second of the median epoch; the first epoch does not count."""
    return round(count / statistics.median(seconds[1:]), 2)


def network_of(name: str, size: int) -> Any:
    """Build a network of zoo with random weights and a head."""
    from zoo import backend
    from zoo.plugin import registry
    from zoo.train.network import assemble, build_backbone

    backend.start().utils.set_random_seed(0)
    architecture = registry.load().architecture(name)
    return assemble(build_backbone(architecture, (size, size)), architecture, architecture.head, CLASSES)


def measure_train(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train with zoo: all layers, then the head alone, with the whole network in every step."""
    from zoo.data import augment
    from zoo.plugin import Phase, registry
    from zoo.reporter import Reporter
    from zoo.train import engine
    from zoo.train.inputs import TrainingData

    plugins = registry.load()
    pictures, targets = pictures_for(options)
    rows = np.arange(len(pictures))
    data = TrainingData(pictures, targets, rows, rows[:0])
    policy = augment.build(*augment.parse("light", plugins))
    config = engine.TrainConfig(batch_size=options.batch, augment=policy, precision=options.compute)
    found = {}
    for part in ("all", "head"):
        phase = Phase(
            name=part, train=part, epochs=options.epochs, learning_rate=RATE, optimizer="adamw", patience=None
        )
        result = engine.train(network_of(name, options.size), [phase], data, config, Reporter())
        found[part] = rate_of([row["seconds"] for row in result.history], len(pictures))
        if not np.isfinite([row["loss"] for row in result.history]).all():
            raise Skipped(f"the loss of zoo's training is not finite ({part})")
    return {"images_per_second": found["all"], "head_images_per_second": found["head"]}


def measure_keras(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train the network of keras.applications in `model.fit`: all layers, then the head alone."""
    from zoo import backend

    keras = backend.start()
    pictures, targets = pictures_for(options)
    if options.compute == "bfloat16":
        keras.config.set_dtype_policy("mixed_bfloat16")
    build = getattr(keras.applications, NETWORKS[name][0])
    marks: list[float] = []

    class Clock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            marks.append(time.perf_counter())

        def on_epoch_end(self, epoch, logs=None):
            marks[-1] = time.perf_counter() - marks[-1]

    found = {}
    for part in ("all", "head"):
        marks.clear()
        backbone = build(include_top=False, weights=None, input_shape=(options.size, options.size, 3), pooling="avg")
        backbone.trainable = part == "all"
        pixels = keras.Input((options.size, options.size, 3))
        x = keras.layers.Rescaling(1 / 127.5, offset=-1)(pixels)
        x = keras.layers.Dense(CLASSES, dtype="float32")(backbone(x, training=part == "all"))
        model = keras.Model(pixels, x)
        model.compile(keras.optimizers.AdamW(RATE), keras.losses.CategoricalCrossentropy(from_logits=True))
        model.fit(
            pictures.astype("float32"),
            targets.astype("float32"),
            batch_size=options.batch,
            epochs=options.epochs,
            verbose=0,
            callbacks=[Clock()],
        )
        found[part] = rate_of(marks, len(pictures))
    return {"images_per_second": found["all"], "head_images_per_second": found["head"]}


def measure_timm(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train a network of timm in the plainest quick loop: channels_last, autocast, fused AdamW on a GPU."""
    try:
        import timm
        import torch
    except ImportError as error:
        raise Skipped(f"{error.name} is not installed here") from error
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pictures, targets = pictures_for(options)
    mean, deviation = 0.5 * 255, 0.25 * 255
    found = {}
    for part in ("all", "head"):
        model = timm.create_model(NETWORKS[name][1], pretrained=False, num_classes=CLASSES)
        model = model.to(device, memory_format=torch.channels_last).train()
        if part == "head":
            model.requires_grad_(False).eval()
            model.get_classifier().requires_grad_(True)
        weights = [each for each in model.parameters() if each.requires_grad]
        optimizer = torch.optim.AdamW(weights, RATE, fused=device.type == "cuda")
        seconds = []
        for _ in range(options.epochs):
            started = time.perf_counter()
            for first in range(0, len(pictures), options.batch):
                chosen = torch.from_numpy(pictures[first : first + options.batch]).to(device, non_blocking=True)
                labels = torch.from_numpy(targets[first : first + options.batch]).to(device).float()
                x = (chosen.permute(0, 3, 1, 2).float() - mean) / deviation
                x = x.contiguous(memory_format=torch.channels_last)
                with torch.autocast(device.type, torch.bfloat16, enabled=options.compute == "bfloat16"):
                    loss = torch.nn.functional.cross_entropy(model(x), labels)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            # The end of the last step, not of its launch.
            loss.item()
            seconds.append(time.perf_counter() - started)
        found[part] = rate_of(seconds, len(pictures))
    versions = {"timm": timm.__version__, "torch": torch.__version__}
    return {"images_per_second": found["all"], "head_images_per_second": found["head"], "versions": versions}


def measure_pipeline(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Read zoo's batches without a network. They do not depend on the network."""
    from zoo.data import augment
    from zoo.plugin import registry
    from zoo.train.batches import augmented, make_batches, plain

    pictures, targets = pictures_for(options)
    policy = augment.build(*augment.parse("light", registry.load()))
    found = {}
    for key, read in (("augmented", augmented(pictures, targets, policy, 0)), ("unaltered", plain(pictures, targets))):
        batches = make_batches(read, np.arange(len(pictures)), batch_size=options.batch, shuffle=True)
        seconds = []
        for _ in range(max(3, options.epochs)):
            started = time.perf_counter()
            for i in range(len(batches)):
                np.asarray(batches[i][0])
            seconds.append(time.perf_counter() - started)
            batches.on_epoch_end()
        found[key] = rate_of(seconds, len(pictures))
    return {"images_per_second": found["augmented"], "unaltered_images_per_second": found["unaltered"]}


def measure_features(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Compute pooled features by the backend and by onnxruntime, and compare them."""
    from zoo import backend
    from zoo.errors import ConversionFailed
    from zoo.testing.tools import randomize
    from zoo.train.frozen import backbone as backbones

    keras = backend.start()
    pictures, _ = pictures_for(options)
    whole = network_of(name, options.size).model
    randomize(whole)
    model = keras.Model(whole.input, [whole.get_layer("head_pool").output], name="backbone")
    kinds: dict[str, Any] = {"backend": backbones.KerasBackbone(model)}
    found: dict[str, Any] = {}
    try:
        kinds["onnxruntime"] = backbones.convert(model)
    except ConversionFailed as error:
        found["why_not_onnxruntime"] = str(error).splitlines()[0]
    last: dict[str, np.ndarray] = {}
    for kind, source in kinds.items():
        compute, seconds = source.open(), []
        for _ in range(3):
            started = time.perf_counter()
            for first in range(0, len(pictures), options.batch):
                (last[kind],) = compute(pictures[first : first + options.batch])
            seconds.append(time.perf_counter() - started)
        found[f"{kind}_images_per_second"] = rate_of(seconds, len(pictures))
    if len(last) == 2:
        found["difference"] = backbones.largest_difference([last["onnxruntime"]], [last["backend"]])
        found["quicker"] = max(kinds, key=lambda kind: found[f"{kind}_images_per_second"])
    return found


def measure_accuracy(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train mnist_convnet on digits for 5 epochs, and return the accuracy on 360 others, here and on the processor."""
    if not options.on_processor:
        hidden = {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, __file__, str(options.results), *options.passed, "--one", f"accuracy:{name}"]
        done = subprocess.run(
            [*command, "--on-processor"], env={**os.environ, **hidden}, capture_output=True, text=True
        )
        if done.returncode:
            raise Skipped(f"the processor cannot train: {done.stderr[-300:]}")
        processor = json.loads(done.stdout.splitlines()[-1])
    from sklearn.datasets import load_digits

    from zoo import backend
    from zoo.plugin import Phase, registry
    from zoo.reporter import Reporter
    from zoo.train import engine
    from zoo.train.inputs import TrainingData
    from zoo.train.network import assemble, build_backbone

    digits = load_digits()
    pictures = np.kron(digits.images * (255 / 16), np.ones((1, 4, 4))).round().astype(np.uint8)[..., None]
    rows = np.random.default_rng(0).permutation(len(pictures))
    data = TrainingData(pictures, np.eye(10, dtype=np.uint8)[digits.target], np.sort(rows[360:]), np.sort(rows[:360]))
    architecture = registry.load().architecture("mnist_convnet")
    backend.start().utils.set_random_seed(0)
    # Without dropout, whose random numbers differ from device to device.
    head = dataclasses.replace(architecture.head, dropout=0.0)
    network = assemble(build_backbone(architecture, (32, 32)), architecture, head, 10)
    phase = Phase(name="all", train="all", epochs=5, learning_rate=1e-3, optimizer="adam", patience=None)
    config = engine.TrainConfig(precision=options.compute, keep_best=False)
    last = engine.train(network, [phase], data, config, Reporter()).history[-1]
    here = {key: last[key] for key in ("loss", "val_loss", "val_accuracy")}
    return here if options.on_processor else {"here": here, "processor": processor}


MEASURES: dict[str, Callable[[str, argparse.Namespace], dict[str, Any]]] = {
    "train": measure_train,
    "keras": measure_keras,
    "timm": measure_timm,
    "pipeline": measure_pipeline,
    "features": measure_features,
    "accuracy": measure_accuracy,
}


def measure_one(part: str, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one part with one network in this process, and return the figures with what they were measured on."""
    from zoo import backend, runs

    facts: dict[str, Any] = {"part": part, "network": name, "small": options.small, "compute": options.compute}
    facts |= {"size": options.size, "batch": options.batch, "pictures": options.count, "epochs": options.epochs}
    try:
        figures = MEASURES[part](name, options)
    except Skipped as error:
        figures = {"skipped": str(error)}
    return {**facts, "engine": backend.engine(), "gpu": gpu(), "made": runs.now(), **figures}


def gpu() -> str:
    """Return the name of the first NVIDIA GPU, or "" if there is none."""
    try:
        words = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError):
        return ""


def table(results: Path) -> str:
    """Return all results in a folder as text, with what they say about the limits."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(results.glob("*-*.json"))}
    if not found:
        return "nothing is measured yet"
    lines = []
    for engine, small in sorted({(each.get("engine", ""), each.get("small", False)) for each in found.values()}):
        device = next((each["gpu"] for each in found.values() if each.get("gpu")), "")
        place = device if device and "accelerator" in engine else "A PROCESSOR, which says nothing about GPUs"
        lines.append(f"{engine}; {place}{'; small sizes' if small else ''}")
    keys = sorted({key for each in found.values() for key in each if key.endswith("images_per_second")})
    lines.append(f"{'part':10}{'network':20}" + "".join(f"{key.replace('_images_per_second', ''):>20}" for key in keys))
    for each in found.values():
        if "images_per_second" in each or any(key in each for key in keys):
            cells = "".join(f"{each[key]:>20,.1f}" if key in each else f"{'':>20}" for key in keys)
            lines.append(f"{each['part']:10}{each['network']:20}{cells}")
        for word in ("skipped", "failed", "why_not_onnxruntime"):
            if word in each:
                lines.append(f"{each['part']:10}{each['network']:20} {word}: {each[word]}")
    for each in found.values():
        if each["part"] == "accuracy" and "here" in each:
            lines.append(f"accuracy  here {each['here']}, on the processor {each['processor']}")
        pipeline = found.get(f"pipeline-{each['network']}", {}).get("images_per_second")
        if each["part"] == "train" and "images_per_second" in each and pipeline:
            share = each["images_per_second"] / pipeline
            says = (
                "the batches are the limit" if share > 0.8 else f"the batches could feed {1 / share:.1f} times as much"
            )
            lines.append(f"{each['network']}: {says}")
    return "\n".join(line.replace("images_per_second", "all layers") for line in lines)


def parse() -> argparse.Namespace:
    """Parse the command line, and choose the sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--compute", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--limit", type=float, default=540.0, metavar="SECONDS")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--table", action="store_true")
    for name in ("size", "batch", "count", "epochs"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--on-processor", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = {*options.parts.split(",")} - {*PARTS} | {*options.networks.split(",")} - {*NETWORKS}
    if unknown:
        parser.error(
            f"unknown: {', '.join(sorted(unknown))}. Parts: {', '.join(PARTS)}. Networks: {', '.join(NETWORKS)}"
        )
    options.small = options.small or not gpu()
    sizes = {"size": 96, "batch": 8, "count": 32, "epochs": 2} if options.small else {}
    for name, value in ({"size": 224, "batch": 64, "count": 2048, "epochs": 4} | sizes).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.passed = ["--compute", options.compute, *(["--small"] if options.small else [])]
    for name in ("size", "batch", "count", "epochs"):
        options.passed += [f"--{name}", str(getattr(options, name))]
    return options


def main() -> None:
    """Measure what is not measured yet, each in a process of its own, and print the table."""
    options, started = parse(), time.monotonic()
    options.results.mkdir(parents=True, exist_ok=True)
    if options.one:
        part, _, name = options.one.partition(":")
        figures = MEASURES[part](name, options) if options.on_processor else measure_one(part, name, options)
        print(json.dumps(figures))
        return
    for part in () if options.table else options.parts.split(","):
        # Two parts are the same for every network.
        names = options.networks.split(",")
        for name in names[:1] if part == "accuracy" else names:
            path = options.results / f"{part}-{name}.json"
            left = options.limit - (time.monotonic() - started)
            if path.exists() and not options.again:
                continue
            if left <= 0:
                print(f"not started, because the time is up: {part} {name}. Repeat the command.")
                continue
            command = [sys.executable, __file__, str(options.results), *options.passed, "--one", f"{part}:{name}"]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=left)
            except subprocess.TimeoutExpired:
                print(f"not finished, because the time is up: {part} {name}. Repeat the command.")
                continue
            figures: dict[str, Any] = {"part": part, "network": name, "failed": done.stderr[-600:]}
            if done.returncode == 0:
                figures = json.loads(done.stdout.splitlines()[-1])
            path.write_text(json.dumps(figures, indent=1))
            print(f"{part} {name}: {time.monotonic() - started:.0f} s", flush=True)
    print(table(options.results))


if __name__ == "__main__":
    main()
