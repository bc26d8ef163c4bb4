"""The compliance kit: checks whether a plugin keeps the rules of the plugin API.

Plugin authors run it in their tests, and zoo does the same for its own plugins:

    from zoo import testing

    @testing.parametrize_plugin("tinynet")
    def test_tinynet(check):
        check()

`zoo check tinynet` runs the same checks and prints a table. `plugin_cases` lists them for other programs. The functions
`check_architecture`, `check_augmentation`, `check_schedule`, `check_logger`, `check_weights`, `check_format` and
`check_graph` check one object. If a check fails, it raises AssertionError, or the ZooError that a user of the plugin
would see.

The name of a check does not change between versions. A new version may bring new checks.
"""

from zoo.testing.augmentations import check_augmentation
from zoo.testing.formats import check_format
from zoo.testing.graphs import check_graph
from zoo.testing.kit import CHECKS, Case, Check, Outcome, plugin_cases
from zoo.testing.loggers import check_logger
from zoo.testing.networks import PREPROCESSING, check_architecture
from zoo.testing.outcomes import Blocked, Skipped
from zoo.testing.pytest_tests import parametrize_plugin
from zoo.testing.schedules import check_schedule
from zoo.testing.tools import randomize, synthetic_pixels
from zoo.testing.weights import check_weights

__all__ = [
    "CHECKS",
    "PREPROCESSING",
    "Blocked",
    "Case",
    "Check",
    "Outcome",
    "Skipped",
    "check_architecture",
    "check_augmentation",
    "check_format",
    "check_graph",
    "check_logger",
    "check_schedule",
    "check_weights",
    "parametrize_plugin",
    "plugin_cases",
    "randomize",
    "synthetic_pixels",
]
