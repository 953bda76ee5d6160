"""A trial through Ray Train: worker processes, one stream, gradients averaged over the workers."""

from typing import Any

import torch
from ray import train
from ray.train.torch import TorchTrainer, get_device

from raytransfer.data.stream import batches, dataset, execution_options
from raytransfer.train.loop import TrialJob, train_trial


def fit(job: TrialJob) -> None:
    """Train a trial's cohorts in Ray Train's workers. Returns when the last network is over."""
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"job": job},
        scaling_config=train.ScalingConfig(
            num_workers=job.workers,
            use_gpu=job.gpu,
            resources_per_worker={"CPU": job.threads, **({"GPU": 1} if job.gpu else {})},
        ),
        run_config=train.RunConfig(
            name=job.id,
            storage_path=f"{job.study}/ray",
            failure_config=train.FailureConfig(
                max_failures=0,
                controller_failure_limit=1,  # type: ignore[call-arg]
            ),
        ),
        datasets={"stream": dataset([cohort.stream for cohort in job.cohorts])},
        dataset_config=train.DataConfig(execution_options=execution_options()),
    )
    trainer.fit()


def _worker(config: dict[str, Any]) -> None:
    """One training process."""
    job: TrialJob = config["job"]
    torch.set_num_threads(job.threads)
    rank = train.get_context().get_world_rank()
    plans = [cohort.stream for cohort in job.cohorts]
    feed = batches(train.get_dataset_shard("stream"), plans, rank)
    train_trial(job, feed, get_device(), rank)
