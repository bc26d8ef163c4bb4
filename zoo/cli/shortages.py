"""Explains errors that zoo does not raise itself: the disk or the memory is full.

They may come from any library and at any moment. A run that such an error ends has noted it, and can be resumed.
"""

from __future__ import annotations

import errno
import tempfile

# What a write answers that fails for a reason outside the program.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)
# What TensorFlow, JAX, PyTorch and ONNX Runtime say; their errors have no common base class.
MEMORY = ("ResourceExhaustedError", "RESOURCE_EXHAUSTED", "OutOfMemoryError", "bad_alloc", "Failed to allocate memory")


def explained(error: BaseException) -> str | None:
    """Return a message for a user, or None if the error means something else.

    Args:
        error: An exception that is not a `zoo.errors.ZooError`.
    """
    if isinstance(error, OSError) and error.errno in DISK:
        what = f"{error.filename!r}" if error.filename else "a file"
        if error.errno == errno.EROFS:
            return f"{what} cannot be written: {error.strerror}."
        return (
            f"{what} cannot be written: {error.strerror}. Free some space. Temporary files are in "
            f"{tempfile.gettempdir()!r}; the environment variable TMPDIR names another folder."
        )
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, MemoryError) or any(sign in text for sign in MEMORY):
        return (
            "the memory is full. Close other programs, or use a smaller --batch-size, a smaller --size or a smaller "
            "network."
        )
    return None
