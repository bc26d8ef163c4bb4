"""Data classes whose instances plugins return from their hooks.

The instances are immutable. The fields of an instance are checked when it is created.

Plugins import the classes from `zoo.plugin`. The classes for published weights are in `zoo.plugin.weights`, the hooks
in `zoo.plugin.hookspecs`. Importing this module imports neither Keras nor numpy.
"""

from __future__ import annotations

import fnmatch
import functools
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

import pluggy

from zoo.errors import InvalidPluginData, reason
from zoo.plugin.checks import is_count, is_number, require, require_name, require_text

if TYPE_CHECKING:
    import keras
    import numpy as np

hookimpl = pluggy.HookimplMarker("zoo")

POOLS = ("avg", "max", "flatten", "l2norm", "roi")
# The pools that give one number per channel, so that a head can pool large feature maps with them.
VECTOR_POOLS = ("avg", "max", "l2norm")
KERAS_BACKENDS = ("tensorflow", "jax", "torch")
OPTIMIZERS = ("adam", "adamw", "sgd", "rmsprop", "exact")
LR_SCHEDULES = ("constant", "cosine", "one-cycle")


@dataclass(frozen=True)
class Stage:
    """A named part of a backbone. Schedules freeze and unfreeze whole stages.

    Args:
        name: The usual name of the stage in this family of networks ("block5").
        layers: Names of the layers, as Keras names them in a new process, or patterns with `*` ("block5_*"). Layers
            without weights may be omitted.

    Raises:
        InvalidPluginData: A field has a value that is not allowed.
    """

    name: str
    layers: tuple[str, ...]

    def __post_init__(self) -> None:
        require_text(self, "name", self.name)
        object.__setattr__(self, "layers", tuple(self.layers))
        require(
            bool(self.layers) and all(isinstance(layer, str) for layer in self.layers),
            self,
            "layers must be one or more layer names",
            self.layers,
        )

    def members(self, layers: Iterable[str]) -> dict[str, list[str]]:
        """Find the layers that each name or pattern of this stage matches.

        Args:
            layers: The names of all layers of a backbone, from input to output.

        Returns:
            A dictionary from each name or pattern to a list of the matching layers, in the order of `layers`. The list
            is empty if no layer matches.
        """
        layers = list(layers)
        present = set(layers)
        return {
            wanted: fnmatch.filter(layers, wanted) if "*" in wanted else [wanted] * (wanted in present)
            for wanted in self.layers
        }


@dataclass(frozen=True, kw_only=True)
class Head:
    """Describes the layers on top of a backbone.

    They are in this order: 1x1 convolution (optional), pooling, dropout, hidden layers, and the layer that outputs the
    logits.

    Args:
        pool: How the feature map becomes a vector.
            "avg" and "max" take the mean and the maximum over all positions, "l2norm" the root mean square.
            "flatten" keeps all positions. The network then accepts only one input size.
            "roi" divides a feature map of any size into a grid, takes the maximum of each cell, and flattens the result
            (region-of-interest pooling, Girshick 2015, https://arxiv.org/abs/1504.08083).
        grid: The number of rows, and of columns, of the grid that "roi" uses.
        hidden: The number of units of each hidden dense layer (ReLU), in order.
        dropout: The fraction of the pooled features that training sets to zero, in [0, 1).
        weight_l1: The factor of the L1 penalty on the kernels of the head's dense layers; 0 or more.
        weight_l2: The factor of the L2 penalty on the kernels of the head's dense layers; 0 or more.
        reduce: The number of channels of a 1x1 convolution (ReLU) before the pooling; None for no such convolution.
        stages: From how many stages the head takes pooled features, counted from the top of the backbone. 1 pools only
            the output of the backbone. With 3, the outputs of the two stages below the last one are pooled too, and all
            vectors are joined. This needs a pool of "avg", "max" or "l2norm", and no `reduce`.

    Raises:
        InvalidPluginData: A field has a value that is not allowed.
    """

    pool: Literal["avg", "max", "flatten", "l2norm", "roi"] = "avg"
    grid: int = 4
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    weight_l1: float = 0.0
    weight_l2: float = 0.0
    reduce: int | None = None
    stages: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        require(self.pool in POOLS, self, f"pool must be one of {', '.join(POOLS)}", self.pool)
        require(is_count(self.grid), self, "grid must be a positive whole number", self.grid)
        require(all(map(is_count, self.hidden)), self, "each of hidden must be a positive whole number", self.hidden)
        require(is_number(self.dropout) and 0 <= self.dropout < 1, self, "dropout must be in [0, 1)", self.dropout)
        for penalty in (self.weight_l1, self.weight_l2):
            require(is_number(penalty) and penalty >= 0, self, "a weight penalty must not be negative", penalty)
        require(
            self.reduce is None or is_count(self.reduce),
            self,
            "reduce must be a positive whole number of channels or None",
            self.reduce,
        )
        require(is_count(self.stages), self, "stages must be a positive whole number", self.stages)
        require(
            self.stages == 1 or (self.pool in VECTOR_POOLS and self.reduce is None),
            self,
            f"stages above 1 needs a pool of {', '.join(VECTOR_POOLS)} and no reduce",
            self.stages,
        )


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Describes a network that can be built with random weights.

    Args:
        name: The name that a user types ("mobilenetv2_035").
        summary: One line for `zoo list`.
        build: `build(input_shape)` returns the backbone as a keras.Model. `input_shape` is (height, width, channels).
            The input of the model is a float32 array (batch, height, width, channels) in 0..255. It is RGB, or gray if
            `channels` is 1. The model itself must normalize it (see `normalize`).
            The output is the feature map, a float32 array (batch, h, w, features).
            The model must be a flat functional model of Keras's own layers. Such a model can be cut after any layer.
            After it is saved, it can be loaded without this plugin.
        input_size: The default (height, width) in pixels.
        min_size: The smallest height and width in pixels at which the feature map is not empty.
        channels: 3 for color, 1 for grayscale.
        parameters: The number of weights of the backbone, without the head and the preprocessing layers.
        stages: The stages from the stem to the top. Every layer with weights must be in exactly one stage.
        head: The head that works best with this architecture.
        default_schedule: The name of the schedule for training from pretrained weights.
        learning_rate: A good learning rate for training all layers from random weights, with Adam and batches of 32.
            The built-in schedules derive the learning rates of the backbone from it. Pretrained layers train at a tenth
            of it or less.
        build_classifier: `build_classifier(input_shape, classes)` returns the published network with its top as a
            keras.Model. It has the same input as the model that `build` returns. Its output is logits (not
            probabilities), a float32 array (batch, classes). None if no classifier is published.
        classifier_size: The only (height, width) in pixels that the published top accepts, if it flattens the feature
            map; None if it accepts any size.
        source: Where the method and the code come from (paper, repository).
        licence: The licence of the code that builds the network.
        backends: The backends of Keras on which the network can be built and trained; by
            default "tensorflow", "jax" and "torch".

    Raises:
        InvalidPluginData: A field has a value that is not allowed.
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
    default_schedule: str = "auto"
    learning_rate: float = 1e-3
    build_classifier: Callable[[tuple[int, int, int], int], keras.Model] | None = None
    classifier_size: tuple[int, int] | None = None
    backends: tuple[str, ...] = KERAS_BACKENDS

    def __post_init__(self) -> None:
        require_name(self, self.name)
        for label in ("summary", "source", "licence", "default_schedule"):
            require_text(self, label, getattr(self, label))
        require(callable(self.build), self, "build must be a function", self.build)
        rate = self.learning_rate
        require(is_number(rate) and 0 < rate < 100, self, "learning_rate must be above 0 and below 100", rate)
        top = self.build_classifier
        require(top is None or callable(top), self, "build_classifier must be a function or None", top)
        only = self.classifier_size
        fits = only is None or (isinstance(only, tuple) and len(only) == 2 and all(map(is_count, only)))
        require(fits, self, "classifier_size must be (height, width) or None", only)
        known = isinstance(self.backends, tuple) and bool(self.backends) and {*self.backends} <= {*KERAS_BACKENDS}
        require(known, self, f"backends must be some of {', '.join(KERAS_BACKENDS)}", self.backends)
        object.__setattr__(self, "input_size", tuple(self.input_size))
        size = self.input_size
        require(len(size) == 2 and all(map(is_count, size)), self, "input_size must be (height, width)", size)
        require(is_count(self.min_size), self, "min_size must be a positive whole number of pixels", self.min_size)
        require(min(size) >= self.min_size, self, f"input_size must be at least min_size {self.min_size}", size)
        require(self.channels in (1, 3), self, "channels must be 1 or 3", self.channels)
        require(is_count(self.parameters, 0), self, "parameters must be a whole number", self.parameters)
        require(isinstance(self.head, Head), self, "head must be a Head", self.head)
        object.__setattr__(self, "stages", tuple(self.stages))
        stages = self.stages
        require(
            bool(stages) and all(isinstance(stage, Stage) for stage in stages),
            self,
            "stages must be one or more Stage objects",
            stages,
        )
        names = [stage.name for stage in stages]
        require(len(set(names)) == len(names), self, "stage names must differ from one another", names)
        counts = Counter(layer for stage in stages for layer in stage.layers)
        twice = sorted(layer for layer, count in counts.items() if count > 1)
        require(not twice, self, "a layer must be in one stage only", twice)

    def describe(self) -> dict[str, Any]:
        """Return what run.json and the exported file record of the architecture.

        These are the fields `name`, `parameters`, `source` and `licence`.
        """
        return {
            "name": self.name,
            "parameters": self.parameters,
            "source": self.source,
            "licence": self.licence,
        }


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Describes an augmentation policy: a function that alters training pictures. It is not applied to other pictures.

    Args:
        name: The name that a user types ("light").
        summary: One line for `zoo list`.
        build: `build(**parameters)` returns a function `policy(images, labels, seeds)`, which returns (images, labels).
            images: float32 array (batch, height, width, channels) in 0..255.
            labels: float32 array (batch, classes) in 0..1: 1 if the picture belongs to the class, else 0. A policy that
            mixes pictures returns values in between. Each row sums to 1, unless pictures can have several labels or
            none (multi-label data).
            seeds: uint64 array (batch,), one per picture, derived from the seed of the run, the epoch and the picture.
            The policy must return arrays of the same shapes, dtypes and ranges. All randomness must come from the
            seeds.
            `build` should raise ValueError if a parameter is out of its range.
        parameters: Maps the name of each parameter of `build` to its default value.

    Raises:
        InvalidPluginData: A field has a value that is not allowed.
    """

    name: str
    summary: str
    build: Callable[..., Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]]
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_name(self, self.name)
        require_text(self, "summary", self.summary)
        require(callable(self.build), self, "build must be a function", self.build)
        require(isinstance(self.parameters, Mapping), self, "parameters must be a mapping", self.parameters)


RENAMED_FIELDS = {"rate": "lr_schedule", "rate_decay": "layer_decay", "enough": "skip_below_loss"}
"""Maps the old names of fields of `Phase` to their present names. Both names are accepted."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Describes one phase of training: which layers train, for how long, and how. The head always trains.

    Args:
        name: The name of the phase in messages and in history.csv.
        train: What trains besides the head: "head" (nothing), "last:N" (the last N stages), "from:LAYER" (that layer
            and all layers after it), or "all".
        depth: The number of stages that the network has in this phase, counted from the stem. None means all stages.
            A network with fewer stages has a head of its own; phases with the same depth train the same head. "last:N"
            counts only the stages that the network has in this phase.
        epochs: The maximum number of passes over the training pictures. Early stopping may end the phase sooner.
        min_steps: The phase has more epochs than `epochs` if it would otherwise have fewer training steps than this, so
            that a few pictures get enough steps. A user who gives --epochs gets exactly those. None needs no minimum.
        learning_rate: The highest learning rate of the phase.
        optimizer: "adam", "adamw", "sgd" (with momentum 0.9), "rmsprop" or "exact". "exact" is for phases
            that train only the head, on unaltered pictures. A head that is linear in the pooled features is then solved
            by logistic regression, with an L2 penalty that cross-validation chooses. Epochs, learning rate and dropout
            are not used. A head with hidden layers, a 1x1 convolution or an L1 penalty is trained with "adam" instead.
        lr_schedule: How the learning rate changes during the phase.
            "constant": it stays at `learning_rate`.
            "cosine": it rises from a hundredth of `learning_rate` to all of it over the first tenth of the steps. It
            then falls along a cosine to a hundredth.
            "one-cycle": it rises from a 25th of `learning_rate` to all of it over the first three tenths of the steps.
            It then falls along a cosine to a ten-thousandth. (Smith and Topin 2018, https://arxiv.org/abs/1708.07120,
            but without their cyclical momentum.)
        layer_decay: The factor, in (0, 1], by which the learning rate falls from one stage to the next toward the stem.
            1 trains all stages at the same rate. 0.5 halves the rate with every stage. The head and the last stage
            train at the full rate.
        batch_norm: "frozen" keeps the statistics, scale and shift of all BatchNorm layers of the backbone. "update"
            applies to the BatchNorm layers that the phase trains: it trains their scale and shift, and updates their
            statistics.
        batch_norm_momentum: The momentum of BatchNorm's moving averages while they are updated, in (0, 1). None keeps
            the momentum of each layer.
        augment: Whether the augmentation policy of the run is applied in this phase.
        views: K computes K augmented copies of each picture in advance and uses one per epoch, in turn. None augments
            every picture anew in every epoch.
        patience: The phase ends after this many epochs without a better validation loss. None never ends it early.
        clip_norm: The maximum norm of the gradient of all weights together. A gradient with a greater norm is scaled
            down to this norm. None never scales gradients.
        ema: The momentum, in (0, 1), of an exponential moving average of the trained weights over the steps (Polyak and
            Juditsky 1992). After each epoch, the averaged weights are validated and kept, instead of the trained
            weights. None does not average.
        skip_below_loss: The phase is skipped if the best validation loss so far is at most this value, and at most a
            quarter of the chance level (the loss of predicting the shares of the classes). With so few errors left, the
            validation pictures cannot show whether the phase helps. None never skips the phase. A phase is never
            skipped if the losses are weighted by class, or if the depth of the previous phase is different.

    Raises:
        InvalidPluginData: A field has a value that is not allowed.
    """

    name: str
    train: str
    epochs: int
    learning_rate: float
    optimizer: Literal["adam", "adamw", "sgd", "rmsprop", "exact"] = "adam"
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
    min_steps: int | None = None

    def __post_init__(self) -> None:
        require_text(self, "name", self.name)
        require(
            isinstance(self.train, str) and re.fullmatch(r"head|all|last:[1-9]\d*|from:\S+", self.train) is not None,
            self,
            "train must be 'head', 'last:N', 'from:LAYER' or 'all'",
            self.train,
        )
        require(is_count(self.epochs), self, "epochs must be a positive whole number", self.epochs)
        rate = self.learning_rate
        require(is_number(rate) and 0 < rate < 100, self, "learning_rate must be above 0 and below 100", rate)
        require(self.optimizer in OPTIMIZERS, self, f"optimizer must be one of {', '.join(OPTIMIZERS)}", self.optimizer)
        solvable = self.train == "head" and self.augment is False
        require(
            self.optimizer != "exact" or solvable,
            self,
            "optimizer 'exact' needs train = 'head' and augment = false",
            f"train = {self.train!r}, augment = {self.augment!r}",
        )
        require(
            self.lr_schedule in LR_SCHEDULES,
            self,
            f"lr_schedule must be one of {', '.join(LR_SCHEDULES)}",
            self.lr_schedule,
        )
        decay = self.layer_decay
        require(is_number(decay) and 0 < decay <= 1, self, "layer_decay must be in (0, 1]", decay)
        steps = self.min_steps
        require(steps is None or is_count(steps), self, "min_steps must be a count or None", steps)
        require(self.depth is None or is_count(self.depth), self, "depth must be a count or None", self.depth)
        require(self.batch_norm in ("frozen", "update"), self, "batch_norm must be frozen or update", self.batch_norm)
        momentum = self.batch_norm_momentum
        fits = momentum is None or (is_number(momentum) and 0 < momentum < 1)
        require(fits, self, "batch_norm_momentum must be in (0, 1) or None", momentum)
        require(isinstance(self.augment, bool), self, "augment must be true or false", self.augment)
        require(self.views is None or is_count(self.views), self, "views must be a count or None", self.views)
        patience = self.patience
        require(patience is None or is_count(patience), self, "patience must be a count or None", patience)
        norm = self.clip_norm
        require(norm is None or (is_number(norm) and norm > 0), self, "clip_norm must be above 0 or None", norm)
        ema = self.ema
        fits = ema is None or (is_number(ema) and 0 < ema < 1)
        require(fits, self, "ema must be in (0, 1) or None", ema)
        loss = self.skip_below_loss
        fits = loss is None or (is_number(loss) and loss > 0)
        require(fits, self, "skip_below_loss must be a loss above 0 or None", loss)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as run.json records them.

        Fields that have been renamed keep the names that they had in the first version of zoo; see `RENAMED_FIELDS`.
        """
        recorded = {new: old for old, new in RENAMED_FIELDS.items()}
        return {recorded.get(each.name, each.name): getattr(self, each.name) for each in fields(self)}


def _accept_old_names(cls: type[Phase]) -> None:
    """Make the old names of the fields of `Phase` usable as arguments of its constructor and as attributes.

    Each use causes a DeprecationWarning.
    """
    make = cls.__init__

    @functools.wraps(make)
    def __init__(self: Phase, **values: Any) -> None:
        for old in RENAMED_FIELDS.keys() & values.keys():
            new = RENAMED_FIELDS[old]
            # `dataclasses.replace` always passes the new name too, so the old name takes precedence.
            warnings.warn(f"Phase: {old} is now called {new}.", DeprecationWarning, stacklevel=2)
            values[new] = values.pop(old)
        make(self, **values)

    def reads(old: str, new: str) -> property:
        def read(self: Phase) -> Any:
            warnings.warn(f"Phase: {old} is now called {new}.", DeprecationWarning, stacklevel=2)
            return getattr(self, new)

        return property(read, doc=f"The old name of `{new}`.")

    cls.__init__ = __init__  # type: ignore[method-assign]  # dataclasses has no aliases for fields
    for old, new in RENAMED_FIELDS.items():
        setattr(cls, old, reads(old, new))


_accept_old_names(Phase)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Describes how a network is trained, as a sequence of phases.

    Args:
        name: The name that a user types ("fine-tune").
        summary: One line for `zoo list`.
        phases: The phases in order, or a function `phases(architecture)` that returns the phases for an architecture.
        by_evidence: True lets cross-validation decide how many of the phases are trained. The first phase must have the
            optimizer "exact", and is always trained. A later phase is trained only if it lowers the loss of pictures
            that were held out. No validation part is taken from the pictures: the chosen phases are trained on all
            pictures that are not test pictures. False trains all phases.

    Raises:
        InvalidPluginData: A field has a value that is not allowed.
    """

    name: str
    summary: str
    phases: tuple[Phase, ...] | Callable[[Architecture], tuple[Phase, ...]]
    by_evidence: bool = False

    def __post_init__(self) -> None:
        require_name(self, self.name)
        require_text(self, "summary", self.summary)
        if not callable(self.phases):
            object.__setattr__(self, "phases", self._checked(self.phases))

    def phases_for(self, architecture: Architecture) -> tuple[Phase, ...]:
        """Return the phases for an architecture, in order.

        Raises:
            InvalidPluginData: The function `phases` raised an exception, or did not return phases.
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
        checked = tuple(phases) if isinstance(phases, (tuple, list)) else ()
        fits = bool(checked) and all(isinstance(phase, Phase) for phase in checked)
        require(fits, self, f"the phases of {self.name!r} must be one or more Phase objects", phases)
        if self.by_evidence:
            solvable = [phase.optimizer == "exact" and phase.depth is None for phase in checked]
            require(
                solvable[0] and not any(solvable[1:]) and all(phase.depth is None for phase in checked),
                self,
                "by_evidence needs a first phase with optimizer 'exact', other optimizers after it, and no depth",
                [phase.optimizer for phase in checked],
            )
        return checked
