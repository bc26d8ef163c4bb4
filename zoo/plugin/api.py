"""The version of the plugin API, and how a plugin says for which one it was written.

A plugin may set `zoo_api = 1` in its module. docs/plugins.md has the policy: what raises the version, and how long
older plugins work. Importing this module is quick.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
import warnings

from zoo.errors import InvalidPluginData, OutdatedPlugin, OutdatedZoo
from zoo.installed import EntryPoint

API_VERSION = 1
"""The version of the plugin API of this zoo. It rises when something that plugins use changes or goes."""
OLDEST_API = 1
"""The oldest version of the plugin API for which plugins still work."""
ATTRIBUTE = "zoo_api"


def check_api(point: EntryPoint, plugin: object) -> int:
    """Check for which version of the plugin API a plugin was written. One that does not say so is taken for a new one.

    Args:
        point: The entry point of the plugin.
        plugin: What the entry point names: a module or an object of it.

    Returns:
        The version.

    Raises:
        OutdatedZoo: The plugin needs a newer zoo.
        OutdatedPlugin: This zoo no longer runs such old plugins.
        InvalidPluginData: `zoo_api` is no whole number.
    """
    module = sys.modules.get(point.module)
    version = getattr(plugin, ATTRIBUTE, getattr(module, ATTRIBUTE, API_VERSION))
    if type(version) is not int or version < 1:
        raise InvalidPluginData(
            f"{ATTRIBUTE} must be a whole number from 1 on, such as {API_VERSION}. Received: {version!r:.60}."
        )
    refuse_newer(version)
    if version < OLDEST_API:
        raise OutdatedPlugin(
            f"it was written for version {version} of the plugin API, and this zoo runs plugins for {OLDEST_API} to "
            f"{API_VERSION}. Update it: `pip install --upgrade {point.distribution}`"
        )
    if version < API_VERSION:
        warnings.warn(outdated_text(point, version), DeprecationWarning, stacklevel=2)
    return version


def refuse_newer(version: int) -> None:
    """Raise OutdatedZoo if a plugin needs a newer plugin API than this zoo has."""
    if version > API_VERSION:
        raise OutdatedZoo(
            f"it was written for version {version} of the plugin API, and this zoo has version {API_VERSION}. Update "
            "zoo: `pip install --upgrade finezoo`"
        )


def outdated_text(point: EntryPoint, version: int) -> str:
    """Return what is said about a plugin that was written for an older version of the plugin API, and works."""
    return (
        f"it was written for version {version} of the plugin API, and this zoo has version {API_VERSION}. It still "
        f"works. `pip install --upgrade {point.distribution}` may bring a newer one"
    )


def api_in_source(point: EntryPoint) -> int | None:
    """Return the version that the source of a plugin states. Nothing is run; the plugin could not be imported.

    A plugin for a newer API often fails at its first line, `from zoo.plugin import ...`. None means that its source
    states no version or cannot be read.
    """
    try:
        spec = importlib.util.find_spec(point.module)
        if spec is None or not spec.origin or not spec.origin.endswith(".py"):
            return None
        with open(spec.origin, encoding="utf-8") as stream:
            tree = ast.parse(stream.read())
    except Exception:
        # The parent package, which `find_spec` imports, may be what fails.
        return None
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        named = any(isinstance(target, ast.Name) and target.id == ATTRIBUTE for target in targets)
        value = getattr(node, "value", None)
        if named and isinstance(value, ast.Constant) and type(value.value) is int:
            return value.value
    return None
