"""What training begins from: published weights, a file of the user's, or random values; found, said and recorded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from zoo.errors import UsageError, WeightsUnavailable
from zoo.plugin import Architecture, Weights
from zoo.plugin.registry import Registry
from zoo.pretrained import fetch
from zoo.reporter import Reporter

RANDOM_SCHEDULE = "scratch"


def choose(
    architecture: Architecture,
    tag: str | None,
    requested: str,
    size: tuple[int, int] | None,
    registry: Registry,
    reporter: Reporter,
) -> tuple[fetch.WeightsFile | Path | None, dict[str, Any]]:
    """Find the weights that training begins from.

    Args:
        architecture: What is to be trained.
        tag: The tag that stood behind its name, or None.
        requested: "auto", "none", a tag, or a path.
        size: (height, width) in pixels of the pictures, or None where it follows the weights.
        registry: The loaded plugins.
        reporter: Hears what is taken, and in a block why nothing is.

    Returns:
        The weights (None: random), and what run.json and the exported file record of them.

    Raises:
        WeightsUnavailable: Weights were asked for by tag or path and are not to be had.
        UnknownName: There are no weights of that tag.
        DuplicateName: Two plugins bring them.
        HashMismatch: A file at hand is not the published one.
    """
    if tag and requested not in ("auto", tag):
        raise UsageError(
            f"{architecture.name}.{tag} asks for {tag!r} and --weights for {requested!r}; give one of them."
        )
    if requested == "none":
        return None, {"random": True, "id": None, "reason": "--weights none"}
    if requested not in ("auto", tag) and _is_path(requested):
        return _own_file(requested, reporter)
    explicit = tag or (requested if requested != "auto" else None)
    registry.check_tag(architecture.name, explicit)
    entries = first_tag(registry.weights_of(architecture.name, explicit, top=False))
    if not entries:
        reason = f"no plugin lists pretrained weights of {architecture.name}"
        # A network that is meant to be trained from nothing needs no warning.
        if architecture.default_schedule != RANDOM_SCHEDULE:
            _say_random(architecture, reason, None, reporter)
        return None, {"random": True, "id": None, "reason": reason}
    size = size or entries[0].input_size
    try:
        with reporter.progress("downloading weights") as progress:
            found = fetch.find(entries, size, progress)
    except WeightsUnavailable as error:
        wanted = fetch.by_fit(entries, size)[0]
        if explicit:
            text = f"{wanted.id}: {error}.\n{fetch.advice(wanted)}, or pass its path: --weights FILE."
            raise WeightsUnavailable(text) from None
        _say_random(architecture, str(error), wanted, reporter)
        return None, {"random": True, "id": None, "reason": str(error)}
    say(found, reporter)
    return found, describe(found)


def first_tag(entries: list[Weights]) -> list[Weights]:
    """Those of the tag that is listed first, which is what a plain name means."""
    return [entry for entry in entries if entry.tag == entries[0].tag]


def say(found: fetch.WeightsFile, reporter: Reporter) -> None:
    """Tell which weights are used, and where another resolution had to do."""
    reporter.say(f"Weights: {found.entry.id} ({found.entry.filename}, from the {found.place})")
    if found.entry is not found.wanted:
        height, width = found.wanted.input_size
        reporter.warn(
            f"the weights trained at {height}x{width} could not be had ({found.reason}); those trained at "
            f"{found.entry.input_size[0]}x{found.entry.input_size[1]} are used."
        )


def describe(found: fetch.WeightsFile) -> dict[str, Any]:
    """What run.json and the exported file record of published weights."""
    entry = found.entry
    return {
        "random": False,
        "id": entry.id,
        "file": entry.filename,
        "sha256": found.sha256,
        "place": found.place,
        "input_size": list(entry.input_size),
        "wanted_input_size": list(found.wanted.input_size),
        "licence": entry.licence,
        "source": entry.source,
    }


def _is_path(text: str) -> bool:
    return "/" in text or "\\" in text or text.endswith((".h5", ".keras")) or Path(text).is_file()


def _own_file(requested: str, reporter: Reporter) -> tuple[Path, dict[str, Any]]:
    path = Path(os.path.expanduser(requested))
    try:
        digest = fetch.digest_of(path)
    except OSError as error:
        raise WeightsUnavailable(f"the weights file {requested!r} cannot be read: {error.strerror}.") from None
    reporter.say(f"Weights: {path}")
    return path, {"random": False, "id": None, "file": path.name, "sha256": digest, "place": "path"}


def _say_random(architecture: Architecture, reason: str, wanted: Weights | None, reporter: Reporter) -> None:
    text = f"{architecture.name} starts from RANDOM weights, because {reason}.\n"
    text += (
        f"It will need more pictures and epochs; unless --schedule names another, the schedule is {RANDOM_SCHEDULE!r}."
    )
    if wanted:
        advice = fetch.advice(wanted)
        text += f"\nTo start from pretrained weights: {advice[0].lower()}{advice[1:]}, "
        text += "or pass its path: --weights FILE."
    reporter.block("NO PRETRAINED WEIGHTS", text)
