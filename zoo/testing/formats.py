"""Checks formats: they make, open and run the files of a small network, in folders that are watched.

The docstring of each check is the advice that the author of the plugin reads beside a failure. `format_modules` has the
check that reads the plugin's code.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np

from zoo.errors import ConversionFailed
from zoo.plugin import Format, FormatSource
from zoo.testing.outcomes import Blocked, Skipped
from zoo.testing.small_graph import CLASSES, SIDE, finished_graph
from zoo.testing.tools import synthetic_pixels

if TYPE_CHECKING:
    from zoo_runtime import ModelInfo

PICTURES = 64
# In 8 bits, a format states no tolerance, because engines round in different ways. A file that computes something else
# is further away. The built-in formats differ by at most 0.02 here.
LARGEST_IN_8_BITS = 0.1
# How far the answer to a picture may depend on the pictures beside it.
LARGEST_IN_A_BATCH = 1e-4
A_DAY = 86_400.0


class TestedFormat:
    """Makes the files of a format for a small network, once for all checks.

    Args:
        format: The format.
    """

    __test__ = False

    def __init__(self, format: Format) -> None:
        self.format = format

    @functools.cached_property
    def graph(self) -> Any:
        """The finished ONNX graph that the format stores."""
        return finished_graph(self.format.graph)

    @functools.cached_property
    def info(self) -> ModelInfo:
        """The metadata that the files must carry."""
        from zoo_runtime import ImageSpec, ModelInfo

        spec, described = ImageSpec(size=(SIDE, SIDE)), {"name": "small", "licence": "MIT"}
        return ModelInfo(classes=CLASSES, task="multiclass", image=spec, architecture=described)

    @functools.cached_property
    def pixels(self) -> np.ndarray:
        """Synthetic pictures, uint8 (64, 32, 32, 3)."""
        return synthetic_pixels(PICTURES, (SIDE, SIDE), 3, seed=5)

    def source(self, folder: Path, *, damaged: bool = False) -> FormatSource:
        """Return what `make` gets.

        Args:
            folder: The folder for the files.
            damaged: Whether the ONNX file is cut, and no TensorFlow function can be made of it.
        """
        from zoo.convert.keras_to_onnx import public
        from zoo.convert.onnx_to_tensorflow import function_of
        from zoo.export import artifact

        def no_function() -> Any:
            raise ConversionFailed("the graph is damaged, for a check of zoo's.")

        content = artifact.serialize(self.graph, self.info)
        return FormatSource(
            onnx=content[: len(content) // 3] if damaged else content,
            metadata=self.info.to_metadata(),
            classes=CLASSES,
            calibration=synthetic_pixels(64, (SIDE, SIDE), 3, seed=4),
            folder=folder,
            tensorflow=no_function if damaged else lambda: function_of(public(self.graph)),
        )

    @functools.cached_property
    def _made(self) -> tuple[dict[str, bytes], Callable[[Any], list[np.ndarray]]] | Exception:
        from zoo.export.format_files import Writer

        try:
            return Writer(self.format, self.graph, self.source(Path()).calibration).files(self.info)
        except Exception as error:
            return error

    def made(self) -> tuple[dict[str, bytes], Callable[[Any], list[np.ndarray]]]:
        """Return the files by name, and a function from pixels to the outputs in the order of the graph.

        Raises:
            Skipped: A module that the format needs is not installed, or zoo itself makes its files.
            Blocked: They cannot be made.
        """
        self.ready()
        if isinstance(self._made, Exception):
            raise Blocked("format-files")
        return self._made

    def ready(self) -> None:
        """Raise `Skipped` if the files cannot be made here."""
        if self.format.make is None:
            raise Skipped("zoo itself makes this file, by the same checks as for every export")
        if missing := self.format.missing():
            verb = "is" if len(missing) == 1 else "are"
            raise Skipped(f"{' and '.join(missing)} {verb} not installed; {self.format.install}")


def check_format_files(tested: TestedFormat) -> None:
    """`make` writes the files of a format into the folder that it gets, and nothing anywhere else.

    zoo takes the files of this folder, without folders in it. It calls `make` twice, because the second file carries
    the self-test. Put temporary files into `tempfile.TemporaryDirectory()`, and change no working folder.
    """
    tested.ready()
    if isinstance(tested._made, Exception):
        raise tested._made
    with watched_folders() as places:
        _call_make(tested, places)
        folders = [path.name for path in places.folder.iterdir() if not path.is_file()]
        assert not folders, f"make writes folders, which zoo does not take over: {', '.join(folders)}"
        named = sorted(path.name for path in places.folder.iterdir())
        assert tested.format.file in named, f"make wrote {', '.join(named) or 'nothing'}, but no {tested.format.file}"
        _check_left(places, "make")


def check_format_failure(tested: TestedFormat) -> None:
    """`make` raises an error if it cannot make a file, and leaves nothing behind.

    zoo then names the format and the reason, and exports everything else. The check gives `make` an ONNX file that is
    cut. A `make` that catches its own errors would write a file of something else. Do not end the program.
    """
    tested.made()
    with watched_folders() as places:
        try:
            assert tested.format.make is not None
            tested.format.make(tested.source(places.folder, damaged=True))
        except Exception:
            _check_left(places, "a make that failed")
            return
        except BaseException as error:
            raise AssertionError(f"make ends the program with {type(error).__name__} instead of an error") from None
    raise AssertionError("make raises no error for an ONNX file that is cut in the middle")


def check_format_answers(tested: TestedFormat) -> None:
    """The files of a format give the answers of the ONNX file of the same graph, within the tolerance of the format.

    `run` returns every output under its name, for one picture and for many. `Format.tolerance` says how far a
    probability may differ; zoo refuses a file that differs more, with these figures. State what your engine needs, and
    not more: 0.001 suits float32. None suits 8 bits, where the kit allows 0.1.
    """
    from zoo.convert.keras_to_onnx import public
    from zoo.export.formats import differences, refusal_of

    _, run = tested.made()
    kind, outputs = tested.format, run(tested.pixels)
    session = _session(public(tested.graph))
    expected = session.run(None, {"image": tested.pixels})
    # A format that states no tolerance gets one here, because there are no classes to count.
    limited = kind if kind.tolerance is not None else dataclasses.replace(kind, tolerance=LARGEST_IN_8_BITS)
    refusal = refusal_of(limited, differences(limited, expected, outputs))
    assert refusal is None, str(refusal).replace("real pictures", "pictures")
    for count in (1, 3):
        alone = run(tested.pixels[:count])
        apart = max(float(np.abs(a - b[:count]).max()) for a, b in zip(alone, outputs, strict=True))
        assert apart <= LARGEST_IN_A_BATCH, f"a batch of {count} gets other answers than a batch of 64, by {apart:.2g}"
    again = run(tested.pixels)
    same = all(np.array_equal(a, b) for a, b in zip(outputs, again, strict=True))
    assert same, "the same pictures get other answers the second time"


def check_format_metadata(tested: TestedFormat) -> None:
    """What a file says about itself is what zoo handed to `make`: metadata, and classes in the order of the outputs.

    Store `FormatSource.metadata` as it is. zoo writes metadata.json beside a file in which it finds no metadata. Files
    called labels.txt have one class a line, in the order of `FormatSource.classes`.
    """
    from zoo.export import format_metadata

    files, _ = tested.made()
    with tempfile.TemporaryDirectory(prefix="zoo-check-") as place:
        for name, content in files.items():
            Path(place, name).write_bytes(content)
        main = Path(place, tested.format.file)
        wanted = tested.info.to_metadata()
        inside = format_metadata.carries_metadata(main)
        if inside or Path(place, format_metadata.SIDECAR).is_file():
            found = dict(format_metadata.metadata_in(main))
            wrong = sorted(key for key, text in wanted.items() if found.get(key) != text)
            assert not wrong, f"the file carries other metadata than zoo handed over: {', '.join(wrong)}"
        for name, text in _label_files(files):
            labels = text.splitlines()
            assert labels == list(CLASSES), f"{name} has the classes {labels} instead of {list(CLASSES)}"


def check_format_bytes(tested: TestedFormat) -> None:
    """A format that promises the same bytes for the same source keeps the promise.

    Users then see by its digest whether a file has changed. Times, random names and the path of the folder must not
    get into the files. Leave out `same_bytes` if your converter cannot promise it.
    """
    from zoo.export.format_files import Writer

    files, _ = tested.made()
    if not tested.format.same_bytes:
        raise Skipped("the format does not promise the same bytes (same_bytes)")
    now = time.time
    # A file that holds the time must differ, however quick this is.
    with mock.patch("time.time", lambda: now() + A_DAY):
        again, _ = Writer(tested.format, tested.graph, tested.source(Path()).calibration).files(tested.info)
    assert again.keys() == files.keys(), f"make wrote {sorted(again)} the second time, and {sorted(files)} before"
    changed = sorted(name for name, content in files.items() if again[name] != content)
    assert not changed, f"the same source gives other bytes the second time in {', '.join(changed)}"


@dataclasses.dataclass(frozen=True)
class Places:
    """The folders that are watched: for the files, for temporary files, and the working folder."""

    folder: Path
    temporary: Path
    working: Path


@contextlib.contextmanager
def watched_folders() -> Iterator[Places]:
    """Run a `with` block in new folders for files, temporary files and work, and put everything back."""
    before, environment = Path.cwd(), os.environ.get("TMPDIR")
    with tempfile.TemporaryDirectory(prefix="zoo-check-") as root:
        places = Places(*(Path(root, name) for name in ("files", "temporary", "working")))
        for path in (places.folder, places.temporary, places.working):
            path.mkdir()
        os.environ["TMPDIR"] = str(places.temporary)
        os.chdir(places.working)
        try:
            with mock.patch("tempfile.tempdir", str(places.temporary)):
                yield places
        finally:
            os.chdir(before)
            if environment is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = environment


def _call_make(tested: TestedFormat, places: Places) -> None:
    from zoo.export.format_files import call

    assert tested.format.make is not None
    call(tested.format, "make", tested.format.make, tested.source(places.folder), quiet=True)


def _check_left(places: Places, who: str) -> None:
    assert Path.cwd() == places.working.resolve(), f"{who} changes the working folder"
    for path, what in ((places.working, "in the working folder"), (places.temporary, "among the temporary files")):
        left = sorted(each.name for each in path.iterdir())
        assert not left, f"{who} leaves {', '.join(left[:3])} {what}"


def _label_files(files: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each labels.txt, beside the main file or in a ZIP archive at the end of a file."""
    import io

    for name, content in files.items():
        if name == "labels.txt":
            yield name, content.decode("utf-8")
        elif zipfile.is_zipfile(io.BytesIO(content)):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                for each in archive.namelist():
                    if Path(each).name == "labels.txt":
                        yield f"{each} in {name}", archive.read(each).decode("utf-8")


def _session(graph: Any) -> Any:
    from zoo.convert.session import open_session

    return open_session(graph)


FORMAT_CHECKS = (
    check_format_files,
    check_format_failure,
    check_format_answers,
    check_format_metadata,
    check_format_bytes,
)


def check_format(format: Format) -> None:
    """Check that a format keeps its contract: it makes, opens and runs the files of a small network.

    Args:
        format: The format. The modules that it needs must be installed.

    Raises:
        AssertionError: The format breaks a rule.
        ZooError: The files cannot be made or run; this is the error that a user of the plugin would see.
        Skipped: A module that the format needs is not installed, or zoo itself makes its files.
    """
    tested = TestedFormat(format)
    tested.ready()
    for check in FORMAT_CHECKS:
        if check is not check_format_bytes or format.same_bytes:
            check(tested)
