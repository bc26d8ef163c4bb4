"""Opens an exported file for ONNX Runtime, so that the file whose structure was checked is the one that is loaded."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import BinaryIO, cast

from ._errors import ModelNotFound
from ._structure import BrokenStructure, UnsafeStructure, read_structure


@contextlib.contextmanager
def checked(model: str | bytes, *, same_file: bool) -> Iterator[str | bytes]:
    """Check that a file can be read and has the structure of an exported file. Yield what ONNX Runtime is to open.

    The file stays open meanwhile. With `same_file`, Linux lets ONNX Runtime open this open file, so that a file that is
    put at the path in between cannot take its place. Otherwise, the path is compared with the open file afterwards.

    ONNX Runtime cannot open a path that is not valid UTF-8. Then the content of the file is yielded.

    Args:
        model: Path of the file, or its bytes.
        same_file: False always yields the path, for providers that keep files of their own beside it.

    Raises:
        ModelNotFound: If there is no file at the path, the file cannot be read, or another one took its place.
        CorruptModel: If the file is empty, cut off or damaged.
        NotAnExport: If the file is of another kind, such as a picture or a PyTorch file.
        UnsafeModel: If the file has what an exported file never has.
    """
    if isinstance(model, bytes):
        _check(model, io.BytesIO(model), len(model))
        yield model
        return
    with _opened(model) as stream:
        try:
            opened = os.fstat(stream.fileno())
            _check(model, stream, opened.st_size)
            content = _for_onnxruntime(model, stream, same_file=same_file)
        except OSError as error:
            from ._foreign import not_found

            raise not_found(model, error.strerror or error) from None
        yield content
        if content == model:
            with contextlib.suppress(OSError):
                if not os.path.samestat(opened, os.stat(model)):
                    raise ModelNotFound(f"{model!r} was replaced while it was opened. Open it again.")


def _opened(path: str) -> BinaryIO:
    try:
        # Without a buffer: most of the file is skipped.
        return cast(BinaryIO, open(path, "rb", buffering=0))
    except (OSError, ValueError) as error:
        from ._foreign import not_found

        raise not_found(path, getattr(error, "strerror", None) or error) from None


def _check(model: str | bytes, stream: BinaryIO, size: int) -> None:
    """Check the first bytes of a file, and then its structure. `model` is its path or its bytes, for messages."""
    # Nearly every ONNX file begins with this byte, and then this import is not needed.
    if stream.read(1) != b"\x08":
        from ._foreign import refuse_foreign

        refuse_foreign(model)
    try:
        read_structure(stream, size)
    except (BrokenStructure, UnsafeStructure) as error:
        from ._foreign import explain_structure

        raise explain_structure(model, error) from None


def _for_onnxruntime(path: str, stream: BinaryIO, *, same_file: bool) -> str | bytes:
    """Return a path at which ONNX Runtime can open a file, or its content."""
    opened = f"/proc/self/fd/{stream.fileno()}"
    if same_file and sys.platform == "linux" and os.path.exists(opened):
        return opened
    # Python marks bytes that are not UTF-8 with these characters.
    if any("\udc80" <= letter <= "\udcff" for letter in path):
        stream.seek(0)
        return stream.read()
    return path
