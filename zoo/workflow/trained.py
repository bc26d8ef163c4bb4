"""Holds a trained network with its pictures and its run, as an export needs them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from zoo import runs
from zoo.data.dataset import Dataset
from zoo.export.variants import VARIANTS
from zoo.plugin import Architecture
from zoo.workflow import replaced, transfer, trust
from zoo.workflow.replaced import NewExport
from zoo.workflow.solved import SolvedNetwork
from zoo.workflow.transfer import OwnSize
from zoo.workflow.trust import HeldOut
from zoo_runtime import ModelInfo

if TYPE_CHECKING:
    import keras
    import onnx


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
        typed: The options that the user typed and that `zoo export RUN` takes, as words, for commands in messages.
        own_size: What is known at the picture size of the run, if this network has another one.
        out_of_fold: Logits of a cross-validation by the sha256 of the picture. None means those in the run folder.
    """

    model: keras.Model | SolvedNetwork
    architecture: Architecture
    dataset: Dataset
    run: runs.Run
    record: runs.RunRecord
    name: str
    place: str | None = None
    typed: Sequence[str] = ()
    own_size: OwnSize | None = None
    out_of_fold: Mapping[str, np.ndarray] | None = None

    def held_out(self, graph: onnx.ModelProto, *, keep: bool) -> HeldOut:
        """Return logits of pictures on which the network, or a network like it, was not trained.

        Args:
            graph: The graph of the network, with the output `logits`.
            keep: Whether the network has the picture size of the run.
        """
        if self.own_size is not None:
            return transfer.moved_to(graph, self.dataset, self.own_size, self.record.options["seed"])
        known = self.out_of_fold
        if known is None:
            known = self.run.read_out_of_fold() if keep else {}
        return trust.held_out(self.dataset, known, graph)

    def export_command(self, *more: str, without: Sequence[str] = ()) -> str:
        """Return the command that exports the run as the user asked for it, for messages.

        Args:
            more: Words to add.
            without: The names of options, such as "--precision", that are left out with their values.
        """
        named = {word for word in (*self.typed, *more) if word not in without or word in more}
        # Limits go with a smaller file.
        limits = [f"--{each.name}-any-speed" for each in VARIANTS if f"--{each.name}" not in named]
        limits += [] if named & {"--as", *(f"--{each.name}" for each in VARIANTS)} else ["--max-drop"]
        words: list[str] = []
        keep = True
        for word in self.typed:
            keep = word not in (*without, *limits) if word.startswith("--") else keep
            words += [word] if keep else []
        height, width = self.dataset.spec.size
        resized = [height, width] != list(self.record.image["size"]) and "--size" not in self.typed
        size = ["--size", f"{height}x{width}"] if resized else []
        return shlex.join(["zoo", "export", str(self.run.folder), *words, *size, *more])

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
