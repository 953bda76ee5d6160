"""A trial through Ray Train: worker processes, the group that they form, the stream of each."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from raytransfer.data.plan import StreamPlan
from raytransfer.data.stream import batches, dataset
from raytransfer.folder import Folder
from raytransfer.train.job import TrialJob
from raytransfer.train.loop import pinned, train_trial

WAIT_SECONDS = 7 * 24 * 3600.0
"""That Ray Train waits for cores or GPUs, and a worker for the others: whoever calls gives up
before."""


def fit(job: TrialJob) -> None:
    """Train a trial's cohorts in Ray Train's workers. Returns when the last network is over."""
    # Imported late: Ray reads some of its settings then, and ray_session makes them first.
    from ray import train
    from ray.train.backend import Backend
    from ray.train.torch import TorchConfig, TorchTrainer

    class SeeingEachOther(Backend):
        """The GPUs of a machine are visible to all workers there, as nccl wants it."""

        share_cuda_visible_devices = True

    class OwnGroup(TorchConfig):
        """Leaves the process group to the workers."""

        backend_cls = SeeingEachOther

    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(WAIT_SECONDS)
    resources: dict[str, float] = {"CPU": job.threads, "memory": job.mark}
    if job.gpu:
        resources["GPU"] = 1
    _give_back(resources)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"job": job},
        torch_config=OwnGroup(),
        scaling_config=train.ScalingConfig(
            num_workers=job.lanes * job.workers,
            use_gpu=job.gpu,
            resources_per_worker=resources,
        ),
        run_config=train.RunConfig(
            name=job.id,
            storage_path=Folder(job.study).below("ray").uri,
            # Whoever calls tries again, from later checkpoints; and what a stopped job's controller
            # still asked for, nobody would give back.
            failure_config=train.FailureConfig(
                max_failures=0,
                controller_failure_limit=0,  # type: ignore[call-arg]
                max_preemption_failures=0,
            ),
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


def _worker(config: dict[str, Any]) -> None:
    """One training process: a rank of a lane."""
    import ray
    from ray import train
    from ray.train.torch import get_device

    job: TrialJob = config["job"]
    torch.set_num_threads(job.threads)
    world_rank = train.get_context().get_world_rank()
    lane, rank = divmod(world_rank, job.workers)
    plans: list[StreamPlan] = [cohort.stream for stage in job.cohorts(lane) for cohort in stage]
    node = ray.get_runtime_context().get_node_id()
    feed = batches(
        dataset(plans, rank, node, job.decoding).iterator(),
        plans,
        rank,
        threads=job.threads,
        allocate=pinned if job.gpu else None,
    )
    with _group(world_rank, job.lanes * job.workers, job.gpu):
        train_trial(job, feed, get_device(), lane, rank)


@contextmanager
def _group(rank: int, size: int, gpu: bool) -> Iterator[None]:
    """The process group of a trial's workers, where there are several.

    As torch's own, but that the store through which they meet listens at the address by which Ray
    knows the machine, and at no other: a workstation's own Ray is not to be heard outside it.
    """
    import ray
    from ray.train.collective import broadcast_from_rank_zero

    if size == 1:
        yield
        return
    host: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    port, listening = 0, None
    if rank == 0:
        listening = socket.create_server((host, 0), backlog=size)
        port = listening.getsockname()[1]
    host, port = broadcast_from_rank_zero((host, port))
    store = distributed.TCPStore(  # type: ignore[attr-defined]
        host,
        port,
        size,
        is_master=rank == 0,
        wait_for_workers=False,
        master_listen_fd=listening.detach() if listening is not None else None,
    )
    distributed.init_process_group(
        "nccl" if gpu else "gloo",
        timeout=timedelta(seconds=WAIT_SECONDS),
        store=store,
        rank=rank,
        world_size=size,
    )
    try:
        yield
    finally:
        distributed.destroy_process_group()
