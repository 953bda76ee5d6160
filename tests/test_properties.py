"""Promises that hold for whatever is asked for, tried on numbers that nobody chose."""

import itertools
import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as some

from raytransfer.data.manifest import demo_shards
from raytransfer.data.order import Sequence
from raytransfer.data.plan import plan_stream
from raytransfer.results.intervals import estimate
from raytransfer.results.statistics import summarise
from raytransfer.results.store import StudyFolder, read_study
from raytransfer.results.table import Results, in_study_order, network_row
from raytransfer.study.treatment import Treatment

settings.register_profile("here", deadline=None, derandomize=True)
settings.load_profile("here")

SHARDS = str(demo_shards())
SOURCES = some.sampled_from((None, "A", "B", "R"))


@some.composite
def treatments(draw):
    source = draw(SOURCES)
    return Treatment(
        f"random:{draw(some.integers(0, 999))}",
        draw(some.sampled_from("AB")),
        source,
        0 if source is None else draw(some.integers(1, 7)),
        source in ("A", "B") and draw(some.booleans()),
        draw(some.integers(0, 10**6)),
    )


@some.composite
def runs(draw):
    """Workers, images of a worker's batch, steps, from one validation to the next, start."""
    workers, share = draw(some.integers(1, 8)), draw(some.integers(1, 100))
    steps = draw(some.integers(1, 200))
    start = draw(some.integers(0, steps))
    return workers, workers * share, steps, draw(some.integers(1, 250)), start


def places(workers, batch, steps, every, start):
    """Phase, step and places of every global batch, its workers' shares side by side."""
    plan = plan_stream(
        SHARDS,
        (1, 4),
        seed=0,
        batch=batch,
        steps=steps,
        validate_every=every,
        workers=workers,
        start_step=start,
    )
    packets = [packet for item in plan.items() for packet in plan.packets(*item)]
    lanes = [
        [share for packet in packets for share in plan.shares(packet, rank)]
        for rank in range(workers)
    ]
    return [
        (shares[0].phase, shares[0].step, [p for s in shares for p in range(s.start, s.stop)])
        for shares in zip(*lanes, strict=True)
    ]


@given(runs())
@settings(max_examples=60)
def test_what_a_step_reads_depends_on_no_worker_count_and_no_restart(run):
    workers, batch, steps, every, start = run
    whole = places(1, batch, steps, every, 0)
    resumed = places(workers, batch, steps, every, start)
    assert resumed == [
        found for found in whole if (found[1] >= start if found[0] == "train" else found[1] > start)
    ]
    trained = [p for phase, _, positions in whole if phase == "train" for p in positions]
    assert trained == list(range(steps * batch))
    for _, validation in itertools.groupby(
        (found for found in whole if found[0] == "val"), key=lambda found: found[1]
    ):
        assert [p for _, _, positions in validation for p in positions] == list(range(1000))


@given(some.integers(0, 2**32), some.integers(1, 400), some.integers(1, 30), some.integers(0, 4))
@settings(max_examples=60)
def test_every_epoch_holds_every_image_once(seed, images, in_a_group, epoch):
    sequence = Sequence(seed, np.arange(images) // in_a_group)
    rows = sequence.rows(epoch * images, (epoch + 1) * images)
    assert sorted(rows.tolist()) == list(range(images))


@given(treatments())
def test_every_id_parses_back(treatment):
    assert Treatment.parse(treatment.id) == treatment


@given(some.lists(treatments(), min_size=1, max_size=30, unique=True), some.randoms())
def test_rows_merge_in_any_order_to_the_same_table(networks, chance):
    rows = [network_row(t, state="finished", top1=random.Random(t.id).random()) for t in networks]
    shuffled = list(rows)
    chance.shuffle(shuffled)
    assert in_study_order(shuffled) == in_study_order(rows)
    tables = [
        summarise(Results(in_study_order(some_rows))).to_json() for some_rows in (rows, shuffled)
    ]
    assert tables[0] == tables[1]


@given(some.lists(treatments(), min_size=1, max_size=8, unique=True), some.randoms())
@settings(max_examples=20)
def test_a_study_reads_the_same_in_whatever_order_it_was_written(
    tmp_path_factory, networks, chance
):
    results = []
    for _ in range(2):
        folder = StudyFolder(tmp_path_factory.mktemp("study"))
        folder.write_json("study.json", {"treatments": sorted(t.id for t in networks)})
        chance.shuffle(networks)
        for treatment in networks:
            top1 = random.Random(treatment.id).random()
            folder.write_rows(treatment, [{"step": 1, "top1": top1}])
            folder.finish(treatment, {"state": "finished", "top1": top1}, None)
        results.append(read_study(folder.root))
    assert results[0] == results[1]


@given(some.lists(some.floats(0, 1), min_size=2, max_size=50), some.randoms())
def test_an_interval_depends_on_no_order(values, chance):
    shuffled = list(values)
    chance.shuffle(shuffled)
    first, second = estimate(values), estimate(shuffled)
    assert first.mean == second.mean
    np.testing.assert_allclose([first.low, first.high], [second.low, second.high], atol=1e-12)
