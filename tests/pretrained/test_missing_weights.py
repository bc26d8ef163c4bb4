"""The block on missing weights: what is wrong with ZOO_WEIGHTS_DIR, and which files would do."""

from __future__ import annotations

import pytest

from zoo.pretrained import select
from zoo.reporter import Reporter


class Listener(Reporter):
    """Keeps what is reported."""

    def __init__(self):
        super().__init__()
        self.texts: list[str] = []

    def say(self, text):
        self.texts.append(text)

    def block(self, title, text):
        self.texts.append(text)


def block(plugins, schedule: str | None = None) -> str:
    reporter = Listener()
    architecture = plugins.architecture("mobilenetv2_035")
    select.choose(architecture, None, "auto", (96, 96), plugins, reporter).report(reporter, schedule)
    (text,) = reporter.texts
    return text


@pytest.mark.parametrize("made", [False, True])
def test_a_wrong_folder_of_weights_is_named(plugins, tmp_path, monkeypatch, made):
    folder = tmp_path / "weights"
    if made:
        folder.mkdir()
    monkeypatch.setenv("ZOO_WEIGHTS_DIR", str(folder))
    problem = "which holds no weights files" if made else "which is not a folder"
    assert block(plugins).endswith(f"ZOO_WEIGHTS_DIR names {str(folder)!r}, {problem}.")


def test_a_folder_with_other_weights_and_no_folder_are_not_blamed(plugins, tmp_path, monkeypatch):
    assert "ZOO_WEIGHTS_DIR names" not in block(plugins)
    (tmp_path / "other.h5").write_bytes(b"other")
    monkeypatch.setenv("ZOO_WEIGHTS_DIR", str(tmp_path))
    assert "ZOO_WEIGHTS_DIR names" not in block(plugins)


def test_a_file_for_another_size_is_named_too(plugins):
    text = block(plugins)
    assert "_0.35_96_no_top.h5" in text
    assert "for another picture size work too: mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top" in text


def test_the_schedule_is_named_only_if_zoo_chooses_it(plugins):
    assert "It will need more pictures and epochs than with pretrained weights. The schedule is 'scratch'.\n" in block(
        plugins
    )
    assert "schedule" not in block(plugins, "full")
