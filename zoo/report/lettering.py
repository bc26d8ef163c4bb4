"""Finds fonts for names in any script, and spells names in ASCII where no font can draw them.

matplotlib and Pillow draw a box for every character that their font lacks. Names are therefore drawn in three ways:

- as they are, in a font of this machine that has all their characters; matplotlib brings DejaVu Sans, which has Latin,
  Greek, Cyrillic, Arabic and others
- transliterated to ASCII by anyascii, if there is no such font, or if the script needs shaping or runs from right to
  left and the drawing library cannot do that
- as a number, if nothing readable is left; `legend` says which name it is
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.text import Text
    from PIL import ImageFont

# Fonts with many characters, the plainest first. A font whose family begins with one of these is tried before others.
PREFERRED = (
    *("DejaVu Sans", "Noto Sans CJK", "Noto Sans", "Source Han Sans", "WenQuanYi", "Droid Sans", "Microsoft YaHei"),
    *("Yu Gothic", "Meiryo", "MS Gothic", "SimHei", "Malgun Gothic", "PingFang", "Hiragino", "Apple SD Gothic"),
    *("Arial Unicode", "Segoe UI", "Nirmala UI", "Leelawadee UI", "Tahoma", "Arial", "Unifont"),
)
# Fonts that have a box, or nothing, for every character.
USELESS = ("Last Resort", "LastResort", "Adobe Blank", "AdobeBlank")
# Opening a font takes about a millisecond, and a desktop may have thousands.
MOST_FONTS = 400
# Scripts whose letters change their shape or their place beside others, by the first word of the characters' names.
SHAPED = {
    *("DEVANAGARI", "BENGALI", "GURMUKHI", "GUJARATI", "ORIYA", "TAMIL", "TELUGU", "KANNADA", "MALAYALAM", "SINHALA"),
    *("KHMER", "MYANMAR", "TIBETAN", "THAI", "LAO", "MONGOLIAN", "JAVANESE", "BALINESE"),
}
__all__ = ["drawable", "legend", "pillow_font", "set_font", "spelled"]


def drawable(names: Sequence[str]) -> dict[str, str]:
    """Map each name to the text that Pillow can draw for it. Different names have different texts.

    Args:
        names: Different names, such as those of all classes.
    """
    texts = {}
    for number, name in enumerate(names, start=1):
        text = _cleaned(name)
        if not _can_draw(text, shaping=_pillow_shapes()):
            text = spelled(text) or f"class {number}"
        texts[name] = text
    counts = Counter(texts.values())
    numbered = {name: f"{texts[name]} ({number})" for number, name in enumerate(names, start=1)}
    return {name: text if counts[text] == 1 or text == name else numbered[name] for name, text in texts.items()}


def legend(drawn: Mapping[str, str]) -> str:
    """Return one line that explains the names that are not drawn as they are; empty if there are none.

    Args:
        drawn: What `drawable` returned.
    """
    changed = [f"{text} is {name!r}" for name, text in drawn.items() if text != name]
    return "; ".join(changed)


def spelled(text: str) -> str:
    """Transliterate a text to ASCII. The result is empty if nothing readable is left."""
    from anyascii import anyascii

    plain = anyascii(text.encode("utf-8", "replace").decode()).strip()
    return plain if any(character.isalnum() for character in plain) else ""


def pillow_font(text: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont | None:
    """Return a font with which Pillow can draw a text, or None if there is none.

    Args:
        text: The text, as `drawable` returns it.
        size: The height of the letters in pixels.
    """
    from PIL import ImageFont

    if text.isascii():
        return ImageFont.load_default(size)
    path = _font_file(text) if _can_draw(text, shaping=_pillow_shapes()) else None
    return ImageFont.truetype(path, size) if path else None


def set_font(label: Text) -> None:
    """Give a text of a matplotlib figure a font that has its characters, or spell the text in ASCII."""
    text = _cleaned(label.get_text())
    if not text.isascii():
        path = _font_file(text) if _can_draw(text, shaping=_matplotlib_shapes()) else None
        if path is None:
            text = spelled(text) or "?"
        else:
            from matplotlib.font_manager import FontProperties

            label.set_fontproperties(FontProperties(fname=path, size=label.get_fontsize()))
    label.set_text(text)


def _cleaned(text: str) -> str:
    """Compose letters with their accents, and escape what cannot be printed."""
    text = unicodedata.normalize("NFC", text)
    # Variation selectors choose between a colored and a plain picture of an emoji.
    text = "".join(character for character in text if not 0xFE00 <= ord(character) <= 0xFE0F)
    return "".join(c if c.isprintable() or c in "\u200c\u200d" else ascii(c)[1:-1] for c in text)


def _can_draw(text: str, *, shaping: bool) -> bool:
    if text.isascii():
        return True
    return (shaping or not _needs_shaping(text)) and _font_file(text) is not None


def _needs_shaping(text: str) -> bool:
    """Return whether letters of a text join, move or run from right to left, so that they cannot be set one by one."""
    return any(
        unicodedata.bidirectional(character) in ("R", "AL", "AN")
        or unicodedata.category(character) in ("Mn", "Mc", "Me", "Cf")
        or unicodedata.name(character, "").partition(" ")[0] in SHAPED
        for character in text
    )


@lru_cache
def _pillow_shapes() -> bool:
    """Return whether Pillow can shape text: it has raqm, and fribidi for text from right to left."""
    from PIL import features

    return bool(features.check("raqm") and features.check("fribidi"))


@lru_cache
def _matplotlib_shapes() -> bool:
    """Return whether matplotlib can shape text, which it does with raqm from version 3.11 on."""
    from matplotlib import ft2font

    return hasattr(ft2font, "__libraqm_version__")


@lru_cache(maxsize=1024)
def _font_file(text: str) -> str | None:
    """Return the path of a font that has all characters of a text, or None."""
    needed = {ord(character) for character in text if not character.isspace() and character not in "\u200c\u200d"}
    for path in _font_files():
        if needed <= _characters(path):
            return path
    return None


@lru_cache
def _font_files() -> tuple[str, ...]:
    """List the font files of this machine: the preferred ones first, then the others by name."""
    from matplotlib.font_manager import fontManager

    def rank(name: str) -> int:
        return next((i for i, start in enumerate(PREFERRED) if name.startswith(start)), len(PREFERRED))

    plain = [
        (rank(font.name), font.weight not in (400, "normal", "regular"), font.name, font.fname)
        for font in fontManager.ttflist
        if font.style == "normal" and not font.name.startswith(USELESS)
    ]
    return tuple(dict.fromkeys(path for *_, path in sorted(plain)))[:MOST_FONTS]


@lru_cache(maxsize=MOST_FONTS)
def _characters(path: str) -> frozenset[int]:
    """Return the characters that a font file can draw at any size; none if it cannot be used."""
    from matplotlib.ft2font import FT2Font
    from PIL import ImageFont

    try:
        # Fonts of colored bitmaps have one size only, and fail here.
        ImageFont.truetype(path, 13)
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError, ValueError):
        return frozenset()
