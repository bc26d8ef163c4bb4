"""Notes in a set of decoded pictures which data they come from, so that `zoo cache` can name them.

Nothing else reads the notes. Sets of earlier versions have none.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.data.sources import Picture

FILE = "about.json"
# The common folder of so many pictures, spread over the list, is that of all for this purpose.
LOOKED_AT = 500


def write(folder: Path, name: str, pictures: Sequence[Picture]) -> None:
    """Write the name of the data, the number of pictures and their common folder into the folder of a set."""
    paths = [os.fspath(each.content) for each in pictures if isinstance(each.content, Path)]
    place = ""
    # Windows raises an error for paths on several drives.
    with contextlib.suppress(ValueError):
        spread = [*paths[:: max(1, len(paths) // LOOKED_AT)], *paths[-1:]]
        place = os.path.abspath(os.path.commonpath(spread)) if spread else ""
    content: dict[str, Any] = {"data": name, "pictures": len(pictures), "place": place}
    (folder / FILE).write_text(json.dumps(content), encoding="utf-8")
