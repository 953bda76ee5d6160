"""What a plan costs, counted from the networks' operations and sizes."""

from dataclasses import dataclass
from math import prod

from raytransfer.nets.architecture import Architecture, architecture
from raytransfer.study.plan import Cohort, Plan
from raytransfer.study.recipe import Recipe
from raytransfer.study.split import Split
from raytransfer.study.treatment import LAYERS

RATES = {"cpu": 20e9, "cuda": 50e12}
"""Assumed useful floating-point operations a second: of one core, of one GPU."""

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
    operations = float(
        sum(
            2 * per_pass * cohort_multiply_adds(cohort, recipe, splits, channels)
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


def cohort_multiply_adds(
    cohort: Cohort, recipe: Recipe, splits: dict[str, Split], channels: int
) -> int:
    """Multiply-adds of a training step for one image: three passes through layers that learn, one
    through frozen ones, shared prefixes once."""
    arch = architecture(recipe.network, len(splits[cohort.split].classes(cohort.target)))
    by_layer = arch.multiply_adds(channels)
    shareable = arch.first_dropout if recipe.dropout else LAYERS
    total = 0
    prefixes: dict[tuple[str | None, int], int] = {}
    for treatment in cohort.treatments:
        frozen = treatment.frozen_layers
        shared = min(frozen, shareable)
        source = treatment.source, treatment.seed
        prefixes[source] = max(prefixes.get(source, 0), shared)
        total += sum(by_layer[shared:frozen]) + 3 * sum(by_layer[frozen:])
    return total + sum(sum(by_layer[:shared]) for shared in prefixes.values())


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
