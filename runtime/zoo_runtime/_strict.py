"""Makes Pillow's file parsers independent of the switches that a program may have set in Pillow.

`PIL.ImageFile.LOAD_TRUNCATED_IMAGES` makes Pillow fill missing pixels with black or gray. Many programs set it, and
another thread may set it at any time. `PIL.PngImagePlugin.MAX_TEXT_CHUNK` makes Pillow refuse a PNG with much metadata.
`PIL.Image.MAX_IMAGE_PIXELS` makes some parsers refuse large pictures, whatever `max_pixels` says. All are read as
global variables of Pillow's modules. `strict` therefore returns a subclass of a parser whose methods are the same code
with other global variables. Pillow itself is not changed.

Pillow has no public way to do this. Setting its switches while a picture is decoded would change what other threads of
the program get, and a thread that sets them back would change what `decode` gets. `ImageFile.Parser` and
`Image.open` read the same global variables. A loop of our own over the tiles, as `zoo_runtime._jpeg` has it, does not
replace the parsers of PNG, GIF, TIFF and ICO, which load in methods of their own. They are longer than this module.

If a later Pillow is built in another way, so that its methods cannot be copied, `strict` returns the parser itself, and
the switches count: a truncated file is then refused unless the program has set `LOAD_TRUNCATED_IMAGES`, and Pillow's
limits hold. JPEG does not depend on it. `tests/runtime/test_strict.py` fails with each Pillow whose insides have
changed.
"""

from __future__ import annotations

import importlib
import types
import zlib
from functools import cache
from typing import Any

from PIL import Image, ImageFile

_SWITCHES = {"LOAD_TRUNCATED_IMAGES": False}
# Modules whose code a parser runs, and which read the switches.
_READERS = frozenset(f"PIL.{name}" for name in ("ImageFile", "PngImagePlugin", "BmpImagePlugin", "IcoImagePlugin"))
# Modules whose check of the size is left out, because `zoo_runtime._limit` checks the same size. The check of an icon
# stays: it concerns the picture inside, whose size is not known before.
_CHECKED_ELSEWHERE = frozenset(f"PIL.{name}" for name in ("TiffImagePlugin", "WebPImagePlugin", "GifImagePlugin"))
_TEXT_BYTES = 1 << 20


@cache
def strict(parser: type[Any]) -> type[Any]:
    """Return a subclass of a Pillow parser that never accepts a truncated file, and accepts large metadata.

    Args:
        parser: A subclass of `PIL.ImageFile.ImageFile`, such as `PIL.PngImagePlugin.PngImageFile`.
    """
    try:
        return _strict(parser)
    except Exception:
        # Whatever has changed in Pillow, a device must still read pictures.
        return parser


def _strict(parser: type[Any]) -> type[Any]:
    ancestors = parser.__mro__[: parser.__mro__.index(ImageFile.ImageFile)]
    methods: dict[str, Any] = {}
    for ancestor in reversed(ancestors):
        methods.update(_copied_methods(ancestor, _namespace(ancestor.__module__)))
    # `super()` in the methods of a parser leads to the second base, which is strict too.
    bases = (parser, _strict_base())
    return types.new_class(parser.__name__, bases, exec_body=lambda body: body.update(methods))


@cache
def _strict_base() -> type[Any]:
    base = ImageFile.ImageFile
    methods = _copied_methods(base, _namespace(base.__module__))
    return types.new_class(base.__name__, (base,), exec_body=lambda body: body.update(methods))


def _copied_methods(owner: type[Any], space: dict[str, Any]) -> dict[str, types.FunctionType]:
    functions = {name: value for name, value in vars(owner).items() if isinstance(value, types.FunctionType)}
    return {name: _copied(function, space) for name, function in functions.items()}


def _copied(function: types.FunctionType, space: dict[str, Any]) -> types.FunctionType:
    copy = types.FunctionType(function.__code__, space, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


@cache
def _namespace(name: str) -> dict[str, Any]:
    """Return a copy of the global variables of a module of Pillow, in which the switches are off.

    Functions and classes of the module are replaced by copies that read this namespace.
    """
    module = importlib.import_module(name)
    space = dict(vars(module))
    for key, value in vars(module).items():
        if key in _SWITCHES:
            space[key] = _SWITCHES[key]
        elif isinstance(value, types.ModuleType) and value.__name__ in _READERS:
            space[key] = _Module(value)
        elif isinstance(value, types.FunctionType) and value.__module__ == name:
            space[key] = _copied(value, space)
    if "_safe_zlib_decompress" in space:
        space["_safe_zlib_decompress"] = _beginning
    if name in _CHECKED_ELSEWHERE:
        space["Image"] = _AnySize()
    for key in ("PngStream", "IcoFile"):
        if key in space and space[key].__module__ == name:
            space[key] = _copied_class(space[key], space)
    return space


def _copied_class(original: type[Any], space: dict[str, Any]) -> type[Any]:
    methods: dict[str, Any] = {}
    for ancestor in reversed(original.__mro__[:-1]):
        methods.update(_copied_methods(ancestor, space))
    return type(original.__name__, (original,), methods)


class _Module:
    """Stands for a module of Pillow: the same names, but its parsers are strict and its switches are off."""

    def __init__(self, module: types.ModuleType) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        value = _SWITCHES.get(name, getattr(self._module, name))
        if value is ImageFile.ImageFile:
            return _strict_base()
        if isinstance(value, type) and name.endswith("ImageFile") and value.__module__ == self._module.__name__:
            return strict(value)
        return value


class _AnySize:
    """Stands for the module `PIL.Image`, but has no limit on the size of a picture."""

    def __getattr__(self, name: str) -> Any:
        return _accept_size if name == "_decompression_bomb_check" else getattr(Image, name)


def _accept_size(size: tuple[int, int], *, error_only: bool = False) -> None:
    """Accept any size, in place of a function of Pillow."""


def _beginning(compressed: bytes) -> bytes:
    """Return the first MiB of compressed metadata. No rule of `decode` needs more, and it may expand a thousandfold."""
    return zlib.decompressobj().decompress(compressed, _TEXT_BYTES)
