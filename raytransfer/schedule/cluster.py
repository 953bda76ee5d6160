"""How a study uses the machines."""

import os
from dataclasses import dataclass
from typing import Literal

import torch

from raytransfer.data.decoding import Decoding
from raytransfer.errors import UserError
from raytransfer.schedule.session import cores

Device = Literal["auto", "cpu", "cuda"]


GB = 10**9

MEMORY_SHARES = {"cpu": 0.5, "cuda": 0.7}
"""Share of the memory that networks may fill: what libraries take beside them is not estimated, and
a CPU's memory has other uses."""


@dataclass(frozen=True)
class Machine:
    """What a study is planned for: here, or anywhere."""

    device: Literal["cpu", "cuda"]
    units: int
    """GPUs, or cores where a CPU trains."""
    memory: int
    """Bytes of each GPU, or of all of the memory where a CPU trains."""

    @property
    def unit(self) -> str:
        return "GPU" if self.device == "cuda" else "core"


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

    @property
    def processes(self) -> int:
        """Training processes that run at the same time."""
        return self.workers * self.lanes * self.trials_at_once

    @property
    def devices_a_process(self) -> int:
        return 1 if self.device == "cuda" else self.threads


def this_machine(device: Device) -> Machine:
    """The GPUs or cores that are here. Raises UserError where a GPU is asked for and none is."""
    gpus = torch.cuda.device_count() if device != "cpu" else 0
    if device == "cuda" and not gpus:
        raise UserError("--device cuda asks for a GPU, and there is none; try --device cpu.")
    if gpus:
        return Machine("cuda", gpus, torch.cuda.mem_get_info()[1])
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine("cpu", cores(), memory)


def stated_machine(
    device: Device, gpus: int | None = None, memory_gb: float | None = None
) -> Machine:
    """This machine, but for what is stated of another that a study is planned for.

    gpus: how many; None for those here, or one. memory_gb: of each GPU, or of the machine where a
    CPU trains; None for what is here. Raises UserError where all together say too little.
    """
    if gpus is not None and gpus < 1:
        raise UserError(f"--gpus is 1 or more, not {gpus}; to plan for none, say --device cpu.")
    if memory_gb is not None and not 0 < memory_gb < float("inf"):
        raise UserError(f"--device-memory is a number of GB above 0, not {memory_gb}.")
    if device == "cpu" and gpus is not None:
        raise UserError("--gpus plans for GPUs and --device cpu for none: leave one of them out.")
    on_gpu = gpus is not None or device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        if memory_gb is None:
            raise UserError(
                "There is no GPU here: say what memory each of those has that the plan is for, "
                "such as --device-memory 80 (GB)."
            )
        return Machine("cuda", gpus or 1, int(memory_gb * GB))
    here = this_machine("cuda" if on_gpu else device)
    memory = here.memory if memory_gb is None else int(memory_gb * GB)
    return Machine(here.device, gpus or here.units, memory)


def layout_for(machine: Machine, workers: int | None, networks_per_trial: int | None) -> Layout:
    """The layout on a machine. Raises UserError when it has fewer devices than workers."""
    have = machine.units
    if workers is not None and not 1 <= workers <= have:
        raise UserError(
            f"--workers is 1 to {have}, the {machine.unit}s that there are, not {workers}."
        )
    count = workers or 1
    at_once = max(1, have // count)
    if machine.device == "cuda":
        # One core is the stream's.
        threads = max(1, (cores() - 1) // (count * at_once))
        return Layout("cuda", count, lanes=1, threads=threads, trials_at_once=at_once)
    # On small networks a second thread or worker gains little: each core gets networks of its own.
    # They are lanes of one trial, as a trial's start costs as much as many small networks.
    if workers is None and networks_per_trial is None:
        return Layout("cpu", 1, lanes=have, threads=1, trials_at_once=1)
    return Layout("cpu", count, lanes=1, threads=1, trials_at_once=at_once)


def process_memory(machine: Machine, layout: Layout) -> int:
    """Bytes that the networks of one training process may fill."""
    sharing = 1 if machine.device == "cuda" else layout.processes
    return int(MEMORY_SHARES[machine.device] * machine.memory / sharing)


def check_decoding(decoding: Decoding) -> None:
    """Raises UserError when no machine of the running Ray may decode: it would wait for ever."""
    import ray

    name = decoding.decode_resource
    if name is not None and not ray.cluster_resources().get(name):  # type: ignore[no-untyped-call]
        raise UserError(
            f"No machine of the Ray cluster has the resource {name} of --decode-resource: give it "
            f"to one that is to decode, as in `ray start --resources='{{\"{name}\": 16}}'`."
        )
