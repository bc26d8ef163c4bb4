"""Test `zoo-runtime watch --watch-folder`: each picture exactly once, also if the process is killed at any moment."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from zoo_runtime import NotWritten, Predictor
from zoo_runtime._watch import folder as watching
from zoo_runtime._watch.journal import Entry, Journal
from zoo_runtime._watch.outputs import Answer, JsonLines, Table
from zoo_runtime._watch.stop import Stop
from zoo_runtime.cli import main


@pytest.fixture
def inbox(pictures) -> Path:
    """Return a folder with three good pictures and a damaged one, all an hour old."""
    for path in pictures.rglob("*.*"):
        if path.is_file():
            age(path)
    return pictures


def age(path: Path, seconds: float = 3600) -> None:
    when = time.time() - seconds
    os.utime(path, (when, when))


class Collected:
    """An output that keeps the answers in a list."""

    def __init__(self, told: list[Answer]) -> None:
        self._told = told
        self.states: list[str] = []

    def status(self, text: str) -> None:
        self.states.append(text)

    def write(self, made: Answer) -> None:
        self._told.append(made)


def watching_thread(model: Path, folder: Path) -> tuple[list[Answer], list[str], list[str], Callable[[], None]]:
    """Watch a folder on a thread. Return answers, messages and states, which grow, and a function that ends it."""
    told: list[Answer] = []
    said: list[str] = []
    stop, output = Stop(), Collected(told)

    def work() -> None:
        watching.FolderLoop(Predictor(model), str(folder), [output], say=said.append).run(stop)

    def end() -> None:
        stop.requested.set()
        thread.join()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return told, said, output.states, end


def data_of(told: list[Answer]) -> bytes:
    """Return the bytes of a picture that was answered."""
    return next(made.pixels for made in told if isinstance(made.pixels, bytes))


def until(condition: Callable[[], object], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def watch(model, tmp_path, capsys):
    """Return a function that runs the command once. It returns the exit code, the new rows and both outputs."""
    table = tmp_path / "answers.csv"

    def run(folder: Path, *arguments: object) -> tuple[int, list[dict[str, str]], list[str], list[str]]:
        before = len(table.read_text().splitlines()) if table.exists() else 1
        code = main(
            ["watch", str(model), "--watch-folder", str(folder), "--once", "--csv", str(table), *map(str, arguments)]
        )
        captured = capsys.readouterr()
        with open(table) as stream:
            rows = list(csv.DictReader(stream))[before - 1 :] if table.exists() else []
        return code, rows, captured.out.splitlines(), captured.err.splitlines()

    return run


def test_each_picture_once_and_again_only_if_its_content_changes(watch, inbox):
    code, rows, out, err = watch(inbox)
    assert code == 0 and Counter(row["label"] for row in rows) == {"red": 1, "green": 1, "blue": 1, "": 1}
    assert len(out) == 3 and any("damaged" in line for line in err) and err[-1] == "4 pictures answered"
    assert watch(inbox)[1] == []
    # A later time alone does not make another picture.
    age(inbox / "red.jpg", 100)
    assert watch(inbox)[1] == []
    shutil.copy(inbox / "green.JPG", inbox / "red.jpg")
    age(inbox / "red.jpg", 50)
    shutil.copy(inbox / "green.JPG", inbox / "more" / "copy.jpg")
    age(inbox / "more" / "copy.jpg")
    rows = watch(inbox)[1]
    assert [(Path(row["path"]).name, row["label"]) for row in rows] == [("copy.jpg", "green"), ("red.jpg", "green")]
    # A picture that was deleted and comes back is the same picture.
    kept = (inbox / "red.jpg").rename(inbox.parent / "kept.jpg")
    assert watch(inbox)[1] == []
    kept.rename(inbox / "red.jpg")
    assert watch(inbox)[1] == []
    shutil.copy(inbox / "green.JPG", inbox / "more" / "third.jpg")
    age(inbox / "more" / "third.jpg")
    assert watch(inbox)[3][-1] == "1 picture answered"


def test_a_file_that_is_being_written_is_waited_for(watch, inbox, monkeypatch):
    monkeypatch.setattr(watching, "SETTLED", 0.3)
    monkeypatch.setattr(watching, "PATIENCE", 2.0)
    monkeypatch.setattr(watching, "POLL", 0.05)
    data = (inbox / "red.jpg").read_bytes()
    for path in list(inbox.rglob("*.*")):
        if path.is_file():
            path.unlink()
    slow = inbox / "slow.jpg"
    slow.write_bytes(data[:200])

    def write() -> None:
        # With a pause that is longer than the time after which files are read.
        for part in (data[200:400], data[400:]):
            time.sleep(0.7)
            with open(slow, "ab") as stream:
                stream.write(part)

    writer = threading.Thread(target=write)
    writer.start()
    _, rows, _, _ = watch(inbox)
    writer.join()
    assert [row["label"] for row in rows] == ["red"]


def test_a_file_that_comes_is_not_old_by_its_own_time(inbox, model, monkeypatch):
    """The clock was set, or the drive has another clock: the half-written file looks an hour old."""
    monkeypatch.setattr(watching, "SETTLED", 0.4)
    monkeypatch.setattr(watching, "POLL", 0.05)
    told, _, _, end = watching_thread(model, inbox)
    until(lambda: len(told) == 4)
    data, slow, began = (inbox / "green.JPG").read_bytes(), inbox / "slow.jpg", time.monotonic()
    for size in (300, 600, len(data)):
        slow.write_bytes(data[:size])
        age(slow)
        time.sleep(0.2)
    until(lambda: len(told) == 5)
    end()
    assert told[-1].line["label"] == "green" and time.monotonic() - began > 0.8


def test_a_folder_that_goes_and_comes_back(inbox, model, monkeypatch):
    monkeypatch.setattr(watching, "SETTLED", 0.1)
    monkeypatch.setattr(watching, "POLL", 0.05)
    told, said, states, end = watching_thread(model, inbox)
    until(lambda: len(told) == 4)
    for number in (1, 2):
        away = inbox.rename(inbox.with_name("away"))
        until(lambda n=number: len(said) == 2 * n - 1)
        away.rename(inbox)
        until(lambda n=number: len(said) == 2 * n)
    assert said == [f"{inbox}: the folder is gone. Waiting until it is back", f"{inbox}: the folder is back"] * 2
    # Another folder in its place has a journal of its own, which must not be forgotten at the next start.
    shutil.rmtree(inbox)
    until(lambda: len(said) == 5)
    inbox.mkdir()
    (inbox / "new.jpg").write_bytes(data_of(told))
    until(lambda: len(told) == 5)
    end()
    assert "journal was removed or replaced" in said[5] and states == ["online", *["no folder", "online"] * 3]
    journal = Journal(str(inbox / ".zoo-watch.db"), {})
    assert journal.find(b"new.jpg") is not None
    journal.close()


def test_a_table_that_is_moved_away_is_begun_anew(tmp_path, info):
    """People and logrotate do so while a service runs. The rows that follow must not go into the moved file."""
    table, lines = Table(str(tmp_path / "a.csv"), info), JsonLines(str(tmp_path / "a.jsonl"))
    journal = Journal(str(tmp_path / "j.db"), {"table": table, "lines": lines})
    header = (tmp_path / "a.csv").read_text()
    for number in (1, 2, 3):
        line = {"path": f"{number}.jpg"}
        rows = {"table": table.bytes_of(line), "lines": lines.bytes_of(line)}
        journal.note([Entry(b"%d.jpg" % number, 1, 1, b"")], rows)
        if number == 2:
            (tmp_path / "a.csv").rename(tmp_path / "old.csv")
            (tmp_path / "a.jsonl").unlink()
    table.write({"path": "4.jpg"})
    (tmp_path / "a.csv").unlink()
    table.write({"path": "5.jpg"})
    journal.close()
    assert (tmp_path / "old.csv").read_text().splitlines()[0] + "\n" == header
    assert len((tmp_path / "old.csv").read_text().splitlines()) == 3
    assert (tmp_path / "a.jsonl").read_text() == '{"path": "3.jpg"}\n'
    assert (tmp_path / "a.csv").read_text().startswith(header + ",5.jpg,")
    for each in (table, lines):
        each.close()


def test_a_journal_that_cannot_be_is_explained(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    for path, words in (("folder", "Is a directory"), ("none/j.db", "its folder does not exist")):
        with pytest.raises(NotWritten, match=rf"{path} cannot be written: {words}. `--journal FILE`"):
            Journal(str(tmp_path / path), {})
    # A name that SQLite would keep in the memory.
    monkeypatch.chdir(tmp_path)
    Journal(":memory:", {}).close()
    assert (tmp_path / ":memory:").stat().st_size > 0


def test_a_file_is_no_folder_to_watch(inbox, model, capsys):
    assert main(["watch", str(model), "--watch-folder", str(inbox / "red.jpg"), "--once"]) == 1
    assert "is a file, not a folder" in capsys.readouterr().err


def test_a_picture_that_stays_damaged_is_an_error_once(watch, inbox, monkeypatch):
    monkeypatch.setattr(watching, "PATIENCE", 1.0)
    (inbox / "empty.jpg").write_bytes(b"")
    age(inbox / "empty.jpg", 0)
    began = time.monotonic()
    rows = watch(inbox)[1]
    assert time.monotonic() - began > 1 and {row["error"] for row in rows} == {"", "NotAPicture", "CorruptPicture"}
    assert watch(inbox)[1] == []


def test_only_one_process_watches_a_folder(watch, inbox, tmp_path, model, capsys):
    journal = Journal(str(inbox / ".zoo-watch.db"), {})
    code = main(["watch", str(model), "--watch-folder", str(inbox), "--once"])
    assert code == 1 and "another zoo-runtime watches this folder" in capsys.readouterr().err
    assert watch(inbox, "--journal", tmp_path / "other.db")[0] == 0
    journal.close()


def test_a_damaged_journal_is_named(watch, inbox):
    (inbox / ".zoo-watch.db").write_bytes(b"no database at all" * 100)
    code = main(["watch", "x", "--watch-folder", str(inbox / "gone"), "--once"])
    assert code == 1
    with pytest.raises(NotWritten, match=r"is damaged: .*Remove it"):
        Journal(str(inbox / ".zoo-watch.db"), {})


def test_a_journal_that_is_damaged_further_inside_is_named(watch, inbox, capsys):
    """Its first pages are good, so that the damage shows when a picture is looked up."""
    assert watch(inbox)[0] == 0
    path = inbox / ".zoo-watch.db"
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    code, rows, _, err = watch(inbox)
    assert (code, rows) == (1, []) and "is damaged" in err[-1] and "Remove it" in err[-1]


def test_large_pictures_are_not_all_read_at_one_time(watch, inbox, monkeypatch):
    sizes: list[int] = []
    real = Predictor.predict_each

    def counted(self, pictures, **more):
        sizes.append(sum(map(len, pictures)))
        return real(self, pictures, **more)

    monkeypatch.setattr(Predictor, "predict_each", counted)
    largest = max(path.stat().st_size for path in inbox.rglob("*.*") if path.suffix in (".jpg", ".png"))
    monkeypatch.setattr("zoo_runtime._watch.folder.BATCH_BYTES", largest)
    code, rows, _, _ = watch(inbox)
    assert (code, len(rows)) == (0, 4) and len(sizes) > 1 and max(sizes) <= largest


@pytest.mark.parametrize("written", [0, 5, 8, 12, 16])
def test_rows_that_did_not_reach_the_file_are_added_at_the_next_start(tmp_path, written):
    """The process dies after `written` bytes of two rows; the file must hold each row once."""
    path, rows = tmp_path / "a.jsonl", b'{"n":1}\n{"n":2}\n'
    path.write_bytes(b'{"n":0}\n')

    class Dies(JsonLines):
        def append(self, data: bytes, *, sync: bool = False) -> None:
            super().append(data[:written], sync=sync)
            raise KeyboardInterrupt

    journal = Journal(str(tmp_path / "j.db"), {"a": Dies.__new__(Dies)})
    file = JsonLines(str(path))
    file.__class__ = Dies
    journal._files = {"a": file}
    with pytest.raises(KeyboardInterrupt):
        journal.note([Entry(b"x", 1, 1, b"")], {"a": rows})
    journal.close()
    file.close()
    for _ in range(2):
        again = JsonLines(str(path))
        reopened = Journal(str(tmp_path / "j.db"), {"a": again})
        assert reopened.find(b"x") is not None and path.read_bytes() == b'{"n":0}\n' + rows
        reopened.close()


def test_a_process_that_is_killed_loses_and_repeats_nothing(model, inbox, tmp_path):
    """Pictures come while the process is killed at random moments, and started again."""
    chance, number = random.Random(22), 0
    table, lines = tmp_path / "a.csv", tmp_path / "a.jsonl"
    names = ["red.jpg", "green.JPG", "more/blue.jpeg"]
    contents = [(inbox / name).read_bytes() for name in names]
    command = [sys.executable, "-m", "zoo_runtime.cli", "watch", str(model), "--watch-folder", str(inbox)]
    command += ["--csv", str(table), "--jsonl", str(lines), "--threads", "1"]
    for _ in range(6):
        for _ in range(40):
            # Different bytes behind the end marker make different files.
            path = inbox / f"new{number:04}.jpg"
            path.with_suffix(".part").write_bytes(contents[number % 3] + str(number).encode())
            age(path.with_suffix(".part"))
            path.with_suffix(".part").rename(path)
            number += 1
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # The first rows show that it has started; then it dies in the middle of its work.
        before, deadline = lines.stat().st_size if lines.exists() else 0, time.monotonic() + 30
        while (lines.stat().st_size if lines.exists() else 0) == before and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        process.wait()
    ran = subprocess.run([*command, "--once"], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    with open(table) as stream:
        in_table = Counter(row["path"] for row in csv.DictReader(stream))
    in_lines = Counter(json.loads(line)["path"] for line in lines.read_text().splitlines())
    expected = {str(inbox / f"new{n:04}.jpg"): 1 for n in range(number)}
    expected |= {str(inbox / name): 1 for name in [*names, "damaged.jpg"]}
    assert in_table == in_lines == expected
