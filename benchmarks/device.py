"""How fast a device trains cohorts, without Ray and without reading images.

    uv run benchmarks/device.py --out device.json
    uv run raytransfer plan balanced --data SHARDS --measured device.json

Cohorts of 1, 4 and as many networks as fit, of the task B of random split 0 with all its classes:
one is the base; more are a mixture as in the space `balanced`, half of them frozen, half
fine-tuned, half from either task. Random images that are on the device already go through the
whole step of `raytransfer.train.cohort.CohortTrainer`: crop, mirror, mean, forward, backward,
update, counting. The trainer keeps its tensors channels-last. Each row is a process of its own, so
that none finds memory that another left. The first steps are left out; times are medians (of the
matrix product, the best). One thread of a CPU is timed by its own clock, which stands still while
others have the core.

Operations are those that a plan counts: three passes through layers that learn, one through frozen
ones, shared ones once. The matrix rate is that of a large matrix product in the same precision, in
the same run; on a GPU, float32 with TF32 allowed, as PyTorch allows it for convolutions.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from raytransfer.nets.architecture import architecture
from raytransfer.nets.network import initial_weights
from raytransfer.schedule.cluster import MEMORY_SHARES, Layout, this_machine
from raytransfer.schedule.cost import multiply_adds
from raytransfer.schedule.measured import FORMAT
from raytransfer.schedule.memory import cohort_memory, networks_that_fit
from raytransfer.study.recipe import Recipe
from raytransfer.study.split import Split, make_split
from raytransfer.study.treatment import Treatment
from raytransfer.train.cohort import CohortTrainer
from raytransfer.train.stack import Member

PRECISIONS = ("float32", "bfloat16")
FIT = "fit"

MOST = 28 * 8
"""Networks of the largest cohort that is tried: the mixture for eight seeds."""

CLOSE = 0.05
"""Share of a cohort's size to which the largest that fits is known."""

IMAGES = {"caffenet": (1000, 3, 256), "small": (10, 1, 28)}
"""Classes, channels and side of the data set that a network is measured for."""


@dataclass(frozen=True)
class Task:
    """What one row measures."""

    network: str
    precision: str
    compiled: bool
    batch: int
    networks: int
    device: str
    threads: int
    warm_up: int
    steps: int

    @property
    def recipe(self) -> Recipe:
        # So small a rate that random images leave the weights as they are, and finite.
        return Recipe(
            network=self.network,
            precision=self.precision,
            batch=self.batch,
            learning_rate=1e-9,
        )

    @property
    def layout(self) -> Layout:
        return Layout(self.device, workers=1, lanes=1, threads=self.threads, trials_at_once=1)


def mixture(count: int) -> list[Treatment]:
    """The base alone; else networks of task B, the most different ones first."""
    if count == 1:
        return [Treatment("random:0", "B")]
    every = (
        Treatment("random:0", "B", source, n, finetuned, seed)
        for seed in range(8)
        for n in (4, 1, 7, 2, 6, 3, 5)
        for finetuned in (False, True)
        for source in "BA"
    )
    return [treatment for treatment, _ in zip(every, range(count), strict=False)]


def split_for(network: str) -> Split:
    return make_split("random:0", tuple(map(str, range(IMAGES[network][0]))))


def estimated(task: Task) -> list[int]:
    """Bytes by the first networks of the mixture, as a plan estimates them."""
    splits = {"random:0": split_for(task.network)}
    channels = IMAGES[task.network][1]
    return cohort_memory(mixture(task.networks), task.recipe, splits, channels, task.layout)


def build(task: Task) -> tuple[CohortTrainer, Callable[[int], None]]:
    """The cohort, and its step."""
    _, channels, side = IMAGES[task.network]
    classes = len(split_for(task.network).b)
    arch = architecture(task.network, classes)
    # One set of weights serves all: what they are does not matter to time.
    weights = initial_weights(arch, channels, torch.Generator().manual_seed(0))
    members = [
        Member(t, weights, f"{t.source}{t.seed}", t.source or t.target)
        for t in mixture(task.networks)
    ]
    trainer = CohortTrainer(
        arch,
        members,
        {member.parent: weights for member in members},
        {name: torch.full((channels, side, side), 120.0) for name in "AB"},
        task.recipe,
        device=task.device,
    )
    if task.compiled:
        # Every network of a cohort is a module of its own, and has code of its own.
        torch._dynamo.config.recompile_limit = 10 * MOST
        trainer.modules = [torch.compile(module) for module in trainer.modules]
    size, device = task.batch, task.device
    generator = torch.Generator().manual_seed(1)
    shape = (size, channels, side, side)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(device)
    labels = torch.randint(0, classes, (size,), generator=generator).to(device)
    draws = torch.rand(size, 3, dtype=torch.float64, generator=generator).to(device)
    positions = torch.arange(size, device=device)

    def step(number: int) -> None:
        trainer.step(number, images, labels, positions, draws)

    return trainer, step


def measure(task: Task) -> dict[str, Any]:
    """One row, in a process of its own. What cannot be is in its note, with no seconds."""
    torch.set_num_threads(task.threads)
    row = empty_row(task)
    before = resident_peak()
    try:
        trainer, step = build(task)
        for number in range(task.warm_up):
            step(number)
        wait(task.device)
        if task.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds = [timed(lambda: step(0), task.device, task.threads) for _ in range(task.steps)]
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            if not task.compiled:
                raise
            return row | {"note": f"cannot be compiled here: {first_line(error)}"}
        return row | {"note": "out of memory"}
    if not all(torch.isfinite(sums.loss).all() for sums in trainer.take_sums()):
        raise RuntimeError("A loss is not finite: times of such steps would say nothing.")
    on_gpu = task.device == "cuda"
    peak = torch.cuda.max_memory_allocated() if on_gpu else resident_peak() - before
    return row | {"seconds": statistics.median(seconds), "peak_bytes": peak}


def empty_row(task: Task) -> dict[str, Any]:
    """All that is known before anything is measured."""
    splits = {"random:0": split_for(task.network)}
    channels = IMAGES[task.network][1]
    counts = multiply_adds(mixture(task.networks), task.recipe, splits, channels)
    return {
        "network": task.network,
        "precision": task.precision,
        "compiled": task.compiled,
        "batch": task.batch,
        "networks": task.networks,
        "steps": task.steps,
        "operations": 2.0 * task.batch * sum(counts),
        "estimated_bytes": estimated(task)[-1],
        "seconds": None,
        "peak_bytes": None,
        "note": "",
    }


def matrix_rate(precision: str, device: str, threads: int) -> float:
    """Floating-point operations a second of a large matrix product, in a process of its own."""
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high" if device == "cuda" else "highest")
    side = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device, dtype=getattr(torch, precision)) for _ in "ab")
    for _ in range(3):
        a @ b
    wait(device)
    seconds = [timed(lambda: a @ b, device, threads) for _ in range(7)]
    # The fastest, as it stands for what the device can do.
    return 2 * side**3 / min(seconds)


def timed(work: Callable[[], object], device: str, threads: int) -> float:
    """Seconds; of one thread of a CPU, those in which it had its core."""
    clock = time.process_time if (device, threads) == ("cpu", 1) else time.perf_counter
    start = clock()
    work()
    wait(device)
    return clock() - start


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def out_of_memory(error: BaseException) -> bool:
    words = str(error).lower()
    told = "out of memory" in words or "alloc_failed" in words or "can't allocate" in words
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or told


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}"[:120] if lines else type(error).__name__


def resident_peak() -> int:
    """Bytes that this process has filled at most."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's result from a new process; None where the system ended it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool:
            return None


def measured_apart(task: Task) -> dict[str, Any]:
    row = apart(measure, task)
    return row or empty_row(task) | {"note": "ended by the system: out of memory?"}


def most_that_fit(task_of: Callable[..., Task], memory: int) -> int:
    """The largest cohort that a device trains.

    On a GPU by trying, from the estimate on. On a CPU by the estimate alone: there, trying would
    take the machine's memory from everybody else.
    """
    guess = networks_that_fit(estimated(task_of(networks=MOST)), memory)
    if task_of(networks=1).device == "cpu":
        return guess
    most, too_many, next_ = 1, MOST + 1, guess
    while too_many - most > max(1, CLOSE * most):
        row = apart(measure, task_of(networks=next_, warm_up=1, steps=2))
        if row is not None and row["seconds"] is not None:
            most = next_
            next_ = (most + too_many) // 2 if too_many <= MOST else min(MOST, most * 5 // 4 + 1)
        else:
            too_many = next_
            next_ = (most + too_many) // 2
    return most


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--network", choices=tuple(IMAGES), default="caffenet")
    parser.add_argument("--batch", type=int, default=256, help="images a step (default 256)")
    parser.add_argument(
        "--networks", nargs="+", default=["1", "4", FIT], help=f"of a cohort; {FIT}: the most"
    )
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--steps", type=int, help="that are timed (GPU 20, CPU 3)")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU (default 1, as in a run)")
    parser.add_argument(
        "--compile-up-to",
        type=int,
        help="networks of the largest cohort that is compiled, too; 0: none (GPU 4, CPU 1)",
    )
    parser.add_argument("--out", type=Path, help="file for `raytransfer plan --measured`")
    options = parser.parse_args(arguments)
    numbers = [n for n in options.networks if n != FIT]
    if not all(n.isdecimal() and 1 <= int(n) <= MOST for n in numbers):
        parser.error(f"--networks are numbers from 1 to {MOST}, or {FIT}")
    if options.batch < 1 or options.threads < 1 or (options.steps or 1) < 1:
        parser.error("--batch, --threads and --steps are 1 or more")

    machine = this_machine(options.device)
    on_gpu = machine.device == "cuda"
    # As in a run: glibc keeps freed tensors instead of having their pages cleared each step.
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(256 * 2**20))
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(32 * 2**20))
    threads = 1 if on_gpu else options.threads
    compiled_to = options.compile_up_to
    if compiled_to is None:
        compiled_to = 4 if on_gpu else 1
    name = torch.cuda.get_device_name() if on_gpu else processor()
    rates = {p: apart(matrix_rate, p, machine.device, threads) for p in options.precision}
    found: dict[str, Any] = {
        "format": FORMAT,
        "device": machine.device,
        "name": name,
        "memory_bytes": machine.memory,
        "threads": threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load": os.getloadavg()[0],
        "matrix_rates": rates,
        "rows": [],
    }
    print(f"{name}, {threads} thread{'s' * (threads > 1)}, torch {torch.__version__}; ", end="")
    print(f"load {found['load']:.1f} at the start; {options.network}, batch {options.batch}")
    for precision, rate in rates.items():
        print(f"matrix product in {precision}: {rate / 1e12:.3f} TFLOP/s")
    header = ("networks", "precision", "compiled", "ms a step", "network-images/s", "TFLOP/s")
    print(line(*header, "of matrix", "peak GB", "estimated GB"))

    def task_of(
        precision: str = "float32",
        networks: int = 1,
        compiled: bool = False,
        warm_up: int = 3 if on_gpu else 1,
        steps: int = options.steps or (20 if on_gpu else 3),
    ) -> Task:
        return Task(
            options.network,
            precision,
            compiled,
            options.batch,
            networks,
            machine.device,
            threads,
            warm_up,
            steps,
        )

    for precision in options.precision:
        sizes = {int(n) for n in numbers}
        if FIT in options.networks:
            share = 1.0 if on_gpu else MEMORY_SHARES["cpu"]
            sizes.add(
                most_that_fit(
                    lambda p=precision, **more: task_of(p, **more), int(share * machine.memory)
                )
            )
        for networks in sorted(sizes):
            for compiled in (False, True) if networks <= compiled_to else (False,):
                row = measured_apart(task_of(precision, networks, compiled))
                show(row, rates[precision])
                found["rows"].append(row)
                if options.out:
                    options.out.write_text(json.dumps(found, indent=1) + "\n")


def show(row: dict[str, Any], rate: float) -> None:
    first = row["networks"], row["precision"], "yes" if row["compiled"] else "no"
    if row["seconds"] is None:
        print(line(*first, row["note"]), flush=True)
        return
    seconds = row["seconds"]
    images = row["networks"] * row["batch"] / seconds
    speed = row["operations"] / seconds
    numbers = (
        f"{1000 * seconds:,.1f}",
        f"{images:,.0f}",
        f"{speed / 1e12:.3f}",
        f"{speed / rate:.2f}",
    )
    memory = (f"{row[key] / 1e9:.2f}" for key in ("peak_bytes", "estimated_bytes"))
    print(line(*first, *numbers, *memory), flush=True)


def line(*cells: object) -> str:
    widths = (8, 9, 8, 10, 16, 8, 9, 8, 12)
    return " ".join(f"{cell!s:>{width}}" for cell, width in zip(cells, widths, strict=False))


def processor() -> str:
    """What the CPU calls itself."""
    told = Path("/proc/cpuinfo")
    if told.exists():
        for entry in told.read_text().splitlines():
            if entry.startswith("model name"):
                return entry.split(":")[1].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
