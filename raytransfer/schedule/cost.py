"""What a plan costs: images, operations, hours."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from raytransfer.nets.architecture import architecture
from raytransfer.schedule.cluster import Layout, Machine
from raytransfer.study.plan import Cohort, Plan, Trial
from raytransfer.study.recipe import Recipe
from raytransfer.study.split import Split
from raytransfer.study.treatment import LAYERS, Treatment

RATES = {"cpu": 20e9, "cuda": 50e12}
"""Assumed useful floating-point operations a second: of one core, of one GPU."""

TRIAL_SECONDS = 15
"""From the start of a trial to its first step: processes that import PyTorch and Ray."""

STEP_MULTIPLY_ADDS = 60e6
"""Multiply-adds that a core does in the time in which it starts a step's operations. On images of
28x28 that is as much as two networks of a cohort; on large networks it is nothing."""


@dataclass(frozen=True)
class Rate:
    """Floating-point operations a second of one device (a GPU, or a core), by the networks of the
    cohort that it trains."""

    networks: tuple[int, ...]
    rates: tuple[float, ...]
    source: str
    """Where it comes from, as what follows "Cost"."""

    def of(self, networks: int) -> float:
        """Between two sizes that are known, a line; beyond them, the last one."""
        return float(np.interp(networks, self.networks, self.rates))


def assumed_rate(machine: Machine, operations: float | None = None) -> Rate:
    """The same for cohorts of every size. operations: a second of one GPU or core; None for what
    is assumed where nothing is known."""
    rate = RATES[machine.device] if operations is None else operations
    stated = "an assumed" if operations is None else "a stated"
    return Rate((1,), (rate,), f"at {stated} {rate:.0e} operations a second of a {machine.unit}")


@dataclass(frozen=True)
class Cost:
    """What a plan takes, for a data set and a recipe."""

    images: int
    """Images streamed, over all passes."""
    network_images: int
    """Images times the networks that train on each."""
    operations: float
    """Floating-point operations of training; two for a multiply-add."""
    device_hours: float
    """Hours of GPUs, or of cores, that train; validation and decoding left out."""
    elapsed_hours: float
    """With as many trials at once as the layout has, and the start of each."""


def plan_cost(
    plan: Plan,
    layout: Layout,
    recipe: Recipe,
    splits: Mapping[str, Split],
    channels: int,
    rate: Rate,
) -> Cost:
    per_pass = recipe.steps * recipe.batch
    cohorts = [cohort for stage in plan.stages for cohort in stage]
    operations = {
        cohort: 2.0 * per_pass * sum(multiply_adds(cohort.treatments, recipe, splits, channels))
        for cohort in cohorts
    }
    hours = {
        cohort: count / rate.of(len(cohort.treatments)) / 3600
        for cohort, count in operations.items()
    }
    return Cost(
        images=plan.passes * per_pass,
        network_images=len(plan.treatments) * per_pass,
        operations=sum(operations.values()),
        device_hours=sum(hours.values()),
        elapsed_hours=_elapsed(plan, layout, hours),
    )


def _elapsed(plan: Plan, layout: Layout, hours: Mapping[Cohort, float]) -> float:
    """Hours from the first trial's start to the last one's end."""

    def of_trial(trial: Trial) -> float:
        lanes = ([sum(hours[cohort] for cohort in lane) for lane in s] for s in trial.stages)
        training = sum(map(max, lanes)) / (layout.workers * layout.devices_a_process)
        return TRIAL_SECONDS / 3600 + training

    total = 0.0
    for wave in plan.waves:
        free = [0.0] * layout.trials_at_once
        for trial in wave:
            heapq.heappush(free, heapq.heappop(free) + of_trial(trial))
        total += max(free)
    return total


def multiply_adds(
    treatments: Sequence[Treatment], recipe: Recipe, splits: Mapping[str, Split], channels: int
) -> list[int]:
    """Multiply-adds of a training step for one image, by network: three passes through layers that
    learn (two through the lowest, as nobody asks for the gradient of its input), one through frozen
    ones. A shared prefix counts for the first networks that need it."""
    counts = []
    prefixes: dict[tuple[str, str, str | None, int], int] = {}
    by_layer_of = {
        classes: architecture(recipe.network, classes).multiply_adds(channels)
        for classes in {_classes(treatment, splits) for treatment in treatments}
    }
    arch = architecture(recipe.network, 2)
    shareable = arch.first_dropout if recipe.dropout else LAYERS
    for t in treatments:
        by_layer = by_layer_of[_classes(t, splits)]
        shared = min(t.frozen_layers, shareable)
        prefix = t.split, t.target, t.source, t.seed
        computed = prefixes.get(prefix, 0)
        prefixes[prefix] = max(computed, shared)
        lowest = t.frozen_layers
        own = sum(by_layer[shared:lowest]) + 3 * sum(by_layer[lowest:]) - by_layer[lowest]
        counts.append(sum(by_layer[computed:shared]) + own)
    return counts


def _classes(treatment: Treatment, splits: Mapping[str, Split]) -> int:
    return len(splits[treatment.split].classes(treatment.target))


def relative_costs(
    treatments: Sequence[Treatment], recipe: Recipe, splits: Mapping[str, Split], channels: int
) -> list[float]:
    """What networks cost beside one another: their multiply-adds, and for the first of each target
    what a pass costs however small its networks are."""
    costs: list[float] = []
    targets: set[tuple[str, str]] = set()
    for t, count in zip(
        treatments, multiply_adds(treatments, recipe, splits, channels), strict=True
    ):
        first = (t.split, t.target) not in targets
        targets.add((t.split, t.target))
        costs.append(count + first * STEP_MULTIPLY_ADDS / recipe.batch)
    return costs
