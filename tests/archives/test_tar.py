"""Test the reader of tar files against `tarfile`, and against archives that mean harm."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import shutil
import subprocess
import tarfile

import numpy as np
import pytest

from zoo.archives import tar
from zoo.errors import DamagedArchive


class Everything(tar.Wanted):
    pass


class Pictures(tar.Wanted):
    def __call__(self, name):
        return name.endswith(".jpg")


def archive(*entries, form=tarfile.GNU_FORMAT) -> bytes:
    """Return a tar file of entries (name, content or None, changes of the header)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as stream:
        for name, content, changes in entries:
            member = tarfile.TarInfo(name)
            member.size = len(content or b"")
            for key, value in changes.items():
                setattr(member, key, value)
            stream.addfile(member, io.BytesIO(content) if content is not None else None)
    return out.getvalue()


def read(content: bytes, wanted: tar.Wanted | None = None) -> list[tar.Member]:
    return list(tar.members(io.BytesIO(content), wanted or Everything()))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("packed", [False, True])
def test_it_reads_what_tarfile_reads(form, packed):
    rng = np.random.default_rng(0)
    sizes = [0, 1, 511, 512, 513, 3_000_000, *rng.integers(0, 5000, 20)]
    long = "" if form == tarfile.USTAR_FORMAT else "x" * 150 + "/é"
    files = [(f"{long}{number}.jpg", rng.bytes(int(size)), {}) for number, size in enumerate(sizes)]
    folder = ("folder", None, {"type": tarfile.DIRTYPE})
    content = archive(folder, *files, form=form)
    found = read(gzip.compress(content, 1) if packed else content)
    assert [(each.name, each.content) for each in found] == [(name, data) for name, data, _ in files]


def test_names_and_kinds_that_would_do_harm_are_only_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = read(
        archive(
            ("../../up.jpg", b"1", {}),
            ("/absolute.jpg", b"2", {}),
            ("device.jpg", None, {"type": tarfile.BLKTYPE}),
            ("pipe.jpg", None, {"type": tarfile.FIFOTYPE}),
            ("soft.jpg", None, {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}),
            ("hard.jpg", None, {"type": tarfile.LNKTYPE, "linkname": "../../up.jpg"}),
            ("twice.jpg", b"3", {}),
            ("twice.jpg", b"4", {}),
        )
    )
    assert [(each.name, each.content) for each in found] == [
        ("../../up.jpg", b"1"),
        ("/absolute.jpg", b"2"),
        ("soft.jpg", None),
        ("hard.jpg", None),
        ("twice.jpg", b"3"),
        ("twice.jpg", b"4"),
    ]
    assert "is a link" in found[2].problem and "is a link" in found[3].problem
    assert list(tmp_path.iterdir()) == []


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header("a.jpg", 2**62) + b"x" * 1024, "cut off"),
        (header("a.jpg", 500 * 2**20) + b"x" * 1024, "in the middle of 'a.jpg'"),
        (header("x", 2**40, tarfile.GNUTYPE_LONGNAME), "announces 1,099,511,627,776 bytes"),
        (header("x", 2**33, tarfile.XHDTYPE), "announces 8,589,934,592 bytes"),
        (header("x", 20, tarfile.XHDTYPE) + b"99999 path=a\n".ljust(512, b"\0"), "pax header is damaged"),
        (header("x", 20, tarfile.XHDTYPE) + b"15 size=-99999\n".ljust(512, b"\0") + header("a", 0), "size '-99999'"),
        (header("a.jpg", 10, tarfile.GNUTYPE_SPARSE), "in the middle of a file"),
        (header("a.jpg", 10, tarfile.GNUTYPE_SPARSE)[:482] + b"\1".ljust(30, b"\0"), "a header is damaged"),
        (bz2.compress(b"x" * 9000), "packed by bzip2"),
        (lzma.compress(b"x" * 9000), "packed by xz"),
        (b"\x28\xb5\x2f\xfd" + b"x" * 600, "packed by zstd"),
        (b"PK\x03\x04" + b"x" * 600, "packed by zip"),
        (b"x" * 512, "a header is damaged"),
        (b"x" * 100, "in the middle of a header"),
        (b"", "its end is missing"),
        (header("a.jpg", 0), "its end is missing"),
        (gzip.compress(header("a.jpg", 0) * 50)[:-20], "compressed content is cut off"),
        (b"\x1f\x8b" + b"x" * 100, "compressed content is cut off or damaged"),
    ],
)
def test_damaged_archives_end_with_an_error(content, message):
    with pytest.raises(DamagedArchive, match=message):
        read(content)


def test_sparse_files_do_not_hide_the_files_after_them(tmp_path):
    """GNU tar writes their maps in two ways. A map with many holes goes on in blocks after the header."""
    if shutil.which("tar") is None or b"GNU" not in subprocess.run(["tar", "--version"], capture_output=True).stdout:
        pytest.skip("GNU tar is not installed")
    with (tmp_path / "holes.jpg").open("wb") as stream:
        for place in range(0, 1 << 20, 1 << 15):
            stream.seek(place)
            stream.write(b"x" * 4096)
        stream.truncate(1 << 21)
    (tmp_path / "z.jpg").write_bytes(b"whole")
    for form in ("gnu", "posix"):
        command = ["tar", "-S", "-c", f"--format={form}", "-f", tmp_path / "a.tar", "holes.jpg", "z.jpg"]
        subprocess.run(command, cwd=tmp_path, check=True)
        holes, whole = read((tmp_path / "a.tar").read_bytes())
        assert (holes.name, holes.content, holes.problem) == ("holes.jpg", None, "is stored as a sparse file.")
        assert (whole.name, whole.content) == ("z.jpg", b"whole")


def test_a_stream_may_give_a_byte_at_a_time():
    """Streams of servers return what has arrived."""

    class Slow(io.BytesIO):
        def read(self, size=-1):
            return super().read(min(size, 1))

    content = archive(("a.jpg", b"x" * 700, {}), ("b.jpg", b"y", {}))
    for packed in (content, gzip.compress(content[:1024]) + gzip.compress(content[1024:])):
        found = list(tar.members(Slow(packed), Everything()))
        assert [(each.name, each.content) for each in found] == [("a.jpg", b"x" * 700), ("b.jpg", b"y")]


def test_a_name_that_begins_as_another_kind_of_file_is_none():
    assert read(archive(("BZh9.jpg", b"1", {})))[0].content == b"1"


def test_a_file_that_is_too_large_is_not_read_into_memory(monkeypatch):
    monkeypatch.setattr(tar, "LARGEST", 1000)
    large, small = read(archive(("a.jpg", b"x" * 1001, {}), ("b.jpg", b"x" * 1000, {})))
    assert large.content is None and "has 1,001 bytes" in large.problem
    assert small.content == b"x" * 1000


def test_a_compressed_archive_cannot_grow_without_end(monkeypatch):
    monkeypatch.setattr(tar, "_FREE", 2**20)
    content = gzip.compress(archive(("zeros.bin", bytes(20 * 2**20), {}), ("a.jpg", b"x", {})))
    with pytest.raises(DamagedArchive, match="grows to more than 100 times its size"):
        read(content, Pictures())


def test_every_truncation_and_random_damage_is_an_error_or_the_same_prefix():
    rng = np.random.default_rng(0)
    files = [(f"{number}.jpg", rng.bytes(700), {}) for number in range(5)]
    content = archive(*files)
    whole = [(name, data) for name, data, _ in files]
    for end in range(0, len(content), 97):
        found = []
        try:
            for member in tar.members(io.BytesIO(content[:end]), Pictures()):
                found.append((member.name, member.content))
        except DamagedArchive:
            pass
        else:
            # The padding after the end mark may be missing.
            assert len(found) == 5
        assert found == whole[: len(found)]
    for _ in range(300):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), 3):
            damaged[place] = rng.integers(256)
        with contextlib.suppress(DamagedArchive):
            assert len(read(bytes(damaged))) <= 5
