"""What a plan costs, counted from the networks' operations and sizes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from raytransfer.nets.architecture import Architecture, architecture
from raytransfer.study.plan import Plan
from raytransfer.study.recipe import Recipe
from raytransfer.study.split import Split
from raytransfer.study.treatment import LAYERS, Treatment

RATES = {"cpu": 20e9, "cuda": 50e12}
"""Assumed useful floating-point operations a second: of one core, of one GPU."""

STEP_MULTIPLY_ADDS = 60e6
"""Multiply-adds that a core does in the time in which it starts a step's operations. On images of
28x28 that is as much as two networks of a cohort; on large networks it is nothing."""

_FLOATS_A_WEIGHT = 4
"""A weight, its gradient, its momentum, and the workers' sum of gradients."""


@dataclass(frozen=True)
class Cost:
    """What a plan takes, for a data set and a recipe."""

    images: int
    """Images streamed, over all passes."""
    network_images: int
    """Images times the networks that train on each."""
    operations: float
    """Floating-point operations of training; two for a multiply-add."""
    hours: float
    """At the assumed rate of the devices, validation and start-up left out."""


def plan_cost(
    plan: Plan, recipe: Recipe, splits: dict[str, Split], channels: int, rate: float
) -> Cost:
    """rate: floating-point operations a second of all devices together."""
    per_pass = recipe.steps * recipe.batch
    operations = (
        2.0
        * per_pass
        * sum(
            sum(multiply_adds(cohort.treatments, recipe, splits, channels))
            for stage in plan.stages
            for cohort in stage
        )
    )
    return Cost(
        images=plan.passes * per_pass,
        network_images=len(plan.treatments) * per_pass,
        operations=operations,
        hours=operations / rate / 3600,
    )


def multiply_adds(
    treatments: Sequence[Treatment], recipe: Recipe, splits: Mapping[str, Split], channels: int
) -> list[int]:
    """Multiply-adds of a training step for one image, by network: three passes through layers that
    learn, one through frozen ones. A shared prefix counts for the first networks that need it."""
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
        own = sum(by_layer[shared : t.frozen_layers]) + 3 * sum(by_layer[t.frozen_layers :])
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


def network_bytes(arch: Architecture, channels: int, images: int) -> int:
    """Memory of one network that learns in all layers, for a batch of `images` a worker."""
    shapes = arch.input_shapes(channels)
    weights = activations = 0
    for layer, inputs in zip(arch.layers, shapes, strict=True):
        size = prod(layer.weight_shape(inputs))
        weights += size + layer.outputs
        # Output of the weights, of the ReLU and of the gradient, each before pooling.
        activations += 3 * layer.multiply_adds(inputs) * layer.outputs // size
    return 4 * (_FLOATS_A_WEIGHT * weights + activations * images)


def networks_that_fit(
    recipe: Recipe, channels: int, classes: int, workers: int, memory: int
) -> int:
    """How many networks of a cohort fit into `memory` bytes of each worker; one at least."""
    arch = architecture(recipe.network, classes)
    return max(1, memory // network_bytes(arch, channels, -(-recipe.batch // workers)))
