"""Which process this one is: from options, from the environment, and from what JAX knows of clusters."""

from __future__ import annotations

import os

import pytest

from zoo.errors import UsageError
from zoo.hosts import Place, find_place


def test_without_the_option_a_process_is_alone():
    assert find_place(None, None, None, {"RANK": "1", "WORLD_SIZE": "2"}) is None
    with pytest.raises(UsageError, match="go with --processes"):
        find_place(None, 0, None, {})


def test_options_come_first():
    variables = {"RANK": "5", "WORLD_SIZE": "9", "MASTER_ADDR": "other", "MASTER_PORT": "1"}
    assert find_place(3, 2, "node1:9911", variables) == Place(3, 2, "node1", 9911)
    assert find_place(2, 1, "[fe80::1]:9911", {}).address == "[fe80::1]:9911"


@pytest.mark.parametrize(
    "variables",
    [
        {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "node1", "MASTER_PORT": "9911"},
        {"JAX_PROCESS_ID": "1", "JAX_NUM_PROCESSES": "4", "JAX_COORDINATOR_ADDRESS": "node1:9911"},
        {
            **{"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4"},
            **{"MASTER_ADDR": "node1", "MASTER_PORT": "9911"},
        },
    ],
)
def test_variables_of_launchers(variables):
    assert find_place("auto", None, None, variables) == Place(4, 1, "node1", 9911)


def test_an_indexed_job_of_kubernetes_needs_the_number_and_the_address():
    assert find_place(4, None, "train-0.train:9911", {"JOB_COMPLETION_INDEX": "3"}) == Place(
        4, 3, "train-0.train", 9911
    )


def test_slurm(monkeypatch):
    pytest.importorskip("jax")
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "JAX_")):
            monkeypatch.delenv(name)
    variables = {
        **{"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "gpu[07-08]", "SLURM_NTASKS": "2"},
        **{"SLURM_PROCID": "1", "SLURM_LOCALID": "0"},
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    # JAX chooses the port from the number of the job, and the GPU from the number of the task on its host.
    assert find_place("auto", None, None) == Place(2, 1, "gpu07", 61447, (0,))
    assert find_place("auto", None, "gpu07:9911") == Place(2, 1, "gpu07", 9911, (0,))
    # Of every 4096 jobs, one gets the last port from JAX, and zoo needs the next one too.
    monkeypatch.setenv("SLURM_JOB_ID", "4095")
    for nodes, first in (("node[01-03,07]", "node01"), ("a1,node[2-3]", "a1"), ("n-1-[007,9]", "n-1-007"), ("b", "b")):
        monkeypatch.setenv("SLURM_STEP_NODELIST", nodes)
        assert find_place("auto", None, None) == Place(2, 1, first, 65534, (0,))


def test_each_process_of_a_host_takes_the_gpu_of_its_number():
    both = {"RANK": "5", "WORLD_SIZE": "8", "MASTER_ADDR": "a", "MASTER_PORT": "9"}
    assert find_place("auto", None, None, {**both, "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}).local_devices == (1,)
    # A single process of a host takes all of them, and one that sees a single GPU takes that.
    assert find_place("auto", None, None, {**both, "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}).local_devices is None
    one = {**both, "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "CUDA_VISIBLE_DEVICES": "1"}
    assert find_place("auto", None, None, one).local_devices is None
    ompi = {"OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}
    ompi |= {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4"}
    assert find_place("auto", None, "a:9", ompi) == Place(4, 3, "a", 9, (1,))


def test_a_launcher_that_starts_one_process_needs_no_address():
    assert find_place("auto", None, None, {"RANK": "0", "WORLD_SIZE": "1"}) == Place(1)
    with pytest.raises(UsageError, match="0 to 0"):
        find_place("auto", None, None, {"RANK": "1", "WORLD_SIZE": "1"})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((2, 2, "a:1"), "0 to 1"),
        ((2, 1, "a"), "HOST:PORT"),
        ((2, 1, "a:65535"), "1 to 65534"),
        ((1, 1, None), "single process"),
    ],
)
def test_what_cannot_be(arguments, words):
    with pytest.raises(UsageError, match=words):
        find_place(*arguments, {})


def test_what_is_missing_is_named(monkeypatch):
    pytest.importorskip("jax")
    with pytest.raises(UsageError, match="--process-index I and --coordinator HOST:PORT cannot be found out"):
        find_place(2, None, None, {})
    with pytest.raises(UsageError, match=r"MASTER_ADDR is 'a', which has no port. Set MASTER_PORT too"):
        find_place("auto", None, None, {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a"})
    with pytest.raises(UsageError, match=r"RANK must be a whole number. Received: 'one'"):
        find_place("auto", None, None, {"RANK": "one"})
