"""Data classes that describe published weights.

The instances are immutable. The fields of an instance are checked when it is created.

Plugins import the classes from `zoo.plugin`. `zoo.pretrained` finds, downloads and checks the described files.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import InvalidPluginData
from zoo.plugin import origins
from zoo.plugin.checks import is_count, is_number, require, require_name, require_text

if TYPE_CHECKING:
    import keras

HASH = re.compile(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}")
RESIZE = re.compile(r"squash|pad|crop(:(0?\.\d*[1-9]\d*|1(\.0*)?))?")
# No control characters, nothing that Windows refuses, no hidden file, and no place for `..`.
FILENAME = re.compile(r'[^./\\:*?"<>|\s][^/\\:*?"<>|\n\r\t]{0,199}')
FILTERS = ("bilinear", "bicubic", "lanczos")
# In the name of a licence that is no SPDX identifier, or in an identifier such as CC-BY-NC-4.0.
NO_COMMERCE = re.compile(r"\bNC\b|non-?commercial|research[ -](use[ -])?only", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class ClassIndex:
    """Describes a published JSON file that names the classes of a classifier.

    The file maps the index of each class to its identifier and name: {"0": ["n01440764", "tench"], ...}.

    Args:
        url: The address of the file.
        filename: The name of the file in a mirror or cache.
        hash: "md5:..." or "sha256:..." of the file; None if none is known.
        bytes: The size of the file in bytes; None if it is not known.

    Raises:
        InvalidPluginData: A field has a value that is not allowed.
    """

    url: str
    filename: str
    hash: str | None = None
    bytes: int | None = None

    def __post_init__(self) -> None:
        _require_file(self)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Describes one file of published weights.

    Several files may have the same architecture and tag. Some of them include the top and some do not, and they may
    have been trained at different input sizes.

    Args:
        architecture: The name of the architecture. The architecture can be one that another plugin provides.
        tag: A name for how the weights were trained, such as the name of the dataset ("imagenet1k").
        url: Where the file comes from. It has one of these forms:
            "https://..." or "http://...": an address.
            "package:NAME/PATH": a file in an installed Python package. NAME is a module, and PATH is in its folder. Or
            NAME is a distribution, and PATH begins beside its modules. The file name may have `*` if exactly one file
            matches.
            "hf:ORG/REPO/FILE@REVISION": a file of a repository on Hugging Face.
            "keras-hub:OWNER/MODEL/FRAMEWORK/VARIATION/VERSION": a preset of keras-hub, by its handle on Kaggle. Its
            file is model.weights.h5, unless "/FILE" follows.
            "file:/PATH": a file on this computer, with `*` as in a package.
        filename: The name of the file in a mirror or cache. For a file that Keras publishes, it is the name in Keras's
            cache. If it is left out, it follows from `url`; if `url` has `*`, it must be given.
        hash: "md5:..." or "sha256:..." as published. None means that none is published. zoo then records the sha256 of
            the first download, and compares the file with it from then on.
        bytes: The size of the file in bytes; None if it is not known.
        includes_top: Whether the file includes the top, the layers that turn the feature map into classes.
        top_optional: Whether a file that includes the top can also be loaded into a network without it. Such a file
            serves both, and is listed once.
        input_size: (height, width) in pixels at which the weights were trained.
        class_index: The file that names the classes; None if none is published. `zoo export --top` needs it.
        classes: The number of classes of the top.
        load: `load(model, path)` loads a file that `keras.Model.load_weights` cannot load. `model` is what
            `Architecture.build` or `build_classifier` returns, with random values. `path` is a `pathlib.Path`; HDF5
            files are checked before. It may raise any exception if the file does not fit; zoo then raises
            WeightsIncompatible. It is tried on the file of `--weights FILE` too. None means `load_weights`, or names of
            layers for files of tensors (see `read_tensors`).
        resize: How pictures are best resized for these weights: "squash", "crop", "crop:FRACTION" or "pad". It is the
            default of `--resize` for them. None means "squash".
        filter: The filter with which pictures are resized for these weights: "bilinear", "bicubic" or "lanczos". None
            means "bilinear".
        commercial_use: Whether the licence allows commercial use. None means that `licence` tells: it is not allowed if
            the licence names itself non-commercial, as CC-BY-NC-4.0 does. zoo says before training what is not allowed.
        licence: The licence of the weights.
        source: Who published the weights.
        paper: The address of the paper; None if there is none.
        top1: Published ImageNet top-1 accuracy, in 0..1; None if it is not known.
        top5: Published ImageNet top-5 accuracy, in 0..1; None if it is not known.

    Raises:
        InvalidPluginData: A field has a value that is not allowed.
    """

    architecture: str
    tag: str
    url: str
    filename: str = ""
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
    top_optional: bool = False
    resize: str | None = None
    filter: str | None = None
    commercial_use: bool | None = None

    def __post_init__(self) -> None:
        require_name(self, self.architecture)
        require_name(self, self.tag)
        self._settle_origin()
        _require_file(self)
        for label in ("licence", "source"):
            require_text(self, label, getattr(self, label))
        object.__setattr__(self, "input_size", tuple(self.input_size))
        size = self.input_size
        require(len(size) == 2 and all(map(is_count, size)), self, "input_size must be (height, width)", size)
        require(is_count(self.classes, 2), self, "classes must be 2 or more", self.classes)
        require(self.load is None or callable(self.load), self, "load must be a function or None", self.load)
        for score in (self.top1, self.top5):
            fits = score is None or (is_number(score) and 0 <= score <= 1)
            require(fits, self, "top1 and top5 must be fractions in 0..1 or None", score)
        self._require_choices()

    def _settle_origin(self) -> None:
        """Check `url`, and fill in `filename` if it is left out."""
        require(isinstance(self.url, str), self, "url must be a text", self.url)
        try:
            origin = origins.parse(self.url)
        except ValueError as error:
            raise InvalidPluginData(f"{type(self).__name__}: {error}. Received: {self.url!r}.") from None
        if self.filename == "":
            require(origin.filename != "", self, "filename must be given, because url does not tell it", self.url)
            object.__setattr__(self, "filename", origin.filename)

    def _require_choices(self) -> None:
        told = isinstance(self.top_optional, bool) and (self.includes_top or not self.top_optional)
        require(told, self, "top_optional must be True or False, and True needs includes_top=True", self.top_optional)
        told = self.resize is None or (isinstance(self.resize, str) and bool(RESIZE.fullmatch(self.resize)))
        require(told, self, "resize must be squash, crop, crop:FRACTION, pad or None", self.resize)
        told = self.filter is None or self.filter in FILTERS
        require(told, self, f"filter must be {', '.join(FILTERS)} or None", self.filter)
        told = self.commercial_use in (None, True, False)
        require(told, self, "commercial_use must be True, False or None", self.commercial_use)

    @property
    def origin(self) -> origins.Origin:
        """The parts of `url`."""
        return origins.parse(self.url)

    @property
    def forbids_commerce(self) -> bool:
        """Whether the licence is known to forbid commercial use."""
        if self.commercial_use is None:
            return NO_COMMERCE.search(self.licence) is not None
        return not self.commercial_use

    def serves(self, top: bool | None) -> bool:
        """Return whether the file can be loaded into a network with its top (True), without (False), or any (None)."""
        return top is None or self.includes_top is top or (self.top_optional and not top)

    @property
    def id(self) -> str:
        """The id of the weights, such as "mobilenetv2.imagenet1k". Several files may have the same id."""
        return f"{self.architecture}.{self.tag}"


def _require_file(owner: Weights | ClassIndex) -> None:
    if isinstance(owner, ClassIndex):
        told = isinstance(owner.url, str) and origins.is_address(owner.url)
        problem = "url must begin with https:// or http://, be complete, and hold no user name and no password"
        require(told, owner, problem, owner.url)
    plain = isinstance(owner.filename, str) and FILENAME.fullmatch(owner.filename) and owner.filename.isprintable()
    require(bool(plain), owner, "filename must be a file name without folders, for every system", owner.filename)
    known = owner.hash is None or (isinstance(owner.hash, str) and HASH.fullmatch(owner.hash) is not None)
    require(known, owner, "hash must be 'md5:<32 hex>', 'sha256:<64 hex>' or None", owner.hash)
    require(owner.bytes is None or is_count(owner.bytes), owner, "bytes must be a positive whole number", owner.bytes)


IMAGENET1K = ClassIndex(
    url="https://storage.googleapis.com/download.tensorflow.org/data/imagenet_class_index.json",
    filename="imagenet_class_index.json",
    hash="md5:c2c37ea517e94d9795004a39431a14cb",
)
"""The file that names the 1,000 classes of ILSVRC-2012 (ImageNet-1k), as Keras publishes and caches it."""


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
    """Describe the two published files of a network trained on ImageNet-1k, one without the top and one with it.

    Both have the tag "imagenet1k". In each argument that is a pair, the first value is for the file without the top.

    Args:
        architecture: The name of the architecture.
        base_url: The address of the folder that holds the files, with a slash at its end.
        filenames: The names of the files in Keras's cache.
        size: The height and width in pixels at which the network was trained.
        hashes: "md5:..." or "sha256:..." of each file; None if none is published.
        lengths: The size of each file in bytes; None if it is not known.
        published_as: The names of the files in their addresses. None means that they are the same as in Keras's cache.
        facts: Other fields of `Weights`: licence, source, paper, top1, top5, load.

    Returns:
        The entry without the top, and the entry with it.

    Raises:
        InvalidPluginData: A field has a value that is not allowed.
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


def timm_weights(
    architecture: str,
    repository: str,
    *,
    load: Callable[[keras.Model, Path], None],
    tag: str = "imagenet1k",
    revision: str = "main",
    file: str = "model.safetensors",
    size: int = 224,
    crop: float | None = 0.875,
    top: bool = True,
    source: str = "",
    **facts: Any,
) -> Weights:
    """Describe weights in the layout of timm, from a file of one of its repositories on Hugging Face.

    One file serves the network with its top and without. Pictures are resized with the filter "bicubic", unless
    `facts` say otherwise: almost all networks of timm were evaluated so.

    Args:
        architecture: The name of the architecture.
        repository: The repository, without its owner `timm`, such as "densenet121.ra_in1k".
        load: Loads the file; see `Weights`.
        tag: The name of the training. "imagenet1k" is that of Keras's weights; others need another one.
        revision: The whole id of a commit. A branch such as "main" changes, so that zoo can only compare a file with
            the one that it downloaded first.
        file: The name of the file. Older commits have "pytorch_model.bin" alone.
        size: The height and width in pixels at which the accuracies were measured. It becomes the default size.
        crop: The fraction of the picture that a crop keeps, in (0, 1]: `crop_pct` of timm. None squashes pictures.
        top: Whether the file has a top for the 1,000 classes of ImageNet.
        source: Who trained the weights. The address of the repository is added.
        facts: Other fields of `Weights`: licence, paper, top1, top5, hash, filter.

    Raises:
        InvalidPluginData: A field has a value that is not allowed.
    """
    page = f"https://huggingface.co/timm/{repository}"
    return Weights(
        architecture=architecture,
        tag=tag,
        url=f"hf:timm/{repository}/{file}@{revision}",
        includes_top=top,
        top_optional=top,
        input_size=(size, size),
        class_index=IMAGENET1K if top else None,
        load=load,
        source=f"{source}; {page}" if source else page,
        **{"resize": "squash" if crop is None else f"crop:{crop:g}", "filter": "bicubic", **facts},
    )
