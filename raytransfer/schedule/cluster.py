"""How a study uses the machines."""

from dataclasses import dataclass
from typing import Literal

import torch

from raytransfer.errors import UserError
from raytransfer.schedule.session import cores

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
