"""Draws label_issues.html, the page on which a user decides about doubtful labels.

The page is one file that fetches nothing. It keeps the decisions in the browser, and downloads them as decisions.csv
for `zoo data apply`.
"""

from __future__ import annotations

import base64
import io
import json
import shlex
import time
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

import zoo_runtime
from zoo.data.check.headers import read_header
from zoo.data.dataset import Dataset
from zoo.data.sources import Picture
from zoo.report.figure import shared_style
from zoo.runs import Run

# The longest side of a thumbnail, in pixels.
SIDE = 192
QUALITY = 80
# The page has no more thumbnails than these bytes allow, so that it stays below 8 MB.
LARGEST = 6_500_000
# Files are decoded for so many seconds, which is enough for 1,500 photos of half a megapixel on 2 cores. After that,
# thumbnails are made of the pixels that the network saw.
SECONDS = 1.5
# Blocks of pictures that are decoded at once.
BLOCK = 32
# EXIF orientations that exchange width and height.
TURNED = (5, 6, 7, 8)


def thumbnails(dataset: Dataset, rows: Sequence[int] | npt.NDArray[Any]) -> list[str]:
    """Return small JPEGs of pictures as data URIs, in the order of `rows`.

    Args:
        dataset: The pictures.
        rows: Indices of pictures in the dataset.

    Returns:
        A data URI per picture; "" if its file is gone. The list ends early if the page would become too large.
    """
    from concurrent.futures import ThreadPoolExecutor

    made: list[str] = []
    started, size = time.perf_counter(), 0
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(rows), BLOCK):
            original = time.perf_counter() - started < SECONDS
            block = rows[start : start + BLOCK]
            for uri in pool.map(lambda i, original=original: _thumbnail(dataset, int(i), original), block):
                size += len(uri)
                if size > LARGEST:
                    return made
                made.append(uri)
    return made


def _thumbnail(dataset: Dataset, i: int, original: bool) -> str:
    """Return a picture as a data URI, from its file or from the pixels that the network saw."""
    picture, spec = dataset.source.pictures[i], dataset.spec
    pixels = dataset.pixels.array[i]
    header = read_header(picture)
    if header is None:
        return ""
    width, height = reversed(header.size) if header.orientation in TURNED else header.size
    scale = min(1.0, SIDE / max(width, height))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    if original:
        try:
            return _data_uri(_decoded(picture, zoo_runtime.ImageSpec(size=size), dataset.source.max_pixels), size)
        except (zoo_runtime.PictureError, OSError):
            return ""
    if spec.resize != "squash":
        scale = min(1.0, SIDE / max(pixels.shape[:2]))
        size = max(1, round(pixels.shape[0] * scale)), max(1, round(pixels.shape[1] * scale))
    return _data_uri(pixels, size)


def _decoded(picture: Picture, spec: zoo_runtime.ImageSpec, limit: int) -> npt.NDArray[np.uint8]:
    if isinstance(picture.content, np.ndarray):
        return zoo_runtime.decode(picture.content, spec, max_pixels=limit, formats=["all"])
    with picture.open() as stream:
        return zoo_runtime.decode(stream, spec, max_pixels=limit, formats=["all"])


def _data_uri(pixels: npt.NDArray[np.uint8], size: tuple[int, int]) -> str:
    from PIL import Image

    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    if image.size != size[::-1]:
        image = image.resize(size[::-1])
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def render(
    figures: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    *,
    run: Run,
    name: str,
    classes: Sequence[str],
    multilabel: bool,
) -> str:
    """Render the page.

    Args:
        figures: The values of label_issues.json without `first`.
        rows: The pictures with the columns of label_issues.csv and `thumbnail`; `class` and `suggested` are lists.
        run: The run folder.
        name: The name of the export.
        classes: The names of all classes.
        multilabel: Whether a picture may have several classes.

    Returns:
        The HTML. Names of classes and files are escaped.
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = files(__package__).joinpath("label_issues.html.jinja").read_text("utf-8")
    shown = [{key: row[key] for key in ("sha256", "picture", "class", "suggested")} for row in rows]
    data = {"run": run.id, "classes": list(classes), "multilabel": multilabel, "rows": shown}
    return environment.from_string(template).render(
        style=shared_style(),
        figures=figures,
        rows=rows,
        name=name,
        run=run.id,
        command=shlex.join(["zoo", "data", "apply", "decisions.csv", "--run", str(run.folder.resolve())]),
        multilabel=multilabel,
        # With two classes, the suggestion is the only other one.
        several=len(classes) > 2,
        pictures=lambda number: f"{number:,} picture" if number == 1 else f"{number:,} pictures",
        # "</script>" in the name of a class must not end the script.
        data=json.dumps(data).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"),
    )
