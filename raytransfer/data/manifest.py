"""What a folder of shards says of itself, and whether it is whole."""

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pyarrow import fs

from raytransfer.errors import UserError
from raytransfer.folder import Folder

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")

MANIFEST = "manifest.json"
SUMS = "SHA256SUMS"
"""The sha256 of every file beside it, the manifest too, as `sha256sum --check` reads it."""

UNFINISHED = "unfinished.json"
"""Stands in a folder from the first to the last moment of `prepare`."""

FORMAT = 2
"""Version of the layout of a folder of shards; another is refused."""


@dataclass(frozen=True)
class StoredFile:
    name: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """A finished folder of shards, as its manifest.json tells."""

    folder: str
    """Where it was read from; not stored."""
    digest: str
    """sha256 of manifest.json, and by the hashes in it, of everything; not stored."""
    classes: tuple[str, ...]
    """Class names; a label is a place in them."""
    train_counts: tuple[int, ...]
    """Training images of each class."""
    val_counts: tuple[int, ...]
    channels: int
    """1 (grey) or 3 (RGB)."""
    height: int | None
    """Pixels, when all images have the same size; else None."""
    width: int | None
    row_group: int
    """Rows of a row group; the last of a file may hold fewer."""
    mean_colour: tuple[tuple[float, ...], ...]
    """Mean over the pixels of each class's training images, 0..255: [class][channel]."""
    quarantined: int
    """Images that could not be read; quarantine.jsonl names them."""
    duplicates: int
    """Images stored as the same bytes as another; duplicates.jsonl names them. They are kept."""
    train: tuple[StoredFile, ...]
    val: tuple[StoredFile, ...]
    labels: StoredFile
    """The label of each row, in order, those of the train shards first: an .npy file, int32 [n]. In
    the shards they lie apart, and each would be a request to an object store."""
    means: StoredFile
    """The mean training image of each class: an .npy file, float32 [class, channel, h, w]."""
    settings: dict[str, Any]
    """What `prepare` was asked, and the sha256 of the keys and labels of the source."""
    versions: dict[str, str]

    def files(self, split: Split) -> tuple[StoredFile, ...]:
        return self.train if split == "train" else self.val

    @property
    def stored(self) -> tuple[StoredFile, ...]:
        """The shards, and the arrays beside them."""
        return *self.train, *self.val, self.labels, self.means

    def to_json(self) -> str:
        stored = asdict(self)
        del stored["folder"], stored["digest"]
        return json.dumps({"format": FORMAT, **stored}, indent=1) + "\n"


def parse_manifest(folder: str, text: str) -> Manifest:
    """The manifest in `text`. Raises UserError, naming `folder`, when it is not one."""
    try:
        stored = json.loads(text)
        if stored.pop("format") != FORMAT:
            raise UserError(
                f"The shards in {Folder(folder)} have another format than {FORMAT}, the one known "
                "here: prepare them again with this version."
            )
        stored["train"] = tuple(StoredFile(**file) for file in stored["train"])
        stored["val"] = tuple(StoredFile(**file) for file in stored["val"])
        for name in ("labels", "means"):
            stored[name] = StoredFile(**stored[name])
        stored["mean_colour"] = tuple(tuple(colour) for colour in stored["mean_colour"])
        for name in ("classes", "train_counts", "val_counts"):
            stored[name] = tuple(stored[name])
        digest = hashlib.sha256(text.encode()).hexdigest()
        return Manifest(folder=folder, digest=digest, **stored)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{MANIFEST} in {Folder(folder)} cannot be read as a manifest: prepare the shards "
            "again."
        ) from error


def read_manifest(shards: str | Path) -> Manifest:
    """The manifest of a folder of shards, local or a URI, after a look at every file's size.

    Raises UserError when the folder is missing, empty, not shards, unfinished or incomplete.
    """
    folder = Folder(shards)
    info = folder.files.get_file_info(folder.path)
    if info.type == fs.FileType.NotFound:
        raise UserError(
            f"There is no folder {folder}: make shards there with `raytransfer prepare`."
        )
    if info.type != fs.FileType.Directory:
        raise UserError(f"{folder} is a file: name the folder that `raytransfer prepare` wrote.")
    present = {name: file.size for name, file in folder.entries()}
    if not present:
        raise UserError(f"The folder {folder} is empty: make shards with `raytransfer prepare`.")
    if MANIFEST not in present:
        if UNFINISHED in present:
            raise UserError(
                f"The shards in {folder} are unfinished: run the same `raytransfer prepare` again."
            )
        raise UserError(
            f"The folder {folder} holds no {MANIFEST}, so it is not shards: "
            "make some from its images with `raytransfer prepare`."
        )
    manifest = parse_manifest(str(shards), manifest_text(folder))
    for what in malformed(manifest):
        raise UserError(f"{MANIFEST} in {folder}: {what}; prepare the shards again.")
    for stored in manifest.stored:
        if stored.name not in present:
            raise UserError(
                f"The shards in {folder} are incomplete, {stored.name} is missing: "
                "copy it again, or prepare into an empty folder."
            )
        if present[stored.name] != stored.bytes:
            raise UserError(
                f"The shards in {folder} are damaged, {stored.name} has {present[stored.name]} "
                f"bytes instead of {stored.bytes}: copy it again, or prepare into an empty folder."
            )
    return manifest


def malformed(manifest: Manifest) -> Iterator[str]:
    """What a manifest says that no `prepare` has written."""
    names = manifest.classes
    if not names or not all(isinstance(name, str) for name in names):
        yield "classes are no list of names"
    elif len(set(names)) < len(names):
        yield "two classes have the same name"
    for name in ("train_counts", "val_counts"):
        counts = getattr(manifest, name)
        if len(counts) != len(names) or not all(_whole(count) for count in counts):
            yield f"{name} are not one number for each class"
    if not _whole(manifest.row_group, 1):
        yield f"row_group is {manifest.row_group!r}, not 1 or more"
    if manifest.channels not in (1, 3):
        yield f"channels is {manifest.channels!r}, not 1 or 3"
    for name in ("quarantined", "duplicates"):
        if not _whole(count := getattr(manifest, name)):
            yield f"{name} is {count!r}, not a number"
    size = (manifest.height, manifest.width)
    if size != (None, None) and not all(_whole(side, 1) for side in size):
        yield f"height and width are {size[0]!r} and {size[1]!r}, not both 1 or more"
    if not isinstance(manifest.settings, dict):
        yield "settings are no table of names and values"
    for file in manifest.stored:
        if not isinstance(file.name, str) or Path(file.name).name != file.name:
            yield f"{file.name!r} is no name of a file in the folder"
        elif not _whole(file.rows) or not _whole(file.bytes) or not isinstance(file.sha256, str):
            yield f"rows, bytes and sha256 of {file.name} are no numbers and a hash"


def _whole(value: Any, least: int = 0) -> bool:
    return isinstance(value, int) and value >= least


def manifest_text(folder: Folder) -> str:
    """Raises UserError where it cannot be read."""
    try:
        return (folder.read(MANIFEST) or b"").decode(errors="replace")
    except OSError as error:
        raise UserError(f"{MANIFEST} in {folder} cannot be read: {error}.") from None


def read_labels(manifest: Manifest, split: Split) -> NDArray[np.int64]:
    """The labels of all images of the train or val shards, in the order of the rows."""
    labels = read_array(manifest, manifest.labels).astype(np.int64)
    first = sum(file.rows for file in manifest.train)
    return labels[:first] if split == "train" else labels[first:]


def read_array(manifest: Manifest, file: StoredFile) -> NDArray[Any]:
    """What one of the files beside the shards holds. Raises UserError where it was changed."""
    folder = Folder(manifest.folder)
    content = folder.read(file.name) or b""
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise UserError(
            f"The shards in {folder} are damaged, {file.name} is not what was written: copy it "
            "again, or prepare into an empty folder."
        )
    array: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
    return array


def mean_image(
    manifest: Manifest, classes: Sequence[int], height: int, width: int
) -> NDArray[np.float32]:
    """The mean training image of some classes, each image counting once: [channel, height, width].

    The paper subtracts it, of the *source* task. It is kept at 32x32 at most, which loses nothing
    of so smooth an image, and comes back at the size asked for by bilinear interpolation.
    """
    means = read_array(manifest, manifest.means)
    chosen = np.asarray(classes)
    weights = np.asarray(manifest.train_counts, dtype=np.float64)[chosen]
    mean = np.tensordot(weights / weights.sum(), means[chosen].astype(np.float64), axes=1)
    planes = [Image.fromarray(plane.astype(np.float32)) for plane in mean]
    return np.stack(
        [
            np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR), dtype=np.float32)
            for plane in planes
        ]
    )


def mean_colour(manifest: Manifest, classes: Sequence[int]) -> NDArray[np.float32]:
    """The mean colour of the training images of some classes, 0..255: [channel]."""
    chosen = np.asarray(classes)
    weights = np.asarray(manifest.train_counts, dtype=np.float64)[chosen]
    colours = np.asarray(manifest.mean_colour, dtype=np.float64)[chosen]
    mean: NDArray[np.float32] = (weights @ colours / weights.sum()).astype(np.float32)
    return mean


def demo_shards() -> Path:
    """The images that the package carries: 10 classes of clothes, 28x28 grey."""
    return Path(str(files("raytransfer") / "demo_data"))
