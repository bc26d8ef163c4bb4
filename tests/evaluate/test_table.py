"""Metrics as text: class names stay whole, and the confusion matrix fits a terminal."""

from __future__ import annotations

import numpy as np
import pytest

from zoo.evaluate import metrics

LONG = [f"american_staffordshire_terrier_{i}" for i in range(1, 13)]


def table(names, matrix):
    """Return the lines of the table of a confusion matrix."""
    labels = np.repeat(np.arange(len(names)), np.sum(matrix, axis=1))
    predicted = np.concatenate([np.repeat(np.arange(len(names)), row) for row in matrix])
    one_hot = np.eye(len(names))
    return metrics.table(metrics.measure(one_hot[predicted], one_hot[labels], names)).splitlines()


def rows_of(lines):
    """Return the confusion matrix of a table as (letters of the columns, rows of letter, counts and name)."""
    start = next(i for i, line in enumerate(lines) if line.startswith("confusion matrix"))
    return lines[start + 1].split(), [
        line.split(maxsplit=len(lines[start + 1].split()) + 1) for line in lines[start + 2 :]
    ]


def test_long_names_can_be_told_apart_in_the_matrix():
    matrix = np.random.default_rng(0).integers(0, 9, (12, 12))
    lines = table(LONG, matrix)
    columns, rows = rows_of(lines)
    assert columns == list("ABCDEFGHIJKL")
    for i, (letter, *counts, name) in enumerate(rows):
        assert (letter, name) == ("ABCDEFGHIJKL"[i], LONG[i])
        assert [int(count) for count in counts] == matrix[i].tolist()
    assert max(map(len, lines)) <= 100


def test_every_column_lines_up_with_its_letter():
    lines = table(["a", "b", "ä" * 40], [[1234, 0, 5], [0, 12, 0], [7, 0, 99999]])
    start = next(i for i, line in enumerate(lines) if line.startswith("confusion matrix"))
    heading, *rows = lines[start + 1 :]
    ends = [heading.index(letter) + 1 for letter in "ABC"]
    for counts, row in zip(([1234, 0, 5], [0, 12, 0], [7, 0, 99999]), rows, strict=True):
        for end, count in zip(ends, counts, strict=True):
            assert row[:end].split()[-1] == str(count) and (len(row) == end or row[end] == " ")


def test_each_class_has_a_line_with_its_figures():
    lines = table(["cat", "dog"], [[3, 1], [2, 4]])
    assert lines[0].split() == ["class", "precision", "recall", "f1", "pictures"]
    assert lines[1].split() == ["cat", "0.600", "0.750", "0.667", "4"]
    assert lines[2].split() == ["dog", "0.800", "0.667", "0.727", "6"]
    assert lines[3] == "accuracy 0.70 (0.40 to 0.89 with 95 % confidence, 10 pictures)"
    assert lines[4].startswith("macro F1 0.697, loss ")
    # Short names stand at the rows and at the columns.
    assert [line.split() for line in lines[-3:]] == [["cat", "dog"], ["cat", "3", "1"], ["dog", "2", "4"]]


@pytest.mark.parametrize(("count", "shown"), [(12, True), (13, False)])
def test_a_matrix_of_many_classes_is_not_shown(count, shown):
    lines = table([f"class{i}" for i in range(count)], np.eye(count, dtype=int))
    assert any(line.startswith("confusion matrix") for line in lines) == shown


def test_several_labels_have_other_totals():
    targets = np.array([[1, 0], [1, 1], [0, 0]])
    text = metrics.table(metrics.measure(targets * 0.8 + 0.1, targets, ["cat", "dog"], multilabel=True))
    assert "\nexact match 1.00 (0.44 to 1.00 with 95 % confidence, 3 pictures)\n" in text
    assert "accuracy of single decisions 1.000, mean AP 1.000, macro F1 1.000" in text and "confusion" not in text


def test_of_very_many_classes_the_worst_are_listed():
    names = [f"class{i:03}" for i in range(300)]
    matrix = np.diag(np.full(300, 5))
    matrix[7, 7:9] = 1, 4
    lines = table(names, matrix)
    assert lines[1].split() == ["class007", "1.000", "0.200", "0.333", "5"] and lines[2].startswith("class008")
    assert lines[21] == "... and 280 more classes, with an F1 of at least 1.000" and lines[22].startswith("accuracy")
    assert len(table(names[:100], matrix[:100, :100])) > 100
