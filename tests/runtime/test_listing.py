"""Test which pictures the paths of `zoo-runtime predict` stand for, and what is said of the other files."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from zoo_runtime import list_pictures
from zoo_runtime.cli import main
from zoo_runtime.workshop import IGNORED


@pytest.fixture
def predict(model, capsys, monkeypatch):
    """Return a function that runs `zoo-runtime predict`. It returns the exit code and the lines of both outputs."""

    def run(*arguments: object, stdin: bytes | None = None, folder: object = None) -> tuple[int, list[str], list[str]]:
        if folder is not None:
            monkeypatch.chdir(folder)
        if stdin is not None:
            reading, writing = os.pipe()
            os.write(writing, stdin)
            os.close(writing)
            monkeypatch.setattr(sys, "stdin", os.fdopen(reading))
        code = main(["predict", str(model), *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err.splitlines()

    return run


@pytest.fixture
def album(tmp_path):
    """Write a folder with two pictures and with files that are not pictures."""
    folder = tmp_path / "album"
    (folder / "@eaDir").mkdir(parents=True)
    (folder / "deep").mkdir()
    for name in ("a.png", "deep/b.PNG", "@eaDir/thumb.png", "._a.png"):
        Image.fromarray(np.full((8, 8, 3), (250, 0, 0), np.uint8)).save(folder / name, "PNG")
    for name in ("1.txt", "2.TXT", "deep/3.txt", "clip.mov", "noending", "x.averyveryverylongending"):
        (folder / name).write_text("x")
    for name in ("Thumbs.db", "ehthumbs.db", "desktop.ini", ".DS_Store", "Icon\r"):
        if os.name != "nt" or "\r" not in name:
            (folder / name).write_text("x")
    return folder


def test_files_that_are_passed_over_are_counted_by_ending(predict, album):
    code, out, err = predict(album)
    assert code == 0 and len(out) == 2
    assert err == ["passed over: 3 .txt, 2 without an ending, 1 .mov"]
    code, out, err = predict(album, "--json")
    assert [json.loads(line)["label"] for line in out] == ["red", "red"] and len(err) == 1


def test_nothing_is_said_if_nothing_is_passed_over(predict, album):
    assert predict(album / "a.png")[2] == []
    for path in album.rglob("*"):
        if path.is_file() and (path.suffix in (".txt", ".TXT", ".mov") or path.name[0] in "nx"):
            path.unlink()
    assert predict(album)[2] == []


def test_many_endings_are_summed_up(predict, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(30):
        (folder / f"file.e{number:02}").write_text("x")
    code, _, err = predict(folder)
    assert "Passed over: " in err[0] and ", 22 others." in err[0] and code == 1


def test_a_folder_of_heic_pictures_is_not_empty(predict, tmp_path, monkeypatch):
    # As if pillow-heif was not installed, although another test may have imported it.
    for name in ("pillow_heif", "pillow_heif.as_plugin"):
        monkeypatch.setitem(sys.modules, name, None)
    heic = b"\0\0\0\x24ftypheic\0\0\0\0mif1heicmiaf" + bytes(400)
    folder = tmp_path / "phone"
    folder.mkdir()
    for name in ("IMG_1.HEIC", "IMG_2.heif", "IMG_1.MOV"):
        (folder / name).write_bytes(heic if "MOV" not in name else b"x")
    code, out, err = predict(folder)
    assert (code, out) == (1, []) and len(err) == 3
    assert "IMG_1.HEIC: " in err[0] and "HEIC" in err[0].split(": ", 1)[1] and err[2] == "passed over: 1 .mov"
    assert list_pictures(folder) == [str(folder / "IMG_1.HEIC"), str(folder / "IMG_2.heif")]


def test_the_ignored_names_are_in_lower_case():
    assert {"thumbs.db", "desktop.ini", "__macosx", "@eadir", "icon\r"} <= IGNORED
    assert all(name == name.lower() for name in IGNORED)


def test_standard_input(predict, album):
    content = (album / "a.png").read_bytes()
    code, out, err = predict("-", stdin=content)
    assert code == 0 and err == [] and out[0].startswith("-: red ")
    code, out, err = predict("-", "--json", stdin=content)
    assert json.loads(out[0])["path"] == "-" and json.loads(out[0])["label"] == "red"
    code, out, err = predict("-", album / "a.png", "-", stdin=content)
    assert code == 1 and len(out) == 2 and err == ["-: standard input can be read only once, so give - only once."]


@pytest.mark.parametrize(
    ("stdin", "words"),
    [(b"", "standard input is empty"), (b"cat.jpg\ndog.jpg\n", "a text file"), (b"\x89PNG\r\n\x1a\n", "-: ")],
)
def test_standard_input_without_a_picture(predict, stdin, words):
    code, out, err = predict("-", stdin=stdin)
    assert code == 1 and out == [] and len(err) == 1 and words in err[0] and "the data given" not in err[0]


def test_a_terminal_is_not_read(predict, monkeypatch):
    class Terminal:
        closed = False
        buffer = property(lambda self: self)

        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())
    code, _, err = predict("-")
    assert code == 1 and "standard input is the keyboard" in err[0]
    monkeypatch.setattr(sys, "stdin", None)
    assert "standard input is closed" in predict("-")[2][0]


def test_binary_input_through_a_real_pipe(model, album):
    content = (album / "a.png").read_bytes()
    command = [sys.executable, "-m", "zoo_runtime.cli", "predict", str(model), "-"]
    ran = subprocess.run(command, input=content, capture_output=True, check=True)
    assert ran.stdout.startswith(b"-: red ")


def test_patterns_that_the_shell_left(predict, album):
    assert [line.split(": ")[0] for line in predict("*.png", folder=album)[1]] == ["a.png"]
    code, out, err = predict("**/*", folder=album)
    assert code == 0 and {os.path.basename(line.split(": ")[0]) for line in out} == {"a.png", "b.PNG"}
    code, out, err = predict("*.bmp", "a.png", folder=album)
    assert code == 1 and len(out) == 1 and err == ["*.bmp: matches no file."]
    (album / "odd[1].png").write_bytes((album / "a.png").read_bytes())
    assert predict("odd[1].png", folder=album)[1][0].startswith("odd[1].png: red ")


def test_addresses(predict, album):
    code, out, err = predict("https://example.org/cat.jpg", (album / "a.png").as_uri())
    assert code == 1 and out[0].startswith(f"{album / 'a.png'}: red ")
    assert err == [
        "https://example.org/cat.jpg: an address, not a file. Download the picture first, and give its path, "
        "or use `zoo-runtime predict --allow-url`."
    ]


def test_base64_text_is_not_printed(predict, album):
    import base64

    text = base64.b64encode((album / "a.png").read_bytes() + bytes(6000)).decode()
    for more in ((), ("--json",)):
        _, out, err = predict(text, *more)
        assert len((out + err)[0]) < 300 and "base64" in (out + err)[0]


def test_the_limit_on_pixels(predict, album):
    code, _, err = predict(album / "a.png", "--max-pixels", "63")
    assert code == 1 and "--max-pixels" in err[0] and " max_pixels" not in err[0]
    assert predict(album / "a.png", "--max-pixels", "64")[0] == 0
    with pytest.raises(SystemExit) as stopped:
        predict(album / "a.png", "--max-pixels", "none")
    assert stopped.value.code == 2


def test_pictures_with_a_strange_ending_or_none_are_read_and_pipes_are_not(predict, album):
    for name in ("deep/c", "d.jpg_large", "e.png~"):
        (album / name).write_bytes((album / "a.png").read_bytes())
    if hasattr(os, "mkfifo"):
        os.mkfifo(album / "pipe.png")
    code, out, _ = predict(album, "--json")
    assert code == 0 and [json.loads(line)["label"] for line in out] == ["red"] * 5


def test_what_zoo_wrote_is_left_out_unless_it_is_named(predict, album, model):
    for name in ("runs/2026-01-01-x", "exported/x", "away"):
        (album / name).mkdir(parents=True)
        (album / name / "curves.png").write_bytes((album / "a.png").read_bytes())
    run = {"schema": 1, "id": "x", "status": "done", "options": {}}
    (album / "runs/2026-01-01-x/run.json").write_text(json.dumps(run))
    (album / "exported/x/model.onnx").write_bytes(model.read_bytes())
    (album / "away/quarantine.csv").write_text("moved_from,moved_to,reason,time\n")
    code, out, err = predict(".", folder=album)
    assert code == 0 and len(out) == 2
    assert "what zoo wrote (./away, ./exported, ./runs)" in err[0]
    code, out, err = predict("runs/2026-01-01-x")
    assert code == 0 and len(out) == 1
