"""Names of classes: one spelling for each, text that can be printed, and names that look alike.

Names are normalized to NFC, because macOS stores file names in NFD, and both look the same. The letters that look alike
are those of the Unicode Consortium's list for Cyrillic and Greek (UTS 39, confusables.txt) that occur in words.
"""

from __future__ import annotations

import contextlib
import os
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence

from zoo.errors import DataLayout
from zoo.reporter import joined

# Cyrillic and Greek letters, and the Latin letters that they are mistaken for.
_CYRILLIC = dict(zip("авсԁеһіјӏмпорԛѕтуѵхԝкн", "abcdehijlmnopqstuvxwkh", strict=True))
_GREEK = dict(zip("αβεικνορτυχ", "abeiknoptux", strict=True))
_LATIN = str.maketrans(
    {
        **_CYRILLIC,
        **_GREEK,
        **dict(zip("АВСЕНІЈКМОРЅТУХ", "ABCEHIJKMOPSTYX", strict=True)),
        **dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "ABEZHIKMNOPTYX", strict=True)),
    }
)
# Letters that differ in width or style only: full-width letters, non-breaking blanks, mathematical letters, ligatures.
_STYLES = ("<wide>", "<narrow>", "<noBreak>", "<font>", "<compat>")


def normalized(text: str) -> str:
    """Return a name in NFC, without characters that UTF-8 cannot encode.

    File names may contain any bytes, but zoo writes names to UTF-8 files. Bytes that are not UTF-8 become backslash
    escapes.
    """
    return unicodedata.normalize("NFC", printable(text))


def printable(text: str) -> str:
    """Replace characters that UTF-8 cannot encode with backslash escapes."""
    if text.isascii():
        return text
    if any("\ud800" <= character <= "\udfff" for character in text):
        # In a locale without UTF-8, Python decodes no byte of a name that is not ASCII.
        with contextlib.suppress(UnicodeEncodeError):
            text = os.fsencode(text).decode("utf-8", "surrogateescape")
    return text.encode("utf-8", "backslashreplace").decode()


def quoted(name: str) -> str:
    """Return a name in quotes, with escapes for what cannot be seen: 'cat ', 'caf\\xa0\\u200b'."""
    return repr(name)


def listed(names: Iterable[str], limit: int = 10) -> str:
    """Quote names, separated by commas, and say how many more there are than `limit`."""
    return joined(list(map(quoted, names)), limit)


def check_alike(data: str, counts: Mapping[str, int], meant: Collection[str] = ()) -> None:
    """Check that no two classes have names that are probably meant alike.

    Args:
        data: The path of the source, for the error message.
        counts: Maps the name of each class to its number of pictures.
        meant: Names that the user gave with --classes. They are different on purpose. "*" stands for all of them.

    Raises:
        DataLayout: Two names differ only in upper and lower case, in blanks, in invisible characters or in letters that
            look alike. Single letters may differ in case, because data of handwritten letters do.
    """
    if "*" in meant:
        return
    groups: dict[str, list[str]] = {}
    for name in counts:
        groups.setdefault(_skeleton(name), []).append(name)
    alike = [names for names in groups.values() if len(names) > 1 and len(set(names) - set(meant)) > 0]
    if not alike:
        return
    shown = "; ".join(f"{_pictures_of(names, counts)} differ only in {_difference(names)}" for names in alike[:3])
    more = f"; and {len(alike) - 3} more groups of names" if len(alike) > 3 else ""
    raise DataLayout(
        f"{data!r} has classes whose names are probably meant alike: {shown}{more}. If they are one class, give them "
        "one name: rename the folders, or change the labels in the list.",
        [("if they are different classes", ["--classes", _value(sorted(counts))])] if len(counts) <= 50 else (),
    )


def remark_on_plurals(counts: Mapping[str, int], meant: Collection[str] = ()) -> tuple[str, ...]:
    """Return a warning if the name of a class is the plural of another one, such as "cat" and "cats"; else nothing.

    Args:
        counts: Maps the name of each class to its number of pictures.
        meant: Names that the user gave with --classes; see `check_alike`.
    """
    if "*" in meant:
        return ()
    known = {name.lower(): name for name in counts}
    pairs = [
        (name, known[plural])
        for lower, name in known.items()
        if len(lower) > 2 and not (lower.endswith("s") and not lower.endswith("ss"))
        for plural in (f"{lower}s", f"{lower}es", f"{lower[:-1]}ies" if lower.endswith("y") else "")
        if plural in known and not {name, known[plural]} <= set(meant)
    ]
    if not pairs:
        return ()
    shown = "; ".join(_pictures_of(pair, counts) for pair in pairs[:3])
    more = f"; and {len(pairs) - 3} more pairs" if len(pairs) > 3 else ""
    return (f"these classes may be one, in the singular and the plural: {shown}{more}. If so, give them one name.",)


def _value(names: Iterable[str]) -> str:
    from zoo.data.reading import format_names

    return format_names(names)


def _pictures_of(names: Sequence[str], counts: Mapping[str, int]) -> str:
    return " and ".join(f"{quoted(name)} ({counts[name]})" for name in names)


def _difference(names: Sequence[str]) -> str:
    """Say in what some names differ that look alike."""
    if len({" ".join(name.split()) for name in names}) == 1:
        return "blanks"
    if len({" ".join(name.lower().split()) for name in names}) == 1:
        return "upper and lower case" if len({"".join(name.lower()) for name in names}) == 1 else "case and blanks"
    odd = {
        character
        for name in names
        for character in name
        if not character.isascii() and not all(character in other for other in names)
    }
    named = ", ".join(sorted(unicodedata.name(character, f"U+{ord(character):04X}") for character in odd))
    return f"characters that cannot be told apart or seen ({named})" if odd else "case and blanks"


def _skeleton(name: str) -> str:
    """Return what a name looks like: names that are equal here are easily mistaken for each other."""
    seen = "".join(map(_shape, name))
    text = " ".join(seen.split()).translate(_LATIN)
    return text if len(text) == 1 else text.lower().translate(_LATIN)


def _shape(character: str) -> str:
    if character.isascii():
        return character
    if unicodedata.category(character) == "Cf" or "\ufe00" <= character <= "\ufe0f":
        return ""
    if unicodedata.decomposition(character).startswith(_STYLES):
        return unicodedata.normalize("NFKC", character)
    return character
