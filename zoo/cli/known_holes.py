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
        "keras", "CVE-2025-1550", "3.9.0", "a .keras file can run code, even in the safe mode", _NVD + "CVE-2025-1550"
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
        *("keras", "CVE-2026-0897", "3.13.1", "a .keras file can fill the memory"),
        source=_NVD + "CVE-2026-0897",
        since="3.0.0",
    ),
    Hole(
        *("keras", "CVE-2026-1669", "3.13.2", "a .keras file can read other files of yours"),
        source=_NVD + "CVE-2026-1669",
        since="3.0.0",
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
        *("keras", "CVE-2026-12480", "3.14.1", "a .keras or .h5 file can read other HDF5 files of yours"),
        source=_NVD + "CVE-2026-12480",
        also_fixed="3.12.2",
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
        *("pillow", "PYSEC-2026-2251", "12.2.0", "nested coordinates can write past a buffer"),
        source="https://osv.dev/vulnerability/PYSEC-2026-2251",
        since="11.2.1",
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
