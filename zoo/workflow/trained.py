"""Holds a trained network with its pictures and its run, as an export needs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from zoo import runs
from zoo.data.dataset import Dataset
from zoo.plugin import Architecture
from zoo.workflow import replaced
from zoo.workflow.replaced import NewExport
from zoo.workflow.solved import SolvedNetwork
from zoo_runtime import ModelInfo

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class TrainedModel:
    """A trained network with its dataset and its run.

    Args:
        model: The trained network: a Keras model, or a converted backbone with a solved head.
        architecture: The architecture of the network.
        dataset: The pictures of the run, decoded and split.
        run: The run folder.
        record: The content of run.json.
        name: The name of the export.
        place: The place of the pictures now, as `zoo.data.sources.location` returns it. None means the place in
            run.json.
    """

    model: keras.Model | SolvedNetwork
    architecture: Architecture
    dataset: Dataset
    run: runs.Run
    record: runs.RunRecord
    name: str
    place: str | None = None

    def as_new(self) -> NewExport:
        """Return what decides whether the export may replace another one."""
        return NewExport(
            run=self.run.id,
            runs=self.run.folder.parent,
            classes=self.dataset.source.classes,
            task=self.record.task,
            data=self.place or str(self.record.options["data"]),
            digest=self.dataset.digest,
        )

    def info(self) -> ModelInfo:
        """Return the metadata for the exported file, without metrics, parity figures and self-test."""
        record, dataset = self.record, self.dataset
        return ModelInfo(
            classes=dataset.source.classes,
            task=record.task,
            image=dataset.spec,
            architecture=self.architecture.describe(),
            weights=dict(record.weights),
            run={
                "id": record.id,
                "created": record.created,
                "versions": dict(record.versions),
                "plugins": list(record.plugins),
                "seed": record.options["seed"],
                # Only a run that was exported before its training ended.
                **{key: record.others[key] for key in ("unfinished",) if key in record.others},
            },
            data={**dataset.describe(), "place": replaced.fingerprint(str(self.as_new().data))},
        )

    def parity_rows(self) -> np.ndarray:
        """Return the indices of the pictures on which graphs are checked.

        Validation pictures come first. A network is more certain on training pictures, so that differences are smaller.
        """
        from zoo.export.parity import PARITY_PICTURES

        split = self.dataset.split
        # Rows of the train part are sorted by class, so they are taken at equal distances.
        spread = split.train[:: max(1, len(split.train) // PARITY_PICTURES)]
        return np.concatenate([split.val, spread if not len(split.val) else split.train])[:PARITY_PICTURES]
