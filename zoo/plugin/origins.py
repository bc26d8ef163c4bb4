"""Describes where a published file comes from: an address, an installed Python package, a model hub, or a folder.

`Weights.url` holds such an origin as text. `zoo.pretrained` looks for the file and downloads it. Importing this module
is quick, and it reads no file and no environment variable.

Sources of the forms of addresses and of the names in caches:
https://huggingface.co/docs/hub/local-cache and https://github.com/Kaggle/kagglehub
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

HUGGING_FACE = "https://huggingface.co"
KAGGLE = "https://www.kaggle.com/api/v1"
PRESET_FILE = "model.weights.h5"
PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
FORMS = (
    "https://... or http://..., package:NAME/PATH, hf:ORG/REPO/FILE@REVISION, "
    "keras-hub:OWNER/MODEL/FRAMEWORK/VARIATION/VERSION, or file:/PATH"
)


@dataclass(frozen=True)
class Origin:
    """The parts of an origin.

    Args:
        kind: "address", "package", "hf", "keras-hub" or "file".
        owner: What holds the file: the package's name, "ORG/REPO", or "OWNER/MODEL/FRAMEWORK/VARIATION". Empty for an
            address and a file.
        path: The path in the owner, with slashes; for an address and a file, the whole of it. For a package and a
            file, the last part may have one or more `*`.
        revision: The revision of a repository on Hugging Face, or the version of a preset; else "".
    """

    kind: str
    owner: str
    path: str
    revision: str = ""

    @property
    def address(self) -> str:
        """The address of the file on the public server; empty if the file cannot be downloaded."""
        if self.kind == "address":
            return self.path
        if self.kind == "hf":
            return f"{HUGGING_FACE}/{self.owner}/resolve/{quote(self.revision, safe='')}/{quote(self.path)}"
        if self.kind == "keras-hub":
            return f"{KAGGLE}/models/{self.owner}/{self.revision}/download/{quote(self.path)}"
        return ""

    @property
    def filename(self) -> str:
        """The name that the file has in a mirror or in zoo's cache; empty if the origin has a `*` in its place.

        Files of hubs are often called `model.safetensors`. Their names here say of which repository they are.
        """
        last = self.path.rpartition("/")[2]
        if self.kind in ("hf", "keras-hub"):
            revision = self.revision.replace("/", "--")[:12]
            return f"{self.owner.replace('/', '--')}--{revision}--{self.path.replace('/', '--')}"
        if self.kind == "address":
            last = re.split(r"[?#]", last)[0]
        return "" if "*" in last else last


def parse(text: str) -> Origin:
    """Split an origin into its parts.

    Args:
        text: The origin, as `zoo.plugin.Weights` describes it.

    Raises:
        ValueError: The text is no origin that zoo knows. The message says what is wrong.
    """
    if text.startswith(("https://", "http://")):
        if not is_address(text):
            raise ValueError(
                "url must be a complete address without spaces, and without a user name or a password: everybody would "
                "see them. ~/.netrc can hold them"
            )
        return Origin("address", "", text)
    scheme, colon, rest = text.partition(":")
    readers = {"package": _package, "hf": _hugging_face, "keras-hub": _keras_hub, "file": _file}
    if not colon or scheme not in readers:
        raise ValueError(f"url must be {FORMS}")
    return readers[scheme](rest)


def is_address(text: str) -> bool:
    """Return whether a text is an address of a server: one line, with a host, and without a user and a password."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        return False
    plain = re.fullmatch(r"[!-~]+", text) is not None and "@" not in parts.netloc
    return plain and parts.scheme in ("https", "http") and bool(host) and port != 0


def _package(rest: str) -> Origin:
    name, _, path = rest.partition("/")
    if not PART.fullmatch(name) or not _inside(path, pattern=True):
        raise ValueError(
            "an origin in a Python package has the form package:NAME/PATH, without '..', and with '*' in the file name "
            "alone"
        )
    return Origin("package", name, path)


def _hugging_face(rest: str) -> Origin:
    path, _, revision = rest.removeprefix("//").rpartition("@")
    org, _, others = path.partition("/")
    repository, _, file = others.partition("/")
    fits = PART.fullmatch(org) and PART.fullmatch(repository) and _inside(file) and _inside(revision)
    if not fits or not re.fullmatch(r"[\w./-]+", revision):
        raise ValueError(
            "an origin on Hugging Face has the form hf:ORG/REPO/FILE@REVISION; the best revision is the digest of a "
            "commit, because it never changes"
        )
    return Origin("hf", f"{org}/{repository}", file, revision)


def _keras_hub(rest: str) -> Origin:
    parts = rest.removeprefix("kaggle://").split("/")
    file = "/".join(parts[5:]) or PRESET_FILE
    named = len(parts) >= 5 and all(PART.fullmatch(part) for part in parts[:4])
    if not named or not parts[4].isascii() or not parts[4].isdecimal() or not _inside(file):
        raise ValueError(
            "a preset of keras-hub has the form keras-hub:OWNER/MODEL/FRAMEWORK/VARIATION/VERSION, as `kaggle_handle` "
            f"in keras-hub's list of presets; a file can follow, and the default is {PRESET_FILE}"
        )
    return Origin("keras-hub", "/".join(parts[:4]), file, parts[4])


def _file(rest: str) -> Origin:
    path = rest[2:] if rest.startswith("///") else rest
    absolute = path.startswith(("/", "~/")) or re.match(r"[A-Za-z]:[\\/]", path)
    if not absolute or "*" in path.replace("\\", "/").rpartition("/")[0] or "\0" in path or path.endswith("/"):
        raise ValueError(
            "an origin in a folder has the form file:/PATH, with an absolute path, and with '*' in the file name alone"
        )
    return Origin("file", "", path.replace("\\", "/"))


def _inside(path: str, *, pattern: bool = False) -> bool:
    """Return whether a relative path stays in its folder, and names a file there."""
    parts = path.split("/")
    if not all(part not in ("", ".", "..") for part in parts) or re.search(r"[\0\\:]", path):
        return False
    return "*" not in (path if not pattern else "/".join(parts[:-1]))
