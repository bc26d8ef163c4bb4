"""Draws the sheet of `zoo augment preview`: one PNG with pictures before and after an augmentation policy.

`zoo.data.augment` parses and builds the policy.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

import zoo_runtime
from zoo import files
from zoo.data import sources
from zoo.data.augment import build, describe, parse, picture_seeds
from zoo.data.dataset import multi_hot
from zoo.data.pixels import left_out_text, reason_of
from zoo.data.reading import ReadingOptions
from zoo.errors import UnreadablePictures
from zoo.plugin.registry import Registry
from zoo.report import lettering
from zoo.reporter import Reporter
from zoo_runtime import ImageSpec, PictureError

if TYPE_CHECKING:
    from PIL import Image, ImageFont


SIZE = (224, 224)

# Layout of the sheet, in pixels: the smallest width of a picture, the height of a line of text, and the space between
# and around the pictures.
NARROWEST, STRIP, GAP = 160, 22, 8


def preview(
    text: str,
    registry: Registry,
    reporter: Reporter,
    *,
    data: str,
    reading: ReadingOptions | None = None,
    size: tuple[int, int] | None = None,
    pictures: int = 6,
    copies: int = 5,
    seed: int = 0,
    output: Path | None = None,
) -> Path:
    """Draw a sheet with one row per picture: the decoded picture, then augmented copies of it, all with their labels.

    Copy number k, counted from 0, uses the seeds of epoch k in a run with the same seed. Policies that mix pictures mix
    only the pictures of the sheet.

    Args:
        text: The policy as the user typed it ("course:rotation=30").
        registry: The loaded plugins.
        reporter: Receives a warning about pictures that cannot be read, and the meaning of labels that no font of this
            machine can draw.
        data: The path of the pictures, or "digits"; see `zoo.data.sources`. If the source has a split, only training
            pictures are shown.
        reading: How the pictures are read. None means the defaults.
        size: (height, width) in pixels. None means the source's default size, or 224 x 224 if it has none.
        pictures: The number of pictures to show. They are taken from each class in turn.
        copies: The number of augmented copies of each picture.
        seed: Selects the pictures and seeds the policy.
        output: The PNG file to write. An existing file is replaced. None means `augment-NAME.png` in the current
            folder.

    Returns:
        The path of the PNG.

    Raises:
        UsageError: The policy or one of its parameters is unknown, or the policy does not accept a value.
        PluginError: Two plugins provide the policy, or the policy cannot be built.
        DataError: The pictures cannot be found, do not have a layout that zoo reads, or cannot be read.
        WriteError: The file cannot be written.
    """
    policy, parameters = parse(text, registry)
    source = sources.open_source(data, reading=reading, fewest_classes=1)
    output = output or Path(f"augment-{policy.name}.png")
    files.check_writable(output.parent, "--output FILE.png")
    spec = ImageSpec(size=size or source.size or SIZE, channels=3)
    rows, decoded = _decode(source, spec, pictures, seed, reporter)
    labels = multi_hot([source.pictures[row] for row in rows], len(source.classes)).astype("float32")
    augment = build(policy, parameters)
    columns = [("as decoded", decoded, labels)]
    for copy in range(copies):
        altered, shares = augment(decoded.astype("float32"), labels.copy(), picture_seeds(seed, copy, np.array(rows)))
        columns.append((f"epoch {copy + 1}", np.rint(altered).astype("uint8"), shares))
    where = f"{source.name}, {spec.size[0]} x {spec.size[1]} pixels, seed {seed}"
    drawn = lettering.drawable(source.classes)
    shown = {source.classes[label] for row in rows for label in source.pictures[row].labels}
    meaning = lettering.legend({name: text for name, text in drawn.items() if name in shown})
    if meaning:
        reporter.say(f"No font of this machine can draw some labels. On the sheet, {meaning}")
    sheet = _draw(columns, list(drawn.values()), describe(policy, parameters).replace(",", ", "), where)
    with files.atomic_write(output) as temporary:
        sheet.save(temporary, format="PNG")
    return output


def _decode(
    source: sources.Source, spec: ImageSpec, count: int, seed: int, reporter: Reporter
) -> tuple[list[int], np.ndarray]:
    """Decode training pictures, taken from each class in turn, until `count` of them are decoded.

    Pictures that cannot be read are skipped, with a warning.

    Returns:
        Indices of the pictures, and a uint8 array (pictures, height, width, channels), values 0..255.

    Raises:
        UnreadablePictures: No picture can be read.
    """
    by_class: dict[tuple[int, ...], list[int]] = {}
    for i in np.random.default_rng(seed).permutation(len(source.pictures)):
        if source.pictures[i].split in (None, "train"):
            by_class.setdefault(source.pictures[i].labels, []).append(int(i))
    queues = [by_class[labels] for labels in sorted(by_class)]
    turns = (queue[k] for k in range(len(source.pictures)) for queue in queues if k < len(queue))
    found: dict[int, np.ndarray] = {}
    bad = {}
    for i in turns:
        if len(found) == count:
            break
        try:
            # A picture inside a table has only the method `read` of an open file, which is enough.
            content = cast(Any, source.pictures[i].content)
            found[i] = zoo_runtime.decode(content, spec, max_pixels=source.max_pixels, formats=source.formats)
        except PictureError as error:
            bad[source.pictures[i].name] = reason_of(error).replace(f": {source.pictures[i].content}: ", ": ", 1)
    shown = "; ".join(f"{name}: {why}" for name, why in list(bad.items())[:5])
    if not found:
        raise UnreadablePictures(f"none of the pictures of {source.name} can be read: {shown}")
    if bad:
        reporter.warn(left_out_text(bad))
    return list(found), np.stack(list(found.values()))


def _draw(
    columns: Sequence[tuple[str, np.ndarray, np.ndarray]], classes: Sequence[str], title: str, where: str
) -> Image.Image:
    """Draw the sheet as an RGB image, with one row per picture.

    Args:
        columns: (heading, pictures, labels) of each column. Pictures are a uint8 array (rows, height, width, channels),
            values 0..255. Labels are a float32 array (rows, classes) in 0..1.
        classes: Class names, as `zoo.report.lettering.drawable` returns them.
        title: The text at the top. It is wrapped to the width of the sheet.
        where: The text below the title, in smaller type.
    """
    from PIL import Image, ImageDraw, ImageFont

    height, width = columns[0][1].shape[1:3]
    scale = max(1, math.ceil(NARROWEST / width))
    high, wide = scale * height + STRIP + GAP, scale * width + GAP
    large, small = ImageFont.load_default(17), ImageFont.load_default(13)
    across = len(columns) * wide + GAP
    lines = [*textwrap.wrap(title, max(20, across // 10)), where]
    top = GAP + len(lines) * STRIP + STRIP
    sheet = Image.new("RGB", (across, top + len(columns[0][1]) * high), "white")
    draw = ImageDraw.Draw(sheet)
    for i, line in enumerate(lines):
        draw.text((GAP, GAP + i * STRIP), line, "black", large if i < len(lines) - 1 else small)
    for column, (name, pictures, labels) in enumerate(columns):
        left = GAP + column * wide
        draw.text((left, top - STRIP), name, "dimgray", small)
        for row, (pixels, shares) in enumerate(zip(pictures, labels, strict=True)):
            picture = Image.fromarray(pixels).resize((scale * width, scale * height), Image.Resampling.NEAREST)
            sheet.paste(picture, (left, top + row * high))
            words = _label(shares, classes)
            font = lettering.pillow_font(words, 13)
            if font is None:
                # Each name has a font, but no font has all of them.
                words, font = lettering.spelled(words), small
            # Fonts differ in the height of their letters; the baseline is the same for all.
            draw.text(
                (left, top + row * high + scale * height + 16),
                _fitting(words, font, scale * width),
                "black",
                font,
                anchor="ls",
            )
    return sheet


def _label(shares: np.ndarray, classes: Sequence[str]) -> str:
    """Format the label of a picture, such as "cats".

    If a policy has mixed pictures, the label also has the share of each class, such as "cats 0.70, dogs 0.30". A
    multi-label picture may have several classes or none. Its label is then "cats, dogs" or "no class".

    Args:
        shares: The share of each class in the label, a float array (classes,) in 0..1. Shares below 0.005 are left out.
        classes: Class names.
    """
    held = [(float(shares[i]), classes[i]) for i in np.argsort(-shares, kind="stable") if shares[i] >= 0.005]
    if all(share > 0.995 for share, _ in held):
        return ", ".join(name for _, name in held) or "no class"
    # Classes may be called 0 and 2, and "2 0.70 0 0.30" is hard to read without the comma.
    return ", ".join(f"{name} {share:.2f}" for share, name in held)


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Shorten a string to at most `width` pixels. A shortened string ends with "…"."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"
