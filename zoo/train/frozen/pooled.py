"""Computes the pooled features of pictures with a backbone, and keeps them on the disk for later runs."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from zoo import files
from zoo.data.memory import MappedRows, temporary
from zoo.reporter import Reporter
from zoo.train.frozen.backbone import KerasBackbone, PooledBackbone
from zoo.train.frozen.features import BATCH, BATCH_PIXELS, FINISHED_TOGETHER, FeatureCacheConfig
from zoo.train.frozen.stats import CacheStats
from zoo.train.frozen.store import Cache, FeatureSet, FeatureSetSpec

# So many rows are copied at once.
ROWS_AT_ONCE = 4096

# Rows of indices -> one float32 array (rows, n) for each output of the backbone.
Compute = Callable[[np.ndarray], list[np.ndarray]]


def pooled_features(
    backbone: PooledBackbone | KerasBackbone,
    array: np.ndarray,
    rows: np.ndarray,
    config: FeatureCacheConfig | None,
    reporter: Reporter,
    stats: CacheStats,
) -> list[np.ndarray]:
    """Return the pooled features of pictures. Features that an earlier run kept are read, all others are computed.

    Features are not kept if the backbone is not, if the cache is off, or if they do not fit on the disk.

    Args:
        backbone: The backbone, converted or in Keras.
        array: Decoded pictures, uint8 (pictures, height, width, channels) in 0..255.
        rows: Indices of the pictures that are needed, int64, ascending.
        config: Settings of the feature cache; None turns it off.
        reporter: Receives progress messages and warnings.
        stats: Counts what is computed and found; it is changed in place.

    Returns:
        One float32 array (len(rows), n) for each output of the backbone; a large one is memory-mapped.

    Raises:
        ConversionFailed: ONNX Runtime cannot run the backbone.
    """
    compute = _computing(backbone, array)
    stats.engine = backbone.engine
    sets = _open(backbone, len(array), rows, config) if config and backbone.key and config.pictures else None
    if sets is None:
        return _compute_for_now(compute, backbone, rows, array, reporter, stats)
    try:
        missing = np.unique(np.concatenate([feature_set.missing(rows) for feature_set in sets]))
        stats.found += len(rows) - len(missing)
        stats.numbers = sets[0].numbers
        if len(missing):
            unfinished: list[np.ndarray] = []

            def write(chosen: np.ndarray, values: list[np.ndarray]) -> None:
                for feature_set, new in zip(sets, values, strict=True):
                    feature_set.write(chosen, new)
                unfinished.append(chosen)
                if sum(map(len, unfinished)) >= FINISHED_TOGETHER or chosen[-1] == missing[-1]:
                    for feature_set in sets:
                        feature_set.finish(np.concatenate(unfinished))
                    unfinished.clear()

            _compute_all(compute, missing, array, reporter, stats, write)
            stats.bytes += sum(feature_set.row_bytes for feature_set in sets) * len(missing)
        else:
            reporter.say(f"Features: those of {len(rows):,} pictures are in the cache already")
        return [_read(feature_set, rows) for feature_set in sets]
    except OSError as error:
        reporter.warn(f"features cannot be kept in {str(files.cache())!r}: {error.strerror or error}.")
        return _compute_for_now(compute, backbone, rows, array, reporter, stats)
    finally:
        for feature_set in sets:
            feature_set.close()


def _open(
    backbone: PooledBackbone | KerasBackbone, count: int, rows: np.ndarray, config: FeatureCacheConfig
) -> list[FeatureSet] | None:
    """Open one feature set for each output of the backbone; None if they cannot be kept."""
    specs = [
        FeatureSetSpec(repr([backbone.key, i, backbone.versions(), config.pictures]), count, rows, (width,))
        for i, width in enumerate(backbone.widths)
    ]
    try:
        cache = Cache(config.folder, config.limit)
        return cache.open(specs) if cache.limit else None
    except OSError:
        return None


def _computing(backbone: PooledBackbone | KerasBackbone, array: np.ndarray) -> Compute:
    """Return a function that computes the features of the pictures with given indices."""
    pixels = MappedRows(array)
    opened: list[Compute] = []

    def compute(chosen: np.ndarray) -> list[np.ndarray]:
        if not opened:
            opened.append(backbone.open())
        return opened[0](pixels[chosen])

    return compute


def _read(feature_set: FeatureSet, rows: np.ndarray) -> np.ndarray:
    """Return rows of a feature set, float32 (len(rows), n)."""
    values = temporary((len(rows), *feature_set.shape), np.float32)
    filling = MappedRows(values)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = values[start : start + ROWS_AT_ONCE]
        part[:] = feature_set[rows[start : start + ROWS_AT_ONCE]]
        filling.touched(part.nbytes)
    filling.release()
    return values


def _compute_for_now(
    compute: Compute,
    backbone: PooledBackbone | KerasBackbone,
    rows: np.ndarray,
    array: np.ndarray,
    reporter: Reporter,
    stats: CacheStats,
) -> list[np.ndarray]:
    """Return the features of pictures, each float32 (len(rows), n). They are not kept for later runs."""
    found = [temporary((len(rows), width), np.float32) for width in backbone.widths]
    filling, done = [MappedRows(each) for each in found], 0

    def write(chosen: np.ndarray, values: list[np.ndarray]) -> None:
        nonlocal done
        for target, mapped, new in zip(found, filling, values, strict=True):
            target[done : done + len(chosen)] = new
            mapped.touched(new.nbytes)
        done += len(chosen)

    _compute_all(compute, rows, array, reporter, stats, write)
    for mapped in filling:
        mapped.release()
    return found


def _compute_all(
    compute: Compute,
    rows: np.ndarray,
    array: np.ndarray,
    reporter: Reporter,
    stats: CacheStats,
    write: Callable[[np.ndarray, list[np.ndarray]], None],
) -> None:
    """Compute features in batches, and call `write` with the indices and the features of each batch."""
    started = time.perf_counter()
    height, width = array.shape[1:3]
    batch = max(1, min(BATCH, BATCH_PIXELS // (height * width)))
    done = 0
    timed = reporter.timing.measure("computing features")
    with timed, reporter.progress("features") as progress:
        for start in range(0, len(rows), batch):
            chosen = rows[start : start + batch]
            write(chosen, compute(chosen))
            done += len(chosen)
            progress(done, len(rows))
    seconds = time.perf_counter() - started
    stats.computed += done
    stats.seconds_computing += seconds
    reporter.say(f"Features: those of {done:,} pictures were computed in {seconds:.1f} s on {stats.engine}")
