"""Measures training on a GPU: images a second, beside plain Keras and timm, and what limits them.

    KERAS_BACKEND=jax python benchmarks/gpu.py RESULTS

Parts (`--parts`):

    train     zoo's own training of decoded pictures in memory: all layers with the augmentation `light` and without
              one, then the head alone, with the whole network in every step
    keras     the same network in `model.fit` with in-memory arrays, without augmentation and without determinism
    timm      the training step of the same network of timm on PyTorch, in channels_last and autocast, not compiled
    pipeline  zoo's batches alone, with and without augmentation, and no network
    features  the frozen backbone over the pictures: by the backend in float32, and by onnxruntime on the processor
    accuracy  a small network is trained on scikit-learn's digits here and on the processor, from the same weights

All train in bfloat16 (zoo: `--compute bfloat16`) at 224x224 with AdamW and random weights; pictures are noise. The
images a second are those of the median epoch without the first one, in which the backend compiles; the table states its
time. An epoch ends when the last step has ended on the device, because its loss is read. Augmentation warps pictures on
the device, and fetches them from there, as `zoo finetune` does.

Each measurement runs in a process of its own and is written to RESULTS/BACKEND-PART-NETWORK.json when it ends; timm has
no backend of Keras. What was measured with the same settings is not measured again, so that a command with a time limit
is simply repeated: `--limit 540` starts nothing after 540 seconds, and ends what runs at that time. What failed or was
skipped is tried again. `--again` measures all of it anew. The networks come one after the other, each with all parts.
The table is printed at the end, and by `--table`.

Without a GPU, or with `--small`, a few pictures are measured at 96x96 in batches of 8, to see that everything runs. The
table says that these are figures of a processor: they say nothing about GPUs. One environment has one backend, and all
of them can write to one folder: `pip install 'tensorflow[and-cuda]' tf2onnx`, `pip install 'jax[cuda12]'`, or
`pip install torch timm`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gpu_table
import numpy as np

# The names of zoo -> (function of keras.applications, name in timm).
NETWORKS = {
    "mobilenetv2": ("MobileNetV2", "mobilenetv2_100"),
    "resnet50": ("ResNet50", "resnet50"),
    "efficientnetv2_s": ("EfficientNetV2S", "tf_efficientnetv2_s"),
    "convnext_tiny": ("ConvNeXtTiny", "convnext_tiny"),
}
PARTS = ("train", "keras", "timm", "pipeline", "features", "accuracy")
# They are the same for every network.
ONCE = ("pipeline", "accuracy")
CLASSES = 10
RATE = 1e-4
# A change of a pixel value in 0..255 that is about as small as a rounding error of float32.
NOISE = 1e-5


class Skipped(Exception):
    """Raised with the reason if something cannot be measured here."""


def pictures_for(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures of noise, uint8 (count, size, size, 3), and their targets, uint8 (count, CLASSES)."""
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 256, (options.count, options.size, options.size, 3), dtype=np.uint8)
    return pictures, np.eye(CLASSES, dtype=np.uint8)[np.arange(options.count) % CLASSES]


def figures_of(seconds: list[float], count: int) -> dict[str, float]:
    """Return the images a second of the median epoch without the first one, and the seconds of the first one."""
    return {"images_per_second": round(count / statistics.median(seconds[1:]), 2), "first_epoch": round(seconds[0], 2)}


def network_of(name: str, size: int) -> Any:
    """Build a network of zoo with random weights and a head."""
    from zoo import backend
    from zoo.plugin import registry
    from zoo.train.network import assemble, build_backbone

    backend.start().utils.set_random_seed(0)
    architecture = registry.load().architecture(name)
    return assemble(build_backbone(architecture, (size, size)), architecture, architecture.head, CLASSES)


def trainable(model: Any) -> int:
    """Return the number of trainable parameters, which does not count the statistics of BatchNorm."""
    return int(sum(np.prod(weight.shape) for weight in model.trainable_weights))


def measure_train(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train with zoo: all layers with and without augmentation, then the head alone."""
    from zoo.data import augment
    from zoo.plugin import Phase, registry
    from zoo.reporter import Reporter
    from zoo.train import engine
    from zoo.train.inputs import TrainingData

    plugins = registry.load()
    pictures, targets = pictures_for(options)
    rows = np.arange(len(pictures))
    data = TrainingData(pictures, targets, rows, rows[:0])
    network = network_of(name, options.size)
    found: dict[str, Any] = {"parameters": trainable(network.model)}
    for key, part, policy in (("all", "all", "light"), ("unaltered", "all", "none"), ("head", "head", "light")):
        # The policy `none` makes float32 pictures as `light` does, so that nothing is compiled again.
        config = engine.TrainConfig(
            batch_size=options.batch,
            augment=augment.build(*augment.parse(policy, plugins)),
            precision=options.compute,
            keep_best=False,
        )
        phase = Phase(
            name=part, train=part, epochs=options.epochs, learning_rate=RATE, optimizer="adamw", patience=None
        )
        marks: list[float] = []
        with clocked(marks):
            result = engine.train(network, [phase], data, config, Reporter())
        found[key] = figures_of(marks, len(pictures))
        if not np.isfinite([row["loss"] for row in result.history]).all():
            raise Skipped(f"the loss of zoo's training is not finite ({part})")
    return found


@contextlib.contextmanager
def clocked(marks: list[float]) -> Iterator[None]:
    """Append the seconds of each epoch of zoo's training; the history has them rounded."""
    from zoo.train.epochs import EpochLog

    start, row = EpochLog.start_epoch, EpochLog._row

    def started(self: Any, epoch: int) -> None:
        start(self, epoch)
        marks.append(time.perf_counter())

    def ended(self: Any, epoch: int, logs: dict[str, float]) -> dict[str, Any]:
        # Keras has read the loss of the last step by then, which waits for the device.
        marks[-1] = time.perf_counter() - marks[-1]
        return row(self, epoch, logs)

    EpochLog.start_epoch, EpochLog._row = started, ended  # type: ignore[method-assign]
    try:
        yield
    finally:
        EpochLog.start_epoch, EpochLog._row = start, row  # type: ignore[method-assign]


def measure_keras(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train the network of keras.applications in `model.fit`: all layers, then the head alone."""
    # zoo sets it, and a plain training does not. Determinism costs time on a GPU.
    os.environ["TF_DETERMINISTIC_OPS"] = "0"
    from zoo import backend

    keras = backend.start()
    keras.utils.set_random_seed(0)
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

    found: dict[str, Any] = {}
    for part in ("all", "head"):
        marks.clear()
        backbone = build(include_top=False, weights=None, input_shape=(options.size, options.size, 3), pooling="avg")
        backbone.trainable = part == "all"
        # Pixels of one byte: a quarter of what float32 would move to the device.
        pixels = keras.Input((options.size, options.size, 3), dtype="uint8")
        x = keras.layers.Rescaling(1 / 127.5, offset=-1)(pixels)
        x = keras.layers.Dense(CLASSES, dtype="float32")(backbone(x, training=part == "all"))
        model = keras.Model(pixels, x)
        model.compile(
            keras.optimizers.AdamW(RATE),
            keras.losses.CategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            # XLA is far slower than TensorFlow's own kernels on a processor, and zoo does not use it there either.
            jit_compile=False if backend.runs_on_tensorflow() and not backend.has_accelerator() else "auto",
        )
        run = {"batch_size": options.batch, "epochs": options.epochs, "verbose": 0, "callbacks": [Clock()]}
        model.fit(pictures, targets.astype("float32"), **run)
        found |= {"parameters": found.get("parameters", trainable(model)), part: figures_of(marks, len(pictures))}
    return found


def measure_timm(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train a network of timm in the plainest quick loop: channels_last, autocast, fused AdamW on a GPU."""
    try:
        import timm
        import torch
    except ImportError as error:
        raise Skipped(f"{error.name} is not installed here") from error
    except RuntimeError as error:
        # So ends torchvision, which timm imports, where it was built for another PyTorch.
        raise Skipped(f"timm cannot be imported: {error}") from error
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pictures, targets = pictures_for(options)
    # Memory that the GPU reads by itself, while the processor goes on.
    on_gpu = device.type == "cuda"
    held, wanted = (torch.from_numpy(each) for each in (pictures, targets.astype("float32")))
    held, wanted = (each.pin_memory() if on_gpu else each for each in (held, wanted))
    mean, deviation = 0.5 * 255, 0.25 * 255
    found: dict[str, Any] = {}
    for part in ("all", "head"):
        model = timm.create_model(NETWORKS[name][1], pretrained=False, num_classes=CLASSES)
        model = model.to(device, memory_format=torch.channels_last).train()
        if part == "head":
            model.requires_grad_(False).eval()
            model.get_classifier().requires_grad_(True)
        weights = [each for each in model.parameters() if each.requires_grad]
        optimizer = torch.optim.AdamW(weights, RATE, fused=on_gpu)
        seconds = []
        for _ in range(options.epochs):
            started = time.perf_counter()
            for first in range(0, len(pictures), options.batch):
                chosen = held[first : first + options.batch].to(device, non_blocking=True)
                labels = wanted[first : first + options.batch].to(device, non_blocking=True)
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
        parameters = sum(each.numel() for each in model.parameters())
        found |= {"parameters": parameters, part: figures_of(seconds, len(pictures))}
    return {**found, "engine": f"torch {torch.__version__}, timm {timm.__version__}", "on_gpu": on_gpu}


def measure_pipeline(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Read zoo's batches without a network. They do not depend on the network."""
    from zoo.data import augment
    from zoo.plugin import registry
    from zoo.train.batches import augmented, make_batches

    pictures, targets = pictures_for(options)
    policy = augment.build(*augment.parse("light", registry.load()))
    found = {}
    # After augmentation, the pictures are float32, with and without one.
    unaltered = augment.build(*augment.parse("none", registry.load()))
    for key, chosen in (("all", policy), ("unaltered", unaltered)):
        read = augmented(pictures, targets, chosen, 0)
        batches = make_batches(read, np.arange(len(pictures)), batch_size=options.batch, shuffle=True)
        seconds = []
        for _ in range(max(3, options.epochs)):
            started = time.perf_counter()
            for i in range(len(batches)):
                np.asarray(batches[i][0])
            seconds.append(time.perf_counter() - started)
            batches.on_epoch_end()
        found[key] = figures_of(seconds, len(pictures))
    return found


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
        found[kind] = figures_of(seconds, len(pictures))
    if len(last) == 2:
        found["difference"] = backbones.largest_difference([last["onnxruntime"]], [last["backend"]])
        # Deep networks with random weights enlarge rounding errors, so that a difference alone says little.
        nearly = pictures[: options.batch] + np.float32(NOISE) * np.sign(pictures[: options.batch] - np.float32(127.5))
        (compared,), (moved,) = (kinds["backend"].open()(each) for each in (pictures[: options.batch], nearly))
        found["moved_by_noise"] = backbones.largest_difference([compared], [moved])
        found["quicker"] = max(kinds, key=lambda kind: found[kind]["images_per_second"])
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
    # PyTorch draws other numbers on a GPU, so that the weights are drawn here.
    generator = np.random.default_rng(0)
    for weight in network.model.trainable_variables:
        fan_in = max(1, int(np.prod(weight.shape[:-1])))
        drawn = generator.normal(0, (2 / fan_in) ** 0.5, tuple(weight.shape))
        weight.assign(drawn if len(weight.shape) > 1 else np.zeros(tuple(weight.shape)))
    phase = Phase(name="all", train="all", epochs=5, learning_rate=1e-3, optimizer="adam", patience=None)
    config = engine.TrainConfig(precision=options.compute, keep_best=False)
    last = engine.train(network, [phase], data, config, Reporter()).history[-1]
    here = {key: last[key] for key in ("loss", "val_loss", "val_accuracy")} | {"engine": backend.engine()}
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

    facts = facts_of(part, name, options) | {"gpu": gpu(), "made": runs.now()}
    try:
        figures = MEASURES[part](name, options)
    except Skipped as error:
        return {**facts, "skipped": str(error)}
    if part != "timm":
        figures |= {"engine": backend.engine(), "on_gpu": backend.has_accelerator()}
    return {**facts, **figures}


def facts_of(part: str, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return what decides whether a measurement must be made again."""
    facts: dict[str, Any] = {"part": part, "network": name, "compute": options.compute, "size": options.size}
    return facts | {"batch": options.batch, "pictures": options.count, "epochs": options.epochs}


def measured(path: Path, facts: dict[str, Any]) -> bool:
    """Return whether a file has figures of the same settings."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return facts.items() <= found.items() and "failed" not in found and "skipped" not in found


def gpu() -> str:
    """Return the name of the first NVIDIA GPU, or "" if there is none."""
    try:
        words = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError):
        return ""


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
    if options.epochs is not None and options.epochs < 2:
        parser.error("--epochs must be at least 2, because the first one does not count")
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
    names, parts = options.networks.split(","), options.parts.split(",")
    for name in () if options.table else names:
        for part in parts:
            if part not in ONCE or name == names[0]:
                measure_apart(part, name, options, started)
    print(gpu_table.table(options.results))


def measure_apart(part: str, name: str, options: argparse.Namespace, started: float) -> None:
    """Measure one part with one network in a process of its own, unless it is measured, and write the figures."""
    owner = "timm" if part == "timm" else f"{os.environ.get('KERAS_BACKEND') or 'tensorflow'}-{part}"
    path, facts = options.results / f"{owner}-{name}.json", facts_of(part, name, options)
    left = options.limit - (time.monotonic() - started)
    if measured(path, facts) and not options.again:
        return
    if left <= 0:
        print(f"not started, because the time is up: {part} {name}. Repeat the command.")
        return
    command = [sys.executable, __file__, str(options.results), *options.passed, "--one", f"{part}:{name}"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    began = time.monotonic()
    try:
        printed, errors = child.communicate(timeout=left)
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as error:
        # Its child, which trains on the processor, ends too.
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        if isinstance(error, KeyboardInterrupt):
            raise
        print(f"not finished, because the time is up: {part} {name}. Repeat the command.")
        return
    figures = {**facts, "failed": errors[-2000:]}
    if child.returncode == 0:
        figures = json.loads(printed.splitlines()[-1])
    path.write_text(json.dumps(figures, indent=1))
    state = "measured" if "engine" in figures else gpu_table.why(figures)
    print(f"{part} {name}: {state}; {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
