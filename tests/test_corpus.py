"""Every layout gives the same shards, and every hostile image meets its fate."""

import hashlib
import io
import json
import os
import re
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import corpus
import numpy as np
import pytest
from corpus import GREY_LAYOUTS, HOSTILE_CLASSES, JPEG_LAYOUTS, TRAIN, VAL, WORDS, Fate, photographs
from PIL import Image
from pyarrow import parquet as pq

from raytransfer.data.manifest import SPLITS, Manifest, read_manifest
from raytransfer.data.shards import prepare
from raytransfer.errors import UserError

SIZE = 64
FORMATS = {
    "ilsvrc_tars": "ilsvrc",
    "huggingface_parquet": "huggingface",
    "converted_parquet": "huggingface",
    "webdataset": "webdataset",
    "idx": "idx",
    "dotted_idx": "idx",
    "torchvision_idx": "torchvision",
}
"""What a layout is called, where it is not a tree."""


def rows_of(manifest: Manifest, split: str) -> list[dict[str, Any]]:
    """The rows of the train or val shards."""
    files = manifest.train if split == "train" else manifest.val
    return [
        row for file in files for row in pq.read_table(f"{manifest.folder}/{file.name}").to_pylist()
    ]


def images_of(manifest: Manifest) -> Counter[tuple[str, int, str]]:
    """Each stored image by its split, label and bytes."""
    return Counter(
        (split, row["label"], hashlib.sha256(row["image"]).hexdigest())
        for split in SPLITS
        for row in rows_of(manifest, split)
    )


def pixels(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB")).astype(np.float64)


def warped(picture: np.ndarray) -> np.ndarray:
    image = Image.fromarray(picture).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return np.asarray(image).astype(np.float64)


def lying_beside(shards: Path, folder: Path) -> dict[Path, tuple[int, int]]:
    """Every file below a folder but for the shards, with its size and when it was written."""
    found = {}
    for path in folder.rglob("*"):
        if path != shards and shards not in path.parents and path != shards.parent:
            state = path.lstat()
            found[path] = (state.st_size, state.st_mtime_ns)
    return found


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """The shards that every other layout must give, too."""
    folder = tmp_path_factory.mktemp("tree")
    return prepare(corpus.imagenet_tree(folder / "source"), folder / "shards", size=SIZE)


def test_a_tree_gives_its_photographs_under_sorted_labels(tree: Manifest) -> None:
    assert tree.classes == tuple(sorted(WORDS))
    assert tree.train_counts == (TRAIN,) * len(WORDS)
    assert tree.val_counts == (VAL,) * len(WORDS)
    assert (tree.height, tree.width, tree.channels) == (SIZE, SIZE, 3)
    originals = {f"{image.split}/{image.wnid}/{image.name}": image for image in photographs()}
    for split in SPLITS:
        for row in rows_of(tree, split):
            original = originals.pop(row["key"])
            assert original.split == split
            assert (row["label"], row["class_name"]) == (original.label, original.wnid)
            whole = Image.open(io.BytesIO(original.jpeg))
            assert (row["width"], row["height"]) == whole.size
            seen = np.abs(pixels(row["image"]) - warped(np.asarray(whole))).mean()
            # Bilinear as OpenCV does it, and colours halved by JPEG; another image is over 40 off.
            assert seen < 8, row["key"]
    assert not originals


@pytest.mark.parametrize("layout", JPEG_LAYOUTS)
def test_every_layout_gives_the_same_images(layout: str, tree: Manifest, tmp_path: Path) -> None:
    source, shards = JPEG_LAYOUTS[layout](tmp_path / "source"), tmp_path / "shards"
    before = lying_beside(shards, tmp_path)
    manifest = prepare(source, shards, size=SIZE)
    assert lying_beside(shards, tmp_path) == before
    assert images_of(manifest) == images_of(tree)
    assert manifest.train_counts == tree.train_counts
    assert manifest.val_counts == tree.val_counts
    assert manifest.quarantined == 0
    # WebDataset's numbers and Hugging Face's names are all that these know of the classes.
    if FORMATS.get(layout) == "huggingface":
        names = [words.split(",")[0] for words in WORDS.values()]
        assert len(set(manifest.classes)) == len(names)
        pairs = zip(manifest.classes, names, strict=True)
        assert all(name.startswith(words) for name, words in pairs), manifest.classes
    elif layout != "webdataset":
        assert manifest.classes == tree.classes
    named = prepare(source, tmp_path / "named", format=FORMATS.get(layout, "tree"), size=SIZE)
    assert images_of(named) == images_of(tree)


@pytest.mark.parametrize("layout", GREY_LAYOUTS)
def test_idx_files_give_the_same_pixels(layout: str, tmp_path: Path) -> None:
    source = GREY_LAYOUTS[layout](tmp_path / "source")
    manifest = prepare(source, tmp_path / "shards", size=None)
    assert manifest.channels == 1
    for split in SPLITS:
        images, labels = corpus.grey(split)
        expected = Counter(
            (label, image.tobytes()) for label, image in zip(labels, images, strict=True)
        )
        stored = Counter(
            (row["label"], np.asarray(Image.open(io.BytesIO(row["image"]))).tobytes())
            for row in rows_of(manifest, split)
        )
        assert stored == expected


def test_kept_images_keep_their_bytes(tmp_path: Path) -> None:
    for layout in ("imagenet_tree", "ilsvrc_tars", "huggingface_parquet", "webdataset"):
        manifest = prepare(
            JPEG_LAYOUTS[layout](tmp_path / layout), tmp_path / f"{layout} shards", size=None
        )
        assert images_of(manifest) == Counter(
            (image.split, image.label, hashlib.sha256(image.jpeg).hexdigest())
            for image in photographs()
        )


def test_a_seed_gives_the_same_bytes_again(tree: Manifest, tmp_path: Path) -> None:
    source = corpus.imagenet_tree(tmp_path / "source")
    again = prepare(source, tmp_path / "again", size=SIZE)
    assert [file.sha256 for file in again.train] == [file.sha256 for file in tree.train]
    other = prepare(source, tmp_path / "other", size=SIZE, seed=1)
    assert images_of(other) == images_of(tree)
    assert [row["key"] for row in rows_of(other, "train")] != [
        row["key"] for row in rows_of(tree, "train")
    ]


# What is hostile.


def quarantine_of(folder: Path) -> list[dict[str, str]]:
    lines = (folder / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    assert all(line.keys() == {"key", "reason"} for line in found)
    return found


def test_what_is_hostile_in_a_tree_meets_its_fate(tmp_path: Path) -> None:
    source, shards = tmp_path / "source", tmp_path / "shards"
    fates = {fate.key: fate for fate in corpus.hostile_tree(source)}
    before = lying_beside(shards, tmp_path)
    manifest = prepare(source, shards, size=SIZE, max_bad=0.9)
    assert lying_beside(shards, tmp_path) == before
    assert manifest == read_manifest(shards)
    assert manifest.classes == HOSTILE_CLASSES
    assert manifest.val_counts == (1,) * len(HOSTILE_CLASSES)

    rows = {row["key"]: row for row in rows_of(manifest, "train")}
    reasons = {line["key"]: line["reason"] for line in quarantine_of(shards)}
    converted = [key for key, fate in fates.items() if fate.ends == "converted"]
    good = corpus.GOOD * len(HOSTILE_CLASSES)
    assert len(rows) == sum(manifest.train_counts) == len(converted) + good
    for key in converted:
        row = rows[readable(key, rows)]
        assert row["class_name"] == key.split("/")[1]
        picture = fates[key].picture
        assert (row["height"], row["width"]) == picture.shape[:2], key
        seen = np.abs(pixels(row["image"]) - warped(picture)).mean()
        assert seen < 8, f"{key} looks otherwise: {seen:.1f}"
    quarantined = {key for key, fate in fates.items() if fate.ends == "quarantined"}
    assert reasons.keys() == quarantined
    assert manifest.quarantined == len(quarantined)
    for key in quarantined:
        assert fates[key].word in reasons[key].lower(), f"{key}: {reasons[key]}"
        assert reasons[key].strip()


def readable(key: str, stored: dict[str, Any]) -> str:
    """The stored key of a file whose name may not be text: what cannot be read may be spelt
    in any way, but the key must tell the file from all others."""
    if key.isascii() or key.encode(errors="replace").decode() == key:
        return key
    pattern = "".join(
        ".{1,8}" if "\ud800" <= letter <= "\udfff" else re.escape(letter) for letter in key
    )
    (found,) = (other for other in stored if re.fullmatch(pattern, other))
    return found


def test_too_many_bad_images_stop_the_run_with_a_sentence(tmp_path: Path) -> None:
    fates = corpus.hostile_tree(tmp_path / "source")
    with pytest.raises(UserError) as stopped:
        prepare(tmp_path / "source", tmp_path / "shards", size=SIZE)
    said = str(stopped.value)
    assert said.count("\n") == 0
    assert "0.001" in said or "0.1 %" in said
    assert any(fate.key in said for fate in fates if fate.ends == "quarantined"), said
    with pytest.raises(UserError, match="unfinished"):
        read_manifest(tmp_path / "shards")


@pytest.mark.parametrize("form", ["webdataset", "ilsvrc"])
def test_hostile_tars_write_nothing_outside_and_lose_nothing_whole(
    form: str, tmp_path: Path
) -> None:
    source, shards = tmp_path / "deep" / "source", tmp_path / "deep" / "shards"
    write = {"webdataset": corpus.hostile_webdataset, "ilsvrc": corpus.hostile_ilsvrc}[form]
    hostile = write(source)
    before = lying_beside(shards, tmp_path)
    with pytest.raises(UserError, match=r"tar is damaged.*fetch it again.*--max-bad 1\."):
        prepare(source, shards, size=SIZE, max_bad=0.9)
    manifest = prepare(source, shards, size=SIZE, max_bad=1)
    assert lying_beside(shards, tmp_path) == before
    assert not os.path.lexists(tmp_path / "deep" / "outside")

    rows = rows_of(manifest, "train")
    lines = quarantine_of(shards)
    assert sum(manifest.train_counts) == len(rows) == hostile.train
    assert sum(manifest.val_counts) == hostile.val
    assert manifest.quarantined == len(lines)
    for fate in hostile.fates:
        check_member(fate, [row["key"] for row in rows], lines)
    expected = sum(fate.ends == "quarantined" for fate in hostile.fates)
    assert len(lines) == expected, lines


def check_member(fate: Fate, keys: list[str], lines: list[dict[str, str]]) -> None:
    # A key begins with the names of the tars that an image lies in.
    tar = fate.key.endswith(".tar")
    bad = [
        line
        for line in lines
        if fate.key in (line["key"] if tar else line["key"].split(".tar/")[-1])
    ]
    if fate.ends == "converted":
        assert sum(fate.key in key for key in keys) == 1, fate
        assert not bad, fate
    elif fate.ends == "ignored":
        assert not bad, fate
    else:
        (line,) = bad
        assert fate.word in line["reason"].lower(), line


def test_a_duplicate_is_kept_and_told(tmp_path: Path) -> None:
    source = tmp_path / "source"
    corpus.hostile_tree(source)
    manifest = prepare(source, tmp_path / "shards", size=SIZE, max_bad=0.9)
    assert manifest.duplicates == 1
    (line,) = (tmp_path / "shards" / "duplicates.jsonl").read_text().splitlines()
    pair = json.loads(line)
    assert {Path(pair["key"]).name, Path(pair["same_as"]).name} == {
        "first_of_two.JPEG",
        "second_of_two.JPEG",
    }


def test_numbers_are_not_read_with_a_list_in_another_order(tmp_path: Path) -> None:
    """Caffe's synset_words.txt is sorted by name; the numbers count in another order."""
    source = JPEG_LAYOUTS["flat_with_synsets"](tmp_path / "source")
    (source / "synsets.txt").write_text("".join(f"{wnid}\n" for wnid in sorted(WORDS)))
    with pytest.raises(UserError, match=r"lists the classes by name.*add .*meta\.mat"):
        prepare(source, tmp_path / "shards", size=SIZE)


@pytest.mark.parametrize(
    ("labels", "message"),
    [(("0", "1"), "validation images of class 1, and none to train on"), (("-3", "0"), "1 of ")],
)
def test_labels_without_a_list_of_classes_must_fit(
    labels: tuple[str, str], message: str, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for split, label in zip(("train", "val"), labels, strict=True):
        with tarfile.open(source / f"{split}-0.tar", "w") as tar:
            corpus.add(tar, "1.jpg", corpus.encoded(np.zeros((8, 8, 3), np.uint8), "JPEG"))
            corpus.add(tar, "1.cls", label.encode())
    with pytest.raises(UserError, match=message):
        prepare(source, tmp_path / "shards", size=SIZE)
