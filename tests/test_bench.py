"""What `bench stream` says."""

import re

import pytest

from raytransfer.cli import main
from raytransfer.data.manifest import demo_shards, read_manifest
from raytransfer.data.order import Sequence
from raytransfer.data.plan import epoch_traffic, plan_stream
from raytransfer.data.reader import Images

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")


def test_the_stream_is_measured_beside_its_decoder_and_a_pytorch_loader(monkeypatch, capsys):
    monkeypatch.setattr("raytransfer.schedule.bench.WARM_SECONDS", 0.1)
    monkeypatch.setattr("raytransfer.schedule.bench.IN_MEMORY", 100)
    small = ["--batch", "20", "--seconds", "0.3", "--repeats", "1"]
    assert main(["bench", "stream", "--data", str(demo_shards()), *small]) == 0
    said = capsys.readouterr()
    rates = dict(
        re.findall(r"^ (stream|decoder alone|PyTorch DataLoader) +([\d,]+) ", said.out, re.M)
    )
    assert len(rates) == 3
    assert all(int(rate.replace(",", "")) > 0 for rate in rates.values())
    assert "28x28, grey" in said.out
    assert "decoded once, and kept" in said.out
    assert re.search(r"reads \d\.\d MB .* uses \d\.\d MB and throws \d\.\d MB away", said.out)
    assert "INFO" not in said.err


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (("--seconds", "0"), "--seconds is more than 0, not 0"),
        (("--batch", "0"), "batch and workers are 1 or more"),
        (("--data", "nowhere"), "There is no folder nowhere"),
    ],
)
def test_what_cannot_be_measured_is_refused(setting, message, capsys):
    given = ["bench", "stream", "--data", str(demo_shards())]
    assert main([*given, *setting]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("classes", [(3,), (0, 2, 4, 6, 8), tuple(range(10))])
@pytest.mark.parametrize("workers", [1, 2])
def test_what_an_epoch_reads_is_what_is_counted(classes, workers):
    plan = plan_stream(
        str(demo_shards()), classes, seed=0, batch=10, steps=1, validate_every=1, workers=workers
    )
    manifest = read_manifest(demo_shards())
    size, groups = manifest.train[0].bytes, 100
    images = Images(manifest, "train", classes)
    rows = Sequence(0, images.groups).epoch(0)
    read = 0
    for rank in range(workers):
        one = Images(manifest, "train", classes)
        one.encoded(rows.reshape(-1, workers, 10 // workers)[:, rank].ravel())
        read += one.groups_read * size // groups
    traffic = epoch_traffic(plan)
    assert traffic.read == pytest.approx(read, rel=0.02)
    assert traffic.used == pytest.approx(size * len(classes) / 10)
    assert traffic.thrown_away == traffic.read - traffic.used
