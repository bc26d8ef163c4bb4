"""A training on pictures with copies and animals: run.json, the report and `zoo evaluate` know of both."""

from __future__ import annotations

import csv
import json
from collections import defaultdict

from PIL import Image, ImageOps

from zoo import runs
from zoo.reporter import Reporter
from zoo.workflow.own_pictures import reload_dataset


def test_a_run_keeps_animals_and_copies_on_one_side_and_says_so(zoo, tmp_path, scenes, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for label, base in (("cat", 0), ("dog", 100)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for animal in range(10):
            for i in range(3):
                path = tmp_path / "photos" / label / f"{label}{animal}-{i}.jpg"
                scenes(base + 3 * animal + i).save(path, quality=92)
        again = ImageOps.mirror(Image.open(tmp_path / "photos" / label / f"{label}4-1.jpg"))
        again.save(tmp_path / "photos" / label / "again.jpg", quality=60)
    options = ("--size", 32, "--epochs", 1, "--batch-size", 8, "--weights", "none", "--no-export", "--allow-chance")
    ran = zoo("finetune", "mnist_convnet", "--data", "photos", *options, "--group-by", r"(\w+\d)-")
    assert ran.code == 0, ran.err
    assert "2 of 62 pictures are not matched by --group-by" in ran.err
    assert "Near-duplicates: 4 pictures in 2 groups; each group stays on one side of the split." in ran.out
    (run,) = (tmp_path / "runs").iterdir()
    record = json.loads((run / "run.json").read_text("utf-8"))
    assert record["options"]["group_by"] == r"(\w+\d)-"
    assert record["data"]["check"]["near_duplicates"]["number_of_groups"] == 2
    assert record["data"]["split"].endswith(r"grouped by '(\\w+\\d)-'")
    sides, groups, held_out = defaultdict(set), defaultdict(set), set()
    with (run / "pictures.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            name = row["picture"].rpartition("/")[2]
            animal = f"{row['class']}4" if name == "again.jpg" else name.partition("-")[0]
            sides[animal].add(row["part"])
            groups[animal].add(row["group"])
            held_out |= {animal} if row["part"] == "val" else set()
    assert len(sides) == 20 and all(len(parts) == 1 for parts in sides.values())
    # Every animal is one group, and promises count it once.
    assert all(len(texts) == 1 for texts in groups.values()) and len(set.union(*groups.values()) - {""}) == 20
    trust = json.loads((run / "trust.json").read_text("utf-8"))
    assert trust["unknown"]["pictures"] == len(held_out) < trust["calibration"]["pictures"]
    again = reload_dataset(runs.Run(run), runs.Run(run).read_record(), None, Reporter())
    names = [each.name.rpartition("/")[2] for each in again.source.pictures]
    assert {text for name, text in zip(names, again.groups, strict=True) if name.startswith("cat3-")} == groups["cat3"]
    # Runs of earlier versions know of copies alone.
    (run / "pictures.csv").write_text(
        "".join(line.rpartition(",")[0] + "\n" for line in (run / "pictures.csv").read_text("utf-8").splitlines())
    )
    older = reload_dataset(runs.Run(run), runs.Run(run).read_record(), None, Reporter())
    assert older.together is None and list(older.groups) == list(older.pixels.digests)
    page = (run / "report.html").read_text("utf-8")
    assert "Data check" in page and "Near-duplicates: 4 pictures in 2 groups" in page and "Kept together by" in page
    evaluated = zoo("evaluate", run, "--json")
    assert evaluated.code == 0, evaluated.err
    assert json.loads(evaluated.out)["pictures"] == record["data"]["counts"]["test"]
