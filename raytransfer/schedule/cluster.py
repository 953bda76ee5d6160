"""How a study uses the machines."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch

from raytransfer.data.decoding import Decoding
from raytransfer.errors import UserError
from raytransfer.schedule.session import cores, in_cluster, ray_session

Device = Literal["auto", "cpu", "cuda"]


GB = 10**9

MEMORY_SHARES = {"cpu": 0.5, "cuda": 0.7}
"""Share of the memory that networks may fill: what libraries take beside them is not estimated, and
a CPU's memory has other uses."""

SOON_SECONDS = 5.0
GPU_SECONDS = 3600.0
"""That a GPU of a cluster is waited for: one that grows must find, start and set up a machine."""


@dataclass(frozen=True)
class Machine:
    """What a study is planned for: this machine, a Ray cluster, or any other."""

    device: Literal["cpu", "cuda"]
    units: int
    """GPUs, or cores where a CPU trains."""
    memory: int
    """Bytes of each GPU, or of all of the memory where a CPU trains."""
    threads: int = 1
    """Cores that each unit may use."""

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


def machine_for(device: Device, gpus: int | None = None) -> Machine:
    """What a study runs on: the cluster of RAY_ADDRESS, or this machine.

    gpus: how many to use, of a cluster that grows also more than are there; None for all that are.
    Raises UserError where there are none, or not so many.
    """
    if gpus is not None:
        _check_gpus(device, gpus)
    if in_cluster():
        with ray_session():
            return ray_cluster(device, gpus)
    here = this_machine("cuda" if gpus is not None else device)
    if gpus is not None and gpus > here.units:
        raise UserError(f"--gpus {gpus} asks for more GPUs than the {here.units} that are here.")
    return replace(here, units=gpus or here.units)


def _check_gpus(device: Device, gpus: int) -> None:
    if gpus < 1:
        raise UserError(f"--gpus is 1 or more, not {gpus}; for none, say --device cpu.")
    if device == "cpu":
        raise UserError("--gpus asks for GPUs and --device cpu for none: leave one of them out.")


def this_machine(device: Device) -> Machine:
    """The GPUs or cores that are here. Raises UserError where a GPU is asked for and none is."""
    gpus = torch.cuda.device_count() if device != "cpu" else 0
    if device == "cuda" and not gpus:
        raise UserError(
            "A GPU is asked for (--device cuda or --gpus), and there is none; try --device cpu."
        )
    if gpus:
        return Machine("cuda", gpus, torch.cuda.mem_get_info()[1], _threads(cores(), gpus))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine("cpu", cores(), memory)


def ray_cluster(device: Device, gpus: int | None = None) -> Machine:
    """The GPUs or cores of the Ray cluster that this process is connected to.

    gpus: how many the cluster may come to; None for those that are there. What memory a GPU has,
    the first that is free says, which is waited for. Raises UserError where there is none, or none
    comes.
    """
    nodes = _resources()
    with_gpus = [node for node in nodes if node.get("GPU")]
    if gpus is None and device != "cpu":
        gpus = int(sum(node["GPU"] for node in with_gpus)) or None
        if device == "cuda" and gpus is None:
            raise UserError(
                "--device cuda asks for GPUs, and the Ray cluster has none: say with --gpus to how "
                "many it grows, or try --device cpu."
            )
    if gpus is not None:
        memory, beside = _first_gpu()
        threads = [_threads(int(node.get("CPU", 0)), int(node["GPU"])) for node in with_gpus]
        return Machine("cuda", gpus, memory, min(threads, default=beside))
    training = [node for node in nodes if node.get("CPU", 0) >= 1]
    units = sum(int(node["CPU"]) for node in training)
    if not units:
        raise UserError("The Ray cluster has no cores to train on: give it workers.")
    return Machine("cpu", units, int(units * min(n["memory"] / n["CPU"] for n in training)))


def _resources(node: str | None = None) -> list[dict[str, float]]:
    """What each machine of the running Ray has, or only the one with this id."""
    import ray

    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return [n["Resources"] for n in nodes if n["Alive"] and (node is None or n["NodeID"] == node)]


def _first_gpu() -> tuple[int, int]:
    """Memory of a GPU of the cluster, and the cores beside each GPU of its machine."""
    import ray

    @ray.remote(num_cpus=0, num_gpus=1)
    def look() -> tuple[int, int]:
        (has,) = _resources(ray.get_runtime_context().get_node_id())
        return torch.cuda.mem_get_info()[1], _threads(int(has.get("CPU", 0)), int(has["GPU"]))

    looking = look.remote()
    for seconds in (SOON_SECONDS, GPU_SECONDS):
        done, _ = ray.wait([looking], timeout=seconds)
        if done:
            found: tuple[int, int] = ray.get(looking)
            return found
        if seconds == SOON_SECONDS:
            print("Waiting for a GPU of the Ray cluster.", file=sys.stderr)
    raise UserError(f"No GPU of the Ray cluster was free for {GPU_SECONDS / 60:.0f} minutes.")


def _threads(cpus: int, gpus: int) -> int:
    """Of so many cores beside so many GPUs, those of one; one core is the stream's."""
    return max(1, (cpus - 1) // gpus)


def stated_machine(
    device: Device, gpus: int | None = None, memory_gb: float | None = None
) -> Machine:
    """This machine, or the cluster of RAY_ADDRESS, but for what is stated of another.

    gpus: how many; None for those here, or one. memory_gb: of each GPU, or of the machine where a
    CPU trains; None for what is here. Raises UserError where all together say too little.
    """
    if gpus is not None:
        _check_gpus(device, gpus)
    if memory_gb is not None and not 0 < memory_gb < 1e6:
        raise UserError(f"--device-memory is a number of GB from 0 to a million, not {memory_gb}.")
    on_gpu = gpus is not None or device == "cuda"
    if in_cluster() and (memory_gb is None or not on_gpu):
        here = machine_for(device, gpus)
    elif on_gpu and not torch.cuda.is_available():
        if memory_gb is None:
            raise UserError(
                "There is no GPU here: say what memory each of those has that the plan is for, "
                "such as --device-memory 80 (GB)."
            )
        return Machine("cuda", gpus or 1, int(memory_gb * GB))
    else:
        here = this_machine("cuda" if on_gpu else device)
    memory = here.memory if memory_gb is None else int(memory_gb * GB)
    return replace(here, units=gpus or here.units, memory=memory)


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
        return Layout("cuda", count, 1, machine.threads, at_once)
    # On small networks a second thread or worker gains little: each core gets networks of its own.
    # They are lanes of one trial, as a trial's start costs as much as many small networks.
    if workers is None and networks_per_trial is None:
        return Layout("cpu", 1, lanes=have, threads=1, trials_at_once=1)
    return Layout("cpu", count, lanes=1, threads=1, trials_at_once=at_once)


def process_memory(machine: Machine, layout: Layout) -> int:
    """Bytes that the networks of one training process may fill."""
    sharing = 1 if machine.device == "cuda" else layout.processes
    return int(MEMORY_SHARES[machine.device] * machine.memory / sharing)


def check_decoding(decoding: Decoding, layout: Layout) -> None:
    """Raises UserError where no machine of the running Ray could decode: it would wait for ever."""
    import ray

    name = decoding.decode_resource
    if name is not None and not ray.cluster_resources().get(name):  # type: ignore[no-untyped-call]
        raise UserError(
            f"No machine of the Ray cluster has the resource {name} of --decode-resource: give it "
            f"to one that is to decode, as in `ray start --resources='{{\"{name}\": 16}}'`."
        )
    # Ray Data deals whole cores of each machine out to all that read.
    on_cores = decoding.decode == "tasks" and name is None
    if on_cores and max(map(partial(_left, layout=layout), _resources())) < layout.processes:
        raise UserError(
            f"--decode tasks needs a machine with {layout.processes} cores beside those that "
            "train, one for each training process: add one, or leave decoding to training."
        )


def _left(node: Mapping[str, float], layout: Layout) -> float:
    """Cores of a machine that training leaves, at least."""
    units = node.get("GPU", 0) if layout.device == "cuda" else layout.processes
    return node.get("CPU", 0) - units * layout.threads
