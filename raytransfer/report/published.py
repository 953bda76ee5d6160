"""The results of 2014, to lay over a study's own: top-1 of the authors' networks.

Means over the networks of Yosinski, Clune, Bengio and Lipson, computed from the 148 training logs
that they published, by their statistic (the mean of a run's ten highest validations).
"""

BASE = 0.6251
"""The eight bases of random halves of ImageNet."""

TOP1: dict[str, tuple[float, ...]] = {
    "BnB": (0.6267, 0.6235, 0.6211, 0.6048, 0.5935, 0.6188, 0.6232),
    "BnB+": (0.6177, 0.6215, 0.6313, 0.6287, 0.6301, 0.6276, 0.6266),
    "AnB": (0.6282, 0.6239, 0.6189, 0.5998, 0.5780, 0.5806, 0.5425),
    "AnB+": (0.6373, 0.6358, 0.6426, 0.6398, 0.6446, 0.6460, 0.6465),
}
"""By series, for n = 1 to 7."""

CHANGES: dict[str, tuple[float, ...]] = {
    "BnB": (0.35, 0.03, -0.21, -1.85, -2.97, -0.45, 0.00),
    "BnB+": (0.26, 0.64, 1.21, 1.36, 1.10, 0.85, 1.15),
    "AnB": (0.31, -0.12, -0.62, -2.53, -4.71, -4.45, -8.26),
    "AnB+": (0.32, 0.63, 1.30, 1.03, 1.05, 1.20, 1.24),
}
"""Against the base of the same half, points."""

DISSIMILAR = (0.29, -0.93, -3.24, -7.33, -12.95, -16.57, -25.01)
"""AnB between man-made and natural classes, mean change against the own base, points."""

UNTRAINED = (0.4917, 0.4026, 0.0011, 0.0191, 0.0499, 0.0145, 0.0146)
UNTRAINED_BASE = 0.5763
"""Untrained filters on all 1,000 classes, and the network to compare them with."""
