"""Every cell of the paper's Figure 2 for every random split and direction.

    raytransfer run balanced --data SHARDS --study DIR --device cuda

Four random splits, both targets: bases, BnB, BnB+, AnB and AnB+ for n = 1..7. 232 networks.

Cost: where up to eight GPUs each hold 28 networks, 16 passes over the images of a half; the
arithmetic of 232 networks, less an eighth for shared prefixes.
Expected: the paper's Figure 2 with eight networks behind every point, so that "fine-tuned transfer
beats its base" can be told from "a second training beats the first".
"""

from collections.abc import Iterator

from raytransfer.study.recipe import Recipe
from raytransfer.study.treatment import Treatment

recipe = Recipe()


def treatments() -> Iterator[Treatment]:
    for seed in range(4):
        for target in "AB":
            yield Treatment(f"random:{seed}", target)
            for source in "AB":
                for n in range(1, 8):
                    for finetuned in (False, True):
                        yield Treatment(f"random:{seed}", target, source, n, finetuned)
