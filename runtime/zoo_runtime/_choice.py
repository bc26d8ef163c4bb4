"""Names the picture formats, and says which of them are read: what `formats=` and the option `--formats` mean.

The common formats are read by default. The others are read only if they are asked for, because each decoder is code
that a prepared file may attack: that of JPEG 2000 has had many holes, TGA has no signature, so that its decoder is
given every unknown file, and ICO and DIB hold pictures inside others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

DEFAULT_FORMATS = ("jpeg", "png", "webp", "gif", "bmp", "tiff", "avif", "heic", "ppm")
"""The formats that are read if nothing else is asked for. HEIC needs the package pillow-heif."""

FORMATS = (*DEFAULT_FORMATS, "jpeg2000", "ico", "tga", "dib")
"""All formats that can be asked for with `formats=`."""

# The names that Pillow uses, and those that people use.
PILLOW_NAMES = {name: name.upper() for name in FORMATS if name != "heic"}
READABLE = {"jpeg2000": "JPEG 2000", "webp": "WebP"}
_ALIASES = {"jpg": "jpeg", "mpo": "jpeg", "tif": "tiff", "heif": "heic", "jp2": "jpeg2000", "j2k": "jpeg2000"}
_ALIASES |= {"pgm": "ppm", "pbm": "ppm", "pnm": "ppm", "apng": "png"}


def check_formats(formats: Sequence[str] | None) -> tuple[str, ...]:
    """Return the formats that are to be read, in the order of `FORMATS`.

    Args:
        formats: Names from `FORMATS`. "default" stands for those in `DEFAULT_FORMATS`, and "all" for all. None means
            the default.

    Raises:
        TypeError: If it is a text, or something else that is not a list of names.
        ValueError: If a name is unknown, or there is none. The message lists the names.
    """
    if formats is None or formats is DEFAULT_FORMATS:
        return DEFAULT_FORMATS
    if isinstance(formats, (str, bytes)) or not isinstance(formats, Iterable):
        raise TypeError(f"formats must be a list of names, such as ('jpeg', 'png'). Received: {formats!r:.100}.")
    chosen: set[str] = set()
    for given in formats:
        name = given.strip().lower().lstrip(".").replace(" ", "") if isinstance(given, str) else ""
        name = _ALIASES.get(name, name)
        if name == "default":
            chosen.update(DEFAULT_FORMATS)
        elif name == "all":
            chosen.update(FORMATS)
        elif name in FORMATS:
            chosen.add(name)
        else:
            near = get_close_matches(name, FORMATS, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"formats must be among {', '.join(FORMATS)}, default and all. Received: {given!r}.{hint}")
    if not chosen:
        raise ValueError(f"formats must have at least one name: {', '.join(FORMATS)}, default or all. Received none.")
    return tuple(name for name in FORMATS if name in chosen)


def parse_formats(text: str) -> tuple[str, ...]:
    """Split a comma-separated list of formats, such as "default,jpeg2000", and check each name.

    Raises:
        ValueError: If a name is unknown. The message lists the names.
    """
    return check_formats(text.split(","))


def readable_name(name: str) -> str:
    """Return how messages call a format."""
    return READABLE.get(name, name.upper())


def not_chosen(name: str, formats: Sequence[str]) -> str:
    """Say that a picture has a format that is not read, and how to read it.

    Args:
        name: The format of the picture.
        formats: The formats that are read.
    """
    article = "an" if name in ("avif", "ico") else "a"
    if tuple(formats) == DEFAULT_FORMATS:
        return (
            f"{article} {readable_name(name)} picture, which is read only if it is asked for; "
            f"formats=('default', '{name}') reads it. Or convert it to PNG"
        )
    more = ", ".join(f"'{each}'" for each in (*formats, name))
    return f"{article} {readable_name(name)} picture, which was not asked for; formats=({more}) reads it"
