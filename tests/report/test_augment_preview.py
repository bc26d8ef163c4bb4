"""The sheet that `zoo augment preview` draws: which pictures it shows, their labels, and what the command refuses."""

from __future__ import annotations

import numpy as np
from PIL import Image

import zoo_runtime
from zoo.data import sources
from zoo.data.augment import build, picture_seeds
from zoo.report import augment_preview
from zoo_runtime import ImageSpec


def test_preview_draws_pictures_before_and_after(zoo, photos, tmp_path):
    sheets = {}
    for text in ("none", "light", "mixup"):
        output = tmp_path / f"{text}.png"
        arguments = ("--size", "160x200", "--pictures", 4, "--copies", 2, "--output", output)
        ran = zoo("augment", "preview", text, "--data", photos, *arguments)
        assert ran.code == 0, ran.err
        assert str(output) in ran.out
        sheets[text] = np.asarray(Image.open(output))
    high, wide = 160 + augment_preview.STRIP + augment_preview.GAP, 200 + augment_preview.GAP
    top = augment_preview.GAP + 3 * augment_preview.STRIP
    assert {sheet.shape for sheet in sheets.values()} == {(top + 4 * high, 3 * wide + augment_preview.GAP, 3)}

    def cell(text, row, column):
        left = augment_preview.GAP + column * wide
        return sheets[text][top + row * high : top + row * high + 160, left : left + 200]

    spec = ImageSpec(size=(160, 200))
    decoded = {
        (folder.name, path): zoo_runtime.decode(path, spec) for folder in photos.iterdir() for path in folder.iterdir()
    }
    for text in sheets:
        found = [
            [label for (label, _), pixels in decoded.items() if np.array_equal(pixels, cell(text, row, 0))]
            for row in range(4)
        ]
        assert found == [["bars"], ["discs"], ["noise"], ["bars"]]
    for row in range(4):
        for column in (1, 2):
            assert np.array_equal(cell("none", row, 0), cell("none", row, column))
            assert not np.array_equal(cell("light", row, 0), cell("light", row, column))
        assert not np.array_equal(cell("light", row, 1), cell("light", row, 2))


def test_preview_shows_the_pictures_of_an_epoch_of_training(zoo, plugins, photos, tmp_path):
    """Copy k of a picture equals what a run of the same seed and size trains on in epoch k."""
    ran = zoo(
        *("augment", "preview", "course", "--data", photos, "--size", 160, "--pictures", 3, "--seed", 5),
        *("--copies", 1, "--output", tmp_path / "sheet.png"),
    )
    assert ran.code == 0, ran.err
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    source = sources.open_source(str(photos))
    spec = ImageSpec(size=(160, 160))
    array = np.stack([zoo_runtime.decode(picture.content, spec) for picture in source.pictures])
    policy = plugins.augmentation("course")
    seen, _ = build(policy, policy.parameters)(
        array.astype("float32"), np.eye(len(array), dtype="float32"), picture_seeds(5, 0, np.arange(len(array)))
    )
    top, left = sheet.shape[0] - 3 * (160 + augment_preview.STRIP + augment_preview.GAP), 160 + 2 * augment_preview.GAP
    shown = sheet[top : top + 160, left : left + 160]
    assert sum(np.array_equal(np.rint(picture).astype("uint8"), shown) for picture in seen) == 1


def test_preview_enlarges_digits(zoo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = zoo("augment", "preview", "light:flip=false", "--data", "digits", "--pictures", 2, "--copies", 1)
    assert ran.code == 0, ran.err
    sheet = Image.open(tmp_path / "augment-light.png")
    assert sheet.width == 2 * 3 * 64 + 3 * augment_preview.GAP


def test_labels_on_the_sheet():
    classes = ("cats", "dogs", "owls")
    for shares, text in (
        ([1, 0, 0], "cats"),
        ([0.3, 0.7, 0], "dogs 0.70, cats 0.30"),
        ([0, 1, 1], "dogs, owls"),
        ([1, 0.4, 0], "cats 1.00, dogs 0.40"),
        ([0, 0, 0], "no class"),
    ):
        assert augment_preview._label(np.array(shares, "float32"), classes) == text


def test_preview_leaves_out_unreadable_pictures(zoo, tmp_path):
    for label in ("a", "b"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (20, 20), (9, 9, 9)).save(tmp_path / "data" / label / f"{i}.png")
    (tmp_path / "data" / "a" / "0.png").write_bytes(b"nothing")
    arguments = ("--data", tmp_path / "data", "--copies", 1, "--output", tmp_path / "sheet.png")
    ran = zoo("augment", "preview", "none", *arguments)
    assert ran.code == 0 and "1 file is left out: " in ran.err and "0.png" in ran.err
    for path in (tmp_path / "data").rglob("*.png"):
        path.write_bytes(b"nothing")
    ran = zoo("augment", "preview", "none", *arguments)
    assert ran.code == 1 and "none of the pictures of data can be read" in ran.err


def test_preview_names_what_is_wrong(zoo, photos, tmp_path):
    ran = zoo("augment", "preview", "lite", "--data", photos, "--output", tmp_path / "x.png")
    assert ran.code == 2 and "Did you mean light" in ran.err
    ran = zoo("augment", "preview", "course:zoom=3", "--data", photos, "--output", tmp_path / "x.png")
    assert ran.code == 2 and "zoom must be" in ran.err
    (tmp_path / "file").write_text("in the way")
    ran = zoo("augment", "preview", "light", "--data", photos, "--output", tmp_path / "file" / "x.png")
    assert ran.code == 1 and "is not a folder" in ran.err
    ran = zoo("augment", "preview", "light", "--data", tmp_path / "nothing", "--output", tmp_path / "x.png")
    assert ran.code == 1 and "there is nothing at" in ran.err
    assert not (tmp_path / "x.png").exists()
