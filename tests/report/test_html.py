"""The page report.html: readable figures, escaped names, and boxes that keep wide tables inside the page."""

from __future__ import annotations

import dataclasses
import re

import pytest

from zoo.report import html
from zoo.runs import RunRecord

RECORD = RunRecord(
    id="20260131T120000Z-net-abc123",
    status="trained",
    created="2026-01-31T12:00:00Z",
    command=["zoo", "finetune", "net"],
    name="net-birds",
    options={"schedule": "fine-tune", "augment": "none", "seed": 0},
    architecture={"name": "net"},
    weights={"id": "net.imagenet1k"},
    augmentation={"name": "none", "parameters": {}},
    image={"size": [64, 96], "resize": "squash"},
    classes=[],
    data={
        "name": "birds <i>& more</i>",
        "counts": {"train": 70, "val": 15, "test": 15},
        "split": "70 % / 15 % / 15 %",
        "left_out": {"a.jpg": "truncated"},
    },
    plugins=[],
    versions={},
    seconds={"train": 12.3456},
    warnings=["one <class> is rare"],
    best_epoch=2,
)
NAMES = ["<b>owl</b>", "a_name_without_any_space_that_is_wider_than_a_telephone"]
METRICS = {
    "test": {
        "accuracy": 0.9333333,
        "pictures": 15,
        "classes": NAMES,
        "per_class": {name: {"precision": 1.0, "recall": 0.87654321, "f1": 0.5, "pictures": 7} for name in NAMES},
        "confusion_matrix": [[7, 0], [1, 7]],
    },
    "validation": {"accuracy": 0.8666667},
}
# Texts, as they are read from history.csv.
HISTORY = [
    {
        "phase": "head",
        "epoch": str(epoch),
        "learning_rate": "0.002991294953972101",
        "seconds": "1.25",
        "loss": "0.123456789",
        "accuracy": "0.98765",
        "val_loss": "nan" if epoch == 1 else "2.5",
        "val_accuracy": "",
    }
    for epoch in (1, 2)
]


def cells(page: str, tag: str) -> list[str]:
    return re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", page, re.DOTALL)


def test_every_column_has_a_heading_in_words_and_a_format_of_its_own():
    page = html.render(RECORD, METRICS, HISTORY)
    assert cells(page, "th")[-8:] == [
        *("phase", "epoch", "learning rate", "seconds"),
        *("training loss", "training accuracy", "validation loss", "validation accuracy"),
    ]
    assert cells(page, "td")[-16:-8] == ["head", "1", "0.00299", "1.2", "0.1235", "0.9877", "nan", "-"]
    assert cells(page, "td")[-2:] == ["2.5000", "-"]
    assert "0.8765" in page and "0.9333" in page and "12.3 seconds" in page and "64 x 96 pixels" in page


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("learning_rate", "3e-05", "3e-05"),
        ("learning_rate", 0.01, "0.01"),
        ("val_loss", 10, "10.0000"),
        ("seconds", "100.04", "100.0"),
        ("epoch", "12", "12"),
        ("phase", "1e3", "1e3"),
        ("phase", "from:block5", "from:block5"),
        ("loss", "inf", "inf"),
        ("a_column_to_come", "0.123456789", "0.123456789"),
        ("accuracy", None, "-"),
    ],
)
def test_cells(column, value, text):
    assert html.format_cell(column, value) == text


def test_names_are_escaped_and_wide_tables_scroll_in_a_box():
    page = html.render(RECORD, METRICS, HISTORY, curves="curves.png")
    assert "<b>owl" not in page and "<i>" not in page and "<class>" not in page
    assert "&lt;b&gt;owl&lt;/b&gt;" in page and "one &lt;class&gt; is rare" in page
    assert page.count('<div class="scroll"><table') == page.count("<table") == 4
    assert page.count(f'<td dir="auto" class="long">{NAMES[1]}</td>') == 2
    assert "http://" not in page and "https://" not in page and "<script" not in page


def test_a_run_without_figures_and_an_older_record_still_give_a_page():
    record = dataclasses.replace(RECORD, best_epoch=None, seconds={}, weights={})
    page = html.render(record, {}, [])
    assert "Test accuracy" not in page and "<img" not in page and "were kept" not in page
    assert "not measured" in page and "random" in page


def test_several_labels_per_picture():
    test = {
        **METRICS["test"],
        "exact_match": 0.8,
        "exact_match_interval": [0.5481, 0.9295],
        "mean_average_precision": 0.7,
    }
    del test["confusion_matrix"]
    page = html.render(RECORD, {**METRICS, "test": test}, HISTORY)
    assert "Test exact match: <b>0.80 (0.55 to 0.93 with 95 % confidence, 15 pictures)</b>" in page
    assert "single decisions, 0.933 are right" in page
    assert "mean average precision is\n0.700" in page and "Confusion" not in page


def test_the_accuracy_has_its_interval():
    """Figures of earlier versions have none."""
    test = {**METRICS["test"], "accuracy_interval": [0.7018, 0.9881]}
    page = html.render(RECORD, {**METRICS, "test": test}, HISTORY)
    assert "Test accuracy: <b>0.93 (0.70 to 0.99 with 95 % confidence, 15 pictures)</b>" in page
    assert "Validation accuracy: 0.8667" in page
