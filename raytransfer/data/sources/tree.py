"""A tree with a folder for each class, as torchvision's ImageFolder reads it."""

from raytransfer.data.sources.files import files_below, hidden, in_parts, inside
from raytransfer.data.sources.source import TRAIN_NAMES, VAL_NAMES, Source, printable
from raytransfer.data.sources.truth import validation_labels
from raytransfer.errors import UserError
from raytransfer.folder import Folder

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
    classes, strays = inside(folder, train)
    if not classes:
        raise UserError(f"{folder}/{train} holds no class folders: lay it out as {train}/CLASS/*.")
    val = next((below + name for name in VAL_NAMES if name in present), None)
    if val is None:
        raise UserError(
            f"{folder} has a folder {train} but none of {', '.join(VAL_NAMES)} beside it: "
            "add one with the validation images."
        )
    passed = [f"{train}/{name}" for name in strays]
    train_images = _in_classes(folder, train, classes, passed)
    notes = []
    val_classes, strays = inside(folder, val)
    if val_classes:
        if differing := sorted(set(classes) ^ set(val_classes)):
            raise UserError(
                f"The classes in {train} and {val} of {folder} differ: "
                f"{printable(differing[0])} is in one of them only."
            )
        passed += [f"{val}/{name}" for name in strays]
        val_images = _in_classes(folder, val, classes, passed)
    else:
        images = _shown(files_below(folder, val), passed)
        val_images, told_by = validation_labels(folder, images, classes)
        notes.append(f"{told_by} says the classes of the validation images.")
    if passed:
        some = ", ".join(map(printable, passed[:3])) + (", ..." if passed[3:] else "")
        notes.append(f"Hidden or in no class's folder, and passed over: {len(passed):,} ({some}).")
    return Source(
        "tree",
        tuple(map(printable, classes)),
        3,
        in_parts(folder.uri, train_images),
        in_parts(folder.uri, val_images),
        tuple(notes),
    )


def _shown(files: list[str], passed: list[str]) -> list[str]:
    """Those that are not hidden; the others join what is passed over."""
    passed += filter(hidden, files)
    return [file for file in files if not hidden(file)]


def _in_classes(
    folder: Folder, split: str, classes: list[str], passed: list[str]
) -> list[tuple[str, int]]:
    named = []
    for label, name in enumerate(classes):
        files = _shown(files_below(folder, f"{split}/{name}"), passed)
        if not files:
            raise UserError(
                f"The class folder {split}/{printable(name)} in {folder} is empty: fill or "
                "remove it, in training and validation alike."
            )
        named += [(file, label) for file in files]
    return named
