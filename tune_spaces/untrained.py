"""Untrained filters: how far random, frozen first layers carry (paper, section 4.3).

    raytransfer run untrained --data SHARDS --study DIR --device cuda

Target B of random split 0: its base, and for n = 1..7 a network whose first n layers are random and
frozen, beside one with the other task's first n layers. 16 networks.

Cost: the images of 3 networks.
Expected: untrained filters fall at n = 1 to 2 and reach chance at n = 3 with the paper's network;
transferred features beat them at every n. (The authors ran these on all 1,000 classes; the paper
space does so too.)
"""

from collections.abc import Iterator

from raytransfer.study.recipe import Recipe
from raytransfer.study.treatment import UNTRAINED, Treatment

recipe = Recipe()


def treatments() -> Iterator[Treatment]:
    yield Treatment("random:0", "A")
    yield Treatment("random:0", "B")
    for n in range(1, 8):
        yield Treatment("random:0", "B", UNTRAINED, n)
        yield Treatment("random:0", "B", "A", n)
