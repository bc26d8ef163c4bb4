"""Lets several processes compute features together: each computes some, and all get all of them.

A batch has other pictures in every epoch, so that each process needs the features of all pictures. Each keeps them in
its own cache; the caches may be one folder on a shared disk. Alone, nothing here has an effect.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zoo import hosts
from zoo.errors import HostsError
from zoo.hosts import Team
from zoo.train.frozen.rows import Batch

if TYPE_CHECKING:
    from zoo.train.batches import PhaseInputs
    from zoo.train.frozen.store import FeatureSet

# Indices of rows, their features, and their labels if labels are kept too.
Computed = tuple[np.ndarray, Sequence[np.ndarray], np.ndarray | None]


def if_all_have_room(sets: list[FeatureSet] | None) -> list[FeatureSet] | None:
    """Return the opened feature sets, or None if they do not fit into the cache of some process.

    Raises:
        HostsError: The processes keep features in different number formats.
    """
    team = _several()
    if team is None:
        return sets
    formats = team.exchange("feature sets", None if sets is None else sets[0].numbers)
    if None in formats:
        return None
    for index, numbers in enumerate(formats):
        if numbers != formats[0]:
            raise HostsError(
                f"{team.name(0)} has room for features as {formats[0]}, and {team.name(index)} as {numbers}. Give all "
                "hosts about the same free disk space in the folder of ZOO_CACHE, or set --cache-size 0."
            )
    return sets


def missing_in_any(missing: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of the rows that any process lacks.

    Args:
        missing: The indices of the rows that this process lacks, int64.
        count: The number of all rows.
    """
    team = _several()
    if team is None:
        return missing
    lacks = np.zeros(count, bool)
    lacks[missing] = True
    for text in team.exchange("missing features", np.packbits(lacks).tobytes().hex()):
        lacks |= np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=count).astype(bool)
    return np.flatnonzero(lacks)


def refuse(error: OSError, folder: Path) -> None:
    """If there are other processes, raise an error, because they compute features together with this one.

    Raises:
        HostsError: There are other processes.
    """
    if _several() is not None:
        raise HostsError(
            f"features cannot be kept in {str(folder)!r}: {error.strerror or error}. Let the environment variable "
            "ZOO_CACHE name another folder, or set --cache-size 0."
        ) from error


def require_same_engine(engine: str) -> None:
    """Check that the same library computes features in all processes.

    Raises:
        HostsError: It does not.
    """
    team = _several()
    if team is not None:
        team.require_same("the computation of features", {"library": engine})


def refuse_other_engine(note: str) -> None:
    """If there are other processes, raise an error, because another library computes in this one from now on.

    Raises:
        HostsError: There are other processes.
    """
    if _several() is not None:
        raise HostsError(
            f"{note}. The other processes compute features with onnxruntime, so that this one cannot use Keras. Let "
            "every process have more memory, or set --cache-size 0."
        )


def computed(batches: Iterable[Batch], compute: Callable[[np.ndarray], Sequence[np.ndarray]]) -> Iterator[Computed]:
    """Compute the features of batches; several processes take turns, and tell each other.

    Args:
        batches: The batches; the same ones in all processes.
        compute: Computes the features of the pixels of a batch.

    Yields:
        The indices, features and labels of every batch, in order.
    """
    team = _several()
    if team is None:
        for places, pixels, labels in batches:
            yield places, compute(pixels), labels
        return
    remaining = iter(batches)
    while turn := list(itertools.islice(remaining, team.count)):
        own: Sequence[np.ndarray] = compute(turn[team.index][1]) if team.index < len(turn) else ()
        parts = team.gather("features", {str(i): values for i, values in enumerate(own)})
        for (places, _, labels), part in zip(turn, parts, strict=False):
            yield places, [part[str(i)] for i in range(len(part))], labels


def require_same_inputs(inputs: PhaseInputs, phase: str) -> None:
    """Check that all processes train the same part of the network, from the same kind of inputs.

    Raises:
        HostsError: They do not.
    """
    team = _several()
    if team is not None:
        shapes = [[tensor.name, list(tensor.shape[1:])] for tensor in inputs.trained_part.inputs]
        facts = {"inputs": shapes, "features of training and validation pictures kept": list(inputs.kept)}
        team.require_same(f"the trained part of phase {phase!r}", facts)


def _several() -> Team | None:
    team = hosts.current()
    return team if team is not None and team.count > 1 else None
