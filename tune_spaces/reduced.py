"""How much data a network needs: bases of all 1,000 classes on fewer images of each (supplement).

    raytransfer run reduced --data SHARDS --study DIR --device cuda

One base of all classes for each of 1, 2, 5, 10, 25, 50, 100, 250, 500, 750, 1000 training images a
class, and one for all of them, with the paper's own recipe for these. 12 networks. The images of a
smaller one are among those of every larger one; a class with fewer images gives all it has
(ImageNet's have 732 to 1,300). Validation and the mean image are always those of all images. Any
other treatment takes such a split as well: random:0.A3B.s0 on 250 images is reduced:250.A3B.s0.

Cost: 200,000 steps of 256 images for each network, in a pass of its own.
Expected: top-1 .5518 with all images, .5409 with 1000, .5147 with 750, .4757 with 500, .3843 with
250, and chance with 100 and fewer (authors' logs).
"""

from collections.abc import Iterator

from raytransfer.study.recipe import Recipe
from raytransfer.study.treatment import Treatment

recipe = Recipe(learning_rate=0.0125, drop_every=64_000, steps=200_000)

IMAGES_PER_CLASS = (1, 2, 5, 10, 25, 50, 100, 250, 500, 750, 1000)


def treatments() -> Iterator[Treatment]:
    for images in IMAGES_PER_CLASS:
        yield Treatment(f"reduced:{images}", "AB")
    yield Treatment("random:0", "AB")
