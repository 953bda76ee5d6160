"""An object store as the source of images and as the place of shards."""

import corpus
import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs

from raytransfer.data.plan import plan_stream
from raytransfer.data.reader import read_locally
from raytransfer.data.shards import prepare
from raytransfer.data.verify import verify
from raytransfer.errors import UserError
from raytransfer.folder import Folder


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
