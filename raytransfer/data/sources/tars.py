"""Images in tar files, read where they lie: ImageNet's as downloaded, and WebDataset's.

Nothing is unpacked, and the name of a member is never taken for a path.
"""

import io
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePosixPath
from typing import IO, cast

import pyarrow as pa

from raytransfer.data.manifest import Split
from raytransfer.data.sources.source import (
    DAMAGED,
    PART_IMAGES,
    SPLIT_NAMES,
    Found,
    Source,
    printable,
    words_of,
)
from raytransfer.data.sources.truth import validation_labels
from raytransfer.errors import UserError
from raytransfer.folder import Folder, check_reached

TRAIN_TAR = "ILSVRC2012_img_train.tar"
VAL_TAR = "ILSVRC2012_img_val.tar"

IMAGE_BYTES = 110_000
"""Mean size of ImageNet's images; tells about how many are in a tar."""

IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm")
CLASS_LISTS = ("classes.txt", "labels.txt", "class_names.txt")

CLASS_TAR = re.compile(r"n\d{8}\.tar")
"""A tar of one class's images, called after its wnid, as they lie in ImageNet's training tar."""

_TAR = re.compile(r"\.(tar|tar\.gz|tgz)$")


def find_ilsvrc(folder: Folder) -> Source | None:
    """ImageNet's two tars as downloaded: one of a tar a class, one of all validation images.

    What class those are of is in the development kit, or in another list beside the tars (see
    `truth`). None where the tars are not there. Raises UserError for a tar that is damaged.
    """
    present = folder.names()
    if TRAIN_TAR not in present:
        return None
    if VAL_TAR not in present:
        raise UserError(f"{folder} has {TRAIN_TAR} but not {VAL_TAR}: add it.")
    inner, train_lost = _index(folder, TRAIN_TAR)
    inner.sort()
    if not inner:
        raise UserError(f"{TRAIN_TAR} in {folder} holds no tar of a class.")
    classes = tuple(printable(PurePosixPath(name).stem) for name, _, _ in inner)
    train = tuple(
        ClassTarPart(folder.uri, TRAIN_TAR, classes[label], start, size, label)
        for label, (_, start, size) in enumerate(inner)
    )
    found, val_lost = _index(folder, VAL_TAR)
    places = {name: (start, size) for name, start, size in found}
    labelled, told_by = validation_labels(folder, sorted(places), classes)
    val: list[RangesPart] = []
    for first in range(0, len(labelled), PART_IMAGES):
        names, labels = zip(*labelled[first : first + PART_IMAGES], strict=True)
        starts, sizes = zip(*(places[name] for name in names), strict=True)
        keys = tuple(map(printable, names))
        val.append(RangesPart(folder.uri, VAL_TAR, keys, labels, starts, sizes))
    note = f"{told_by} says the classes of the validation images."
    return Source("ilsvrc", classes, 3, (*train, *train_lost), (*val, *val_lost), (note,))


def find_webdataset(folder: Folder) -> Source | None:
    """Tars of samples, NAME.jpg and NAME.cls, called after their split or in a folder of its name.

    The names of the classes are in classes.txt, a line each, or are their numbers.
    """
    parts: dict[Split, tuple[WebDatasetPart, ...]] = {}
    for split, words in SPLIT_NAMES.items():
        found = []
        for below in ("", *words):
            for name, info in folder.entries(below):
                whole = f"{below}/{name}".lstrip("/")
                if not _TAR.search(name) or CLASS_TAR.fullmatch(name) or not info.is_file:
                    continue
                said = words_of(name)
                splits = [split for split, words in SPLIT_NAMES.items() if said & set(words)]
                if not below and len(splits) > 1:
                    raise UserError(
                        f"{name} in {folder} names both splits: move it into a folder train or val."
                    )
                if below or split in splits:
                    found.append(WebDatasetPart(folder.uri, whole, info.size))
        parts[split] = tuple(found)
    if not parts["train"] or TRAIN_TAR in folder.names():
        return None
    if not parts["val"]:
        raise UserError(f"{folder} has tars of training images, and none with val in its name.")
    text = next((text for text in map(folder.read, CLASS_LISTS) if text is not None), None)
    lines = (text or b"").decode("utf-8-sig", errors="replace").rstrip().split("\n")
    classes = tuple(line.strip() for line in lines) if text is not None else None
    return Source("webdataset", classes, 3, parts["train"], parts["val"])


@dataclass(frozen=True)
class ClassTarPart:
    """One class: a tar inside ImageNet's training tar, or one of its own."""

    root: str
    name: str
    class_name: str
    start: int
    """Byte of the file at which the tar begins."""
    size: int
    label: int

    @property
    def images(self) -> int:
        return max(1, self.size // IMAGE_BYTES)

    def read(self) -> Iterator[Found]:
        with Folder(self.root).open(self.name) as outer:
            window = _Window(outer, self.start, self.size)
            for name, content, reason in _members(window, f"{self.class_name}.tar"):
                yield Found(f"{self.class_name}/{name}", self.label, content, reason)


@dataclass(frozen=True)
class RangesPart:
    """Images at known places in a tar."""

    root: str
    name: str
    keys: tuple[str, ...]
    labels: tuple[int, ...]
    starts: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def images(self) -> int:
        return len(self.keys)

    def read(self) -> Iterator[Found]:
        with Folder(self.root).open(self.name) as file:
            places = zip(self.keys, self.labels, self.starts, self.sizes, strict=True)
            for key, label, start, size in places:
                file.seek(start)
                content = file.read(size)
                if len(content) < size:
                    yield Found(key, label, None, f"{self.name} ends before it does")
                else:
                    yield Found(key, label, content)


@dataclass(frozen=True)
class LostPart:
    """What cannot be read of a tar."""

    root: str
    key: str
    reason: str
    images: int = 0

    def read(self) -> Iterator[Found]:
        yield Found(self.key, -1, None, self.reason)


@dataclass(frozen=True)
class WebDatasetPart:
    """A tar of samples: neighbours of one name, which end in an image's ending and in .cls."""

    root: str
    name: str
    size: int

    @property
    def images(self) -> int:
        return max(1, self.size // IMAGE_BYTES)

    def read(self) -> Iterator[Found]:
        known: set[str] = set()
        with Folder(self.root).open(self.name) as file:
            # A sample's name ends at the first dot behind the last slash.
            for stem, sample in groupby(_members(file, self.name), lambda m: _stem(m[0])):
                endings: dict[str, bytes] = {}
                lost, twice, again = False, False, stem in known
                known.add(stem)
                for name, content, reason in sample:
                    if content is None:
                        lost = True
                        yield Found(f"{self.name}/{name}", -1, None, reason)
                    elif (ending := name[len(stem) + 1 :].lower()) in endings:
                        twice = True
                    else:
                        endings[ending] = content
                if again or twice:
                    reason = "a sample of this name came before"
                    yield Found(f"{self.name}/{stem}", -1, None, reason)
                if again:
                    continue
                # k.jpg before k.depth.png, wherever they stand.
                named = sorted(endings, key=lambda ending: ending not in IMAGE_ENDINGS)
                image = next((endings[e] for e in named if e.endswith(IMAGE_ENDINGS)), None)
                if image is None:
                    if not lost:
                        reason = f"no image among its members ({', '.join(endings)})"
                        yield Found(f"{self.name}/{stem}", -1, None, reason)
                    continue
                try:
                    yield Found(f"{self.name}/{stem}", int(endings.get("cls", b"")), image)
                except ValueError:
                    reason = "no label: no .cls with a number beside it"
                    yield Found(f"{self.name}/{stem}", -1, None, reason)


def _stem(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.split(".", 1)[0]


def _members(
    file: "pa.NativeFile | _Window", tar_name: str
) -> Iterator[tuple[str, bytes | None, str]]:
    """Names and contents of the files in a tar, or why there is none; hidden files left out.

    Where the tar is damaged it ends, with its own name and the reason.
    """
    try:
        with tarfile.open(fileobj=cast(IO[bytes], file), mode="r:*") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # it would remember them all
                name = printable(member.name)
                if member.isdir() or PurePosixPath(name).name.startswith("."):
                    continue
                opened = tar.extractfile(member) if member.isreg() else None
                if opened is None:
                    yield name, None, "a link or a device, not a file"
                    continue
                content = opened.read()
                if len(content) < member.size:
                    raise tarfile.ReadError("unexpected end of data")
                yield name, content, ""
            _check_end(tar)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        check_reached(error)
        yield tar_name, None, f"the tar {DAMAGED}: {error}"


def _index(folder: Folder, name: str) -> tuple[list[tuple[str, int, int]], list[LostPart]]:
    """Name, first byte and size of each file in a tar, and what is lost where it is damaged."""
    places = []
    try:
        with folder.open(name) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]
                if member.isreg() and not PurePosixPath(member.name).name.startswith("."):
                    places.append((member.name, member.offset_data, member.size))
            _check_end(tar)
    except (tarfile.TarError, OSError, EOFError) as error:
        check_reached(error)
        return places, [LostPart(folder.uri, name, f"the tar {DAMAGED}: {error}")]
    return places, []


def _check_end(tar: tarfile.TarFile) -> None:
    """tarfile takes a tar that was cut between two members for a whole one."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it lacks its end mark")


class _Window(io.RawIOBase):
    """A part of a file as a file."""

    def __init__(self, file: pa.NativeFile, start: int, size: int) -> None:
        self._file, self._start, self._size, self._place = file, start, size, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = base + offset
        return self._place

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._place)
        self._file.seek(self._start + self._place)
        content: bytes = self._file.read(left if size < 0 else min(size, left))
        self._place += len(content)
        return content
