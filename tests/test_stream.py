"""The stream gives each worker exactly what the plan says, with Ray and without."""

import json
import logging
import shutil
import threading
import time
from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from raytransfer.data import order, reader
from raytransfer.data.decoding import Decoding
from raytransfer.data.manifest import demo_shards, read_manifest
from raytransfer.data.plan import plan_stream
from raytransfer.data.reader import Images, read_locally, read_packet
from raytransfer.data.stream import AHEAD, batches, dataset
from raytransfer.errors import UserError
from raytransfer.schedule.cluster import Layout, check_decoding

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


def large(classes=TASK, **changes):
    """The same, as if it were too large for its pixels to be kept: every use is decoded anew."""
    return replace(plan(classes, **changes), decoded_bytes=0, packet_bytes=100_000)


def test_a_large_task_is_decoded_as_it_is_used():
    assert plan().kept("train")
    assert not large().kept("train")
    for rank in range(2):
        assert all(map(same, read_locally(plan(), rank), read_locally(large(), rank)))


def blocks_of(planned, rank=0):
    """What Ray Data's reading tasks would bring."""
    from raytransfer.data.stream import _read

    items = [{"plan": 0, "first": first, "stop": stop} for first, stop in planned.items()]
    return list(_read(pa.Table.from_pylist(items), [planned], rank))


def decoders():
    return [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("make", [plan, large])
def test_threads_decode_the_same(make, threads):
    got = list(batches(blocks_of(make()), [make()], 0, threads=threads))
    assert all(map(same, got, read_locally(make())))
    assert all(batch.images.flags.writeable for batch in got)
    assert not decoders()


def test_decoding_is_ahead_by_a_few_batches_and_ends_with_the_stream():
    taken = []

    def allocate(size):
        taken.append(size)
        return np.empty(size, np.uint8)

    feed = batches(blocks_of(large()), [large()], 0, threads=2, allocate=allocate)
    next(feed)
    assert len(taken) == AHEAD + 1
    for _ in islice(feed, 40):
        pass
    assert len(taken) <= AHEAD + 3
    assert decoders()
    feed.close()
    assert not decoders()


def with_broken_image(folder, place):
    """A copy of the package's shards in which a training image is broken, and its key."""
    shutil.copytree(demo_shards(), folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (stored,) = manifest["train"]
    table = pq.read_table(folder / stored["name"])
    images = table["image"].to_pylist()
    images[place] = images[place][: len(images[place]) // 2]
    column = pa.array(images, table.schema.field("image").type)
    table = table.set_column(0, table.schema.field("image"), column)
    pq.write_table(table, folder / stored["name"], row_group_size=manifest["row_group"])
    stored["bytes"] = (folder / stored["name"]).stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return table["key"][place].as_py(), table["label"][place].as_py()


def test_a_broken_shard_is_named(tmp_path):
    folder = tmp_path / "shards"
    shutil.copytree(demo_shards(), folder)
    (shard,) = folder.glob("train-*")
    column = pq.ParquetFile(shard).metadata.row_group(0).column(0)
    content = bytearray(shard.read_bytes())
    content[column.data_page_offset : column.data_page_offset + 40] = bytes(40)
    shard.write_bytes(content)
    plan = plan_stream(str(folder), (0,), seed=1, batch=50, steps=20, validate_every=20)
    with pytest.raises(UserError, match=rf"{shard.name} in .* is damaged \(.*\): copy it again"):
        list(read_locally(plan))


def test_a_broken_image_is_named(tmp_path):
    key, label = with_broken_image(tmp_path / "shards", 1234)
    kept = plan_stream(
        str(tmp_path / "shards"), (label,), seed=1, batch=50, steps=20, validate_every=20
    )
    said = f"image {key}, row 1234 of train-.*, cannot be decoded"
    with pytest.raises(UserError, match=said):
        list(read_locally(kept))
    broken = replace(kept, decoded_bytes=0)
    blocks = blocks_of(broken)
    with pytest.raises(UserError, match=said):
        list(batches(blocks, [broken], 0, threads=2))
    assert not decoders()


def paper():
    """The paper's run on a half of ImageNet, in photographs of 20 kB; nothing of it is read."""
    half = replace(plan(), train_images=640_000, val_images=25_000, shape=(3, 256, 256))
    return replace(half, encoded_bytes=20_000, batch=256, steps=450_000, validate_every=20_000)


@pytest.mark.parametrize("workers", [1, 8])
def test_the_longest_run_is_a_bounded_number_of_items(workers):
    planned = replace(paper(), workers=workers)
    start = time.perf_counter()
    items = list(planned.items())
    assert time.perf_counter() - start < 0.1
    assert len(items) <= 1001
    assert [first for first, _ in items] == [0, *(stop for _, stop in items[:-1])]
    assert items[-1][1] == planned.steps
    assert len(list(replace(planned, start_step=planned.steps - 9).items())) == 1
    train = planned.batches_per_packet("train")
    assert train * 256 // workers * 20_000 <= planned.packet_bytes
    for item in (items[0], items[500], items[-1]):
        steps = [p for p in planned.packets(*item) if p.phase == "train"]
        assert sum(p.stop - p.first for p in steps) == item[1] - item[0]
        assert max(p.stop - p.first for p in steps) == train
    validations = [
        packet
        for item in items
        for packet in planned.packets(*item)
        if packet.phase == "val" and packet.first == 0
    ]
    assert [packet.step for packet in validations] == [*range(20_000, 450_000, 20_000), 450_000]


def test_a_resumed_run_reads_no_row_group_of_what_came_before(monkeypatch):
    monkeypatch.setattr(reader, "WHOLE", 8)
    monkeypatch.setattr(order, "WINDOW", 4)
    classes = tuple(range(10))
    for step in (0, 95, 250):  # in epochs 0, 0 and 2
        planned = large(classes, workers=1, steps=300, start_step=step)
        reader._images.cache_clear()
        packet = packets(planned)[0]
        read_packet(planned, packet, 0)
        images, rows = reader._rows(planned, packet, 0)
        assert images.groups_read == len(np.unique(images.groups[rows])) <= 2 * 4
    reader._images.cache_clear()


def test_row_groups_of_large_images_are_read_once_an_epoch(monkeypatch):
    """As many as are mixed are kept, however large they are."""
    manifest = read_manifest(demo_shards())
    monkeypatch.setattr(reader, "ENCODED_BYTES", 21 * manifest.train[0].bytes // 200)
    images = Images(manifest, "train", TASK)
    assert images.whole == 10
    rows = order.Sequence(0, images.groups, images.whole).epoch(0)
    for first in range(0, len(rows), 64):
        images.encoded(rows[first : first + 64])
    assert images.groups_read == 100


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
        address="local",
        num_cpus=4,
        resources={"decoder": 1},
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=256 * 2**20,
    )
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def node(cluster):
    """Ray's id of this machine."""
    return cluster.get_runtime_context().get_node_id()


def test_ray_gives_each_worker_its_part(node, monkeypatch):
    monkeypatch.setattr("raytransfer.data.plan.PACKET_BYTES", 200_000)  # many packets
    planned = [plan(start_step=3), plan((1, 2), steps=25, start_step=25), plan((1, 2), steps=25)]
    assert len(packets(planned[0])) > 20
    for rank in range(2):
        got = list(batches(dataset(planned, rank, node).iterator(), planned, rank))
        expected = [batch for one in planned for batch in read_locally(one, rank)]
        assert len(got) == len(expected)
        assert all(map(same, got, expected))


@pytest.mark.parametrize(
    "decoding", [Decoding(), Decoding("tasks"), Decoding("tasks", "decoder")], ids=str
)
def test_images_decoded_anywhere_are_the_same(node, decoding):
    planned = [large(), plan((1, 2), steps=25)]  # one that travels encoded, one that does not
    expected = [batch for one in planned for batch in read_locally(one, 1)]
    got = list(batches(dataset(planned, 1, node, decoding).iterator(), planned, 1, threads=2))
    assert len(got) == len(expected)
    assert all(map(same, got, expected))


@pytest.mark.parametrize("decoding", [Decoding(), Decoding("tasks")], ids=str)
def test_a_broken_image_is_named_through_ray(node, decoding, tmp_path):
    key, label = with_broken_image(tmp_path / "shards", 77)
    planned = plan_stream(
        str(tmp_path / "shards"), (label,), seed=1, batch=50, steps=20, validate_every=20
    )
    planned = replace(planned, decoded_bytes=0)
    with pytest.raises(Exception, match=f"image {key}, row 77 of"):
        list(batches(dataset([planned], 0, node, decoding).iterator(), [planned], 0))


def test_tasks_that_no_machine_has_cores_for_are_refused(cluster):
    check_decoding(Decoding("tasks"), Layout("cpu", 2, 1, 1, 1))
    with pytest.raises(UserError, match="needs a machine with 3 cores beside those that train"):
        check_decoding(Decoding("tasks"), Layout("cpu", 3, 1, 1, 1))


def test_a_resource_that_no_machine_has_is_refused(cluster):
    one = Layout("cpu", 1, 1, 1, 1)
    check_decoding(Decoding("tasks", "decoder"), one)
    with pytest.raises(UserError, match="has the resource nothing of --decode-resource"):
        check_decoding(Decoding("tasks", "nothing"), one)
    with pytest.raises(UserError, match="for --decode tasks only"):
        Decoding("train", "decoder")


def test_a_stream_out_of_order_is_refused(node):
    planned = [plan(workers=1)]
    stream = dataset(planned, 0, node).iterator()
    blocks = list(stream.iter_batches(batch_size=None, batch_format="pyarrow"))
    assert sum(1 for _ in batches(blocks, planned, 0)) == 50 + 3 * 21
    with pytest.raises(RuntimeError, match="out of order"):
        list(batches([blocks[1], blocks[0], *blocks[2:]], planned, 0))
    with pytest.raises(RuntimeError, match="out of order"):
        list(batches([*blocks, blocks[0]], planned, 0))
    with pytest.raises(RuntimeError, match="ended before"):
        list(batches(blocks[:-1], planned, 0))
