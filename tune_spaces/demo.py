"""The paper's Figures 2 and 3 in small, on the images that the package carries.

    raytransfer demo

One random split, target B: both bases, and for n = 1..7 B{n}B, B{n}B+, A{n}B, A{n}B+ and untrained
filters; one dissimilar split, garments against the rest: both bases and A{n}B. 46 networks.

Cost: under three minutes on two cores.
Expected: A{n}B falls with n, and untrained filters fall sooner; B{n}B hardly dips on images this
simple; fine-tuned networks do not fall at all.
"""

from collections.abc import Iterator

from raytransfer.study.recipe import Recipe
from raytransfer.study.treatment import UNTRAINED, Treatment

recipe = Recipe(
    network="small",
    steps=1250,
    batch=32,
    validate_every=250,
    learning_rate=0.02,
    schedule="one-cycle",
    bias_rate=1.0,
    dropout=0.1,
)

splits = {
    "dissimilar": {
        "A": ["T-shirt/top", "Pullover", "Dress", "Coat", "Shirt"],
        "B": ["Trouser", "Sandal", "Sneaker", "Bag", "Ankle boot"],
    }
}


def treatments() -> Iterator[Treatment]:
    for target in "AB":
        yield Treatment("random:0", target)
        yield Treatment("dissimilar", target)
    for n in range(1, 8):
        for source in "AB":
            for finetuned in (False, True):
                yield Treatment("random:0", "B", source, n, finetuned)
        yield Treatment("random:0", "B", UNTRAINED, n)
        yield Treatment("dissimilar", "B", "A", n)
