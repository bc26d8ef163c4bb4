"""Decides by held-out pictures which head a network gets, and whether phases above the head are worth training.

Linear probing comes before fine-tuning (Kumar et al. 2022, https://arxiv.org/abs/2202.10054): every later phase starts
from the solved head. A later phase is trained only if it lowers the loss of pictures that it has not seen.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from zoo.errors import TrainingError
from zoo.plugin import Head, Phase
from zoo.reporter import Reporter, counted
from zoo.train import engine, head_blocks, linear_head, progress
from zoo.train.engine import TrainConfig
from zoo.train.inputs import TrainingData, class_weights
from zoo.train.linear_head import HeadFit
from zoo.train.network import Network
from zoo.train.safe_points import SafePoints, TrainingPoints, Values
from zoo.train.so_far import SoFar, best_so_far
from zoo_runtime.workshop import usable_cores

# A later phase is tried only if the head is wrong for at least this many held-out pictures. If the phase mended half of
# 20 errors and made 5 new ones, the gain would be 1.3 standard errors. With fewer errors, hardly any gain could show.
FEWEST_ERRORS = 20
# Folds are held out in turn until so many pictures have been held out.
HELD_OUT = 300
# The joint head is not tried if pictures x features x units are more, because it would take many minutes. As many are
# 20,000 pictures of 1,000 classes with 1,000 features.
JOINT_LARGEST = 20_000_000_000
# A gain of less than this many standard errors counts as a tie, which the simpler network wins.
TIE = 0.5
# The joint head alone needs a gain of more than this many standard errors.
CLEAR = 2.0


@dataclass(frozen=True)
class ChosenHead:
    """A solved head, and the features that it reads.

    Args:
        head: Describes the head; its `stages` may be more than 1.
        fit: The head with its out-of-fold evidence.
        groups: The number of outputs of the converted backbone that the head reads.
        others: The mean out-of-fold loss of the heads that were not chosen, by their number of stages.
    """

    head: Head
    fit: HeadFit
    groups: int
    others: dict[int, float]


def more_stages(stages: int) -> int:
    """Return from how many stages a head pools features if it pools more than the top: the top third and one below.

    Args:
        stages: The number of stages of the architecture.
    """
    return min(stages, 1 + max(1, stages // 3))


def choose_head(
    groups: Sequence[np.ndarray],
    targets: np.ndarray,
    head: Head,
    *,
    task: str,
    copies: Sequence[object] | None,
    weights: np.ndarray | None,
    label_smoothing: float,
    folds: int | None,
    seed: int,
) -> ChosenHead:
    """Solve the head on the features of the top, and on those of lower stages too, and choose by out-of-fold loss.

    The second candidate is the average of both heads. It is the joint head alone if that is better by more than two
    standard errors.

    Args:
        groups: Features of the training pictures, each float32 (pictures, n): those of the top first.
        targets: float32 (pictures, classes), 1 if a picture is of a class, else 0.
        head: Describes the head; its L2 penalty is used.
        task: "multiclass", "binary" or "multilabel".
        copies: A value per picture; pictures with equal values are copies.
        weights: The weight of each class in the loss, float32 (classes,), or None.
        label_smoothing: The fraction of every target that is spread over all classes, in [0, 1).
        folds: The number of folds of the cross-validation, all of which are held out. None uses 5 folds, and holds out
            only the first one if the problem is large; see `zoo.train.linear_head.LARGE`.
        seed: Decides the folds.

    Raises:
        ValueError: A feature is not finite.
    """
    options: dict[str, Any] = {
        "task": task,
        "copies": copies,
        "weights": weights,
        "label_smoothing": label_smoothing,
        "l2": head.weight_l2,
        "folds": folds or linear_head.FOLDS,
        "one_fold": False,
        "seed": seed,
    }
    features, units = sum(group.shape[1] for group in groups), 1 if task == "binary" else targets.shape[1]
    if folds is None:
        # Both heads must hold out the same pictures, although one has fewer features.
        options["one_fold"] = linear_head.is_large(len(targets), features, units)
    affordable = len(targets) * features * units <= JOINT_LARGEST
    more = [groups] if len(groups) > 1 and not head.weight_l2 and affordable else []
    # Small problems are solved on one thread each, so that both cores of a small machine have work. Large ones share
    # their blocks among all cores, one after the other, because both at once would take twice the memory.
    large = head_blocks.is_for_blocks(len(targets), features, units)
    options["threads"] = usable_cores() if large else 1
    with linear_head.one_blas_thread(), ThreadPoolExecutor(2) as pool:
        # Large ones are solved in this thread, because leaving the pool after a signal waits for its threads.
        solved = (map if large else pool.map)(
            lambda read: linear_head.solve(read, targets, **options), [groups[:1], *more]
        )
        plain, *others = solved
    top_alone = ChosenHead(dataclasses.replace(head, stages=1), plain, 1, {})
    if not others or not plain.folds:
        return top_alone
    (joint,) = others
    mean = linear_head.average(plain, joint, targets, task, weights)
    # The joint head alone needs clear evidence. With few pictures, the average generalizes better.
    gain = mean.losses - joint.losses
    joined = joint if gain.mean() > CLEAR * _error(gain) else mean
    if joined.loss < plain.loss:
        return ChosenHead(dataclasses.replace(head, stages=len(groups)), joined, len(groups), {1: plain.loss})
    return dataclasses.replace(top_alone, others={len(groups): joined.loss})


def to_values(chosen: ChosenHead) -> Values:
    """Return a chosen head as a safe point records it; see `from_values`."""
    fit = chosen.fit
    facts = {
        "head": dataclasses.asdict(chosen.head),
        "groups": chosen.groups,
        "others": list(chosen.others.items()),
        "penalty": fit.penalty,
        "folds": fit.folds,
    }
    arrays = {name: getattr(fit, name) for name in ("kernel", "bias", "rows", "logits", "losses", "fold_of")}
    for i, (kernel, bias) in enumerate(fit.fold_heads):
        arrays |= {f"fold_kernel{i}": kernel, f"fold_bias{i}": bias}
    return Values(facts, arrays)


def from_values(values: Values) -> ChosenHead:
    """Return the head that `to_values` recorded."""
    facts, arrays = values.facts, dict(values.arrays)
    if "rows" not in arrays:
        # An earlier version kept rows of NaN for pictures that were not held out.
        arrays["rows"] = np.flatnonzero(arrays["fold_of"] >= 0)
        arrays |= {name: arrays[name][arrays["rows"]] for name in ("logits", "losses")}
    heads = len([name for name in arrays if name.startswith("fold_kernel")])
    fit = HeadFit(
        penalty=facts["penalty"],
        folds=facts["folds"],
        fold_heads=tuple((arrays[f"fold_kernel{i}"], arrays[f"fold_bias{i}"]) for i in range(heads)),
        **{name: arrays[name] for name in ("kernel", "bias", "rows", "logits", "losses", "fold_of")},
    )
    fields: dict[str, Any] = {key: tuple(x) if isinstance(x, list) else x for key, x in facts["head"].items()}
    return ChosenHead(Head(**fields), fit, facts["groups"], {int(stages): loss for stages, loss in facts["others"]})


@dataclass(frozen=True)
class Evidence:
    """What held-out pictures say about the phases above the head.

    Args:
        count: How many of the later phases are worth training; 0 keeps the head alone.
        text: One line for the user.
        record: The figures for run.json. Empty if nothing was tried.
        logits: Out-of-fold logits of the network with the chosen phases, float64 (held out, units), for the pictures
            `HeadFit.rows` of the head; NaN for those that were not held out in the trials.
        epochs: For each epoch of the chosen phases, the mean loss and accuracy of the held-out pictures.
        temperature: By what the logits of the network with the chosen phases are divided. Such networks are too sure of
            themselves, while the solved head is not, because its penalty was chosen by the loss.
    """

    count: int
    text: str
    record: dict[str, Any] = field(default_factory=dict)
    logits: np.ndarray | None = None
    epochs: tuple[tuple[float, float], ...] = ()
    temperature: float = 1.0


def errors_of(fit: HeadFit, targets: np.ndarray, task: str, folds: int | None = None) -> tuple[int, int]:
    """Return how many held-out pictures a head gets wrong, and how many were held out.

    Args:
        fit: The head with its out-of-fold logits.
        targets: float32 (pictures, classes), 1 if a picture is of a class, else 0.
        task: "multiclass", "binary" or "multilabel".
        folds: Count only the pictures of the first folds, as many as this; None counts all.
    """
    chosen = fit.fold_of[fit.rows] < (fit.folds if folds is None else folds)
    return int((~right(fit.logits[chosen], targets[fit.rows[chosen]], task)).sum()), int(chosen.sum())


def right(logits: np.ndarray, targets: np.ndarray, task: str) -> np.ndarray:
    """Return for each picture whether all decisions are right, bool (pictures,).

    Args:
        logits: (pictures, units).
        targets: (pictures, classes), 1 if a picture is of a class, else 0.
        task: "multiclass", "binary" or "multilabel".
    """
    decided = linear_head.decisions(logits, targets, task)
    return np.asarray(decided if decided.ndim == 1 else decided.all(axis=1))


class Trials:
    """Trains later phases without some pictures, and compares the results with the head alone on those pictures.

    Args:
        build: Builds the network with the chosen head and the pretrained weights.
        chosen: The head.
        phases: The phases after that of the head.
        data: The pictures; its train part is all pictures that may be used, and its validation part is empty.
        config: The settings of training.
        reporter: Receives progress messages and warnings.
        points: The safe points of the run; None keeps none.
    """

    def __init__(
        self,
        build: Callable[[], Network],
        chosen: ChosenHead,
        phases: Sequence[Phase],
        data: TrainingData,
        config: TrainConfig,
        reporter: Reporter,
        points: SafePoints | None = None,
    ):
        self._build, self._chosen, self._data, self._reporter = build, chosen, data, reporter
        self._points = points
        self._phases = [dataclasses.replace(phase, patience=None, skip_below_loss=None) for phase in phases]
        features = config.features and dataclasses.replace(config.features, always=True)
        self._config = dataclasses.replace(config, keep_best=False, features=features)
        self._class_weights = class_weights(data) if config.balance else None
        self._network: Network | None = None
        self._variables: list[np.ndarray] = []

    def run(self, *, every_fold: bool = False, most: Callable[[int], int] = int) -> Evidence:
        """Try the phases if the held-out pictures can show whether they help.

        Args:
            every_fold: True holds out every fold, even if the phases lose clearly or enough pictures were held out.
            most: Returns how many of the planned folds are held out.
        """
        data, fit = self._data, self._chosen.fit
        sizes = np.cumsum(np.bincount(fit.fold_of[fit.fold_of >= 0], minlength=fit.folds))
        planned = fit.folds if every_fold else min(fit.folds, 1 + int(np.searchsorted(sizes, HELD_OUT)))
        wrong, held_out = errors_of(fit, data.targets[data.train], data.task, planned)
        if wrong < FEWEST_ERRORS:
            return Evidence(
                0,
                f"The head alone is kept: it is wrong for {wrong} of {held_out} pictures that were held out, "
                "too few to show whether training more layers helps",
                {"wrong": wrong, "held_out": held_out},
            )
        logits = [np.full(fit.logits.shape, np.nan) for _ in self._phases]
        histories: list[tuple[int, list[dict[str, Any]]]] = []
        folds = 0
        for fold in range(most(planned)):
            rows = np.flatnonzero(fit.fold_of == fold)
            places = np.flatnonzero(fit.fold_of[fit.rows] == fold)
            try:
                val_logits, history = self._without(rows, fold)
            except TrainingError as error:
                # The head alone is still good.
                return Evidence(0, f"The head alone is kept, because the next phases cannot be trained: {error}")
            for each, values in zip(logits, val_logits, strict=True):
                each[places] = values
            histories.append((len(rows), history))
            folds += 1
            losses = [self._compared(each)[:2] for each in logits]
            gains = [before - after for before, after in losses]
            # A clear gain does not end the trial, because the figures of the folds in which it was clear are too good.
            if not every_fold and all(gain.mean() + _error(gain) < 0 for gain in gains):
                break
        return self._decided(logits, histories, folds)

    def refit(
        self, found: Evidence, log: Callable[[Mapping[str, Any]], None] | None = None
    ) -> tuple[Network, engine.TrainResult]:
        """Train the chosen phases on all pictures, from the solved head, and divide the logits by the temperature.

        Args:
            found: The chosen phases.
            log: Receives the row of each epoch; see `zoo.train.engine.train`.
        """
        fit = self._chosen.fit
        network = self._start(fit.kernel, fit.bias)
        points = self._points.training("refit") if self._points is not None else None
        # history.csv counts the solved head as the first epoch.
        config = dataclasses.replace(self._config, epochs_before=1)
        result = engine.train(network, self._phases[: found.count], self._data, config, self._reporter, points, log)
        _divide_logits(network, found.temperature)
        return network, result

    def so_far(self, found: Evidence) -> SoFar | None:
        """Return what an interrupted `refit` has reached; None if no epoch of it is finished."""
        if self._points is None:
            return None
        network, phases = self._start(self._chosen.fit.kernel, self._chosen.fit.bias), self._phases[: found.count]
        reached = best_so_far(network, phases, self._data, self._config, self._points.training("refit"))
        if reached is not None:
            _divide_logits(reached.network, found.temperature)
        return reached

    def _start(self, kernel: np.ndarray, bias: np.ndarray) -> Network:
        """Return the network with its pretrained weights and a solved head."""
        if self._network is None:
            self._network = self._build()
            self._variables = progress.snapshot(self._network.model)
        model = self._network.model
        # With the random state of dropout, because an interrupted run does not train all folds again.
        progress.assign(model.variables, self._variables)
        model.get_layer(f"{self._network.prefix}logits").set_weights([kernel.astype("float32"), bias.astype("float32")])
        return self._network

    def _without(self, rows: np.ndarray, fold: int) -> FoldResult:
        """Train the phases without the pictures of a fold, given by their places in the train part.

        Raises:
            TrainingError: The network computes values that are not finite.
        """
        return fold_result(self._points, fold, lambda points: self._train_without(rows, fold, points))

    def _train_without(self, rows: np.ndarray, fold: int, points: TrainingPoints | None) -> engine.TrainResult:
        network = self._start(*self._chosen.fit.fold_heads[fold])
        data = self._data.holding_out(rows)
        config = dataclasses.replace(self._config, val_logits=True)
        with self._reporter.timing.measure("trying"), quiet(self._reporter, "trying more layers") as reporter:
            result = engine.train(network, self._phases, data, config, reporter, points)
        if not all(np.isfinite(values).all() for values in result.val_logits):
            raise TrainingError("the network computes values that are not finite. Try a lower --learning-rate.")
        return result

    def _temperature(self, logits: np.ndarray) -> float:
        """Return the temperature with the lowest loss of held-out pictures (Guo et al. 2017, arXiv 1706.04599)."""
        from scipy.optimize import minimize_scalar

        if self._config.label_smoothing:
            # The user wants a network that is less sure of itself.
            return 1.0

        def loss(logarithm: float) -> float:
            return float(np.nanmean(self._losses(logits / np.exp(logarithm))))

        return float(np.exp(minimize_scalar(loss, bounds=(-1.5, 1.5), method="bounded").x))

    def _losses(self, logits: np.ndarray) -> np.ndarray:
        return linear_head.cross_entropies(logits, self._targets(), self._data.task, weights=self._class_weights)

    def _targets(self) -> np.ndarray:
        """Return the targets of the pictures that the head held out, (held out, classes)."""
        return self._data.targets[self._data.train[self._chosen.fit.rows]]

    def _compared(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Compare a network with the head alone on held-out pictures, each with its own best temperature.

        Returns:
            The loss of each held-out picture with the head alone and with the network, and the network's temperature.
        """
        held_out = np.isfinite(logits).all(axis=1)[:, None]
        losses, temperatures = [], []
        for each in (np.where(held_out, self._chosen.fit.logits, np.nan), logits):
            temperatures.append(self._temperature(each))
            values = self._losses(each / temperatures[-1])
            losses.append(values[np.isfinite(values)])
        return losses[0], losses[1], temperatures[1]

    def _decided(
        self, logits: list[np.ndarray], histories: list[tuple[int, list[dict[str, Any]]]], folds: int
    ) -> Evidence:
        """Compare the head alone with one more phase, two more phases, and so on, and choose."""
        data, fit, targets = self._data, self._chosen.fit, self._targets()
        compared = [self._compared(each) for each in logits]
        gains = [before - after for before, after, _ in compared]
        best = int(np.argmax([gain.mean() for gain in gains]))
        gain, error = float(gains[best].mean()), _error(gains[best])
        count = best + 1 if gain > TIE * error else 0
        held = np.isfinite(logits[best]).all(axis=1)
        *both, temperature = compared[best]
        losses = [float(each.mean()) for each in both]
        accuracies = [float(right(each[held], targets[held], data.task).mean()) for each in (fit.logits, logits[best])]
        names = " and ".join(phase.name for phase in self._phases[: best + 1])
        verdict = f"{names} is trained" if count else "the head alone is kept"
        text = (
            f"{int(held.sum())} pictures held out in {counted(folds, 'fold')}: loss {losses[0]:.4f} (accuracy "
            f"{accuracies[0]:.4f}) with the head alone, {losses[1]:.4f} ({accuracies[1]:.4f}) with {names}: a gain of "
            f"{gain:.4f}, standard error {error:.4f}; {verdict}"
        )
        record = {
            "held_out": int(held.sum()),
            "folds": folds,
            "loss": losses,
            "accuracy": accuracies,
            "temperature": temperature,
            "gain": gain,
            "standard_error": error,
            "phases": [phase.name for phase in self._phases[: best + 1]],
        }
        if not count:
            return Evidence(0, text, record)
        return Evidence(count, text, record, logits[best] / temperature, by_epoch(histories), temperature)


def _divide_logits(network: Network, temperature: float) -> None:
    layer = network.model.get_layer(f"{network.prefix}logits")
    layer.set_weights([weights / temperature for weights in layer.get_weights()])


# The logits of the held-out pictures after each phase, and the rows of all epochs.
FoldResult = tuple[list[np.ndarray], list[dict[str, Any]]]


def fold_result(
    points: SafePoints | None, fold: int, train: Callable[[TrainingPoints | None], engine.TrainResult]
) -> FoldResult:
    """Return the result of a fold: that of an interrupted run, or else that of training, which is then recorded.

    Args:
        points: The safe points of the run; None keeps none.
        fold: The number of the fold, counted from 0.
        train: Trains without the pictures of the fold. Its argument are the safe points of this training.
    """
    if points is None:
        result = train(None)
        return result.val_logits, result.history
    name = f"fold{fold + 1}"
    stored = points.finished(name)
    if stored is None:
        result = train(points.training(name))
        arrays = {f"logits{i}": values for i, values in enumerate(result.val_logits)}
        stored = Values({"history": result.history}, arrays)
        points.finish(name, stored)
    return [stored.arrays[f"logits{i}"] for i in range(len(stored.arrays))], list(stored.facts["history"])


def _error(values: np.ndarray) -> float:
    """Return the standard error of the mean."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("inf")


def by_epoch(histories: list[tuple[int, list[dict[str, Any]]]]) -> tuple[tuple[float, float], ...]:
    """Average the validation figures of each epoch over folds, weighted by their pictures."""
    total = sum(count for count, _ in histories)
    epochs = min(len(history) for _, history in histories)

    def mean(key: str, epoch: int) -> float:
        return sum(count * history[epoch][key] for count, history in histories) / total

    return tuple((mean("val_loss", epoch), mean("val_accuracy", epoch)) for epoch in range(epochs))


@contextlib.contextmanager
def quiet(reporter: Reporter, label: str) -> Iterator[Reporter]:
    """Provide a reporter that shows progress, and keeps messages and warnings to itself.

    Args:
        reporter: The reporter that shows the progress.
        label: What stands in front of the labels of the steps.
    """

    class Quiet(Reporter):
        def __init__(self) -> None:
            super().__init__()
            self.timing = reporter.timing

        def progress(self, step: str):
            return reporter.progress(f"{label}, {step}")

    yield Quiet()
