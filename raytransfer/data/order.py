"""Which image is at which place of which epoch: a pure function of the seed, and of nothing else.

The training sequence is the concatenation of all epochs. Step t of global batch B takes the
positions [t*B, (t+1)*B); position p is place p % N of epoch p // N, for a task of N images. So
batches are always full, may straddle two epochs, and a run resumes at any step by arithmetic.

All randomness is a hash of (seed, purpose, counter), splitmix64: it needs no state, is the same on
every machine and in every version of NumPy, and gives each image its own numbers wherever and
whenever it is read.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from raytransfer.errors import UserError

WHOLE = 128
"""Row groups up to which an epoch is one permutation of all rows: 12,800 rows at 100 a group, and
256 MB of photographs of 20 kB."""

WINDOW = 32
"""Row groups whose rows are mixed in a larger data set. Shards are written in random order and the
row groups are permuted anew each epoch; mixing 3,200 rows on top keeps any two epochs apart, while
the images being mixed (64 MB of photographs of 20 kB) still fit in memory and are read once."""

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def _splitmix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of splitmix64 (Steele, Lea and Flood, 2014), element by element."""
    x = x + _GAMMA
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def hashes(seed: int, purpose: str, counters: NDArray[np.int64]) -> NDArray[np.uint64]:
    """64 random bits for each counter; another seed or purpose gives unrelated ones."""
    name = f"{seed}/{purpose}".encode()
    key = np.frombuffer(hashlib.blake2b(name, digest_size=8).digest(), dtype="<u8")
    return _splitmix(_splitmix(counters.astype(np.uint64)) ^ key.astype(np.uint64))


def uniforms(seed: int, purpose: str, positions: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Random numbers in [0, 1), shape [len(positions), k], the same for a position wherever it is.

    `positions` are places in the training sequence, as a micro-batch carries them, so that the
    crop and the mirror of an image depend neither on the worker that gets it nor on a restart.
    """
    column = np.arange(1, k + 1, dtype=np.uint64) * _GAMMA
    bits = _splitmix(hashes(seed, purpose, positions)[:, None] + column)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(seed: int, purpose: str, n: int) -> NDArray[np.int64]:
    """The numbers 0..n-1 in random order."""
    return np.argsort(hashes(seed, purpose, np.arange(n)), kind="stable")


def epoch_order(
    seed: int, epoch: int, groups: NDArray[np.int64], whole: int = WHOLE
) -> NDArray[np.int64]:
    """The rows of a task, 0..N-1, in the order of one epoch: each exactly once.

    `groups` [N], increasing, is the row group that holds each row. Up to `whole` row groups are
    permuted as one; of more, the groups are permuted, and their rows within windows of WINDOW
    groups, so that neighbours in the order lie in few groups.
    """
    rows = np.arange(len(groups))
    mixed = hashes(seed, f"rows of epoch {epoch}", rows)
    names, group = np.unique(groups, return_inverse=True)
    if len(names) <= whole:
        return np.argsort(mixed, kind="stable")
    place = np.empty(len(names), dtype=np.int64)
    place[permutation(seed, f"row groups of epoch {epoch}", len(names))] = np.arange(len(names))
    return np.lexsort((mixed, place[group] // WINDOW))


class Sequence:
    """The training sequence of one task: position to row, for any position.

    Holds the orders of the two epochs used last (8 bytes an image each); any other is made anew.
    """

    def __init__(self, seed: int, groups: NDArray[np.int64], whole: int = WHOLE) -> None:
        if not len(groups):
            raise ValueError("a sequence of no images")
        self.seed = seed
        self.groups = groups
        self.whole = whole
        self._orders: dict[int, NDArray[np.int64]] = {}

    def epoch(self, epoch: int) -> NDArray[np.int64]:
        """The rows of one epoch in order, [N]."""
        if epoch not in self._orders:
            if len(self._orders) > 1:
                del self._orders[min(self._orders)]
            self._orders[epoch] = epoch_order(self.seed, epoch, self.groups, self.whole)
        return self._orders[epoch]

    def rows(self, start: int, stop: int) -> NDArray[np.int64]:
        """The rows at positions start..stop-1, [stop - start]."""
        n = len(self.groups)
        pieces = [
            self.epoch(epoch)[max(start - epoch * n, 0) : stop - epoch * n]
            for epoch in range(start // n, -(-stop // n))
        ]
        return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int64)


def share(start: int, stop: int, rank: int, workers: int) -> tuple[int, int]:
    """The part [start, stop) of a global batch that worker `rank` gets: contiguous.

    All parts together are the batch, their sizes differ by one at most, and a part is empty where
    there are more workers than images.
    """
    size = stop - start
    return start + rank * size // workers, start + (rank + 1) * size // workers


def check_batch(batch: int, workers: int) -> None:
    """Raises UserError when a global batch cannot be shared out evenly."""
    if batch < 1 or workers < 1:
        raise UserError(f"batch and workers are 1 or more, not {batch} and {workers}.")
    if batch % workers:
        raise UserError(
            f"A batch of {batch} images cannot be shared evenly by {workers} workers: "
            "choose a batch that is a multiple of the workers."
        )
