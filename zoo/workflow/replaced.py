"""Finds and removes files that an export makes stale, and tells the user how to make them again.

A file is stale if another run exported it earlier under the same name.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Sequence
from pathlib import Path

from zoo import runs
from zoo.errors import RunError
from zoo.export.variants import Variant
from zoo.reporter import Reporter
from zoo_runtime import ModelError, ModelInfo, Predictor

EXPORTED_FILE = "model.onnx"


def variant_path(exported: Path, name: str, variant: Variant) -> Path:
    """Return the path of a variant of an export in the folder of exports: `NAME-VARIANT/model.onnx`."""
    return exported / f"{name}-{variant.name}" / EXPORTED_FILE


def info_of(path: Path) -> ModelInfo | None:
    """Return the metadata of an exported file, or None if the file does not exist or cannot be read."""
    try:
        return Predictor(path, tuned=False).info if path.is_file() else None
    except ModelError:
        return None


def remove_stale(
    variants: Sequence[Variant], exported: Path, name: str, run: runs.Run, reporter: Reporter
) -> tuple[str, ...]:
    """Remove variants that another run exported under the same name.

    A user could mistake these variants for those of this run. If the other run cannot be loaded, nothing can make its
    variants again. Then they are kept, with a warning.

    Args:
        variants: The kinds of variants to remove.
        exported: The folder of exports.
        name: The name of the export.
        run: The run that is exported now.
        reporter: Receives the warnings.

    Returns:
        Sentences for the user. Each one lists removed files of one run, and the command that makes them again.
    """
    removed: dict[str, list[tuple[str, str]]] = {}
    for variant in variants:
        path = variant_path(exported, name, variant)
        present = info_of(path)
        if present is None or present.precision.get("kind") != variant.name:
            continue
        if present.run.get("id") == run.id:
            continue
        command = _command_for(present, exported, name, run)
        if command is None:
            reporter.warn(
                f"{path} comes from another run, which is not in {str(run.folder.parent)!r}. Remove the file, "
                f"or replace it: `zoo export {run.folder} --{variant.name}` makes the file of this run."
            )
            continue
        with contextlib.suppress(OSError):
            path.unlink()
            tuned_settings(path).unlink(missing_ok=True)
            # The folder may hold files of the user; then it stays.
            path.parent.rmdir()
        if not path.exists():
            removed.setdefault(command, []).append((variant.name, str(path.parent)))
    return tuple(
        f"Removed {' and '.join(folder for _, folder in gone)}, made from another run; "
        f"`{' '.join([command, *(f'--{name}' for name, _ in gone)])}` makes {'them' if len(gone) > 1 else 'it'} again."
        for command, gone in removed.items()
    )


def report_replaced(
    earlier: ModelInfo | None,
    exported: Path,
    name: str,
    run: runs.Run,
    removed: Sequence[str],
    reporter: Reporter,
) -> None:
    """Report which export was replaced, and which command makes it again. Remove settings tuned for the replaced file.

    Args:
        earlier: The metadata of the export that was replaced; None if there was none.
        exported: The folder of exports.
        name: The name of the export.
        run: The run that has been exported.
        removed: The sentences that `remove_stale` returned. They are added to the report.
        reporter: Receives the report in one line, or nothing if there is nothing to report.
    """
    target = exported / name / EXPORTED_FILE
    sentences = []
    if earlier is not None and earlier.run.get("id") != run.id:
        identity, command = earlier.run.get("id"), _command_for(earlier, exported, name, run)
        sentences = [f"{target} replaces the export of {f'run {identity}' if identity else 'a published network'}."]
        if command is not None:
            sentences.append(f"`{command}` brings that one back.")
    tuned = tuned_settings(target)
    if earlier is not None and tuned.is_file():
        with contextlib.suppress(OSError):
            tuned.unlink()
            sentences.append(f"Removed {tuned}, which was tuned for the earlier file.")
    sentences += removed
    if sentences:
        reporter.say(" ".join(sentences))


def _command_for(info: ModelInfo, exported: Path, name: str, run: runs.Run) -> str | None:
    """Return the command that makes an earlier export again, or None if its run cannot be loaded.

    Args:
        info: The metadata of the earlier export.
        exported: The folder of exports.
        name: The name of the export.
        run: The run that is exported now. The folder of the earlier run must have the same parent folder.
    """
    folder = run.folder.parent / str(info.run.get("id", ""))
    try:
        _, record = runs.load(folder)
    except RunError:
        return None
    resized = list(info.image.size) != list(record.image["size"])
    size = f"{info.image.size[0]}x{info.image.size[1]}"
    words = ["zoo", "export", str(folder), *(["--size", size] if resized else [])]
    if name != record.name + (f"-{size}" if resized else ""):
        words += ["--name", name]
    if exported != Path("exported"):
        words += ["--exported", str(exported)]
    return shlex.join(words)


def tuned_settings(path: Path) -> Path:
    """Return the path to which `zoo-runtime tune` writes the settings for an exported file."""
    return path.with_suffix(".tuned.json")
