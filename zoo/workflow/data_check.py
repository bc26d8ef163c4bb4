"""Runs the check of a user's pictures: `zoo data check`. This module decides the order of the steps."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo import files
from zoo.data import dataset as datasets
from zoo.data import group_by as grouping
from zoo.data import overview, sources
from zoo.data.check import findings, groups, near, quality, quarantine
from zoo.data.check.findings import Checked, Finding
from zoo.data.check.headers import Header, any_size, read_header
from zoo.data.reading import ReadingOptions
from zoo.data.sources import Picture
from zoo.errors import UsageError
from zoo.reporter import Reporter
from zoo_runtime import ImageSpec
from zoo_runtime.workshop import usable_cores

SPEC = ImageSpec(size=(96, 96))
BLOCK = 64


@dataclass(frozen=True)
class DataCheck:
    """The result of a check.

    Args:
        checked: What was measured.
        findings: What was found, the most serious first.
        summary: Classes, sizes, formats and modes; see `zoo.data.check.findings.summary`.
        moved: Pairs (from, to) of the files that were moved to the quarantine.
        seconds: How long the check took.
    """

    checked: Checked
    findings: Sequence[Finding]
    summary: dict[str, Any]
    moved: Sequence[tuple[str, str]]
    seconds: float

    @property
    def failed(self) -> bool:
        """Whether there are leaks, contradicting labels or unreadable files."""
        return any(finding.level == "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return everything that was found, with the names of all pictures."""
        names = [picture.name for picture in self.checked.source.pictures]
        return {
            **self.summary,
            "findings": [finding.to_json(names) for finding in self.findings],
            "moved": [{"from": start, "to": target} for start, target in self.moved],
            "seconds": round(self.seconds, 2),
        }


def check(
    data: str,
    reporter: Reporter,
    *,
    reading: ReadingOptions | None = None,
    group_by: str | None = None,
    html: Path | None = None,
    quarantine_folder: Path | None = None,
    levels: int = 16,
) -> DataCheck:
    """Check the pictures of a source.

    Args:
        data: The path of the pictures, or "digits"; see `zoo.data.sources`.
        reporter: Receives progress messages and warnings.
        reading: Which classes and files are used. None uses all of them.
        group_by: Which pictures belong together; see `zoo.data.group_by.keys_of`.
        html: Where to write the report page. None writes none.
        quarantine_folder: Where to move unreadable files, extra copies and pictures with contradicting labels. None
            moves nothing.
        levels: The bits that the gray levels of 16-bit pictures use, 8 to 16.

    Raises:
        UsageError: The quarantine is inside the data, or the data are not a folder of files. `html` is another file.
        DataError: The pictures cannot be found or read.
        WriteError: The page cannot be written, or a file cannot be moved.
    """
    started = time.perf_counter()
    spec = dataclasses.replace(SPEC, levels=levels)
    folder = Path(os.path.expanduser(data))
    if quarantine_folder is not None:
        quarantine.check_folder(folder, quarantine_folder, reading)
        files.check_writable(quarantine_folder, "--quarantine DIR")
    if html is not None:
        files.check_writable(html.parent, "--html FILE")
        _check_page(html)
    source = sources.open_source(data, reading=reading, fewest_classes=1)
    if quarantine_folder is not None and not source.findings.layout:
        raise quarantine.lists_stay(folder)
    # The remarks are among the findings.
    for line in overview.lines(source):
        reporter.say(line)
    keys = None if group_by is None else grouping.keys_of(group_by, source, data, reporter, reading)
    pixels = datasets.decode(source, spec, reporter)
    headers = _headers(source.pictures, reporter)
    with reporter.progress("measuring pictures") as progress:
        measured = quality.measure(pixels, files.cache() / "pixels" / pixels.key, progress)
    links = near.find(source.pictures, pixels, spec)
    grouped = groups.group(source.pictures, pixels.digests, pixels.usable, links, keys)
    checked = Checked(source, pixels, headers, measured, links, grouped, keys)
    found = findings.find(checked)
    if html is not None:
        from zoo.report import data_check as page

        with files.atomic_write(html) as temporary:
            text = page.render(checked, found, findings.summary(checked), data)
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    moved: Sequence[tuple[str, str]] = ()
    if quarantine_folder is not None:
        moved = _move_away(checked, folder, quarantine_folder)
    return DataCheck(checked, found, findings.summary(checked), moved, time.perf_counter() - started)


def _check_page(path: Path) -> None:
    """Check that the page does not replace another file, such as the list of the pictures.

    Raises:
        UsageError: There is a file that is not a page.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(64).lstrip().lower()
    except OSError:
        return
    if start and not start.startswith((b"<!doctype html", b"<html")):
        raise UsageError(f"--html {str(path)!r} exists and is not a page. Name another file, such as check.html.")


def _headers(pictures: Sequence[Picture], reporter: Reporter) -> list[Header | None]:
    """Read the header of each picture, in several threads."""
    blocks = [pictures[start : start + BLOCK] for start in range(0, len(pictures), BLOCK)]
    found: list[Header | None] = []
    workers = usable_cores()
    with reporter.progress("reading headers") as progress, any_size(), ThreadPoolExecutor(workers) as pool:
        for headers in pool.map(lambda block: [read_header(picture) for picture in block], blocks):
            found += headers
            progress(len(found), len(pictures))
    return found


def _move_away(checked: Checked, data: Path, folder: Path) -> Sequence[tuple[str, str]]:
    """Move the chosen files to the quarantine."""
    reasons: dict[Path, str] = {}
    for i, reason in sorted(quarantine.choose(checked).items()):
        content = checked.source.pictures[i].content
        # A file that does not exist, such as the target of a broken link, cannot be moved as a file; the link can.
        if isinstance(content, Path) and os.path.lexists(content):
            reasons[content] = reason
    return quarantine.move(data, folder, reasons) if reasons else ()


def dumps(result: DataCheck) -> str:
    """Return the result as a JSON text. Names that are not valid UTF-8 are escaped."""
    return json.dumps(result.to_json(), indent=2)
