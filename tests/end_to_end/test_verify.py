"""`zoo verify` where there is nothing to verify, or the wrong thing."""

from __future__ import annotations

from zoo.data import sources


def test_a_folder_that_is_not_there_is_said_before_anything_is_fetched(zoo, tmp_path):
    ran = zoo("verify", "resnet50", "--data", tmp_path / "nowhere")
    assert ran.code == 1 and "is no folder" in ran.err and "WordNet" in ran.err


def test_a_damaged_file_is_named(zoo, tmp_path, monkeypatch, photos):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "resnet50_weights_tf_dim_ordering_tf_kernels.h5").write_bytes(b"not what was published")
    monkeypatch.setenv("ZOO_WEIGHTS_DIR", str(mirror))
    ran = zoo("verify", "resnet50", "--data", photos)
    assert ran.code == 1 and "2cb95161c43110f7111970584f804107" in ran.err and "damaged" in ran.err


def test_weights_that_cannot_be_had_come_with_advice(zoo, photos):
    ran = zoo("verify", "resnext50", "--data", photos)
    assert ran.code == 1 and "resnext50_weights_tf_dim_ordering_tf_kernels.h5" in ran.err
    assert "ZOO_WEIGHTS_DIR" in ran.err


def test_pictures_tell_their_class_by_file_or_folder(tmp_path, photos):
    classes = ["n00000001_disc", "n00000002_bar"]
    source = next((photos / "discs").iterdir()).read_bytes()
    (tmp_path / "n00000002").mkdir()
    (tmp_path / "n00000002" / "7.jpg").write_bytes(source)
    (tmp_path / "n00000001_disc.jpg").write_bytes(source)
    (tmp_path / "README.txt").write_text("not a picture")
    pictures = sources.open_identified(str(tmp_path), classes)
    assert [(picture.name, picture.label) for picture in pictures] == [
        ("n00000001_disc.jpg", 0),
        ("n00000002/7.jpg", 1),
    ]
