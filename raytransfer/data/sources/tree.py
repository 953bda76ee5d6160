"""A tree with a folder for each class, as torchvision's ImageFolder reads it."""

from raytransfer.data.sources.files import files_below, in_parts, subfolders
from raytransfer.data.sources.source import Source, printable
from raytransfer.data.sources.truth import validation_labels
from raytransfer.errors import UserError
from raytransfer.folder import Folder

TRAIN_NAMES = ("train", "training")
VAL_NAMES = ("val", "valid", "validation")

KAGGLE = "ILSVRC/Data/CLS-LOC"
"""Where Kaggle's archive of ImageNet keeps its images."""


def find(folder: Folder) -> Source | None:
    """Label = place of the class's name in sorted order. Validation images lie in folders of their
    classes too, or all together beside a list of their classes (see `truth`).

    None where there is no folder of training images. Raises UserError for a tree that lacks
    something.
    """
    for below in ("", f"{KAGGLE}/"):
        names = [below + name for name in TRAIN_NAMES]
        present = folder.names(below.rstrip("/"))
        train = next((name for name in names if name.removeprefix(below) in present), None)
        if train is not None:
            return _source(folder, below, train, present)
    return None


def _source(folder: Folder, below: str, train: str, present: list[str]) -> Source:
    classes = subfolders(folder, train)
    if not classes:
        raise UserError(f"{folder}/{train} holds no class folders: lay it out as {train}/CLASS/*.")
    val = next((below + name for name in VAL_NAMES if name in present), None)
    if val is None:
        raise UserError(
            f"{folder} has a folder {train} but none of {', '.join(VAL_NAMES)} beside it: "
            "add one with the validation images."
        )
    val_classes = subfolders(folder, val)
    if val_classes:
        if differing := sorted(set(classes) ^ set(val_classes)):
            raise UserError(
                f"The classes in {train} and {val} of {folder} differ: "
                f"{printable(differing[0])} is in one of them only."
            )
        labelled = _in_classes(folder, val, classes)
    else:
        images = files_below(folder, val)
        labelled = validation_labels(folder, images, classes)
    return Source(
        "tree",
        tuple(map(printable, classes)),
        3,
        in_parts(folder.uri, _in_classes(folder, train, classes)),
        in_parts(folder.uri, labelled),
    )


def _in_classes(folder: Folder, split: str, classes: list[str]) -> list[tuple[str, int]]:
    named = []
    for label, name in enumerate(classes):
        files = files_below(folder, f"{split}/{name}")
        if not files:
            raise UserError(
                f"The class folder {split}/{printable(name)} in {folder} is empty: fill or "
                "remove it, in training and validation alike."
            )
        named += [(file, label) for file in files]
    return named
