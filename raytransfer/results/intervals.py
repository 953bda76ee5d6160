"""Means with 95 % intervals, of independent values and of values in clusters."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over n networks (or pairs), its interval and its standard deviation."""

    mean: float
    low: float | None
    high: float | None
    n: int
    sd: float | None

    @property
    def decides(self) -> bool:
        """Whether the interval leaves out 0: the sign of a difference is known."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean and Student's t interval of independent values; None of no values."""
    return clustered(values, range(len(values)))


def clustered(values: Sequence[float], clusters: Sequence[Hashable]) -> Estimate | None:
    """The mean of all values, with an interval that takes only clusters for independent.

    With one value a cluster, or as many in each, this is Student's t over the clusters' means.
    """
    if not values:
        return None
    mean = math.fsum(values) / len(values)
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    residuals: dict[Hashable, float] = {}
    for value, cluster in zip(values, clusters, strict=True):
        residuals[cluster] = residuals.get(cluster, 0.0) + value - mean
    count = len(residuals)
    if count < 2:
        return Estimate(mean, None, None, len(values), sd)
    total = math.fsum(residual**2 for residual in residuals.values())
    error = math.sqrt(total * count / (count - 1)) / len(values)
    return _with_interval(mean, error, count - 1, len(values), sd)


def difference(values: Sequence[float], others: Sequence[float]) -> Estimate | None:
    """Mean of `values` minus mean of `others`, with Welch's interval; n counts `values`."""
    first, second = estimate(values), estimate(others)
    return None if first is None or second is None else difference_of(first, second)


def difference_of(first: Estimate, second: Estimate) -> Estimate:
    """One mean minus another, of independent values, with Welch's interval; n is the first's."""
    mean = first.mean - second.mean
    if first.low is None or second.low is None:
        return Estimate(mean, None, None, first.n, first.sd)
    parts = [e.sd**2 / e.n for e in (first, second) if e.sd is not None]
    error = math.sqrt(sum(parts))
    spread = sum(part**2 / (e.n - 1) for part, e in zip(parts, (first, second), strict=True))
    # Two samples without any spread have no degrees of freedom to compute, and need none.
    degrees = error**4 / spread if spread else 1.0
    return _with_interval(mean, error, degrees, first.n, first.sd)


def _with_interval(mean: float, error: float, degrees: float, n: int, sd: float | None) -> Estimate:
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees)) * error
    return Estimate(mean, mean - reach, mean + reach, n, sd)
