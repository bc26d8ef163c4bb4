"""Test `zoo predict --out`: the answers, every kind of archive, restarts, and what is refused."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("pyarrow")
import pyarrow as pa
import pyarrow.parquet as pq

from zoo.archives import parts
from zoo.archives.ledger import Job, Ledger
from zoo.archives.parts import CLASSES, pieces
from zoo.archives.scoring import Scorer
from zoo.archives.sources import Shard
from zoo_runtime import Predictor


def same(row: dict, line: dict) -> bool:
    """Whether a row of Parquet and a line of JSON hold the same answer, bit for bit."""
    if "error" in line:
        return (row["error"], row["message"], row["label"]) == (line["error"], line["message"], None)
    probabilities = list(map(float, np.float32(list(line["probabilities"].values()))))
    assert probabilities == list(line["probabilities"].values())
    figures = row["label"], row["confidence"], row["probabilities"], row["error"]
    return figures == (line["label"], line["confidence"], probabilities, None)


def test_a_folder_has_the_answers_of_predict_bit_for_bit(zoo, model, folder, tmp_path, answers, printed):
    ran = zoo("predict", model, folder, "--out", tmp_path / "out", "--slice", 10)
    assert ran.code == 1, ran.err
    assert "Scored     27 pictures in 3 parts, of which 3 could not be read" in ran.out
    assert "Left out   1 .txt" in ran.out and "pictures/s" in ran.out
    rows, lines = answers(tmp_path / "out"), printed(folder)
    assert len(rows) == 27 and rows.keys() == lines.keys()
    assert all(same(rows[path], lines[path]) for path in rows)
    errors = {Path(path).name: row["error"] for path, row in rows.items() if row["error"]}
    assert errors == {"cut.jpg": "CorruptPicture", "empty.png": "NotAPicture", "text.jpg": "NotAPicture"}
    classes = Predictor(model).info.classes
    schema = pq.read_schema(next((tmp_path / "out").glob("part-*.parquet")))
    assert json.loads(schema.metadata[CLASSES.encode()]) == list(classes)
    best = rows[f"{folder}/000/000003.jpg"]
    assert classes[int(np.argmax(best["probabilities"]))] == best["label"]


def in_tar(folder: Path, path: Path, mode: str = "w") -> Path:
    """Write the pictures of a folder into a tar file as WebDataset has them, each with its label beside it."""
    with tarfile.open(path, mode) as archive:
        for picture in sorted(folder.rglob("*.*g")):
            if picture.name.startswith("."):
                continue
            for name, content in ((picture.name, picture.read_bytes()), (f"{picture.stem}.cls", b"1")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


def in_parquet(folder: Path, path: Path) -> Path:
    """Write the pictures of a folder into a Parquet file as the package `datasets` does, and one empty cell."""
    content = [{"bytes": each.read_bytes(), "path": each.name} for each in sorted(folder.rglob("[!.]*.*g"))]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array([*content, None], kind), "label": [0] * (len(content) + 1)})
    pq.write_table(table, path, row_group_size=10)
    return path


def by_content(rows: dict[str, dict]) -> list:
    return sorted((row["label"] or "", row["confidence"] or 0.0, row["probabilities"] or []) for row in rows.values())


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "parquet", "file", "memory"])
def test_every_kind_of_archive_has_the_same_answers(zoo, model, folder, tmp_path, answers, printed, kind):
    expected = [
        (line["label"], line["confidence"], list(line["probabilities"].values())) if "label" in line else ("", 0.0, [])
        for line in printed(folder).values()
    ]
    (tmp_path / "archives").mkdir()
    if kind.startswith("tar"):
        mode = "w:gz" if kind == "tar.gz" else "w"
        source = in_tar(folder, tmp_path / "archives" / f"a.{kind}", mode)
    elif kind == "parquet":
        source = in_parquet(folder, tmp_path / "archives" / "a.parquet")
        expected.append(("", 0.0, []))
    elif kind == "file":
        source = f"file://{folder}"
    else:
        fsspec = pytest.importorskip("fsspec")
        memory = fsspec.filesystem("memory")
        memory.put(str(folder), f"/bucket-{os.getpid()}", recursive=True)
        source = f"memory://bucket-{os.getpid()}"
    ran = zoo("predict", model, source, "--out", tmp_path / "out")
    assert ran.code == 1, ran.err
    rows = answers(tmp_path / "out")
    assert by_content(rows) == sorted(expected)
    names = {
        "tar": f"{source}/000000.jpg",
        "tar.gz": f"{source}/000000.jpg",
        "parquet": f"{source}#0",
        "file": f"{folder}/000/000000.jpg",
        "memory": f"{source.replace('://', ':///') if kind == 'memory' else ''}/000/000000.jpg",
    }
    found = {path.replace("memory:///", "memory://") for path in rows}
    assert names[kind].replace("memory:///", "memory://") in found
    # Each message names its picture.
    assert all(path.rpartition("/")[2] in row["message"] for path, row in rows.items() if row["error"])


def part_times(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in out.glob("part-*.parquet")}


def test_an_interrupted_command_goes_on(zoo, model, folder, tmp_path, answers, monkeypatch):
    from zoo.archives.in_process import InProcess

    out, run, calls = tmp_path / "out", InProcess.run, []

    def interrupted(self, shards):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        yield from run(self, shards)

    with monkeypatch.context() as patch:
        patch.setattr(InProcess, "run", interrupted)
        ran = zoo("predict", model, folder, "--out", out, "--slice", 8)
    assert ran.code == 130 and "stopped after 16 pictures" in ran.err and "goes on from there" in ran.err
    before = part_times(out)
    assert len(before) == 2
    # What a killed process leaves: a piece without a marker, and answers without a marker.
    (out / ".abc-1.partial").write_bytes(b"x")
    next((out / "_done").glob("*.json")).unlink()
    ran = zoo("predict", model, folder, "--out", out, "--slice", 8)
    assert "Scored     27 pictures in 4 parts, of which 3 could not be read; 19 of them now" in ran.out
    after = part_times(out)
    assert sum(before[name] == after[name] for name in before) == 1
    assert len(answers(out)) == 27 and not list(out.glob(".*.partial"))
    ran = zoo("predict", model, folder, "--out", out, "--slice", 8)
    assert ran.code == 1 and "; 0 of them now" in ran.out and part_times(out) == after


def test_a_part_without_its_file_is_scored_again(zoo, model, folder, tmp_path, answers):
    out = tmp_path / "out"
    zoo("predict", model, folder, "--out", out, "--slice", 8)
    next(out.glob("part-*.parquet")).unlink()
    zoo("predict", model, folder, "--out", out, "--slice", 8)
    assert len(answers(out)) == 27


def test_answers_of_other_files_options_or_pictures_are_not_mixed_up(zoo, model, folder, tmp_path):
    out = tmp_path / "out"
    command = ["--out", out, "--slice", 8]
    zoo("predict", model, folder, *command)
    changed = tmp_path / "changed.onnx"
    network = onnx.load(model / "model.onnx")
    network.producer_name = "another"
    onnx.save(network, changed)
    before = part_times(out)
    for arguments, message in [
        ((changed, folder, *command), "of another exported file"),
        ((model, folder, "--out", out), "slice was 8, and is 1000"),
        ((model, folder, *command, "--max-pixels", "1M"), "max_pixels was None, and is 1000000"),
        ((model, folder / "sub", *command), "these answers belong to another source"),
    ]:
        ran = zoo("predict", *arguments)
        assert ran.code == 2 and message in ran.err
    os.utime(folder / "000" / "000010.jpg", ns=(1, 1))
    ran = zoo("predict", model, folder, *command)
    assert ran.code == 2 and "#1' has changed since it was scored" in ran.err
    assert part_times(out) == before


def test_new_archives_are_added_and_lost_ones_are_not_forgotten(zoo, model, folder, tmp_path, answers):
    archives, out = tmp_path / "archives", tmp_path / "out"
    archives.mkdir()
    first = in_tar(folder / "000", archives / "b.tar")
    assert zoo("predict", model, archives, "--out", out).code == 0
    in_tar(folder / "000", archives / "a.tar")
    ran = zoo("predict", model, archives, "--out", out)
    assert ran.code == 0 and "48 pictures in 2 parts; 24 of them now" in ran.out
    assert len(answers(out)) == 48
    first.unlink()
    ran = zoo("predict", model, archives, "--out", out)
    assert ran.code == 2 and "1 of 2 scored parts are not in" in ran.err


@pytest.mark.parametrize("compressed", [False, True])
def test_a_truncated_tar_keeps_the_pictures_before_the_end(zoo, model, folder, tmp_path, answers, compressed):
    path = in_tar(folder / "000", tmp_path / "a.tar")
    content = path.read_bytes()
    members = tarfile.open(path).getmembers()  # noqa: SIM115
    cut = content[: members[20].offset_data + 5]
    path.write_bytes(gzip.compress(content)[: len(gzip.compress(cut))] if compressed else cut)
    ran = zoo("predict", model, path, "--out", tmp_path / "out")
    assert ran.code == 1 and "cut off" in ran.err
    rows = answers(tmp_path / "out")
    damage = rows.pop(str(path))
    assert damage["error"] == "DamagedArchive" and "cut off" in damage["message"]
    # Every second member is a picture.
    assert len(rows) == 10 if not compressed else 5 <= len(rows) <= 24
    assert f"Scored     {len(rows)} pictures" in ran.out


def test_damaged_parquet_gets_a_row(zoo, model, folder, tmp_path, answers):
    path = in_parquet(folder, tmp_path / "a.parquet")
    path.write_bytes(path.read_bytes()[:-40])
    ran = zoo("predict", model, path, "--out", tmp_path / "out")
    assert ran.code == 1
    assert [row["error"] for row in answers(tmp_path / "out").values()] == ["DamagedArchive"]


def test_columns_of_parquet(zoo, model, folder, tmp_path, answers):
    content = [path.read_bytes() for path in sorted((folder / "000").iterdir())]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"left": content, "right": content, "name": ["x"] * 24}), path)
    ran = zoo("predict", model, path, "--out", tmp_path / "out")
    assert ran.code == 1 and "several columns of bytes. Choose one: --column left" in ran.err
    ran = zoo("predict", model, path, "--out", tmp_path / "out2", "--column", "name")
    assert ran.code == 1 and "no column 'name' with the bytes" in ran.err and "Columns of bytes: left, right" in ran.err
    assert zoo("predict", model, path, "--out", tmp_path / "out3", "--column", "right").code == 0
    assert len(answers(tmp_path / "out3")) == 24
    # A part that failed has no marker, so that the same command tries again.
    assert not list((tmp_path / "out").glob("part-*"))


def test_one_bad_archive_does_not_end_the_others(zoo, model, folder, tmp_path, answers):
    archives = tmp_path / "archives"
    archives.mkdir()
    in_tar(folder / "000", archives / "b.tar")
    pq.write_table(pa.table({"name": ["x"]}), archives / "a.parquet")
    ran = zoo("predict", model, archives, "--out", tmp_path / "out")
    assert ran.code == 1 and "a.parquet' has no column with the bytes of pictures" in ran.err
    assert "Not done   1 part" in ran.out and len(answers(tmp_path / "out")) == 24


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ray"], "--ray goes with --out DIR"),
        (["--slice", 10], "--slice goes with --out DIR"),
        (["--out", "o", "--top", 2], "--top is for printed answers"),
        (["--out", "o", "--json"], "--json is for printed answers"),
        (["--out", "o", "--workers", 2], "--workers goes with --ray"),
        (["--out", "o", "--address", "auto"], "--address goes with --ray"),
        (["--out", "o", "--ray", "--providers", "cpu"], "--providers goes without --ray"),
        (["--out", "s3://bucket/o"], "--out is a folder on this machine"),
        (["--out", "o", "--coverage", 0.9], "has no label sets"),
        (["--out", "o", "photos/000"], "would be scored twice"),
        (["--out", "o", "-"], "--out takes folders and archives"),
        (["--out", "o", "missing"], "missing' cannot be read"),
        (["--out", "o", "m*.tar"], "nothing matches 'm*.tar'"),
        (["--out", "o", "a.tar.bz2"], "reads .tar, .tar.gz and .parquet"),
        (["--out", "o", "odd://x/y"], "does not know addresses that begin with odd://"),
        (["--out", "o", "http://me:secret@host/x"], "holds a password"),
        (["--out", "photos"], "holds other files"),
    ],
)
def test_what_cannot_be_meant_is_refused(zoo, model, folder, tmp_path, monkeypatch, arguments, message):
    pytest.importorskip("fsspec")
    monkeypatch.chdir(tmp_path)
    Path("a.tar.bz2").write_bytes(b"x")
    ran = zoo("predict", model, "photos", *arguments)
    assert ran.code in (1, 2) and message in ran.err and "secret" not in ran.err
    assert not list(tmp_path.rglob("part-*"))


def test_missing_packages_are_named(zoo, model, folder, tmp_path, monkeypatch):
    pytest.importorskip("fsspec")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    ran = zoo("predict", model, "s3://bucket/photos", "--out", tmp_path / "out")
    assert ran.code == 1 and "pip install s3fs" in ran.err
    monkeypatch.setitem(sys.modules, "ray", None)
    ran = zoo("predict", model, folder, "--out", tmp_path / "out", "--ray")
    assert ran.code == 1 and "pip install 'finezoo[ray]'" in ran.err and "Without --ray" in ran.err
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    ran = zoo("predict", model, folder, "--out", tmp_path / "out2")
    assert ran.code == 1 and "pip install 'finezoo[tables]'" in ran.err
    # The extra that brings both, not one after the other.
    ran = zoo("predict", model, folder, "--out", tmp_path / "out2", "--ray")
    assert ran.code == 1 and "pip install 'finezoo[ray]'" in ran.err and "finezoo[tables]" not in ran.err


def test_a_machine_that_does_not_see_the_pictures_says_so(model, tmp_path):
    """Its pictures must not become rows with errors: another machine, or the next command, may see them."""
    lost = [Shard(kind, "x", str(tmp_path / "gone"), "", ("gone/1.jpg",)) for kind in ("pictures", "tar", "parquet")]
    for shard in lost:
        (piece,) = pieces(Scorer(model), shard)
        assert "All machines of a cluster must see the pictures at the same path" in piece.problem


def test_large_answers_travel_in_pieces(model, folder, tmp_path, monkeypatch):
    """A broken attempt is forgotten when another one begins; pieces of two attempts are never mixed."""
    monkeypatch.setattr(parts, "PIECE_BYTES", 1000)
    paths = tuple(str(path) for path in sorted((folder / "000").iterdir()))
    shard = Shard("pictures", "x", str(folder), "f", paths)
    scorer = Scorer(model)
    first, second = list(pieces(scorer, shard)), list(pieces(scorer, shard))
    assert len(second) > 3
    ledger = Ledger(tmp_path / "out")
    with ledger.held(Job("m", ("a",), (), {})):
        assert [ledger.receive(piece, shard) for piece in first[:2]] == [None, None]
        # The third piece of the first attempt was lost.
        assert ledger.receive(first[3], shard) is None
        figures = [ledger.receive(piece, shard) for piece in second]
        assert figures[:-1] == [None] * (len(second) - 1) and figures[-1].pictures == 24
        assert ledger.receive(second[0], shard) is None
        assert ledger.part(shard.id).read_bytes() == b"".join(piece.data for piece in second)
        assert ledger.finished == {shard.id: "f"} and ledger.total.pictures == 24
    assert not list((tmp_path / "out").glob(".*.partial"))


def test_two_processes_do_not_write_to_one_folder(zoo, model, folder, tmp_path):
    import filelock

    (tmp_path / "out").mkdir()
    with filelock.FileLock(tmp_path / "out" / "_lock"):
        ran = zoo("predict", model, folder, "--out", tmp_path / "out")
    assert ran.code == 2 and "another `zoo predict` writes to" in ran.err


def test_an_empty_source_says_what_is_in_it(zoo, model, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.txt").write_text("x")
    ran = zoo("predict", model, tmp_path / "photos", "--out", tmp_path / "out")
    assert ran.code == 1 and "no picture was found" in ran.err and "1 .txt" in ran.err


def test_a_command_that_found_nothing_does_not_bind_the_next_one(zoo, model, folder, tmp_path):
    assert zoo("predict", model, tmp_path / "nowhere", "--out", tmp_path / "out").code == 1
    assert zoo("predict", model, folder, "--out", tmp_path / "out", "--max-pixels", "1M").code in (0, 1)
    ran = zoo("predict", model, folder, "--out", tmp_path / "out")
    assert ran.code == 2 and "max_pixels was 1000000, and is None" in ran.err


def test_folders_of_answers_are_no_source(zoo, model, folder, tmp_path, answers):
    """--out may lie inside the source, as `--out photos/answers` does."""
    out = folder / "answers"
    for _ in range(2):
        assert "Scored     27 pictures in 1 part" in zoo("predict", model, folder, "--out", out).out
    shutil.copytree(out, folder / "sub" / "old answers")
    assert "27 pictures" in zoo("predict", model, folder, "--out", tmp_path / "again").out


def test_names_that_are_not_utf8_are_kept(zoo, model, tmp_path, answers, folder):
    strange = os.fsdecode(b"caf\xe9.jpg")
    source = tmp_path / "strange"
    source.mkdir()
    try:
        shutil.copy(folder / "000" / "000000.jpg", source / strange)
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    assert zoo("predict", model, source, "--out", tmp_path / "out").code == 0
    assert list(answers(tmp_path / "out")) == [f"{source}/caf\\udce9.jpg"]
