"""Splits: two disjoint tasks A and B of one data set's classes."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raytransfer.errors import UserError

IMAGENET_CLASSES = 1000

# Class indices (wnids in ASCII order) that are man-made: WordNet's artifact subtree and 29 classes
# that the authors chose by hand. The paper calls this half A (section 3); the authors' files, B.
_MAN_MADE = (*range(398, 936), *range(959, 970), 971, 999)

_RANDOM = re.compile(r"random:(0|[1-9][0-9]*)")
_REDUCED = re.compile(r"reduced:([1-9][0-9]*)")


@dataclass(frozen=True)
class Split:
    """Tasks A and B of one data set, as class indices in ascending order.

    The label of a class inside its task is its rank there, so that order is kept.
    """

    name: str
    a: tuple[int, ...]
    b: tuple[int, ...]
    images_per_class: int | None = None
    """Training images of each class: the first so many in the shards' order, which is random. So
    fewer are a part of more. A class with fewer has them all. Validation is always whole, and the
    mean image always that of all training images: only what is trained on differs. None: all."""

    def __post_init__(self) -> None:
        for task, classes in (("A", self.a), ("B", self.b)):
            if len(classes) < 2:
                raise UserError(f"Task {task} of split {self.name} has fewer than two classes.")
            if list(classes) != sorted(set(classes)):
                raise UserError(f"Task {task} of split {self.name} repeats a class.")
        if shared := sorted(set(self.a) & set(self.b)):
            raise UserError(f"Split {self.name} has classes in both A and B: {shared[:5]}.")

    def classes(self, target: str) -> tuple[int, ...]:
        """Class indices of task "A", "B" or "AB" (all classes of both)."""
        return {"A": self.a, "B": self.b, "AB": tuple(sorted(self.a + self.b))}[target]

    @property
    def sha256(self) -> str:
        """Hash of the name, both class lists, and the limit where there is one."""
        limit = [] if self.images_per_class is None else [self.images_per_class]
        content = json.dumps([self.name, self.a, self.b, *limit])
        return hashlib.sha256(content.encode()).hexdigest()


def random_split(seed: int, classes: int) -> Split:
    """Half of the classes as A, drawn as the paper's authors drew them; the rest is B.

    The generator's seed is the list [seed]: the integer gives other classes. Of an odd number of
    classes, A gets the smaller half.
    """
    if not 0 <= seed < 2**32:
        raise UserError(f"The seed of a random split is 0 to {2**32 - 1}, not {seed}.")
    drawn = np.random.RandomState([seed]).choice(np.arange(classes), classes // 2, replace=False)
    a = {int(index) for index in drawn}
    return Split(
        f"random:{seed}",
        a=tuple(sorted(a)),
        b=tuple(index for index in range(classes) if index not in a),
    )


def reduced_split(images_per_class: int, classes: int) -> Split:
    """The halves of random:0, with so many training images of each class (paper, supplement)."""
    whole = random_split(0, classes)
    return Split(f"reduced:{images_per_class}", whole.a, whole.b, images_per_class)


def manmade_natural(classes: int) -> Split:
    """ImageNet's man-made objects (A, 551 classes) against natural ones (B, 449)."""
    if classes != IMAGENET_CLASSES:
        raise UserError(
            f"Split manmade-natural is defined for ImageNet's {IMAGENET_CLASSES} classes, "
            f"not for {classes}; write your own split file for this data set."
        )
    man_made = set(_MAN_MADE)
    return Split(
        "manmade-natural",
        a=_MAN_MADE,
        b=tuple(index for index in range(classes) if index not in man_made),
    )


def listed_split(name: str, tasks: Mapping[str, Any], classes: Sequence[str]) -> Split:
    """A user's split: `tasks` holds lists "A" and "B" of class names or indices.

    Classes in neither list take no part. Raises UserError for a class that `classes` lacks.
    """
    if set(tasks) != {"A", "B"}:
        raise UserError(
            f"Split {name} needs exactly the lists A and B, not {sorted(map(str, tasks))}."
        )
    for task, entries in tasks.items():
        if not isinstance(entries, list | tuple):
            raise UserError(f"{task} of split {name} is a list of classes, not {entries!r}.")
    index = {class_name: position for position, class_name in enumerate(classes)}

    def resolve(entry: str | int) -> int:
        if type(entry) is int and 0 <= entry < len(classes):
            return entry
        if isinstance(entry, str) and entry in index:
            return index[entry]
        raise UserError(
            f"Split {name} names class {entry!r}, which the data do not have; they have "
            f"{len(classes)} classes: {', '.join(classes[:10])}{' ...' if classes[10:] else ''}."
        )

    a, b = (tuple(sorted(resolve(entry) for entry in tasks[task])) for task in ("A", "B"))
    return Split(name, a, b)


def make_split(
    name: str, classes: Sequence[str], listed: Mapping[str, Mapping[str, Any]] | None = None
) -> Split:
    """The split called `name` over `classes` (names, in label order).

    `name` is "random:S", "reduced:K", "manmade-natural", a key of `listed` (see `listed_split`), or
    the path of a JSON file with lists "A" and "B".
    """
    if listed and name in listed:
        return listed_split(name, listed[name], classes)
    if match := _RANDOM.fullmatch(name):
        return random_split(int(match[1]), len(classes))
    if match := _REDUCED.fullmatch(name):
        return reduced_split(int(match[1]), len(classes))
    if name == "manmade-natural":
        return manmade_natural(len(classes))
    if name.endswith(".json"):
        return listed_split(Path(name).stem, read_split_file(Path(name)), classes)
    known = ["random:0 (or another seed)", "reduced:250 (or another number of images a class)"]
    known += ["manmade-natural", "a .json file (in a space: splits = {name: its path})"]
    known += listed or ()
    raise UserError(f"There is no split {name!r}; known are {', '.join(known)}.")


def read_split_file(path: Path) -> dict[str, Any]:
    """The lists A and B in a JSON file. Raises UserError when it cannot be read as such."""
    try:
        tasks = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"There is no split file {path}.") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"Split file {path} cannot be read as JSON: {error}.") from None
    if not isinstance(tasks, dict):
        raise UserError(f'Split file {path} holds no object with lists "A" and "B".')
    return tasks
