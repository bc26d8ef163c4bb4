"""Files that zoo does not read as lists: each gets one line that says what it is and what to do."""

from __future__ import annotations

import os

import pytest

from zoo.data.sources import open_source
from zoo.errors import DataLayout


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(DataLayout, match="is not a regular file"):
        open_source(str(tmp_path / "a.csv"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.xlsx", "is a spreadsheet. Save the sheet as CSV"),
        ("a.ODS", "is a spreadsheet"),
        ("a.sqlite", "is a database"),
        ("a.npy", r"holds a single array.*np.savez\('data.npz', x_train=x, y_train=y\)"),
        ("a.mat", r"is a file of arrays that zoo does not read.*np.savez"),
        ("a.h5", r"is a file of arrays that zoo does not read.*np.savez"),
        ("a.pkl", "is a pickle, which zoo never loads"),
        ("a.pt", "is a pickle, which zoo never loads"),
        ("a.zip", "is an archive. Unpack it"),
        ("a.tfrecord", "is a TFRecord file"),
        ("a.md", r"is a file, but not a list that zoo reads: \.csv"),
    ],
)
def test_other_files_get_one_line(tmp_path, name, message):
    (tmp_path / name).write_bytes(b"content")
    with pytest.raises(DataLayout, match=message) as error:
        open_source(str(tmp_path / name))
    assert "\n" not in str(error.value)
