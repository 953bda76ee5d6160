"""Which class each validation image is of, where they lie together in one folder or tar.

The forms that exist, in a .txt or .csv file beside the images or above them:

name,class  name label      one image a line; a label is a place in the sorted class names (Caffe's)
ImageId,PredictionString    Kaggle's LOC_val_solution.csv; the first word is the class
numbers                     ILSVRC2012_validation_ground_truth.txt, one a line in the images' order

The numbers count the classes in an order of ImageNet's own, not by name: the development kit's
meta.mat has it, as may a list of wnids in that order (synsets.txt, synset_words.txt).
"""

import csv
import io
import re
import tarfile
from collections.abc import Sequence
from itertools import pairwise, product
from pathlib import PurePosixPath

import numpy as np
from scipy.io import loadmat

from raytransfer.data.sources.source import SPLIT_NAMES, words_of
from raytransfer.errors import UserError
from raytransfer.folder import Folder

NUMBERS = "ILSVRC2012_validation_ground_truth.txt"
META = "meta.mat"
SYNSETS = ("synsets.txt", "synset_words.txt", "LOC_synset_mapping.txt")

LISTS = (".txt", ".csv")

TRAINING = {*SPLIT_NAMES["train"]}
VALIDATION = {*SPLIT_NAMES["val"], "trainval"}
"""Words in the names of lists, by which they tell of what images they are."""

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
    lists = {name: text for name, text in texts.items() if PurePosixPath(name).name != NUMBERS}
    if (named := _by_name(folder, lists, stems, label_of)) is not None:
        return list(zip(images, named[0], strict=True)), named[1]
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


def _by_name(
    folder: Folder, lists: dict[str, str], stems: Sequence[str], label_of: dict[str, int]
) -> tuple[list[int], str] | None:
    """The label of each image, and the list that says them by the images' names; None where there
    is none. A list of training images by its name is none; one of validation images goes first.

    Raises UserError where such a list lacks an image, or two contradict each other.
    """
    said: dict[str, list[int]] = {}
    wrong: list[UserError] = []
    for name, text in lists.items():
        if TRAINING & words_of(name) and not VALIDATION & words_of(name):
            continue
        try:
            named = _named(f"{name} in {folder}", text, label_of)
        except UserError as error:
            wrong.append(error)
            continue
        if stems[0] in named:
            lacking = next((stem for stem in stems if stem not in named), None)
            if lacking is None:
                said[name] = [named[stem] for stem in stems]
            else:
                wrong.append(UserError(f"{name} in {folder} does not say the class of {lacking}."))
    if not said and wrong:
        raise wrong[0]
    said = {name: said[name] for name in said if VALIDATION & words_of(name)} or said
    for (one, labels), (other, differing) in pairwise(said.items()):
        if labels != differing:
            raise UserError(
                f"{one} and {other} in {folder} say different classes of the validation images: "
                "take the wrong one away."
            )
    return next(((labels, name) for name, labels in said.items()), None)


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
    Classes are all given by name, or all by place.

    Raises UserError where two lines of an image contradict each other.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    places = {str(label): label for label in label_of.values()}
    # The first line may be a heading, where it can be nothing else.
    for heading, known in product((0, 1), (label_of, places)):
        pairs: list[tuple[str, int]] = []
        for line in lines[heading:]:
            if (pair := _image_and_label(line, known)) is None:
                break
            pairs.append(pair)
        if not pairs or len(pairs) < len(lines) - heading:
            continue
        found: dict[str, int] = {}
        for image, label in pairs:
            if found.setdefault(image, label) != label:
                raise UserError(f"{file} says two classes of {image}: correct one of its lines.")
        return found
    return {}


def _image_and_label(line: str, known: dict[str, int]) -> tuple[str, int] | None:
    """What a line says: an image's name and a class that is known, between a comma, a tab, a
    semicolon or blanks. Behind the class may stand more fields, or numbers (Kaggle's boxes)."""
    for mark in (",", "\t", ";", None):
        if mark is None:
            fields = line.split(None, 1)
        else:
            fields = next(csv.reader([line], delimiter=mark, skipinitialspace=True))
        if len(fields) < 2:
            continue
        said = fields[1].strip()
        words = said.split()
        numbers_follow = words[1:] and all(word.isdigit() or word == words[0] for word in words[1:])
        label = known.get(said)
        if label is None and numbers_follow:
            label = known.get(words[0])
        if label is not None:
            return PurePosixPath(fields[0].strip()).stem, label
    return None


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
