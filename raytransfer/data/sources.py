"""Images as they lie: IDX files, or a tree with a folder for each class."""

import gzip
import io
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raytransfer.data.manifest import Split
from raytransfer.errors import UserError

IDX_STEM = {"train": "train", "val": "t10k"}


@dataclass(frozen=True)
class Listing:
    """The images of one split of a source, known by name and label, not yet read."""

    keys: Sequence[str]
    labels: NDArray[np.int64]
    load: Callable[[str], bytes]
    """Key to encoded image. May raise anything for an image that cannot be read."""

    def first(self, per_class: int, classes: Sequence[str]) -> "Listing":
        """The first images of each class, in the order of the source.

        Raises UserError when a class has fewer.
        """
        counts = np.bincount(self.labels, minlength=len(classes))
        for name, count in zip(classes, counts, strict=True):
            if count < per_class:
                raise UserError(
                    f"The class {name} has {count} images, fewer than the {per_class} asked for."
                )
        kept = np.concatenate(
            [np.flatnonzero(self.labels == label)[:per_class] for label in range(len(classes))]
        )
        kept.sort()
        return replace(self, keys=[self.keys[i] for i in kept], labels=self.labels[kept])


@dataclass(frozen=True)
class Source:
    layout: str
    classes: tuple[str, ...]
    channels: int
    """1 (grey) or 3 (RGB): what every image is made to have."""
    train: Listing
    val: Listing

    def listing(self, split: Split) -> Listing:
        return self.train if split == "train" else self.val


def read_source(folder: str | Path, class_names: Sequence[str] | None = None) -> Source:
    """Finds out what lies in a local folder.

    `class_names`, in label order, name the classes of IDX files, else called "0", "1", ...; a tree
    names its own. Raises UserError for a folder that is missing or holds neither layout.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"There is no folder {root}: name the folder that holds the images.")
    if any(root.glob("train-images-idx3-ubyte*")):
        return _idx_source(root, class_names)
    if (root / "train").is_dir():
        if class_names is not None:
            raise UserError(f"The classes of {root} are named by its folders: give no class names.")
        return _tree_source(root)
    raise UserError(
        f"{root} holds neither IDX files (train-images-idx3-ubyte, ...) "
        "nor a tree of class folders (train/<class>/, val/<class>/)."
    )


def _idx_source(root: Path, class_names: Sequence[str] | None) -> Source:
    labels = {s: _read_idx(root, f"{stem}-labels-idx1-ubyte") for s, stem in IDX_STEM.items()}
    images = {s: _read_idx(root, f"{stem}-images-idx3-ubyte") for s, stem in IDX_STEM.items()}
    for split in IDX_STEM:
        if images[split].ndim != 3 or labels[split].ndim != 1:
            raise UserError(f"The IDX files in {root} are not grey images and their labels.")
        if len(images[split]) != len(labels[split]):
            raise UserError(
                f"The {split} files in {root} disagree: {len(images[split])} images, "
                f"{len(labels[split])} labels."
            )
        if not len(images[split]):
            raise UserError(f"The {split} files in {root} hold no images.")
    count = int(max(found.max() for found in labels.values())) + 1
    names = tuple(class_names) if class_names is not None else tuple(map(str, range(count)))
    if len(names) < count or len(set(names)) < len(names):
        raise UserError(f"{root} has {count} classes: give as many different class names.")

    def listing(split: str) -> Listing:
        pixels = images[split]
        return Listing(
            keys=[f"{split}/{i:06d}" for i in range(len(pixels))],
            labels=labels[split].astype(np.int64),
            load=lambda key: encode_png(pixels[int(key.split("/")[1])]),
        )

    return Source("idx", names, 1, listing("train"), listing("val"))


def _read_idx(root: Path, name: str) -> NDArray[np.uint8]:
    """The array of unsigned bytes in an IDX file, plain or gzipped."""
    path = next((p for p in (root / name, root / f"{name}.gz") if p.is_file()), None)
    if path is None:
        raise UserError(f"{root} lacks {name} (or {name}.gz).")
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        dimensions = data[3]
        if data[:3] != b"\0\0\x08":
            raise ValueError("not unsigned bytes")
        shape = np.frombuffer(data, ">u4", count=dimensions, offset=4).astype(np.int64)
        return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise UserError(f"{path} is not a whole IDX file: fetch it again.") from error


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Grey pixels [height, width] as the smallest PNG that Pillow makes."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", optimize=True)
    return out.getvalue()


def _tree_source(root: Path) -> Source:
    """Label = place of the class's name in sorted order, as in torchvision's ImageFolder."""
    if not (root / "val").is_dir():
        raise UserError(f"{root} has a folder train but no folder val: add one, laid out alike.")
    found: dict[str, dict[str, list[str]]] = {}
    for split in IDX_STEM:
        with os.scandir(root / split) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
        found[split] = {name: _files(root, f"{split}/{name}") for name in names}
        for name, keys in found[split].items():
            if not keys:
                raise UserError(f"The class folder {root / split / name} is empty.")
    classes = tuple(found["train"])
    if not classes:
        raise UserError(f"{root / 'train'} holds no class folders.")
    if differing := set(classes) ^ set(found["val"]):
        raise UserError(
            f"The classes in {root / 'train'} and {root / 'val'} differ: "
            f"{min(differing)} is in one of them only."
        )

    def listing(split: str) -> Listing:
        by_class = list(found[split].values())
        return Listing(
            [key for keys in by_class for key in keys],
            np.repeat(np.arange(len(by_class)), [len(keys) for keys in by_class]),
            lambda key: (root / key).read_bytes(),
        )

    return Source("tree", classes, 3, listing("train"), listing("val"))


def _files(root: Path, folder: str) -> list[str]:
    with os.scandir(root / folder) as entries:
        return sorted(f"{folder}/{entry.name}" for entry in entries if entry.is_file())
