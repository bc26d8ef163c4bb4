"""Says in words what is wrong with a plugin, and what a user can do about it."""

from __future__ import annotations

import sys
import traceback
from dataclasses import dataclass

from zoo.errors import OutdatedPlugin, OutdatedZoo, PluginError, reason
from zoo.installed import EntryPoint
from zoo.plugin.api import api_in_source, refuse_newer
from zoo.plugin.guard import Watched

SLOW_SECONDS = 1.0
"""A plugin that takes longer to load is named."""
# Packages that take long to import, the slowest first.
HEAVY = (
    *("tensorflow", "torch", "jax", "keras", "keras_hub", "transformers", "pandas", "sklearn", "scipy", "matplotlib"),
    *("onnxruntime", "onnx", "cv2", "numpy", "PIL"),
)
LONGEST_TEXT = 300
FRAMES = 30


@dataclass(frozen=True)
class Plugin:
    """Identifies a plugin.

    Args:
        name: The name of its entry point.
        distribution: The name of the installed distribution that contains the plugin ("finezoo").
        version: The version of the distribution.
    """

    name: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} ({self.distribution} {self.version})"


@dataclass(frozen=True)
class BrokenPlugin(Plugin):
    """Identifies a plugin that cannot be used, and says why.

    Args:
        error: The reason, in one line.
        trace: The traceback of the exception, as text.
        advice: What the user can do, in one or two sentences.
    """

    error: str
    trace: str
    advice: str = ""


def shown(value: object) -> str:
    """Return a value as text for a message, at most 80 characters. Its own text may be endless, or fail."""
    try:
        return f"{value!r:.80}"
    except Exception:
        return f"an object of {type(value).__name__}"


def plain(text: str, longest: int = LONGEST_TEXT) -> str:
    """Return a text of a plugin as one line that cannot change the terminal."""
    text = "".join(character if character.isprintable() else " " for character in text[: longest + 1])
    return text if len(text) <= longest else f"{text[:longest]}…"


def explain(plugin: Plugin, point: EntryPoint, error: BaseException) -> BrokenPlugin:
    """Describe a plugin that cannot be used.

    Args:
        plugin: The plugin.
        point: Its entry point.
        error: What was raised when it was imported, or by one of its hooks.
    """
    try:
        refuse_newer((isinstance(error, (ImportError, AttributeError)) and api_in_source(point)) or 0)
        said = error
    except OutdatedZoo as newer:
        said = newer
    # The place that raises an error of zoo is in zoo, too; the traceback has the others.
    text = str(said).rstrip(".") if isinstance(said, PluginError) else reason(error)
    try:
        trace = "".join(traceback.format_exception(error, limit=-FRAMES))
    except Exception:
        # Its text comes from the plugin.
        trace = "".join(traceback.format_tb(error.__traceback__, limit=-FRAMES)) + type(error).__name__ + "\n"
    return BrokenPlugin(plugin.name, plugin.distribution, plugin.version, plain(text), trace, _advice(plugin, said))


def _advice(plugin: Plugin, error: BaseException) -> str:
    leave = f"`pip uninstall {plugin.distribution}` removes it."
    newer = f"`pip install --upgrade {plugin.distribution}` may bring a mended version"
    if isinstance(error, OutdatedZoo):
        return f"Or install an older version of {plugin.distribution}."
    if isinstance(error, OutdatedPlugin):
        return leave
    missing = (error.name or "") if isinstance(error, ModuleNotFoundError) else ""
    if missing.partition(".")[0] in ("zoo", "zoo_runtime") or (
        isinstance(error, ImportError) and (error.name or "").startswith("zoo.plugin")
    ):
        return (
            "It was written for another version of zoo. Update both: "
            f"`pip install --upgrade finezoo {plugin.distribution}`. {leave}"
        )
    if missing:
        return (
            f"It needs the module {missing}, which is not installed. `pip install --force-reinstall "
            f"{plugin.distribution}` installs what the plugin says it needs; otherwise try `pip install {missing}`. "
            "If the plugin is yours, add the package to `dependencies` in its pyproject.toml."
        )
    if isinstance(error, SyntaxError):
        version = ".".join(map(str, sys.version_info[:2]))
        return f"Its file is damaged, or was written for another Python than {version}. {newer}. {leave}"
    return f"{newer}; otherwise show the traceback to its authors. {leave}"


def remarks_on(plugin: Plugin, watched: Watched) -> list[str]:
    """Return sentences about what a plugin does at import that it should leave, for `zoo doctor`."""
    found = []
    slow = slowness(plugin, watched)
    heavy = [name for name in HEAVY if name in watched.modules]
    if slow:
        found.append(slow)
    elif heavy:
        found.append(f"plugin {plugin} imports {heavy[0]} at the top of its module, which is slow")
    if watched.changed:
        found.append(
            f"plugin {plugin} changed {', '.join(watched.changed)} when it was loaded. zoo has put that back. A plugin "
            "does such things in its functions"
        )
    return found


def slowness(plugin: Plugin, watched: Watched) -> str:
    """Return a text about a plugin that takes long to load; an empty one if it does not."""
    if watched.seconds < SLOW_SECONDS:
        return ""
    heavy = [name for name in HEAVY if name in watched.modules]
    why = f": it imports {heavy[0]} at the top of its module" if heavy else ""
    return (
        f"plugin {plugin} took {watched.seconds:.1f} s to load{why}. Most commands wait for that. Ask its authors to "
        f"import large packages inside functions, or leave it out with `zoo --no-plugins` or ZOO_PLUGINS"
    )


def patched_text(names: list[str]) -> str:
    """Return the reason why a plugin that replaces names of zoo is not used."""
    more = f" and {len(names) - 3} more names" if len(names) > 3 else ""
    return (
        f"it replaced {', '.join(names[:3])}{more} when it was loaded. A plugin must not change zoo, pluggy, click or "
        "Python's own functions; zoo has put them back"
    )
