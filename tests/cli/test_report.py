"""The command `zoo report`: which run it takes, what it needs, and what it says where there is no browser."""

from __future__ import annotations

import json
import shutil
import webbrowser

import pytest


@pytest.fixture
def copied(finished, tmp_path):
    """Return a copy of the finished run with nothing but the files that a report needs."""
    run, _, _ = finished
    folder = tmp_path / "runs" / run.name
    folder.mkdir(parents=True)
    for name in ("run.json", "metrics.json", "history.csv", "trust.json"):
        shutil.copy(run / name, folder)
    return folder


def test_it_writes_the_page_again_by_path_and_by_id(zoo, copied, monkeypatch):
    monkeypatch.setattr(webbrowser, "open", lambda address: pytest.fail("a browser was opened"))
    for words in ((copied,), (copied.name, "--runs", copied.parent)):
        ran = zoo("report", *words)
        assert (ran.code, ran.err, ran.out) == (0, "", f"Report     {copied / 'report.html'}\n")
        accuracy = json.loads((copied / "metrics.json").read_text())["test"]["accuracy"]
        assert f'<span data-figure="test.accuracy">{accuracy:.3f}' in (copied / "report.html").read_text()
        (copied / "report.html").unlink()


@pytest.mark.parametrize("works", [True, False, webbrowser.Error("no browser")])
def test_it_opens_the_page_or_says_that_there_is_no_browser(zoo, copied, monkeypatch, works):
    asked = []

    def browser(address):
        asked.append(address)
        if isinstance(works, Exception):
            raise works
        return works

    monkeypatch.setattr(webbrowser, "open", browser)
    ran = zoo("report", copied, "--open")
    assert ran.code == 0 and asked == [(copied / "report.html").as_uri()]
    assert ran.err == "" if works is True else f"Open {asked[0]} in one" in ran.err


def test_errors_name_the_run_and_what_to_do(zoo, finished, copied, tmp_path):
    run, exported, _ = finished
    ran = zoo("report", copied.name[:-1], "--runs", copied.parent)
    assert ran.code == 2 and f"Did you mean {copied.name}?" in ran.err
    ran = zoo("report", exported / "shapes", "--open", "--runs", run.parent)
    assert ran.code == 2 and f"is an export, not a run. It came from {run}: `zoo report {run} --open`" in ran.err
    assert zoo("report").code == 2
    ran = zoo("report", copied, copied)
    assert ran.code == 2 and "is named twice" in ran.err
    assert zoo("report", copied, "--json").code == 2
    record = json.loads((copied / "run.json").read_text())
    (copied / "run.json").write_text(json.dumps({**record, "status": "interrupted"}))
    ran = zoo("report", copied)
    assert ran.code == 1 and "training did not finish (status 'interrupted')" in ran.err
    assert not (copied / "report.html").exists()
    (copied / "run.json").write_text("{")
    assert zoo("report", copied).code == 1
