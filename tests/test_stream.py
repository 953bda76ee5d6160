"""The stream gives each worker exactly what the plan says, with Ray and without."""

import logging
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from raytransfer.data.manifest import demo_shards, read_manifest
from raytransfer.data.plan import plan_stream
from raytransfer.data.reader import Images, read_locally
from raytransfer.data.stream import batches, dataset
from raytransfer.errors import UserError

# Ray warns of its own settings when it makes its own context.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")

TASK = (0, 3, 5, 8)


def plan(classes=TASK, **changes):
    """4,000 training images; 2,000 for validation, the last batch of them not full."""
    numbers = {"seed": 1, "batch": 96, "steps": 50, "validate_every": 20, "workers": 2}
    return plan_stream(str(demo_shards()), classes, **{**numbers, **changes})


def packets(plan):
    return [packet for item in plan.items() for packet in plan.packets(*item)]


def same(one, other):
    return (
        (one.phase, one.step, one.epoch, one.last)
        == (other.phase, other.step, other.epoch, other.last)
        and np.array_equal(one.images, other.images)
        and np.array_equal(one.labels, other.labels)
        and np.array_equal(one.positions, other.positions)
    )


def joined(plan):
    """The global batches: the micro-batches of all workers put together again."""
    return [
        replace(
            parts[0],
            images=np.concatenate([part.images for part in parts]),
            labels=np.concatenate([part.labels for part in parts]),
            positions=np.concatenate([part.positions for part in parts]),
        )
        for parts in zip(*(read_locally(plan, r) for r in range(plan.workers)), strict=True)
    ]


@pytest.mark.parametrize("workers", [2, 4, 32])
def test_any_number_of_workers_reads_the_same(workers):
    alone = joined(plan(workers=1))
    together = joined(plan(workers=workers))
    assert len(alone) == len(together)
    assert all(map(same, alone, together))


def test_small_packets_carry_the_same(monkeypatch):
    whole = list(read_locally(plan()))
    monkeypatch.setattr("raytransfer.data.plan.PACKET_BYTES", 100_000)
    assert plan().batches_per_packet("train") == 2
    assert all(map(same, whole, read_locally(plan())))


def test_a_run_trains_and_validates_in_turn():
    seen = [(b.phase, b.step, b.last) for b in read_locally(plan())]
    train = [("train", step, False) for step in range(50)]
    val = {s: [("val", s, i == 20) for i in range(21)] for s in (20, 40, 50)}
    assert seen == train[:20] + val[20] + train[20:40] + val[40] + train[40:] + val[50]


@pytest.mark.parametrize("workers", [1, 4])
def test_a_validation_counts_each_image_once(workers):
    seen = [b for b in joined(plan(workers=workers)) if b.phase == "val" and b.step == 40]
    positions = np.concatenate([b.positions for b in seen])
    assert np.array_equal(positions, np.arange(2000))
    labels = Counter(np.concatenate([b.labels for b in seen]).tolist())
    assert labels == {0: 500, 1: 500, 2: 500, 3: 500}
    assert len({image.tobytes() for b in seen for image in b.images}) > 1990


def test_an_epoch_of_the_stream_holds_each_image_once():
    seen = [b for b in joined(plan()) if b.phase == "train"]
    positions = np.concatenate([b.positions for b in seen])
    assert np.array_equal(positions, np.arange(50 * 96))
    images = np.concatenate([b.images for b in seen])[:4000]
    assert len({image.tobytes() for image in images}) > 3990
    assert Counter(np.concatenate([b.labels for b in seen])[:4000].tolist()) == dict.fromkeys(
        range(4), 1000
    )
    assert [b.epoch for b in seen] == [step * 96 // 4000 for step in range(50)]


@pytest.mark.parametrize("start", [7, 20, 49])
def test_a_resumed_run_reads_the_tail(start):
    whole = list(read_locally(plan(), 1))
    first = next(i for i, b in enumerate(whole) if (b.phase, b.step) == ("train", start))
    resumed = list(read_locally(plan(start_step=start), 1))
    assert len(resumed) == len(whole) - first
    assert all(map(same, whole[first:], resumed))


def test_a_finished_run_reads_nothing():
    assert list(read_locally(plan(start_step=50))) == []


# Reduced data: the first images of each class.


def firsts(per_class):
    """Each class's training images in one epoch of a reduced task, as a set."""
    reduced = plan(batch=4, steps=per_class, validate_every=per_class, per_class=per_class)
    assert reduced.train_images == 4 * per_class
    batches = [batch for batch in joined(reduced) if batch.phase == "train"]
    found = {label: [] for label in range(4)}
    for batch in batches:
        for image, label in zip(batch.images, batch.labels.tolist(), strict=True):
            found[label].append(image.tobytes())
    return found


def test_a_reduced_stream_has_so_many_images_of_each_class_and_fewer_are_among_more():
    manifest = read_manifest(demo_shards())
    whole = Images(manifest, "train", TASK)
    smaller = {label: set() for label in range(4)}
    for per_class in (1, 2, 50):
        found = firsts(per_class)
        for label, images in found.items():
            first = whole.read(np.flatnonzero(whole.labels == label)[:per_class])
            assert sorted(images) == sorted(image.tobytes() for image in first)
            assert smaller[label] < set(images)
            smaller[label] = set(images)


def test_a_reduced_stream_validates_on_everything():
    reduced, whole = ([b for b in joined(plan(per_class=k)) if b.phase == "val"] for k in (3, None))
    assert [b.step for b in reduced] == [b.step for b in whole]
    for one, other in zip(reduced, whole, strict=True):
        assert np.array_equal(one.images, other.images)
        assert np.array_equal(one.labels, other.labels)


@pytest.mark.parametrize("workers", [2, 32])
def test_any_number_of_workers_reads_the_same_of_reduced_data(workers):
    alone = joined(plan(per_class=30, workers=1))
    together = joined(plan(per_class=30, workers=workers))
    assert len(alone) == len(together)
    assert all(map(same, alone, together))


def test_a_class_with_fewer_images_gives_all_that_it_has():
    assert plan(per_class=10_000).train_images == plan().train_images == 4000
    assert all(map(same, joined(plan(per_class=10_000)), joined(plan())))


def test_no_images_of_a_class_are_refused():
    with pytest.raises(UserError, match="1 or more, not 0"):
        plan(per_class=0)


@pytest.fixture(scope="module")
def cluster():
    """Ray of this test alone."""
    import ray

    ray.init(
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=256 * 2**20,
    )
    yield ray
    ray.shutdown()


def test_ray_gives_each_worker_its_part(cluster, monkeypatch):
    monkeypatch.setattr("raytransfer.data.plan.PACKET_BYTES", 200_000)  # many packets
    planned = [plan(start_step=3), plan((1, 2), steps=25, start_step=25), plan((1, 2), steps=25)]
    assert len(packets(planned[0])) > 20
    for rank in range(2):
        got = list(batches(dataset(planned, rank).iterator(), planned, rank))
        expected = [batch for one in planned for batch in read_locally(one, rank)]
        assert len(got) == len(expected)
        assert all(map(same, got, expected))


def test_a_stream_out_of_order_is_refused(cluster):
    planned = [plan(workers=1)]
    blocks = list(dataset(planned).iterator().iter_batches(batch_size=None, batch_format="pyarrow"))
    assert sum(1 for _ in batches(blocks, planned, 0)) == 50 + 3 * 21
    with pytest.raises(RuntimeError, match="out of order"):
        list(batches([blocks[1], blocks[0], *blocks[2:]], planned, 0))
    with pytest.raises(RuntimeError, match="out of order"):
        list(batches([*blocks, blocks[0]], planned, 0))
    with pytest.raises(RuntimeError, match="ended before"):
        list(batches(blocks[:-1], planned, 0))
