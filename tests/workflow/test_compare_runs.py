"""`zoo report A B`: the paired test on shared test pictures, what is left out of it, and the page."""

from __future__ import annotations

import csv
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from scipy.stats import binomtest

CLASSES = ("bars", "discs", "noise")


@pytest.fixture
def runs(finished, tmp_path, monkeypatch):
    """A function that makes a run by copying a finished one, with answers of our choice; in the current folder."""
    monkeypatch.chdir(tmp_path)

    def make(name: str, wrong=(), *, moved=(), dropped=(), answers=True, record=None):
        """Copy the run.

        Args:
            name: The id of the copy.
            wrong: Places of the test pictures that it gets wrong.
            moved: Places of test pictures that are training pictures of this run.
            dropped: Places of test pictures that this run does not have.
            answers: Whether there is predictions.csv.
            record: Entries of run.json to change.
        """
        copy = tmp_path / "runs" / name
        shutil.copytree(finished[0], copy)
        old = json.loads((copy / "run.json").read_text())
        (copy / "run.json").write_text(json.dumps({**old, **(record or {}), "id": name}))
        with (copy / "pictures.csv").open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        tested = [row for row in rows if row["part"] == "test"]
        for place in moved:
            tested[place]["part"] = "train"
        gone = [tested[place] for place in dropped]
        write(copy / "pictures.csv", [row for row in rows if row not in gone])
        (copy / "predictions.csv").unlink(missing_ok=True)
        if answers:
            listed = [answer(row, place in wrong) for place, row in enumerate(tested) if row not in gone]
            write(copy / "predictions.csv", [row for row in listed if row["part"] == "test"], like=listed)
        return copy

    return make


def answer(row: dict[str, str], wrong: bool) -> dict[str, object]:
    said = CLASSES[(CLASSES.index(row["class"]) + wrong) % 3]
    empty = ("second", "second_probability", "unknown", "outlier_score", "outlier")
    figures = {"correct": int(not wrong), "confidence": 0.75, "true_probability": 0.75 - wrong / 2}
    keys = ("part", "sha256", "picture", "class")
    return {**{key: row[key] for key in keys}, "predicted": said, **figures, **dict.fromkeys(empty, "")}


def write(path, rows, like=()):
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, next(iter([*rows, *like])))
        writer.writeheader()
        writer.writerows(rows)


class Reader(HTMLParser):
    """Collects the text of a page, the addresses that it loads, and its exact values."""

    def __init__(self, page: str):
        super().__init__()
        self.words, self.loaded, self.values, self.rows = [], [], [], []
        self.in_cell = False
        self.feed(page)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.loaded += [given[key] for key in ("src", "href") if key in given]
        if "data-value" in given:
            self.values.append(float(given["data-value"]))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag):
        self.in_cell &= tag not in ("td", "th")

    def handle_data(self, data):
        self.words.append(data)
        if self.in_cell:
            self.rows[-1][-1] = f"{self.rows[-1][-1]} {data}".strip()


def test_two_runs_on_the_same_test_pictures(zoo, runs):
    runs("one", wrong=range(7))
    runs("two", wrong=(0,), record={"seed_note": 1, "classes": list(CLASSES)})
    ran = zoo("report", "one", "two", "--json")
    assert ran.code == 0, ran.err
    compared = json.loads(ran.out)
    (pair,) = compared["pairs"]
    result = pair["result"]
    assert [result[key] for key in ("pictures", "both", "only_first", "only_second", "neither")] == [12, 5, 0, 6, 1]
    assert result["accuracies"] == [5 / 12, 11 / 12] and result["difference"] == pytest.approx(0.5)
    assert result["p_value"] == pytest.approx(binomtest(0, 6, 0.5).pvalue) == result["corrected_p_value"]
    low, high = result["interval"]
    assert 0.1 < low < 0.5 < high < 0.8 and pair["notes"] == []
    assert pair["conclusion"] == "B is better than A (p = 0.031)."
    assert [row["right"] for row in pair["differing"]] == ["second"] * 6
    # They are wrong in the same way about picture 0, which is not listed.
    assert all(row["confidence"] == [0.75, 0.75] for row in pair["differing"])

    ran = zoo("report", "one", "two")
    assert ran.code == 0 and "only A 0, only B 6, neither 1" in ran.out and "p = 0.031" in ran.out
    assert ran.out.rstrip().endswith("comparison.html")
    page = Reader(Path("comparison.html").read_text("utf-8"))
    metrics = json.loads(Path("runs/one/metrics.json").read_text())["test"]
    assert page.loaded == [] and metrics["accuracy"] in page.values
    assert result["difference"] in page.values and result["p_value"] in page.values
    assert ["A right", "5", "0"] in page.rows and ["A wrong", "6", "1"] in page.rows
    listed = {row[0] for row in page.rows if row[-1:] == ["B"]}
    assert {row["picture"] for row in pair["differing"]} <= listed


def test_pictures_that_trained_the_other_run_do_not_count(zoo, runs):
    runs("one", wrong=(0, 1, 2))
    runs("two", wrong=(5,), moved=(0, 1), dropped=(3,))
    ran = zoo("report", "runs/one", "runs/two", "--json")
    (pair,) = json.loads(ran.out)["pairs"]
    assert pair["result"]["pictures"] == 9 and pair["result"]["only_second"] == 1
    assert pair["notes"] == [
        "2 test pictures of A were used to train B, or to decide about its training, and cannot be used.",
        "1 test picture of A is no test picture of B.",
    ]
    ran = zoo("report", "two", "one")
    assert "2 test pictures of B were used to train A" in ran.out


def test_no_shared_picture_gives_no_test(zoo, runs):
    runs("one")
    runs("two", moved=range(11), dropped=(11,))
    runs("three", answers=False)
    ran = zoo("report", "one", "two", "three")
    assert ran.code == 0 and "B against A: not tested. A and B have no test picture in common" in ran.out
    assert (
        "C against A: not tested. three has no predictions.csv" in ran.out and "`zoo export runs/three` adds" in ran.out
    )


def test_several_runs_are_corrected_and_what_differs_is_listed(zoo, runs):
    old = json.loads((runs("one", wrong=range(6)) / "run.json").read_text())
    runs("two", record={"options": {**old["options"], "seed": 7}})
    runs("three", wrong=range(6), record={"data": {**old["data"], "digest": "0" * 64}})
    ran = zoo("report", "one", "two", "three", "--json", "--output", "page.html")
    compared = json.loads(ran.out)
    first, second = (pair["result"] for pair in compared["pairs"])
    assert first["p_value"] == pytest.approx(2 / 64) and first["corrected_p_value"] == pytest.approx(4 / 64)
    assert second["p_value"] == second["corrected_p_value"] == 1
    assert "do not show" in compared["pairs"][0]["conclusion"] and "2 comparisons" in compared["pairs"][0]["conclusion"]
    assert compared["pairs"][1]["conclusion"] == "A and C are right and wrong on the same pictures."
    assert compared["settings"] == [
        {"name": "options.seed", "values": [old["options"]["seed"], 7, old["options"]["seed"]]}
    ]
    assert [row["name"] for row in compared["data"]] == ["digest"] and compared["versions"] == []
    page = Reader(Path("page.html").read_text("utf-8"))
    assert ["options.seed", "0", "7", "0"] in page.rows


def test_several_labels_are_right_if_all_are(zoo, runs):
    names = {"task": "multilabel"}
    for name in ("one", "two"):
        copy = runs(name, record=names)
        with (copy / "predictions.csv").open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        for place, row in enumerate(rows):
            # The order in which labels are joined says nothing.
            labels = ["bars", "discs"] if name == "one" else ["discs", "bars"]
            row |= {"class": ";".join(labels), "predicted": ";".join(labels), "confidence": "", "true_probability": ""}
            if place == 0 and name == "one":
                row |= {"predicted": "", "correct": "0"}
        write(copy / "predictions.csv", rows)
    ran = zoo("report", "one", "two", "--json")
    (pair,) = json.loads(ran.out)["pairs"]
    assert pair["result"]["pictures"] == 12 and pair["result"]["only_second"] == 1
    assert [row["predicted"] for row in pair["differing"]] == [["", "discs;bars"]]
    assert zoo("report", "one", "two").code == 0 and "no class" in Path("comparison.html").read_text("utf-8")


def test_what_cannot_be_compared(zoo, runs, tmp_path):
    copy = runs("one")
    runs("two", record={"status": "running"})
    ran = zoo("report", "one", copy)
    assert ran.code == 2 and "named twice" in ran.err
    ran = zoo("report", "one", "two")
    assert ran.code == 1 and "did not finish" in ran.err
    runs("three")
    (tmp_path / "comparison.html").write_text("my page")
    ran = zoo("report", "one", "three")
    assert ran.code == 2 and "is not an earlier comparison" in ran.err and "--output" in ran.err
    assert (tmp_path / "comparison.html").read_text() == "my page"
    assert zoo("report", "one", "three", "--output", "comparison.html").code == 0
    assert zoo("report", "one", "three").code == 0
    assert zoo("report", "one", "three", "--output", "x.png").code == 2
    ran = zoo("report", "one", "three", "--output", "no/folder.html")
    assert ran.code == 1 and "does not exist" in ran.err
    text = (copy / "predictions.csv").read_text()
    (copy / "predictions.csv").write_text(re.sub(r",1,0.75,", ",yes,0.75,", text, count=1))
    ran = zoo("report", "one", "three")
    assert ran.code == 1 and "is damaged" in ran.err and "zoo export" in ran.err
