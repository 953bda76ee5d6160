"""Whether one shard is whole: read once, from its first byte to its last, hashed and decoded."""

import hashlib
import io
import math
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pyarrow import parquet as pq

from raytransfer.data.deal import SCHEMA
from raytransfer.data.manifest import Manifest, StoredFile
from raytransfer.data.pixels import opened
from raytransfer.folder import Folder

READ = 8 * 2**20
"""Bytes that are read at once of what lies between and after the row groups."""

CHANGED = "its bytes are not those that were written: the sha256 differs"


@dataclass(frozen=True)
class Problem:
    """Something wrong. As text it is one line, whatever a key holds."""

    file: str
    what: str
    row: int | None = None
    """Of the file, from 0."""
    key: str | None = None

    def __str__(self) -> str:
        place = [self.file]
        if self.row is not None:
            place.append(f"row {self.row}")
        if self.key is not None:
            place.append(self.key)
        text = f"{', '.join(place)}: {self.what}"
        return text if text.isprintable() else repr(text)[1:-1]


Digests = NDArray[np.bytes_]
"""A digest of 16 bytes for each key, as a million keys would take much memory."""


@dataclass
class Group:
    """What was found in one row group, or about a file as a whole."""

    problems: list[Problem]
    first: int = 0
    """Place of its first row in the file."""
    keys: Digests = field(default_factory=lambda: np.empty(0, dtype="S16"))
    labels: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    bytes: int = 0
    """Of the file, where it was read to its end."""


def check_shard(
    manifest: Manifest, stored: StoredFile, pool: ThreadPoolExecutor, threads: int
) -> Iterator[Group]:
    """The row groups of a file, in order; what concerns the whole file comes as one more."""

    def problem(*what: str) -> Group:
        return Group([Problem(stored.name, each) for each in what])

    folder = Folder(manifest.folder)
    try:
        with folder.open(stored.name) as file:
            size = file.size()
            if size != stored.bytes:
                yield problem(f"has {size} bytes, not the {stored.bytes} that were written")
            try:
                metadata = pq.ParquetFile(file).metadata
                spans = _spans(metadata, size)
            except (ValueError, OSError) as error:
                yield problem(f"is no whole Parquet file: {error}")
                return
            schema = metadata.schema.to_arrow_schema()
            if not schema.equals(SCHEMA):
                columns = ", ".join(f"{column.name} {column.type}" for column in schema)
                yield problem(f"its columns are not those of shards but {columns}")
                return
            yield problem(*_row_faults(manifest, stored, metadata))
            hashed = hashlib.sha256()
            running: deque[Future[Group]] = deque()
            file.seek(0)
            row = 0
            for i, (start, stop) in enumerate(spans):
                for between in _parts(file, start):
                    hashed.update(between)
                part = file.read_buffer(stop - start)
                hashed.update(part)
                window = _Window(part, start, size)
                running.append(
                    pool.submit(_check_group, manifest, stored.name, window, metadata, i, row)
                )
                row += metadata.row_group(i).num_rows
                # As many as keep all threads busy; more would only fill the memory.
                while len(running) > 2 * threads:
                    yield running.popleft().result()
            for after in _parts(file, size):
                hashed.update(after)
            while running:
                yield running.popleft().result()
            whole = problem(*[CHANGED] * (hashed.hexdigest() != stored.sha256))
            whole.bytes = size
            yield whole
    except FileNotFoundError:
        yield problem("is missing")
    except OSError as error:
        yield problem(f"cannot be read: {error}")


def _parts(file: pa.NativeFile, stop: int) -> Iterator[pa.Buffer]:
    """Reads a file on, from where it is read now up to the byte `stop`."""
    while (left := stop - file.tell()) > 0:
        part = file.read_buffer(min(left, READ))
        if not part.size:
            raise OSError("it became shorter while it was read")
        yield part


def _spans(metadata: pq.FileMetaData, size: int) -> list[tuple[int, int]]:
    """First byte and end of each row group. Raises ValueError when they do not lie one after
    another within the file."""
    spans, end = [], 0
    for i in range(metadata.num_row_groups):
        group = metadata.row_group(i)
        columns = [group.column(c) for c in range(group.num_columns)]
        starts = [
            min(c.data_page_offset, c.dictionary_page_offset or c.data_page_offset) for c in columns
        ]
        stops = [s + c.total_compressed_size for s, c in zip(starts, columns, strict=True)]
        if not columns or not end <= min(starts) <= max(stops) <= size:
            raise ValueError(f"row group {i} does not lie where its footer tells")
        end = max(stops)
        spans.append((min(starts), end))
    return spans


def _row_faults(manifest: Manifest, stored: StoredFile, metadata: pq.FileMetaData) -> Iterator[str]:
    """What is wrong with a file's numbers of rows."""
    if metadata.num_rows != stored.rows:
        yield f"has {metadata.num_rows} rows, not {stored.rows}"
    sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    full = [manifest.row_group] * (len(sizes) - 1)
    if sizes[:-1] != full or not all(0 < size <= manifest.row_group for size in sizes[-1:]):
        yield f"its row groups are not of {manifest.row_group} rows, the last of fewer"


class _Window(io.RawIOBase):
    """A part of a file that has been read, at its place in the whole one."""

    def __init__(self, part: pa.Buffer, start: int, size: int) -> None:
        self._part = memoryview(part)
        self._start = start
        self._size = size
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}
        self._place = base[whence] + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, into: Any) -> int:
        if self._place < self._start:
            return 0
        part = self._part[self._place - self._start :][: len(into)]
        into[: len(part)] = part
        self._place += len(part)
        return len(part)


def _check_group(
    manifest: Manifest, name: str, window: _Window, metadata: pq.FileMetaData, i: int, first: int
) -> Group:
    """Checks the rows of row group i; `first` is the place of the first in the file."""
    group = Group([], first)
    try:
        with pq.ParquetFile(pa.PythonFile(window), metadata=metadata) as file:
            table = file.read_row_group(i)
        columns = [table[column].to_pylist() for column in ("label", "class_name", "key")]
    except (OSError, ValueError) as error:
        group.problems.append(Problem(name, f"row group {i} cannot be read: {error}"))
        return group
    digests = [hashlib.blake2b(key.encode(), digest_size=16).digest() for key in columns[2]]
    group.keys = np.array(digests, dtype="S16")
    group.labels = np.array(columns[0], dtype=np.int64)
    rows = zip(table["image"], *columns, strict=True)
    for row, (image, label, class_name, key) in enumerate(rows, start=first):
        faults = [_image_fault(image.as_py(), manifest)]
        if not 0 <= label < len(manifest.classes):
            faults.append(f"label {label} is none of the {len(manifest.classes)} classes")
        elif class_name != (told := manifest.classes[label]):
            faults.append(f"is of class {class_name}, but label {label} is {told}")
        group.problems += [Problem(name, what, row, key) for what in faults if what]
    return group


def _image_fault(encoded: bytes, manifest: Manifest) -> str | None:
    """What is wrong with an image. It is decoded to its end: a broken one may begin well."""
    try:
        if encoded[:2] == b"\xff\xd8":
            try:
                return _jpeg_fault(encoded, manifest)
            except ValueError:
                if _rewritten(manifest):
                    raise
                # It was kept as it came: of printer's inks, or with a flaw that Pillow overlooks,
                # and so did `prepare`.
        with opened(encoded) as image:
            grey = image.getbands() == ("L",)
            if (fault := _form_fault(image.width, image.height, grey, manifest)) is None:
                image.load()
            return fault
    except UnidentifiedImageError:
        return "is not an image"
    except Exception as error:  # a decoder may raise anything at a broken image
        return f"cannot be decoded: {error}"


def _jpeg_fault(encoded: bytes, manifest: Manifest) -> str | None:
    """Raises ValueError for whatever the decoder has to say, warnings too."""
    height, width, colours, _ = simplejpeg.decode_jpeg_header(encoded)
    grey = colours == "Gray"
    if (fault := _form_fault(width, height, grey, manifest)) is None:
        simplejpeg.decode_jpeg(encoded, "GRAY" if grey else "RGB", strict=True)
    return fault


def _form_fault(width: int, height: int, grey: bool, manifest: Manifest) -> str | None:
    """What is wrong with the size and channels that an image claims, before it is decoded."""
    if manifest.width is not None and (width, height) != (manifest.width, manifest.height):
        return f"is {width}x{height} pixels, not {manifest.width}x{manifest.height}"
    if width * height > (Image.MAX_IMAGE_PIXELS or math.inf):
        return f"claims {width}x{height} pixels, too many to decode"
    # Images that were kept are made to have the right channels when they are read.
    if _rewritten(manifest) and grey != (manifest.channels == 1):
        return f"is {'grey' if grey else 'in colour'}, unlike what the manifest tells"
    return None


def _rewritten(manifest: Manifest) -> bool:
    """Whether `prepare` encoded the images itself, all alike."""
    return manifest.settings.get("size") is not None
