"""Opens and checks networks whose head was solved on a converted backbone. They need no Keras.

The run folder of such a network has head.npz instead of model.keras. `zoo.workflow.keras_network` makes the same
network in Keras from head.npz and the weights that training started from.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import backend, runs
from zoo.convert.linear_head_graph import with_linear_head
from zoo.errors import DuplicateName, InvalidPluginData, PluginMissing, RunError, UnknownName, WeightsError
from zoo.evaluate.calibration import probabilities
from zoo.files import atomic_write
from zoo.plugin import Architecture, Head
from zoo.plugin.registry import Registry
from zoo.plugin.types import VECTOR_POOLS
from zoo.pretrained import fetch
from zoo.pretrained.fetch import WeightsFile
from zoo.reporter import Reporter
from zoo.train.evidence import more_stages
from zoo.train.frozen import backbone as backbones
from zoo.train.frozen.backbone import FeatureSession, KerasBackbone, PooledBackbone
from zoo.workflow.missing_plugins import load_kept, refuse

if TYPE_CHECKING:
    import keras
    import onnx

# What a converted backbone depends on besides the architecture and its weights.
CONVERTERS = ("finezoo", "tensorflow", "keras", "tf2onnx", "onnx", "onnxruntime", "numpy")
BATCH = 16


@dataclass(frozen=True)
class SolvedNetwork:
    """A converted backbone with a solved head.

    Args:
        backbone: The converted backbone.
        head: Describes the head.
        kernel: float32 (features, units).
        bias: float32 (units,).
        task: "multiclass", "binary" or "multilabel".
        features: What the head reads, for all training pictures: groups of features, each float32 (pictures, n). None
            if a run was opened again; they are then computed where they are needed.
    """

    backbone: PooledBackbone
    head: Head
    kernel: np.ndarray
    bias: np.ndarray
    task: str
    features: Sequence[np.ndarray] | None = None

    def graph(self) -> onnx.ModelProto:
        """Return the graph from pictures to logits and probabilities."""
        return with_linear_head(self.backbone.graph, self.kernel, self.bias, task=self.task, groups=self.head.stages)

    def logits(self, features: list[np.ndarray]) -> np.ndarray:
        """Compute logits from features in 64 bits, float64 (pictures, units)."""
        joined = np.concatenate(features[: self.head.stages], axis=1, dtype=np.float64)
        return joined @ self.kernel.astype(np.float64) + self.bias.astype(np.float64)


def save_head(run: runs.Run, kernel: np.ndarray, bias: np.ndarray) -> None:
    """Write head.npz into a run folder.

    Raises:
        WriteError: The file cannot be written.
    """
    with atomic_write(run.solved_head) as temporary, temporary.open("wb") as stream:
        np.savez(stream, kernel=kernel.astype("float32"), bias=bias.astype("float32"))


def read_head(run: runs.Run) -> tuple[np.ndarray, np.ndarray]:
    """Return the kernel and the bias in head.npz, float32.

    Raises:
        RunError: The file is missing or damaged.
    """
    try:
        with np.load(run.solved_head) as arrays:
            return arrays["kernel"], arrays["bias"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(f"{str(run.solved_head)!r} is damaged: {error}") from error


def check(
    network: SolvedNetwork, graph: onnx.ModelProto, pixels: np.ndarray, *, allow_constant: bool = False
) -> dict[str, Any]:
    """Check that a graph computes what backbone and head compute, without Keras.

    Two independent computations are compared with the graph:

    - On drawn pictures: the features that Keras computed when the backbone was converted, with the head in 64 bits.
    - On the pictures given: the features of the backbone's own graph, with the head in 64 bits.

    Args:
        network: The backbone and the head.
        graph: The graph to check, with the outputs `logits` and `probabilities`.
        pixels: Real pictures, uint8 (pictures, height, width, channels) in 0..255.
        allow_constant: True accepts a network that computes the same for every picture.

    Returns:
        What `zoo.export.parity.compare` returns for the pictures given. In addition, `drawn_pictures` and
        `drawn_logits_difference` are the number of drawn pictures and their greatest difference.

    Raises:
        ParityFailed: The graph computes something else.
        ConstantOutput: The network computes the same for every picture, and `allow_constant` is False.
        ConversionFailed: ONNX Runtime cannot run the graph.
    """
    from zoo.convert.session import open_session
    from zoo.export import parity

    multilabel = network.task == "multilabel"
    session, features_of = open_session(graph), FeatureSession(network.backbone)
    parity.check_batch_sizes(session, pixels)

    def compared(pictures: np.ndarray, features: list[np.ndarray], constant: bool) -> dict[str, Any]:
        expected = network.logits(features)
        logits, answers = parity.outputs_of(session, pictures)
        return parity.compare(
            expected,
            logits,
            probabilities(expected, network.task),
            answers,
            multilabel=multilabel,
            allow_constant=constant,
        )

    height, width = pixels.shape[1:3]
    drawn = backbones.drawn_pictures((height, width), pixels.shape[3])
    on_drawn = compared(drawn, list(network.backbone.reference), True)
    batches = [features_of(pixels[i : i + BATCH]) for i in range(0, len(pixels), BATCH)]
    features = [np.concatenate([batch[i] for batch in batches]) for i in range(len(batches[0]))]
    return {
        **compared(pixels, features, allow_constant),
        "drawn_pictures": len(drawn),
        "drawn_logits_difference": on_drawn["logits_difference"],
    }


@dataclass(frozen=True)
class BackboneSpec:
    """Says which backbone a head is solved on.

    Args:
        architecture: The architecture.
        head: Describes the pooling.
        size: (height, width) of the pictures in pixels.
        weights: The pretrained weights.
    """

    architecture: Architecture
    head: Head
    size: tuple[int, int]
    weights: WeightsFile | Path


def open_backbone(spec: BackboneSpec, registry: Registry, reporter: Reporter) -> PooledBackbone:
    """Return the converted backbone of an architecture: the one that is kept, or else a new one, which is then kept.

    Args:
        spec: Says which one.
        registry: The loaded plugins.
        reporter: Receives progress messages.

    Raises:
        ConversionFailed: The backbone cannot be converted, or its graph computes other features.
        ConverterMissing: No graph is kept, and TensorFlow or tf2onnx is not installed here.
        ZooError: The backbone cannot be built, or the weights do not fit.
    """
    key = backbone_key(spec, registry)
    found = backbones.find(key) if key else None
    if found is not None:
        reporter.say("Backbone: the converted graph of an earlier run is used")
        return found
    backend.require_converters()
    model = pooled_model(spec, registry, reporter)
    reporter.say("Converting the backbone to ONNX")
    with reporter.timing.measure("converting the backbone"):
        made = backbones.convert(model)
    if key:
        backbones.keep(made, key)
    return dataclasses.replace(made, key=key)


def keras_backbone(spec: BackboneSpec, registry: Registry, reporter: Reporter) -> KerasBackbone:
    """Return the backbone of an architecture as Keras runs it. The arguments are those of `open_backbone`."""
    key = backbone_key(spec, registry)
    return KerasBackbone(pooled_model(spec, registry, reporter), key)


def pooled_model(spec: BackboneSpec, registry: Registry, reporter: Reporter) -> keras.Model:
    """Start Keras, and build the model from pictures to the pooled features of the top and of lower stages.

    The arguments are those of `open_backbone`. If a stage passes on no feature map, only the top is pooled.
    """
    from zoo.train.network import lower_maps, pooled
    from zoo.workflow.keras_network import build_pretrained

    architecture, head = spec.architecture, spec.head
    backbone = build_pretrained(architecture, spec.size, spec.weights, registry, reporter)
    keras = backend.start()
    lower: list[Any] = []
    if head.pool in VECTOR_POOLS and not head.reduce:
        stages = max(architecture.head.stages, more_stages(len(architecture.stages)))
        more = dataclasses.replace(head, stages=stages)
        try:
            lower = lower_maps(backbone, architecture, more)
        except InvalidPluginData:
            lower = []
    maps = [backbone.output, *lower]
    # The names in the graph start with the name of the model, and Keras would number it.
    return keras.Model(backbone.input, [pooled(x, head, f"pool_{i}") for i, x in enumerate(maps)], name="backbone")


def backbone_key(spec: BackboneSpec, registry: Registry) -> str:
    """Return the digest of all that determines a converted backbone; "" if that is not known.

    Code counts with the content of the files that define `Architecture.build`, because a developer changes them without
    a new version.
    """
    architecture, head, weights = spec.architecture, spec.head, spec.weights
    entry = weights.entry if isinstance(weights, WeightsFile) else None
    code = _code_of([architecture.build, entry.load if entry else None])
    if code is None:
        return ""
    digest = weights.sha256 if isinstance(weights, WeightsFile) else fetch.digest_of(weights)
    known = runs.versions()
    versions = [f"{name} {known.get(name)}" for name in CONVERTERS]
    return backbones.digest_of(
        [
            architecture.name,
            str(registry.plugin_of(architecture)),
            code,
            [[stage.name, stage.layers] for stage in architecture.stages],
            architecture.channels,
            tuple(spec.size),
            [head.pool, head.grid, architecture.head.stages],
            [digest, entry.id if entry else "", entry.filename if entry else ""],
            [versions, backend.wanted()],
        ]
    )


def _code_of(function: Any) -> str | None:
    """Return a text that identifies what a function builds, or None if that is not possible.

    It has the arguments that are bound to the function, and the digests of the files that define it: the module of the
    function, and those of all functions that are bound to it.
    """
    parts: list[str] = []

    def add(value: Any) -> bool:
        if isinstance(value, functools.partial):
            return add(value.func) and add(value.args) and add(value.keywords)
        if inspect.ismethod(value):
            return add(value.__func__) and add(value.__self__)
        if inspect.isfunction(value) or inspect.isclass(value):
            cells = [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
            return add_file(value) and all(map(add, [value.__qualname__, *cells]))
        if dataclasses.is_dataclass(value):
            return add(type(value)) and add(
                {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
            )
        if isinstance(value, Mapping):
            return all(add(key) and add(value[key]) for key in value)
        if isinstance(value, (list, tuple)):
            return all(map(add, value))
        parts.append(repr(value))
        return isinstance(value, (str, int, float, bool, bytes, type(None)))

    def add_file(code: Any) -> bool:
        try:
            parts.append(hashlib.sha256(Path(inspect.getsourcefile(code) or "").read_bytes()).hexdigest())
        except (OSError, TypeError):
            return False
        return True

    return repr(parts) if add(function) else None


def weights_of(run: runs.Run, record: runs.RunRecord, registry: Registry, reporter: Reporter) -> WeightsFile | Path:
    """Find the weights that training started from, and check that they are the same ones.

    Raises:
        RunError: The weights are not available, or the file has changed.
    """
    wanted = record.weights
    try:
        if wanted.get("place") == "path":
            path = Path(str(record.options["weights"])).expanduser()
            digest = fetch.digest_of(path)
            found: WeightsFile | Path = path
        else:
            entries = [
                entry
                for entry in registry.weights_of(str(record.architecture["name"]), top=False)
                if entry.id == wanted["id"] and entry.filename == wanted["file"]
            ]
            if not entries:
                why = RunError(f"no installed plugin lists the weights {wanted['id']} ({wanted['file']}).")
                refuse(run, record, registry, "has only the head of its network, and its weights are missing", why)
            waiting = fetch.waiting_label(entries[0], "weights")
            with reporter.transfer("downloading weights", waiting) as progress:
                found = fetch.find(entries, entries[0].input_size, progress, reporter.warn)
            digest = found.sha256
    except (OSError, WeightsError) as error:
        raise RunError(
            f"{str(run.folder)!r} has only the head of its network, and the weights below it, {wanted['file']}, are "
            f"not available: {error}. Put the file back to where it was when training started."
        ) from error
    if digest != wanted["sha256"]:
        raise RunError(
            f"{str(run.folder)!r} has only the head of its network, and {wanted['file']} is no longer the file that "
            "training started from. Put the earlier file back, or train again."
        )
    return found


def open_solved(run: runs.Run, record: runs.RunRecord, registry: Registry, reporter: Reporter) -> SolvedNetwork:
    """Open the network of a run that has head.npz.

    Raises:
        RunError: head.npz is damaged, or the pretrained weights are not available.
        PluginMissing: A plugin that provides the architecture or the weights is not installed.
        ConversionFailed: The backbone is not kept any more and cannot be converted again.
    """
    kernel, bias = read_head(run)
    head = Head(**(record.head or {}))
    try:
        architecture = registry.architecture(str(record.architecture["name"]))
    except (UnknownName, DuplicateName) as error:
        refuse(run, record, registry, "has only the head of its network, and the layers below it are missing", error)
    weights = weights_of(run, record, registry, reporter)
    height, width = record.image["size"]
    backbone = open_backbone(BackboneSpec(architecture, head, (height, width), weights), registry, reporter)
    if sum(backbone.widths[: head.stages]) != len(kernel):
        raise RunError(f"{str(run.solved_head)!r} does not fit the backbone. Train again.")
    return SolvedNetwork(backbone, head, kernel, bias, record.task)


def open_trained(
    run: runs.Run, record: runs.RunRecord, registry: Registry, reporter: Reporter
) -> SolvedNetwork | keras.Model:
    """Open the network of a run: from head.npz if the run has it, else from model.keras.

    If the weights or the plugin below the head are gone, a model.keras that was made from head.npz before is used.

    Raises:
        RunError: See `open_solved`; or model.keras is damaged.
        ConversionFailed: See `open_solved`.
    """
    if run.solved_head.is_file():
        try:
            return open_solved(run, record, registry, reporter)
        except (RunError, PluginMissing):
            if not run.model.is_file():
                raise
    return load_kept(run, record, registry)
