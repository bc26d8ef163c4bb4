"""Turns the checks of a plugin into tests of pytest. pytest is imported when a test module asks for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from zoo.errors import InstallationError, ZooError
from zoo.testing.kit import Case, explained, plugin_cases
from zoo.testing.outcomes import Skipped


def parametrize_plugin(
    plugin: str | Path | ModuleType,
    *,
    expected_failures: Mapping[str, str] | None = None,
    only: Sequence[str] = (),
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Turn a function into tests of a plugin, one for each check of each item.

        from zoo import testing

        @testing.parametrize_plugin("tinynet")
        def test_tinynet(check):
            check()

    The ids of the tests name item and check: `test_tinynet[tinynet-stages]`. A failure prints what is wrong and what to
    do. A check that cannot run, such as one of a weights file that is not available, is skipped with the reason.

    Args:
        plugin: The name of an entry point, of a distribution or of an item such as an architecture; a module, or its
            name; the path of a module, of a package, or of a project folder whose pyproject.toml names a plugin.
        expected_failures: Maps the name of a check, or the id of a case such as "tinynet-stages", to the reason why it
            fails. These tests are marked as expected failures. One that passes is reported as a failure.
        only: The names of the checks to run; empty runs all.

    Returns:
        A decorator for a test function with the argument `check`.

    Raises:
        InstallationError: pytest is not installed.
        UnknownName: There is no such plugin, or no such check.
        UsageError: An expected failure has no reason, or the path is no plugin.
    """
    try:
        import pytest
    except ImportError as error:
        raise InstallationError(f"parametrize_plugin needs pytest: {error}. Type `pip install pytest`.") from error

    def runs(case: Case) -> Callable[[], None]:
        def check() -> None:
            __tracebackhide__ = True
            try:
                case.run()
            except Skipped as why:
                pytest.skip(str(why))
            except Exception as error:
                rule = f"{case.check.rule} {case.check.advice}"
                # The kit's own lines tell an author nothing. Where another error came from, they do.
                cause = None if isinstance(error, (AssertionError, ZooError)) else error
                raise AssertionError(f"{case.check.name}: {explained(error)}\n\nThe rule: {rule}") from cause

        return check

    parameters = []
    for case in plugin_cases(plugin, expected_failures=expected_failures, only=only):
        marks = [pytest.mark.xfail(reason=case.expected, strict=True)] if case.expected else []
        parameters.append(pytest.param(runs(case), id=case.id, marks=marks))
    return pytest.mark.parametrize("check", parameters)
