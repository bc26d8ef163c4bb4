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

from zoo.plugin.checks import is_count, is_number, require, require_name, require_text

if TYPE_CHECKING:
    import keras

HASH = re.compile(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}")


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
        url: The address of the file.
        filename: The name of the file in a mirror or cache. For a file that Keras publishes, it is the name in Keras's
            cache.
        hash: "md5:..." or "sha256:..." as published. None means that none is published. zoo then records the sha256 of
            the first download, and compares the file with it from then on.
        bytes: The size of the file in bytes; None if it is not known.
        includes_top: Whether the file includes the top, the layers that turn the feature map into classes.
        input_size: (height, width) in pixels at which the weights were trained.
        class_index: The file that names the classes; None if none is published. `zoo export --top` needs it.
        classes: The number of classes of the top.
        load: `load(model, path)` loads a file that `keras.Model.load_weights` cannot load. It may raise any exception
            if the file does not fit; zoo then raises WeightsIncompatible. None means `load_weights`.
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
        require_name(self, self.architecture)
        require_name(self, self.tag)
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

    @property
    def id(self) -> str:
        """The id of the weights, such as "mobilenetv2.imagenet1k". Several files may have the same id."""
        return f"{self.architecture}.{self.tag}"


def _require_file(owner: Weights | ClassIndex) -> None:
    require(
        isinstance(owner.url, str) and owner.url.startswith(("https://", "http://")),
        owner,
        "url must begin with https:// or http://",
        owner.url,
    )
    plain = isinstance(owner.filename, str) and owner.filename and Path(owner.filename).name == owner.filename
    require(bool(plain), owner, "filename must be a file name without folders", owner.filename)
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
