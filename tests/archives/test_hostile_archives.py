"""Test `zoo predict --out` on odd folders, on archives that change or fail while they are read, and after faults.

The faults are a killed process, a full disk, and a hand that has changed the folder of answers.
"""

from __future__ import annotations

import http.server
import inspect
import json
import os
import shutil
import sys
import tarfile
import threading
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")
import pyarrow as pa
import pyarrow.parquet as pq

from zoo.archives import parts
from zoo.archives.ledger import Job, Ledger
from zoo.archives.parts import Piece, pieces
from zoo.archives.scoring import Scorer
from zoo.archives.sources import Shard, shards_of
from zoo.archives.stores import Disk, store_of
from zoo.errors import WriteError
from zoo.workflow import score_archive as workflow
from zoo_runtime import __version__


@pytest.fixture
def pictures(folder) -> list[Path]:
    return sorted((folder / "000").iterdir())


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(workflow, "PAUSES", (0.0, 0.0))


def test_odd_entries_of_a_folder_do_not_end_the_work(zoo, model, folder, tmp_path, answers):
    for name, target in {"loop.jpg": "loop.jpg", "up": "..", "zeros.jpg": "/dev/zero"}.items():
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "pipe.jpg")
    ran = zoo("predict", model, folder, "--out", tmp_path / "out")
    assert "Scored     28 pictures" in ran.out, ran.err
    assert "symbolic links" in answers(tmp_path / "out")[f"{folder}/loop.jpg"]["message"]


def test_folders_may_be_deeper_than_python_can_recurse(tmp_path):
    before, limit, depth = os.getcwd(), sys.getrecursionlimit(), 300
    try:
        sys.setrecursionlimit(len(inspect.stack(0)) + 250)
        os.chdir(tmp_path)
        for _ in range(depth):
            os.mkdir("a")
            os.chdir("a")
        Path("x.jpg").write_bytes(b"x")
        (shard,) = shards_of([str(tmp_path)])
        assert shard.paths[0].count("/a") >= depth
    finally:
        sys.setrecursionlimit(limit)
        # rmtree is recursive too.
        os.chdir(tmp_path)
        for _ in range(depth):
            os.chdir("a")
        Path("x.jpg").unlink(missing_ok=True)
        for _ in range(depth):
            os.chdir("..")
            os.rmdir("a")
        os.chdir(before)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("pipe.jpg", "is neither a file nor a folder"),
        ("done", "is a folder of answers"),
        ("*.zip", "is an archive of a kind that zoo does not read"),
        ("simplecache::http://me:secret@host/x", "does not take addresses in addresses"),
        ("http://host/a.tar?X-Amz-Signature=secret", "holds a question mark and what may be a key"),
        ("https://secret@host/a.tar", "holds the name of a user or a token"),
    ],
)
def test_sources_that_cannot_be_scored_twice_or_would_tell_a_secret(zoo, model, tmp_path, monkeypatch, source, message):
    pytest.importorskip("fsspec")
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.jpg")
    Path("a.zip").write_bytes(b"PK")
    Path("done").mkdir()
    Path("done/_job.json").write_text("{}")
    ran = zoo("predict", model, source, "--out", "out")
    assert ran.code == 2 and message in ran.err and "secret" not in ran.err


def in_tar(path: Path, names: dict[str, bytes]) -> Path:
    import io

    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in names.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_archives_without_pictures_and_several_damaged_ones_are_told(zoo, model, pictures, tmp_path, answers):
    source = tmp_path / "archives"
    source.mkdir()
    picture = pictures[0].read_bytes()
    inner = in_tar(source / "a.tar", {os.fsdecode(b"caf\xe9.jpg"): picture, "caf\\udce9.jpg": picture})
    in_tar(source / "tars.tar", {"inner.tar": inner.read_bytes()})
    for name in ("x.tar", "y.tar", "z.tar"):
        (source / name).write_bytes(b"x" * 600)
    ran = zoo("predict", model, source, "--out", tmp_path / "out")
    assert ran.code == 1 and "Empty      1 archive without a picture" in ran.out
    assert "header is damaged" in ran.err and "2 more archives are damaged" in ran.err
    # Names whose bytes differ may look the same.
    assert f"{inner}/caf\\udce9.jpg#2" in answers(tmp_path / "out")


def test_categories_and_columns_of_the_same_name(zoo, model, pictures, tmp_path, answers):
    content = pa.array([path.read_bytes() for path in pictures], pa.binary())
    pq.write_table(pa.table({"image": content.dictionary_encode()}), tmp_path / "a.parquet")
    assert zoo("predict", model, tmp_path / "a.parquet", "--out", tmp_path / "out").code == 0
    assert len(answers(tmp_path / "out")) == 24
    pq.write_table(pa.Table.from_arrays([content, content], names=["image", "image"]), tmp_path / "b.parquet")
    ran = zoo("predict", model, tmp_path / "b.parquet", "--out", tmp_path / "out2")
    assert ran.code == 1 and "has several columns called 'image'" in ran.err


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_an_error_of_the_disk_is_no_damage(zoo, model, pictures, tmp_path, answers, monkeypatch, kind):
    """A timeout has no number, as have the errors of pyarrow for damaged pages. The first try fails, and the second."""
    path = tmp_path / f"a.{kind}"
    if kind == "tar":
        in_tar(path, {each.name: each.read_bytes() for each in pictures})
    else:
        content = [each.read_bytes() for each in pictures]
        pq.write_table(pa.table({"image": content}), path, row_group_size=4, use_dictionary=False)
    opened = []

    class Failing:
        def __init__(self, stream):
            self.stream, self.left = stream, 6

        def read(self, size=-1):
            self.left -= len(opened) < 3
            if self.left < 0:
                raise TimeoutError("the server does not answer")
            return self.stream.read(size)

        def __getattr__(self, name):
            return getattr(self.stream, name)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.stream.close()

    def failing(self, path):
        opened.append(path)
        return Failing(open(path, "rb"))

    monkeypatch.setattr(Disk, "open", failing)
    monkeypatch.setattr(Disk, "open_anywhere", failing)
    ran = zoo("predict", model, path, "--out", tmp_path / "out")
    assert ran.code == 0 and len(opened) == 3, ran.err
    assert "TimeoutError: the server does not answer" in ran.out + ran.err
    assert len(answers(tmp_path / "out")) == 24


def test_an_archive_that_is_still_written_is_not_damaged(model, pictures, tmp_path, monkeypatch):
    path = in_tar(tmp_path / "a.tar", {each.name: each.read_bytes() for each in pictures})
    whole = path.read_bytes()
    path.write_bytes(whole[:9000])
    (shard,) = shards_of([str(path)])
    monkeypatch.setattr(Scorer, "rows", _then(Scorer.rows, lambda: path.write_bytes(whole)))
    (piece,) = pieces(Scorer(model), shard)
    assert "was changed while it was read" in piece.problem and piece.again


def _then(method, action):
    def both(*arguments):
        result = method(*arguments)
        action()
        return result

    return both


def test_a_disk_that_is_lost_gives_no_final_errors(model, pictures, folder, monkeypatch):
    (shard,) = shards_of([str(folder / "000")])
    gone = folder / "gone"
    monkeypatch.setattr(Scorer, "rows", _then(Scorer.rows, lambda: (folder / "000").rename(gone)))
    (piece,) = pieces(Scorer(model), shard)
    assert "24 of 24 pictures are gone since the folder was listed" in piece.problem
    gone.rename(folder / "000")


def test_what_a_killed_process_leaves_is_removed(zoo, model, folder, tmp_path, answers):
    out = tmp_path / "out"
    (out / "_done").mkdir(parents=True)
    (out / "_lock").touch()
    for name in (".0123abcd-_job.json", "_done/.0123abcd-x.json"):
        (out / name).write_text("{")
    zoo("predict", model, folder, "--out", out, "--slice", 8)
    whole = answers(out)
    # A part without a marker, whose shard does not come again; one that lost its end; one that was lost.
    first, second, *_ = sorted(out.glob("part-*.parquet"))
    shutil.copy(first, out / "part-00ff00ff00ff00ff.parquet")
    second.write_bytes(second.read_bytes()[:-9])
    ran = zoo("predict", model, folder, "--out", out, "--slice", 8)
    assert "27 pictures in 4 parts" in ran.out and "0 of them now" not in ran.out and "of them now" in ran.out
    assert answers(out) == whole and len(list(out.glob("part-*"))) == 4
    assert not list(out.rglob(".*"))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"fingerprint": "x", "figures": {"odd": 1}, "bytes": 1}'])
def test_a_broken_marker_is_told(zoo, model, folder, tmp_path, text):
    zoo("predict", model, folder, "--out", tmp_path / "out")
    (marker,) = (tmp_path / "out" / "_done").iterdir()
    marker.write_text(text)
    ran = zoo("predict", model, folder, "--out", tmp_path / "out")
    assert ran.code == 2 and f"the marker {str(marker)!r} cannot be read" in ran.err and "Remove it" in ran.err


def test_a_full_disk_is_told_once_and_leaves_nothing(tmp_path):
    """A file cannot grow here. Closing it fails again, as on a full disk."""
    resource = pytest.importorskip("resource")
    ledger, shard = Ledger(tmp_path / "out"), Shard("tar", "a.tar", "a.tar", "f")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    job = Job("m", ("a",), (), {})
    try:
        with pytest.raises(WriteError, match="Free some space, and give the command again"), ledger.held(job):
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
            ledger.receive(Piece(shard.id, "1", 0, 5000, bytes(5000), "{}"), shard)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list((tmp_path / "out").glob(".*"))
    with ledger.held(job):
        assert not ledger.finished


def test_row_groups_are_large_and_files_say_who_wrote_them(zoo, model, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "CHUNK", 4)
    zoo("predict", model, folder, "--out", tmp_path / "out")
    monkeypatch.setattr(parts, "GROUP", 8)
    zoo("predict", model, folder, "--out", tmp_path / "out2")
    files = [pq.ParquetFile(next((tmp_path / name).glob("part-*"))) for name in ("out", "out2")]
    sizes = [[each.metadata.row_group(n).num_rows for n in range(each.num_row_groups)] for each in files]
    assert sizes == [[27], [8, 8, 8, 3]]
    about = files[0].schema_arrow.metadata
    job = json.loads((tmp_path / "out" / "_job.json").read_text())
    assert about[b"zoo.model"].decode() == job["model"] == Scorer(model).digest
    assert about[b"zoo.version"].decode() == __version__


class Server(http.server.SimpleHTTPRequestHandler):
    """Sends files in small pieces without a length, or breaks off in the middle of them."""

    folder, breaks = Path(), False

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path == "/":
            return super().do_GET()
        content = (self.folder / self.path.lstrip("/")).read_bytes()
        self.send_response(200)
        if self.breaks:
            self.send_header("Content-Length", str(len(content)))
            content = content[:100]
        self.end_headers()
        for place in range(0, len(content), 500):
            self.wfile.write(content[place : place + 500])
            self.wfile.flush()
        return None


def test_servers_that_send_pieces_or_break_off(zoo, model, pictures, tmp_path, answers, monkeypatch):
    pytest.importorskip("aiohttp", reason="aiohttp is not installed, through which fsspec reads http://")
    source = tmp_path / "source"
    source.mkdir()
    for path in pictures[:3]:
        shutil.copy(path, source)
    in_tar(source / "a.tar", {each.name: each.read_bytes() for each in pictures})
    pq.write_table(pa.table({"image": [each.read_bytes() for each in pictures]}), source / "a.parquet")
    Server.folder = source
    handler = lambda *given: Server(*given, directory=str(source))  # noqa: E731
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(Server, "breaks", True)
        ran = zoo("predict", model, address, "--out", tmp_path / "out")
        assert ran.code == 1 and "Not done   3 parts" in ran.out and "ClientPayloadError" in ran.err
        assert not list((tmp_path / "out").glob("part-*"))
        monkeypatch.setattr(Server, "breaks", False)
        ran = zoo("predict", model, address, "--out", tmp_path / "out")
        assert ran.code == 0 and "51 pictures in 3 parts" in ran.out, ran.err
        server.shutdown()
    assert len(answers(tmp_path / "out")) == 51
    # Its end is no file that does not exist: the row would be final.
    with pytest.raises(OSError, match="onnect") as caught:
        store_of(address).open(f"{address}/000000.jpg")
    assert not isinstance(caught.value, FileNotFoundError)
