"""What a source is: classes, and parts that can each be read by itself, on any machine."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import pyarrow as pa

from raytransfer.data.manifest import Split
from raytransfer.errors import StoreError, UserError
from raytransfer.folder import Folder

PART_IMAGES = 512
"""Images of a part, where the layout leaves it open: half a second of work for a core, so that a
killed run loses little and all cores end at about the same time."""

SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
}
"""What people call a split."""

DAMAGED = "is damaged from here on"
"""In the reason of a container that ends early, of which nobody knows how much is lost."""


class Found(NamedTuple):
    """One image as it lies."""

    key: str
    label: int
    content: bytes | None
    """Encoded; None where it could not even be read."""
    reason: str = ""
    """Why it could not be read."""


class Part(Protocol):
    """Images that are read one after the other; travels to other processes."""

    @property
    def root(self) -> str:
        """Path or URI of the folder that it lies in."""

    @property
    def images(self) -> int:
        """How many there are, or about how many."""

    def read(self) -> Iterator[Found]:
        """Each image once, in the same order every time. A damaged container ends early, with a
        last Found that names it."""


def images_of(part: Part) -> Iterator[Found]:
    """What a part holds. Raises StoreError where its place cannot be read."""
    try:
        yield from part.read()
    except (OSError, pa.ArrowException) as error:
        root, reason = Folder(part.root), " ".join(str(error).split())[:200]
        raise StoreError(
            f"The source {root} cannot be read just now ({reason}): the same command goes on."
        ) from error


@dataclass(frozen=True)
class Source:
    layout: str
    """Name of the layout, one of find.LAYOUTS."""
    classes: tuple[str, ...] | None
    """In label order; None where only the images tell how many there are."""
    channels: int
    """1 (grey) or 3 (RGB): what every image is made to have."""
    train: tuple[Part, ...]
    val: tuple[Part, ...]
    notes: tuple[str, ...] = ()
    """Sentences on what was chosen or passed over, for the user to see."""

    def parts(self, split: Split) -> tuple[Part, ...]:
        return self.train if split == "train" else self.val

    def count(self, split: Split) -> int:
        """Images, or about how many."""
        return sum(part.images for part in self.parts(split))

    @property
    def digest(self) -> str:
        """sha256 of what makes two sources the same to us: classes, names and labels."""
        told = hashlib.sha256(json.dumps([self.layout, self.classes, self.channels]).encode())
        for part in (*self.train, *self.val):
            # Where the source lies does not matter.
            here = {name: value for name, value in vars(part).items() if name != "root"}
            told.update(repr(here).encode(errors="backslashreplace"))
        return told.hexdigest()


def words_of(name: str) -> set[str]:
    """The words in a file's name, without regard to case."""
    return set(re.split(r"[^a-z]+", name.lower()))


def printable(name: str) -> str:
    """A file's name as text: bytes that are not UTF-8 are spelt out."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def first_of_each(source: Source, split: Split, per_class: int) -> tuple[Part, ...]:
    """Parts with the first so many images of each class only, in the source's order.

    Raises UserError when a class has fewer, or the layout tells labels only as it is read.
    """
    classes = source.classes or ()
    counts = [0] * len(classes)
    kept: list[Part] = []
    for part in source.parts(split):
        labels = getattr(part, "labels", None)
        if labels is None:
            raise UserError(
                "Images of each class can be limited for unpacked class folders and IDX files."
            )
        places = []
        for place, label in enumerate(labels):
            counts[label] += 1
            if counts[label] <= per_class:
                places.append(place)
        columns = {name: value for name, value in vars(part).items() if isinstance(value, tuple)}
        chosen = {name: tuple(value[i] for i in places) for name, value in columns.items()}
        kept += [replace(part, **chosen)] if places else []  # type: ignore[type-var]
    for name, count in zip(classes, counts, strict=True):
        if count < per_class:
            raise UserError(
                f"The class {name} has {count} images, fewer than the {per_class} asked for."
            )
    return tuple(kept)
