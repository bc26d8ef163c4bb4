"""Sweeps over networks, picture sizes and schedules: judges trials by held-out pictures, and finishes the best one.

The order of the steps:

1. The head of each network at each size is solved on its frozen layers, and judged by cross-validation.
2. The best third of these pairs is combined with all schedules. Each trial is judged on one fold.
3. The best third is judged on more folds, and so on; see `zoo.workflow.sweep_ladder`.
4. The winner is trained on all pictures, exported, and evaluated on the test pictures. No other trial sees them.

A finished step is in the folder of its trial; see `zoo.workflow.sweep_trials`. So a sweep can end at any moment, and
the same call goes on.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo import files, interrupts, runs
from zoo.errors import DataError, RunError, UsageError, WriteError, ZooError
from zoo.plugin import Architecture
from zoo.plugin.registry import Registry
from zoo.reporter import Reporter, counted
from zoo.train import schedule as schedules
from zoo.train.linear_head import FOLDS
from zoo.workflow import sweep_ladder, sweep_trials
from zoo.workflow.compare_networks import NONE_AT_HAND, at_hand
from zoo.workflow.sweep_ladder import Budget
from zoo.workflow.sweep_results import Row, SweepResult, rows_of
from zoo.workflow.sweep_trials import HEAD, Answers, Trial, TrialFolder, write_json

FILE = "sweep.json"
FORMAT = 1
# What a training on all pictures and the export take at least, in seconds.
FINISHING = 30.0
DEFAULT_SCHEDULES = ("auto", "fine-tune")
# How messages call what sweep.json holds, where "--" and its name are not the option.
SPOKEN = {"words": "the end of the command", "folds": "--cv"}


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """Describes the sweep that a user requests.

    Args:
        data: The pictures, as `zoo finetune --data` takes them.
        networks: The names of networks. Empty takes all those whose weights are on this computer.
        sizes: (height, width) of the pictures in pixels. None chooses what suits the data and the weights.
        schedules: Names of schedules, or paths of TOML files. Empty takes `DEFAULT_SCHEDULES`.
        words: The options of `zoo finetune` that all trials get.
        head_words: The same without those that a solved head cannot have.
        heads_compete: Whether a solved head alone may win. It cannot if the user asked for another kind of head.
        random: Whether all trials start from random weights, so that no head is worth solving.
        folds: The number of folds of the cross-validation; None uses 5.
        budget: How many seconds the sweep may take. None sets no limit.
        output: The folder of the sweep.
        exported: The folder of exports.
        command: The command that goes on with this sweep, for messages.
    """

    data: str
    networks: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int] | None, ...] = (None,)
    schedules: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    head_words: tuple[str, ...] = ()
    heads_compete: bool = True
    random: bool = False
    folds: int | None = None
    budget: float | None = None
    output: Path
    exported: Path
    command: str = "zoo sweep"


@dataclass
class Sweep:
    """A sweep that is under way.

    Args:
        requested: What the user requested.
        registry: The loaded plugins.
        reporter: Receives a line for each step, and warnings.
        budget: The time that is left.
        heads: The trials of the solved heads.
        trials: All other trials so far, by their names.
        reached: For each trial that is out, after how many folds it was.
        alive: The names of the trials that may win, the best first as far as that is known.
        stopped: Whether the time was over before all was done.
        rung: After how many folds the trials are compared at present.
    """

    requested: SweepConfig
    registry: Registry
    reporter: Reporter
    budget: Budget
    heads: list[TrialFolder] = field(default_factory=list)
    trials: dict[str, TrialFolder] = field(default_factory=dict)
    reached: dict[str, int] = field(default_factory=dict)
    alive: tuple[str, ...] = ()
    stopped: bool = False
    rung: int = 0

    @property
    def folders(self) -> dict[str, TrialFolder]:
        """Return all trials, by their names."""
        return {**{each.trial.key: each for each in self.heads}, **self.trials}

    def answered(self, names: Sequence[str]) -> dict[str, Answers]:
        """Return the latest answers of those trials that have any, and have not failed."""
        found: dict[str, Answers] = {}
        for name in names:
            folder = self.folders[name]
            answers = None if folder.facts().get("problem") else folder.latest()
            if answers is not None:
                found[name] = answers
        return found

    def tell(self, folder: TrialFolder, answers: Answers | None) -> None:
        """Say how a step of a trial has ended.

        Raises:
            WriteError: The disk is full, which ends all other trials too.
        """
        problem = folder.facts().get("problem")
        if problem and os.strerror(errno.ENOSPC) in problem:
            folder.note(problem=None)
            raise WriteError(f"{problem}\nNothing is lost. When there is space: `{self.requested.command}`")
        if answers is not None:
            pictures = counted(len(answers.right), "held-out picture")
            text = f"accuracy {answers.accuracy:.4f} on {pictures}, {answers.seconds:.0f} s"
        elif problem:
            text = f"failed: {problem.splitlines()[0]}"
        else:
            text = "the time is over; it can go on from its safe point"
        self.reporter.say(f"  {folder.trial.key}: {text}")

    def save(self) -> None:
        """Record how much time the sweep has taken.

        Raises:
            WriteError: The file cannot be written.
        """
        path = self.requested.output / FILE
        write_json(path, {**json.loads(path.read_text("utf-8")), "seconds": round(self.budget.spent(), 1)})


def judge_in_turn(sweep: Sweep, folders: Sequence[TrialFolder], step: int, limit: Callable[[], float | None]) -> None:
    """Judge trials one after the other, until the time is over.

    Args:
        sweep: The sweep.
        folders: The trials.
        step: The number of folds; 0 judges the solved heads.
        limit: Returns how many seconds are left; None if there is no limit.
    """
    for number, folder in enumerate(folders, 1):
        left = limit()
        if folder.answers(step) is None:
            if left is not None and left <= 0:
                sweep.stopped = True
                return
            with sweep.reporter.progress(f"{folder.trial.key} ({number} of {len(folders)})"):
                answers = sweep_trials.judge(folder, step, left)
            sweep.tell(folder, answers)
            sweep.stopped |= answers is None and not folder.facts().get("problem")
            sweep.save()


@interrupts.handled()
def sweep(
    requested: SweepConfig, registry: Registry, reporter: Reporter, *, ray: Mapping[str, Any] | None = None
) -> SweepResult:
    """Carry out a sweep, or go on with it, and finish the best trial.

    Args:
        requested: What the user requested.
        registry: The loaded plugins.
        reporter: Receives a line for each step, and warnings.
        ray: The arguments of `zoo.workflow.sweep_ray.Cluster`, to run the trials on Ray. None runs them in turn.

    Returns:
        All trials and the winner.

    Raises:
        UsageError: The request cannot be meant, or the folder has another sweep.
        DataError: The pictures cannot be found.
        RunError: No trial could be judged.
        WriteError: A file cannot be written.
        KeyboardInterrupt: The sweep was interrupted. Everything is kept.
    """
    from zoo.data import sources

    if ray is not None:
        from zoo.workflow import sweep_ray

        # Before the folder of the sweep exists: a command that cannot work must leave nothing behind.
        sweep_ray.check_installed()
    files.check_writable(requested.output, "--output FOLDER")
    with _only_here(requested.output):
        pairs, used = _begin(requested, registry)
        work = Sweep(requested, registry, reporter, Budget(requested.budget, used))
        work.heads = [
            TrialFolder(Trial(*pair, HEAD, requested.head_words), requested.output.absolute()) for pair in pairs
        ]
        name = sources.open_source(requested.data).name if requested.data == "digits" else Path(requested.data).name
        reporter.say(f"Sweeping over {counted(len(pairs), 'pair')} of network and size on {name}: {requested.output}")
        try:
            with contextlib.ExitStack() as stack:
                if ray is not None:
                    cluster = stack.enter_context(sweep_ray.Cluster(**ray))
                    _judge(work, cluster.heads, cluster.ladder)
                else:
                    _judge(work, judge_in_turn, _ladder)
            return _finish(work)
        except KeyboardInterrupt:
            reporter.warn(f"the sweep was interrupted. Everything is kept. Go on with `{requested.command}`")
            raise
        finally:
            with contextlib.suppress(ZooError, OSError, ValueError):
                work.save()


@contextlib.contextmanager
def _only_here(output: Path) -> Iterator[None]:
    """Keep other processes away from a sweep.

    Raises:
        RunError: Another process works on it.
    """
    import filelock

    output.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(output / "sweep.lock", timeout=0):
            yield
    except filelock.Timeout:
        raise RunError(f"another process works on the sweep in {str(output)!r}. Wait for it, or stop it.") from None
    except OSError as error:
        raise WriteError(f"{str(output)!r} cannot be written: {error.strerror or error}.") from error


def _begin(requested: SweepConfig, registry: Registry) -> tuple[list[tuple[str, tuple[int, int] | None]], float]:
    """Write sweep.json, or read that of an earlier part of the same sweep.

    Returns:
        The pairs of network and size, the cheapest first, and the seconds that the sweep has taken so far.
    """
    asked: dict[str, Any] = {
        "data": requested.data,
        "networks": list(requested.networks),
        "sizes": [list(size) if size else None for size in requested.sizes],
        "schedules": list(requested.schedules),
        "words": list(requested.words),
        "folds": requested.folds,
    }
    path = requested.output / FILE
    if path.is_file():
        try:
            known = json.loads(path.read_text("utf-8"))
            before, chosen, used = known["asked"], known["networks"], float(known["seconds"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{str(path)!r} is damaged: {error}. Choose another folder with --output.") from None
        changed = [name for name in asked if before.get(name) != asked[name]]
        if changed:
            if "words" in changed and "folds" in changed:
                changed.remove("folds")  # The words have it as --cv.
            told = {name: (before.get(name), asked[name]) for name in changed}
            if "words" in told and isinstance(before.get("words"), list):
                told["words"] = _without_beginning(before["words"], asked["words"])
            changes = "; ".join(
                f"{SPOKEN.get(name, '--' + name)} was {_shown(old)} and is {_shown(new)}"
                for name, (old, new) in told.items()
            )
            raise UsageError(
                f"{str(requested.output)!r} has a sweep with other settings: {changes}. Name another folder with "
                f"--output, or go on with that sweep: `zoo sweep --resume {requested.output}`."
            )
    else:
        chosen, used = _networks(requested, registry), 0.0
        write_json(path, {"format": FORMAT, "asked": asked, "networks": chosen, "seconds": 0.0})
    cost: dict[tuple[str, tuple[int, int] | None], float] = {}
    for name in chosen:
        architecture, _ = registry.resolve(name)
        for size in requested.sizes:
            height, width = size or architecture.input_size
            cost[(name, size)] = architecture.parameters * height * width
    return sorted(cost, key=lambda pair: cost[pair]), used


def _without_beginning(old: list[str], new: list[str]) -> tuple[list[str], list[str]]:
    """Leave out the options that two commands have in common at their beginning."""
    pairs = enumerate(zip(old, new, strict=False))
    same = next((place for place, (one, other) in pairs if one != other), min(len(old), len(new)))
    # An option stays together with its value.
    while same and not all(words[same].startswith("--") for words in (old, new) if same < len(words)):
        same -= 1
    return old[same:], new[same:]


def _shown(value: Any) -> str:
    if not isinstance(value, list):
        return "not given" if value is None else str(value)
    sizes = ["x".join(map(str, item)) if isinstance(item, list) else item for item in value]
    return " ".join(str(item) for item in sizes if item is not None) or "not given"


def _networks(requested: SweepConfig, registry: Registry) -> list[str]:
    """Return the names of the networks, and check them and the schedules.

    Raises:
        UsageError: A name is unknown, or there is no network.
    """
    for name in requested.networks:
        registry.resolve(name)
    for name in requested.schedules:
        schedules.find(name, registry)
    names = list(dict.fromkeys(requested.networks)) or [name for name, *_ in at_hand(registry)]
    if not names:
        raise UsageError(f"{NONE_AT_HAND} Or begin with random weights: --weights none --networks NAME.")
    assert all(isinstance(registry.resolve(name)[0], Architecture) for name in names)
    return names


def _judge(work: Sweep, judge_heads: Any, ladder: Any) -> None:
    """Judge the solved heads, and then the trials of the best pairs."""
    requested = work.requested
    heads: tuple[str, ...] = ()
    solved: list[Answers] = []
    if requested.random:
        pairs = [each.trial.pair for each in work.heads]
        of_pair = {each.trial.pair: each.trial for each in work.heads}
        work.heads = []
    else:
        for folder in work.heads:
            # What failed is tried again when the sweep goes on, because the cause may be gone.
            if folder.facts().get("problem"):
                folder.note(problem=None)
        judge_heads(work, work.heads, 0, lambda: work.budget.left(sweep_ladder.HEADS_SHARE))
        answers = work.answered([each.trial.key for each in work.heads])
        _check_answers(work, answers)
        best = sweep_ladder.survivors(
            {name: each.right for name, each in answers.items()},
            _costs(answers),
            least=sweep_ladder.LEAST_PAIRS,
        )
        of_pair = {work.folders[name].trial.pair: work.folders[name].trial for name in best}
        solved = [answers[name] for name in best]
        pairs, heads = list(of_pair), best if requested.heads_compete else ()
        work.reached |= {name: 0 for name in answers if name not in best or not requested.heads_compete}
    names = dict.fromkeys(requested.schedules or DEFAULT_SCHEDULES)
    # The solved head was judged on all folds, unless there are very many pictures.
    every_fold = any(len(each.right) > _fold_at_most(each, requested) for each in solved)
    for pair, schedule in sweep_ladder.dealt(pairs, [name for name in names if name != HEAD]):
        trial = of_pair[pair]
        words = _trial_words(requested, schedule, work.registry, every_fold)
        folder = TrialFolder(Trial(trial.network, trial.size, schedule, words), requested.output.absolute())
        if folder.facts().get("problem"):
            folder.note(problem=None)
        work.trials[folder.trial.key] = folder
    work.alive = (*heads, *work.trials)
    ladder(work, sweep_ladder.rungs(requested.folds or FOLDS, next((each.training_pictures for each in solved), None)))


def _fold_at_most(answers: Answers, requested: SweepConfig) -> float:
    """Return how many pictures one fold has at most, with some room for groups of near-duplicates."""
    return 1.5 * answers.training_pictures / (requested.folds or FOLDS)


def _trial_words(requested: SweepConfig, schedule: str, registry: Registry, every_fold: bool) -> tuple[str, ...]:
    """Return the options of a trial.

    Args:
        requested: What the user requested.
        schedule: The schedule.
        registry: The loaded plugins.
        every_fold: Whether a schedule that decides by evidence answers all folds too. By itself, it ends after some
            hundred pictures; the others would then be compared with it on these alone.
    """
    if requested.folds is None and (every_fold or not schedules.find(schedule, registry).by_evidence):
        return (*requested.words, "--cv", str(FOLDS))
    return requested.words


def _ladder(work: Sweep, rungs: Sequence[int]) -> None:
    """Judge all trials on the first rung, a third of them on the second one, and so on."""
    folds = work.requested.folds or FOLDS
    while True:
        work.rung = next(rung for rung in rungs if rung > work.rung)
        folders = [work.trials[name] for name in work.alive if name in work.trials]
        judge_in_turn(work, folders, work.rung, lambda: work.budget.left(sweep_ladder.TRIALS_SHARE, _reserve(work)))
        answers = work.answered(work.alive)
        if not answers or not any(name in work.trials for name in answers):
            return
        _check_answers(work, answers)
        # Without solved heads, the number of pictures is known only now.
        rungs = sweep_ladder.rungs(folds, next(iter(answers.values())).training_pictures)
        cut = any(each.answers(work.rung) is None and not each.facts().get("problem") for each in folders)
        if cut or work.rung >= rungs[-1]:
            return
        groups = {name: work.folders[name].trial.pair for name in answers}
        rights = {name: each.right for name, each in answers.items()}
        kept = sweep_ladder.survivors(rights, _costs(answers), groups=groups)
        work.reached |= {name: work.rung for name in answers if name not in kept}
        work.alive = kept
        if not any(name in work.trials for name in kept) or len(kept) == 1:
            return


def _costs(answers: Mapping[str, Answers]) -> dict[str, float]:
    """Return what decides between trials that are equally accurate: a solved head is the simplest one."""
    return {name: each.seconds if each.step else 0.0 for name, each in answers.items()}


def _reserve(work: Sweep) -> float:
    """Return how many seconds the training of the best trial so far on all pictures will take, and its export."""
    answers = work.answered(work.alive)
    if not answers:
        return FINISHING
    best = max(answers.values(), key=lambda each: each.accuracy)
    # A fold has fewer pictures than all together.
    return FINISHING + 1.25 * best.seconds / max(1, best.step)


def _check_answers(work: Sweep, answers: Mapping[str, Answers]) -> None:
    """Check that there are answers, all of them to the same pictures.

    Raises:
        RunError: The pictures have changed, or no trial could be judged.
    """
    if not answers:
        problems = [(name, each.facts().get("problem")) for name, each in work.folders.items()]
        lines = [f"  {name}: {problem}" for name, problem in problems if problem]
        if not lines:
            raise RunError(f"the time was over before a network was judged. Give more: `{work.requested.command}`")
        raise RunError("\n".join(["all trials have failed:", *lines]))
    if len({each.data for each in answers.values()}) > 1:
        raise DataError(
            "the pictures have changed since the sweep began, so that its trials cannot be compared. Start another one "
            "with --output FOLDER."
        )


def _finish(work: Sweep) -> SweepResult:
    """Choose the winner, finish it, and return all trials."""
    answers = work.answered(work.alive)
    _check_answers(work, answers)
    deepest = {name: each.right for name, each in answers.items()}
    standing = sweep_ladder.standing(deepest, _costs(answers))
    winner = work.folders[standing.best]
    latest = answers[standing.best]
    problem: str | None = None
    if not winner.is_finished():
        work.reporter.say(f"The winner is {standing.best}. It is trained on all pictures now, and exported")
        with work.reporter.progress(f"finishing {standing.best}"):
            problem = sweep_trials.finish(winner, latest.step, work.budget.left())
        work.save()
    rows = rows_of(work.folders, work.reached, work.alive, standing, work.rung)
    run = winner.run()
    name, metrics = "", None
    if run is not None and problem is None:
        found, record = runs.load(run)
        name, metrics = record.name, found.read_json("metrics.json")
    return SweepResult(
        data=work.requested.data,
        output=work.requested.output,
        rows=tuple(rows),
        winner=standing.best,
        run=run,
        exported=work.requested.exported / name / "model.onnx" if name else None,
        test=None if metrics is None else metrics["test"],
        problem=problem,
        stopped=work.stopped or problem == "",
        seconds=work.budget.spent(),
        command=work.requested.command,
    )


__all__ = ["DEFAULT_SCHEDULES", "Row", "Sweep", "SweepConfig", "SweepResult", "sweep"]
