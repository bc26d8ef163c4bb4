"""Imports one plugin in a process of its own, and prints which heavy modules were imported, and by which line.

`zoo.testing.packages` runs this file. It imports nothing of zoo but what the plugin itself imports.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from importlib.machinery import ModuleSpec
from types import FrameType, ModuleType
from typing import Any


class Watcher:
    """Notes the first import of each heavy package and the lines of code that led to it.

    Args:
        heavy: The names of the packages.
    """

    def __init__(self, heavy: list[str]) -> None:
        self.heavy, self.found = set(heavy), dict[str, list[tuple[str, int]]]()

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        top = name.split(".")[0]
        if top in self.heavy and top not in self.found:
            lines: list[tuple[str, int]] = []
            frame: FrameType | None = sys._getframe(1)
            while frame is not None:
                where = frame.f_code.co_filename
                if "importlib" not in where and where != __file__ and not where.startswith("<frozen"):
                    lines.append((where, frame.f_lineno))
                frame = frame.f_back
            self.found[top] = lines
        return None


def main() -> None:
    """Read what to import from the first argument, as JSON, and print what was found."""
    request = json.loads(sys.argv[1])
    # What a plugin prints must not get between the lines of the answer.
    answer, sys.stdout = sys.stdout, sys.stderr
    sys.path[:] = request["path"]
    watcher = Watcher(request["heavy"])
    sys.meta_path.insert(0, watcher)
    failed = ""
    try:
        module = importlib.import_module(request["module"])
        for name in request["hooks"]:
            if callable(getattr(module, name, None)):
                list(getattr(module, name)())
    except BaseException as error:
        failed = f"{type(error).__name__}: {error}"
    # Many packages try to import another one, and go on without it.
    found = {name: lines for name, lines in watcher.found.items() if name in sys.modules}
    answer.write(json.dumps({"found": found, "failed": failed}) + "\n")
    answer.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
