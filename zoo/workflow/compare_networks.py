"""Compares networks on a user's pictures, before one of them is fine-tuned: accuracy, time and size.

For each network, the head is solved exactly on features of its frozen backbone, and judged by cross-validation on the
training pictures; see `zoo.train.evidence`. Then the network is exported into a temporary folder, and the file is
measured by `zoo_runtime`. Pixels, features and converted backbones are kept, so that a later `zoo finetune` finds them.

Test pictures are not used: they must not decide which network is taken.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import backend, config, interrupts
from zoo.config import FinetuneConfig, ResolvedConfig
from zoo.data import sources
from zoo.data.dataset import Dataset
from zoo.data.reading import ReadingOptions
from zoo.errors import DataError, EmptyClass, UsageError, WeightsUnavailable, WriteError, ZooError
from zoo.evaluate import choice
from zoo.evaluate.choice import Choice, Contender
from zoo.evaluate.metrics import interval
from zoo.evaluate.standing import pictures_in_common
from zoo.plugin import Architecture
from zoo.plugin.registry import Registry
from zoo.pretrained import fetch
from zoo.reporter import Reporter, counted
from zoo.train.evidence import ChosenHead, quiet
from zoo.train.frozen.stats import CacheStats
from zoo.train.inputs import TrainingData, class_weights
from zoo.train.linear_head import cross_entropies, rightness
from zoo.workflow import by_evidence
from zoo.workflow.carry_out import train_config, training_data
from zoo.workflow.checked_graph import convert_and_check, join_and_check
from zoo.workflow.finetune import load_dataset
from zoo.workflow.solved import SolvedNetwork
from zoo_runtime import ModelInfo, Predictor
from zoo_runtime.workshop import OtherPrograms

if TYPE_CHECKING:
    import keras

SCHEDULE = "exact-head"
# Each network is measured in so many rounds, in turn with the others, so that a disturbance hits all of them.
ROUNDS = 3
# In a round: calls that do not count, the least number of those that do, and how long they go on, in seconds.
WARM, CALLS, SECONDS = 3, 10, 0.3
PARITY_PICTURES = 64


NONE_AT_HAND = (
    "there are no pretrained weights on this computer. Name the networks, and zoo downloads theirs: --networks "
    "mobilenetv2,efficientnetv2_b0. `zoo list` shows all networks. Without a network connection, put weights into a "
    "folder and name it in the environment variable ZOO_WEIGHTS_DIR; docs/weights.md says how."
)


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Describes the comparison that a user requests. Fields that are not described are those of `FinetuneConfig`.

    Args:
        networks: The names of networks, also with a tag of their weights: "mobilenetv2.imagenet1k". Empty compares all
            those whose weights are on this computer.
        max_milliseconds: The greatest time for a picture, in milliseconds, of a network that may be chosen. None sets
            no limit.
        max_megabytes: The greatest size of its exported file, in megabytes. None sets no limit.
        threads: The number of threads on which the exported files are measured. None uses one thread per core.
    """

    data: str = "digits"
    reading: ReadingOptions = field(default_factory=ReadingOptions)
    networks: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    resize: str | None = None
    levels: int = 16
    folds: int | None = None
    group_by: str | None = None
    balance: bool = False
    seed: int = 0
    max_milliseconds: float | None = None
    max_megabytes: float | None = None
    threads: int | None = None


@dataclass
class Tried:
    """One network of a comparison.

    Args:
        name: Its name, as it was asked for.
        size: (height, width) of the pictures in pixels; None if the network could not be tried.
        weights: The name of its weights.
        accuracy: The fraction of right answers, in 0..1, to held-out pictures; to those that were held out for every
            network, unless they are too few.
        accuracy_interval: The bounds of its 95 % confidence interval.
        pictures: The number of these pictures.
        loss: Their mean cross-entropy.
        milliseconds: The median time for a picture from pixels to probabilities, on this computer.
        bytes: The size of the exported file.
        seconds: How long the network took in the comparison.
        too: Why it may not be chosen: "slow", "large" or both. Empty if it may.
        problem: Why it could not be tried. Empty if it could.
        right: For each picture that was held out for this network, by its sha256, how right the answer is; see
            `Contender`.
        losses: The cross-entropy of each of them, by its sha256.
    """

    name: str
    size: tuple[int, int] | None = None
    weights: str = ""
    accuracy: float | None = None
    accuracy_interval: list[float] | None = None
    pictures: int = 0
    loss: float | None = None
    milliseconds: float | None = None
    bytes: int | None = None
    seconds: float = 0.0
    too: tuple[str, ...] = ()
    problem: str = ""
    right: Mapping[str, float] = field(default_factory=dict, repr=False)
    losses: Mapping[str, float] = field(default_factory=dict, repr=False)

    def judge(self, pictures: Sequence[str]) -> None:
        """Set the figures of accuracy to those over some of the held-out pictures, given by their sha256."""
        self.pictures = len(pictures)
        self.accuracy = statistics.fmean(self.right[picture] for picture in pictures)
        self.accuracy_interval = interval(self.accuracy, self.pictures)
        self.loss = statistics.fmean(self.losses[picture] for picture in pictures)

    def to_json(self) -> dict[str, Any]:
        """Return the figures, without the answers to single pictures."""
        values = {key: value for key, value in vars(self).items() if key not in ("right", "losses")}
        return {**values, "size": self.size and list(self.size), "too": list(self.too)}


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison.

    Args:
        tried: The networks, the most accurate first, and those that could not be tried last.
        choice: Which one to take. None if none could be tried, or none keeps the limits.
        data: The name of the pictures.
        busy: A sentence that says that other programs have disturbed the measurement of times; None if none did.
    """

    tried: tuple[Tried, ...]
    choice: Choice | None
    data: str
    busy: str | None

    def to_json(self) -> dict[str, Any]:
        """Return everything but the answers to single pictures."""
        chosen = self.choice
        values: dict[str, Any] = {"data": self.data, "networks": [each.to_json() for each in self.tried]}
        values |= {"best": None, "take": None, "fine_tune": [], "busy": self.busy}
        if chosen is not None:
            values |= {"best": chosen.best, "take": chosen.take, "fine_tune": list(chosen.open)}
            for row in values["networks"]:
                row["behind"], row["behind_error"] = chosen.behind.get(row["name"], (None, None))
        return values


@interrupts.handled()
def compare(requested: CompareConfig, registry: Registry, reporter: Reporter) -> Comparison:
    """Compare networks on a user's pictures, and choose one.

    Args:
        requested: What the user requested.
        registry: The loaded plugins.
        reporter: Receives a line for each network, and warnings.

    Returns:
        The figures of all networks, and the choice. A network that cannot be tried costs its own row alone.

    Raises:
        UsageError: A name or an option is wrong, or there is no network to compare.
        DataError: The pictures cannot be found or read, or are too few.
        ConverterMissing: TensorFlow or tf2onnx is not installed here.
        InstallationError: The Keras backend is not installed.
        ZooError: No network could be tried; the error is that of the first one.
    """
    source = sources.open_source(requested.data, reading=requested.reading)
    entries = [(name, *registry.resolve(name)) for name in dict.fromkeys(requested.networks)]
    if not entries:
        entries = at_hand(registry)
        if not entries:
            raise UsageError(NONE_AT_HAND)
    # It is the same for all networks, and the first one would compute for minutes before it says so.
    backend.require_converters()
    backend.check()
    reporter.say(f"Comparing {counted(len(entries), 'network')} on {source.name}")
    with tempfile.TemporaryDirectory(prefix="zoo-compare-") as place:
        rows, able, failed = [], [], []
        for number, (name, architecture, tag) in enumerate(entries):
            file, began = Path(place, f"{number}.onnx"), time.perf_counter()
            row = Tried(name)
            rows.append(row)
            try:
                with quiet(reporter, name) as silent:
                    _try(row, architecture, tag, source.size, requested, registry, silent, file)
                able.append((row, file))
            except (DataError, WriteError):
                # It is the same for all networks.
                raise
            except ZooError as error:
                row.problem = str(error)
                failed.append(error)
            row.seconds = round(time.perf_counter() - began, 2)
            reporter.say(f"  {_line(row)}")
        if not able:
            raise failed[0]
        busy = _measure(able, requested, reporter)
    _judge_alike([row for row, _ in able], reporter)
    for row in rows:
        row.too = _too(row, requested)
    contenders = [
        Contender(row.name, row.right, row.milliseconds or 0.0, row.bytes or 0) for row, _ in able if not row.too
    ]
    rows.sort(key=lambda row: (bool(row.problem), -(row.accuracy or 0.0), row.milliseconds or 0.0))
    return Comparison(tuple(rows), choice.choose(contenders) if contenders else None, source.name, busy)


def at_hand(registry: Registry) -> list[tuple[str, Architecture, str | None]]:
    """Return the networks whose pretrained weights are on this computer, in the order of their number of parameters.

    Each has its name, the architecture, and the tag of the weights; None stands for the default weights.
    """
    found: list[tuple[str, Architecture, str | None]] = []
    for architecture in registry.all(Architecture):
        entries = registry.weights_of(architecture.name, top=False)
        local = next((entry for entry in entries if fetch.find_local(entry)), None)
        if local is not None:
            tag = None if local.tag == entries[0].tag else local.tag
            found.append((f"{architecture.name}.{tag}" if tag else architecture.name, architecture, tag))
    return sorted(found, key=lambda each: (each[1].parameters, each[0]))


def _try(
    row: Tried,
    architecture: Architecture,
    tag: str | None,
    data_size: tuple[int, int] | None,
    requested: CompareConfig,
    registry: Registry,
    reporter: Reporter,
    file: Path,
) -> None:
    """Solve and judge the head of one network, and export the network.

    Args:
        row: Receives the figures.
        architecture: The architecture.
        tag: The tag of its weights; None stands for the default weights.
        data_size: The picture size that suits the data; None if that is not known.
        requested: What the user requested.
        registry: The loaded plugins.
        reporter: Receives the progress.
        file: The path for the exported file.

    Raises:
        ZooError: A step failed.
    """
    finetune = FinetuneConfig(
        architecture=row.name,
        data=requested.data,
        reading=requested.reading,
        size=requested.size or data_size or _size_at_hand(architecture, tag, registry),
        resize=requested.resize,
        levels=requested.levels,
        schedule=SCHEDULE,
        balance=requested.balance,
        group_by=requested.group_by,
        folds=requested.folds,
        seed=requested.seed,
        export=False,
    )
    resolved = config.resolve(finetune, registry, reporter)
    if resolved.weights.random:
        why = resolved.weights.missing or "no plugin lists any"
        raise WeightsUnavailable(f"{row.name} has no pretrained weights here: {why}")
    dataset = load_dataset(resolved, reporter, validation=False)
    data, stats = training_data(dataset), CacheStats()
    training = train_config(resolved, dataset)
    backbone, groups = by_evidence.features_of(resolved, data, training, registry, reporter, stats)
    weights = class_weights(data) if requested.balance else None
    with reporter.progress("solving the head"):
        chosen = by_evidence.choose(groups, resolved, data, weights)
    if not len(chosen.fit.rows):
        raise EmptyClass("no picture could be held out. Each class needs two pictures besides that for the test.")
    row.size, row.weights = resolved.spec.size, str(resolved.weights.record.get("id") or "")
    _judge(row, chosen, data, dataset, weights)
    network = by_evidence.head_alone(backbone, chosen, groups, resolved, registry, reporter)
    _export(network, resolved, dataset, reporter, file)
    row.bytes = file.stat().st_size


def _size_at_hand(architecture: Architecture, tag: str | None, registry: Registry) -> tuple[int, int] | None:
    """Return the picture size of the first weights that are on this computer; None if there are none."""
    entries = registry.weights_of(architecture.name, top=False)
    local = (entry for entry in entries if (tag is None or entry.tag == tag) and fetch.find_local(entry))
    return next((entry.input_size for entry in local), None)


def _judge(row: Tried, chosen: ChosenHead, data: TrainingData, dataset: Dataset, weights: np.ndarray | None) -> None:
    """Set the figures of held-out pictures."""
    fit = chosen.fit
    places = data.train[fit.rows]
    known = data.targets[places]
    right = rightness(fit.logits, known, data.task)
    losses = cross_entropies(fit.logits, known, data.task, label_smoothing=0.0, weights=weights)
    digests = [dataset.pixels.digests[place] for place in places]
    row.right = dict(zip(digests, map(float, right), strict=True))
    row.losses = dict(zip(digests, map(float, losses), strict=True))
    row.judge(digests)


def _judge_alike(rows: Sequence[Tried], reporter: Reporter) -> None:
    """Judge all networks by the same pictures.

    A network with few features holds out all folds in turn, and a large one the first fold only. If too few pictures
    are common to all, each network keeps the figures of its own ones.
    """
    shared = pictures_in_common({row.name: row.right for row in rows})
    if shared is None:
        reporter.warn(
            "the networks were held to different pictures, because which ones are near-duplicates depends on the "
            "picture size. Differences between them are less sure. Give all the same size with --size."
        )
    elif any(len(row.right) > len(shared) for row in rows):
        reporter.say(f"Comparing on the {len(shared):,} pictures that were held out for every network")
        for row in rows:
            row.judge(shared)


def _export(
    network: SolvedNetwork | keras.Model, resolved: ResolvedConfig, dataset: Dataset, reporter: Reporter, file: Path
) -> None:
    """Write the network as `zoo finetune` would, without what only a finished run has, and check its parity."""
    from zoo.export import artifact

    info = ModelInfo(
        classes=dataset.source.classes,
        task=dataset.source.task,
        image=dataset.spec,
        architecture=resolved.architecture.describe(),
    )
    rows = dataset.split.train
    pixels = dataset.pixels.array[np.sort(rows[:: max(1, len(rows) // PARITY_PICTURES)][:PARITY_PICTURES])]
    if isinstance(network, SolvedNetwork):
        graph, info = join_and_check(network, info, pixels, reporter, allow_constant=True)
    else:
        graph, info = convert_and_check(network, info, pixels, reporter, allow_constant=True)
    file.write_bytes(artifact.serialize(graph, info))


def _measure(able: Sequence[tuple[Tried, Path]], requested: CompareConfig, reporter: Reporter) -> str | None:
    """Measure the time of all files in turn. Return a sentence about a busy machine, or None."""
    others = OtherPrograms()
    times: list[list[float]] = [[] for _ in able]
    with reporter.progress("measuring") as progress:
        for number in range(ROUNDS * len(able)):
            row, file = able[number % len(able)]
            predictor = Predictor(str(file), threads=requested.threads, tuned=False)
            times[number % len(able)].append(_milliseconds(predictor, row.size or (1, 1)))
            progress(number + 1, ROUNDS * len(able))
    for (row, _), found in zip(able, times, strict=True):
        row.milliseconds = statistics.median(found)
    return others.warning()


def _milliseconds(predictor: Predictor, size: tuple[int, int]) -> float:
    """Return the median time of a call with one picture, in milliseconds."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, *size, predictor.info.image.channels), np.uint8)
    for _ in range(WARM):
        predictor.probabilities(pixels)
    times: list[float] = []
    ends = time.perf_counter() + SECONDS
    while len(times) < CALLS or time.perf_counter() < ends:
        began = time.perf_counter()
        predictor.probabilities(pixels)
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def _too(row: Tried, requested: CompareConfig) -> tuple[str, ...]:
    """Return which limits a network breaks."""
    slow = requested.max_milliseconds is not None and (row.milliseconds or 0.0) > requested.max_milliseconds
    large = requested.max_megabytes is not None and (row.bytes or 0) > 1e6 * requested.max_megabytes
    return tuple(text for text, broken in (("slow", slow), ("large", large)) if broken)


def _line(row: Tried) -> str:
    if row.problem:
        return f"{row.name}: left out, because {row.problem.splitlines()[0]}"
    return f"{row.name}: accuracy {row.accuracy:.4f} on {row.pictures} held-out pictures, {row.seconds:.1f} s"
