"""The page report.html: one file that fetches nothing and escapes everything, also for older and damaged runs."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser

import pytest

from zoo import runs
from zoo.report import charts, figure, html, results
from zoo.report.content import Content
from zoo.runs import RunRecord
from zoo.workflow import page

RECORD = RunRecord(
    id="20260131T120000Z-net-abc123",
    status="trained",
    created="2026-01-31T12:00:00Z",
    command=["/usr/lib/zoo/__main__.py", "finetune", "net", "--data", "my photos", "--name", "it's"],
    name="net-birds",
    options={"schedule": "fine-tune", "augment": "none", "seed": 0},
    architecture={"name": "net"},
    weights={"id": "net.imagenet1k", "source": "https://example.org/weights?a=1&b=2", "licence": "Apache-2.0"},
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


class Outline(HTMLParser):
    """Reads the headings, ids, links, images, tables and scripts of a page, and whether its elements are closed."""

    VOID = ("meta", "img", "input", "br")

    def __init__(self, text):
        super().__init__()
        self.headings, self.ids, self.links, self.images, self.cells, self.scripts = [], [], [], [], [], 0
        self.open, self.resources = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if "id" in given:
            self.ids.append(given["id"])
        if tag == "a":
            self.links.append(given["href"])
        if tag == "img":
            self.images.append(given)
        if tag in ("th", "table"):
            self.cells.append((tag, given))
        self.resources += [given[key] for key in ("src", "data", "srcset", "poster", "xlink:href") if key in given]
        self.scripts += tag == "script"
        assert not [key for key in given if key.startswith("on")]
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def copied(finished, tmp_path):
    """Return a copy of the finished run that a test may damage."""
    run, _, _ = finished
    shutil.copytree(run, tmp_path / run.name)
    return tmp_path / run.name


def written(folder):
    return page.write(runs.Run(folder)).read_text("utf-8")


def test_the_page_is_one_accessible_file_that_fetches_nothing(copied):
    text = written(copied)
    read = Outline(text)
    assert read.open == []
    assert read.headings[0] == 1 and read.headings.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(read.headings, read.headings[1:], strict=False))
    assert len(set(read.ids)) == len(read.ids)
    inside = [link[1:] for link in read.links if link.startswith("#")]
    assert len(inside) >= 10 and set(inside) <= set(read.ids)
    assert all(image["src"].startswith("data:image/") and image["alt"] for image in read.images)
    assert all(given["src"].startswith("data:") for given in read.images) and not [
        each for each in read.resources if not each.startswith("data:")
    ]
    assert all(given.get("scope") in ("row", "col") for tag, given in read.cells if tag == "th")
    assert all(re.search(r'role="img" aria-label="[^"]{20,}"', svg) for svg in re.findall("<svg[^>]*>", text))
    # The browser is told to fetch nothing, and to run this one script only.
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in text
    style = text[text.index("<style>") : text.index("</style>")]
    assert "@import" not in style and "url(" not in style
    for rule in ("prefers-color-scheme: dark", "@media print", "@page { size: A4", "max-width: 60rem"):
        assert rule in style


def test_names_and_texts_are_escaped_and_the_command_can_be_pasted():
    # The options of a command are marked, so that no line ends inside them.
    text = html.render(Content(record=RECORD)).replace('<span class="word">--name</span>', "--name")
    text = text.replace('<span class="word">--data</span>', "--data")
    assert "<i>" not in text and "<class>" not in text and Outline(text).scripts == 1
    assert "one &lt;class&gt; is rare" in text and "birds &lt;i&gt;&amp; more&lt;/i&gt;" in text
    assert "zoo finetune net --data &#39;my photos&#39; --name &#39;it&#39;&#34;&#39;&#34;&#39;s&#39;" in text
    assert '<a href="https://example.org/weights?a=1&amp;b=2" rel="noreferrer">' in text


def test_only_a_text_that_is_wholly_an_address_is_a_link():
    reason = "https://example.org/other cannot be reached: Failed to resolve 'example.org'"
    weights = {**RECORD.weights, "reason": reason}
    text = html.render(Content(record=dataclasses.replace(RECORD, weights=weights)))
    assert "https://example.org/other cannot be reached" in text
    assert [link for link in Outline(text).links if "example" in link] == [RECORD.weights["source"]]


@pytest.mark.parametrize(
    ("warning", "options", "reason"),
    [
        ("the network does no better than chance: if", {}, "learned nothing of use: see the warnings"),
        ("one class is rare", {"export": False}, "--no-export</span></code> was given"),
        ("one class is rare", {"wanted_precision": 0.99}, "cannot be shown: see below"),
        ("the network may do no better than chance", {}, "has no exported file"),
    ],
)
def test_a_run_without_an_exported_file_says_why(copied, warning, options, reason):
    content = page.content_of(runs.Run(copied))
    record = dataclasses.replace(content.record, warnings=[warning], options={**content.record.options, **options})
    text = html.render(dataclasses.replace(content, record=record, trust={}, exported=False))
    assert reason in text and "measured through the converted network" in text
    assert "measured through the exported network" in written(copied)


def test_a_wanted_precision_that_no_threshold_holds_is_drawn_and_explained(copied):
    content = page.content_of(runs.Run(copied))
    point = {"threshold": 0.5, "coverage": 0.4, "precision": 1.0, "lower": 0.97}
    known = {"threshold": None, "curve": [point, {**point, "coverage": 1.0, "lower": 0.9}]}
    record = dataclasses.replace(content.record, options={**content.record.options, "wanted_precision": 0.96})
    text = html.render(dataclasses.replace(content, record=record, trust={"unknown": known}))
    assert 'data-line="wanted"' in text and "wanted precision</span>" in text and "may look good by chance" in text
    assert 'data-line="chosen"' not in text and "the chosen threshold" not in text


@pytest.mark.parametrize(("epochs", "anchored"), [(3, 0), (13, 1)])
def test_a_short_first_phase_keeps_its_name_clear_of_the_line_behind_it(epochs, anchored):
    rows = [{"phase": "head" if i == 1 else "top", "epoch": i, "loss": 1 / i} for i in range(1, epochs + 1)]
    drawn = str(charts.curves(rows, "loss", None, "held-out"))
    assert ">head<" in drawn and ">top<" in drawn and drawn.count('text-anchor="end"') == anchored
    assert "on held-out pictures" in drawn


def test_a_run_without_results_and_an_older_record_still_give_a_page():
    text = html.render(Content(record=RECORD))
    assert "has not been evaluated" in text and f"<code>zoo export {RECORD.id}</code> adds this section" in text
    assert "history.csv is missing" in text and "has no trust.json" in text and "no record of a data check" in text
    assert "12.3 seconds" in text and "64 x 96" in text and "truncated" in text
    assert "cannot be shown" not in text


@pytest.mark.parametrize("name", ["trust.json", "examples.json", "label_issues.json", "metrics.json", "history.csv"])
@pytest.mark.parametrize(
    "content", [b"", b"[1]", b"{", b'{"mistakes": [{}], "unknown": {"curve": [{}]}, "test": {"a": 1}}', b"\xff\x00"]
)
def test_a_damaged_file_costs_its_section_alone(copied, name, content):
    (copied / name).write_bytes(content)
    text = written(copied)
    assert Outline(text).open == []
    assert "Repeat this run" in text and "data.counts.train" in text
    if content in (b"[1]", b"{", b"\xff\x00") and name.endswith(".json"):
        assert "damaged" in text


def test_pictures_of_an_examples_file_cannot_make_the_browser_fetch_anything(copied):
    each = {"picture": "a.jpg", "truth": ["bars"], "said": ["discs"], "thumbnail": "https://example.org/spy.png"}
    files = {"mistakes": [{**each, "overlay": "data:text/html;base64,AAAA", "overlay_class": "bars"}], "right": []}
    (copied / "examples.json").write_text(json.dumps(files))
    text = written(copied)
    assert "example.org" not in text and "text/html" not in text and text.count('<span class="nopicture"') == 1
    assert results.picture("data:image/jpeg;base64,AAAA") and not results.picture('data:image/png;base64,A" onload="x')


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        (0.2, "Hardly any of"),
        (8.6, "About"),
        (None, "The labels of"),
    ],
)
def test_doubtful_labels_are_listed_also_if_some_pictures_were_not_judged(copied, expected, text):
    issue = {"picture": "a.jpg", "class": ["bars"], "suggested": ["discs"]}
    issues = {"method": "cross-validation", "judged": 300, "listed": 30, "expected": expected, "first": [issue]}
    missing = "70 training pictures are not judged. `--cv` judges them"
    (copied / "label_issues.json").write_text(json.dumps({**issues, "missing": missing}))
    (copied / "label_issues.html").write_text("")
    page_text = written(copied)
    assert f"<p>{text}" in page_text and '<a href="label_issues.html">' in page_text and "a.jpg" in page_text
    option = '<code><span class="word">--cv</span></code>'
    assert f"70 training pictures are not judged. {option} judges them" in page_text
    nothing = {**issues, "judged": 0, "listed": 0, "first": [], "missing": "no picture was held out"}
    (copied / "label_issues.json").write_text(json.dumps(nothing))
    assert "Labels were not checked: no picture was held out." in written(copied)


def test_a_picture_without_a_heat_map_says_why_beside_those_that_have_one(copied):
    each = {"picture": "a.jpg", "truth": ["bars"], "said": ["discs"], "overlay_class": "discs", "overlay": None}
    image = "data:image/png;base64,AAAA"
    whole = {**each, "thumbnail": image, "overlay": image}
    alone = {**each, "thumbnail": image, "overlay_missing": "no part speaks for it"}
    (copied / "examples.json").write_text(json.dumps({"mistakes": [whole, alone], "right": [alone]}))
    text = written(copied)
    # No picture of the other section has a heat map, so that it has no place for one.
    assert text.count("no part speaks for it") == 1 and text.count('class="pair alone"') == 1


def test_links_go_only_to_files_that_are_there(copied):
    for name in page.LINKED:
        (copied / name).unlink(missing_ok=True)
    assert 'href="label_issues' not in written(copied) and 'href="predictions' not in written(copied)
    (copied / "predictions.csv").write_text("part\n")
    assert '<a href="predictions.csv">' in written(copied)


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
    assert figure.format_cell(column, value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1.000"), (0, "0.000"), (0.99996, "0.99996"), (0.9999999, "1.000000"), (0.0004, "0.0004"), (0.5, "0.500")],
)
def test_a_fraction_is_rounded_to_1_only_if_it_is_1(value, text):
    assert figure.shown(value) == text


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.95, 1, [0.95, 0.96, 0.97, 0.98, 0.99, 1]),
        (0, 5000, [0, 1000, 2000, 3000, 4000, 5000]),
    ],
)
def test_ticks_are_round_numbers(low, high, ticks):
    assert charts.Axis(low, high, 0, 100).ticks() == pytest.approx(ticks)


def test_epochs_have_whole_numbers_and_skewed_losses_a_logarithmic_axis():
    assert charts.Axis(1, 3, 0, 100, whole=True).ticks() == [1, 2, 3]
    rows = [
        {"phase": "a", "epoch": i + 1, "loss": 10.0 ** (3 - i), "val_loss": 0.01, "accuracy": "nan", "val_accuracy": ""}
        for i in range(4)
    ]
    drawn = str(charts.curves(rows, "loss", None))
    assert "190 24 log" in drawn and [float(text) for text in re.findall(r'data-tick="y"[^>]*>([^<]*)', drawn)] == [
        0.01,
        0.1,
        1,
        10,
        100,
        1000,
    ]
    assert charts.curves(rows, "accuracy", None) is None and charts.curves(rows[:1], "loss", None) is None
    flat = [{**row, "loss": 0.0, "val_loss": 0.0} for row in rows]
    assert "nan" not in str(charts.curves(flat, "loss", 2))
