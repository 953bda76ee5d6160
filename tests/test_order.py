"""Which image is at which place of which epoch is a pure function of the seed."""

import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from raytransfer.data.manifest import StoredFile, demo_shards, read_manifest
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
from raytransfer.data.reader import Images
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


def half_of_imagenet(monkeypatch):
    """The images of 500 of 1,000 classes of 1,280 images, in shards of 10,000 in random order."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(1000), 1280))
    monkeypatch.setattr("raytransfer.data.reader.read_labels", lambda manifest, split: labels)
    shards = tuple(StoredFile(f"train-{i}", 10_000, 200 * 10**6, "") for i in range(128))
    manifest = replace(
        read_manifest(demo_shards()),
        classes=tuple(map(str, range(1000))),
        channels=3,
        height=256,
        width=256,
        train=shards,
    )
    classes = np.sort(np.random.default_rng(1).permutation(1000)[:500])
    return Images(manifest, "train", tuple(classes.tolist()))


def test_an_epoch_of_half_of_imagenet_is_cheap(monkeypatch):
    images = half_of_imagenet(monkeypatch)
    start = time.perf_counter()
    sequence = Sequence(0, images.groups)
    orders = [sequence.rows(0, 640_000), sequence.rows(10 * 640_000, 11 * 640_000)]
    assert time.perf_counter() - start < 2 * 2
    for one in orders:
        assert np.array_equal(np.sort(one), np.arange(640_000))
    assert np.mean(orders[0] == orders[1]) < 1e-3
    # A batch in the middle of an epoch is of few row groups: it alone is read after a restart.
    rows = sequence.rows(10 * 640_000 + 77_777, 10 * 640_000 + 78_033)
    assert len(np.unique(images.groups[rows])) <= 2 * WINDOW < len(np.unique(images.groups)) / 100


def test_an_epoch_of_half_of_imagenet_fits_in_little_memory(monkeypatch):
    tracemalloc.start()
    images = half_of_imagenet(monkeypatch)
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    Sequence(0, images.groups).rows(5 * 640_000, 6 * 640_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - before < 100e6
