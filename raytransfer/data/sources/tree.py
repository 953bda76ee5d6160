"""A tree with a folder for each class, as torchvision's ImageFolder reads it."""

from raytransfer.data.sources.files import files_below, hidden, in_parts, inside
from raytransfer.data.sources.source import SPLIT_NAMES, Source, printable
from raytransfer.data.sources.tars import CLASS_TAR, ClassTarPart
from raytransfer.data.sources.truth import validation_labels
from raytransfer.errors import UserError
from raytransfer.folder import Folder

KAGGLE = "ILSVRC/Data/CLS-LOC"
"""Where Kaggle's archive of ImageNet keeps its images."""

TEXTS = (".txt", ".csv", ".json", ".xml", ".mat")
"""Endings of what is told of images in their folders, as Tiny ImageNet's boxes are."""


def find(folder: Folder) -> Source | None:
    """Label = place of the class's name in sorted order. A class may be a tar still, as the tars in
    ImageNet's training tar are. Validation images lie in folders of their classes too, or all
    together beside a list of their classes (see `truth`).

    None where there is no folder of training images. Raises UserError for a tree that lacks
    something.
    """
    for below in ("", f"{KAGGLE}/"):
        names = [below + name for name in SPLIT_NAMES["train"]]
        present = folder.names(below.rstrip("/"))
        train = next((name for name in names if name.removeprefix(below) in present), None)
        if train is not None:
            return _source(folder, below, train, present)
    return None


def _source(folder: Folder, below: str, train: str, present: list[str]) -> Source:
    folders, strays = inside(folder, train)
    packed = _class_tars(folder, train, folders, strays)
    classes = sorted([*folders, *packed])
    if not classes:
        raise UserError(f"{folder}/{train} holds no class folders: lay it out as {train}/CLASS/*.")
    val = next((below + name for name in SPLIT_NAMES["val"] if name in present), None)
    if val is None:
        raise UserError(
            f"{folder} has a folder {train} but none of {', '.join(SPLIT_NAMES['val'])} beside it: "
            "add one with the validation images."
        )
    passed = [f"{train}/{name}" for name in strays if name.removesuffix(".tar") not in packed]
    label_of = {name: label for label, name in enumerate(classes)}
    train_images = _in_classes(folder, train, folders, label_of, passed)
    tars = [
        ClassTarPart(folder.uri, f"{train}/{name}.tar", name, 0, size, label_of[name])
        for name, size in packed.items()
    ]
    notes = []
    val_classes, strays = inside(folder, val)
    # A single folder that is no class holds them all: val/images.
    if len(val_classes) > 1 or label_of.keys() & set(val_classes):
        if differing := sorted(set(classes) ^ set(val_classes)):
            raise UserError(
                f"The classes in {train} and {val} of {folder} differ: "
                f"{printable(differing[0])} is in one of them only."
            )
        passed += [f"{val}/{name}" for name in strays]
        val_images = _in_classes(folder, val, classes, label_of, passed)
    else:
        files = files_below(folder, val)
        passed += filter(hidden, files)
        images = [file for file in files if not hidden(file)]
        val_images, told_by = validation_labels(folder, images, classes)
        notes.append(f"{told_by} says the classes of the validation images.")
    if passed:
        some = ", ".join(map(printable, passed[:3])) + (", ..." if passed[3:] else "")
        notes.append(
            f"Hidden, a text or in no class's folder, and passed over: {len(passed):,} ({some})."
        )
    return Source(
        "tree",
        tuple(map(printable, classes)),
        3,
        (*in_parts(folder.uri, train_images), *tars),
        in_parts(folder.uri, val_images),
        tuple(notes),
    )


def _class_tars(
    folder: Folder, split: str, unpacked: list[str], names: list[str]
) -> dict[str, int]:
    """Bytes of each class's tar among some names, where it is not unpacked beside it."""
    classes = {name.removesuffix(".tar") for name in names if CLASS_TAR.fullmatch(name)}
    if not (classes := classes.difference(unpacked)):
        return {}
    sizes = {name: info.size for name, info in folder.entries(split)}
    return {name: sizes[f"{name}.tar"] for name in sorted(classes) if f"{name}.tar" in sizes}


def _in_classes(
    folder: Folder, split: str, classes: list[str], label_of: dict[str, int], passed: list[str]
) -> list[tuple[str, int]]:
    """Names and labels of the images in class folders; what is none joins what is passed over."""
    named = []
    for name in classes:
        files = files_below(folder, f"{split}/{name}")
        images = [file for file in files if not (hidden(file) or file.lower().endswith(TEXTS))]
        passed += sorted(set(files) - set(images))
        if not images:
            raise UserError(
                f"The class folder {split}/{printable(name)} in {folder} is empty: fill or "
                "remove it, in training and validation alike."
            )
        named += [(image, label_of[name]) for image in images]
    return named
