"""Takes part in a fine-tuning that process 0 leads: reads the same pictures, and trains when process 0 trains.

Nothing is written or printed here. `zoo.train.jobs` says how the processes train together.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from zoo import config, hosts, interrupts, runs
from zoo.config import FinetuneConfig, ResolvedConfig
from zoo.data.dataset import Dataset
from zoo.plugin.registry import Registry
from zoo.reporter import Reporter
from zoo.train import jobs
from zoo.workflow import request_file
from zoo.workflow.carry_out import train_config, training_data
from zoo.workflow.finetune import agree, load_dataset
from zoo.workflow.keras_network import build_network

if TYPE_CHECKING:
    from zoo.train.jobs import Job
    from zoo.train.network import Network


@interrupts.handled()
def take_part(requested: FinetuneConfig, registry: Registry) -> None:
    """Take part in the fine-tuning that process 0 begins.

    Args:
        requested: What the user requested, as in process 0.
        registry: The loaded plugins.

    Raises:
        ZooError: A step failed, or another process has ended.
        KeyboardInterrupt: This process or another one was interrupted.
    """
    resolved = config.resolve(requested, registry, Reporter())
    cross_validated = resolved.schedule.by_evidence or requested.folds is not None
    dataset = load_dataset(resolved, Reporter(), validation=not cross_validated)
    _serve(resolved, dataset, registry)


@interrupts.handled()
def take_part_again(folder: Path, registry: Registry, data: str | None) -> None:
    """Take part in a run that process 0 resumes.

    Args:
        folder: The run folder, which this process only reads.
        registry: The loaded plugins.
        data: The path of the run's pictures, if they are elsewhere on this host.

    Raises:
        ZooError: A step failed, or another process has ended.
        KeyboardInterrupt: This process or another one was interrupted.
    """
    asked = request_file.read(runs.Run(folder))
    requested = asked.config if data is None else dataclasses.replace(asked.config, data=data)
    resolved = config.resolve(requested, registry, Reporter(), asked.schedule)
    validation = not (asked.schedule.by_evidence or requested.folds is not None)
    _serve(resolved, load_dataset(resolved, Reporter(), validation=validation), registry)


def _serve(resolved: ResolvedConfig, dataset: Dataset, registry: Registry) -> None:
    agree(resolved, dataset, registry)
    data, settings = training_data(dataset), train_config(resolved, dataset)
    built: dict[int, Network] = {}

    def train(job: Job) -> None:
        from zoo.train import engine

        if job.network not in built:
            # Process 0 goes on to another network, and does not come back.
            built.clear()
            built[job.network] = build_network(resolved, registry, Reporter(), job.head)
        part = dataclasses.replace(data, train=job.train, val=job.val)
        engine.train(built[job.network], job.phases, part, job.config, Reporter())

    jobs.serve(settings, train)
    hosts.finish()
