"""Nothing lost, through Ray: whatever is killed, a study comes to the same weights."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from corpus import idx_file
from faults import Chaos, drop_store, fill_disk, kill, outcome, pause, terminate
from hosts import free_port
from pyarrow import fs

from raytransfer.cli import main
from raytransfer.data.shards import prepare
from raytransfer.errors import UserError
from raytransfer.lease import Lease
from raytransfer.results.store import StudyFolder, read_study

SPACE = """
from raytransfer.study.recipe import Recipe
from raytransfer.study.treatment import Treatment

recipe = Recipe(
    network="small", steps=300, batch=32, validate_every=150, learning_rate=0.02,
    schedule="one-cycle", dropout=0.1, mirror=True, pad=2,
)


def treatments():
    yield Treatment("random:0", "B", "A", 3)
    yield Treatment("random:0", "B", "A", 7)
    yield Treatment("random:0", "B", "B", 2, finetuned=True)
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """IDX files of ten classes."""
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for stem, count in (("train", 2000), ("t10k", 500)):
        pixels = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(idx_file(pixels))
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(idx_file(labels))
    return folder


@pytest.fixture(scope="module")
def space(tmp_path_factory, images):
    """A space, with shards beside it."""
    path = tmp_path_factory.mktemp("space") / "few.py"
    path.write_text(SPACE)
    prepare(images, path.with_name("shards"), size=None)
    return path


def command(space, study, *options, shards=None):
    data = ("--data", shards or space.with_name("shards"), "--study", study)
    return ("run", space, *data, "--deterministic", "--checkpoint-every", "50", *options)


@pytest.fixture(scope="module")
def undisturbed(space):
    return calm(space, space.parent / "undisturbed")


def check(chaos, study, undisturbed):
    """Every fault happened, and none left a trace."""
    assert chaos.outcomes[-1] == 0, chaos.said
    assert chaos.happened == chaos.faults
    assert outcome(study) == undisturbed
    assert set(chaos.ends.values()) <= {1}, chaos.ends
    assert StudyFolder(study).names("checkpoints") == []
    assert "Traceback" not in chaos.said


def calm(space, study, *options):
    words = [sys.executable, "-m", "raytransfer", *map(str, command(space, study, *options))]
    subprocess.run(words, check=True, capture_output=True, timeout=240)
    return outcome(study)


def attacked(space, undisturbed, folder, faults, *options, starts=1, **environment):
    """A study that came to the same, whatever happened to its command."""
    study = folder / "study"
    chaos = Chaos(folder / "chaos", command(space, study, *options), faults, **environment)
    chaos.run(starts)
    check(chaos, study, undisturbed)
    return chaos


def test_processes_of_a_trial_may_be_lost_at_any_moment(space, undisturbed, tmp_path):
    """One command, which goes on by itself."""
    faults = [
        kill("trial", at="step 70"),
        kill("worker", at="validation"),
        kill("worker", at="write checkpoints/"),
        kill("worker", at="write B.s0/weights"),
    ]
    chaos = attacked(space, undisturbed, tmp_path, faults)
    assert "A trial was lost" in chaos.said


def test_the_command_and_rays_head_may_be_lost_at_any_moment(space, undisturbed, tmp_path):
    """The same command again, until it is done."""
    faults = [
        # One lane comes to all of them: the other, beside it, would not wait.
        kill("driver", at="step 60 of baseB"),
        terminate("driver", at="step 120 of baseB"),
        kill("gcs", at="step 260 of baseB"),
        kill("raylet", at="step 120 of A7B"),
    ]
    soon = {
        # The head asks its machines more often than every three seconds, and not five times.
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_failure_threshold": "3",
    }
    chaos = attacked(space, undisturbed, tmp_path, faults, starts=len(faults) + 1, **soon)
    assert chaos.outcomes[:3] == [-signal.SIGKILL, 75, 75], chaos.said
    # A trial may go on for a while without Ray's head, to the next fault.
    assert chaos.outcomes[3:-1] in ([], [75]), chaos.said
    assert "stopped and saved; the same command goes on" in chaos.said, chaos.said
    assert "Ray's processes on this machine were lost; the same command goes on" in chaos.said, (
        chaos.said
    )


@pytest.mark.slow
def test_the_first_of_two_ranks_may_be_lost(tmp_path):
    """They share every batch, and the first writes for both."""
    space = tmp_path / "base.py"
    networks = SPACE.index("    yield")
    space.write_text(SPACE[:networks] + '    yield Treatment("random:0", "B")\n')
    options = ("--workers", 2)
    faults = [kill("worker", at="step 120 of rank 0")]
    attacked(space, calm(space, tmp_path / "calm", *options), tmp_path, faults, *options)


@pytest.fixture
def store(tmp_path):
    """An object store in a process of its own: its number, and what gives the URI of a folder."""
    port = free_port()
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (
        (tmp_path / "store.log").open("w") as log,
        subprocess.Popen(words, stdout=log, stderr=log) as running,
    ):
        options = f"scheme=http&endpoint_override=127.0.0.1%3A{port}&region=us-east-1"

        def uri(folder):
            return f"s3://key:word@bucket/{folder}?{options}&allow_bucket_creation=true"

        deadline = time.monotonic() + 60
        while True:
            try:
                fs.FileSystem.from_uri(uri(""))[0].create_dir("bucket")
                break
            except OSError:
                assert time.monotonic() < deadline
        yield running.pid, uri
        running.kill()


def test_all_of_a_study_may_lie_in_an_object_store(space, images, undisturbed, tmp_path, store):
    """Its images, shards and results; its driver is killed, and later the store does not answer."""
    number, uri = store
    files, path = fs.FileSystem.from_uri(uri("images"))
    fs.copy_files(str(images), path, destination_filesystem=files)
    assert main(["prepare", uri("images"), uri("shards"), "--size", "keep"]) == 0
    study = uri("study")
    faults = [kill("driver", at="step 80"), drop_store(at="step 125 of A7B")]
    run = command(space, study, shards=uri("shards"))
    chaos = Chaos(tmp_path / "chaos", run, faults)
    (chaos.folder / "store.pid").write_text(str(number))
    chaos.run(starts=2)
    check(chaos, study, undisturbed)
    assert chaos.outcomes == [-signal.SIGKILL, 0]
    assert main(["report", study, "--out", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "5 of 5 networks are finished" in page
    assert 'alt="8 filters of random:0.baseB.s0"' in page
    assert "key:word" not in page


def test_a_paused_driver_that_wakes_after_a_takeover_stops(space, undisturbed, tmp_path):
    study = tmp_path / "study"
    lease = {"RAYTRANSFER_CHAOS_LEASE": "6"}
    faults = [pause("driver", at="step 60")]
    chaos = Chaos(tmp_path / "chaos", command(space, study), faults, **lease)
    first = chaos.start()
    while not chaos.happened:
        assert first.poll() is None
        time.sleep(0.1)
    with pytest.raises(UserError, match=rf"being written by process {first.pid} on .* since"):
        Lease.acquire(StudyFolder(study))
    time.sleep(6)
    second = Chaos(tmp_path / "second", command(space, study), [], **lease)
    running = second.start()
    while not any(name > "000002" for name in os.listdir(study / "attempts")):
        assert running.poll() is None
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGCONT)
    assert chaos.end(first) == 2, chaos.said
    assert "another process has taken over the study" in chaos.said
    second.end(running)
    check(second, study, undisturbed)
    assert {row["state"] for row in read_study(study).networks} == {"finished"}


@pytest.fixture
def small_disk(tmp_path):
    """A disk of a few megabytes, for the study alone."""
    disk = tmp_path / "study"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_is_waited_for_and_a_worker_that_hangs_is_started_again(
    space, undisturbed, tmp_path, small_disk
):
    faults = [fill_disk(at="step 125"), pause("worker", at="step 180")]
    disk = {"RAYTRANSFER_CHAOS_DISK": str(small_disk)}
    chaos = attacked(space, undisturbed, tmp_path, faults, "--stuck-after", 20, **disk)
    assert re.search(r"study cannot be written: No space left on device\. Training w", chaos.said)
    assert re.search(r"stuck for 20 seconds, and is started again: a training process", chaos.said)
