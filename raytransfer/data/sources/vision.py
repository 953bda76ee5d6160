"""A torchvision data set by its name, downloaded where the network allows."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from raytransfer.data.convert import encode_png
from raytransfer.data.manifest import Split
from raytransfer.data.sources.source import PART_IMAGES, Found, Source
from raytransfer.errors import UserError


@dataclass(frozen=True)
class VisionPart:
    name: str
    root: str
    split: Split
    start: int
    stop: int

    @property
    def images(self) -> int:
        return self.stop - self.start

    def read(self) -> Iterator[Found]:
        data = _open(self.name, self.root, self.split)
        for i in range(self.start, self.stop):
            key = f"{self.split}/{i:06d}"
            try:
                image, label = data[i]
                yield Found(key, int(label), encode_png(np.asarray(image)))
            except Exception as error:  # the data set reads its files in its own way
                yield Found(key, -1, None, " ".join(f"{type(error).__name__}: {error}".split()))


def find(name: str, root: str) -> Source:
    """A data set of torchvision.datasets whose items are an image and a class, such as CIFAR10.

    root: folder that holds its files, or is to. Raises UserError where the name is not one, or
    its files are not there and cannot be fetched.
    """
    root = str(Path(root).resolve())
    parts: dict[Split, tuple[VisionPart, ...]] = {}
    for split in ("train", "val"):
        count = len(_open(name, root, split))
        parts[split] = tuple(
            VisionPart(name, root, split, start, min(start + PART_IMAGES, count))
            for start in range(0, count, PART_IMAGES)
        )
    data = _open(name, root, "train")
    try:
        image, label = data[0]
        channels = 1 if image.mode == "L" else 3
        int(label)
    except (ValueError, TypeError, AttributeError, LookupError):
        raise UserError(f"torchvision's {name} is not a set of images of one class each.") from None
    classes = getattr(data, "classes", None)
    return Source(
        "torchvision",
        tuple(map(_name, classes)) if classes is not None else None,
        channels,
        parts["train"],
        parts["val"],
    )


def _name(of: Any) -> str:
    """Of a class; ImageNet's have several, which mean the same."""
    return ", ".join(of) if isinstance(of, tuple) else str(of)


@lru_cache(maxsize=4)
def _open(name: str, root: str, split: Split) -> Any:
    from torchvision import datasets

    kind = getattr(datasets, name, None)
    if name not in datasets.__all__ or kind is None:
        some = "CIFAR10, CIFAR100, FashionMNIST, SVHN, Flowers102"
        raise UserError(f"torchvision has no data set {name!r}; some that it has are {some}.")
    takes = inspect.signature(kind).parameters
    if "train" in takes:
        settings: dict[str, Any] = {"train": split == "train"}
    elif "split" in takes:
        settings = {"split": "train" if split == "train" else "val"}
    else:
        raise UserError(f"torchvision's {name} has no training and validation split.")
    tries = [settings]
    if "split" in takes and split == "val":
        tries += [{"split": "valid"}, {"split": "test"}]
    if "download" in takes:
        tries += [{**one, "download": True} for one in tries]
    for one in tries:
        try:
            return kind(root, **one)
        except Exception as error:  # its files are missing, or there is no network
            reason = " ".join(str(error).split())[:150]
    raise UserError(
        f"torchvision's {name} is not in {root} and cannot be fetched: {reason}; name the folder "
        "that holds it with --root."
    )
