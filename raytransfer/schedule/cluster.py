"""Ray for a study: its own on this machine, or the cluster that RAY_ADDRESS names."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from raytransfer.data.decoding import Decoding
from raytransfer.errors import UserError

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Layout:
    """How a study uses the machines."""

    device: Literal["cpu", "cuda"]
    workers: int
    """Processes that share the images of a batch (data-parallel)."""
    lanes: int
    """Groups of such processes in a trial, each with networks of its own."""
    threads: int
    """Threads of a training process."""
    trials_at_once: int


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def layout_for(device: Device, workers: int | None, networks_per_trial: int | None) -> Layout:
    """The layout on this machine. Raises UserError when there are fewer devices than workers."""
    gpus = torch.cuda.device_count() if device != "cpu" else 0
    if device == "cuda" and not gpus:
        raise UserError("--device cuda asks for a GPU, and there is none; try --device cpu.")
    have, unit = (gpus, "GPUs") if gpus else (cores(), "cores")
    if workers is not None and not 1 <= workers <= have:
        raise UserError(f"--workers is 1 to {have}, the {unit} that there are, not {workers}.")
    count = workers or 1
    at_once = max(1, have // count)
    if gpus:
        # One core is the stream's.
        threads = max(1, (cores() - 1) // (count * at_once))
        return Layout("cuda", count, lanes=1, threads=threads, trials_at_once=at_once)
    # On small networks a second thread or worker gains little: each core gets networks of its own.
    # They are lanes of one trial, as a trial's start costs as much as many small networks.
    if workers is None and networks_per_trial is None:
        return Layout("cpu", 1, lanes=have, threads=1, trials_at_once=1)
    return Layout("cpu", count, lanes=1, threads=1, trials_at_once=at_once)


def check_decoding(decoding: Decoding) -> None:
    """Raises UserError when no machine of the running Ray may decode: it would wait for ever."""
    import ray

    name = decoding.decode_resource
    if name is not None and not ray.cluster_resources().get(name):  # type: ignore[no-untyped-call]
        raise UserError(
            f"No machine of the Ray cluster has the resource {name} of --decode-resource: give it "
            f"to one that is to decode, as in `ray start --resources='{{\"{name}\": 16}}'`."
        )


@contextmanager
def ray_session() -> Iterator[None]:
    """Ray, quietly: the cluster of RAY_ADDRESS, or one of this machine's that ends with the study.

    Of its own, Ray counts more cores than there are: trials' drivers and the stream's readers run
    beside training, and Ray Data waits for ever for a core that training does not leave.
    """
    # A driver under `uv run` would make every worker run uv again.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # Tune's new output prints boxes even where it is told to print nothing.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # Ctrl-C ends a study; Tune would take it for the end of one wave.
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    # A trial's end is noticed at the next look at its workers: every 2 seconds otherwise.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    # glibc gives freed tensors back to the kernel, which then clears their pages anew each step.
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(256 * 2**20))
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(32 * 2**20))
    import ray

    if "RAY_ADDRESS" in os.environ:
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    else:
        ray.init(
            address="local",
            num_cpus=2 * cores() + 1,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    try:
        yield
    finally:
        ray.shutdown()
