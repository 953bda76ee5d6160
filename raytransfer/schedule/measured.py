"""Step times that benchmarks/device.py measured on a device, read for a plan's hours."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from raytransfer.errors import UserError
from raytransfer.schedule.cluster import GB, Device, Machine, stated_machine
from raytransfer.schedule.cost import Rate, assumed_rate
from raytransfer.study.recipe import Recipe

T = TypeVar("T", int, float)

FORMAT = 1
"""Version of the file; another is refused."""


@dataclass(frozen=True)
class Step:
    """The training step of one cohort, as measured. The file may say more of it than is read."""

    network: str
    precision: str
    compiled: bool
    batch: int
    networks: int
    operations: float
    """Floating-point operations of the step, counted as for a plan."""
    seconds: float
    """Median of several steps."""


@dataclass(frozen=True)
class Measured:
    """What was measured, and where."""

    device: Literal["cpu", "cuda"]
    name: str
    """What the device calls itself."""
    memory: int
    """Bytes of the GPU, or of the machine where a CPU was measured."""
    threads: int
    """Cores that trained; 1 for a GPU."""
    date: str
    steps: tuple[Step, ...]


def read_measured(path: Path) -> Measured:
    """Raises UserError, naming the file, when it is not what benchmarks/device.py writes."""
    try:
        stored = json.loads(path.read_text())
        if stored["format"] != FORMAT:
            raise UserError(
                f"{path} has another format than {FORMAT}, the one known here: measure again with "
                "this version's benchmarks/device.py."
            )
        if stored["device"] not in ("cpu", "cuda"):
            raise ValueError(stored["device"])
        return Measured(
            device=stored["device"],
            name=str(stored["name"]),
            memory=_above_0(int(stored["memory_bytes"])),
            threads=_above_0(int(stored["threads"])),
            date=str(stored["date"]),
            steps=tuple(_step(row) for row in stored["rows"] if row["seconds"] is not None),
        )
    except FileNotFoundError:
        raise UserError(f"There is no file of measured step times {path}.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} cannot be read as step times ({type(error).__name__}: {error}): measure them "
            "with benchmarks/device.py --out."
        ) from None


def planned_for(
    device: Device,
    gpus: int | None,
    memory_gb: float | None,
    operations: float | None,
    measured: Path | None,
    recipe: Recipe,
    images: int,
) -> tuple[Machine, Rate]:
    """The machine that a study is planned for, and its rate, from all that is said of them.

    See `cluster.stated_machine` for the first three, `cost.assumed_rate` for operations, and
    `measured_rate` for the last two. Raises UserError where they say too little, or contradict.
    """
    if operations is not None and measured is not None:
        raise UserError("Give --measured or --device-rate, not both: each says how fast it is.")
    if operations is not None and not 0 < operations < float("inf"):
        raise UserError(f"--device-rate is operations a second, above 0, not {operations}.")
    if measured is None:
        machine = stated_machine(device, gpus, memory_gb)
        return machine, assumed_rate(machine, operations)
    found = read_measured(measured)
    asked = "cuda" if gpus is not None else device
    if asked not in ("auto", found.device):
        raise UserError(
            f"{measured} measured {found.device} and the plan is for {asked}: give the times of "
            "such a device, or none."
        )
    if found.device == "cuda" and memory_gb is None:
        memory_gb = found.memory / GB
    machine = stated_machine(found.device, gpus, memory_gb)
    return machine, measured_rate(found, measured, recipe, images)


def _step(row: dict[str, Any]) -> Step:
    return Step(
        network=str(row["network"]),
        precision=str(row["precision"]),
        compiled=bool(row["compiled"]),
        batch=_above_0(int(row["batch"])),
        networks=_above_0(int(row["networks"])),
        operations=_above_0(float(row["operations"])),
        seconds=_above_0(float(row["seconds"])),
    )


def _above_0(value: T) -> T:
    if not 0 < value < float("inf"):
        raise ValueError(f"{value} where a number above 0 is due")
    return value


def measured_rate(measured: Measured, path: Path, recipe: Recipe, images: int) -> Rate:
    """The rate at which a recipe's cohorts train, by those measured steps that resemble it most.

    images: of a batch that a process gets; the measured batch nearest to it is taken. Compiled
    steps are left out, as a run does not compile. Raises UserError where none is of the recipe's
    network and precision.
    """
    alike = [
        step
        for step in measured.steps
        if (step.network, step.precision) == (recipe.network, recipe.precision)
        and not step.compiled
    ]
    if not alike:
        raise UserError(
            f"{path} has no steps of network {recipe.network} in {recipe.precision}: measure them "
            f"with benchmarks/device.py --network {recipe.network}."
        )
    batch = min((step.batch for step in alike), key=lambda batch: (abs(batch - images), batch))
    by_networks = {step.networks: step for step in alike if step.batch == batch}
    networks = tuple(sorted(by_networks))
    steps = [by_networks[count] for count in networks]
    rates = tuple(step.operations / step.seconds / measured.threads for step in steps)
    source = f"from {path.name}: steps of {batch} images, {measured.name}, {measured.date[:10]}"
    return Rate(networks, rates, source)
