"""IDX files: MNIST's format, and that of the data sets made in its image."""

import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from raytransfer.data.convert import encode_png
from raytransfer.data.manifest import Split
from raytransfer.data.sources.source import Found, Source
from raytransfer.errors import UserError
from raytransfer.folder import Folder

PART = 2_000
"""Images of a part: a second's work, as they are small."""

_STEMS: dict[Split, str] = {"train": "train", "val": "t10k"}


@dataclass(frozen=True)
class IdxPart:
    root: str
    split: Split
    rows: tuple[int, ...]
    labels: tuple[int, ...]

    @property
    def images(self) -> int:
        return len(self.rows)

    def read(self) -> Iterator[Found]:
        pixels = _read(self.root, f"{_STEMS[self.split]}-images-idx3-ubyte")
        for row, label in zip(self.rows, self.labels, strict=True):
            yield Found(f"{self.split}/{row:06d}", label, encode_png(pixels[row]))


def find(folder: Folder, class_names: Sequence[str] | None = None) -> Source | None:
    """Grey images and labels of train and t10k, plain or gzipped.

    class_names: in label order; the labels themselves if None. None where there are no IDX files.
    Raises UserError for files that are damaged or do not fit one another.
    """
    if not _has_images(folder):
        # torchvision keeps a data set's files in NAME/raw.
        inside = [folder.below(f"{name}/raw") for name in folder.names()]
        inside = [each for each in inside if _has_images(each)]
        return find(inside[0], class_names) if len(inside) == 1 else None
    labels, parts = {}, {}
    for split, stem in _STEMS.items():
        labels[split] = _read(folder.uri, f"{stem}-labels-idx1-ubyte")
        images = _read(folder.uri, f"{stem}-images-idx3-ubyte")
        if images.ndim != 3 or labels[split].ndim != 1:
            raise UserError(f"The IDX files in {folder} are not grey images and their labels.")
        if len(images) != len(labels[split]):
            raise UserError(
                f"The {split} files in {folder} disagree: {len(images)} images, "
                f"{len(labels[split])} labels."
            )
        if not images.size:
            raise UserError(f"The {split} files in {folder} hold no images, or some of no pixels.")
        parts[split] = tuple(
            IdxPart(
                folder.uri,
                split,
                tuple(range(start, min(start + PART, len(images)))),
                tuple(labels[split][start : start + PART].tolist()),
            )
            for start in range(0, len(images), PART)
        )
    count = int(max(found.max() for found in labels.values())) + 1
    names = tuple(class_names) if class_names is not None else tuple(map(str, range(count)))
    if len(names) < count or len(set(names)) < len(names):
        raise UserError(f"{folder} has {count} classes: give as many different class names.")
    return Source("idx", names, 1, parts["train"], parts["val"])


def _has_images(folder: Folder) -> bool:
    try:
        return any(re.match("train-images[-.]idx3-ubyte", name) for name in folder.names())
    except PermissionError:
        return False  # of a folder beside those that matter, such as lost+found


def _read(root: str, name: str) -> NDArray[np.uint8]:
    """The array of unsigned bytes in an IDX file, plain or gzipped."""
    folder = Folder(root)
    present = {name: info for name, info in folder.entries() if info.is_file}
    # Where they are fetched as train-images.idx3-ubyte, too.
    names = (name, name.replace("-idx", ".idx"))
    found = next((n for name in names for n in (name, f"{name}.gz") if n in present), None)
    if found is None:
        raise UserError(f"{folder} lacks {name} (or {name}.gz).")
    return _unpacked(root, found, present[found].mtime_ns)


@lru_cache(maxsize=4)
def _unpacked(root: str, name: str, written: int | None) -> NDArray[np.uint8]:
    """Kept from part to part; written: when the file was, as another one may come in its place."""
    try:
        data = Folder(root).read(name) or b""
        data = gzip.decompress(data) if name.endswith(".gz") else data
        dimensions = data[3]
        if data[:3] != b"\0\0\x08":
            raise ValueError("not unsigned bytes")
        shape = np.frombuffer(data, ">u4", count=dimensions, offset=4).astype(np.int64)
        return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise UserError(f"{name} in {root} is not a whole IDX file: fetch it again.") from error
