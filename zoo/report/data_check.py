"""Renders the page of `zoo data check`: the findings, and a contact sheet of each class.

The pictures are in the page itself, as small JPEGs, so that the page opens anywhere and fetches nothing.
"""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np

import zoo_runtime
from zoo.data.check.findings import Checked, Finding
from zoo.report.figure import shared_style

# How many classes have a contact sheet, and how many pictures it has.
CLASSES, PER_CLASS = 60, 12
# How many items of a finding are shown with their pictures, and how many pictures of each.
ITEMS, PER_ITEM = 12, 4
THUMBNAIL = zoo_runtime.ImageSpec(size=(96, 96), resize="pad")


def render(checked: Checked, found: Sequence[Finding], summary: Mapping[str, Any], data: str) -> str:
    """Render the page.

    Args:
        checked: What was measured.
        found: What was found.
        summary: What `zoo.data.check.findings.summary` returns.
        data: The path of the pictures, as the user typed it.

    Returns:
        The HTML. Names of classes and files are escaped.
    """
    import jinja2

    shown = functools.cache(lambda i: _data_uri(checked, i))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = files(__package__).joinpath("data_check.html.jinja").read_text("utf-8")
    return environment.from_string(template).render(
        data=data,
        style=shared_style(),
        summary=summary,
        findings=[_finding(checked, finding, shown) for finding in found],
        sheets=_sheets(checked, shown),
        more_classes=max(0, len(checked.source.classes) - CLASSES),
    )


def _finding(checked: Checked, finding: Finding, shown: Callable[[int], str]) -> dict[str, Any]:
    """Return the values of a finding that the template shows."""
    names = [picture.name for picture in checked.source.pictures]
    rows = [
        {
            "detail": item.detail,
            "pictures": [{"name": names[i], "uri": shown(i)} for i in item.pictures[:PER_ITEM]],
            "more": max(0, len(item.pictures) - PER_ITEM),
        }
        for item in finding.items[:ITEMS]
    ]
    more = max(0, len(finding.items) - ITEMS)
    values = {"level": finding.level, "title": finding.title, "advice": finding.advice, "classes": finding.classes}
    return {**values, "rows": rows, "more": more}


def _sheets(checked: Checked, shown: Callable[[int], str]) -> list[dict[str, Any]]:
    """Return a contact sheet of each of the first classes: pictures at equal distances in the list."""
    source = checked.source
    members: list[list[int]] = [[] for _ in source.classes]
    for i in checked.pixels.usable:
        for label in source.pictures[i].labels:
            members[label].append(i)
    sheets = []
    for name, own in list(zip(source.classes, members, strict=True))[:CLASSES]:
        step = max(1, len(own) // PER_CLASS)
        pictures = [{"name": source.pictures[i].name, "uri": shown(i)} for i in own[::step][:PER_CLASS]]
        sheets.append({"name": name, "count": len(own), "pictures": pictures})
    return sheets


def _data_uri(checked: Checked, i: int) -> str:
    """Return a picture as a small JPEG in a data URI; empty if it cannot be decoded."""
    from PIL import Image

    if i in checked.pixels.bad:
        return ""
    picture, limit = checked.source.pictures[i], checked.source.max_pixels
    try:
        if isinstance(picture.content, np.ndarray):
            pixels = zoo_runtime.decode(picture.content, THUMBNAIL, max_pixels=limit, formats=["all"])
        else:
            with picture.open() as stream:
                pixels = zoo_runtime.decode(stream, THUMBNAIL, max_pixels=limit, formats=["all"])
    except (zoo_runtime.PictureError, OSError):
        # The file has changed since it was checked.
        return ""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
