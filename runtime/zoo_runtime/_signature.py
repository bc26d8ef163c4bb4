"""Signs exported files, and checks their signatures, with Ed25519 keys.

A signature is a text file beside the exported file, `model.onnx.sig`, in the format of OpenSSH: `ssh-keygen -Y verify
-n zoo-model` checks it without zoo, and `ssh-keygen -Y sign -n zoo-model` makes one. What is signed is the SHA-512 of
the file together with the namespace `zoo-model`, so that a signature of anything else is no signature of a model. The
file may hold several signatures.

Keys are files in PEM or OpenSSH form. The package `cryptography` is imported only where a signature is made or checked.

Source: OpenSSH's PROTOCOL.sshsig (https://github.com/openssh/openssh-portable/blob/master/PROTOCOL.sshsig).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ._errors import BadSignature, ModelNotFound
from ._extras import install_line

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SUFFIX = ".sig"
NAMESPACE = b"zoo-model"
# A signature takes about 300 bytes. What is larger is no file of signatures.
MOST_BYTES = 65_536

_MAGIC, _VERSION, _KIND = b"SSHSIG", (1).to_bytes(4, "big"), b"ssh-ed25519"
_HASHES = (b"sha512", b"sha256")
_ARMOR = re.compile(rb"-----BEGIN SSH SIGNATURE-----([^-]*)-----END SSH SIGNATURE-----")
_NEW_KEY = "`openssl genpkey -algorithm ed25519 -out key.pem` makes a key"
_PUBLIC_KEY = "`openssl pkey -in key.pem -pubout -out pub.pem` writes the public key"


class Signer:
    """Signs exported files with a private key, which is read when the signer is made.

    Args:
        key: Path of the file of an Ed25519 private key, in PEM (PKCS #8) or OpenSSH form.
        passphrase: Returns the passphrase. It is called only if the key is encrypted. None means that there is none.

    Attributes:
        fingerprint: Identifies the key, as `ssh-keygen -l` does: "SHA256:" and 43 letters.

    Raises:
        BadSignature: If the key cannot be read, has another algorithm, or needs another passphrase. Or `cryptography`
            is not installed.
    """

    def __init__(self, key: str | os.PathLike[str], passphrase: Callable[[], str] | None = None) -> None:
        self._key = _private_key(os.fsdecode(key), passphrase)
        self._public = _encoded(self._key.public_key())
        self.fingerprint = _fingerprint(self._public)

    def sign(self, model: str | os.PathLike[str]) -> bytes:
        """Return the signature of an exported file: the content of the file `model.onnx.sig`.

        Args:
            model: Path of the exported file.

        Raises:
            ModelNotFound: If the file cannot be read.
        """
        digest = _digest(os.fsdecode(model), "sha512")
        signature = self._key.sign(_MAGIC + _strings(NAMESPACE, b"", b"sha512", digest))
        blob = _MAGIC + _VERSION + _strings(self._public, NAMESPACE, b"", b"sha512", _strings(_KIND, signature))
        text = base64.b64encode(blob)
        lines = [text[start : start + 70] for start in range(0, len(text), 70)]
        return b"\n".join([b"-----BEGIN SSH SIGNATURE-----", *lines, b"-----END SSH SIGNATURE-----", b""])


def verify_signature(
    model: str | os.PathLike[str],
    public_key: str | os.PathLike[str],
    signature: str | os.PathLike[str] | None = None,
) -> str:
    """Check that the owner of a key has signed an exported file.

    Args:
        model: Path of the exported file.
        public_key: Path of the file of an Ed25519 public key, in PEM or OpenSSH form.
        signature: Path of the file of the signature. None means the path of the model with `.sig`.

    Returns:
        The fingerprint of the key.

    Raises:
        BadSignature: If there is no signature, it is damaged, or it is of another key or another file. Or the public
            key cannot be read, or `cryptography` is not installed.
        ModelNotFound: If the exported file cannot be read.
    """
    key = load_public_key(os.fsdecode(public_key))
    return check_signature(os.fsdecode(model), key, None if signature is None else os.fsdecode(signature))


class PublicKey:
    """Holds a public key that was read.

    Args:
        path: The path of its file, for messages.
        key: The key.
    """

    def __init__(self, path: str, key: Ed25519PublicKey) -> None:
        self.path = path
        self.key = key
        self.encoded = _encoded(key)
        self.fingerprint = _fingerprint(self.encoded)


def check_signature(model: str, public_key: PublicKey, signature: str | None = None, shown: str | None = None) -> str:
    """Check a signature; see `verify_signature`.

    Args:
        model: Path of the exported file.
        public_key: The key, from `load_public_key`.
        signature: Path of the file of the signature. None means the path of the model with `.sig`.
        shown: The path of the exported file for messages, if it is a copy.

    Returns:
        The fingerprint of the key.
    """
    from cryptography.exceptions import InvalidSignature

    name = shown or model
    path = signature or f"{name}{SUFFIX}"
    others, mine = list[str](), False
    digests = dict[bytes, bytes]()
    for key, algorithm, content in _signatures(path, name):
        if key != public_key.encoded:
            others.append(_fingerprint(key))
            continue
        mine = True
        if algorithm not in digests:
            # Once, because a file may hold two hundred forged signatures.
            digests[algorithm] = _digest(model, algorithm.decode())
        message = _MAGIC + _strings(NAMESPACE, b"", algorithm, digests[algorithm])
        try:
            public_key.key.verify(content, message)
        except InvalidSignature:
            continue
        _check_companion(model, name)
        return public_key.fingerprint
    if mine:
        raise BadSignature(
            f"the signature {path!r} is not a signature of {name!r}: one of the two was changed. Copy both files again."
        )
    raise BadSignature(
        f"{name!r} is signed with the key {' and '.join(others)}, but {public_key.path!r} is the key "
        f"{public_key.fingerprint}. Use a file that was signed with the right key: `zoo export RUN --sign KEY`."
    )


def _check_companion(model: str, name: str) -> None:
    """Check that a signature also covers the second file of an exported file, by the digest in the first one.

    Raises:
        BadSignature: If the digest is missing, or is that of another file.
    """
    from ._engine import companion_of

    if companion_of(model) is None:
        return
    from ._ir import MOST_XML, WEIGHTS_DIGEST, read_xml
    from ._second import weights_of
    from ._structure import BrokenStructure, UnsafeStructure

    second = weights_of(model)
    try:
        with open(model, "rb") as stream:
            stated = read_xml(stream.read(MOST_XML)).metadata.get(WEIGHTS_DIGEST, "")
    except (OSError, BrokenStructure, UnsafeStructure) as error:
        raise BadSignature(f"{name!r} is signed, but cannot be read: {error}. Copy both files again.") from None
    if stated.strip('"') != _digest(second, "sha256").hex():
        raise BadSignature(
            f"the signature covers {name!r}, but {second!r} is another file than the one that belongs to it. Copy both "
            "files again."
        )


def _signatures(path: str, model: str) -> list[tuple[bytes, bytes, bytes]]:
    """Read a file of signatures.

    Returns:
        For each signature: the public key in the form of OpenSSH, the name of the hash, and the signature (64 bytes).
    """
    try:
        # Nobody may ever write to a pipe, and then the program would wait forever.
        if stat.S_ISFIFO(os.stat(path).st_mode):
            raise BadSignature(f"the signature {path!r} is a pipe, not a file. Copy the file of the signature.")
        with open(path, "rb") as stream:
            text = stream.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise BadSignature(
            f"{model!r} has no signature: there is no file {path!r}. "
            "`zoo export RUN --sign KEY` makes one on the PC; copy it too."
        ) from None
    except (OSError, ValueError) as error:
        raise BadSignature(f"{path!r} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    found = []
    for armor in _ARMOR.findall(text) if len(text) <= MOST_BYTES else ():
        try:
            blob = base64.b64decode(b"".join(armor.split()), validate=True)
            if not blob.startswith(_MAGIC + _VERSION):
                raise ValueError
            key, namespace, _, algorithm, wrapped = _split(blob[len(_MAGIC + _VERSION) :], 5)
            kind, content = _split(wrapped, 2)
        except (ValueError, binascii.Error):
            raise BadSignature(f"the signature {path!r} is damaged. Copy it again.") from None
        if namespace != NAMESPACE:
            raise BadSignature(
                f"the signature {path!r} is for {namespace.decode('utf-8', 'replace')!r:.60}, not for models of zoo. "
                f"Sign with `zoo export RUN --sign KEY` or `ssh-keygen -Y sign -n {NAMESPACE.decode()}`."
            )
        if kind != _KIND or algorithm not in _HASHES:
            other = kind.decode("utf-8", "replace")
            raise BadSignature(
                f"the signature {path!r} is of the kind {other!r:.60}, but Ed25519 is needed; {_NEW_KEY}."
            )
        found.append((key, algorithm, content))
    if not found:
        raise BadSignature(f"{path!r} is not a signature, or it is damaged. Copy it again.")
    return found


# Keys


def load_public_key(path: str) -> PublicKey:
    """Read a public key.

    Raises:
        BadSignature: If it cannot be read, or has another algorithm. Or `cryptography` is not installed.
    """
    serialization, ed25519 = _cryptography()
    content = _read_key(path, _PUBLIC_KEY)
    if b"PRIVATE KEY" in content:
        raise BadSignature(
            f"{path!r} is a private key, which must not leave your own machine. Give the public key; {_PUBLIC_KEY}."
        )
    try:
        if content.lstrip().startswith(b"-----BEGIN"):
            key = serialization.load_pem_public_key(content)
        else:
            key = serialization.load_ssh_public_key(content)
    except Exception:
        # `cryptography` raises errors of several kinds.
        raise BadSignature(f"{path!r} is not a public key in PEM or OpenSSH form; {_PUBLIC_KEY}.") from None
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise BadSignature(f"{path!r} is {_kind_of(key)}, but Ed25519 is needed; {_NEW_KEY}, and {_PUBLIC_KEY}.")
    return PublicKey(path, key)


def _private_key(path: str, passphrase: Callable[[], str] | None) -> Ed25519PrivateKey:
    serialization, ed25519 = _cryptography()
    content = _read_key(path, _NEW_KEY)
    openssh = b"BEGIN OPENSSH PRIVATE KEY" in content
    load = serialization.load_ssh_private_key if openssh else serialization.load_pem_private_key
    if b"PRIVATE KEY" not in content:
        kind = "a public key" if b"PUBLIC KEY" in content or content.startswith(b"ssh-") else "no key in PEM form"
        raise BadSignature(f"{path!r} is {kind}, but a private key is needed to sign; {_NEW_KEY}.")
    encrypted = False
    # `cryptography` raises errors of several kinds.
    try:
        key = load(content, None)
    except Exception as error:
        encrypted = isinstance(error, TypeError) or (isinstance(error, ValueError) and "encrypted" in str(error))
        if not encrypted:
            raise BadSignature(
                f"the private key {path!r} is damaged, or in a form that cannot be read; {_NEW_KEY}."
            ) from None
    if encrypted:
        if passphrase is None:
            raise BadSignature(f"the key {path!r} is encrypted, and no passphrase was given.")
        # What this raises, such as that the user ended the input, does not concern the key.
        password = passphrase().encode()
        try:
            key = load(content, password)
        except Exception:
            raise BadSignature(f"the passphrase does not open the key {path!r}. Give the right one.") from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise BadSignature(f"{path!r} is {_kind_of(key)}, but Ed25519 is needed; {_NEW_KEY}.")
    private: Ed25519PrivateKey = key
    return private


def _cryptography() -> tuple[Any, Any]:
    """Import the modules of `cryptography` that read keys."""
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        problem = "signatures need the package cryptography, which is not installed."
        raise BadSignature(f"{problem} {install_line('sign')}") from None
    return serialization, ed25519


def _read_key(path: str, remedy: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read(MOST_BYTES)
    except (OSError, ValueError) as error:
        raise BadSignature(
            f"the key {path!r} cannot be read: {getattr(error, 'strerror', None) or error}. {remedy}."
        ) from None


def _kind_of(key: object) -> str:
    name = type(key).__name__.lstrip("_").removesuffix("PublicKey").removesuffix("PrivateKey")
    return f"an {name} key" if name[:1] in "AEIORSX" else f"a {name} key"


def _encoded(key: Ed25519PublicKey) -> bytes:
    """Return a public key in the form of OpenSSH."""
    return _strings(_KIND, key.public_bytes_raw())


def _fingerprint(encoded: bytes) -> str:
    return "SHA256:" + base64.b64encode(hashlib.sha256(encoded).digest()).decode().rstrip("=")


def _digest(path: str, algorithm: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, algorithm).digest()
    except (OSError, ValueError) as error:
        raise ModelNotFound(f"{path!r} cannot be read: {getattr(error, 'strerror', None) or error}.") from None


def _strings(*parts: bytes) -> bytes:
    """Return byte strings one after the other, each behind its length in 4 bytes."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _split(data: bytes, count: int) -> list[bytes]:
    """Return the byte strings that `_strings` put together.

    Raises:
        ValueError: If there are fewer or more than `count`.
    """
    parts = []
    for _ in range(count):
        length = int.from_bytes(data[:4], "big")
        if len(data) < 4 + length:
            raise ValueError("cut off")
        parts.append(data[4 : 4 + length])
        data = data[4 + length :]
    if data:
        raise ValueError("too long")
    return parts
