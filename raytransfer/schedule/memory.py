"""What a training process holds in memory, estimated from the sizes of layers.

It counts what `train.cohort.CohortTrainer` holds through a step, and what autograd saves for the
backward pass. What libraries take for themselves (workspaces, caches, PyTorch: some hundred MB on a
GPU) is not in it, so a machine's memory is never planned to the brim.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

from raytransfer.nets.architecture import Layer, Shape, architecture
from raytransfer.schedule.cluster import Layout
from raytransfer.study.recipe import Recipe
from raytransfer.study.split import Split
from raytransfer.study.treatment import LAYERS, Treatment

FLOAT, HALF, PLACE = 4, 2, 8
"""Bytes of a number in float32 and in bfloat16, and of the place that a max-pool remembers."""

LEARNED = 3
"""A weight that learns, its gradient, its momentum."""


def cohort_memory(
    treatments: Sequence[Treatment],
    recipe: Recipe,
    splits: Mapping[str, Split],
    channels: int,
    layout: Layout,
) -> list[int]:
    """Bytes of a training process with the first, the first two, ... networks of one target.

    Frozen weights take a third of those that learn, frozen layers save nothing for a backward pass,
    and a prefix that networks share is held once.
    """
    images = -(-recipe.batch // layout.workers)
    classes = len(splits[treatments[0].split].classes(treatments[0].target))
    arch = architecture(recipe.network, classes)
    shapes = arch.input_shapes(channels)
    layers = list(zip(arch.layers, shapes, strict=True))
    weights = [prod(layer.weight_shape(shape)) + layer.outputs for layer, shape in layers]
    number = HALF if recipe.precision == "bfloat16" else FLOAT
    saved = [images * _saved(layer, shape, number) for layer, shape in layers]
    kept = [images * number * prod(layer.output_shape(shape)) for layer, shape in layers]
    # Gradients before and after what follows a layer's weights, of one network at a time.
    passing = [2 * images * number * prod(_before(layer, shape)) for layer, shape in layers]
    crops = images * FLOAT * prod(shapes[0])
    shareable = arch.first_dropout if recipe.dropout else LAYERS

    # Cropping makes three copies of the images, one after the other.
    held, most_passing = 0, 3 * crops
    means: set[str] = set()
    depths: dict[tuple[str | None, int], int] = {}
    totals = []
    for t in treatments:
        frozen = t.frozen_layers
        join = min(frozen, shareable)
        held += FLOAT * (LEARNED * sum(weights[frozen:]) + sum(weights[join:frozen]))
        if number == HALF:
            # Autocast keeps its copy of the weights until the backward pass has used it.
            held += HALF * sum(weights[join:])
        if layout.device == "cpu":
            # The weights as they were before training; else they are in the machine's own memory.
            held += FLOAT * sum(weights)
        held += sum(saved[frozen:])
        most_passing = max(most_passing, *passing[frozen:])
        mean = t.source if t.source in ("A", "B") else t.target
        if mean not in means:
            means.add(mean)
            held += crops
        known = depths.get((t.source, t.seed), 0)
        if join > known:
            depths[t.source, t.seed] = join
            # The prefix is a whole network, and its output after each layer is kept for those who
            # join there.
            held += sum(kept[known:join]) + (0 if known else FLOAT * sum(weights))
        totals.append(held + most_passing)
    return totals


def networks_that_fit(totals: Sequence[int], limit: int) -> int:
    """How many networks fit into `limit` bytes; one at least. totals: from `cohort_memory`."""
    return max(1, sum(total <= limit for total in totals))


def _before(layer: Layer, inputs: Shape) -> Shape:
    """Shape of what a layer's weights give, before pooling."""
    return replace(layer, pool=None).output_shape(inputs)


def _saved(layer: Layer, inputs: Shape, number: int) -> int:
    """Bytes that an image leaves for the backward pass of a layer: its outputs, and before ..."""
    outputs = prod(layer.output_shape(inputs))
    total = number * outputs
    if layer.pool is not None:
        # ... what is pooled, and where each maximum was;
        total += number * prod(_before(layer, inputs)) + PLACE * outputs
    if layer.normalise:
        # ... the squares, their mean, the divisor, and what is divided;
        total += 4 * FLOAT * outputs
    if layer.dropout:
        # ... which units stay, and what they give.
        total += (number + 1) * outputs
    return total
