"""Transfer between dissimilar tasks: ImageNet's man-made objects against natural ones (Figure 3).

    raytransfer run dissimilar --data SHARDS --study DIR --device cuda

Both bases, and frozen transfers both ways for n = 1..7. 16 networks.

Cost: the images of 4 networks.
Expected: accuracy falls faster with n than between random halves; 25 points at n = 7 against 8
(authors' logs).
"""

from collections.abc import Iterator

from raytransfer.study.recipe import Recipe
from raytransfer.study.treatment import Treatment

recipe = Recipe()


def treatments() -> Iterator[Treatment]:
    for source, target in ("AB", "BA"):
        yield Treatment("manmade-natural", target)
        for n in range(1, 8):
            yield Treatment("manmade-natural", target, source, n)
