"""`zoo verify` where there is nothing to verify, or the wrong thing."""

from __future__ import annotations

import pytest

from zoo.data import sources


def test_a_folder_that_is_not_there_is_said_before_anything_is_fetched(zoo, tmp_path):
    ran = zoo("verify", "resnet50", "--data", tmp_path / "nowhere")
    assert ran.code == 1 and "is not a folder" in ran.err and "WordNet" in ran.err


@pytest.mark.real
def test_a_damaged_file_is_named(zoo, tmp_path, monkeypatch, real_weights, test_data):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "imagenet_class_index.json").symlink_to(real_weights / "imagenet_class_index.json")
    (mirror / "resnet50_weights_tf_dim_ordering_tf_kernels.h5").write_bytes(b"not what was published")
    monkeypatch.setenv("ZOO_WEIGHTS_DIR", str(mirror))
    ran = zoo("verify", "resnet50", "--data", test_data / "imagenet_sample")
    assert ran.code == 1 and "2cb95161c43110f7111970584f804107" in ran.err and "damaged" in ran.err


@pytest.mark.real
def test_pictures_of_no_class_are_refused_before_weights_are_fetched(zoo, tmp_path, monkeypatch, real_weights, photos):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "imagenet_class_index.json").symlink_to(real_weights / "imagenet_class_index.json")
    monkeypatch.setenv("ZOO_WEIGHTS_DIR", str(mirror))
    ran = zoo("verify", "resnet50", "--data", photos)
    assert ran.code == 1 and "names no WordNet identifier" in ran.err


@pytest.mark.parametrize(
    ("name", "size", "problem"),
    [("mobilenet_025", "16x16", "at least 32 x 32"), ("vgg16", "128", "takes pictures of 224x224 only")],
)
def test_a_size_that_cannot_be_is_refused_before_anything_is_fetched(zoo, photos, name, size, problem):
    for arguments in (("verify", name, "--data", photos), ("export", f"{name}.imagenet1k", "--top")):
        ran = zoo(*arguments, "--size", size)
        assert ran.code == 2 and problem in ran.err and size.split("x")[0] in ran.err


def test_advice_names_the_file_where_its_address_does_not(zoo, photos):
    ran = zoo("verify", "nasnet_mobile", "--data", photos)
    assert ran.code == 1 and "as nasnet_mobile.h5" in ran.err


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
    assert [(picture.name, picture.labels[0]) for picture in pictures] == [
        ("n00000001_disc.jpg", 0),
        ("n00000002/7.jpg", 1),
    ]
