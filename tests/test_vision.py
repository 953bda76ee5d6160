"""torchvision's data sets by their names, from files that are there already."""

import io

import corpus
import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet as pq
from torchvision import datasets

from raytransfer.cli import main
from raytransfer.data.manifest import read_manifest
from raytransfer.data.shards import prepare
from raytransfer.data.sources.vision import _open
from raytransfer.errors import UserError


@pytest.fixture(autouse=True)
def opened_anew():
    _open.cache_clear()


def pixels_by_label(shards):
    """Label and pixels of every training image of some shards, sorted."""
    rows = [
        row
        for file in read_manifest(shards).train
        for row in pq.read_table(shards / file.name).to_pylist()
    ]
    images = (np.asarray(Image.open(io.BytesIO(row["image"]))) for row in rows)
    return sorted((row["label"], image.tobytes()) for row, image in zip(rows, images, strict=True))


def test_a_grey_set_by_its_name_has_the_pixels_of_its_files(tmp_path, capsys):
    random = np.random.default_rng(0)
    labels = np.arange(20, dtype=np.uint8) % 10
    for stem in ("t10k", "train"):
        images = random.integers(0, 256, (20, 28, 28), dtype=np.uint8)
        raw = tmp_path / "root" / "FashionMNIST" / "raw"
        corpus.write(raw / f"{stem}-images-idx3-ubyte", corpus.idx_file(images))
        corpus.write(raw / f"{stem}-labels-idx1-ubyte", corpus.idx_file(labels))
    words = ("prepare", "FashionMNIST", str(tmp_path / "shards"), "--size", "keep")
    assert main([*words, "--format", "torchvision", "--root", str(tmp_path / "root")]) == 0
    assert "FashionMNIST: torchvision, 10 classes" in capsys.readouterr().err
    manifest = read_manifest(tmp_path / "shards")
    assert manifest.classes[:2] == ("T-shirt/top", "Trouser")
    assert manifest.channels == 1
    expected = sorted(
        (int(label), image.tobytes()) for label, image in zip(labels, images, strict=True)
    )
    assert pixels_by_label(tmp_path / "shards") == expected


def test_a_colour_set_by_its_name_has_the_photographs_of_its_files(tmp_path, monkeypatch):
    """One whose classes have several words each; its root may be named from where one is."""
    names = {"n01440764": "tench, Tinca tinca", "n03888257": "parachute, chute"}
    random = np.random.default_rng(0)
    expected = []
    for split, count in (("train", 3), ("val", 2)):
        for label, wnid in enumerate(names):
            folder = tmp_path / "data" / "imagenette2" / split / wnid
            folder.mkdir(parents=True)
            for i in range(count):
                noise = random.integers(0, 256, (20, 30, 3), dtype=np.uint8)
                Image.fromarray(noise).save(folder / f"{i}.JPEG")
                if split == "train":
                    seen = np.asarray(Image.open(folder / f"{i}.JPEG"))
                    expected.append((label, seen.tobytes()))
    monkeypatch.chdir(tmp_path)
    manifest = prepare("Imagenette", tmp_path / "shards", format="torchvision", size=None)
    assert manifest.classes == tuple(names.values())
    assert (manifest.train_counts, manifest.val_counts) == ((3, 3), (2, 2))
    assert pixels_by_label(tmp_path / "shards") == sorted(expected)


def test_files_that_are_missing_and_cannot_be_fetched_are_told(tmp_path, monkeypatch):
    def no_network(*_, **__):
        raise OSError("the network is unreachable")

    monkeypatch.setattr(datasets.cifar, "download_and_extract_archive", no_network)
    with pytest.raises(UserError, match=r"^torchvision's CIFAR10 is not in .*unreachable.*--root"):
        prepare("CIFAR10", tmp_path / "shards", format="torchvision", root=str(tmp_path))


# torchvision's Kitti leaves an image's file open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("CIFAR11", "torchvision has no data set 'CIFAR11'; some that it has are CIFAR10"),
        ("ImageFolder", "torchvision's ImageFolder has no training and validation split"),
        ("Kitti", "torchvision's Kitti is not a set of images of one class each"),
    ],
)
def test_what_is_no_set_of_images_of_one_class_each_is_told(name, message, tmp_path):
    for part in ("training", "testing"):
        image = corpus.encoded(np.zeros((8, 8, 3), np.uint8), "PNG")
        corpus.write(tmp_path / "Kitti" / "raw" / part / "image_2" / "000000.png", image)
        corpus.write(tmp_path / "Kitti" / "raw" / part / "label_2" / "000000.txt", b"")
    with pytest.raises(UserError, match=message):
        prepare(name, tmp_path / "shards", format="torchvision", root=str(tmp_path))
