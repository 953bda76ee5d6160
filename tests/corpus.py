"""Small sources of real photographs, in every layout that `prepare` reads, and hostile ones.

    python tests/corpus.py FOLDER

writes all of it for a person to look at, and prints what shall become of each hostile image.

The photographs are cut at random, from a seed, out of the two that scikit-learn carries. All
layouts hold the same ones, under real wnids: two of these classes are both called "crane".
"""

import io
import json
import os
import shutil
import stat
import struct
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pyarrow as pa
import scipy.io
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet as pq
from sklearn.datasets import load_sample_images

Pixels = NDArray[np.uint8]
"""[height, width, 3]."""

WORDS = {
    "n01440764": "tench, Tinca tinca",
    "n01443537": "goldfish, Carassius auratus",
    "n01484850": "great white shark, white shark, man-eater, man-eating shark",
    "n01491361": "tiger shark, Galeocerdo cuvieri",
    "n01494475": "hammerhead, hammerhead shark",
    "n01496331": "electric ray, crampfish, numbfish, torpedo",
    "n02012849": "crane",
    "n03126707": "crane",
}
"""wnid to name, of ImageNet. In the order of labels: ASCII order of the wnids."""

ABOVE = {"n01439121": "animal", "n01482330": "shark", "n03563460": "hoisting device"}
"""Synsets that hold no images themselves, as meta.mat lists them after the others."""

ID_ORDER = tuple(sorted(WORDS, key=lambda wnid: wnid[::-1]))
"""The order of the development kit, which numbers classes from 1, is another one."""

TRAIN, VAL = 6, 2
"""Photographs of each class."""


@dataclass(frozen=True)
class Photograph:
    split: Literal["train", "val"]
    wnid: str
    name: str
    """Of its file, as in ImageNet; a validation image's does not tell its class."""
    jpeg: bytes

    @property
    def label(self) -> int:
        return tuple(WORDS).index(self.wnid)


def cut(random: np.random.Generator, width: int, height: int) -> Pixels:
    """A random part of a photograph, perhaps mirrored, at a size that is asked for."""
    whole = _originals()[random.integers(2)]
    share = random.uniform(0.3, 0.9)
    tall, wide = (int(side * share) for side in whole.shape[:2])
    top, left = (
        random.integers(have - want) for have, want in zip(whole.shape, (tall, wide), strict=False)
    )
    part = Image.fromarray(whole[top : top + tall, left : left + wide])
    if random.random() < 0.5:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(part.resize((width, height), Image.Resampling.BICUBIC))


@lru_cache
def _originals() -> list[Pixels]:
    return [np.ascontiguousarray(image) for image in load_sample_images().images]


@lru_cache
def photographs(seed: int = 0, train: int = TRAIN, val: int = VAL) -> tuple[Photograph, ...]:
    """So many photographs of each class, of about 500x375 pixels and 50 kB as in ImageNet."""
    random = np.random.default_rng([seed, 1])

    def take() -> bytes:
        width, height = (int(side * random.uniform(0.8, 1.2)) for side in (500, 375))
        if random.random() < 0.25:
            width, height = height, width
        return encoded(cut(random, width, height), "JPEG", quality=90)

    made = [
        Photograph("train", wnid, f"{wnid}_{i + 1}.JPEG", take())
        for wnid in WORDS
        for i in range(train)
    ]
    wnids = random.permutation([wnid for wnid in WORDS for _ in range(val)]).tolist()
    made += [
        Photograph("val", wnid, f"ILSVRC2012_val_{i + 1:08d}.JPEG", take())
        for i, wnid in enumerate(wnids)
    ]
    return tuple(made)


def of(split: str, images: Iterable[Photograph] | None = None) -> list[Photograph]:
    """The photographs of one split, in the order of their classes or numbers."""
    return [image for image in images or photographs() if image.split == split]


def mixed(images: Sequence[Photograph]) -> list[Photograph]:
    """In an order that mixes the classes, as collections that are published in shards have it."""
    return [images[i] for i in np.random.default_rng(2).permutation(len(images))]


def encoded(pixels: Pixels | Image.Image, form: str, **settings: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    out = io.BytesIO()
    image.save(out, form, **settings)
    return out.getvalue()


def write(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


# Trees.


def imagenet_tree(folder: Path) -> Path:
    """ImageFolder's: train/<wnid>/, val/<wnid>/."""
    for image in photographs():
        write(folder / image.split / image.wnid / image.name, image.jpeg)
    return folder


def _flat_tree(folder: Path) -> Path:
    """train/<wnid>/, and val/ without classes; the tests add what tells them."""
    for image in of("train"):
        write(folder / "train" / image.wnid / image.name, image.jpeg)
    for image in of("val"):
        write(folder / "val" / image.name, image.jpeg)
    return folder


def _numbers() -> str:
    """What the development kit tells of the validation images: a number for each, from 1."""
    return "".join(f"{ID_ORDER.index(image.wnid) + 1}\n" for image in of("val"))


def flat_with_synsets(folder: Path) -> Path:
    write(folder / "ILSVRC2012_validation_ground_truth.txt", _numbers())
    write(folder / "synsets.txt", "".join(f"{wnid}\n" for wnid in ID_ORDER))
    return _flat_tree(folder)


def flat_with_synset_words(folder: Path) -> Path:
    write(folder / "ILSVRC2012_validation_ground_truth.txt", _numbers())
    write(folder / "synset_words.txt", "".join(f"{wnid} {WORDS[wnid]}\n" for wnid in ID_ORDER))
    return _flat_tree(folder)


def flat_with_wnids(folder: Path) -> Path:
    rows = [f"{image.name},{image.wnid}\n" for image in mixed(of("val"))]
    write(folder / "val.csv", "".join(rows))
    return _flat_tree(folder)


def flat_with_labels(folder: Path) -> Path:
    """Caffe's val.txt: the label is the place in the sorted wnids."""
    write(folder / "val.txt", "".join(f"{image.name} {image.label}\n" for image in of("val")))
    return _flat_tree(folder)


def kaggle(folder: Path) -> Path:
    """As Kaggle's archive unpacks, with its test images, which nobody has labelled."""
    _flat_tree(folder / "ILSVRC" / "Data" / "CLS-LOC")
    random = np.random.default_rng(3)
    unlabelled = encoded(cut(random, 300, 200), "JPEG")
    write(folder / "ILSVRC/Data/CLS-LOC/test/ILSVRC2012_test_00000001.JPEG", unlabelled)
    for split in ("train", "val"):
        lines = ["ImageId,PredictionString"]
        for image in mixed(of(split)):
            boxes = [f"{image.wnid} 111 108 230 206 "] * int(random.integers(1, 4))
            lines.append(f"{image.name.removesuffix('.JPEG')},{''.join(boxes)}")
        write(folder / f"LOC_{split}_solution.csv", "\n".join(lines) + "\n")
    words = "".join(f"{wnid} {name}\n" for wnid, name in WORDS.items())
    write(folder / "LOC_synset_mapping.txt", words)
    listed = "".join(
        f"{image.name.removesuffix('.JPEG')} {i}\n" for i, image in enumerate(of("val"), start=1)
    )
    write(folder / "ILSVRC/ImageSets/CLS-LOC/val.txt", listed)
    return folder


def tiny_imagenet(folder: Path) -> Path:
    """As Tiny ImageNet unpacks: a folder of images in each, and boxes beside it."""
    for image in of("train"):
        write(folder / "train" / image.wnid / "images" / image.name, image.jpeg)
        write(folder / "train" / image.wnid / f"{image.wnid}_boxes.txt", f"{image.name}\t0\t0\n")
    lines = [f"{image.name}\t{image.wnid}\t0\t32\t44\t62\n" for image in mixed(of("val"))]
    write(folder / "val" / "val_annotations.txt", "".join(lines))
    for image in of("val"):
        write(folder / "val" / "images" / image.name, image.jpeg)
    write(folder / "wnids.txt", "".join(f"{wnid}\n" for wnid in mixed_wnids()))
    write(folder / "words.txt", "".join(f"{wnid}\t{name}\n" for wnid, name in WORDS.items()))
    return folder


def half_unpacked(folder: Path) -> Path:
    """ImageNet's training tar unpacked, and of its tars again some, with and without the tar."""
    flat_with_synsets(folder)
    for i, wnid in enumerate(WORDS):
        images = [(image.name, image.jpeg) for image in of("train") if image.wnid == wnid]
        if i % 3 < 2:
            write(folder / "train" / f"{wnid}.tar", tar_of(images))
        if i % 3 == 0:
            shutil.rmtree(folder / "train" / wnid)
    return folder


# The tars as downloaded.


def tar_of(members: Iterable[tuple[str, bytes]]) -> bytes:
    """A tar of plain files. Its times are 0, so that it is the same each time."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in members:
            add(tar, name, content)
    return out.getvalue()


def add(
    tar: tarfile.TarFile,
    name: str,
    content: bytes = b"",
    kind: bytes = tarfile.REGTYPE,
    to: str = "",
) -> int:
    """Adds a member of any kind, under any name, and returns where its header begins."""
    member = tarfile.TarInfo(name)
    member.type, member.size, member.linkname = kind, len(content), to
    member.mode = stat.S_IRUSR | stat.S_IWUSR
    before: int = tar.offset
    tar.addfile(member, io.BytesIO(content))
    return before


def ilsvrc_tars(folder: Path) -> Path:
    """ILSVRC2012_img_train.tar, ..._img_val.tar and the development kit."""
    members = []
    for wnid in mixed_wnids():
        inner = [(image.name, image.jpeg) for image in of("train") if image.wnid == wnid]
        members.append((f"{wnid}.tar", tar_of(inner)))
    write(folder / "ILSVRC2012_img_train.tar", tar_of(members))
    flat = [(image.name, image.jpeg) for image in mixed(of("val"))]
    write(folder / "ILSVRC2012_img_val.tar", tar_of(flat))
    development_kit(folder)
    return folder


def mixed_wnids() -> list[str]:
    return np.random.default_rng(4).permutation(list(WORDS)).tolist()


def development_kit(folder: Path) -> None:
    """ILSVRC2012_devkit_t12.tar.gz, with meta.mat as it is in the real one."""
    kinds = [
        ("ILSVRC2012_ID", object),
        ("WNID", object),
        ("words", object),
        ("gloss", object),
        ("num_children", object),
        ("children", object),
        ("wordnet_height", object),
        ("num_train_images", object),
    ]
    wnids = [*ID_ORDER, *ABOVE]
    synsets = np.empty((len(wnids), 1), dtype=kinds)
    for i, wnid in enumerate(wnids):
        leaf = wnid in WORDS
        below = [] if leaf else [1, 2]
        name = WORDS[wnid] if leaf else ABOVE[wnid]
        images = TRAIN if leaf else 0
        row = (i + 1, wnid, name, f"a {name}", len(below), below, 0 if leaf else 1, images)
        synsets[i, 0] = row
    meta = io.BytesIO()
    scipy.io.savemat(meta, {"synsets": synsets})
    root = "ILSVRC2012_devkit_t12"
    path = folder / f"{root}.tar.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        add(tar, f"{root}/", kind=tarfile.DIRTYPE)
        add(tar, f"{root}/readme.txt", b"Development kit\n")
        add(tar, f"{root}/data/ILSVRC2012_validation_ground_truth.txt", _numbers().encode())
        add(tar, f"{root}/data/meta.mat", meta.getvalue())


# As published in shards.


def huggingface_parquet(folder: Path) -> Path:
    """data/train-00000-of-00002.parquet ..., as the library `datasets` writes them."""
    names = [words.split(",")[0] for words in WORDS.values()]
    told = {
        "info": {
            "features": {
                "image": {"_type": "Image"},
                "label": {"names": names, "_type": "ClassLabel"},
            }
        }
    }
    schema = pa.schema(
        [
            ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ("label", pa.int64()),
        ],
        metadata={b"huggingface": json.dumps(told).encode()},
    )
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for split, full, files in (("train", "train", 2), ("val", "validation", 1)):
        images = mixed(of(split))
        for i in range(files):
            part = images[i * len(images) // files : (i + 1) * len(images) // files]
            rows = [
                {"image": {"bytes": image.jpeg, "path": image.name}, "label": image.label}
                for image in part
            ]
            table = pa.Table.from_pylist(rows, schema)
            path = folder / "data" / f"{full}-{i:05d}-of-{files:05d}.parquet"
            pq.write_table(table, path, row_group_size=10)
    return folder


def converted_parquet(folder: Path) -> Path:
    """plain_text/train/0000.parquet ..., as the Hub converts what was uploaded otherwise."""
    huggingface_parquet(folder)
    for file in (folder / "data").iterdir():
        split, number, *_ = file.stem.split("-")
        place = folder / "plain_text" / split
        place.mkdir(parents=True, exist_ok=True)
        file.rename(place / f"{number[1:]}.parquet")
    (folder / "data").rmdir()
    return folder


def webdataset(folder: Path) -> Path:
    """train-000000.tar ..., val-000000.tar; a .json beside each image, which nobody needs."""
    for split, files in (("train", 2), ("val", 1)):
        images = mixed(of(split))
        for i in range(files):
            members = []
            for n in range(i * len(images) // files, (i + 1) * len(images) // files):
                members += sample(f"{n:06d}", images[n].jpeg, images[n].label)
                members.append((f"{n:06d}.json", json.dumps({"file": images[n].name}).encode()))
            write(folder / f"{split}-{i:06d}.tar", tar_of(members))
    return folder


def sample(key: str, jpeg: bytes, label: int) -> list[tuple[str, bytes]]:
    return [(f"{key}.jpg", jpeg), (f"{key}.cls", str(label).encode())]


def grey(split: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The photographs of a split as grey images [n, 28, 28], and their labels [n]."""
    images = mixed(of(split))
    small = [Image.open(io.BytesIO(image.jpeg)).convert("L").resize((28, 28)) for image in images]
    labels = np.array([image.label for image in images], dtype=np.uint8)
    return np.stack([np.asarray(image) for image in small]), labels


def idx(folder: Path) -> Path:
    """train-images-idx3-ubyte ..., as MNIST has them."""
    for split, stem in (("train", "train"), ("val", "t10k")):
        images, labels = grey(split)
        write(folder / f"{stem}-images-idx3-ubyte", idx_file(images))
        write(folder / f"{stem}-labels-idx1-ubyte", idx_file(labels))
    return folder


def idx_file(array: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def dotted_idx(folder: Path) -> Path:
    """train-images.idx3-ubyte ..., as Kaggle has them, with a folder of each beside it."""
    for file in list(idx(folder).iterdir()):
        file.rename(folder / file.name.replace("-idx", ".idx"))
        (folder / file.name).mkdir()
    return folder


def torchvision_idx(folder: Path) -> Path:
    """The folder that torchvision.datasets.FashionMNIST is given as its root."""
    idx(folder / "FashionMNIST" / "raw")
    return folder


JPEG_LAYOUTS: dict[str, Callable[[Path], Path]] = {
    layout.__name__: layout
    for layout in (
        imagenet_tree,
        flat_with_synsets,
        flat_with_synset_words,
        flat_with_wnids,
        flat_with_labels,
        kaggle,
        tiny_imagenet,
        half_unpacked,
        ilsvrc_tars,
        huggingface_parquet,
        converted_parquet,
        webdataset,
    )
}
GREY_LAYOUTS: dict[str, Callable[[Path], Path]] = {
    layout.__name__: layout for layout in (idx, dotted_idx, torchvision_idx)
}


# Hostile ones.


@dataclass(frozen=True)
class Fate:
    """What shall become of an entry of a hostile source."""

    key: str
    """The path in the tree; of a tar's member a part that its key must contain."""
    ends: Literal["converted", "quarantined", "ignored"]
    word: str = ""
    """Must be in the reason of what is quarantined, whatever the case of its letters."""
    picture: Pixels | None = None
    """What is to be seen on what is converted."""


HOSTILE_CLASSES = tuple(WORDS)[:3]
GOOD = 4
"""Whole training images of each class of a hostile source; one validation image."""


class _Hostile:
    """Writes entries of a tree into the class folders in turn, with their fates."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fates: list[Fate] = []
        self.random = np.random.default_rng(5)

    def path(self, name: str) -> Path:
        wnid = HOSTILE_CLASSES[len(self.fates) % len(HOSTILE_CLASSES)]
        return self.folder / "train" / wnid / name

    def picture(self) -> Pixels:
        return cut(self.random, 240, 180)

    def note(self, path: Path, *rest: Any) -> None:
        self.fates.append(Fate(path.relative_to(self.folder).as_posix(), *rest))

    def converted(self, name: str, content: bytes, picture: Pixels) -> Path:
        write(path := self.path(name), content)
        self.note(path, "converted", "", picture)
        return path

    def quarantined(self, name: str, content: bytes, word: str) -> None:
        write(path := self.path(name), content)
        self.note(path, "quarantined", word)

    def ignored(self, name: str, content: bytes) -> None:
        write(path := self.path(name), content)
        self.note(path, "ignored")

    def link(self, name: str, to: str, *rest: str) -> None:
        path = self.path(name)
        path.symlink_to(to)
        self.note(path, *rest)


def hostile_tree(folder: Path) -> list[Fate]:
    """A tree of three classes with all that may lie in one; the fates of all that is odd."""
    random = np.random.default_rng(6)
    for wnid in HOSTILE_CLASSES:
        for i in range(GOOD + 1):
            place = f"train/{wnid}/{wnid}_{i + 1}.JPEG" if i else f"val/{wnid}/1.JPEG"
            write(folder / place, encoded(cut(random, 240, 180), "JPEG"))
    make = _Hostile(folder)
    _odd_images(make)
    _odd_names(make)
    _no_images(make)
    _links(make)
    return make.fates


def _odd_images(make: _Hostile) -> None:
    """Images of kinds that collections hold here and there. They are to be read."""
    picture = make.picture()
    inks = encoded(Image.fromarray(picture).convert("CMYK"), "JPEG")
    make.converted("cmyk.JPEG", inks, picture)

    light = np.asarray(Image.fromarray(make.picture()).convert("L"))
    make.converted("grey.JPEG", encoded(light, "JPEG"), _coloured(light))
    clear_grey = encoded(Image.fromarray(light).convert("LA"), "PNG")
    make.converted("grey_alpha.png", clear_grey, _coloured(light))

    picture = make.picture()
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: to be shown turned clockwise
    turned = np.ascontiguousarray(np.rot90(picture))
    make.converted("rotated.JPEG", encoded(turned, "JPEG", exif=exif), picture)

    picture = make.picture()
    broken = encoded(picture, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01")
    make.converted("broken_exif.JPEG", broken, picture)

    picture = make.picture()
    make.converted("trailing.JPEG", encoded(picture, "JPEG") + b"\0" * 1000, picture)

    picture = make.picture()
    clear = np.dstack([picture, np.full(picture.shape[:2], 128, np.uint8)])
    make.converted("alpha.png", encoded(clear, "PNG"), picture)

    light = np.asarray(Image.fromarray(make.picture()).convert("L"))
    deep = light.astype(np.uint16) * 257
    make.converted("grey_16_bit.png", encoded(deep, "PNG"), _coloured(light))

    picture = make.picture()
    deep = picture[..., ::-1].astype(np.uint16) * 257  # OpenCV writes blue, green, red
    make.converted("colour_16_bit.png", cv2.imencode(".png", deep)[1].tobytes(), picture)

    for name, form in (("png.JPEG", "PNG"), ("web.webp", "WEBP"), ("bitmap.bmp", "BMP")):
        picture = make.picture()
        make.converted(name, encoded(picture, form), picture)

    first, second = (Image.fromarray(make.picture()) for _ in range(2))
    moving = encoded(first, "GIF", save_all=True, append_images=[second], duration=100)
    make.converted("moving.gif", moving, np.asarray(first))

    for name, width, height in (("one", 1, 1), ("tall", 1, 20_000), ("wide", 20_000, 1)):
        picture = cut(make.random, width, height)
        make.converted(f"{name}.JPEG", encoded(picture, "JPEG", subsampling=0), picture)

    picture = make.picture()
    twice = encoded(picture, "JPEG")
    make.converted("first_of_two.JPEG", twice, picture)
    path = make.folder / make.fates[-1].key.replace("first", "second")
    write(path, twice)
    make.note(path, "converted", "", picture)


def _coloured(light: Pixels) -> Pixels:
    return np.repeat(light[..., None], 3, axis=2)


def _odd_names(make: _Hostile) -> None:
    longest = "é" * 125 + ".JPEG"
    assert len(longest.encode()) == 255
    # Not text: a name that a camera or a disk of another alphabet left.
    foreign = os.fsdecode(b"na\xefve.JPEG")
    odd = ("猫 🐈 ñ.JPEG", longest, foreign, "two\nlines.JPEG", "-rf <b>&amp;.JPEG", "no_ending")
    for name in odd:
        picture = make.picture()
        make.converted(name, encoded(picture, "JPEG"), picture)


def _no_images(make: _Hostile) -> None:
    whole = encoded(make.picture(), "JPEG")
    make.quarantined("truncated.JPEG", whole[: len(whole) * 6 // 10], "truncated")
    whole = encoded(make.picture(), "PNG")
    make.quarantined("truncated.png", whole[: len(whole) * 6 // 10], "truncated")
    make.quarantined("header_only.JPEG", encoded(make.picture(), "JPEG")[:20], "")
    make.quarantined("empty.JPEG", b"", "empty")
    make.quarantined("text.JPEG", b"<html>404 Not Found</html>\n", "not an image")
    make.quarantined("Thumbs.db", b"\xd0\xcf\x11\xe0" + bytes(500), "not an image")
    make.quarantined("bomb.png", png_bomb(60_000), "pixels")
    make.quarantined("bomb.JPEG", jpeg_bomb(60_000), "pixels")
    make.ignored(".DS_Store", b"\0\0\0\1Bud1")
    make.ignored("._n01440764_1.JPEG", b"\0\5\x16\7" + bytes(100))
    make.ignored(".hidden.JPEG", encoded(make.picture(), "JPEG"))
    # Whoever opens a pipe waits for ever.
    path = make.path("pipe.JPEG")
    os.mkfifo(path)
    make.note(path, "quarantined", "regular")


def _links(make: _Hostile) -> None:
    make.link("above", "../..", "ignored")
    make.link("itself.JPEG", "itself.JPEG", "quarantined", "link")
    make.link("nowhere.JPEG", "nowhere/at/all.JPEG", "quarantined", "link")


def png_bomb(side: int) -> bytes:
    """A PNG of 100 bytes that claims to be `side` pixels wide and high."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    parts = chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def jpeg_bomb(side: int) -> bytes:
    """A small JPEG whose header claims `side` pixels each way."""
    whole = bytearray(encoded(np.zeros((8, 8, 3), np.uint8), "JPEG"))
    frame = whole.index(b"\xff\xc0")
    whole[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    return bytes(whole)


def _hostile_members(
    tar: tarfile.TarFile, outside: Path, put: Callable[[str], list[tuple[str, bytes]]]
) -> list[Fate]:
    """Members that would do harm where their names were used as paths. `put` makes the files of a
    sample of a name; `outside` is an absolute folder that nothing may be written to."""
    fates = []
    for stem in ("../../above", f"{outside}/absolute", "./dot", "deep/er/still", "-dash"):
        for name, content in put(stem):
            add(tar, name, content)
        # How a reader spells "./" and "/" in a key is its own affair; the last part stays.
        fates.append(Fate(stem.rsplit("/")[-1], "converted"))
    kinds = (
        ("soft", tarfile.SYMTYPE, "../../../../etc/passwd", "link"),
        ("hard", tarfile.LNKTYPE, "dot.jpg", "link"),
        ("device", tarfile.CHRTYPE, "", "device"),
        ("pipe", tarfile.FIFOTYPE, "", "device"),
    )
    for stem, kind, to, word in kinds:
        (image, _), *rest = put(stem)
        add(tar, image, kind=kind, to=to)
        for name, content in rest:
            add(tar, name, content)
        fates.append(Fate(stem, "quarantined", word))
    add(tar, "folder/", kind=tarfile.DIRTYPE)
    fates.append(Fate("folder", "ignored"))
    return fates


def _damaged(samples: list[list[tuple[str, bytes]]], how: str) -> tuple[bytes, int]:
    """A tar of samples that is damaged in the middle, and how many samples lie before that.

    how: "truncated" in the middle of an image, or "overwritten": the header of an image is.
    """
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        starts = [min(add(tar, name, content) for name, content in sample) for sample in samples]
    before = len(samples) // 2
    whole, start = out.getvalue(), starts[before]
    if how == "truncated":
        return whole[: start + tarfile.BLOCKSIZE + 1000], before
    noise = np.random.default_rng(7).bytes(tarfile.BLOCKSIZE)
    return whole[:start] + noise + whole[start + tarfile.BLOCKSIZE :], before


@dataclass(frozen=True)
class HostileTars:
    fates: list[Fate]
    train: int
    """Training images that are whole, with those of `fates` that are to be converted."""
    val: int


def hostile_webdataset(folder: Path) -> HostileTars:
    """WebDataset tars with hostile members, one that ends too soon, and one overwritten within.
    A sample without a label and a label without an image lie among them."""
    random = np.random.default_rng(8)
    count = 0

    def put(stem: str) -> list[tuple[str, bytes]]:
        nonlocal count
        count += 1
        jpeg = encoded(cut(random, 240, 180), "JPEG")
        return sample(stem, jpeg, count % len(HOSTILE_CLASSES))

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        fates = _hostile_members(tar, folder.resolve().parent / "outside", put)
        add(tar, *put("without_label")[0])
        add(tar, *put("without_image")[1])
        add(tar, *put("letters")[0])
        add(tar, "letters.cls", b"cat")
    fates.append(Fate("without_label", "quarantined", "label"))
    fates.append(Fate("without_image", "quarantined", "image"))
    fates.append(Fate("letters", "quarantined", "label"))
    write(folder / "train-000000.tar", out.getvalue())
    train = sum(fate.ends == "converted" for fate in fates)
    for i, how in enumerate(("truncated", "overwritten"), start=1):
        samples = [put(f"{how}_{n}") for n in range(6)]
        damaged, before = _damaged(samples, how)
        write(folder / f"train-{i:06d}.tar", damaged)
        fates.append(Fate(f"train-{i:06d}.tar", "quarantined", "tar"))
        train += before
    good = [member for n in range(6) for member in put(f"good_{n}")]
    write(folder / "train-000003.tar", tar_of(good))
    whole = [member for n in range(3) for member in put(f"val_{n}")]
    write(folder / "val-000000.tar", tar_of(whole))
    return HostileTars(fates, train + 6, 3)


def hostile_ilsvrc(folder: Path) -> HostileTars:
    """The tars of ILSVRC: a class with hostile members, one whose tar ends too soon, and a tar of
    validation images that is overwritten within."""
    random = np.random.default_rng(9)

    def put(stem: str) -> list[tuple[str, bytes]]:
        return [(f"{stem}.JPEG", encoded(cut(random, 240, 180), "JPEG"))]

    hostile, truncated, *others = WORDS
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        fates = _hostile_members(tar, folder.resolve().parent / "outside", put)
    damaged, train = _damaged([put(f"{truncated}_{n}") for n in range(6)], "truncated")
    fates.append(Fate(f"{truncated}.tar", "quarantined", "tar"))
    train += sum(fate.ends == "converted" for fate in fates)
    members = [(f"{hostile}.tar", out.getvalue()), (f"{truncated}.tar", damaged)]
    for wnid in others:
        members.append((f"{wnid}.tar", tar_of(put(f"{wnid}_1") + put(f"{wnid}_2"))))
        train += 2
    write(folder / "ILSVRC2012_img_train.tar", tar_of(members))
    samples = [[(image.name, image.jpeg)] for image in of("val")]
    flat, val = _damaged(samples, "overwritten")
    write(folder / "ILSVRC2012_img_val.tar", flat)
    fates.append(Fate("ILSVRC2012_img_val.tar", "quarantined", "tar"))
    development_kit(folder)
    return HostileTars(fates, train, val)


def main(folder: Path) -> None:
    for name, layout in (JPEG_LAYOUTS | GREY_LAYOUTS).items():
        layout(folder / name)
    for name, fates in (
        ("hostile_tree", hostile_tree(folder / "hostile_tree")),
        ("hostile_webdataset", hostile_webdataset(folder / "hostile_webdataset").fates),
        ("hostile_ilsvrc", hostile_ilsvrc(folder / "hostile_ilsvrc").fates),
    ):
        print(name)
        for fate in fates:
            why = f" ({fate.word})" if fate.word else ""
            print(f"  {fate.key!r:<70.70} {fate.ends}{why}")


if __name__ == "__main__":
    if len(sys.argv) != 2 or Path(sys.argv[1]).exists():
        sys.exit("python tests/corpus.py FOLDER: give one folder, which is not there yet.")
    main(Path(sys.argv[1]))
