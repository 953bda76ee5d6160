"""Nothing lost, without Ray: training that ends anywhere goes on to the same weights and lines.

`train_trial` runs here, in this process, fed from the demo's shards; what ends it is an exception
in its feed, the end of its lease, or a store that cannot be written.
"""

import itertools
import json
import random
import re
import time
from pathlib import Path

import pytest
import torch
from faults import flip, tear

from raytransfer.data.manifest import demo_shards, read_manifest
from raytransfer.data.reader import read_locally
from raytransfer.errors import StoreError, UserError
from raytransfer.folder import Folder
from raytransfer.lease import Lease, LeaseLostError
from raytransfer.results.store import StudyFolder
from raytransfer.schedule import attempts
from raytransfer.schedule.attempts import StudyJob, innermost, run_to_its_end, trial_job
from raytransfer.schedule.cluster import Layout
from raytransfer.study.plan import Cohort, Trial
from raytransfer.study.recipe import Recipe
from raytransfer.study.split import make_split
from raytransfer.study.treatment import Treatment
from raytransfer.train import loop, patience
from raytransfer.train.checkpoint import Checkpointer
from raytransfer.train.cohort import CohortTrainer
from raytransfer.train.interval import NEVER, Interval

STEPS, EVERY = 12, 5
LABELS = ("baseB", "B2B+", "R3B", "R6B")
RECIPE = Recipe(
    network="small",
    steps=STEPS,
    batch=16,
    validate_every=6,
    learning_rate=0.05,
    schedule="one-cycle",
    dropout=0.3,
    mirror=True,
    pad=2,
)
VALIDATION = -(-2500 // 16)
"""Batches of one."""


class KilledError(Exception):
    """Stands for the end of a process."""


def treatment(label):
    return Treatment.parse(f"random:0.{label}.s0")


def trial(labels=LABELS[:1] + LABELS[2:]):
    return Trial((((Cohort(tuple(map(treatment, labels))),),),))


def study_job(folder, every=EVERY):
    lease = Lease.acquire(folder)
    lease.release()
    shards = str(demo_shards())
    return StudyJob(
        study=folder.uri,
        shards=shards,
        recipe=RECIPE,
        splits={"random:0": make_split("random:0", read_manifest(shards).classes)},
        layout=Layout("cpu", workers=1, lanes=1, threads=1, trials_at_once=1),
        deterministic=True,
        lease=lease.name,
        every=Interval(steps=every) if every else NEVER,
    )


def train(job, until=None, action=None):
    """Train what is left; before batch `until` of this call, do the action (be killed)."""

    def feed():
        plans = [c.stream for stage in job.cohorts(0) for c in stage]
        for i, batch in enumerate(itertools.chain.from_iterable(map(read_locally, plans))):
            if i == until:
                action()
            yield batch

    def killed():
        raise KilledError

    action = action or killed
    torch.set_num_threads(1)
    loop.train_trial(job, feed(), torch.device("cpu"), 0, 0)


def outcome(folder, labels=LABELS[:1] + LABELS[2:]):
    """Hash and lines of every network."""
    return {
        label: (folder.done(treatment(label))["weights_sha256"], folder.rows(treatment(label)))
        for label in labels
    }


@pytest.fixture
def _whole_at_once(monkeypatch):
    """Where the test counts on it that a checkpoint is whole before the next step."""
    save = Checkpointer.save

    def save_and_wait(self, *args):
        save(self, *args)
        self.wait()

    monkeypatch.setattr(Checkpointer, "save", save_and_wait)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = StudyFolder(tmp_path_factory.mktemp("undisturbed"))
    train(trial_job(trial(), study_job(folder, every=0)))
    assert folder.names("checkpoints") == []
    return outcome(folder)


@pytest.fixture
def folder(tmp_path, _whole_at_once):
    return StudyFolder(tmp_path)


def test_rows_say_how_far_each_layer_went(folder):
    train(trial_job(trial(), study_job(folder)))
    for label in LABELS[:1] + LABELS[2:]:
        network = treatment(label)
        done = folder.done(network)
        went = [done[f"moved_{layer}"] for layer in range(1, 9)]
        assert all(way == 0 for way in went[: network.frozen_layers])
        assert all(0 < way < 100 for way in went[network.frozen_layers :])


def goes_on(folder, undisturbed, start_step):
    job = trial_job(trial(), study_job(folder))
    assert {c.stream.start_step for c in job.cohorts(0)[0]} == {start_step}
    train(job)
    assert outcome(folder) == undisturbed
    assert folder.names("checkpoints") == []


@pytest.mark.parametrize(
    ("batch", "start_step"),
    [
        (0, 0),  # before the first
        (4, 0),  # one before the first checkpoint
        (5, 5),  # right after it
        (6, 5),  # in a validation
        (6 + VALIDATION // 2, 5),
        (6 + VALIDATION, 5),  # its end
        (6 + VALIDATION + 4, 10),  # after a checkpoint of the second half, its sums not yet told
        (12 + VALIDATION + 3, 10),  # in the last validation
    ],
)
def test_training_that_ends_anywhere_goes_on_to_the_same(folder, undisturbed, batch, start_step):
    with pytest.raises(KilledError):
        train(trial_job(trial(), study_job(folder)), until=batch)
    goes_on(folder, undisturbed, start_step)


def test_training_may_end_again_and_again(folder, undisturbed):
    for batch in (7, 3, 200, 1):
        with pytest.raises(KilledError):
            train(trial_job(trial(), study_job(folder, every=2)), until=batch)
    train(trial_job(trial(), study_job(folder, every=2)))
    assert outcome(folder) == undisturbed


def test_what_is_left_of_a_cohort_goes_on_in_other_cohorts(folder, undisturbed):
    """A network's checkpoint is its own: some are finished, the others are packed otherwise."""
    with pytest.raises(KilledError):
        train(trial_job(trial(), study_job(folder)), until=8 + VALIDATION)
    for labels in (("R6B",), ("baseB", "R3B")):
        job = trial_job(trial(labels), study_job(folder))
        assert [c.stream.start_step for c in job.cohorts(0)[0]] == [5]
        train(job)
    assert outcome(folder) == undisturbed


def test_old_checkpoints_are_deleted(folder):
    with pytest.raises(KilledError):
        train(trial_job(trial(), study_job(folder, every=1)), until=6 + VALIDATION + 4)
    names = sorted(name for name in folder.names("checkpoints") if name.endswith(".json"))
    assert [int(name[-14:-5]) for name in names] == [9, 10]
    assert len(folder.names("checkpoints")) == 4


def broken(path, how):
    if how == "torn":
        tear(path)
    elif how == "altered":
        flip(path, bit=8 * (path.stat().st_size // 2))
    elif how == "gone":
        path.unlink()
    else:
        path.write_text(how)


@pytest.mark.parametrize(
    ("file", "how", "told"),
    [
        ("*10/random:0.R3B.s0.safetensors", "torn", "random:0.R3B.s0 .* sha256 differs"),
        ("*10/random:0.R3B.s0.safetensors", "altered", "random:0.R3B.s0 .* sha256 differs"),
        ("*10/random:0.R3B.s0.safetensors", "gone", "random:0.R3B.s0 .* are missing"),
        ("*10.json", "torn", "10.json .* is not readable JSON"),
        ("*10.json", '{"step": 3}', "10.json is not one"),
        ("*10.json", "[" * 100_000, "10.json .* is not readable JSON"),
        ("*10.json", "gone", None),  # the same as one that was never finished
    ],
)
def test_a_damaged_checkpoint_is_named_and_passed_over(folder, undisturbed, file, how, told):
    with pytest.raises(KilledError):
        train(trial_job(trial(), study_job(folder)), until=11 + VALIDATION)
    (path,) = Path(folder.path).glob(f"checkpoints/{file}")
    broken(path, how)
    goes_on(folder, undisturbed, 5)
    said = [sentence for _, sentence in folder.events()]
    assert bool(told) == bool(said)
    for sentence in said:
        assert re.search(f"{told}.*passed over", sentence)


def test_a_study_that_is_told_to_stop_saves_and_ends(folder, undisturbed, monkeypatch):
    monkeypatch.setattr("raytransfer.train.control.PROGRESS_SECONDS", 0.01)
    job = study_job(folder, every=0)
    lease = Lease(folder, job.lease)

    def stop():
        lease._told = folder.read_json(f"attempts/{job.lease}")
        lease.stop()
        time.sleep(0.3)
        lease.release()

    train(trial_job(trial(), job), until=8 + VALIDATION, action=stop)
    assert folder.done(treatment("baseB")) is None
    goes_on(folder, undisturbed, 9)


def test_who_lost_the_study_writes_nothing_more(folder, monkeypatch):
    monkeypatch.setattr("raytransfer.train.control.PROGRESS_SECONDS", 0.01)
    lost = trial_job(trial(), study_job(folder))
    before = {}

    def taken_over():
        Lease.acquire(StudyFolder(folder.root))
        before.update({p: p.stat().st_mtime_ns for p in Path(folder.path).rglob("*/*")})

    with pytest.raises(LeaseLostError):
        train(lost, until=6 + VALIDATION, action=taken_over)
    written = {p for p in Path(folder.path).rglob("*/*") if p.stat().st_mtime_ns != before.get(p)}
    # One line of progress may have been on its way.
    assert {path.parts[len(Path(folder.path).parts)] for path in written} <= {"trials"}


def test_a_store_that_fails_for_a_while_is_waited_for(folder, undisturbed, monkeypatch):
    monkeypatch.setattr(patience, "PAUSE_SECONDS", 0.001)
    fails = random.Random(0)
    write = Folder.write

    def unsteady(self, name, content):
        if not name.startswith(("trials", "attempts")) and fails.random() < 0.5:
            raise StoreError("The disk is full.")
        write(self, name, content)

    job = trial_job(trial(), study_job(folder))
    monkeypatch.setattr(Folder, "write", unsteady)
    train(job)
    assert outcome(folder) == undisturbed


def test_a_store_that_stays_away_ends_training_and_harms_nothing(folder, undisturbed, monkeypatch):
    monkeypatch.setattr(patience, "PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(patience, "PATIENCE_SECONDS", 0.05)
    write = Folder.write

    def full(self, name, content):
        if name.startswith("networks"):
            raise StoreError("The disk is full.")
        write(self, name, content)

    job = trial_job(trial(), study_job(folder))
    with monkeypatch.context() as now:
        now.setattr(Folder, "write", full)
        with pytest.raises(StoreError, match="full"):
            train(job)
    goes_on(folder, undisturbed, 5)


def test_a_network_that_cannot_be_built_fails_alone(folder, undisturbed):
    """Its parent's weights were altered; the others' weights are what they are without it."""
    base = treatment("baseB")
    train(trial_job(trial(("baseB",)), study_job(folder)))
    broken(Path(folder.path) / "networks" / base.id / "weights.safetensors", "altered")
    train(trial_job(trial(LABELS), study_job(folder)))
    failed = folder.done(treatment("B2B+"))
    assert failed["state"] == "failed"
    assert "baseB.s0, which it copies from, are not those that were written" in failed["reason"]
    assert outcome(folder) == undisturbed


# A trial's tries.


def tried(folder, monkeypatch, fit, labels=LABELS[:1] + LABELS[2:]):
    monkeypatch.setattr(attempts, "fit", fit)
    return run_to_its_end(trial(labels), study_job(folder))


def test_a_cohort_too_large_for_memory_is_split_and_goes_on(folder, undisturbed, monkeypatch):
    sizes = []

    def fit(job):
        sizes.append([len(c.cohort.treatments) for c in job.cohorts(0)[0]])
        if job.largest > 1:
            until = 7 if len(sizes) == 1 else None
            step = CohortTrainer.step

            def larger(self, *args):
                if until is not None and args[0] == 6:
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
                step(self, *args)

            with monkeypatch.context() as now:
                now.setattr(CohortTrainer, "step", larger)
                train(job)
        else:
            train(job)

    assert tried(folder, monkeypatch, fit) is None
    assert sizes == [[3], [2, 1]]
    assert outcome(folder) == undisturbed
    (sentence,) = [sentence for _, sentence in folder.events()]
    assert sentence == "Memory was not enough for 3 networks at a time: going on with 2."


def test_a_trial_that_gets_on_may_fail_as_often_as_it_does(folder, undisturbed, monkeypatch):
    ends = iter([5, 11 + VALIDATION, 2, 1, None])
    # Each but the last two finds a newer checkpoint; those two are within the tries.

    def fit(job):
        train(job, until=next(ends))

    assert tried(folder, monkeypatch, fit) is None
    assert next(ends, "none") == "none"
    assert outcome(folder) == undisturbed
    assert all("was lost (KilledError)" in sentence for _, sentence in folder.events())


def test_a_trial_that_never_gets_on_ends_with_its_cause(folder, monkeypatch):
    calls = []

    def fit(job):
        calls.append(job)
        raise RuntimeError("first line\nthe GPU fell off the bus.")

    reason = tried(folder, monkeypatch, fit)
    assert reason.endswith("failed 3 times without getting on, at last: the GPU fell off the bus.")
    assert len(calls) == 3


def test_a_trial_of_a_study_taken_over_ends(folder, monkeypatch):
    def fit(job):
        Lease.acquire(StudyFolder(folder.root))
        raise RuntimeError("lost")

    assert "another process has taken over" in tried(folder, monkeypatch, fit)


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("OutOfMemoryError: task was killed due to the node running low"), True),
        (RuntimeError("(1) the process was killed by the OOM killer due to high memory"), False),
        (RuntimeError("connection lost"), False),
    ],
)
def test_a_lost_process_is_not_taken_for_one_short_of_memory(error, short):
    assert attempts._out_of_memory(error) == short


@pytest.mark.parametrize(
    ("lanes", "why"),
    [
        ([], "its processes have not begun; are there cores or GPUs free for them?"),
        ([("training", 0), ("waiting for images", 60)], "a training process does not answer."),
        ([("waiting for images", 0)], "no images came; are there cores free to read them"),
        ([("waiting for images", 0), ("training", 0)], "a step of training did not end."),
    ],
)
def test_what_a_stuck_trial_waits_for_is_said_as_far_as_it_is_known(lanes, why):
    said = [{"doing": doing, "time": time.time() - age} for doing, age in lanes]
    assert attempts._why(said).startswith(why)


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("500", Interval(steps=500)),
        ("90s", Interval(seconds=90)),
        ("5m", Interval(seconds=300)),
        ("1h", Interval(seconds=3600)),
        ("never", NEVER),
    ],
)
def test_intervals_are_read_as_they_are_written(text, interval):
    assert Interval.parse(text) == interval
    assert not interval.over(1, 1.0)
    assert interval.over(10**9, 1e9) == (interval != NEVER)


@pytest.mark.parametrize("text", ["0", "", "-1", "5 minutes", "1.5h", "0m", "m"])
def test_an_interval_that_makes_no_sense_is_refused(text):
    with pytest.raises(UserError, match="--checkpoint-every is a number of steps, or a time"):
        Interval.parse(text)


def test_a_checkpoint_says_in_json_all_that_is_not_a_tensor(folder):
    with pytest.raises(KilledError):
        train(trial_job(trial(), study_job(folder)), until=6)
    (path,) = Path(folder.path).glob("checkpoints/*.json")
    said = json.loads(path.read_text())
    assert said["step"] == 5
    assert said["networks"].keys() == {treatment(label).id for label in LABELS[:1] + LABELS[2:]}


def test_the_cause_of_an_end_is_not_what_ray_data_adds():
    said = (
        "shard.parquet is damaged (x): copy it.\n"
        "Failed to map rows after 1/3 attempts (total backoff 0.0s).\n"
        "To change retry attempts, configure `ray.data.DataContext.get_current()`."
    )
    assert innermost(RuntimeError(said)) == "shard.parquet is damaged (x): copy it"
    assert innermost(RuntimeError("one\ntwo.\n")) == "two"
    assert innermost(RuntimeError("")) == "RuntimeError"
