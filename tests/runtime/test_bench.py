"""Test `zoo-runtime bench` and `tune`: plausible figures, and settings that are saved, used and ignored."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import zoo_runtime
from zoo_runtime import Predictor, Settings, _bench, _busy, _cores, _session, _tune
from zoo_runtime.cli import main

ONE_THREAD = Settings(threads=1, spinning=False)
RED = np.full((30, 40, 3), (250, 0, 0), np.uint8)


@pytest.fixture
def run(capsys):
    def call(*arguments):
        code = main([os.fspath(a) if isinstance(a, os.PathLike) else str(a) for a in arguments])
        return code, capsys.readouterr().out

    return call


def test_bench(run, model, pictures):
    code, out = run("bench", model, pictures, "--seconds", 0.05, "--json")
    assert code == 0
    figures = json.loads(out)
    (why,) = figures["left_out"]
    assert "damaged.jpg" in why
    assert figures["pictures"] == 3 and figures["settings"]["providers"] == ["cpu"]
    assert figures["megabytes"] == pytest.approx(model.stat().st_size / 1e6)
    for key in ("latency", "decoding", "network"):
        assert 0 < figures[key]["p50"] <= figures[key]["p90"] <= figures[key]["p99"] < 1000
    # Half is enough: these are timed one after the other, and the machine may be busy.
    assert figures["latency"]["p50"] > figures["decoding"]["p50"] / 2
    assert 0.03 < figures["start"]["seconds"] < 60 and 20 < figures["start"]["peak_megabytes"] < 2000
    rows = figures["throughput"]
    assert {row["batch"] for row in rows} == {1, 8} and min(row["threads"] for row in rows) == 1
    assert all(row["network"] > 1 for row in rows)
    assert all(figures["folder"][key] > 1 for key in ("per_second", "decoding_alone", "network_alone"))


def test_bench_in_words_with_the_files_own_pictures(run, model):
    code, out = run("bench", model.parent, "--threads", 1, "--seconds", 0.01)
    assert code == 0
    for text in ("2 pictures", "cpu, 1 thread", "photo to label", "cold start", "batch 8", "in a row"):
        assert text in out
    assert "1 thread, " in out and "1 threads" not in out


def test_tune_states_the_rule_that_was_applied(run, model, monkeypatch):
    """Other settings may be faster than the default in every round, but not by enough."""
    quickest = _tune.quickest
    taken = {Settings(): [[1.0]] * 3, ONE_THREAD: [[0.98]] * 3}
    monkeypatch.setattr(_tune, "quickest", lambda _: quickest(taken))
    code, out = run("tune", model, "--seconds", 0.01)
    (line,) = [line for line in out.splitlines() if line.startswith("why")]
    assert code == 0 and "no other settings were more than 3% faster than the default in each of 3 rounds" in line
    taken[ONE_THREAD] = [[0.9]] * 3
    code, out = run("tune", model, "--seconds", 0.01)
    (line,) = [line for line in out.splitlines() if line.startswith("why")]
    assert code == 0 and "more than 3% faster than the default in each of 3 rounds; among such settings" in line


def test_bench_takes_options_before_the_pictures(run, model, pictures):
    code, out = run("bench", model, "--seconds", 0.01, "--json", pictures / "red.jpg")
    assert code == 0 and json.loads(out)["pictures"] == 1


def test_compare(run, model, pictures, tmp_path):
    other = shutil.copytree(model.parent, tmp_path / "other")
    code, out = run("bench", "--compare", model, other, pictures, "--json")
    assert code == 0
    figures = json.loads(out)
    assert figures["pictures"] == figures["equal_labels"] == 3
    for key in ("latency", "network"):
        low, high = figures[key]["middle_half"]
        assert low <= figures[key]["ratio"] <= high and figures[key]["first"] > 0
    code, out = run("bench", "--compare", model, other)
    assert code == 0 and "equal for 2 of 2" in out


def test_tune_keeps_what_it_finds(run, model):
    before = Predictor(model)(RED)
    code, out = run("tune", model, "--seconds", 0.05, "--json")
    assert code == 0
    result = json.loads(out)
    kept = json.loads((model.parent / "model.tuned.json").read_text())
    assert result["file"] == str(model.parent / "model.tuned.json") and kept["settings"] == result["settings"]
    assert {row["threads"] for row in result["table"]} >= {1} and {row["arena"] for row in result["table"]} == {
        True,
        False,
    }
    (chosen,) = [row for row in result["table"] if {key: row[key] for key in result["settings"]} == result["settings"]]
    assert result["usual"] or chosen["p50"] < result["table"][0]["p50"]
    predictor = Predictor(model)
    assert predictor.settings.to_json()["threads"] == result["settings"]["threads"]
    assert predictor(RED) == before
    assert not [p.name for p in model.parent.iterdir() if "tmp" in p.name]


@pytest.mark.parametrize(
    "rounds, expected",
    [
        ([[10, 10, 10], [9, 9, 9], [8, 8, 8]], 2),
        # Two faster rounds of three may be chance, and so may 2 %.
        ([[10, 10, 10], [5, 5, 10], [9.8, 9.8, 9.8]], 0),
        # Fewer threads win if it makes no difference.
        ([[10, 10, 10], [8.1, 8.1, 8.1], [8, 8, 8]], 1),
        ([[10, 10, 10]], 0),
    ],
)
def test_tune_departs_from_the_usual_settings_only_for_what_is_quicker_in_every_round(rounds, expected):
    settings = [Settings(), Settings(threads=1), Settings(threads=2)]
    taken = {s: [[t, t, 99.0] for t in times] for s, times in zip(settings, rounds, strict=False)}
    assert _tune.quickest(taken) == settings[expected]


def test_bench_where_a_process_fails_or_no_picture_can_be_read(model, pictures, monkeypatch, capsys):
    monkeypatch.setattr(_bench, "START", "raise SystemExit('no memory left')")
    assert main(["bench", str(model), "--seconds", "0.01"]) == 1
    assert "a process that labels one picture ended with status 1: no memory left" in capsys.readouterr().err
    monkeypatch.setattr(_bench, "START", "import os; os.kill(os.getpid(), 9)")
    assert main(["bench", str(model), "--seconds", "0.01"]) == 1
    assert "ended with signal 9" in capsys.readouterr().err
    assert main(["bench", str(model), str(pictures), str(pictures / "gone.jpg")]) == 1
    assert "gone.jpg" in capsys.readouterr().err
    assert main(["bench", str(model), str(pictures / "damaged.jpg")]) == 1
    assert "damaged.jpg" in capsys.readouterr().err


def tuned(model, settings=ONE_THREAD, **changes):
    """Save settings as `tune` does, but ones that it would hardly choose."""
    from zoo_runtime import _session

    _session.write_tuned(str(model), settings, [])
    path = model.parent / "model.tuned.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return path


def test_tuned_settings_are_used_and_yield_to_those_given(model):
    tuned(model)
    assert Predictor(model).settings == Predictor(model.parent).settings == Settings(threads=1, spinning=False)
    assert Predictor(model, threads=2).settings == Settings(threads=2, spinning=False)
    assert Predictor(model.read_bytes()).settings == Settings()


def test_what_was_tuned_for_one_picture_is_not_for_many(model, pictures, monkeypatch):
    opened = []
    open_session = zoo_runtime._network.open_session
    monkeypatch.setattr(
        zoo_runtime._network, "open_session", lambda path, s: (opened.append(s), open_session(path, s))[1]
    )
    tuned(model, Settings(threads=2, arena=False, spinning=False))
    Predictor(model)([RED] * 20)
    assert opened == [Settings(threads=2, arena=False, spinning=False), Settings(threads=1)]
    opened.clear()
    Predictor(model, arena=False)([RED] * 20)
    assert opened[1] == Settings(threads=1, arena=False)


@pytest.mark.parametrize("change", [{"schema": 1}, {"for": {"processor": "another"}}])
def test_what_was_tuned_elsewhere_is_left_alone(model, change):
    tuned(model, **change)
    assert Predictor(model).settings == Settings()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 2}', '{"schema": 1, "for": null}'])
def test_what_cannot_be_read_costs_a_warning(model, content):
    (model.parent / "model.tuned.json").write_text(content)
    if content == '{"schema": 1, "for": null}':
        assert Predictor(model).settings == Settings()
        return
    with pytest.warns(UserWarning, match="zoo-runtime tune"):
        assert Predictor(model)(RED).label == "red"


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_tuned_provider_that_has_gone_costs_a_warning(model, monkeypatch):
    built = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: built)
    tuned(model, Settings(providers=("cuda",)))
    with pytest.warns(UserWarning, match="The tuned settings are ignored"):
        assert Predictor(model)(RED).label == "red"


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_tune_leaves_out_a_provider_that_cannot_start(run, model, monkeypatch):
    built = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: built)
    code, out = run("tune", model, "--seconds", 0.01, "--providers", "cuda,cpu", "--json")
    result = json.loads(out)
    assert code == 0 and "could not be started" in result["left_out"]["cuda"]
    assert {tuple(row["providers"]) for row in result["table"]} == {("cpu",)}
    assert main(["tune", str(model), "--seconds", "0.01", "--providers", "cuda"]) == 1


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize("fails_at", [2, 15])
def test_tune_leaves_out_a_provider_that_fails_later(run, model, monkeypatch, fails_at):
    """A provider that fails later is not chosen, even if it was faster than the processor until then."""
    calls = []

    def sometimes(path, settings):
        calls.append(settings.providers == ("azure",))
        if sum(calls) >= fails_at and calls[-1]:
            raise zoo_runtime.ProviderNotStarted("azure has gone")
        return open_session(path, Settings())

    open_session = _tune.open_session
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["azure", "CPUExecutionProvider"])
    monkeypatch.setattr(_tune, "open_session", sometimes)
    code, out = run("tune", model, "--seconds", 0.01, "--providers", "azure,cpu", "--json")
    result = json.loads(out)
    assert code == 0 and result["left_out"] == {"azure": "azure has gone"}
    assert all(row["providers"] == ["cpu"] for row in [*result["table"], result["settings"]])


def test_the_usual_settings_are_those_that_a_predictor_has():
    """The provider that is named first is not the default. It must be faster."""
    away = Settings(providers=("openvino",))
    assert _tune.quickest({away: [[10.0]] * 3, Settings(): [[9.9]] * 3}) == Settings()
    assert _tune.quickest({away: [[9.8]] * 3, Settings(): [[9.9]] * 3}) == Settings()
    assert _tune.quickest({away: [[9.0]] * 3, Settings(): [[9.9]] * 3}) == away
    assert _tune.quickest({away: [[9.0]] * 3}) == away


def test_bench_takes_pictures_from_all_over(model):
    """The first pictures of a large folder would all belong to one class."""
    predictor = Predictor(model)
    sources = [f"{i}.jpg" for i in range(1000)]
    predictor.decode = lambda source: RED
    taken = [source for source, _ in _bench.readable(sources, predictor)[0]]
    assert len(taken) == 128 and taken[0] == "0.jpg" and taken[-1] == "992.jpg"
    assert [source for source, _ in _bench.readable(sources[:5], predictor)[0]] == sources[:5]


def test_tune_says_before_it_measures_that_it_may_not_write(model, monkeypatch, capsys):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(_tune, "repeat", None)
    assert main(["tune", str(model)]) == 1
    assert "may not be written to" in capsys.readouterr().err


def test_what_comes_second_has_no_advantage(monkeypatch):
    """Time fake calls with a fake clock: the first call after the other side has run takes 7 seconds longer."""
    now, last, calls = 0.0, "", []

    def taking(name, seconds):
        def call(argument):
            nonlocal now, last
            now += seconds + (7 if last != name else 0)
            last = name
            calls.append((name, argument))

        return call

    monkeypatch.setattr("zoo_runtime._pairs.time.perf_counter", lambda: now)
    pairs = zoo_runtime.time_pairs(taking("one", 2.0), taking("other", 2.0), [(1, 2)], pairs=10)
    assert pairs == zoo_runtime.Pairs(2000.0, 2000.0, 1.0, (1.0, 1.0))
    assert set(calls) == {("one", 1), ("other", 2)}
    turns = [name for (name, _), (before, _) in zip(calls[1:], calls, strict=False) if name != before]
    blocks = [calls[0][0], *turns]
    # Each starts a turn as often as it ends one, so blocks of neighboring turns join: 13 instead of 24.
    assert len(blocks) == 13 and abs(blocks.count("one") - blocks.count("other")) == 1
    assert zoo_runtime.time_pairs(taking("a", 3.0), taking("b", 1.0), [(1, 2)], pairs=4).ratio == 3.0


@pytest.mark.parametrize(
    "arguments, problem",
    [
        (("bench", "model.onnx", "--compare"), "needs two exported files"),
        (("bench", "model.onnx", "--seconds", "0"), "above 0"),
        (("tune", "model.onnx", "--providers", "nonsense"), "Received: 'nonsense'"),
        (("predict", "model.onnx", "a.jpg", "--providers", "tensorrt"), "cpu"),
    ],
)
def test_wrong_usage(arguments, problem, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2 and problem in capsys.readouterr().err


def test_a_busy_machine_is_named(run, model, pictures, capsys):
    """A program that computes beside a measurement is seen by its processor time."""
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        assert main(["bench", str(model), str(pictures), "--seconds", "0.05", "--json"]) == 0
        sentence = json.loads(capsys.readouterr().out)["busy"]
        assert main(["bench", str(model), str(model), str(pictures), "--compare"]) == 0
        warned = capsys.readouterr().err
    finally:
        busy.kill()
        busy.wait()
    assert sentence.startswith("this machine is busy: other programs used ")
    assert "warning: this machine is busy" in warned


def test_own_work_does_not_make_a_machine_busy(monkeypatch):
    seconds = iter([(100.0, 5.0), (101.0, 6.0), (103.0, 6.0)])
    now = iter([0.0, 1.0, 2.0])
    machine, own = next(seconds)
    monkeypatch.setattr(_busy, "_machine_seconds", lambda: machine)
    monkeypatch.setattr(_busy, "_own_seconds", lambda: own)
    monkeypatch.setattr(_busy.time, "perf_counter", lambda: next(now))
    programs = _busy.OtherPrograms()
    machine, own = next(seconds)
    assert programs.warning() is None
    machine, own = next(seconds)
    assert programs.cores() == 1.0


def test_threads_follow_affinity_and_quota(model, monkeypatch):
    opened = []
    session = _session.load().InferenceSession

    def noted(content, options, **rest):
        opened.append((options.intra_op_num_threads, options))
        return session(content, options, **rest)

    monkeypatch.setattr(_session.load(), "InferenceSession", noted)
    monkeypatch.setattr(_cores, "cores_by_affinity", lambda: 4)
    monkeypatch.setattr(_cores.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(_cores, "cpu_quota", lambda: None)
    Predictor(model)
    monkeypatch.setattr(_cores, "cpu_quota", lambda: 1.0)
    Predictor(model)
    Predictor(model, threads=3)
    monkeypatch.setattr(_cores, "cpu_quota", lambda: None)
    monkeypatch.setattr(_cores, "cores_by_affinity", lambda: 2)
    Predictor(model)
    # 0 leaves the number to onnxruntime, which takes the cores that are not hyperthreads of others.
    assert [threads for threads, _ in opened] == [0, 1, 3, 2]


@pytest.mark.parametrize(("spinning", "entries"), [(None, ("", "10")), (True, ("", "")), (False, ("0", ""))])
def test_idle_threads_spin_briefly_unless_told(model, monkeypatch, spinning, entries):
    opened = []
    session = _session.load().InferenceSession
    keys = ("session.intra_op.allow_spinning", "session.intra_op.spin_duration_us")

    def noted(content, options, **rest):
        opened.append(tuple(entry(options, key) for key in keys))
        return session(content, options, **rest)

    def entry(options, key):
        try:
            return options.get_session_config_entry(key)
        except RuntimeError:
            return ""

    monkeypatch.setattr(_session.load(), "InferenceSession", noted)
    Predictor(model, spinning=spinning)
    assert opened == [entries]
