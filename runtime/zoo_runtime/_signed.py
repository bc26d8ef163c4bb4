"""Opens an exported file only if the owner of a key has signed it; see `Predictor`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from ._engine import companion_of
from ._errors import BadSignature


@contextlib.contextmanager
def signed(model: str | bytes, public_key: str | os.PathLike[str] | None) -> Iterator[None]:
    """Check the signature of a file that is opened in this context. No other file can take its place meanwhile.

    Args:
        model: Path of the file, or its bytes.
        public_key: Path of the public key, or None to check nothing.

    Raises:
        BadSignature: If there is no valid signature, or another file took the place of the one that was checked.
        ModelNotFound: If the file cannot be read.
        ValueError: If the file is given as bytes, beside which there is no signature.
    """
    if public_key is None:
        yield
        return
    # Without the option, a device needs no package for signatures.
    from ._signature import verify_signature

    if isinstance(model, bytes):
        raise ValueError(
            "require_signature needs the path of a file, beside which its signature lies. Received: bytes."
        )
    before = _status(model)
    verify_signature(model, public_key)
    yield
    if before is None or _status(model) != before:
        raise BadSignature(f"{model!r} was replaced or written to while it was opened. Open it again.")


def _status(model: str) -> list[tuple[int, ...]] | None:
    """Return what changes if one of the files of an export is replaced or written to; None if one is not there."""
    try:
        found = [os.stat(path) for path in (model, companion_of(model)) if path is not None]
    except (OSError, ValueError):
        return None
    return [(each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns) for each in found]
