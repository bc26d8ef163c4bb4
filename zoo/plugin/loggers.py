"""Data classes for loggers: what a plugin provides, and what zoo hands to the log of one run.

Plugins import the classes from `zoo.plugin`. `zoo.workflow.logs` calls them. Importing this module imports neither
Keras nor numpy.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zoo.plugin.checks import require, require_name, require_text

Parameter = str | int | float | bool
"""The value of one setting of a run."""


@dataclass(frozen=True, kw_only=True)
class EpochFigures:
    """The figures of one epoch: a row of history.csv.

    Args:
        phase: The name of the phase.
        epoch: The number of the epoch, counted over all phases of the run from 1.
        learning_rate: The learning rate at the end of the epoch; 0 if the head was solved exactly.
        loss: The loss of the training pictures.
        accuracy: The accuracy on the training pictures, in 0..1.
        val_loss: The loss of pictures that were held out; None if there are none.
        val_accuracy: The accuracy on pictures that were held out, in 0..1; None if there are none.
        seconds: The duration of the epoch in seconds.
    """

    phase: str
    epoch: int
    learning_rate: float
    loss: float
    accuracy: float
    val_loss: float | None
    val_accuracy: float | None
    seconds: float

    def metrics(self) -> dict[str, float]:
        """Return the figures under the names that all built-in loggers use, such as "loss/validation".

        Figures that are None are left out.
        """
        values = {
            "loss/train": self.loss,
            "loss/validation": self.val_loss,
            "accuracy/train": self.accuracy,
            "accuracy/validation": self.val_accuracy,
            "learning_rate": self.learning_rate,
            "seconds": self.seconds,
        }
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class LoggedRun:
    """Describes the run that a log is opened for.

    Args:
        id: The name of the run folder, which identifies the run.
        folder: The absolute path of the run folder. A logger may keep files in a folder of its own in it.
        parameters: The settings of the run: a flat dictionary from names such as "head.dropout" to values.
        resumed: Whether the run was interrupted and continues now. The log may have been opened before. It then
            receives all epochs again, from the first one, and must not store an epoch twice.
    """

    id: str
    folder: Path
    parameters: Mapping[str, Parameter]
    resumed: bool = False


class RunLog:
    """The log of one run. A logger returns an object of a subclass, which overrides the methods that it needs.

    zoo calls the methods in this order: `epoch` once per epoch, `figures` once, `artifact` once per file, and `end`. A
    run that fails or is interrupted skips the rest and calls `end`. If a method raises an exception, zoo shows it to
    the user in one warning and calls the log no more. The run continues.
    """

    def epoch(self, figures: EpochFigures) -> None:
        """Store the figures of an epoch that has ended."""

    def figures(self, figures: Mapping[str, float]) -> None:
        """Store the figures of the exported files.

        Args:
            figures: Maps names to finite numbers. "test/accuracy" is the accuracy on the test pictures, between
                "test/accuracy_low" and "test/accuracy_high" with a confidence of 95 %. docs/loggers.md lists all names.
        """

    def artifact(self, path: Path) -> None:
        """Store a file of the run folder, such as model.onnx or report.html. It must not be changed.

        Args:
            path: The absolute path of the file.
        """

    def end(self, status: Literal["finished", "interrupted", "failed"], why: str) -> None:
        """Close the log.

        Args:
            status: How the run has ended. If an interrupted or failed run is resumed, its log is opened again.
            why: The type and the text of the error if the run has failed; otherwise an empty text.
        """

    def hint(self) -> str:
        """Return what the user can type or open to see the log, in one line. zoo prints it unless it is empty."""
        return ""


@dataclass(frozen=True, kw_only=True)
class Logger:
    """Describes a logger, which stores or sends the figures of runs. `zoo finetune --log NAME` uses it.

    Args:
        name: The name that a user types ("tensorboard").
        summary: One line for `zoo list`.
        open: `open(run)` begins or continues the log of a `LoggedRun`, and returns a `RunLog`. It may raise any
            exception; the run then continues without this log.
        needs: The modules that must be installed, by the names under which they are imported. They are not imported
            before `open` does so.
        install: The command that installs them, such as "pip install 'finezoo[tensorboard]'". An error shows it if a
            module is missing.

    Raises:
        InvalidPluginData: A field has a value that is not allowed.
    """

    name: str
    summary: str
    open: Callable[[LoggedRun], RunLog]
    needs: tuple[str, ...] = ()
    install: str = ""

    def __post_init__(self) -> None:
        require_name(self, self.name)
        require(self.name != "none", self, "the name 'none' stands for no logger", self.name)
        require_text(self, "summary", self.summary)
        require(callable(self.open), self, "open must be a function", self.open)
        fits = not isinstance(self.needs, str) and all(isinstance(each, str) and each for each in self.needs)
        require(fits, self, "needs must be names of modules", self.needs)
        object.__setattr__(self, "needs", tuple(self.needs))
        if self.needs:
            require_text(self, "install", self.install)
        require(isinstance(self.install, str), self, "install must be a text", self.install)

    def missing(self) -> list[str]:
        """Return those of `needs` that are not installed. No module is imported."""
        return missing_modules(self.needs)


def missing_modules(names: tuple[str, ...]) -> list[str]:
    """Return those modules that are not installed. None of them is imported."""
    return [name for name in names if not _installed(name)]


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        # The parent of "a.b" is missing.
        return False
