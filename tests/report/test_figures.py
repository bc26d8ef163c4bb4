"""Every figure of the report page is the one in the files of the run, and this test notices any that is not."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from history_rows import write_history
from page_figures import Expected, problems, sections, wrong

from zoo import runs
from zoo.evaluate import calibration, metrics
from zoo.workflow import page

PICTURE = "data:image/png;base64,iVBORw0KGgo="


def example(names, i, said, truth, *, several=False):
    """Return an entry of examples.json."""
    return {
        "picture": f"some folder/picture \"{i}\" & 'more'.jpg",
        "sha256": f"{i:064x}",
        "truth": truth,
        "said": said,
        "confidence": None if several else 0.9876 - i / 50,
        "true_probability": None if several else 0.0021 + i / 70,
        "unknown": i % 2 == 1,
        "outlier": i % 3 == 1,
        "thumbnail": PICTURE,
        "overlay": PICTURE if i % 2 else None,
        "overlay_class": names[i % len(names)],
        "nearest": [
            {
                "picture": f"near{k}.jpg",
                "sha256": "0",
                "class": [names[k % len(names)]],
                "similarity": 0.97 - k / 9,
                "thumbnail": PICTURE,
            }
            for k in range(3)
        ],
    }


def add_files(folder, names, *, several=False):
    """Write examples.json and label_issues.json as an export does, with contents made up."""
    wrong_ones = [
        example(names, i, [names[i % len(names)]], [names[(i + 1) % len(names)]], several=several) for i in range(4)
    ]
    right_ones = [
        example(names, i + 9, [names[i % len(names)]], [names[i % len(names)]], several=several) for i in range(2)
    ]
    examples = {"schema": 1, "mistakes": wrong_ones, "right": right_ones, "gradcam": True, "gradcam_missing": None}
    (folder / "examples.json").write_text(json.dumps({**examples, "nearest_missing": "51 pictures are gone"}))
    first = [
        {
            "picture": f"a/b{i}.jpg",
            "sha256": "0",
            "part": "train",
            "class": [names[0]],
            "suggested": [names[1]],
            "probability_class": 0.011 * (i + 1),
            "probability_suggested": 0.983 - i / 100,
            "score": 0.1,
            "thumbnail": PICTURE,
        }
        for i in range(3)
    ]
    issues = {
        "schema": 1,
        "method": "5-fold",
        "judged": 1260,
        "listed": 17,
        "expected": 8.6,
        "missing": None,
        "first": first,
    }
    (folder / "label_issues.json").write_text(json.dumps(issues))


def write_predictions(folder, classes, truth, probabilities, *, several=False):
    """Write predictions.csv, and return whether each decision is right and how sure it is."""
    rows = []
    for i, (own, likely) in enumerate(zip(truth, probabilities, strict=True)):
        true = ";".join(name for name, has in zip(classes, own, strict=True) if has)
        said = ";".join(name for name, p in zip(classes, likely, strict=True) if p >= 0.5)
        said = said if several else classes[int(likely.argmax())]
        rows.append(
            {"part": "test", "picture": f"{i}.jpg", "class": true, "predicted": said, "correct": int(true == said)}
        )
    runs.Run(folder).write_predictions(rows)
    task = "multilabel" if several else "multiclass"
    return calibration.decided(probabilities, truth, task)


def made_up(finished, folder, classes, *, several=False, predictions=True, pictures=240):
    """Write a run folder with results made up: many mistakes, two phases, a threshold, warnings, odd names."""
    run, _, _ = finished
    folder.mkdir()
    rng = np.random.default_rng(len(classes))
    count = len(classes)
    if several:
        truth = (rng.random((pictures, count)) < 0.3).astype(float)
        probabilities = np.clip(truth * 0.5 + rng.random((pictures, count)) * 0.6, 0, 1)
        # A label that is never said.
        probabilities[:, 0] *= 0.4
    else:
        truth = np.eye(count)[np.arange(pictures) % count]
        raw = truth * 1.2 + rng.random((pictures, count)) ** 3 + 0.01
        probabilities = raw / raw.sum(axis=1, keepdims=True)
    test = metrics.measure(probabilities, truth, classes, multilabel=several)
    sure, right = write_predictions(folder, classes, truth, probabilities, several=several)
    if not predictions:
        (folder / "predictions.csv").unlink()
    test["calibration_error"] = calibration.reliability(sure, right)
    test["outliers"] = {"flagged": 0.0417, "flagged_interval": [0.021, 0.078]}
    after = {**calibration.reliability(sure, right), "loss": 0.1}
    before = {**calibration.reliability(sure**2, right), "loss": 0.2}
    fitted = {"method": "vector", "temperature": 1.234, "fitted_on": "validation", "pictures": 1234}
    trust = {"calibration": fitted, "reliability": {"before": before, "after": after}, "outliers": {"kept": 0.95}}
    if not several:
        curve = calibration.precision_curve(sure, right)
        trust["unknown"] = {"precision": 0.9, "threshold": 0.61234, "coverage": 0.4567, "curve": curve}
        test["sets"] = {
            key: {
                "coverage": float(key) + 0.004,
                "coverage_interval": [float(key) - 0.02, float(key) + 0.009],
                "size": 1.37,
            }
            for key in ("0.9", "0.95", "0.99")
        }
        test["unknown"] = {
            "answered": 0.43,
            "answered_interval": [0.37, 0.49],
            "precision": 0.93,
            "precision_interval": [0.87, 0.96],
        }
    record = runs.Run(run).read_record()
    data = {
        **record.data,
        "name": "<b>1 & 2</b>",
        "left_out": [{"picture": "x\"'<y>.jpg", "why": "it is cut after 3 rows"}],
    }
    phases = [
        {
            "name": name,
            "train": train,
            "epochs_run": 6,
            "optimizer": "adam",
            "learning_rate": rate,
            "moved_layers": layers,
            "moved_parameters": 12345 * len(layers),
            "seconds": 3.21,
        }
        for name, train, rate, layers in (("head", "head", 0.003, ["logits"]), ("top", "last:2", 9e-5, ["a1", "b<2>"]))
    ]
    phases.append({**phases[0], "name": "all", "moved_layers": [], "moved_parameters": 0, "left_out": "no gain: 0.01"})
    record = dataclasses.replace(
        record,
        id=folder.name,
        classes=classes,
        task="multilabel" if several else "multiclass",
        data=data,
        phases=phases,
        warnings=["1 <class> is rare", "قطط: 3 pictures"],
        best_epoch=9,
        command=["__main__.py", "finetune", "a b", "$(c)"],
        evidence={"text": "340 pictures: a gain of 0.0345"},
    )
    written = runs.Run(folder)
    written.write_record(record)
    written.write_json("metrics.json", {"test": test, "validation": test})
    written.write_json("trust.json", trust)
    write_history(
        folder,
        [
            {
                "phase": "head" if i < 6 else "top",
                "epoch": i + 1,
                "learning_rate": 0.003 / (i + 1),
                "loss": 2.5 / (i + 1),
                "accuracy": 0.5 + i / 30,
                "val_loss": "nan" if i == 3 else 2.7 / (i + 1),
                "val_accuracy": 0.45 + i / 31,
                "seconds": 1.5 + i,
            }
            for i in range(12)
        ],
    )
    add_files(folder, classes, several=several)
    return written


ODD = [
    "<script>alert(1)</script>",
    "قطط 2",
    " two  blanks",
    "q\"u'ote & 3",
    "a_name_without_any_space_that_is_wider_than_a_telephone",
]
RUNS = {
    "real": None,
    "two classes": {"classes": ["cats", "dogs"]},
    "odd names": {"classes": ODD},
    "no predictions": {"classes": ODD, "predictions": False},
    "many classes": {"classes": [*ODD, *(f"class {i}" for i in range(5, 60))]},
    "several labels": {"classes": ODD, "several": True},
    "several labels, no predictions": {"classes": ODD, "several": True, "predictions": False},
}


@pytest.fixture(scope="module")
def pages(finished, tmp_path_factory):
    """Return the page of each run, and what it should show."""
    folder = tmp_path_factory.mktemp("pages")
    found = {}
    for i, (name, values) in enumerate(RUNS.items()):
        if values is None:
            shutil.copytree(finished[0], folder / f"run{i}")
        else:
            made_up(finished, folder / f"run{i}", **values)
        path = page.write(runs.Run(folder / f"run{i}"))
        found[name] = path.read_text("utf-8"), Expected(folder / f"run{i}")
    return found


@pytest.mark.parametrize("name", RUNS)
def test_every_figure_of_the_page_is_that_of_the_files(pages, name):
    markup, expected = pages[name]
    assert problems(markup, expected) == []
    shown = {section for section, figures in expected.figures.items() if figures}
    always = {"top", "result", "trained", "curves", "classes", "calibration", "phases", "configuration", "repeat"}
    assert always <= shown
    assert ("confusion" in shown) == ("several" not in name) == ("unknown" in shown)
    if name != "real":
        assert {"mistakes", "right", "label-issues", "checked", "warnings"} <= shown
    # No section shows anything that was not compared.
    assert set(sections(markup)) == set(expected.figures) | {
        section
        for section, text in sections(markup).items()
        if 'class="missing"' in text and section not in expected.figures
    }


FIGURE = re.compile(r'(data-(?:figure|tick)="[^"]*"[^>]*>)([^<]*)<')


def altered(text: str) -> str:
    """Return a text with one digit altered, or one letter more if it has no digit."""
    for i, letter in enumerate(text):
        if letter.isdigit():
            return text[:i] + str((int(letter) + 1) % 10) + text[i + 1 :]
    return text + "x"


def swapped(texts: list[str], first: int) -> list[str]:
    """Return texts with neighbors swapped, beginning with the pair (first, first + 1)."""
    found = list(texts)
    for i in range(first, len(texts) - 1, 2):
        found[i], found[i + 1] = texts[i + 1], texts[i]
    return found


@pytest.mark.parametrize("name", ["real", "odd names", "many classes", "several labels"])
def test_a_figure_that_is_altered_hidden_or_swapped_is_noticed(pages, name):
    """All figures of a section are changed at once, and each change has to be noticed: they are compared one by one."""
    markup, expected = pages[name]
    tried = 0
    for section, text in sections(markup).items():
        if section not in expected.figures:
            continue
        compared = expected.figures[section], expected.points.get(section, {}), expected.notes.get(section, [])
        assert wrong(text, *compared) == []
        own = [match[2] for match in FIGURE.finditer(text)]
        assert len(own) == text.count("data-figure=") + text.count("data-tick=")
        for change in ([altered(each) for each in own], [""] * len(own), swapped(own, 0), swapped(own, 1)):
            texts = iter(change)
            changed = FIGURE.sub(lambda match, texts=texts: f"{match[1]}{next(texts)}<", text)
            different = sum(old != new for old, new in zip(own, change, strict=True))
            assert len(wrong(changed, *compared)) == different, section
        tried += len(own)
        for match in list(FIGURE.finditer(text))[:: max(1, len(own) // 5)]:
            # One figure alone is hidden, or loses its mark.
            assert len(wrong(text[: match.start(2)] + text[match.end(2) :], *compared)) == 1, match[0]
            assert wrong(text[: match.start()] + text[match.start(2) - 1 :], *compared), match[0]
        assert len(wrong(text + "<p>7</p>", *compared)) == 1
        # Each point of a chart at another place.
        points = re.compile(r'(<circle[^>]*data-point[^>]* cy=")([\d.]+)')
        moved = points.sub(lambda match: match[1] + str(float(match[2]) + 2), text)
        assert (
            len(wrong(moved, *compared)) == len(points.findall(text)) == sum("bar " not in each for each in compared[1])
        )
    assert tried > 250
