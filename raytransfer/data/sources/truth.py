"""Which class each validation image is of, where they lie together in one folder or tar.

The forms that exist, in a .txt or .csv file beside the images or above them:

name,wnid   name label      one image a line; a label is a place in the sorted class names (Caffe's)
ImageId,PredictionString    Kaggle's LOC_val_solution.csv; the first word is the class
numbers                     ILSVRC2012_validation_ground_truth.txt, one a line in the images' order

The numbers count the classes in an order of ImageNet's own, not by name: the development kit's
meta.mat has it, as may a list of wnids in that order (synsets.txt, synset_words.txt).
"""

import io
import re
import tarfile
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
from scipy.io import loadmat

from raytransfer.errors import UserError
from raytransfer.folder import Folder

NUMBERS = "ILSVRC2012_validation_ground_truth.txt"
META = "meta.mat"
SYNSETS = ("synsets.txt", "synset_words.txt", "LOC_synset_mapping.txt")

LISTS = (".txt", ".csv")

LARGEST_LIST = 64 * 2**20
"""Bytes; a larger .txt or .csv file is no list of validation images."""


def validation_labels(
    folder: Folder, images: Sequence[str], classes: Sequence[str]
) -> tuple[list[tuple[str, int]], str]:
    """Each image with its label, and the name of the list that says so. images: file names, from
    the folder's root on; lists among them are left out.

    Raises UserError where no list says the classes of all images.
    """
    images = [image for image in images if not image.endswith((*LISTS, META))]
    if not images:
        raise UserError(f"{folder} holds no validation images.")
    stems = [PurePosixPath(image).stem for image in images]
    texts, meta = _beside(folder, images[0])
    label_of = {name: label for label, name in enumerate(classes)}
    for name, text in texts.items():
        if PurePosixPath(name).name == NUMBERS:
            continue
        if (named := _named(f"{name} in {folder}", text, label_of)) and stems[0] in named:
            lacking = next((stem for stem in stems if stem not in named), None)
            if lacking is not None:
                raise UserError(f"{name} in {folder} does not say the class of {lacking}.")
            return [(image, named[stem]) for image, stem in zip(images, stems, strict=True)], name
    told_by = next((name for name in texts if PurePosixPath(name).name == NUMBERS), None)
    if told_by is None:
        seen = f" ({', '.join(texts)} do not)" if texts else ""
        raise UserError(
            f"No list beside the validation images of {folder} says their classes{seen}: add "
            f"{NUMBERS} with the development kit's meta.mat, Kaggle's LOC_val_solution.csv, or a "
            "file with a line `name class` for each image, of a class that has training images."
        )
    order = _synset_order(folder, texts, meta, classes)
    try:
        labels = [label_of[order[int(number)]] for number in texts[told_by].split()]
    except (ValueError, KeyError) as error:
        raise UserError(
            f"{NUMBERS} in {folder} names {error}, which is none of the {len(classes)} classes."
        ) from None
    order_of = [re.search(r"\d+$", stem) for stem in stems]
    if all(order_of):
        # ILSVRC2012_val_00000007: its own number says which line is its.
        places = [int(found[0]) - 1 for found in order_of if found]
    elif len(labels) == len(images):
        places = [int(place) for place in np.argsort(np.argsort(images, kind="stable"))]
    else:
        places = [-1]
    if not all(0 <= place < len(labels) for place in places):
        raise UserError(
            f"{NUMBERS} in {folder} has {len(labels)} lines, which do not fit the {len(images)} "
            f"images such as {images[0]}."
        )
    numbered = [(image, labels[place]) for image, place in zip(images, places, strict=True)]
    return numbered, told_by


def _beside(folder: Folder, image: str) -> tuple[dict[str, str], bytes | None]:
    """Texts by name, and meta.mat, from the root, the images' folder, all between, and a kit."""
    places = [str(place) for place in PurePosixPath(image).parents]
    places = ["" if place == "." else place for place in places]
    texts: dict[str, str] = {}
    meta = None
    for place in [*places, *_kits(folder, places)]:
        for name, info in folder.entries(place):
            full = f"{place}/{name}".lstrip("/")
            if name == META:
                meta = folder.read(full)
            elif name.endswith(LISTS) and (info.size or 0) <= LARGEST_LIST:
                texts[full] = _text(folder.read(full) or b"")
            elif "devkit" in name and name.endswith((".tar.gz", ".tgz", ".tar")):
                inside, meta = _kit_archive(folder, full)
                texts |= inside
    return texts, meta


def _text(content: bytes) -> str:
    """Of a list: UTF-8, or UTF-16 with the mark that Windows writes."""
    wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    return content.decode("utf-16" if wide else "utf-8-sig", errors="replace")


def _kits(folder: Folder, places: Sequence[str]) -> list[str]:
    """Folders of an unpacked development kit."""
    kits = [
        f"{place}/{name}".lstrip("/")
        for place in places
        for name in folder.names(place)
        if "devkit" in name and not name.endswith((".gz", ".tgz", ".tar"))
    ]
    return [*kits, *(f"{kit}/data" for kit in kits)]


def _kit_archive(folder: Folder, name: str) -> tuple[dict[str, str], bytes | None]:
    texts, meta = {}, None
    try:
        with folder.open(name) as file, tarfile.open(fileobj=file, mode="r:*") as kit:
            for member in kit:
                content = kit.extractfile(member) if member.isreg() else None
                if content is None or member.size > LARGEST_LIST:
                    continue
                if member.name.endswith(f"/{META}"):
                    meta = content.read()
                elif member.name.endswith(f"/{NUMBERS}"):
                    texts[member.name] = _text(content.read())
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{name} in {folder} cannot be read: {error}; fetch it again.") from None
    return texts, meta


def _named(file: str, text: str, label_of: dict[str, int]) -> dict[str, int]:
    """Labels by image, its ending left out; nothing where a line after the first has no class.

    Raises UserError where two lines of an image contradict each other.
    """
    found: dict[str, int] = {}
    for number, line in enumerate(text.splitlines()):
        words = re.split(r"[,\s]+", line.strip())
        if words == [""]:
            continue
        label = label_of.get(words[1]) if len(words) > 1 else None
        if label is None and len(words) == 2 and words[1].isascii() and words[1].isdigit():
            label = int(words[1]) if int(words[1]) < len(label_of) else None
        if label is None:
            if number == 0:
                continue  # a heading
            return {}
        image = PurePosixPath(words[0]).stem
        if found.setdefault(image, label) != label:
            raise UserError(f"{file} says two classes of {image}: correct one of its lines.")
    return found


def _synset_order(
    folder: Folder, texts: dict[str, str], meta: bytes | None, classes: Sequence[str]
) -> dict[int, str]:
    """Wnid by number in the ground truth."""
    if meta is not None:
        try:
            synsets = loadmat(io.BytesIO(meta), squeeze_me=True, struct_as_record=False)["synsets"]
            return {int(synset.ILSVRC2012_ID): str(synset.WNID) for synset in synsets}
        except Exception as error:  # loadmat raises anything at a broken file
            raise UserError(
                f"{META} of {folder} cannot be read: {error}; fetch it again."
            ) from None
    for name, text in texts.items():
        if PurePosixPath(name).name in SYNSETS:
            wnids = [line.split()[0] for line in text.splitlines() if line.strip()]
            if set(wnids) != set(classes):
                continue
            if wnids == sorted(wnids):
                raise UserError(
                    f"{name} in {folder} lists the classes by name, which is not the order of the "
                    f"numbers in {NUMBERS}: add the development kit's {META}."
                )
            return dict(enumerate(wnids, start=1))
    raise UserError(
        f"{NUMBERS} in {folder} holds numbers, and nothing says which class each is: add the "
        f"development kit's {META}, or its classes in that order as {SYNSETS[0]}."
    )
