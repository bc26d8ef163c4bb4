"""Test that the insides of this Pillow are those that `zoo_runtime._strict` copies, and what happens if they are not.

If a test of this file fails with a new Pillow, compare its modules with `zoo_runtime/_strict.py`.
"""

from __future__ import annotations

import importlib
import inspect
import io
import re
import types
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image, ImageFile

from zoo_runtime import CorruptPicture, ImageSpec, _formats, _strict
from zoo_runtime import decode as decode_common


def decode(source, spec, **options):
    """Decode a picture of any format, also of those that are read only if they are asked for."""
    return decode_common(source, spec, **{"formats": ["all"], **options})


SPEC = ImageSpec((20, 30))
# The pixels of JPEGs are loaded by zoo_runtime._jpeg.
JPEG = "PIL.JpegImagePlugin"


def parsers() -> dict[str, type[ImageFile.ImageFile]]:
    """Return the parser of each supported format, by the format's name."""
    Image.init()
    factories = {name: Image.OPEN[name][0] for name in _formats.FORMATS if name in Image.OPEN}
    return {name: factory for name, factory in factories.items() if isinstance(factory, type)}


def file_of(format: str) -> bytes:
    out = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(noise).save(out, format)
    return out.getvalue()


@pytest.fixture
def uncopied(monkeypatch):
    """Let Pillow look as if it were built so that its methods cannot be copied."""

    def fail(*_: object) -> None:
        raise AttributeError("Pillow has changed")

    _strict.strict.cache_clear()
    monkeypatch.setattr(_strict, "_strict", fail)
    yield
    _strict.strict.cache_clear()


def test_each_module_that_reads_the_switch_is_known():
    folder = Path(PIL.__file__).parent
    readers = {
        f"PIL.{path.stem}"
        for path in folder.glob("*.py")
        if re.search(r"^(?!\s*#).*\bif\b.*LOAD_TRUNCATED_IMAGES", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert readers - {JPEG} <= _strict._READERS
    assert "PIL.ImageFile" in readers, "the switch has another name or another place"


def test_the_compiled_part_of_pillow_does_not_read_the_switch():
    assert isinstance(ImageFile.LOAD_TRUNCATED_IMAGES, bool)
    assert not hasattr(Image.core, "LOAD_TRUNCATED_IMAGES")


def test_the_methods_that_load_pixels_are_python_code():
    for name, parser in parsers().items():
        strict = _strict.strict(parser)
        assert strict is not parser and issubclass(strict, parser), name
        for method in ("load", "_open", "__init__"):
            original, copy = getattr(parser, method), getattr(strict, method)
            assert isinstance(inspect.unwrap(original), types.FunctionType), f"{name}.{method}"
            assert copy.__code__ is original.__code__, f"{name}.{method}"
            assert copy.__globals__ is not original.__globals__, f"{name}.{method}"
            assert copy.__globals__.get("LOAD_TRUNCATED_IMAGES") in (False, None), f"{name}.{method}"


def test_the_names_that_are_replaced_exist():
    png = importlib.import_module("PIL.PngImagePlugin")
    assert isinstance(png._safe_zlib_decompress, types.FunctionType)
    assert isinstance(png.PngStream, type)
    assert isinstance(importlib.import_module("PIL.IcoImagePlugin").IcoFile, type)


@pytest.mark.parametrize("format", ["PNG", "GIF", "BMP", "TIFF", "WEBP", "ICO", "JPEG", "PPM", "TGA"])
def test_a_pillow_that_cannot_be_copied_still_reads_and_refuses(format, uncopied):
    data = file_of(format)
    assert decode(data, SPEC).shape == (20, 30, 3)
    assert decode(Image.open(io.BytesIO(data)), SPEC).shape == (20, 30, 3)
    with pytest.raises(CorruptPicture):
        decode(data[: len(data) // 2], SPEC)


def test_a_pillow_that_cannot_be_copied_still_refuses_jpegs_with_the_switch_set(uncopied, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = file_of("JPEG")
    with pytest.raises(CorruptPicture):
        decode(data[: len(data) // 2] + b"\xff\xd9", SPEC)
