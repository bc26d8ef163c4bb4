"""Names in any script on drawings: fonts, transliterations and numbers, without boxes and warnings."""

from __future__ import annotations

import unicodedata
import warnings

import numpy as np
import pytest
from PIL import Image, ImageDraw

from zoo.report import lettering
from zoo.report.curves import Curves, figure

# matplotlib brings DejaVu Sans, so that these are drawn as they are on every machine.
DRAWN = ("собаки", "ελληνικά", "Vögel", "plain dogs", "a $x$ b")


@pytest.fixture
def bare(monkeypatch):
    """A machine with the fonts of matplotlib alone, and without libraries that shape text."""
    files = tuple(path for path in lettering._font_files() if path.endswith("mpl-data/fonts/ttf/DejaVuSans.ttf"))
    assert len(files) == 1
    monkeypatch.setattr(lettering, "_font_files", lambda: files)
    monkeypatch.setattr(lettering, "_pillow_shapes", lambda: False)
    monkeypatch.setattr(lettering, "_matplotlib_shapes", lambda: False)
    lettering._font_file.cache_clear()
    yield
    lettering._font_file.cache_clear()


def test_names_are_drawn_as_they_are_where_a_font_has_them(bare):
    assert lettering.drawable(DRAWN) == {name: name for name in DRAWN}
    assert lettering.legend(lettering.drawable(DRAWN)) == ""


def test_other_names_are_spelled_or_numbered_and_stay_different(bare):
    drawn = lettering.drawable(["cat", "猫", "毛", "قطط", "🐶", "\u3164", "Mao"])
    assert list(drawn.values()) == ["cat", "Mao (2)", "Mao (3)", "qtt", ":dog:", "class 6", "Mao"]
    assert len(set(drawn.values())) == len(drawn) and all(text.isascii() for text in drawn.values())
    assert "Mao (2) is '猫'" in lettering.legend(drawn) and "cat" not in lettering.legend(drawn)


def test_accents_are_composed_and_invisible_characters_are_escaped(bare):
    name = unicodedata.normalize("NFD", "Vögel")
    assert lettering.drawable([name, "a\u202eb", "tab\tstop"]) == {
        name: "Vögel",
        "a\u202eb": "a\\u202eb",
        "tab\tstop": "tab\\tstop",
    }


def test_arabic_is_shaped_where_the_libraries_can(monkeypatch):
    monkeypatch.setattr(lettering, "_pillow_shapes", lambda: True)
    assert lettering.drawable(["قطط"]) == {"قطط": "قطط"}


@pytest.mark.parametrize("text", DRAWN)
def test_a_font_draws_no_boxes(text):
    """A character that a font lacks looks like U+FFFF, which no font has."""
    font = lettering.pillow_font(text, 13)
    assert font is not None

    def drawn(character):
        image = Image.new("L", (40, 40))
        ImageDraw.Draw(image).text((5, 5), character, 255, font)
        return np.asarray(image)

    box = drawn("\uffff")
    assert box.any() and not any(np.array_equal(drawn(character), box) for character in text)


def test_curves_need_no_glyph_that_is_missing(bare):
    values = {"accuracy": (0.1, 0.9), "val_accuracy": (0.2, 0.8), "loss": (2.0, 1.0), "val_loss": (2.0, 1.5)}
    runs = [Curves(name, (1, 2), (("頭", 1), ("собаки", 1)), values, 2) for name in ("猫", "собаки", "🐶")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for shown in (runs, runs[:1]):
            figure(shown).draw_without_rendering()
    texts = [text.get_text() for text in figure(runs).legends[0].get_texts()]
    assert texts[:3] == ["Mao", "собаки", ":dog:"]
    assert [text.get_text() for text in figure(runs[:1]).axes[0].texts] == ["Tou", "собаки"]
