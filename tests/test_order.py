"""Promise 1: which image is at which place of which epoch is a pure function of the seed."""

import time
import tracemalloc

import numpy as np
import pytest

from raytransfer.data.order import (
    WHOLE,
    WINDOW,
    Sequence,
    check_batch,
    epoch_order,
    permutation,
    share,
    uniforms,
)
from raytransfer.errors import UserError

SMALL = np.arange(250) // 50
LARGE = np.arange(300 * 40) // 40  # 300 row groups: more than are permuted as one


@pytest.mark.parametrize("groups", [SMALL, LARGE])
def test_every_image_comes_once_an_epoch(groups):
    for epoch in range(3):
        assert np.array_equal(np.sort(epoch_order(0, epoch, groups)), np.arange(len(groups)))


@pytest.mark.parametrize("groups", [SMALL, LARGE])
def test_epochs_and_seeds_differ(groups):
    orders = [epoch_order(seed, epoch, groups) for seed in (0, 1) for epoch in (0, 1)]
    for i, one in enumerate(orders):
        for other in orders[:i]:
            assert np.mean(one == other) < 0.05


def test_the_order_is_the_one_of_old():
    """Changing it changes every study: raise the version, say so in CHANGELOG.md, and put here
    what `epoch_order(0, 0, np.zeros(10))`, `permutation(7, "x", 8)` and `uniforms` now give."""
    assert epoch_order(0, 0, np.zeros(10, dtype=int)).tolist() == GOLDEN_ORDER
    assert permutation(7, "x", 8).tolist() == GOLDEN_PERMUTATION
    assert uniforms(0, "crop", np.array([0, 10**12]), 2).tolist() == GOLDEN_UNIFORMS


GOLDEN_ORDER = [9, 3, 4, 1, 8, 7, 0, 5, 2, 6]
GOLDEN_PERMUTATION = [5, 3, 2, 7, 1, 6, 4, 0]
GOLDEN_UNIFORMS = [
    [0.43850981025406033, 0.5835610239935736],
    [0.8432677691745253, 0.3133446487235467],
]


def test_a_batch_of_a_large_data_set_touches_few_row_groups():
    assert LARGE[-1] >= WHOLE
    order = epoch_order(0, 0, LARGE)
    for start in range(0, len(order), 256):
        assert len(np.unique(LARGE[order[start : start + 256]])) <= 2 * WINDOW
    assert len(np.unique(LARGE[order[:256]])) > WINDOW // 2


def test_batches_are_full_and_straddle_epochs():
    sequence = Sequence(0, SMALL)
    both = np.concatenate([sequence.epoch(0), sequence.epoch(1), sequence.epoch(2)])
    assert np.array_equal(sequence.rows(240, 620), both[240:620])
    assert np.array_equal(Sequence(0, SMALL).rows(500, 750), both[500:])


@pytest.mark.parametrize("workers", [1, 2, 4, 8])
def test_workers_share_a_batch_in_order(workers):
    sequence = Sequence(3, SMALL)
    parts = [sequence.rows(*share(160, 224, rank, workers)) for rank in range(workers)]
    assert {len(part) for part in parts} == {64 // workers}
    assert np.array_equal(np.concatenate(parts), sequence.rows(160, 224))


def test_shares_of_a_partial_batch_cover_it_once():
    parts = [share(10, 13, rank, 8) for rank in range(8)]
    assert [i for start, stop in parts for i in range(start, stop)] == [10, 11, 12]


def test_an_uneven_batch_is_refused():
    with pytest.raises(UserError, match=r"100 images .* by 3 workers"):
        check_batch(100, 3)


def test_an_image_has_its_own_random_numbers():
    positions = np.array([5, 0, 10**9])
    numbers = uniforms(0, "crop", positions, 3)
    assert np.array_equal(numbers[2:], uniforms(0, "crop", positions[2:], 3))
    assert np.array_equal(numbers[:, :2], uniforms(0, "crop", positions, 2))
    assert not np.any(numbers == uniforms(0, "mirror", positions, 3))
    assert not np.any(numbers == uniforms(1, "crop", positions, 3))


def test_random_numbers_are_uniform_and_independent():
    numbers = uniforms(0, "crop", np.arange(100_000), 2)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    for column in numbers.T:
        counts = np.histogram(column, 20, (0, 1))[0]
        assert ((counts - 5000) ** 2 / 5000).sum() < 45  # chi-square, 19 degrees: p = .0007
    neighbours = numbers[1:, 0], numbers[:-1, 0]
    for one, other in (numbers.T, neighbours):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.015


def test_an_epoch_of_half_of_imagenet_is_cheap():
    groups = np.arange(640_000) // 50
    start = time.perf_counter()
    epoch_order(0, 5, groups)
    assert time.perf_counter() - start < 2
    tracemalloc.start()
    epoch_order(0, 5, groups)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6
