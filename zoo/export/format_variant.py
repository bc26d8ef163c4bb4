"""Describes a file in the format of a plugin as a command asks for it, before the plugins are loaded.

`zoo.export.formats` makes the file. This module must not import heavy packages nor plugins, because the command line
imports it for every command.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from zoo.errors import InstallationError
from zoo.export.variants import VARIANTS, AcceptanceLimits, Variant, VariantGraph

if TYPE_CHECKING:
    import onnx

    from zoo.data.dataset import Dataset
    from zoo.plugin import Format
    from zoo.reporter import Reporter


class FormatVariant(Variant):
    """A file in the format of a plugin, as a command asks for it.

    Args:
        name: The name of the format.
        format: The format. None if it has not been looked up yet; see `zoo.workflow.export_formats.resolve`.
    """

    def __init__(self, name: str, format: Format | None = None) -> None:
        self.name = name
        self.format = format
        self.help = format.summary if format else ""

    @property
    def file(self) -> str:  # type: ignore[override]
        """The name of the main file."""
        return self.of().file

    def of(self) -> Format:
        """Return the format.

        Raises:
            InstallationError: The format has not been looked up.
        """
        if self.format is None:
            raise InstallationError(f"no plugin provides the format {self.name!r}. `zoo list formats` shows all.")
        return self.format

    @property
    def option(self) -> str:
        """The words that ask for the file."""
        return f"--as {self.name}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FormatVariant) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"FormatVariant({self.name!r})"

    def make(
        self, graph: onnx.ModelProto, dataset: Dataset, limits: AcceptanceLimits, reporter: Reporter, *, seed: int
    ) -> VariantGraph:
        """Make the ONNX graph that the format stores. The arguments are those of `Variant.make`.

        The int8 search looks for accuracy and not for speed here, because the device is another one.
        """
        if self.of().graph == "float32":
            return VariantGraph(graph, {})
        return variant_named(self.of().graph).make(graph, dataset, for_devices(limits), reporter, seed=seed)


def variant_named(name: str) -> Variant:
    """Return the variant with this name, such as int8."""
    (variant,) = [each for each in VARIANTS if each.name == name]
    return variant


def for_devices(limits: AcceptanceLimits) -> AcceptanceLimits:
    """Return limits for another device, on which the speed here says little."""
    return dataclasses.replace(limits, any_speed=True)
