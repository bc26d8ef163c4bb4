"""Published classifiers: `zoo verify` and `zoo export --top` if weights, pictures or sizes are missing or wrong."""

from __future__ import annotations

import pytest

from zoo.data import sources


def test_a_missing_folder_is_named_before_anything_is_downloaded(zoo, tmp_path):
    ran = zoo("verify", "resnet50", "--data", tmp_path / "nowhere")
    assert ran.code == 1 and f"{str(tmp_path / 'nowhere')!r}" in ran.err and "WordNet" in ran.err


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
def test_pictures_of_no_class_are_refused_before_weights_are_downloaded(
    zoo, tmp_path, monkeypatch, real_weights, photos
):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "imagenet_class_index.json").symlink_to(real_weights / "imagenet_class_index.json")
    monkeypatch.setenv("ZOO_WEIGHTS_DIR", str(mirror))
    ran = zoo("verify", "resnet50", "--data", photos)
    assert ran.code == 1 and "its name has no WordNet identifier" in ran.err


@pytest.mark.parametrize(
    ("name", "size", "problem"),
    [("mobilenet_025", "16x16", "at least 32 x 32"), ("vgg16", "128", "takes pictures of 224x224 only")],
)
def test_a_size_that_does_not_fit_is_refused_before_anything_is_downloaded(zoo, photos, name, size, problem):
    for arguments in (("verify", name, "--data", photos), ("export", f"{name}.imagenet1k", "--top")):
        ran = zoo(*arguments, "--size", size)
        assert ran.code == 2 and problem in ran.err and size.split("x")[0] in ran.err


def test_advice_names_the_file_if_its_address_does_not(zoo, photos):
    ran = zoo("verify", "nasnet_mobile", "--data", photos)
    assert ran.code == 1 and "as nasnet_mobile.h5" in ran.err


def test_weights_that_are_not_available_come_with_advice(zoo, photos):
    ran = zoo("verify", "resnext50", "--data", photos)
    assert ran.code == 1 and "resnext50_weights_tf_dim_ordering_tf_kernels.h5" in ran.err
    assert "ZOO_WEIGHTS_DIR" in ran.err


def test_file_or_folder_names_identify_the_class(tmp_path, photos):
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


@pytest.mark.parametrize(
    "arguments", [("verify", "mnist_dense", "--data"), ("export", "mnist_dense", "--top", "--data")]
)
def test_a_network_without_a_published_classifier_says_what_to_look_at(zoo, photos, tmp_path, arguments):
    ran = zoo(*arguments, photos)
    assert (
        ran.code == 2 and "mnist_dense has no published classifier" in ran.err and "`zoo info mnist_dense`" in ran.err
    )
