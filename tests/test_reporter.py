"""Timing: steps within steps, steps of one name, what no step covers, and the table; the silent reporter."""

from __future__ import annotations

import pytest

from zoo import reporter
from zoo.reporter import Reporter, Timing


class Clock:
    """Stands in for `time.perf_counter`; advances only when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(reporter.time, "perf_counter", clock.perf_counter)
    return clock


def test_steps_within_steps(clock):
    timing = Timing()
    with timing.measure("train"):
        clock.now += 2
        with timing.measure("fit"):
            clock.now += 3
        with timing.measure("judge"):
            clock.now += 1
    with timing.measure("export"):
        clock.now += 4
    assert timing.rows() == [
        (("train",), 6),
        (("train", "fit"), 3),
        (("train", "judge"), 1),
        (("train", "other"), 2),
        (("export",), 4),
    ]


def test_steps_of_one_name_add_up_within_the_same_step_only(clock):
    timing = Timing()
    for _ in range(3):
        with timing.measure("train"), timing.measure("read"):
            clock.now += 1
    with timing.measure("read"):
        clock.now += 5
    timing.add("read", 0.5)
    with timing.measure("train"):
        timing.add("read", 0.25)
        clock.now += 0.25
    assert dict(timing.rows())[("train", "read")] == 3.25
    assert dict(timing.rows())[("read",)] == 5.5
    assert dict(timing.rows())[("train",)] == 3.25


def test_steps_stand_in_the_order_in_which_they_began(clock):
    timing = Timing()
    for step in ("second", "first", "second"):
        with timing.measure(step):
            clock.now += 1
    assert [key for key, _ in timing.rows()] == [("second",), ("first",)]


def test_what_no_step_covers_is_called_other(clock):
    timing = Timing()
    assert timing.rows() == [], "without steps there is nothing to compare with"
    with timing.measure("read"):
        clock.now += 1
    clock.now += 0.04
    assert [key for key, _ in timing.rows()] == [("read",)], "less than 0.05 s is not worth a line"
    clock.now += 2
    assert timing.rows()[-1] == (("other",), pytest.approx(2.04))


def test_a_step_that_fails_is_counted_and_closed(clock):
    timing = Timing()
    with pytest.raises(RuntimeError), timing.measure("train"):
        clock.now += 2
        raise RuntimeError
    with timing.measure("export"):
        clock.now += 1
    assert timing.rows() == [(("train",), 2), (("export",), 1)]


def test_the_table(clock, monkeypatch):
    timing = Timing()
    with timing.measure("train"):
        clock.now += 1
        with timing.measure("fit"):
            clock.now += 5
    clock.now += 2
    monkeypatch.setattr(reporter, "peak_memory", lambda: 1_250_000_000)
    assert timing.table().splitlines() == [
        " seconds   share  step",
        "    6.00   75.0%  train",
        "    5.00   62.5%    fit",
        "    1.00   12.5%    other",
        "    2.00   25.0%  other",
        "    8.00  100.0%  in all",
        "Peak memory 1.25 GB",
    ]
    monkeypatch.setattr(reporter, "peak_memory", lambda: None)
    assert "memory" not in timing.table()


def test_peak_memory_is_in_bytes():
    """Python with numpy needs more than 10 MB, and a test less than a terabyte; kilobytes would be below the first."""
    assert 1e7 < reporter.peak_memory() < 1e12


def test_a_reporter_is_silent_unless_it_is_overridden(capsys):
    silent = Reporter()
    silent.say("done")
    silent.warn("mind")
    silent.block("title", "text")
    with silent.progress("reading") as update:
        update(1, 2)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
