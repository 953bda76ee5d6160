"""Images to shards and back, and what is said of folders that are not shards."""

import errno
import gzip
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial

import numpy as np
import pytest
from corpus import idx_file
from PIL import Image
from pyarrow import parquet as pq

from raytransfer import folder as folder_module
from raytransfer.data import deal, mapping
from raytransfer.data.manifest import (
    demo_shards,
    mean_colour,
    mean_image,
    read_labels,
    read_manifest,
)
from raytransfer.data.mapping import over_ray
from raytransfer.data.plan import plan_stream
from raytransfer.data.reader import Images, read_locally
from raytransfer.data.shards import prepare as prepare_sized
from raytransfer.data.sources import idx as idx_module
from raytransfer.data.verify import verify
from raytransfer.errors import UserError
from raytransfer.schedule.session import ray_session

# Kept as they are, unless a test says otherwise: most images here are small.
prepare = partial(prepare_sized, size=None)

NUMBERS = {"seed": 0, "batch": 8, "steps": 3, "validate_every": 2}


def write_idx(path, array, zipped):
    data = idx_file(array)
    if zipped:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(data))
    else:
        path.write_bytes(data)


@pytest.fixture
def idx(tmp_path):
    """A folder of IDX files: 330 training and 60 validation images of 6x5 pixels, 3 classes."""
    folder = tmp_path / "idx"
    folder.mkdir()
    random = np.random.default_rng(0)
    for stem, n, zipped in (("train", 330, True), ("t10k", 60, False)):
        images = random.integers(0, 256, (n, 6, 5), dtype=np.uint8)
        write_idx(folder / f"{stem}-images-idx3-ubyte", images, zipped)
        labels = (np.arange(n) % 3).astype(np.uint8)
        write_idx(folder / f"{stem}-labels-idx1-ubyte", labels, zipped)
    return folder


@pytest.fixture
def tree(tmp_path):
    """A tree of images of several sizes: 2 classes of 6 training and 2 validation images."""
    folder = tmp_path / "tree"
    random = np.random.default_rng(1)
    for split, n in (("train", 6), ("val", 2)):
        for name in ("owl", "cat"):
            (folder / split / name).mkdir(parents=True)
            for i in range(n):
                pixels = random.integers(0, 256, (1, 1, 3), dtype=np.uint8)
                pixels = np.broadcast_to(pixels, (20 + i, 30, 3))
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return folder


def pixels_of(manifest, split):
    images = Images(manifest, split, tuple(range(len(manifest.classes))))
    return images.read(np.arange(len(images.labels))), images.labels


def test_idx_files_come_back_pixel_by_pixel(idx, tmp_path):
    manifest = prepare(idx, tmp_path / "out", class_names=["a", "b", "c"])
    assert manifest == read_manifest(tmp_path / "out")
    assert manifest.classes == ("a", "b", "c")
    assert manifest.train_counts == (110, 110, 110)
    assert (manifest.channels, manifest.height, manifest.width) == (1, 6, 5)
    data = gzip.decompress((idx / "train-images-idx3-ubyte.gz").read_bytes())
    original = np.frombuffer(data, np.uint8, offset=16).reshape(-1, 6, 5)
    stored, labels = pixels_of(manifest, "train")
    assert np.array_equal(labels, read_labels(manifest, "train"))
    assert not np.array_equal(labels, np.arange(330) % 3)  # written in random order
    for label in range(3):
        one = {image.tobytes() for image in stored[labels == label]}
        assert one == {image.tobytes() for image in original[label::3]}
    mean = original[np.arange(330) % 3 > 0].mean(axis=0)
    assert np.allclose(mean_image(manifest, [1, 2], 6, 5)[0], mean, atol=1e-3)
    assert np.allclose(mean_colour(manifest, [1, 2]), mean.mean(), atol=1e-3)


def test_several_shards_are_read_as_one(idx, tmp_path, monkeypatch):
    monkeypatch.setattr(deal, "MOST_ROWS", 200)
    manifest = prepare(idx, tmp_path / "many")
    assert [file.rows for file in manifest.train] == [200, 130]
    monkeypatch.undo()
    one = prepare(idx, tmp_path / "one")
    for split in ("train", "val"):
        for many_part, one_part in zip(
            pixels_of(manifest, split), pixels_of(one, split), strict=True
        ):
            assert np.array_equal(many_part, one_part)
    images = Images(manifest, "train", (0, 2))
    assert images.groups.max() == 2 + 2 - 1
    every, labels = pixels_of(one, "train")
    rows = np.array([200, 3, 3, 100])
    assert np.array_equal(images.read(rows), every[np.flatnonzero(labels != 1)[rows]])


def test_a_large_task_is_decoded_as_it_is_used(idx, tmp_path, monkeypatch):
    manifest = prepare(idx, tmp_path / "out")
    kept = list(read_locally(plan_stream(manifest.folder, (0, 1), **NUMBERS)))
    monkeypatch.setattr("raytransfer.data.plan.DECODED_BYTES", 0)
    monkeypatch.setattr("raytransfer.data.reader.ENCODED_BYTES", 0)
    plan = plan_stream(manifest.folder, (0, 1), **NUMBERS)
    assert not plan.kept("train")
    for one, other in zip(kept, read_locally(plan), strict=True):
        assert np.array_equal(one.images, other.images)


def test_images_a_class_can_be_limited(idx, tmp_path):
    manifest = prepare(idx, tmp_path / "out", train_per_class=7, val_per_class=3)
    assert manifest.train_counts == (7, 7, 7)
    assert manifest.val_counts == (3, 3, 3)
    with pytest.raises(UserError, match="class 0 has 20 images, fewer than the 21"):
        prepare(idx, tmp_path / "more", val_per_class=21)


def test_a_tree_is_warped_to_squares(tree, tmp_path):
    manifest = prepare(tree, tmp_path / "out", size=16)
    assert manifest.classes == ("cat", "owl")
    assert (manifest.channels, manifest.height, manifest.width) == (3, 16, 16)
    stored, labels = pixels_of(manifest, "train")
    means = sorted(stored[labels == 1].mean(axis=(2, 3)).tolist())
    colours = [np.asarray(Image.open(p))[0, 0] for p in (tree / "train" / "owl").iterdir()]
    assert np.allclose(means, sorted(c.tolist() for c in colours), atol=3)


def test_a_tree_is_kept_byte_by_byte(tree, tmp_path):
    manifest = prepare(tree, tmp_path / "out")
    assert (manifest.height, manifest.width) == (None, None)
    table = pq.ParquetFile(tmp_path / "out" / manifest.val[0].name).read()
    for row in table.to_pylist():
        assert row["image"] == (tree / row["key"]).read_bytes()
        assert (row["width"], row["height"]) == Image.open(io.BytesIO(row["image"])).size
        assert row["class_name"] == row["key"].split("/")[1] == manifest.classes[row["label"]]
    with pytest.raises(UserError, match="differ in size"):
        plan_stream(str(tmp_path / "out"), (0, 1), **NUMBERS)


def test_unreadable_images_are_named_and_counted(tree, tmp_path):
    (tree / "train" / "cat" / "bad.jpg").write_text("no image")
    whole = (tree / "train" / "cat" / "0.png").read_bytes()
    (tree / "train" / "cat" / "half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"2 of 18 images .* more than the share of 0.001"):
        prepare(tree, tmp_path / "out", size=8)
    manifest = prepare(tree, tmp_path / "out", size=8, max_bad=0.5)
    assert manifest.quarantined == 2
    assert manifest.train_counts == (6, 6)
    lines = (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()
    reasons = {bad["key"]: bad["reason"] for bad in map(json.loads, lines)}
    assert reasons.keys() == {"train/cat/bad.jpg", "train/cat/half.png"}
    assert reasons["train/cat/bad.jpg"] == "not an image"
    assert "truncated" in reasons["train/cat/half.png"]


def test_preparing_again_changes_nothing(idx, tmp_path):
    first = prepare(idx, tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert prepare(idx, tmp_path / "out") == first
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert {path.name for path in times} == {
        "SHA256SUMS",
        "labels.npy",
        "manifest.json",
        "means.npy",
        "train-00000-of-00001.parquet",
        "val-00000-of-00001.parquet",
    }
    with pytest.raises(UserError, match="made otherwise \\(seed differ"):
        prepare(idx, tmp_path / "out", seed=1)
    (tmp_path / "terms").write_text("Anybody may.\n")
    with pytest.raises(UserError, match=r"without this licence: copy .*terms to LICENSE there"):
        prepare(idx, tmp_path / "out", licence=tmp_path / "terms")


def test_a_second_prepare_into_one_folder_is_told_of_the_first(idx, tmp_path):
    out = tmp_path / "out"

    def meanwhile(*_):
        with pytest.raises(UserError, match=rf"out is being written by process {os.getpid()} on"):
            prepare(idx, out)

    manifest = prepare(idx, out, progress=meanwhile)
    assert manifest.digest == prepare(idx, tmp_path / "there").digest
    assert sorted(os.listdir(out)) == sorted(os.listdir(tmp_path / "there"))


@pytest.mark.parametrize("at", [("converting", 100), ("converting", 330), ("writing", 1)])
def test_an_interrupted_prepare_goes_on_to_the_same_bytes(idx, tmp_path, monkeypatch, at):
    monkeypatch.setattr(idx_module, "PART", 60)
    monkeypatch.setattr(deal, "MOST_ROWS", 100)

    def interrupt(doing, done, of):
        if doing == at[0] and done >= at[1]:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        prepare(idx, out, progress=interrupt)
    with pytest.raises(UserError, match="unfinished: run the same"):
        read_manifest(out)
    with pytest.raises(UserError, match="unfinished shards made otherwise \\(seed differ"):
        prepare(idx, out, seed=1)
    (out / "unfinished" / "train-00001.images.77.part").write_bytes(b"of a killed process")
    done = {path: path.stat().st_mtime_ns for path in out.rglob("*.npz")}
    said = []
    again = prepare(idx, out, progress=lambda *told: said.append(told))
    assert done
    assert said[0][1] >= min(at[1], 60)  # what was done is not done again
    assert again.digest == prepare(idx, tmp_path / "other").digest
    assert sorted(path.name for path in out.iterdir()) == [
        "SHA256SUMS",
        "labels.npy",
        "manifest.json",
        "means.npy",
        *(f"train-{i:05d}-of-00004.parquet" for i in range(4)),
        "val-00000-of-00001.parquet",
    ]


def test_a_killed_prepare_goes_on_and_ends_whole(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    (source / "train" / "cat").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(source / "train" / "cat" / "0.jpg")
    shutil.copytree(source / "train", source / "val")
    for i in range(1, 3000):
        os.link(source / "train" / "cat" / "0.jpg", source / "train" / "cat" / f"{i}.jpg")
    command = [sys.executable, "-m", "raytransfer", "prepare", str(source), str(out)]
    running = subprocess.Popen(
        [*command, "--workers", "1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not list(out.rglob("*.npz")):
        assert running.poll() is None
        time.sleep(0.01)
    running.kill()
    running.wait()
    assert not (out / "manifest.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*.npz")}

    def looking(function, jobs):
        yield from map(function, jobs)
        # Runs are there until the shards are written.
        assert all(path.stat().st_mtime_ns == when for path, when in kept.items())

    manifest = prepare_sized(source, out, mapper=looking)
    assert manifest.train_counts == (3000,)
    assert manifest.digest == prepare_sized(source, tmp_path / "whole").digest
    assert not list(out.rglob("*.part"))
    assert not verify(str(out), print).problems


def test_any_worker_writes_the_same_bytes(idx, tmp_path, monkeypatch):
    """Jobs end in another order, in processes that know nothing but the job."""
    monkeypatch.setattr(idx_module, "PART", 60)

    def backwards(function, jobs):
        for job in reversed(jobs):
            yield pickle.loads(pickle.dumps(function(pickle.loads(pickle.dumps(job)))))

    there = prepare(idx, tmp_path / "there", mapper=backwards)
    assert there.digest == prepare(idx, tmp_path / "here").digest


# Ray warns of its own settings when it makes its own context.
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
def test_processes_of_ray_may_be_killed_while_they_write(idx, tmp_path, monkeypatch):
    """One as it is about to name a run, one a shard; others do their work again."""
    monkeypatch.setattr(idx_module, "PART", 60)

    def attacked(function, jobs):
        killed = tmp_path / function.__name__

        def killed_once(job):
            with suppress(FileExistsError):
                os.close(os.open(killed, os.O_CREAT | os.O_EXCL))
                os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
            return function(job)

        yield from over_ray(killed_once, jobs)
        assert killed.exists()

    out = tmp_path / "out"
    monkeypatch.setattr(mapping, "LOSSES", 1)
    with ray_session(2):
        there = prepare(idx, out, mapper=attacked)
        with pytest.raises(UserError, match=r"lost its process 2 times.*the same command goes on"):
            list(over_ray(lambda signal: os.kill(os.getpid(), signal), [signal.SIGKILL]))
        # They give way to others no more than this process does.
        assert list(over_ray(os.nice, [0])) == [os.nice(0)]
    assert there.digest == prepare(idx, tmp_path / "here").digest
    assert sorted(os.listdir(out)) == sorted(os.listdir(tmp_path / "here"))


WITHOUT_RAY = """
import os, signal
from raytransfer.data.mapping import over_ray
from raytransfer.errors import StoppedError
from raytransfer.schedule.session import ray_session, set_environment

set_environment()
try:
    with ray_session(2):
        list(over_ray(lambda signal: os.kill(os.getppid(), signal), [signal.SIGKILL]))
except StoppedError as error:
    print(error.sentence)
"""


@pytest.mark.slow
def test_the_loss_of_ray_is_told():
    """In a process of its own, which Ray itself may end before anything can be said."""

    def said() -> str:
        run = subprocess.run(
            [sys.executable, "-c", WITHOUT_RAY], capture_output=True, text=True, timeout=120
        )
        return run.stdout

    assert any("Ray was lost" in said() for _ in range(3))


def test_a_full_disk_is_told_and_nothing_is_lost(tree, tmp_path, monkeypatch):
    out = tmp_path / "out"
    real = open

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, content):
            raise OSError(errno.ENOSPC, "No space left on device")

    def almost_full(path, mode="r"):
        file = real(path, mode)
        return Full(file) if "val-00000-of" in path else file

    monkeypatch.setattr(folder_module, "open", almost_full, raising=False)
    with pytest.raises(UserError, match=r"out cannot be written: No space left on device"):
        prepare(tree, out, size=8)
    monkeypatch.undo()
    assert not list(out.rglob("*.part"))
    assert prepare(tree, out, size=8).train_counts == (6, 6)


def test_what_is_no_source_is_refused(tmp_path, idx, tree):
    out = tmp_path / "out"
    with pytest.raises(UserError, match="no folder"):
        prepare(tmp_path / "nowhere", out)
    with pytest.raises(UserError, match="which is not ILSVRC2012_img_train"):
        prepare(tmp_path, out)
    with pytest.raises(UserError, match="3 classes: give as many"):
        prepare(idx, out, class_names=["a", "b"])
    with pytest.raises(UserError, match="give no class names"):
        prepare(tree, out, class_names=["a", "b"])
    (idx / "t10k-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x09")
    with pytest.raises(UserError, match="not a whole IDX file"):
        prepare(idx, out)
    (idx / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(UserError, match="lacks t10k-labels"):
        prepare(idx, out)
    shutil.rmtree(tree / "val" / "owl")
    with pytest.raises(UserError, match="differ: owl is in one"):
        prepare(tree, out)
    (tree / "val" / "owl").mkdir()
    with pytest.raises(UserError, match=r"val/owl in .* is empty"):
        prepare(tree, out)
    shutil.rmtree(tree / "val")
    with pytest.raises(UserError, match="none of val, valid, validation beside it"):
        prepare(tree, out)
    assert not out.exists()


def test_a_foreign_folder_is_left_alone(idx, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(UserError, match="not empty and holds no shards"):
        prepare(idx, tmp_path / "mine")
    with pytest.raises(UserError, match="is a file"):
        prepare(idx, tmp_path / "mine" / "thesis.txt")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_what_is_not_shards_is_refused(idx, tmp_path):
    with pytest.raises(UserError, match=r"There is no folder .*nowhere"):
        read_manifest(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty is empty"):
        read_manifest(tmp_path / "empty")
    with pytest.raises(UserError, match=r"idx holds no manifest.json"):
        read_manifest(idx)
    with pytest.raises(UserError, match="is a file"):
        read_manifest(idx / "t10k-labels-idx1-ubyte")
    out = tmp_path / "out"
    manifest = prepare(idx, out)
    shard = out / manifest.val[0].name
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    with pytest.raises(UserError, match=r"damaged, val-00000-of-00001.parquet has"):
        read_manifest(out)
    shard.unlink()
    with pytest.raises(UserError, match=r"incomplete, val-00000-of-00001.parquet is missing"):
        read_manifest(out)
    (out / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be read as a manifest"):
        read_manifest(out)
    (out / "manifest.json").write_text('{"format": 99}')
    with pytest.raises(UserError, match="another format"):
        read_manifest(out)


def test_impossible_plans_are_refused(idx, tmp_path):
    out = str(tmp_path / "out")
    prepare(idx, out)
    for classes, changes, message in (
        ((0, 3), {}, "no class 3 in .* classes 0 to 2"),
        ((1, 0), {}, "increasing order"),
        ((), {}, "increasing order"),
        ((0,), {"workers": 3}, "8 images cannot be shared evenly by 3"),
        ((0,), {"steps": 0}, "steps and validate_every are 1 or more"),
        ((0,), {"start_step": 4}, "start_step is 0 to steps"),
    ):
        with pytest.raises(UserError, match=message):
            plan_stream(out, classes, **{**NUMBERS, **changes})


def test_shards_replaced_under_a_plan_are_refused(idx, tmp_path):
    out = tmp_path / "out"
    prepare(idx, out)
    plan = plan_stream(str(out), (0, 1), **NUMBERS)
    shutil.rmtree(out)
    prepare(idx, out, seed=1)
    with pytest.raises(UserError, match="replaced since"):
        next(read_locally(plan))


def test_the_package_carries_images_and_their_licence():
    manifest = read_manifest(demo_shards())
    assert manifest.classes[0] == "T-shirt/top"
    assert manifest.classes[9] == "Ankle boot"
    assert manifest.train_counts == (1000,) * 10
    assert manifest.val_counts == (500,) * 10
    assert "Zalando SE" in (demo_shards() / "LICENSE").read_text()
