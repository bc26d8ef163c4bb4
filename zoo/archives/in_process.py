"""Scores shards one after the other in this process, on threads: what `zoo predict --out` does without --ray."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from zoo.archives.parts import Piece, pieces
from zoo.archives.scoring import Scorer
from zoo.archives.sources import Shard


class InProcess:
    """Runs shards in this process.

    Args:
        scorer: Answers what the pictures show. Its threads share the pictures of a shard.
        column: The column of Parquet files that holds the pictures; None finds it.
    """

    workers = 1

    def __init__(self, scorer: Scorer, column: str | None = None) -> None:
        self._scorer, self._column = scorer, column
        self.problem = ""

    def window(self) -> int:
        """Return how many shards are given to `run` at once."""
        return 1

    def run(self, shards: Iterable[Shard]) -> Iterator[Piece]:
        """Yield the pieces of all shards."""
        for shard in shards:
            yield from pieces(self._scorer, shard, self._column)

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *error: Any) -> None:
        pass
