"""The data classes that plugins bring, frozen and checked when made; see `zoo.plugin`.

Importing this module imports neither Keras nor numpy.
"""

from __future__ import annotations

import fnmatch
import functools
import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pluggy

from zoo.errors import InvalidPluginData, reason

if TYPE_CHECKING:
    import keras
    import numpy as np

hookimpl = pluggy.HookimplMarker("zoo")

NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
HASH = re.compile(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}")
POOLS = ("avg", "max", "flatten", "l2norm", "roi")
OPTIMIZERS = ("adam", "adamw", "sgd", "rmsprop")
LR_SCHEDULES = ("constant", "cosine", "one-cycle")


def _require(condition: bool, owner: object, problem: str, received: object) -> None:
    if not condition:
        raise InvalidPluginData(f"{type(owner).__name__}: {problem}. Received: {received!r}.")


def _require_name(owner: object, name: object) -> None:
    _require(
        isinstance(name, str) and NAME.fullmatch(name) is not None,
        owner,
        "a name is lower-case letters, digits, '_' and '-', and begins with a letter or digit",
        name,
    )


def _require_text(owner: object, label: str, text: object) -> None:
    _require(isinstance(text, str) and bool(text.strip()), owner, f"{label} must be a text", text)


def _is_count(value: object, minimum: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class Stage:
    """A named part of a backbone, the unit in which schedules freeze and unfreeze.

    Args:
        name: What the family calls it ("block5").
        layers: Names of the layers, as Keras names them in a fresh process, or patterns with `*` ("block5_*"). Layers
            without weights may be left out.
    """

    name: str
    layers: tuple[str, ...]

    def __post_init__(self) -> None:
        _require_text(self, "name", self.name)
        object.__setattr__(self, "layers", tuple(self.layers))
        _require(
            bool(self.layers) and all(isinstance(layer, str) for layer in self.layers),
            self,
            "layers must be one or more layer names",
            self.layers,
        )

    def members(self, layers: Iterable[str]) -> dict[str, list[str]]:
        """Say which layers each name or pattern of this stage means.

        Args:
            layers: Names of all layers of a backbone.

        Returns:
            Name or pattern -> the layers that it means, in their order; none where there is no such layer.
        """
        layers = list(layers)
        present = set(layers)
        return {
            wanted: fnmatch.filter(layers, wanted) if "*" in wanted else [wanted] * (wanted in present)
            for wanted in self.layers
        }


@dataclass(frozen=True, kw_only=True)
class Head:
    """What stands on a backbone: 1x1 convolution (optional) -> pool -> dropout -> hidden layers -> classes.

    Args:
        pool: "avg" or "max" over the positions of the feature map, "l2norm" (its root mean square over the
            positions), "flatten", which keeps the positions and ties the network to one input size, or "roi": the
            maximum of each cell of a fixed grid laid over a map of any size, flattened (region-of-interest pooling,
            Girshick 2015, https://arxiv.org/abs/1504.08083).
        grid: Rows and columns of the grid of "roi".
        hidden: Units of each hidden dense layer (ReLU), in order.
        dropout: Fraction of the pooled features set to zero in training, in 0..1; stands between the pool and the
            first hidden layer.
        weight_l1: L1 penalty on the kernels of the head's dense layers.
        weight_l2: L2 penalty on the same kernels.
        reduce: Channels of a 1x1 convolution (ReLU) in front of the pool; None for no such convolution.
    """

    pool: Literal["avg", "max", "flatten", "l2norm", "roi"] = "avg"
    grid: int = 4
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    weight_l1: float = 0.0
    weight_l2: float = 0.0
    reduce: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        _require(self.pool in POOLS, self, f"pool must be one of {', '.join(POOLS)}", self.pool)
        _require(_is_count(self.grid), self, "grid must be a positive whole number", self.grid)
        _require(all(map(_is_count, self.hidden)), self, "hidden must be positive whole numbers", self.hidden)
        _require(_is_number(self.dropout) and 0 <= self.dropout < 1, self, "dropout must be in [0, 1)", self.dropout)
        for penalty in (self.weight_l1, self.weight_l2):
            _require(_is_number(penalty) and penalty >= 0, self, "a weight penalty must not be negative", penalty)
        _require(self.reduce is None or _is_count(self.reduce), self, "reduce must be a channel count", self.reduce)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A network that can be built from nothing.

    Args:
        name: What a user types ("mobilenetv2_035").
        summary: One line for `zoo list`.
        build: `build(input_shape) -> keras.Model`. `input_shape` is (height, width, channels). The model takes
            float32 pictures in 0..255, RGB (or grey, where `channels` is 1), NHWC, normalises them itself (see
            `normalize`) and gives the feature map, float32 (batch, h, w, features). It must be a flat functional
            model of Keras's own layers, so that it can be cut anywhere and loaded again without this plugin.
        input_size: Default (height, width) in pixels.
        min_size: Smallest height and width, in pixels, at which the feature map is not empty.
        channels: 3 for colour, 1 for grey.
        parameters: Weights of the backbone in numbers, without head and without preprocessing layers.
        stages: Stem first, top last; every layer with weights is in exactly one.
        head: The head that this family does best with.
        default_schedule: Name of the schedule used with pretrained weights.
        learning_rate: Adam's rate at which the whole network learns from random weights, in batches of 32. The
            built-in schedules take theirs from it: a tenth for pretrained layers.
        build_classifier: Optional `build_classifier(input_shape, classes) -> keras.Model`: the published network
            with its top, same input, giving **logits**, float32 (batch, classes).
        classifier_size: The only (height, width) in pixels that the published top takes, where it flattens the map;
            None where it takes any.
        source: Where the method and the code come from (paper, repository).
        licence: Licence of the code that builds the network.
    """

    name: str
    summary: str
    build: Callable[[tuple[int, int, int]], keras.Model]
    input_size: tuple[int, int]
    min_size: int
    parameters: int
    stages: tuple[Stage, ...]
    source: str
    licence: str
    channels: int = 3
    head: Head = field(default_factory=Head)
    default_schedule: str = "fine-tune"
    learning_rate: float = 1e-3
    build_classifier: Callable[[tuple[int, int, int], int], keras.Model] | None = None
    classifier_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        _require_name(self, self.name)
        for label in ("summary", "source", "licence", "default_schedule"):
            _require_text(self, label, getattr(self, label))
        _require(callable(self.build), self, "build must be a function", self.build)
        rate = self.learning_rate
        _require(_is_number(rate) and 0 < rate < 100, self, "learning_rate must be above 0 and below 100", rate)
        top = self.build_classifier
        _require(top is None or callable(top), self, "build_classifier must be a function or None", top)
        only = self.classifier_size
        fits = only is None or (isinstance(only, tuple) and len(only) == 2 and all(map(_is_count, only)))
        _require(fits, self, "classifier_size must be (height, width) or None", only)
        object.__setattr__(self, "input_size", tuple(self.input_size))
        size = self.input_size
        _require(len(size) == 2 and all(map(_is_count, size)), self, "input_size must be (height, width)", size)
        _require(_is_count(self.min_size), self, "min_size must be a positive whole number of pixels", self.min_size)
        _require(min(size) >= self.min_size, self, f"input_size must be at least min_size {self.min_size}", size)
        _require(self.channels in (1, 3), self, "channels must be 1 or 3", self.channels)
        _require(_is_count(self.parameters, 0), self, "parameters must be a whole number", self.parameters)
        _require(isinstance(self.head, Head), self, "head must be a Head", self.head)
        object.__setattr__(self, "stages", tuple(self.stages))
        stages = self.stages
        _require(
            bool(stages) and all(isinstance(stage, Stage) for stage in stages),
            self,
            "stages must be one or more Stage",
            stages,
        )
        names = [stage.name for stage in stages]
        _require(len(set(names)) == len(names), self, "stage names must differ", names)
        counts = Counter(layer for stage in stages for layer in stage.layers)
        twice = sorted(layer for layer, count in counts.items() if count > 1)
        _require(not twice, self, "a layer must stand in one stage only", twice)

    def describe(self) -> dict[str, Any]:
        """Return what run.json and the exported file say of this architecture."""
        return {
            "name": self.name,
            "parameters": self.parameters,
            "source": self.source,
            "licence": self.licence,
        }


@dataclass(frozen=True, kw_only=True)
class ClassIndex:
    """A file that names the classes of a published classifier.

    The file is JSON: {"0": ["n01440764", "tench"], ...}, index -> [identifier, name].

    Args:
        url: Where it is published.
        filename: Its name in a mirror or cache.
        hash: "md5:..." or "sha256:..." of the file, or None.
        bytes: Its length, or None.
    """

    url: str
    filename: str
    hash: str | None = None
    bytes: int | None = None

    def __post_init__(self) -> None:
        _require_file(self)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Published weights of an architecture, by the id `architecture.tag`.

    One id may have several entries: with and without the top, and for several input resolutions.

    Args:
        architecture: Name of the architecture, also of another plugin's.
        tag: What the weights were trained on and how ("imagenet1k").
        url: Where the file is published.
        filename: Its name in a mirror folder or cache; Keras's own name where Keras publishes it.
        hash: "md5:..." or "sha256:..." where one is published; None means that zoo records the digest when it
            first downloads the file and checks it from then on.
        bytes: Length of the file where known.
        includes_top: Whether the file holds the classifier's last layer too.
        input_size: (height, width) in pixels at which the weights were trained.
        class_index: Names of the classes; needed to export the published classifier.
        classes: Number of classes of the top.
        load: Optional `load(model, path)` for a layout that `keras.Model.load_weights` does not read. It may raise any
            exception on a file that does not fit; zoo reports it as WeightsIncompatible.
        licence: Licence of the weights.
        source: Who published them.
        paper: The paper, if any.
        top1: Reported ImageNet top-1 accuracy, in 0..1, or None.
        top5: Reported ImageNet top-5 accuracy, in 0..1, or None.
    """

    architecture: str
    tag: str
    url: str
    filename: str
    includes_top: bool
    input_size: tuple[int, int]
    licence: str
    source: str
    hash: str | None = None
    bytes: int | None = None
    class_index: ClassIndex | None = None
    classes: int = 1000
    load: Callable[[keras.Model, Path], None] | None = None
    paper: str | None = None
    top1: float | None = None
    top5: float | None = None

    def __post_init__(self) -> None:
        _require_name(self, self.architecture)
        _require_name(self, self.tag)
        _require_file(self)
        for label in ("licence", "source"):
            _require_text(self, label, getattr(self, label))
        object.__setattr__(self, "input_size", tuple(self.input_size))
        size = self.input_size
        _require(len(size) == 2 and all(map(_is_count, size)), self, "input_size must be (height, width)", size)
        _require(_is_count(self.classes, 2), self, "classes must be 2 or more", self.classes)
        _require(self.load is None or callable(self.load), self, "load must be a function or None", self.load)
        for score in (self.top1, self.top5):
            fits = score is None or (_is_number(score) and 0 <= score <= 1)
            _require(fits, self, "an accuracy is a fraction in 0..1", score)

    @property
    def id(self) -> str:
        """`architecture.tag`."""
        return f"{self.architecture}.{self.tag}"


def _require_file(owner: Weights | ClassIndex) -> None:
    _require(
        isinstance(owner.url, str) and owner.url.startswith(("https://", "http://")),
        owner,
        "url must begin with https:// or http://",
        owner.url,
    )
    plain = isinstance(owner.filename, str) and owner.filename and Path(owner.filename).name == owner.filename
    _require(bool(plain), owner, "filename must be a plain file name", owner.filename)
    known = owner.hash is None or (isinstance(owner.hash, str) and HASH.fullmatch(owner.hash) is not None)
    _require(known, owner, "hash must be 'md5:<32 hex>', 'sha256:<64 hex>' or None", owner.hash)
    _require(owner.bytes is None or _is_count(owner.bytes), owner, "bytes must be a positive whole number", owner.bytes)


IMAGENET1K = ClassIndex(
    url="https://storage.googleapis.com/download.tensorflow.org/data/imagenet_class_index.json",
    filename="imagenet_class_index.json",
    hash="md5:c2c37ea517e94d9795004a39431a14cb",
)
"""The 1,000 classes of ILSVRC-2012, as Keras publishes and caches them."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """A policy that alters training pictures, and nothing but training pictures.

    Args:
        name: What a user types ("light").
        summary: One line for `zoo list`.
        build: `build(**parameters) -> f`, and `f(images, labels, seeds) -> (images, labels)`. images: float32 array
            (batch, height, width, channels) in 0..255; labels: float32 array (batch, classes) in 0..1, 1 where a
            picture is of a class (rows sum to 1, unless the data are multi-label); seeds:
            uint64 array (batch,), one per picture, already made of run seed, epoch and picture. Returns arrays of
            the same shapes, dtypes and ranges. All randomness must come from the seeds.
        parameters: Default values of what `build` takes.
    """

    name: str
    summary: str
    build: Callable[..., Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]]
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require_name(self, self.name)
        _require_text(self, "summary", self.summary)
        _require(callable(self.build), self, "build must be a function", self.build)
        _require(isinstance(self.parameters, Mapping), self, "parameters must be a mapping", self.parameters)


RENAMED_FIELDS = {"rate": "lr_schedule", "rate_decay": "layer_decay", "enough": "skip_below_loss"}
"""Old names of the fields of `Phase` -> the names that they have now; both are accepted."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One stretch of training with a fixed set of moving layers. The head always moves.

    Args:
        name: What it is called on screen and in history.csv.
        train: "head"; "last:N" (the N last stages); "from:LAYER" (that layer and everything above); or "all".
        depth: How many stages, stem first, the network has in this phase; None for all. A network that is cut
            ends in a head of its own, which is new in every phase of another depth; stages count within the cut.
        epochs: Passes over the training pictures, at most (early stopping may end the phase).
        learning_rate: Peak learning rate.
        optimizer: "adam", "adamw", "sgd" (momentum 0.9) or "rmsprop".
        lr_schedule: "constant"; "cosine": warm-up over a tenth of the steps, then a cosine down to a hundredth; or
            "one-cycle": from a 25th up over three tenths of the steps, then a cosine down to a ten-thousandth (Smith
            and Topin 2018, https://arxiv.org/abs/1708.07120, without their cycle of momentum).
        layer_decay: Factor on the update of each stage per stage below the top; 1 moves all alike, 0.5 halves the
            step of every stage further down. The head and the last stage keep the full rate.
        batch_norm: "frozen" keeps statistics, scale and shift of every BatchNorm layer of the backbone; "update"
            trains those that the phase trains.
        batch_norm_momentum: Momentum of the moving statistics while they move; None keeps the layer's own.
        augment: Whether the chosen augmentation policy applies in this phase.
        views: None draws every epoch's augmentation afresh; K repeats the same K views of a picture in turn.
        patience: Epochs without a better validation loss after which the phase ends; None never ends early.
        clip_norm: The norm that the gradient of all weights together is scaled down to where it is greater; None leaves
            it as it is.
        ema: Momentum of a moving average over steps of the trained weights, in (0, 1), which is what is judged, and
            kept, after every epoch (Polyak and Juditsky 1992); None judges and keeps the weights themselves.
        skip_below_loss: The phase is skipped if the best epoch so far has at most this validation loss, and at most a
            quarter of the chance level (the loss of predicting the classes' shares). With so few errors left, the
            validation pictures could not tell whether the phase helps. None never skips it.
    """

    name: str
    train: str
    epochs: int
    learning_rate: float
    optimizer: Literal["adam", "adamw", "sgd", "rmsprop"] = "adam"
    lr_schedule: Literal["constant", "cosine", "one-cycle"] = "constant"
    layer_decay: float = 1.0
    depth: int | None = None
    batch_norm: Literal["frozen", "update"] = "frozen"
    batch_norm_momentum: float | None = None
    augment: bool = True
    views: int | None = None
    patience: int | None = 5
    clip_norm: float | None = None
    ema: float | None = None
    skip_below_loss: float | None = None

    def __post_init__(self) -> None:
        _require_text(self, "name", self.name)
        _require(
            isinstance(self.train, str) and re.fullmatch(r"head|all|last:[1-9]\d*|from:\S+", self.train) is not None,
            self,
            "train must be 'head', 'last:N', 'from:LAYER' or 'all'",
            self.train,
        )
        _require(_is_count(self.epochs), self, "epochs must be a positive whole number", self.epochs)
        rate = self.learning_rate
        _require(_is_number(rate) and 0 < rate < 100, self, "learning_rate must be above 0 and below 100", rate)
        _require(
            self.optimizer in OPTIMIZERS, self, f"optimizer must be one of {', '.join(OPTIMIZERS)}", self.optimizer
        )
        _require(
            self.lr_schedule in LR_SCHEDULES,
            self,
            f"lr_schedule must be one of {', '.join(LR_SCHEDULES)}",
            self.lr_schedule,
        )
        decay = self.layer_decay
        _require(_is_number(decay) and 0 < decay <= 1, self, "layer_decay must be in (0, 1]", decay)
        _require(self.depth is None or _is_count(self.depth), self, "depth must be a count or None", self.depth)
        _require(self.batch_norm in ("frozen", "update"), self, "batch_norm must be frozen or update", self.batch_norm)
        momentum = self.batch_norm_momentum
        fits = momentum is None or (_is_number(momentum) and 0 < momentum < 1)
        _require(fits, self, "batch_norm_momentum must be in (0, 1) or None", momentum)
        _require(isinstance(self.augment, bool), self, "augment must be true or false", self.augment)
        _require(self.views is None or _is_count(self.views), self, "views must be a count or None", self.views)
        patience = self.patience
        _require(patience is None or _is_count(patience), self, "patience must be a count or None", patience)
        norm = self.clip_norm
        _require(norm is None or (_is_number(norm) and norm > 0), self, "clip_norm must be above 0 or None", norm)
        ema = self.ema
        fits = ema is None or (_is_number(ema) and 0 < ema < 1)
        _require(fits, self, "ema must be in (0, 1) or None", ema)
        loss = self.skip_below_loss
        fits = loss is None or (_is_number(loss) and loss > 0)
        _require(fits, self, "skip_below_loss must be a loss above 0 or None", loss)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as run.json records them: under the names that they had in the first version."""
        recorded = {new: old for old, new in RENAMED_FIELDS.items()}
        return {recorded.get(each.name, each.name): getattr(self, each.name) for each in fields(self)}


def _accept_old_names(cls: type[Phase]) -> None:
    """Let `Phase` be made with, and read by, the old names of its fields, with a DeprecationWarning."""
    make = cls.__init__

    @functools.wraps(make)
    def __init__(self: Phase, **values: Any) -> None:
        for old in RENAMED_FIELDS.keys() & values.keys():
            new = RENAMED_FIELDS[old]
            _require(new not in values, self, f"{old} is the old name of {new}; give one of them", values[old])
            warnings.warn(f"Phase: {old} is now called {new}.", DeprecationWarning, stacklevel=2)
            values[new] = values.pop(old)
        make(self, **values)

    def reads(old: str, new: str) -> property:
        def read(self: Phase) -> Any:
            warnings.warn(f"Phase: {old} is now called {new}.", DeprecationWarning, stacklevel=2)
            return getattr(self, new)

        return property(read, doc=f"The old name of `{new}`.")

    cls.__init__ = __init__
    for old, new in RENAMED_FIELDS.items():
        setattr(cls, old, reads(old, new))


_accept_old_names(Phase)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Phases in order.

    Args:
        name: What a user types ("fine-tune").
        summary: One line for `zoo list`.
        phases: The phases, or a function `phases(architecture) -> phases` where they depend on its stages.
    """

    name: str
    summary: str
    phases: tuple[Phase, ...] | Callable[[Architecture], tuple[Phase, ...]]

    def __post_init__(self) -> None:
        _require_name(self, self.name)
        _require_text(self, "summary", self.summary)
        if not callable(self.phases):
            object.__setattr__(self, "phases", self._checked(self.phases))

    def phases_for(self, architecture: Architecture) -> tuple[Phase, ...]:
        """Return the phases for one architecture.

        Raises:
            InvalidPluginData: The schedule's function raised, or did not return phases.
        """
        if not callable(self.phases):
            return self.phases
        try:
            phases = self.phases(architecture)
        except InvalidPluginData:
            raise
        except Exception as error:
            raise InvalidPluginData(
                f"schedule {self.name!r} has no phases for {architecture.name}: {reason(error)}"
            ) from error
        return self._checked(phases)

    def _checked(self, phases: object) -> tuple[Phase, ...]:
        fits = isinstance(phases, (tuple, list)) and phases and all(isinstance(phase, Phase) for phase in phases)
        _require(bool(fits), self, f"the phases of {self.name!r} must be one or more Phase", phases)
        return tuple(phases)


def imagenet_weights(
    architecture: str,
    base_url: str,
    filenames: tuple[str, str],
    *,
    size: int,
    hashes: tuple[str | None, str | None] = (None, None),
    lengths: tuple[int | None, int | None] = (None, None),
    published_as: tuple[str, str] | None = None,
    **facts: Any,
) -> list[Weights]:
    """Describe the two files that a network trained on ImageNet-1k is published as, under the tag "imagenet1k".

    Args:
        architecture: Name of the architecture.
        base_url: What stands before a file's name in its address.
        filenames: Names without and with top.
        size: Height and width in pixels at which it was trained.
        hashes: "md5:..." or "sha256:..." of each file, or None.
        lengths: Length in bytes of each file where known.
        published_as: Names in the addresses where they are others than those in Keras's cache.
        facts: Other fields of `Weights`: licence, source, paper, top1, top5, load.

    Returns:
        The entry without top and the one with it.
    """
    return [
        Weights(
            architecture=architecture,
            tag="imagenet1k",
            url=base_url + (published_as or filenames)[i],
            filename=filenames[i],
            hash=hashes[i],
            bytes=lengths[i],
            includes_top=bool(i),
            input_size=(size, size),
            class_index=IMAGENET1K,
            **facts,
        )
        for i in range(2)
    ]
