"""The list of all checks, and how they are run: on one plugin, item by item."""

from __future__ import annotations

import inspect
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from zoo.errors import UnknownName, UsageError, ZooError, reason
from zoo.plugin import Architecture, Augmentation, Format, Logger, Schedule, Weights
from zoo.plugin.registry import KINDS, Item
from zoo.testing import augmentations, formats, networks, packages
from zoo.testing.format_modules import check_format_needs
from zoo.testing.formats import TestedFormat
from zoo.testing.loggers import check_logger
from zoo.testing.networks import TestedNetwork
from zoo.testing.outcomes import Blocked, Skipped
from zoo.testing.schedules import check_schedule
from zoo.testing.subject import Subject, find_subject
from zoo.testing.weights import check_weights


@dataclass(frozen=True)
class Check:
    """A rule that plugins keep, and the function that checks it.

    Args:
        name: The name, such as "frozen-batch-norm". Names do not change between versions.
        about: The kinds of items that are checked; None for the plugin as a whole.
        function: The function. Its docstring is the advice: the rule, a blank line, and how to keep it.
    """

    name: str
    about: tuple[type, ...] | None
    function: Callable[..., None]

    @property
    def rule(self) -> str:
        """The rule in one sentence."""
        return self._text().split("\n\n")[0]

    @property
    def advice(self) -> str:
        """How to keep the rule, in one paragraph."""
        return " ".join(self._text().partition("\n\n")[2].split())

    def _text(self) -> str:
        return inspect.getdoc(self.function) or ""


def _schedule(subject: Subject, schedule: Schedule) -> None:
    """The phases of the schedule fit a network.

    Each phase names stages and layers that exist, and the last phase trains the whole network. "last:N" must not ask
    for more stages than there are. The check takes the smallest network of the plugin, or else of all plugins.
    """
    known = subject.registry.all(Architecture)
    own = [item for item in subject.items if isinstance(item, Architecture)]
    staged = [item for item in known if len(item.stages) > 4 and item.parameters]
    candidates = own or staged or known
    if not candidates:
        raise Skipped("no plugin brings a network that the schedule could train")
    check_schedule(schedule, min(candidates, key=lambda item: (item.parameters, item.name)))


def _logger(subject: Subject, logger: Logger) -> None:
    """The logger takes what a run hands to it, and leaves alone what decides the result of a run.

    It prints nothing to stdout, draws no random numbers, and changes no file of the run. It ends its threads in
    `RunLog.end`, and can continue a run that was interrupted.
    """
    if missing := logger.missing():
        raise Skipped(f"{' and '.join(missing)} is not installed; {logger.install}")
    check_logger(logger)


def _weights(subject: Subject, weights: Weights) -> None:
    """The file of weights is the described one, and fills the whole network.

    No layer keeps its random values, and the outputs are finite. The check needs the file: download it, put it into a
    folder, and let ZOO_WEIGHTS_DIR name that folder. `load(model, path)` must give every layer its values. Whether the
    normalization and the order of the classes are right, only pictures tell: `zoo verify NAME --data DIR`.
    """
    from zoo.pretrained import fetch

    brought = {item.name: item for known in (subject.registry, subject.own) for item in known.all(Architecture)}
    if weights.architecture not in brought:
        raise Blocked("ids")
    if fetch.find_local(weights) is None:
        raise Skipped(
            f"the file is not available: {weights.filename}. `zoo weights fetch {weights.architecture} --to mirror` "
            "gets it for an installed plugin; then set ZOO_WEIGHTS_DIR=mirror"
        )
    check_weights(weights, brought[weights.architecture])


EVERY_ITEM = (Architecture, Weights, Augmentation, Schedule, Logger, Format)
CHECKS = (
    Check("load", None, packages.check_load),
    Check("light-import", None, packages.check_light_import),
    Check("ids", EVERY_ITEM, packages.check_ids),
    Check("metadata", EVERY_ITEM, packages.check_metadata),
    Check("build", (Architecture,), networks.check_build),
    Check("parameters", (Architecture,), networks.check_parameters),
    Check("layer-names", (Architecture,), networks.check_layer_names),
    Check("stages", (Architecture,), networks.check_stages),
    Check("input", (Architecture,), networks.check_input),
    Check("normalization", (Architecture,), networks.check_normalization),
    Check("frozen-batch-norm", (Architecture,), networks.check_frozen_batch_norm),
    Check("trainable-layers", (Architecture,), networks.check_trainable_layers),
    Check("save-load", (Architecture,), networks.check_save_load),
    Check("onnx-parity", (Architecture,), networks.check_onnx_parity),
    Check("weights", (Weights,), _weights),
    Check("augmentation-arrays", (Augmentation,), augmentations.check_augmentation_arrays),
    Check("augmentation-seeds", (Augmentation,), augmentations.check_augmentation_seeds),
    Check("schedule", (Schedule,), _schedule),
    Check("logger", (Logger,), _logger),
    Check("format-needs", (Format,), check_format_needs),
    Check("format-files", (Format,), formats.check_format_files),
    Check("format-failure", (Format,), formats.check_format_failure),
    Check("format-answers", (Format,), formats.check_format_answers),
    Check("format-metadata", (Format,), formats.check_format_metadata),
    Check("format-bytes", (Format,), formats.check_format_bytes),
)
"""All checks, in the order in which they run. `zoo check --list` prints them."""


@dataclass(frozen=True)
class Outcome:
    """How a check went.

    Args:
        case: What was checked.
        state: "passed", "failed", "skipped", "expected" for a failure that was expected, or "unexpected" for a check
            that passed although a failure was expected.
        text: What is wrong, why the check was skipped, or the reason of an expected failure; empty if it passed.
        seconds: How long the check took.
    """

    case: Case
    state: str
    text: str
    seconds: float

    @property
    def bad(self) -> bool:
        """Whether the outcome is one that the author must act on."""
        return self.state in ("failed", "unexpected")


@dataclass(frozen=True)
class Case:
    """One check of one item, or of a plugin as a whole.

    Args:
        check: The check.
        label: What is checked, such as "tinynet"; no two items of a plugin have the same label.
        arguments: What the function of the check receives. It is called when the case is run.
        expected: Why the check is expected to fail; empty if it is not.
    """

    check: Check
    label: str
    arguments: Callable[[], tuple[Any, ...]]
    expected: str = ""

    @property
    def id(self) -> str:
        """The name of the case, such as "tinynet-stages"."""
        return f"{self.label}-{self.check.name}"

    def run(self) -> None:
        """Run the check.

        Raises:
            AssertionError: The plugin breaks the rule.
            ZooError: The plugin breaks the rule; this is the error that a user of the plugin would see.
            Skipped: The check cannot run here.
        """
        with warnings.catch_warnings():
            # Keras's own code is nothing that the author of a plugin can change.
            warnings.filterwarnings("ignore", category=DeprecationWarning, module="keras")
            self.check.function(*self.arguments())

    def outcome(self) -> Outcome:
        """Run the check and return how it went."""
        start = time.perf_counter()
        state, text = "passed", ""
        try:
            self.run()
            if self.expected:
                state, text = "unexpected", f"it passes, but a failure was expected: {self.expected}"
        except Skipped as why:
            state, text = "skipped", str(why)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            state, text = ("expected", self.expected) if self.expected else ("failed", explained(error))
        return Outcome(self, state, text, time.perf_counter() - start)


def explained(error: BaseException) -> str:
    """Say what is wrong, given the exception with which a check ended."""
    return str(error) if isinstance(error, (AssertionError, ZooError)) and str(error) else reason(error)


class _LastNetwork:
    """Hands out the networks of architectures, and keeps the last one alone, because networks need much memory."""

    def __init__(self) -> None:
        self._kept: TestedNetwork | None = None

    def __call__(self, architecture: Architecture) -> TestedNetwork:
        if self._kept is None or self._kept.architecture is not architecture:
            self._kept = TestedNetwork(architecture)
        return self._kept


_last_network = _LastNetwork()


class _LastFormat:
    """Hands out formats with the files that they made, and keeps those of the last one alone."""

    def __init__(self) -> None:
        self._kept: TestedFormat | None = None

    def __call__(self, format: Format) -> TestedFormat:
        if self._kept is None or self._kept.format is not format:
            self._kept = TestedFormat(format)
        return self._kept


_last_format = _LastFormat()


def plugin_cases(
    plugin: str | Path | ModuleType | Subject,
    *,
    expected_failures: Mapping[str, str] | None = None,
    only: Sequence[str] = (),
) -> list[Case]:
    """List all checks of a plugin. Nothing is checked yet.

    Args:
        plugin: The name of an entry point, of a distribution or of an item such as an architecture; a module, or its
            name; the path of a module, of a package, or of a project folder whose pyproject.toml names a plugin.
        expected_failures: Maps the name of a check, or the id of a case such as "tinynet-stages", to the reason why it
            is expected to fail.
        only: The names of the checks to list; empty lists all.

    Raises:
        UnknownName: There is no such plugin, or no such check.
        UsageError: An expected failure has no reason, or the path is no plugin.
    """
    subject = plugin if isinstance(plugin, Subject) else find_subject(plugin)
    for name in only:
        if name not in {check.name for check in CHECKS}:
            raise UnknownName("check", name, [check.name for check in CHECKS], "`zoo check --list` shows them.")
    labels = _labels(subject)
    cases = []
    for check in CHECKS:
        if check.about is None:
            cases.append(Case(check, subject.name, lambda: (subject,)))
    for item in subject.items:
        for check in CHECKS:
            if check.about is not None and type(item) in check.about:
                cases.append(Case(check, labels[id(item)], _arguments(check, subject, item)))
    cases = _with_expected(cases, expected_failures or {})
    return [case for case in cases if not only or case.check.name in only]


def _arguments(check: Check, subject: Subject, item: Item) -> Callable[[], tuple[Any, ...]]:
    if check.function in networks.ARCHITECTURE_CHECKS:
        return lambda: (_last_network(cast(Architecture, item)),)
    if check.function in formats.FORMAT_CHECKS:
        return lambda: (_last_format(cast(Format, item)),)
    if check.about == (Augmentation,):
        return lambda: (item,)
    return lambda: (subject, item)


def _labels(subject: Subject) -> dict[int, str]:
    """Return a label for each item of a plugin, by the `id()` of the item: its name, with more if others have it."""
    names = {id(item): item.id if isinstance(item, Weights) else item.name for item in subject.items}
    counts = Counter(names.values())
    labels = {}
    for item in subject.items:
        name = names[id(item)]
        if isinstance(item, Weights) and counts[name] > 1:
            size = "x".join(map(str, item.input_size))
            name = f"{name}-{size}-{'top' if item.includes_top else 'backbone'}"
        elif counts[name] > 1:
            name = f"{KINDS[type(item)]}-{name}"
        labels[id(item)] = name
    return labels


def _with_expected(cases: list[Case], expected: Mapping[str, str]) -> list[Case]:
    names = {case.check.name for case in cases} | {case.id for case in cases} | {check.name for check in CHECKS}
    for name, why in expected.items():
        if name not in names:
            raise UnknownName("check", name, names, "`zoo check --list` shows the checks.")
        if not isinstance(why, str) or not why.strip():
            raise UsageError(f"the expected failure of {name!r} needs a reason. Received: {why!r}.")
    return [
        Case(case.check, case.label, case.arguments, expected.get(case.id) or expected.get(case.check.name, ""))
        for case in cases
    ]
