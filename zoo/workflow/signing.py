"""Signs exported files after they were put in their place. `zoo_runtime` makes and checks the signatures."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from zoo.errors import UsageError
from zoo.files import atomic_write
from zoo_runtime import BadSignature, Signer

PASSPHRASE = "ZOO_SIGN_PASSPHRASE"
"""The environment variable that holds the passphrase of the key."""


def open_key(path: Path, ask: Callable[[], str]) -> Signer:
    """Read a private key, before anything is exported.

    Args:
        path: The file of the key.
        ask: Asks the user for the passphrase. It is called if the key is encrypted and ZOO_SIGN_PASSPHRASE is not set.

    Raises:
        UsageError: The key cannot be read, or `cryptography` is not installed.
    """
    given = os.environ.get(PASSPHRASE)
    try:
        return Signer(path, ask if given is None else lambda: given)
    except BadSignature as error:
        raise UsageError(str(error)) from None
    except EOFError:
        raise UsageError(
            f"the key {str(path)!r} is encrypted, and no passphrase was typed. Where nobody can type it, set the "
            f"environment variable {PASSPHRASE} to it."
        ) from None


def signature_path(exported: Path) -> Path:
    """Return the path of the signature of an exported file: `model.onnx.sig`."""
    return exported.with_name(f"{exported.name}.sig")


def sign(exported: Path, signer: Signer) -> Path:
    """Write the signature of an exported file beside it, and return the path of the signature.

    Raises:
        WriteError: The signature cannot be written.
    """
    target = signature_path(exported)
    with atomic_write(target) as temporary:
        temporary.write_bytes(signer.sign(exported))
    return target
