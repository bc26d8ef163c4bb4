"""Runs the trials of a sweep on Ray Tune: its workers, its scheduler ASHA, its retries.

ASHA is from Li et al., "A System for Massively Parallel Hyperparameter Tuning" (2018, https://arxiv.org/abs/1810.05934).

A trial is a child process here too, `zoo finetune` or `zoo resume`, which a worker of Ray starts. What is done is in
the folder of the trial, on a disk that all machines share. So a trial whose worker was killed goes on from its safe
point on another one, and a step that is done is not done again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import InstallationError, RunError, UsageError
from zoo.reporter import counted
from zoo.workflow import sweep_ladder, sweep_trials
from zoo.workflow.sweep_trials import Trial, TrialFolder

if TYPE_CHECKING:
    from zoo.workflow.sweep import Sweep

# How often Ray starts a trial again whose worker was lost.
MAX_FAILURES = 5
# How long a cluster has to answer, in seconds.
PATIENCE = 10.0
METRIC, TIME = "accuracy", "folds"
# Ray is asked to leave alone what zoo does itself.
SETTINGS = {
    # Workers keep the working folder, because paths may be relative to it.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_CHDIR_TO_TRIAL_DIR": "0",
    # Ctrl-C ends the sweep.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    # Nothing is sent anywhere.
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
}


def carry_out(values: Mapping[str, Any]) -> None:
    """Carry out the steps of a trial, and report each one to Ray Tune. This runs in a worker of Ray.

    Args:
        values: `trial`, a dictionary of the fields of a `Trial`, of `folder`, that of the sweep, and of `steps`, the
            numbers of folds.

    Raises:
        Crashed: The process of the trial crashed, so that Ray shall start the trial again.
        RunError: The folder of the sweep is not on this machine.
    """
    from ray import tune

    facts = dict(values["trial"])
    place, steps, size = Path(facts.pop("folder")), facts.pop("steps"), facts["size"]
    if not (place / "sweep.json").is_file():
        raise RunError(f"{str(place)!r} is not on the machine {socket.gethostname()}. All machines must share it.")
    facts |= {"size": tuple(size) if size else None, "words": tuple(facts["words"])}
    folder = TrialFolder(Trial(**facts), place)
    for step in steps:
        answers = sweep_trials.judge(folder, step, None, retries=None)
        if answers is None:
            # It would fail again. The problem is in trial.json, and the leaderboard has it.
            tune.report({METRIC: 0.0, TIME: step})
            return
        tune.report({METRIC: answers.accuracy, TIME: step})


def check_installed() -> None:
    """Check that Ray Tune can be imported.

    Raises:
        InstallationError: It cannot.
    """
    try:
        import ray
        import ray.tune  # noqa: F401
    except ImportError as error:
        raise InstallationError(
            f"--ray needs Ray, which is not installed ({error}). Install it with `pip install 'finezoo[ray]'`, or "
            "leave out --ray, so that the trials run one after the other."
        ) from None


class Cluster:
    """A Ray cluster: this computer alone, or a running one.

    Args:
        address: The address of a running cluster. None starts Ray on this computer, until the context ends.
        cpus: The number of processors that Ray reserves for a trial.

    Raises:
        InstallationError: Ray is not installed.
        UsageError: There is no cluster at the address, or it has too few processors.
    """

    def __init__(self, address: str | None = None, cpus: int = 2):
        self._address, self._cpus = address, cpus
        self._parts = 0

    def __enter__(self) -> Cluster:
        os.environ.update({name: os.environ.get(name, value) for name, value in SETTINGS.items()})
        check_installed()
        import ray

        logging.getLogger("ray").setLevel(logging.ERROR)
        options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        if self._address is None:
            options |= {"include_dashboard": False}
        try:
            if self._address is not None:
                _reach(self._address)
            ray.init(self._address, **options)
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            why = (getattr(error, "strerror", None) or str(error)).splitlines()[0].rstrip(".")
            raise UsageError(
                f"there is no Ray cluster at {self._address or 'this computer'!r}: {why}. Start one with `ray start "
                "--head --port 6379`, or leave out --address to use this computer alone."
            ) from None
        found = ray.cluster_resources().get("CPU", 0.0)
        if max((node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]), default=0) < self._cpus:
            ray.shutdown()
            raise UsageError(
                f"no machine has {counted(self._cpus, 'processor')} for a trial; all together have {found:.0f}. Give "
                "fewer with --trial-cpus."
            )
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        with contextlib.suppress(Exception):
            ray.shutdown()

    def heads(self, sweep: Sweep, folders: Sequence[TrialFolder], step: int, limit: Callable[[], float | None]) -> None:
        """Judge the solved heads, all of them; see `zoo.workflow.sweep.judge_in_turn`."""
        self._fit(sweep, folders, (step,), limit(), None)

    def ladder(self, sweep: Sweep, rungs: Sequence[int]) -> None:
        """Judge all trials, and let ASHA decide after each rung which of them go on."""
        from ray.tune.schedulers import ASHAScheduler

        asha = ASHAScheduler(
            time_attr=TIME,
            max_t=max(rungs[-1], 1),
            grace_period=1,
            reduction_factor=sweep_ladder.KEPT,
        )
        folders = list(sweep.trials.values())
        left = sweep.budget.left(sweep_ladder.TRIALS_SHARE)
        over = self._fit(sweep, folders, rungs, left, asha if rungs[-1] > 1 else None)
        answers = sweep.answered([each.trial.key for each in folders])
        sweep.rung = max((each.step for each in answers.values()), default=0)
        if not over:
            out = [name for name, each in answers.items() if each.step < sweep.rung]
            sweep.reached |= {name: answers[name].step for name in out}
            sweep.alive = tuple(name for name in sweep.alive if name not in out)

    def _fit(
        self,
        sweep: Sweep,
        folders: Sequence[TrialFolder],
        steps: Sequence[int],
        seconds: float | None,
        scheduler: Any,
    ) -> bool:
        """Run trials with Ray Tune until all have ended, or the time is over. Return whether the time is over."""
        from ray import tune

        began = time.monotonic()
        todo = [each for each in folders if scheduler is not None or each.answers(steps[-1]) is None]
        if not todo:
            return False
        if seconds is not None and seconds <= 0:
            sweep.stopped = True
            return True
        self._parts += 1
        storage, name = sweep.requested.output.absolute() / "ray", f"{os.getpid()}-part{self._parts}"

        class Lines(tune.Callback):
            """Says what a trial has reached, as soon as Ray knows."""

            def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
                done = next(each for each in todo if _values(each, steps) == trial.config["trial"])
                sweep.tell(done, done.answers(result[TIME]))

        found = tune.Tuner(
            tune.with_resources(carry_out, {"cpu": self._cpus}),
            param_space={"trial": tune.grid_search([_values(folder, steps) for folder in todo])},
            tune_config=tune.TuneConfig(
                metric=METRIC,
                mode="max",
                scheduler=scheduler,
                time_budget_s=seconds,
                # Ray would take the whole configuration as the name of a folder.
                trial_dirname_creator=lambda each: each.trial_id,
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=str(storage),
                callbacks=[Lines()],
                failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
                verbose=0,
            ),
        ).fit()
        over = seconds is not None and time.monotonic() - began >= seconds
        errors = [str(error).strip().splitlines()[-1] for error in found.errors]
        for folder in todo:
            answers = folder.latest()
            if answers is None and not folder.facts().get("problem") and not over:
                folder.note(problem=f"Ray gave up: {errors[0] if errors else 'no worker could carry it out'}")
                sweep.tell(folder, None)
        # Everything is in the folders of the trials.
        shutil.rmtree(storage, ignore_errors=True)
        sweep.stopped |= over
        sweep.save()
        return over


def _reach(address: str) -> None:
    """Check that something listens at an address. Ray would try for ten minutes.

    Args:
        address: HOST:PORT, or another form of Ray's, such as "auto" or "ray://...", which is not checked.

    Raises:
        OSError: Nothing listens there.
    """
    host, _, port = address.rpartition(":")
    if host and "/" not in host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()


def _values(folder: TrialFolder, steps: Sequence[int]) -> dict[str, Any]:
    """Return a trial as Ray hands it to a worker: as plain values."""
    each = folder.trial
    return {
        "network": each.network,
        "size": list(each.size) if each.size else None,
        "schedule": each.schedule,
        "words": list(each.words),
        "folder": str(folder.folder.parent.parent),
        "steps": list(steps),
    }
