"""--max-pixels in every command that decodes pictures. What is refused says which value reads it."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

BIG = "12000 x 9000 is more than 89478485 pixels, the limit set by --max-pixels; --max-pixels 108M reads it"
LARGER = "1200 x 900 is more than 1000000 pixels, the limit set by --max-pixels; --max-pixels 2M reads it"
LIMIT = ("--max-pixels", "2M")
TRAIN = ("mnist_convnet", "--size", 28, "--epochs", 1, "--allow-chance")


@pytest.fixture(scope="module")
def album(tmp_path_factory, make_photos) -> Path:
    """Three classes of small pictures, and one picture of 108 megapixels."""
    folder = tmp_path_factory.mktemp("album") / "album"
    make_photos(folder, 6)
    # Each pixel of a palette counts as a pixel of color, but is quick to decode.
    picture = Image.new("P", (12_000, 9_000))
    picture.putpalette([0, 0, 0, 0, 230, 0])
    picture.paste(1, (0, 0, 6000, 9000))
    picture.save(folder / "bars" / "big.png", compress_level=1)
    return folder


@pytest.fixture
def larger(photos, tmp_path) -> Path:
    """Three classes of small pictures, and one picture of a megapixel."""
    folder = tmp_path / "larger"
    shutil.copytree(photos, folder)
    Image.new("P", (1200, 900)).save(folder / "bars" / "larger.png")
    return folder


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_pictures_are_checked_with_a_larger_limit(zoo, album):
    ran = zoo("data", "check", album, "--json", "--strict")
    assert ran.code == 1 and ran.err == ""
    (unreadable,) = [each for each in json.loads(ran.out)["findings"] if each["kind"] == "unreadable"]
    assert unreadable["items"] == [{"pictures": [f"{album}/bars/big.png"], "detail": f"PictureTooLarge: {BIG}"}]
    assert unreadable["advice"] == "--max-pixels 108M reads the picture that is too large."

    ran = zoo("data", "check", album, "--max-pixels", "108M", "--html", "page.html", "--json")
    found = json.loads(ran.out)
    assert found["pictures"] == found["readable"] == 19 and found["sizes"]["largest"] == "12000x9000"
    assert Path("page.html").read_text("utf-8").count("<img") >= 19


def test_a_picture_that_a_larger_limit_reads_is_not_moved_away(zoo, photos):
    shutil.copytree(photos, "photos")
    Path("photos/bars/bars000.jpg").write_bytes(b"")
    ran = zoo("data", "check", "photos", "--max-pixels", "500", "--quarantine", "moved")
    assert ran.code == 0 and "Moved      1 files to moved" in ran.out
    assert "reads the 71 pictures that are too large. Repair, convert or remove them" in ran.out
    assert not os.path.exists("photos/bars/bars000.jpg") and len(list(Path("photos").rglob("*.jpg"))) == 71


def test_a_preview_shows_large_pictures(zoo, larger):
    for path in larger.glob("*/*[12]?.jpg"):
        path.unlink()
    for path in larger.glob("*/*0[2-9].jpg"):
        path.unlink()
    words = ["augment", "preview", "none", "--data", larger, "--size", 28, "--pictures", 9, "--copies", 1]
    ran = zoo(*words, "--max-pixels", "1M")
    assert ran.code == 0 and f"1 file is left out: {larger}/bars/larger.png: {LARGER}\n" in ran.err
    with Image.open("augment-none.png") as sheet:
        height = sheet.height
    ran = zoo(*words, "--max-pixels", "2M")
    assert ran.code == 0 and ran.err == ""
    with Image.open("augment-none.png") as sheet:
        assert sheet.height > height


def test_a_run_records_the_limit_and_reads_its_pictures_again(zoo, album):
    ran = zoo("finetune", *TRAIN, "--data", album, "--max-pixels", "108M")
    assert ran.code == 0 and "left out" not in ran.err and "19 pictures of 3 classes" in ran.out, ran.err
    assert re.search(r"^Predict .* --max-pixels 108M$", ran.out, re.M)
    (run,) = Path("runs").iterdir()
    record = json.loads((run / "run.json").read_text("utf-8"))
    assert record["options"]["reading"]["max_pixels"] == 108_000_000 and record["data"]["left_out"] == []
    ran = zoo("evaluate", run, "--part", "all", "--json")
    assert ran.code == 0 and "left out" not in ran.err and json.loads(ran.out)["pictures"] == 19, ran.err
    ran = zoo("evaluate", run, "--part", "all", "--json", "--max-pixels", "107M")
    assert json.loads(ran.out)["pictures"] == 18 and "more than 107000000 pixels" in ran.err
    assert zoo("export", run, "--allow-chance").code == 0
    ran = zoo("predict", run, album / "bars" / "big.png")
    assert ran.code == 1 and BIG in ran.err
    ran = zoo("export", run, "--allow-chance", "--max-pixels", "89M")
    assert ran.code == 1 and f"1 picture of {run.name} cannot be read now: " in ran.err
    assert "--max-pixels 108M reads it." in ran.err


def test_an_export_finds_the_limit_in_its_run(zoo, larger):
    """The limit is below the default, so that it leaves one picture out. Other pictures are read with it too."""
    ran = zoo("finetune", *TRAIN, "--data", larger, "--max-pixels", "1M")
    assert f"warning: 1 of 73 files is left out: {larger}/bars/larger.png: {LARGER}. " in ran.err
    (run,) = Path("runs").iterdir()
    record = json.loads((run / "run.json").read_text("utf-8"))
    assert [each["why"] for each in record["data"]["left_out"]] == [f"PictureTooLarge: {LARGER}"]
    exported = Path("exported") / record["name"]
    Path("other/bars").mkdir(parents=True)
    for name in ("larger.png", *(f"bars{i:03}.jpg" for i in range(6))):
        shutil.copy(larger / "bars" / name, "other/bars")
    for words, count in ((["--data", larger], 72), (["--data", "other"], 6), (["--data", "other", *LIMIT], 7)):
        ran = zoo("evaluate", exported, *words, "--part", "all", "--json")
        assert json.loads(ran.out)["pictures"] == count, ran.err
        assert (LARGER in ran.err) == (count != 7)
    # A larger limit of the command line replaces that of the run. The picture is then one that is not of the run.
    assert zoo("export", run, "--allow-chance", *LIMIT).code == 0


def test_where_most_pictures_are_too_large_one_value_reads_all_of_them(zoo, photos):
    """The progressive picture needs more than the others, and is not among the pictures that are named."""
    shutil.copytree(photos, "photos")
    with Image.open("photos/noise/noise003.jpg") as image:
        image.save("photos/noise/noise003.jpg", progressive=True)
    words = ["lr-find", *TRAIN[:-3], "--data", "photos", "--steps", 20]
    ran = zoo(*words, "--max-pixels", 500)
    assert ran.code == 1 and "72 of 72 pictures cannot be read" in ran.err and "Repair" not in ran.err
    (limit,) = re.findall(r"^--max-pixels (\d+) reads the 72 pictures that are too large\.$", ran.err, re.M)
    named = re.findall(r"--max-pixels (\d+) reads it", ran.err)
    assert max(map(int, named)) < int(limit)
    ran = zoo(*words, "--max-pixels", limit)
    assert ran.code == 0 and "left out" not in ran.err, ran.err


@pytest.mark.parametrize("value", ["large", "0", "-1", "12 MB"])
def test_values_that_are_not_numbers_of_pixels(zoo, value):
    for words in (["finetune", "mnist_convnet"], ["evaluate", "net"], ["verify", "vgg16", "--data", "."]):
        ran = zoo(*words, f"--max-pixels={value}")
        assert ran.code == 2 and "such as 200M or 200000000. Received: " in ran.err


@pytest.mark.real
def test_verify_reads_the_formats_that_are_named(zoo, real_weights, test_data):
    ran = zoo("verify", "mobilenet_025", "--data", test_data / "imagenet_sample", "--formats", "png")
    assert ran.code == 1 and "--formats png,jpeg reads it" in ran.err, ran.err
    assert ran.err.endswith("Name these formats with --formats too, or leave the option out.\n"), ran.err


def test_commands_that_zoo_suggests_repeat_the_limit(zoo, photos):
    ran = zoo("finetune", "mnist_convnet", photos, "--max-pixels", "200M")
    assert ran.code == 2 and f"`zoo finetune mnist_convnet --data {photos} --max-pixels 200M`" in ran.err
    ran = zoo("data", "check", photos, "--max-pixels", "200000000")
    assert re.search(r"zoo data check \S+ --max-pixels 200M --json", ran.out)
    assert zoo("data", "show", photos, "--max-pixels", "1.5G").code == 0
