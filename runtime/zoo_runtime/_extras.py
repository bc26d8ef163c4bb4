"""Says how to install the packages of an extra, such as OpenCV for cameras, when one of them is missing."""

from __future__ import annotations

import os
import shlex
import shutil
import sys


def install_line(extra: str) -> str:
    """Return a sentence with the command that installs an extra into the environment of this process.

    Args:
        extra: The name of the extra in `runtime/pyproject.toml`, such as "camera". `finezoo` has it too.
    """
    return f"Run `{_pip()} install 'finezoo-runtime[{extra}]'` (where zoo itself is installed: 'finezoo[{extra}]')."


def _pip() -> str:
    """Return how a shell starts the pip of this environment.

    A service has its own environment, which is seldom active. The pip that the shell finds would then be the system's.
    """
    found, here = shutil.which("pip"), os.path.dirname(sys.executable or "")
    if not here or (found and os.path.dirname(found) == here):
        return "pip"
    return f"{shlex.quote(sys.executable)} -m pip"
