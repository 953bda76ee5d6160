"""Ray for a study: its own on this machine, or the cluster that RAY_ADDRESS names."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from raytransfer.errors import UserError

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Layout:
    """How a study uses the machines."""

    device: Literal["cpu", "cuda"]
    workers: int
    """Training processes of a trial; each takes its share of every batch."""
    threads: int
    """Threads of a training process."""
    trials_at_once: int


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def local_layout(device: Device, workers: int | None, gpus: int) -> Layout:
    """The layout on this machine, which has `gpus` GPUs.

    Raises UserError when there are fewer devices than workers.
    """
    if device == "cuda" and not gpus:
        raise UserError("--device cuda asks for a GPU, and there is none; try --device cpu.")
    chosen: Literal["cpu", "cuda"] = "cuda" if gpus and device != "cpu" else "cpu"
    have, unit = (gpus, "GPUs") if chosen == "cuda" else (cores(), "cores")
    if workers is not None and not 1 <= workers <= have:
        raise UserError(f"--workers is 1 to {have}, the {unit} that there are, not {workers}.")
    if chosen == "cpu":
        # Two processes of one thread train more than one process of two threads.
        count = workers or have
        return Layout(chosen, count, threads=max(1, have // count), trials_at_once=1)
    count = workers or 1
    at_once = max(1, gpus // count)
    threads = max(1, cores() // (count * at_once + 1))
    return Layout(chosen, count, threads, at_once)


@contextmanager
def ray_session() -> Iterator[None]:
    """Ray, quietly: the cluster of RAY_ADDRESS, or one of this machine's that ends with the study.

    Ray counts one core more than there are on this machine: the stream reads beside training.
    """
    # A driver under `uv run` would make every worker run uv again.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    import ray

    quiet = {"log_to_driver": False, "logging_level": "error", "configure_logging": True}
    if "RAY_ADDRESS" in os.environ:
        ray.init(**quiet)
    else:
        ray.init(
            address="local",
            num_cpus=cores() + 1,
            include_dashboard=False,
            **quiet,
        )
    try:
        yield
    finally:
        ray.shutdown()
