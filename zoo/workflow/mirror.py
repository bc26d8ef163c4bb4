"""Makes and checks a mirror: a folder of weights files for machines without a network, which ZOO_WEIGHTS_DIR names.

Beside the weights, a mirror holds SHA256SUMS (as `sha256sum --check` reads it), LICENCES.txt for people, weights.json
for programs, and the licence files of the Python packages from which weights were taken.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo import files
from zoo.errors import DataNotFound, HashMismatch, UsageError, WeightsUnavailable, WriteError
from zoo.plugin import ClassIndex, Weights
from zoo.plugin.registry import Registry
from zoo.pretrained import fetch, places, select
from zoo.reporter import Reporter, counted, joined

SUMS = "SHA256SUMS"
NOTES = "LICENCES.txt"
FACTS = "weights.json"
LONGEST_LIST = 16 << 20
OWN_FILES = (SUMS, NOTES, FACTS)
LICENCE_FILE = re.compile(r"(licen[cs]e|copying|notice)", re.IGNORECASE)
SPDX = re.compile(r"[A-Za-z0-9.+-]+")


@dataclass(frozen=True)
class Mirrored:
    """A file in a mirror.

    Args:
        name: The name of the file.
        bytes: Its size.
        sha256: Its sha256, in hex.
        state: "copied" or "was there"; from `verify`: "ok", "missing", "damaged", "not the published file" or "not
            listed".
        about: What else is to say, or "".
    """

    name: str
    bytes: int
    sha256: str
    state: str
    about: str = ""

    @property
    def good(self) -> bool:
        """Whether the file is there, and is the one that it should be."""
        return self.state in ("copied", "was there", "ok")


def make(names: Sequence[str], folder: Path, registry: Registry, reporter: Reporter, *, top: bool) -> list[Mirrored]:
    """Copy published weights into a mirror, and download what is not available locally.

    A mirror that is there already is extended. A file that is there with other content is not replaced.

    Args:
        names: `architecture` or `architecture.tag`. Without a tag, the weights that `zoo finetune` would use are taken.
        folder: The folder of the mirror. It is created if necessary.
        registry: The loaded plugins.
        reporter: Receives progress messages.
        top: True also copies the files with a top, and the names of their classes, for `zoo export --top` and
            `zoo verify`.

    Returns:
        One entry per file.

    Raises:
        UnknownName: There is no such architecture or tag.
        UsageError: No plugin lists weights of an architecture.
        WeightsUnavailable: A file is not available and cannot be downloaded. All others are in the mirror.
        HashMismatch: A file is not the published one, or the mirror has another file of that name.
        WriteError: The folder cannot be written.
    """
    entries = _wanted(names, registry, top=top)
    files.check_writable(folder, "--to DIR")
    done: list[Mirrored] = []
    facts = _read_facts(folder)
    problems: dict[str, WeightsUnavailable] = {}
    try:
        for entry in entries:
            try:
                made = _copied(entry, folder, reporter)
            except WeightsUnavailable as error:
                problems[entry.filename] = error
                continue
            done.append(made)
            if isinstance(entry, Weights):
                facts[entry.filename] = {**_facts_of(entry), "sha256": made.sha256, "bytes": made.bytes}
                _copy_licences(entry, folder)
            reporter.say(f"{made.name}: {made.state}, {files.size_text(made.bytes)}")
    finally:
        _write_lists(folder, done, facts)
    if problems:
        first = next(iter(problems.values()))
        others = list(problems)[1:]
        more = f"\nNot available either: {joined(others, 8)}." if others else ""
        verb = "is" if len(problems) == 1 else "are"
        whole = f"{len(problems)} of {counted(len(entries), 'file')} {verb} not available"
        raise WeightsUnavailable(f"{whole}. {first}{more}")
    return done


def verify(folder: Path, registry: Registry) -> list[Mirrored]:
    """Check every file of a mirror against SHA256SUMS, and against the hashes that are published.

    Args:
        folder: The folder of the mirror, or any other folder of weights files.
        registry: The loaded plugins.

    Returns:
        One entry per file that is listed in SHA256SUMS or that holds weights, sorted by name.

    Raises:
        DataNotFound: The folder does not exist or cannot be read, or it holds no weights files.
    """
    try:
        present = {name for name in os.listdir(folder) if os.path.isfile(folder / name)}
    except OSError as error:
        raise DataNotFound(f"{str(folder)!r} cannot be read: {error.strerror}. Name the folder of a mirror.") from None
    sums, published = _read_sums(folder), _published(registry)
    names = sums.keys() | {name for name in present if name.endswith(fetch.WEIGHTS_SUFFIXES) or name in published}
    if not names:
        raise DataNotFound(
            f"{str(folder)!r} holds no weights files. `zoo weights fetch mobilenetv2 --to {folder}` puts some there."
        )
    return [_verified(folder, name, sums.get(name), published.get(name)) for name in sorted(names)]


def _wanted(names: Sequence[str], registry: Registry, *, top: bool) -> list[Weights | ClassIndex]:
    found: list[Weights | ClassIndex] = []
    for name in names:
        architecture, tag = registry.resolve(name)
        registry.check_tag(architecture.name, tag)
        entries = registry.weights_of(architecture.name, tag, top=False)
        entries = select.first_tag(entries) if entries else []
        if top:
            more = registry.weights_of(architecture.name, tag, top=True)
            entries += [entry for entry in (select.first_tag(more) if more else []) if entry not in entries]
        if not entries:
            raise UsageError(f"no plugin lists weights of {name}. `zoo weights list` shows all weights.")
        found += entries
        found += [entry.class_index for entry in entries if top and entry.class_index]
    by_name = {entry.filename: entry for entry in found}
    for name in by_name.keys() & {*OWN_FILES}:
        raise UsageError(f"a plugin calls a weights file {name}, as a list in every mirror. Show this to its authors.")
    return list(by_name.values())


def _copied(entry: Weights | ClassIndex, folder: Path, reporter: Reporter) -> Mirrored:
    what = "weights" if isinstance(entry, Weights) else "class names"
    try:
        with reporter.transfer(f"downloading {entry.filename}", fetch.waiting_label(entry, what)) as progress:
            if isinstance(entry, Weights):
                found = fetch.find([entry], entry.input_size, progress, reporter.warn)
                path, digest = found.path, found.sha256
            else:
                path = fetch.find_file(entry, progress, reporter.warn)
                digest = fetch.digest_of(path)
    except WeightsUnavailable as error:
        raise WeightsUnavailable(f"{entry.filename}: {error}.\n{fetch.advice(entry)}.") from None
    target = folder / entry.filename
    if os.path.lexists(target):
        if not os.path.isfile(target) or fetch.digest_of(target) != digest:
            raise HashMismatch(
                f"{str(target)!r} is not the published file of this name, and it is not replaced. Remove it, and type "
                "the command again."
            )
        return Mirrored(entry.filename, target.stat().st_size, digest, "was there")
    with files.atomic_write(target) as temporary:
        shutil.copyfile(path, temporary)
        if fetch.digest_of(temporary) != digest:
            raise WriteError(f"{str(target)!r} did not get the content of {str(path)!r}. Is the disk sound?")
    return Mirrored(entry.filename, target.stat().st_size, digest, "copied")


def _facts_of(entry: Weights) -> dict[str, Any]:
    package = places.package_of(entry)
    return {
        "id": entry.id,
        "top": "optional" if entry.top_optional else entry.includes_top,
        "size": list(entry.input_size),
        "origin": f"file:{entry.filename}" if entry.origin.kind == "file" else entry.url,
        **({"package": package} if package else {}),
        "licence": entry.licence,
        "commercial_use": False if entry.forbids_commerce else None,
        "source": entry.source,
        "paper": entry.paper,
    }


def _copy_licences(entry: Weights, folder: Path) -> None:
    """Copy the licence files of the Python package from which weights come, under the name of the package."""
    from importlib import metadata

    package = places.package_of(entry)
    if package is None:
        return
    name = package.rpartition(" ")[0] or package
    try:
        listed = metadata.files(name) or []
    except metadata.PackageNotFoundError:
        return
    for file in listed:
        path = Path(str(file.locate()))
        if LICENCE_FILE.match(file.name) and "info" in str(file.parent) and path.is_file():
            with files.atomic_write(folder / f"LICENCE-{name}-{Path(file.name).stem}.txt") as temporary:
                shutil.copyfile(path, temporary)


def _read_facts(folder: Path) -> dict[str, dict[str, Any]]:
    try:
        listed = json.loads(_text_of(folder / FACTS))
        return {each["file"]: {key: value for key, value in each.items() if key != "file"} for each in listed}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _text_of(path: Path) -> str:
    """Read a short text. The folder may come from a stranger, with links to devices and pipes that never end.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no file, or far too long.
    """
    if not os.path.isfile(path) or os.path.getsize(path) > LONGEST_LIST:
        raise ValueError(f"{str(path)!r} is no list of files")
    return path.read_text("utf-8")


def _read_sums(folder: Path) -> dict[str, str]:
    """Return the digests in SHA256SUMS by name. A line of another form is left out."""
    try:
        text = _text_of(folder / SUMS)
    except (OSError, ValueError):
        return {}
    found = {}
    for line in text.splitlines():
        match = re.fullmatch(r"([0-9a-fA-F]{64}) [ *]([^/\\\0]{1,255})", line)
        if match and match[2] not in (".", ".."):
            found[match[2]] = match[1].lower()
    return found


def _write_lists(folder: Path, done: Sequence[Mirrored], facts: Mapping[str, Mapping[str, Any]]) -> None:
    if not done:
        return
    sums = _read_sums(folder) | {each.name: each.sha256 for each in done}
    sums = {name: digest for name, digest in sorted(sums.items()) if (folder / name).is_file()}
    facts = {name: facts[name] for name in sorted(facts) if name in sums}
    texts = {
        SUMS: "".join(f"{digest}  {name}\n" for name, digest in sums.items()),
        FACTS: json.dumps([{"file": name, **values} for name, values in facts.items()], indent=1) + "\n",
        NOTES: _notes(facts),
    }
    for name, text in texts.items():
        with files.atomic_write(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _notes(facts: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the text of LICENCES.txt: for each id, its files, its licence, and where to read that."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, values in facts.items():
        key = ("id", "licence", "source", "paper", "package")
        groups.setdefault(tuple(str(values.get(each) or "") for each in key), []).append(name)
    lines = [
        "The licences of the weights in this folder. Whoever passes the files on must keep to them.",
        "A network that is trained from weights is made of them, so that their licences hold for it as well.",
    ]
    for (identity, licence, source, paper, package), names in groups.items():
        lines += ["", identity, f"  licence  {licence}"]
        if any(facts[name].get("commercial_use") is False for name in names):
            lines += ["           This licence forbids commercial use."]
        if SPDX.fullmatch(licence):
            lines += [f"  text     https://spdx.org/licenses/{licence}.html"]
        lines += [f"  source   {source}"]
        lines += [f"  paper    {paper}"] if paper else []
        lines += [f"  package  {package}; its licence files are beside this one"] if package else []
        lines += [f"  file     {name}" for name in names]
    return "\n".join(lines) + "\n"


def _published(registry: Registry) -> dict[str, Weights | ClassIndex]:
    found: dict[str, Weights | ClassIndex] = {}
    for entry in registry.all(Weights):
        found[entry.filename] = entry
        if entry.class_index:
            found[entry.class_index.filename] = entry.class_index
    return found


def _verified(folder: Path, name: str, listed: str | None, entry: Weights | ClassIndex | None) -> Mirrored:
    path = folder / name
    if os.path.lexists(path) and not os.path.isfile(path):
        return Mirrored(name, 0, "", "damaged", "it is no file, or a link that leads nowhere")
    try:
        digest, size = fetch.digest_of(path), path.stat().st_size
        algorithm, _, wanted = (entry.hash or "" if entry else "").partition(":")
        received = digest if algorithm in ("", "sha256") else fetch.digest_of(path, algorithm)
    except OSError as error:
        state = "missing" if not os.path.lexists(path) else "damaged"
        return Mirrored(name, 0, "", state, "" if state == "missing" else f"it cannot be read: {error.strerror}")
    if listed is not None and digest != listed:
        return Mirrored(name, size, digest, "damaged", f"{SUMS} has {listed[:12]}…, and the file has {digest[:12]}…")
    if wanted and received != wanted:
        return Mirrored(name, size, digest, "not the published file", f"{algorithm} {wanted[:12]}… was published")
    if listed is None and not wanted:
        return Mirrored(name, size, digest, "not listed", f"neither {SUMS} nor a plugin knows its hash")
    return Mirrored(name, size, digest, "ok")


def summary(found: Sequence[Mirrored]) -> str:
    """Say in one sentence how many files are good."""
    bad = [each for each in found if not each.good]
    total = files.size_text(sum(each.bytes for each in found))
    if bad:
        return f"{len(bad)} of {counted(len(found), 'file')} {'is' if len(bad) == 1 else 'are'} not proved to be right."
    return f"{counted(len(found), 'file')}, {total}: all are as they should be."
