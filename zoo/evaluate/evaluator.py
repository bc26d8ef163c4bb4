"""Evaluates an exported file on pictures.

zoo_runtime computes the probabilities, as it does on the device. `zoo.evaluate.metrics` computes the metrics from them.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from zoo.data import memory, sources
from zoo.data import pixels as pixel_cache
from zoo.data.dataset import Dataset, digest_of
from zoo.data.names import listed, normalized
from zoo.errors import DataError, UsageError
from zoo.evaluate import metrics
from zoo.evaluate.answers import Answers
from zoo.evaluate.verdict import Verdict, judge
from zoo.reporter import Reporter
from zoo_runtime import ModelInfo, PictureError, Prediction, Predictor

# The evaluated parts of a split, and their keys in metrics.json.
PARTS = (("val", "validation"), ("test", "test"))
# The key of pictures that were held out in a cross-validation.
CROSS_VALIDATION = "cross_validation"


@dataclass(frozen=True)
class Outputs:
    """The outputs of a network for some pictures of its training run.

    Args:
        rows: Indices of the pictures in the dataset, int64 (N,).
        probabilities: float64 (N, classes) in 0..1.
        answers: What the exported file says about the pictures; None if the probabilities do not come from one.
    """

    rows: np.ndarray
    probabilities: np.ndarray
    answers: Answers | None = None


@dataclass(frozen=True)
class EvaluationPictures:
    """Holds pictures on which an exported file is evaluated, and how the file's training run used them.

    Args:
        source: Lists the pictures and their classes.
        digests: The sha256 of each picture, in hex, in the order of the source.
        readable: Indices of the pictures to evaluate. Pictures that are known to be unreadable are not among them.
        known_parts: Maps the sha256 of every picture of the training run, in hex, to "train", "val" or "test". Empty if
            the run folder is not available.
        name: The name of the pictures in error messages.
        known_unreadable: The file names, without folders, of the pictures that the training run could not read.
    """

    source: sources.Source
    digests: Sequence[str]
    readable: Collection[int]
    known_parts: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    known_unreadable: Collection[str] = ()

    def select(self, part: str | None) -> tuple[str, list[int]]:
        """Select the pictures of one part.

        If these pictures include at least half of the pictures of the training run, the split of the run decides which
        part a picture belongs to. Otherwise, the split of the source decides.

        Args:
            part: "train", "val", "test" or "all". None means "test" if there is a test part, else "all".

        Returns:
            The name of the part, and the indices of its readable pictures.

        Raises:
            UsageError: The part has no readable picture.
        """
        parts = self._parts()
        part = part or ("test" if "test" in parts else "all")
        rows = [i for i in sorted(self.readable) if part in ("all", parts[i])]
        if not rows:
            raise UsageError(f"{self.name!r} has no {part} part. Omit --part to evaluate all of its pictures.")
        return part, rows

    def _parts(self) -> list[str | None]:
        """Return the part of each picture: "train", "val" or "test", or None for a picture that belongs to no part.

        If `source` has at least half of the pictures of the training run, each picture has the same part as in the
        training run, and new pictures have none. Otherwise, the source itself divides its pictures into parts, for
        example with folders train/, val/ and test/.
        """
        if self._are_of_the_run():
            # Wherever the pictures are now, the split of the run holds.
            return [self.known_parts.get(digest) for digest in self.digests]
        return [picture.split for picture in self.source.pictures]

    def _are_of_the_run(self) -> bool:
        """Return whether these pictures include at least half of the pictures of the training run.

        The result is False if the run folder is not available.
        """
        present = len(self.known_parts.keys() & set(self.digests))
        return bool(self.known_parts) and 2 * present >= len(self.known_parts)

    def report_left_out(self, rows: Sequence[int], info: ModelInfo, reporter: Reporter) -> None:
        """Report how many readable pictures are not evaluated, and to which parts they belong.

        Pictures that belong to no part cause a warning. A user may have added these pictures in order to evaluate them.
        The warning also names up to five classes that these pictures have but the network does not know.

        Args:
            rows: Indices of the pictures that are evaluated.
            info: The metadata of the exported file.
            reporter: Receives one message or warning, or nothing if every readable picture is evaluated.
        """
        parts, pictures = self._parts(), self.source.pictures
        unreadable = {
            i for i in self.readable if parts[i] is None and os.path.basename(pictures[i].name) in self.known_unreadable
        }
        readable = set(self.readable) - unreadable
        left_out = sorted(readable - set(rows))
        if not left_out:
            return
        names = sorted({parts[i] or "" for i in left_out} - {""})
        new = [i for i in left_out if parts[i] is None]
        text = f"{len(rows)} of {len(readable)} pictures are evaluated."
        if names:
            seen = self._are_of_the_run() and set(names) <= {"train", "val"}
            text += f" Left out: {len(left_out) - len(new)} of the {' and '.join(names)} part{'s' * (len(names) > 1)}"
            text += ", which were used in training." if seen else "."
        if not new:
            reporter.say(text)
            return
        classes = {self.source.classes[label] for i in new for label in self.source.pictures[i].labels}
        unknown = sorted(classes - _index(info.classes).keys())
        text += f" Left out: {len(new)} that are not pictures of the run, such as new ones."
        text += f" The network does not know {listed(unknown, 5)}." if unknown else ""
        reporter.warn(f"{text} To evaluate new pictures, put them into a folder without the old ones.")

    def warn_if_seen(self, rows: Sequence[int], info: ModelInfo, reporter: Reporter) -> None:
        """Warn if some pictures were used to train or select the network.

        The metrics on such pictures are better than those on new pictures.

        The run folder says how the training run used each picture. If the run folder is not available, this is unknown.
        The warning then appears if `source` has exactly the pictures of the training run.

        Args:
            rows: Indices of the pictures to evaluate.
            info: The metadata of the exported file.
            reporter: Receives the warning.
        """
        seen = self.seen(rows, info)
        left_out = " Figures of calibration and label sets are not given." if info.trust else ""
        if seen and self.known_parts:
            reporter.warn(
                f"{seen} of these {len(rows)} pictures were used to train or select the network. "
                f"On new pictures, expect worse figures.{left_out}"
            )
        elif seen:
            reporter.warn(
                "these are the pictures that the network was trained and tested on. Only its run folder knows which of "
                "them are test pictures: `zoo evaluate RUN` uses those alone."
            )

    def seen(self, rows: Sequence[int], info: ModelInfo) -> int:
        """Return how many of some pictures were used to train or select the network.

        If the run folder is not available, all of them count if `source` has exactly the pictures of the training run,
        and none otherwise.
        """
        if self.known_parts:
            return sum(self.known_parts.get(self.digests[i]) in ("train", "val") for i in rows)
        return len(rows) if self._digest() == info.data.get("digest") else 0

    def _digest(self) -> str:
        return digest_of(self.source, self.digests, range(len(self.digests)))


def evaluate_parts(predictor: Predictor, dataset: Dataset, reporter: Reporter) -> dict[str, Any]:
    """Evaluate an exported file on the validation pictures and on the test pictures of its training run.

    Args:
        predictor: Runs the exported file.
        dataset: The dataset of the run.
        reporter: Receives progress messages.

    Returns:
        The metrics of the two parts, under "validation" and "test"; see `zoo.evaluate.metrics.measure`. If the run has
        no validation part, there are only those of "test".

    Raises:
        DataError: A picture that was readable when the dataset was built cannot be read now.
    """
    return measure_parts(predict_parts(predictor, dataset, reporter), dataset)


def measure_parts(outputs: Mapping[str, Outputs], dataset: Dataset) -> dict[str, Any]:
    """Compute the metrics of each part.

    The figures of `Answers.measure` are left out for validation pictures if the file was calibrated on them, because
    they would be too good.

    Args:
        outputs: What `predict_parts` returns. It may also have pictures that were held out, under "cross_validation".
        dataset: The dataset of the run.
    """
    source, measured = dataset.source, {}
    for key, part in outputs.items():
        targets = dataset.targets[part.rows]
        measured[key] = metrics.measure(part.probabilities, targets, source.classes, multilabel=source.multilabel)
        if part.answers is not None and (key == "test" or part.answers.fitted_on == "cross-validation"):
            measured[key] |= part.answers.measure(targets, multilabel=source.multilabel)
    return measured


def judge_parts(
    outputs: Mapping[str, Outputs], dataset: Dataset, *, balanced: bool, solved: bool = False, chosen: bool = False
) -> Verdict:
    """Judge the network by all parts together; see `zoo.evaluate.verdict.judge`.

    Args:
        outputs: As in `measure_parts`.
        dataset: The dataset of the run.
        balanced: Whether the training gave every class the same weight.
        solved: Whether the head was solved and no other layers were trained.
        chosen: Whether pictures of a cross-validation decided what was trained.
    """
    source = dataset.source
    rows = np.concatenate([part.rows for part in outputs.values()])
    joined = memory.stacked([part.probabilities for part in outputs.values()])
    return judge(
        joined,
        dataset.targets[rows],
        source.classes,
        multilabel=source.multilabel,
        balanced=balanced,
        solved=solved,
        chosen=chosen and CROSS_VALIDATION in outputs,
    )


def predict_parts(predictor: Predictor, dataset: Dataset, reporter: Reporter) -> dict[str, Outputs]:
    """Compute the probabilities of the validation pictures and of the test pictures of a training run.

    The pictures are decoded again from their files, as on the device.

    Args:
        predictor: Runs the exported file.
        dataset: The dataset of the run.
        reporter: Receives progress messages.

    Returns:
        The outputs under "validation" and "test". If the run has no validation part, there are only those of "test".

    Raises:
        DataError: A picture that was readable when the dataset was built cannot be read now.
    """
    parts = {}
    source = dataset.source
    for part, key in PARTS:
        rows = getattr(dataset.split, part)
        if not len(rows):
            continue
        with reporter.timing.measure("evaluating"), reporter.progress(f"evaluating {key}") as progress:
            answers, bad = predict(predictor, dataset.contents(rows), progress)
        for i, why in bad.items():
            # The name of the error class is for programs; the rest begins with the path of the picture.
            why = why.partition(": ")[2].removeprefix(f"{source.pictures[rows[i]].name}: ") or why
            raise DataError(
                f"{source.pictures[rows[i]].name} was readable before, but is not now ({why}). Put it back as it was."
            )
        parts[key] = Outputs(rows, answers.probabilities, answers)
    return parts


def predict(
    predictor: Predictor, contents: Sequence[Any], progress: Callable[[int, int], None] | None = None
) -> tuple[Answers, dict[int, str]]:
    """Compute the answers of an exported file for pictures.

    Args:
        predictor: Runs the exported file.
        contents: Paths, or uint8 arrays (H, W), (H, W, 1) or (H, W, 3), values 0..255.
        progress: Called with (pictures done, pictures in total) after each picture; None means no calls.

    Returns:
        A tuple of two values. The first has the answers for the readable pictures, in order. The second maps the index
        of each unreadable picture to the reason, which starts with the name of the error class.
    """
    bad = {}

    def readable() -> Iterator[Prediction]:
        for i, result in enumerate(predictor.predict_each(contents)):
            if isinstance(result, PictureError):
                bad[i] = pixel_cache.reason_of(result)
            else:
                yield result
            if progress:
                progress(i + 1, len(contents))

    return Answers.of(readable(), predictor.info, len(contents)), bad


def evaluate(
    predictor: Predictor, pictures: EvaluationPictures, reporter: Reporter, *, part: str | None = None
) -> dict[str, Any]:
    """Evaluate an exported file on pictures. Unreadable pictures are left out with a warning.

    Args:
        predictor: Runs the exported file.
        pictures: The pictures, and how the training run used them.
        reporter: Receives progress messages. It also receives warnings about pictures that are unreadable or were used
            to train or select the network.
        part: "train", "val", "test" or "all". None means "test" if there is a test part, else "all".

    Returns:
        The metrics that `zoo.evaluate.metrics.measure` returns, and an additional key `part` with the name of the part.
        For an exported file of a run, also the figures of `Answers.measure`, unless the network was trained or selected
        on some of the pictures.

    Raises:
        UsageError: The part has no readable picture.
        DataError: A picture has a class that the network does not have. A picture has several labels or none, but the
            network predicts exactly one. More than a fifth of the pictures cannot be read.
    """
    source, info = pictures.source, predictor.info
    part, rows = pictures.select(part)
    chosen = [source.pictures[i] for i in rows]
    _check_labels(source, chosen, info)
    reporter.say(f"{part.capitalize()} pictures of {source.name}: {len(rows)}")
    pictures.report_left_out(rows, info, reporter)
    pictures.warn_if_seen(rows, info, reporter)
    with reporter.progress(f"evaluating {part}") as progress:
        answers, bad = predict(predictor, [picture.content for picture in chosen], progress)
    pixel_cache.check_readable(chosen, bad)
    if bad:
        # The reason starts with the path, which the warning states anyway.
        reasons = {chosen[i].name: why.replace(f"{chosen[i].name}: ", "", 1) for i, why in bad.items()}
        reporter.warn(pixel_cache.left_out_text(reasons, len(rows)))
    readable = [picture for i, picture in enumerate(chosen) if i not in bad]
    targets = _targets(source, readable, info.classes)
    multilabel = info.task == "multilabel"
    figures = metrics.measure(answers.probabilities, targets, info.classes, multilabel=multilabel)
    # On pictures of the training, the file keeps its promises better than on others.
    new = bool(info.trust) and not pictures.seen(rows, info)
    return {"part": part, **figures, **(answers.measure(targets, multilabel=multilabel) if new else {})}


def _check_labels(source: sources.Source, pictures: Sequence[sources.Picture], info: ModelInfo) -> None:
    """Check that the network can predict the labels of the pictures.

    Raises:
        DataError: A picture has a class that the network does not have. A picture has several labels or none, but the
            network predicts exactly one.
    """
    present = {source.classes[label] for picture in pictures for label in picture.labels}
    unknown = sorted(present - _index(info.classes).keys())
    if unknown:
        raise DataError(
            f"the network does not know {listed(unknown, 5)}. It knows {listed(info.classes, 10)}."
            f"{_nearly(unknown, info)} To evaluate the pictures of the classes that it knows, name these with "
            f"--classes. Or train again with "
            f"{'this class' if len(unknown) == 1 else 'these classes'}: `zoo finetune`."
        )
    if info.task != "multilabel" and any(len(picture.labels) != 1 for picture in pictures):
        raise DataError(
            f"some pictures of {source.name!r} have several labels or none, but the network gives exactly one class."
        )


def _nearly(unknown: Sequence[str], info: ModelInfo) -> str:
    """Return a sentence if an unknown class differs from one of the network in case or blanks only; else nothing."""

    def plain(name: str) -> str:
        return " ".join(unicodedata.normalize("NFKC", name).casefold().split())

    known = {plain(name): name for name in info.classes}
    pairs = [(name, known[plain(name)]) for name in unknown if plain(name) in known]
    same = ", ".join(f"{name!r} is {other!r}" for name, other in pairs[:5])
    return f" But for case and blanks, {same}: rename the class." if pairs else ""


def _targets(source: sources.Source, pictures: Sequence[sources.Picture], classes: Sequence[str]) -> np.ndarray:
    """Encode the classes of pictures as a uint8 array (pictures, classes): 1 if the picture has the class, else 0.

    Args:
        source: Lists the class names to which the labels of the pictures refer.
        pictures: The pictures.
        classes: The class names of the network, in the order of the columns. The source may lack some of them.
    """
    targets = np.zeros((len(pictures), len(classes)), np.uint8)
    index = _index(classes)
    for row, picture in zip(targets, pictures, strict=True):
        row[[index[source.classes[label]] for label in picture.labels]] = 1
    return targets


def _index(classes: Sequence[str]) -> dict[str, int]:
    """Return the position of each class of a network. The names of files of older versions may be in any form.

    The names of a source are in NFC. Each name is found as the file writes it, and in NFC.
    """
    return {normalized(name): i for i, name in enumerate(classes)} | {name: i for i, name in enumerate(classes)}
