"""Defines `ReadingOptions`: what a user says about how a source is read, such as which classes and which files count.

`zoo.data.sources` obeys these options. The command line, `zoo.config.FinetuneConfig` and run.json carry them, so that
`zoo evaluate` and `zoo export` read the pictures of a run as the run did.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from zoo.data.names import listed, normalized
from zoo.errors import DataLayout
from zoo_runtime.workshop import format_pixels

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec


@dataclass(frozen=True)
class LeftOut:
    """Describes what is in a source and is not used.

    Args:
        path: The path relative to the source, or the name of a class. The path of a folder ends in "/".
        why: The reason, such as "written by zoo".
        pictures: The number of its pictures. None if they were not counted.
    """

    path: str
    why: str
    pictures: int | None = None


@dataclass(frozen=True)
class Findings:
    """Says how a source was understood.

    Args:
        layout: How the pictures are arranged, such as "a folder for each class".
        left_out: What is not used.
        passed_over: Maps the ending of files that are not pictures, such as ".json", to their number.
    """

    layout: str = ""
    left_out: tuple[LeftOut, ...] = ()
    passed_over: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ReadingOptions:
    """Says how a source is read. The default reads a source as it stands.

    Args:
        classes: The names of the classes to use, normalized to NFC. Pictures of other classes are left out. None uses
            all classes.
        exclude: Patterns in the syntax of .gitignore. Files and folders that match are not read. A pattern applies to
            the path relative to the source. Without a slash, it matches at any depth.
        columns: What the columns of a list or the arrays of an .npz file hold, such as "path=filename". Empty means
            that the usual names count.
        root: The folder from which relative paths in a list count. None means the folder of the list.
        max_pixels: The largest picture to decode, in pixels of color; see `zoo_runtime.decode`. None means
            `zoo_runtime.MAX_PIXELS`.
        formats: The formats of picture files to read; see `zoo_runtime.decode`. None means the common ones.
    """

    classes: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    root: str | None = None
    max_pixels: int | None = None
    formats: tuple[str, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the options as run.json records them: one key per field; tuples become lists."""
        return {
            field.name: list(value) if isinstance(value := getattr(self, field.name), tuple) else value
            for field in dataclasses.fields(self)
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any] | None) -> ReadingOptions:
        """Return the options that a run recorded.

        Options that the run does not record, because an older version of zoo wrote it, have their defaults. Options of
        newer versions are ignored. The digest of a run then tells whether its pictures are read alike.

        Args:
            values: What `to_json` returned. None means the defaults.
        """
        known = {field.name for field in dataclasses.fields(cls)} & (values or {}).keys()
        return cls(**{key: _frozen((values or {})[key]) for key in known})

    def words(self) -> list[str]:
        """Return the options as words of a command line."""
        words = [] if self.classes is None else ["--classes", format_names(self.classes)]
        words += [word for pattern in self.exclude for word in ("--exclude", pattern)]
        words += ["--columns", format_names(self.columns)] if self.columns else []
        words += [] if self.root is None else ["--root", self.root]
        words += [] if self.max_pixels is None else ["--max-pixels", format_pixels(self.max_pixels)]
        return words + ([] if self.formats is None else ["--formats", ",".join(self.formats)])

    def over(self, recorded: ReadingOptions) -> ReadingOptions:
        """Return these options, where each one that the user did not give has the value that a run recorded."""
        default = ReadingOptions()
        given = {
            field.name: value
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != getattr(default, field.name)
        }
        return dataclasses.replace(recorded, **given)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class Exclusion:
    """Decides which files and folders are left out by `ReadingOptions.exclude`, and remembers which patterns matched.

    Args:
        patterns: The patterns, in the syntax of .gitignore.

    Attributes:
        patterns: The patterns.
        left_out: The paths that were left out, relative to the source. A folder stands for everything in it.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self.patterns = tuple(patterns)
        self._unused = [pattern for pattern in patterns if not pattern.startswith("!")]
        self.left_out: list[str] = []

    @cached_property
    def _spec(self) -> GitIgnoreSpec:
        return _compiled(self.patterns)

    def __call__(self, path: str | PurePath, *, folder: bool = False) -> bool:
        """Return whether a path is left out.

        Args:
            path: The path relative to the source.
            folder: Whether the path is a folder.
        """
        if not self.patterns:
            return False
        text = _as_written(path) + ("/" if folder else "")
        if not self._spec.match_file(text):
            return False
        self._unused = [pattern for pattern in self._unused if not _compiled([pattern]).match_file(text)]
        self.left_out.append(text)
        return True

    def unused(self, data: PurePath) -> list[str]:
        """Return a list with one warning if some patterns matched nothing, or an empty list.

        Args:
            data: The path of the source. A pattern that begins with it was probably typed from outside.
        """
        if not self._unused:
            return []
        example = "such as 'cats/raw', 'raw' or '*.png'."
        for start in (data.as_posix(), data.name):
            inside = self._unused[0].removeprefix("./").removeprefix(f"{start}/")
            if start and inside != self._unused[0].removeprefix("./"):
                example = f"so that it is probably {inside!r}."
                break
        named = listed(self._unused)
        return [f"--exclude {named} matches nothing. A pattern applies to the path inside the data, {example}"]


def _compiled(patterns: Sequence[str]) -> GitIgnoreSpec:
    """Return the matcher of some patterns.

    Raises:
        ValueError: A pattern is not valid.
    """
    from pathspec import GitIgnoreSpec

    with warnings.catch_warnings():
        # The re module warns about "[[", which is valid in a pattern.
        warnings.simplefilter("ignore", FutureWarning)
        return GitIgnoreSpec.from_lines([normalized(pattern) for pattern in patterns])


def check_patterns(patterns: Sequence[str]) -> None:
    """Check the values of --exclude.

    Raises:
        ValueError: A pattern is empty or not valid. The error has the pattern.
    """
    for pattern in patterns:
        try:
            _compiled([pattern])
        except ValueError:
            raise ValueError(repr(pattern)) from None
        if not pattern.strip("/ !"):
            raise ValueError(repr(pattern))


def _as_written(path: str | PurePath) -> str:
    """Return a path in the form that patterns are compared with: with slashes, without a leading one, in NFC."""
    text = path.as_posix() if isinstance(path, PurePath) else path.replace("\\", "/")
    return normalized(text).lstrip("/").removeprefix("./")


def parse_names(values: Sequence[str]) -> tuple[str, ...] | None:
    """Parse the values of --classes: names separated by commas.

    A name that contains a comma, or begins or ends with a blank, stands in double quotes, as in a CSV file:
    'cats,"dogs, small"'. The option may be repeated.

    Returns:
        The names, normalized to NFC, without duplicates, in the order given. None if there is no value.

    Raises:
        ValueError: A name is empty, or double quotes are not closed.
    """
    names: list[str] = []
    for value in values:
        position = 0
        while position <= len(value):
            match = _NAME.match(value, position)
            name = match and (match[1].replace('""', '"') if match[1] is not None else match[2].strip())
            if not match or not name:
                raise ValueError(repr(value))
            names.append(normalized(name))
            position = match.end() + 1
    return tuple(dict.fromkeys(names)) or None


# A name in double quotes or without, up to a comma or the end.
_NAME = re.compile(r'\s*(?:"((?:[^"]|"")*)"\s*|([^",]*))(?=,|$)', re.DOTALL)


def format_names(names: Iterable[str]) -> str:
    """Return the value of --classes that `parse_names` turns into these names."""
    return ",".join(
        '"' + name.replace('"', '""') + '"' if "," in name or '"' in name or name != name.strip() else name
        for name in names
    )


def check_present(named: Iterable[str], present: Iterable[str], where: str) -> None:
    """Check that the data have every class that --classes names.

    Args:
        named: The names that the user gave.
        present: The classes of the data.
        where: The path of the data, for the error message.

    Raises:
        DataLayout: A class is absent. The message suggests similar names.
    """
    known = sorted(present)
    missing = [name for name in named if name not in known]
    if not missing:
        return
    folded = {name.casefold().strip(): name for name in known}
    text = []
    for name in missing:
        nearest = [folded[name.casefold().strip()]] if name.casefold().strip() in folded else []
        nearest = nearest or difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        text.append(f"{name!r}" + (f" (did you mean {nearest[0]!r}?)" if nearest else ""))
    shown = listed(known, 12)
    raise DataLayout(
        f"--classes names {', '.join(text)}, but {where!r} has no such {'class' if len(missing) == 1 else 'classes'}. "
        f"It has {shown or 'no classes'}."
    )
