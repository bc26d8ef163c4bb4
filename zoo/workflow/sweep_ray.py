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

from zoo import interrupts, runs
from zoo.errors import InstallationError, RunError, UsageError, WriteError
from zoo.reporter import counted
from zoo.runs import run_lock
from zoo.workflow import sweep_ladder, sweep_trials
from zoo.workflow.sweep_trials import Trial, TrialFolder

if TYPE_CHECKING:
    from zoo.workflow.sweep import Sweep

# How often Ray starts a trial again whose worker was lost.
MAX_FAILURES = 5
# How long a cluster has to answer, in seconds.
PATIENCE = 10.0
METRIC, TIME = "accuracy", "folds"
# Why a trial reports without an answer: a disk is full, or the time is over.
FULL, LATE = "full", "late"
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

    A process that crashes is started again here, as without Ray. Ray starts a trial again whose worker was lost.

    Args:
        values: `trial`, a dictionary of the fields of a `Trial`, of `folder`, that of the sweep, of `steps`, the
            numbers of folds, and of `ends`, when the time is over, in seconds since the epoch.

    Raises:
        RunError: The folder of the sweep is not on this machine.
    """
    from ray import tune

    facts = dict(values["trial"])
    place, steps, ends, size = Path(facts.pop("folder")), facts.pop("steps"), facts.pop("ends"), facts["size"]
    facts.pop("number")
    if not (place / "sweep.json").is_file():
        raise RunError(f"{str(place)!r} is not on the machine {socket.gethostname()}. All machines must share it.")
    facts |= {"size": tuple(size) if size else None, "words": tuple(facts["words"])}
    folder = TrialFolder(Trial(**facts), place)
    for step in steps:
        try:
            answers = sweep_trials.judge(folder, step, None if ends is None else ends - time.time())
        except WriteError as error:
            tune.report({METRIC: 0.0, TIME: step, FULL: str(error)})
            return
        if answers is None:
            # It would fail again. The problem is in trial.json, and the leaderboard has it.
            tune.report({METRIC: 0.0, TIME: step} | ({} if folder.facts()["problem"] else {LATE: True}))
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
        RunError: Ray cannot start.
    """

    def __init__(self, address: str | None = None, cpus: int = 2):
        self._address, self._cpus = address, cpus
        self._parts = 0
        self._folders: list[TrialFolder] = []

    def __enter__(self) -> Cluster:
        os.environ.update({name: os.environ.get(name, value) for name, value in SETTINGS.items()})
        check_installed()
        import ray

        # Ray would print the trace of each problem. The leaderboard says what has failed.
        logging.getLogger("ray").setLevel(logging.CRITICAL)
        options: dict[str, Any] = {"logging_level": logging.CRITICAL, "log_to_driver": False}
        if self._address is None:
            options |= {"include_dashboard": False}
        try:
            if self._address is not None:
                _reach(self._address)
            _start(self._address, options)
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            why = (getattr(error, "strerror", None) or str(error)).splitlines()[0].rstrip(".")
            raise UsageError(
                f"there is no Ray cluster at {self._address or 'this computer'!r}: {why}. Start one with `ray start "
                "--head --port 6379`, or leave out --address to use this computer alone."
            ) from None
        except Exception as error:
            # Ray has no class of its own for this.
            ray.shutdown()
            raise RunError(
                f"Ray cannot start here: {str(error).splitlines()[0]} Close other programs, or leave out --ray, so "
                "that the trials run one after the other."
            ) from error
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
        # A process that has lost its worker writes its safe point, and ends.
        ends = time.monotonic() + sweep_trials.GRACE
        while time.monotonic() < ends and any(_is_at_work(folder) for folder in self._folders):
            time.sleep(0.2)

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
        # What ASHA has stopped in an earlier part of the sweep stays out, because it would decide in another order now.
        stopped = {each.trial.key: each.facts()["out"] for each in folders}
        over = self._fit(sweep, folders, rungs, left, asha if rungs[-1] > 1 else None, stopped)
        answers = sweep.answered([each.trial.key for each in folders])
        sweep.rung = max((each.step for each in answers.values()), default=0)
        out = [name for name, each in answers.items() if each.step < sweep.rung and (not over or stopped[name])]
        for name in out:
            sweep.reached[name] = answers[name].step
            if not stopped[name]:
                sweep.trials[name].note(out=answers[name].step)
        sweep.alive = tuple(name for name in sweep.alive if name not in out)

    def _fit(
        self,
        sweep: Sweep,
        folders: Sequence[TrialFolder],
        steps: Sequence[int],
        seconds: float | None,
        scheduler: Any,
        stopped: Mapping[str, int | None] | None = None,
    ) -> bool:
        """Run trials with Ray Tune until all have ended, or the time is over.

        Args:
            sweep: The sweep.
            folders: The trials.
            steps: After how many folds they are compared.
            seconds: How long that may take. None sets no limit.
            scheduler: Decides which trials go on; None lets all go on.
            stopped: After how many folds each trial was stopped earlier, by its name; None or 0 if it was not.

        Returns:
            Whether the time is over, and something was not done.

        Raises:
            WriteError: A disk is full.
            KeyboardInterrupt: The user has interrupted the sweep.
        """
        most = {each.trial.key: (stopped or {}).get(each.trial.key) or steps[-1] for each in folders}
        if all(each.answers(most[each.trial.key]) is not None for each in folders):
            return False
        if seconds is not None and seconds <= 0:
            sweep.stopped = True
            return True
        self._folders = list(folders)
        ends = None if seconds is None else time.time() + seconds
        values = [
            _values(each, number, [step for step in steps if step <= most[each.trial.key]], ends)
            for number, each in enumerate(folders)
        ]
        full, late, lost = self._run(sweep, folders, values, scheduler, ends)
        if full:
            raise WriteError(full[0])
        for number, why in lost.items():
            folders[number].note(problem=f"it was tried {MAX_FAILURES + 1} times on Ray, and lost each time: {why}")
            sweep.tell(folders[number], None)
        # A scheduler stops trials after the first step or later.
        undone = [each for each in folders if each.answers(steps[0]) is None and not each.facts()["problem"]]
        over = bool(late or undone)
        sweep.stopped |= over
        sweep.save()
        return over

    def _run(
        self,
        sweep: Sweep,
        folders: Sequence[TrialFolder],
        values: Sequence[Mapping[str, Any]],
        scheduler: Any,
        ends: float | None,
    ) -> tuple[list[str], list[int], dict[int, str]]:
        """Run Ray Tune.

        Args:
            sweep: The sweep.
            folders: The trials.
            values: The same as `carry_out` takes them.
            scheduler: As in `_fit`.
            ends: When the time is over, in seconds since the epoch. None sets no limit.

        Returns:
            What was said of full disks; the places of the trials for which the time was over; and why each trial was
            lost, by its place.
        """
        from ray import tune

        self._parts += 1
        storage, name = sweep.requested.output.absolute() / "ray", f"{os.getpid()}-part{self._parts}"
        full: list[str] = []
        late: list[int] = []
        lost: dict[int, str] = {}

        class Lines(tune.Callback):
            """Says what a trial has reached, as soon as Ray knows."""

            def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
                if FULL in result:
                    full.append(result[FULL])
                else:
                    if LATE in result:
                        late.append(trial.config["trial"]["number"])
                    done = folders[trial.config["trial"]["number"]]
                    sweep.tell(done, None if LATE in result or done.facts()["problem"] else done.answers(result[TIME]))

            def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
                lines = str(trial.get_error() or "").strip().splitlines()
                lost[trial.config["trial"]["number"]] = lines[-1] if lines else "its worker was lost"

        tuner = tune.Tuner(
            tune.with_resources(carry_out, {"cpu": self._cpus}),
            param_space={"trial": tune.grid_search(values)},
            tune_config=tune.TuneConfig(
                metric=METRIC,
                mode="max",
                scheduler=scheduler,
                # Ray would take the whole configuration as the name of a folder.
                trial_dirname_creator=lambda each: each.trial_id,
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=str(storage),
                callbacks=[Lines()],
                stop=_stopper(full, ends),
                failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
                verbose=0,
            ),
        )
        try:
            # Ray would turn SIGTERM into Ctrl-C.
            with interrupts.held():
                tuner.fit()
        finally:
            # Everything is in the folders of the trials.
            shutil.rmtree(storage, ignore_errors=True)
        return full, late, lost


def _stopper(full: Sequence[str], ends: float | None) -> Any:
    """Return what ends everything: after a signal, when a disk is full, or when the time was over long ago."""
    from ray import tune

    last = float("inf") if ends is None else ends + sweep_trials.GRACE

    class Ends(tune.Stopper):
        def __call__(self, trial_id: str, result: dict) -> bool:
            return False

        def stop_all(self) -> bool:
            return interrupts.waiting() or bool(full) or time.time() > last

    return Ends()


def _is_at_work(folder: TrialFolder) -> bool:
    """Return whether a process works on a run of a trial."""
    parent = folder.folder / "runs"
    return any(run_lock.holder(runs.Run(parent / name)) is not None for name in runs.names(parent))


def _start(address: str | None, options: Mapping[str, Any]) -> None:
    """Start Ray here, or connect to a cluster; the arguments are those of `ray.init`. It takes SIGTERM for itself."""
    import ray

    with interrupts.same_handlers():
        try:
            ray.init(address, **options)
        except SystemExit:
            # So Ray ends a program that receives SIGTERM while Ray starts.
            raise interrupts.Terminated from None
        except Exception as error:
            if address is not None or "timed out" not in str(error):
                raise
            # Ray waits for 30 seconds, which is too short where the processor is busy. The second time is quicker.
            ray.shutdown()
            ray.init(address, **options)


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


def _values(folder: TrialFolder, number: int, steps: Sequence[int], ends: float | None) -> dict[str, Any]:
    """Return a trial as Ray hands it to a worker: as plain values."""
    each = folder.trial
    return {
        "number": number,
        "network": each.network,
        "size": list(each.size) if each.size else None,
        "schedule": each.schedule,
        "words": list(each.words),
        "environment": dict(each.environment),
        "threads": each.threads,
        "folder": str(folder.folder.parent.parent),
        "steps": list(steps),
        "ends": ends,
    }
