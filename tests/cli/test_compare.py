"""`zoo compare`: the networks whose weights are on this computer, in a table, a plot and a choice."""

from __future__ import annotations

import csv
import json

import pytest
from PIL import Image


def test_networks_at_hand_are_compared_and_one_is_named(zoo, networks, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = zoo("compare", "--data", photos, "--seed", 3)
    assert ran.code == 0, ran.err
    assert "Comparing 2 networks on photos" in ran.out
    rows = list(csv.DictReader((tmp_path / "compare-photos" / "networks.csv").open()))
    assert sorted(row["network"] for row in rows) == ["conv4", "conv64"]
    figures = {row["network"]: row for row in rows}
    # 24 pictures of each of three classes, of which 12 are for the test.
    assert {row["pictures"] for row in rows} == {"60"}
    assert float(figures["conv64"]["accuracy"]) >= 0.9
    assert int(figures["conv64"]["bytes"]) > 4 * 75_712 > 10 * int(figures["conv4"]["bytes"]) / 1.5
    assert all(0.01 < float(row["milliseconds"]) < 100 for row in rows)
    (taken,) = [row["network"] for row in rows if row["take"] == "1"]
    assert f"Take       {taken}: " in ran.out
    assert f"Fine-tune  zoo finetune {taken} --data {photos} --seed 3" in ran.out
    with Image.open(tmp_path / "compare-photos" / "networks.png") as plot:
        assert plot.width > 800
    # The same again, with a limit that only the small one keeps.
    again = zoo("compare", "--data", photos, "--seed", 3, "--max-mb", 0.1, "--output", "other", "--json")
    result = json.loads(again.out)
    assert (result["take"], result["best"], result["fine_tune"]) == ("conv4", "conv4", ["conv4"])
    limited = zoo("compare", "--data", photos, "--seed", 3, "--max-mb", 0.1, "--output", "other")
    assert "Take       conv4: the most accurate one within the limits, and" in limited.out
    noted = {row["network"]: row["too"] for row in csv.DictReader((tmp_path / "other" / "networks.csv").open())}
    assert noted == {"conv4": "", "conv64": "large"}
    shown = {row["name"]: row for row in result["networks"]}
    assert shown["conv64"]["too"] == ["large"] and not shown["conv4"]["too"]
    assert all(f"{row['accuracy']}" == figures[name]["accuracy"] for name, row in shown.items())
    none = zoo("compare", "--data", photos, "--networks", "conv4", "--max-ms", "0.000001", "--output", "none")
    assert none.code == 1 and "No network keeps the limits" in none.out and "too slow" in none.out


def test_all_networks_are_judged_by_the_same_pictures(zoo, networks, tmp_path, monkeypatch):
    """The network with few features holds out every picture, and the one with many features a fifth of them."""
    monkeypatch.setattr("zoo.train.linear_head.LARGE", 1_000_000)
    ran = zoo("compare", "--output", tmp_path / "out", "--size", 16)
    assert ran.code == 0, ran.err
    assert "on 1528 held-out pictures" in ran.out and "on 306 held-out pictures" in ran.out
    assert "Comparing on the 306 pictures that were held out for every network" in ran.out
    rows = list(csv.DictReader((tmp_path / "out" / "networks.csv").open()))
    many, few = sorted(rows, key=lambda row: float(row["loss"]))
    assert (few["network"], many["network"]) == ("conv4", "conv64")
    for row in rows:
        assert float(row["accuracy"]) * 306 == pytest.approx(round(float(row["accuracy"]) * 306), abs=0.02)


def test_a_network_that_cannot_be_tried_costs_its_row_alone(zoo, networks, photos, tmp_path):
    (tmp_path / "conv64.weights.h5").write_bytes(b"no weights")
    ran = zoo("compare", "--data", photos, "--networks", "conv64,conv4", "--output", tmp_path / "out")
    assert ran.code == 0 and "left out: conv64: " in ran.out and "Take       conv4" in ran.out
    alone = zoo("compare", "--data", photos, "--networks", "conv64", "--output", tmp_path / "out")
    assert alone.code == 1 and "conv64" in alone.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--data", "digits"], 2, "there are no pretrained weights on this computer"),
        (["--networks", "mobilenetv9"], 2, "Did you mean mobilenetv"),
        (["--max-ms", "0"], 2, "must be a number above 0"),
        (["--data", "nowhere"], 1, "nowhere"),
        (["--networks", "mobilenetv2"], 1, "no pretrained weights here"),
    ],
)
def test_wrong_requests_are_refused(zoo, tmp_path, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    ran = zoo("compare", *arguments)
    assert ran.code == code and message in ran.err, ran.err
