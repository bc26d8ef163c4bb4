"""Test the advice on pictures that zoo cannot read."""

import pytest

from zoo.data import kinds


@pytest.mark.parametrize("installed", [True, False])
def test_only_a_missing_package_is_to_be_installed(monkeypatch, installed):
    monkeypatch.setattr(kinds, "_reads_heic", lambda: installed)
    advice = kinds.conversion_advice({"a/IMG_1.HEIC": "CorruptPicture: damaged", "a/x.CR2": "NotAPicture: raw"})
    assert ("pip install pillow-heif" in advice) is not installed
    assert "1 .cr2 file is in a format that zoo cannot read: export them as JPEG" in advice
