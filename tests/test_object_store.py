"""An object store as the source of images and as the place of shards."""

import threading

import corpus
import pytest
import test_resume as training
from moto.server import ThreadedMotoServer
from pyarrow import fs

from raytransfer.data.plan import plan_stream
from raytransfer.data.reader import read_locally
from raytransfer.data.shards import prepare
from raytransfer.data.verify import verify
from raytransfer.errors import UserError
from raytransfer.folder import Folder
from raytransfer.lease import Lease, LeaseLostError
from raytransfer.results.store import StudyFolder


@pytest.fixture(scope="module")
def store():
    """Gives the URI of a place in a store of this machine's."""
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    options = f"scheme=http&endpoint_override={host}%3A{port}&region=us-east-1"

    def uri(place):
        return f"s3://key:word@bucket/{place}?{options}&allow_bucket_creation=true"

    files, _ = fs.FileSystem.from_uri(uri(""))
    files.create_dir("bucket")
    yield uri
    server.stop()


@pytest.mark.parametrize("layout", ["imagenet_tree", "ilsvrc_tars", "huggingface_parquet"])
def test_shards_are_the_same_in_a_store_and_here(layout, store, tmp_path):
    source = getattr(corpus, layout)(tmp_path / "source")
    files, path = fs.FileSystem.from_uri(store(layout))
    fs.copy_files(str(source), path, destination_filesystem=files)
    there = prepare(store(layout), store(f"{layout}-shards"), size=32)
    assert there.digest == prepare(source, tmp_path / "shards", size=32).digest
    assert not Folder(store(f"{layout}-shards")).names("unfinished")
    assert not verify(store(f"{layout}-shards"), print).problems


def test_a_store_feeds_the_stream_and_tells_no_password(store, tmp_path):
    source = corpus.imagenet_tree(tmp_path / "source")
    place = store("fed")
    prepare(source, place, size=32)
    plan = plan_stream(place, (0, 2), seed=0, batch=4, steps=2, validate_every=2)
    assert sum(len(batch.labels) for batch in read_locally(plan)) == 2 * 4 + plan.val_images
    with pytest.raises(UserError, match=r"^There is no folder s3://bucket/nowhere") as refused:
        prepare(store("nowhere"), tmp_path / "out")
    assert "word" not in str(refused.value)


def test_one_writer_at_a_time_in_a_store_too(store, monkeypatch):
    lease = Lease.acquire(Folder(store("leased")))
    with pytest.raises(UserError, match=r"s3://bucket/leased is being written by process"):
        Lease.acquire(Folder(store("leased")))
    lease.beat()
    monkeypatch.setattr("raytransfer.lease.LEASE_SECONDS", -1.0)
    taken = Lease.acquire(Folder(store("leased")))
    assert (lease.attempt, taken.attempt) == (1, 2)
    with pytest.raises(LeaseLostError, match="another process"):
        lease.beat()
    taken.beat()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = StudyFolder(tmp_path_factory.mktemp("undisturbed"))
    training.train(training.trial_job(training.trial(), training.study_job(folder)))
    return training.outcome(folder)


def test_training_that_ends_goes_on_in_a_store_too(store, undisturbed):
    folder = StudyFolder(store("study"))
    job = training.trial_job(training.trial(), training.study_job(folder))
    with pytest.raises(training.KilledError):
        training.train(job, until=11 + training.VALIDATION)
    job = training.trial_job(training.trial(), training.study_job(folder))
    assert job.cohorts(0)[0][0].stream.start_step in (5, 10)
    training.train(job)
    assert training.outcome(folder) == undisturbed
    assert folder.names("checkpoints") == []


def test_a_store_that_goes_away_is_waited_for(undisturbed):
    """Its connection is refused for a while, and what it held is there again."""
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    root = (
        f"s3://key:word@away/study?scheme=http&endpoint_override={host}%3A{port}"
        "&region=us-east-1&allow_bucket_creation=true"
    )
    fs.FileSystem.from_uri(root)[0].create_dir("away")
    folder = StudyFolder(root)
    servers = [server]

    def come_back():
        servers.append(ThreadedMotoServer("127.0.0.1", port))
        servers[-1].start()

    def go_away():
        server.stop()
        threading.Timer(3.0, come_back).start()

    job = training.trial_job(training.trial(), training.study_job(folder))
    training.train(job, until=6 + training.VALIDATION, action=go_away)
    assert training.outcome(folder) == undisturbed
    assert len(servers) == 2
    servers[-1].stop()
