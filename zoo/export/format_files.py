"""Calls a plugin to make and to run the files of a format. Whatever it raises becomes an `ExportError`.

`zoo.export.formats` decides whether the files are good.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import ExportError, ZooError, reason
from zoo.plugin import Format, FormatSource

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from zoo_runtime import ModelInfo

# How much of what a failed converter wrote is shown, in bytes.
LARGEST_OUTPUT = 20_000


class Writer:
    """Calls a plugin to make the files of a format, with the metadata that they shall carry.

    Args:
        kind: The format.
        graph: The finished graph.
        calibration: Training pictures; see `zoo.plugin.FormatSource`.
    """

    def __init__(self, kind: Format, graph: onnx.ModelProto, calibration: np.ndarray) -> None:
        self._kind, self._graph, self._calibration = kind, graph, calibration

    @functools.cached_property
    def _function(self) -> Any:
        from zoo.convert.keras_to_onnx import public
        from zoo.convert.onnx_to_tensorflow import function_of

        return function_of(public(self._graph))

    def files(self, info: ModelInfo) -> tuple[dict[str, bytes], Callable[[Any], list[np.ndarray]]]:
        """Make the files.

        Returns:
            The files by name, and a function that runs them: from pixels to the outputs, in the order of the graph.

        Raises:
            ExportError: The plugin raised an error, or made no file of the promised name.
        """
        from zoo.convert.keras_to_onnx import public
        from zoo.export import artifact

        kind = self._kind
        if kind.make is None or kind.run is None:
            raise ExportError(f"the format {kind.name} is that of zoo itself. Ask for it with --{kind.graph}.")
        with tempfile.TemporaryDirectory(prefix="zoo-format-") as folder:
            source = FormatSource(
                onnx=artifact.serialize(self._graph, info),
                metadata=info.to_metadata(),
                classes=tuple(info.classes),
                calibration=self._calibration,
                folder=Path(folder),
                tensorflow=lambda: self._function,
            )
            call(kind, "make", kind.make, source, quiet=True)
            files = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir()) if path.is_file()}
            if not files.get(kind.file):
                raise ExportError(
                    f"the format {kind.name} made no file {kind.file!r}. It made {', '.join(files) or 'nothing'}."
                )
            # Some engines read their file again later, so the copy stays as long as the function.
            place = tempfile.TemporaryDirectory(prefix="zoo-format-")
            for name, content in files.items():
                Path(place.name, name).write_bytes(content)
            runner = call(kind, "run", kind.run, Path(place.name), quiet=True)
        names = [output.name for output in public(self._graph).graph.output]
        return files, _Checked(kind, runner, names, len(info.classes), place).run


@dataclass(frozen=True)
class _Checked:
    """Runs the files of a format, and checks what comes out.

    Args:
        kind: The format.
        runner: What the plugin returned.
        names: The names of the outputs, in the order of the graph.
        classes: The number of classes.
        place: The folder of the files, which goes with this object.
    """

    kind: Format
    runner: Callable[[Any], Mapping[str, Any]]
    names: list[str]
    classes: int
    place: tempfile.TemporaryDirectory[str]

    def run(self, pixels: Any) -> list[np.ndarray]:
        """Return the outputs for pixels, (batch, height, width, channels), in the order of the graph.

        Raises:
            ExportError: An output is missing, has another shape, or is not finite. Or the plugin raised an error.
        """
        import numpy as np

        found = call(self.kind, "run", self.runner, pixels)
        outputs = []
        for name in self.names:
            if not isinstance(found, Mapping) or name not in found:
                given = sorted(map(str, found)) if isinstance(found, Mapping) else type(found).__name__
                raise ExportError(f"the {self.kind.name} file gives no output {name!r}. It gives {given}.")
            values = np.asarray(found[name], np.float32)
            wanted = (len(pixels), self.classes) if name == "probabilities" else (len(pixels),)
            if values.shape != wanted:
                raise ExportError(
                    f"the {self.kind.name} file gives the output {name!r} with the shape {values.shape} instead of "
                    f"{wanted}."
                )
            if not np.isfinite(values).all():
                raise ExportError(f"the {self.kind.name} file gives values that are not finite in {name!r}.")
            outputs.append(values)
        return outputs


def call(kind: Format, what: str, function: Callable[..., Any], *arguments: Any, quiet: bool = False) -> Any:
    """Call a function of a plugin. Whatever it raises becomes an ExportError, and nothing gets into the output.

    Args:
        kind: The format.
        what: What the function does, for the message.
        function: The function.
        arguments: Its arguments.
        quiet: Whether what it writes to stderr is shown only if it fails. Converters write many notes there.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr), _held_back() if quiet else contextlib.nullcontext():
            return function(*arguments)
    except (KeyboardInterrupt, ZooError):
        raise
    except BaseException as error:
        raise ExportError(f"the format {kind.name} failed in {what!r}: {reason(error)}") from error


@contextlib.contextmanager
def _held_back() -> Iterator[None]:
    """Hold back what this process writes to stderr, also in C++, and show it if an error is raised."""
    try:
        kept = os.dup(2)
    except OSError:
        # The process was started without stderr.
        yield
        return
    try:
        with tempfile.TemporaryFile() as written:
            sys.stderr.flush()
            os.dup2(written.fileno(), 2)
            try:
                yield
            except BaseException:
                os.dup2(kept, 2)
                written.seek(0)
                os.write(2, written.read()[-LARGEST_OUTPUT:])
                raise
            finally:
                sys.stderr.flush()
                os.dup2(kept, 2)
    finally:
        os.close(kept)
