"""A trial through Ray Train: worker processes and the streams that feed them."""

import os
from typing import Any

import torch

from raytransfer.data.plan import StreamPlan
from raytransfer.data.stream import batches, dataset, execution_options
from raytransfer.folder import Folder
from raytransfer.train.job import TrialJob
from raytransfer.train.loop import pinned, train_trial

START_SECONDS = 7 * 24 * 3600.0
"""That Ray Train waits for cores or GPUs: whoever calls gives up before."""


def fit(job: TrialJob) -> None:
    """Train a trial's cohorts in Ray Train's workers. Returns when the last network is over."""
    # Imported late: Ray reads some of its settings then, and ray_session makes them first.
    from ray import train
    from ray.train.torch import TorchTrainer

    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(START_SECONDS)
    resources: dict[str, float] = {"CPU": job.threads, "memory": job.mark}
    if job.gpu:
        resources["GPU"] = 1
    _give_back(resources)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"job": job},
        scaling_config=train.ScalingConfig(
            num_workers=job.lanes * job.workers,
            use_gpu=job.gpu,
            resources_per_worker=resources,
        ),
        run_config=train.RunConfig(
            name=job.id,
            storage_path=Folder(job.study).below("ray").uri,
            failure_config=train.FailureConfig(
                max_failures=0,
                controller_failure_limit=1,  # type: ignore[call-arg]
            ),
        ),
        datasets={
            _stream_name(lane, rank): dataset(_plans(job, lane), rank, job.decoding)
            for lane in range(job.lanes)
            for rank in range(job.workers)
        },
        dataset_config=train.DataConfig(
            datasets_to_split=[], execution_options=execution_options(job.decoding)
        ),
    )
    trainer.fit()


def _give_back(resources: dict[str, float]) -> None:
    """Free what an earlier try of this trial had reserved for its workers, if its process was lost.

    Ray holds a placement group until the job ends, and what Ray Train has to remove those of a lost
    controller needs the dashboard, which a workstation's own Ray goes without.
    """
    import ray
    from ray.util.placement_group import (
        PlacementGroup,
        placement_group_table,
        remove_placement_group,
    )

    for id, group in placement_group_table().items():
        if group["state"] != "REMOVED" and resources in group["bundles"].values():
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(id))))


def _stream_name(lane: int, rank: int) -> str:
    return f"lane {lane}, rank {rank}"


def _plans(job: TrialJob, lane: int) -> list[StreamPlan]:
    return [cohort.stream for stage in job.cohorts(lane) for cohort in stage]


def _worker(config: dict[str, Any]) -> None:
    """One training process: a rank of a lane."""
    from ray import train
    from ray.train.torch import get_device

    job: TrialJob = config["job"]
    torch.set_num_threads(job.threads)
    lane, rank = divmod(train.get_context().get_world_rank(), job.workers)
    shard = train.get_dataset_shard(_stream_name(lane, rank))
    feed = batches(
        shard,
        _plans(job, lane),
        rank,
        threads=job.threads,
        allocate=pinned if job.gpu else None,
    )
    train_trial(job, feed, get_device(), lane, rank)
