"""Two processes on this machine train one network: they get what one process gets, and end together."""

from __future__ import annotations

import signal
import time

import numpy as np
import pytest
from processes import Process, free_port, greatest_difference, history, only_run, together

from zoo.hosts.channel import SILENCE
from zoo.hosts.team import GRACE

# 1259 training pictures: the last batch has 11, which two devices cannot share. Dropout, class weights, averaged
# weights and an augmentation take part.
COMMAND = ["finetune", "mnist_dense", "--data", "digits", "--weights", "none", "--batch-size", "32", "--no-export"]
COMMAND += ["--epochs", "6", "--learning-rate", "0.01", "--optimizer", "sgd", "--dropout", "0.3", "--balance"]
COMMAND += ["--ema", "0.9", "--patience", "10"]
TOLERANCE = 1e-5
# A lost process is noticed at once on one machine; a busy one needs longer to end.
BOUND = 60


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    process = Process(folder, "process", *COMMAND)
    assert process.ended() == 0, process.text
    return only_run(folder)


def equal(run, alone) -> None:
    assert history(run).shape == (6, 4)
    assert np.abs(history(run) - history(alone)).max() <= TOLERANCE
    assert greatest_difference(run, alone) <= TOLERANCE


@pytest.mark.slow
def test_two_processes_train_what_one_trains(alone, tmp_path):
    with together(tmp_path, *COMMAND) as (first, second):
        assert (first.ended(), second.ended()) == (0, 0), first.text + second.text
    equal(only_run(tmp_path), alone)
    # The others neither print nor write.
    assert "epoch   6" in first.text and "epoch" not in second.text
    assert not (tmp_path / "cache-process1" / "runs").exists()


@pytest.mark.slow
def test_a_killed_process_ends_the_others_and_one_process_resumes(alone, tmp_path):
    with together(tmp_path, *COMMAND) as (first, second):
        first.says("epoch   2")
        second.process.kill()
        started = time.monotonic()
        assert first.ended(BOUND) == 1
        assert time.monotonic() - started < BOUND
    assert "error: process 1 on " in first.text and "is lost: it was killed" in first.text
    run = only_run(tmp_path)
    assert f"`zoo resume {run.relative_to(tmp_path)}`" in first.text and "continues it after epoch" in first.text
    resumed = Process(tmp_path, "process0", "resume", run)
    assert resumed.ended() == 0, resumed.text
    assert "Resuming run" in resumed.text
    equal(run, alone)


@pytest.mark.slow
@pytest.mark.every
def test_a_signal_for_one_process_ends_all_and_two_processes_resume(alone, tmp_path):
    with together(tmp_path, *COMMAND) as (first, second):
        first.says("epoch   1")
        second.process.send_signal(signal.SIGTERM)
        assert (first.ended(BOUND), second.ended(BOUND)) == (143, 143), first.text + second.text
    run = only_run(tmp_path)
    assert "training was interrupted" in first.text
    with together(tmp_path, "resume", run, tag="again") as (first, second):
        assert (first.ended(), second.ended()) == (0, 0), first.text + second.text
    equal(run, alone)


@pytest.mark.slow
@pytest.mark.every
def test_a_run_of_one_process_goes_on_with_two(alone, tmp_path):
    process = Process(tmp_path, "process0", *COMMAND)
    process.says("epoch   2")
    process.process.send_signal(signal.SIGINT)
    assert process.ended(BOUND) == 130
    run = only_run(tmp_path)
    with together(tmp_path, "resume", run, tag="again") as (first, second):
        assert (first.ended(), second.ended()) == (0, 0), first.text + second.text
    equal(run, alone)


@pytest.mark.slow
@pytest.mark.every
def test_a_lost_leader_ends_the_others(tmp_path):
    with together(tmp_path, *COMMAND) as (first, second):
        first.says("epoch   2")
        first.process.kill()
        assert second.ended(BOUND) == 1
    # JAX may notice it first, and print lines of its own before.
    last = second.text.strip().splitlines()[-1]
    assert last.startswith("error: process 0 on ") and "is lost: it was killed" in last and "`zoo resume RUN`" in last


@pytest.mark.slow
@pytest.mark.every
@pytest.mark.parametrize("index", [0, 1])
def test_a_process_that_was_stopped_ends_the_other(tmp_path, index):
    words = [*COMMAND, "--patience", "0"]
    words[words.index("--epochs") + 1] = "1000"
    with together(tmp_path, *words) as processes:
        processes[0].says("epoch   2")
        processes[index].process.send_signal(signal.SIGSTOP)
        other = processes[1 - index]
        # A minute of silence, and the time that the other one has to end.
        assert other.ended(SILENCE + GRACE + BOUND) == 1
    last = other.text.strip().splitlines()[-1]
    assert last.startswith(f"error: process {index} on ") and "nothing was heard of it for 60 seconds" in last


@pytest.mark.slow
@pytest.mark.every
def test_several_devices_of_one_process(alone, tmp_path):
    # With more threads, XLA's simulated devices can wait for each other for ever.
    flags = "--xla_force_host_platform_device_count=2 --xla_cpu_multi_thread_eigen=false"
    process = Process(tmp_path, "process", *COMMAND, "--processes", "1", XLA_FLAGS=flags)
    assert process.ended() == 0, process.text
    equal(only_run(tmp_path), alone)


@pytest.mark.slow
@pytest.mark.every
def test_folds_and_the_solved_head_are_decided_by_process_0(tmp_path):
    words = ["finetune", "mnist_dense", "--data", "digits", "--weights", "none", "--no-export", "--epochs", "2"]
    words += ["--optimizer", "sgd", "--cv", "3"]
    alone = Process(tmp_path, "process", *words, "--runs", tmp_path / "alone" / "runs")
    assert alone.ended() == 0, alone.text
    with together(tmp_path, *words) as (first, second):
        assert (first.ended(), second.ended()) == (0, 0), first.text + second.text
    one, two = only_run(tmp_path / "alone"), only_run(tmp_path)
    assert np.abs(history(one) - history(two)).max() <= TOLERANCE
    assert greatest_difference(one, two) <= TOLERANCE
    held_out = [np.load(run / "out-of-fold.npz") for run in (one, two)]
    names = [name for name in held_out[0].files if held_out[0][name].dtype.kind == "f"]
    assert names
    for name in names:
        assert np.abs(held_out[0][name] - held_out[1][name]).max() <= 1e-4


@pytest.mark.slow
def test_settings_in_files_that_differ_are_named(tmp_path):
    """The command is the same; the file that it names is not."""
    port, processes = free_port(), []
    for index in range(2):
        folder = tmp_path / str(index)
        folder.mkdir()
        (folder / "own.toml").write_text(f"batch-size = {32 * (index + 1)}\nseed = 3\n")
        words = ["finetune", "mnist_dense", "--weights", "none", "--config", "own.toml", "--processes", 2]
        words += ["--process-index", index, "--coordinator", f"127.0.0.1:{port}"]
        processes.append(Process(folder, "process", *words))
    assert [each.ended() for each in processes] == [1, 1]
    for each in processes:
        assert "all processes must be started with the same command and the same versions" in each.text
        assert "--batch-size: 32 in process 0, 64 there" in each.text and "--seed" not in each.text
