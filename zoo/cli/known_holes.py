"""Known security holes of the packages that zoo is built on, by the versions that close them.

The table is part of zoo: `zoo doctor` asks no server. It has what matters to zoo, that is reading pictures, weights,
networks and exported files, and not every hole of each package. The address beside an entry has its record. numpy and
h5py have no entries: h5py brings a copy of HDF5, whose holes have no numbers that versions of h5py could be compared
with.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass

KNOWN_ON = "2026-11"
"""The month in which the table was last changed."""
_NVD = "https://nvd.nist.gov/vuln/detail/"
_GITHUB = "https://github.com/advisories/"
_PILLOW = "https://pillow.readthedocs.io/en/stable/releasenotes/"
_PILLOW_ADVISORIES = "https://github.com/python-pillow/Pillow/security/advisories/"


@dataclass(frozen=True)
class Hole:
    """A known hole of a package.

    Args:
        package: The name of the distribution.
        id: The number of the hole (CVE or GHSA).
        fixed: The first version without it.
        text: What it lets others do, in a few words.
        source: An address that says so.
        since: The first version that has it; empty if all older ones do.
        also_fixed: A version of an older series that closes it too.
    """

    package: str
    id: str
    fixed: str
    text: str
    source: str
    since: str = ""
    also_fixed: str = ""

    def affects(self, version: str) -> bool:
        """Return whether a version of the package has the hole."""
        installed = _release(version)
        if not installed or installed >= _release(self.fixed) or (self.since and installed < _release(self.since)):
            return False
        also = _release(self.also_fixed)
        return not (also and installed[:2] == also[:2] and installed >= also)


def _release(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, filled up to four. A preview such as 3.14.0rc1 comes before 3.14.0."""
    match = re.match(r"(?:\d+!)?(\d+(?:\.\d+)*)(?:(?:[-_.]?)(a|b|c|rc|alpha|beta|pre|preview|dev))?", version.strip())
    if not match:
        return ()
    numbers = [int(part) for part in match[1].split(".")][:3]
    return (*numbers, *[0] * (3 - len(numbers)), -1 if match[2] else 0)


HOLES = (
    Hole(
        *("keras", "CVE-2025-1550", "3.9.0", "a .keras file can run code, even in the safe mode"),
        source=_GITHUB + "GHSA-48g7-3x6r-xfhp",
        since="3.0.0",
    ),
    Hole(
        *("keras", "CVE-2025-9906", "3.11.0", "a .keras file can run code, even in the safe mode"),
        source=_GITHUB + "GHSA-36fq-jgmw-4r9c",
    ),
    Hole(
        *("keras", "CVE-2025-8747", "3.11.0", "a .keras file can run code, even in the safe mode"),
        source=_GITHUB + "GHSA-c9rc-mg46-23w3",
        since="3.0.0",
    ),
    Hole(
        *("keras", "CVE-2025-49655", "3.11.3", "a .keras file can run code, even in the safe mode"),
        source=_NVD + "CVE-2025-49655",
        since="3.11.0",
    ),
    Hole(
        *("keras", "CVE-2026-0897", "3.13.2", "a .keras file can fill the memory"),
        source=_GITHUB + "GHSA-mgx6-5cf9-rr43",
        since="3.0.0",
        also_fixed="3.12.1",
    ),
    Hole(
        *("keras", "CVE-2026-1669", "3.13.2", "a .keras file can read other files of yours"),
        source=_GITHUB + "GHSA-3m4q-jmj6-r34q",
        since="3.0.0",
        also_fixed="3.12.1",
    ),
    Hole(
        *("keras", "CVE-2026-1462", "3.13.2", "a .keras file can run code, even in the safe mode"),
        source=_GITHUB + "GHSA-4f3f-g24h-fr8m",
    ),
    Hole(
        *("keras", "GHSA-hqp4-2352-xf5r", "3.14.0", "an archive that Keras unpacks can write into other folders"),
        source=_GITHUB + "GHSA-hqp4-2352-xf5r",
    ),
    Hole(
        *("keras", "CVE-2026-12480", "3.15.0", "a .keras or .h5 file can read other HDF5 files of yours"),
        source=_GITHUB + "GHSA-26c4-7vv6-867j",
        also_fixed="3.12.3",
    ),
    Hole(
        *("keras", "CVE-2026-9335", "3.15.0", "a weights file can read other HDF5 files of yours through links"),
        source=_GITHUB + "GHSA-m8wh-29wm-52mv",
        also_fixed="3.12.3",
    ),
    Hole(
        *("keras", "CVE-2026-12481", "3.15.0", "a .keras file can run code, even in the safe mode"),
        source=_GITHUB + "GHSA-5gwj-m78q-7pq3",
        also_fixed="3.12.3",
    ),
    Hole(
        *("onnx", "CVE-2025-51480", "1.21.0", "saving a network can overwrite other files"),
        source="https://github.com/onnx/onnx/pull/7040",
    ),
    Hole(
        *("onnx", "CVE-2026-27489", "1.21.0", "a network can read other files of yours through links"),
        source=_GITHUB + "GHSA-3r9x-f23j-gc73",
    ),
    Hole(
        *("onnx", "CVE-2026-34445", "1.21.0", "a network can overwrite attributes of Python objects"),
        source=_GITHUB + "GHSA-538c-55jv-c5g9",
    ),
    Hole(
        *("onnx", "CVE-2026-34446", "1.21.0", "a network can read other files of yours through hard links"),
        source=_GITHUB + "GHSA-cmw6-hcpp-c6jp",
    ),
    Hole(
        *("onnx", "CVE-2026-34447", "1.21.0", "a network can read other files of yours through links"),
        source=_GITHUB + "GHSA-p433-9wv8-28xj",
    ),
    Hole(
        *("onnx", "CVE-2026-44512", "1.22.0", "converting a network to another opset can end the process"),
        source=_GITHUB + "GHSA-hwpq-hmq9-wj77",
        since="1.9.0",
    ),
    Hole(
        *("onnx", "CVE-2026-63632", "1.22.0", "converting a network to another opset can read past a buffer"),
        source=_GITHUB + "GHSA-p893-rvq9-2xf9",
    ),
    Hole(
        *("onnxruntime", "CVE-2022-1941", "1.13.1", "a network can fill the memory"),
        source="https://github.com/microsoft/onnxruntime/releases/tag/v1.13.1",
    ),
    Hole("pillow", "CVE-2023-4863", "10.0.1", "a WebP picture can run code", _NVD + "CVE-2023-4863"),
    Hole(
        *("pillow", "CVE-2023-50447", "10.2.0", "ImageMath can run code"),
        source=_NVD + "CVE-2023-50447",
    ),
    Hole(
        *("pillow", "CVE-2024-28219", "10.3.0", "color profiles can write past a buffer"),
        source=_NVD + "CVE-2024-28219",
    ),
    Hole(
        *("pillow", "CVE-2025-48379", "11.3.0", "saving a DDS picture can write past a buffer"),
        source=_NVD + "CVE-2025-48379",
        since="11.2.0",
    ),
    Hole(
        *("pillow", "CVE-2026-25990", "12.1.1", "a PSD picture can write past a buffer"),
        source=_NVD + "CVE-2026-25990",
        since="10.3.0",
    ),
    Hole(
        *("pillow", "CVE-2026-42309", "12.2.0", "nested coordinates can write past a buffer"),
        source=_PILLOW + "12.2.0.html",
        since="11.2.1",
    ),
    Hole(
        *("pillow", "CVE-2026-42311", "12.2.0", "a PSD picture can write past a buffer"),
        source=_PILLOW + "12.2.0.html",
        since="10.3.0",
    ),
    Hole(
        *("pillow", "CVE-2026-59199", "12.3.0", "pasting and cropping can write past a buffer"),
        source=_NVD + "CVE-2026-59199",
    ),
    Hole(
        *("pillow", "CVE-2026-59205", "12.3.0", "color profiles can write past a buffer"),
        source=_NVD + "CVE-2026-59205",
    ),
    Hole(
        *("pillow", "CVE-2026-59204", "12.3.0", "a JPEG 2000 picture can fill the memory"),
        source=_NVD + "CVE-2026-59204",
    ),
    Hole(
        *("pillow", "CVE-2026-96639", "13.0.0", "a picture of several frames can write past a buffer"),
        source=_PILLOW + "13.0.0.html",
    ),
    Hole(
        *("pillow", "CVE-2026-112403", "13.0.0", "a JPEG picture can write past a buffer"),
        source=_PILLOW_ADVISORIES + "GHSA-8g5g-8vmr-9782",
    ),
    Hole(
        *("pillow", "CVE-2026-112395", "13.0.0", "a TIFF picture can read past a buffer"),
        source=_PILLOW_ADVISORIES + "GHSA-462x-pgg6-55fp",
    ),
    Hole(
        *("tensorflow", "CVE-2024-7264", "2.18.1", "its copy of curl can read past a buffer"),
        source="https://github.com/tensorflow/tensorflow/releases/tag/v2.18.1",
    ),
)


def found(versions: dict[str, str] | None = None) -> list[tuple[str, str, list[Hole]]]:
    """Return the packages with known holes: name, installed version, and the holes of this version.

    Args:
        versions: Maps the names of packages to their versions. None means what is installed.
    """
    names = list(dict.fromkeys(hole.package for hole in HOLES))
    if versions is None:
        from importlib import metadata

        versions = {}
        for name in names:
            with contextlib.suppress(metadata.PackageNotFoundError):
                versions[name] = metadata.version(name)
    listed = [
        (name, versions[name], [hole for hole in HOLES if hole.package == name]) for name in names if name in versions
    ]
    affected = [(name, version, [hole for hole in holes if hole.affects(version)]) for name, version, holes in listed]
    return [(name, version, holes) for name, version, holes in affected if holes]


def text(package: str, version: str, holes: list[Hole]) -> str:
    """Describe the holes of a package in one string, with the command that closes them."""
    newest = max((hole.fixed for hole in holes), key=_release)
    lines = [f"  {hole.id}: {hole.text} (fixed in {hole.fixed}; {hole.source})" for hole in holes]
    count = "a known hole" if len(holes) == 1 else f"{len(holes)} known holes"
    return "\n".join(
        [
            f"{package} {version} has {count} (known on {KNOWN_ON}). `pip install '{package}>={newest}'` closes them:",
            *lines,
        ]
    )
