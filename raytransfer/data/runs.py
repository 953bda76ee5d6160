"""From a part of a source to a run: its images converted, with an index of what is where.

All images are to lie in one random order, and may only be read in the order in which they lie: so
they are converted part by part into runs first, and dealt out to the shards from there. A run is
one file of encoded images behind one another, and an index; the index is written last, so its
presence means that the run is whole.
"""

import hashlib
import io
import json
import zipfile
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raytransfer.data.convert import Converted, Form, convert
from raytransfer.data.manifest import Split
from raytransfer.data.sources.source import Found, Part, images_of
from raytransfer.errors import UserError
from raytransfer.folder import Folder

RUNS = "unfinished"
"""Folder of runs, inside that of the shards; deleted at the end."""

AGAIN = f"{RUNS}/again"
"""There once the command has ended for unreadable images."""

MOST_CLASSES = 100_000
"""Where the source does not say how many classes it has; a larger label is none."""

BLOCK_BYTES = 32 * 2**20
"""Encoded images that are sorted and written together, so that a shard finds its share of a run in
few places; what a process holds of a run at a time."""


@dataclass(frozen=True)
class Run:
    """What a part became. Arrays have a row for each image, in the order in which they lie."""

    order: NDArray[np.uint64]
    """Place in the order of all images."""
    label: NDArray[np.int32]
    key: pa.Array
    start: NDArray[np.int64]
    """First byte in the run's file."""
    size: NDArray[np.int32]
    original: NDArray[np.int32]
    """[n, 2]: width and height of the image as it came."""
    stored: NDArray[np.int32]
    """[n, 2]: width and height now."""
    content: NDArray[np.uint64]
    """Hash of the image as it lies here: the same for copies."""
    sums: NDArray[np.uint64]
    """[classes here, h, w, channels]: sums of reduced images, for the mean image."""
    sum_labels: NDArray[np.int32]
    """[classes here]: the label of each sum."""
    quarantine: tuple[dict[str, str], ...]
    """Key and reason of each image that could not be read."""

    def to_bytes(self) -> bytes:
        out = io.BytesIO()
        texts = {"key": self.key.to_pylist(), "quarantine": self.quarantine}
        as_json = {n: np.frombuffer(json.dumps(t).encode(), np.uint8) for n, t in texts.items()}
        np.savez(out, **{**vars(self), **as_json})
        return out.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Run":
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            columns: dict[str, Any] = dict(stored)
        columns["key"] = pa.array(json.loads(columns["key"].tobytes()), pa.string())
        columns["quarantine"] = tuple(json.loads(columns["quarantine"].tobytes()))
        return cls(**columns)


@dataclass(frozen=True)
class RunJob:
    """What a process is to do: convert one part of a source into one run."""

    dest: str
    """Folder of the shards, as a path or URI."""
    split: Split
    number: int
    part: Part
    form: Form
    seed: int
    classes: int | None
    """Labels there may be; None for MOST_CLASSES."""

    again: bool = False
    """Whether a run with unreadable images is made anew, as they may have been mended."""

    @property
    def name(self) -> str:
        return run_name(self.split, self.number)


@dataclass(frozen=True)
class Done:
    """What a process says of a job."""

    images: int
    bad: tuple[dict[str, str], ...]

    @classmethod
    def of(cls, run: Run) -> "Done":
        return cls(len(run.order), run.quarantine)


def run_name(split: Split, number: int) -> str:
    return f"{RUNS}/{split}-{number:05d}"


def read_run(folder: Folder, split: Split, number: int) -> Run:
    """A run. Raises UserError where it is not there, or not whole."""
    name = f"{run_name(split, number)}.npz"
    with suppress(zipfile.BadZipFile, ValueError, KeyError, EOFError):
        if (content := folder.read(name)) is not None:
            return Run.from_bytes(content)
    raise UserError(f"{name} in {folder} is gone or damaged: the same command writes it again.")


def write_run(job: RunJob) -> Done:
    """Convert a part and write it as a run, holding BLOCK_BYTES of it at a time.

    A run that is whole is kept.
    """
    # Every core has a part of its own; OpenCV's threads would get in one another's way.
    cv2.setNumThreads(1)
    folder = Folder(job.dest)
    with suppress(UserError):
        there = Done.of(read_run(folder, job.split, job.number))
        if not (job.again and there.bad):
            return there
    rows = _Rows(job)
    with folder.writing(f"{job.name}.images") as out:
        for found in images_of(job.part):
            rows.add(found)
            if rows.waiting_bytes >= BLOCK_BYTES:
                rows.flush(out)
        rows.flush(out)
    run = rows.run()
    folder.write(f"{job.name}.npz", run.to_bytes())
    return Done.of(run)


class _Row(NamedTuple):
    """An image that waits to be written; sorted by its order, and its key where two have one."""

    order: int
    key: str
    label: int
    original: tuple[int, int]
    stored: tuple[int, int]
    content: int
    encoded: bytes


class _Rows:
    """The rows of a run that grows."""

    def __init__(self, job: RunJob) -> None:
        self._job = job
        self._waiting: list[_Row] = []
        self.waiting_bytes = 0
        self._written = 0
        self._columns: dict[str, list[Any]] = defaultdict(list)
        self._sums: dict[int, NDArray[np.uint64]] = {}
        self._bad: list[dict[str, str]] = []

    def add(self, found: Found) -> None:
        """Convert an image. Nothing is kept of what it came as, for fresh memory costs time."""
        image: Converted | str = found.reason
        if found.content is not None:
            most = MOST_CLASSES if self._job.classes is None else self._job.classes
            if not 0 <= found.label < most:
                image = f"its label {found.label} is no class"
            else:
                image = convert(found.content, self._job.form)
        if isinstance(image, str):
            self._bad.append({"key": found.key, "reason": image})
            return
        told = f"{self._job.seed}/{self._job.split}/{found.key}".encode()
        order = int.from_bytes(hashlib.blake2b(told, digest_size=8).digest(), "little")
        content = int.from_bytes(hashlib.sha256(image.encoded).digest()[:8], "little")
        self._waiting.append(
            _Row(
                order, found.key, found.label, image.original, image.stored, content, image.encoded
            )
        )
        self.waiting_bytes += len(image.encoded)
        if self._job.split == "train":
            if found.label not in self._sums:
                self._sums[found.label] = np.zeros(image.reduced.shape, np.uint64)
            self._sums[found.label] += image.reduced

    def flush(self, out: Any) -> None:
        for row in sorted(self._waiting):
            for name, value in row._asdict().items():
                if name != "encoded":
                    self._columns[name].append(value)
            self._columns["start"].append(self._written)
            self._columns["size"].append(len(row.encoded))
            out.write(row.encoded)
            self._written += len(row.encoded)
        self._waiting, self.waiting_bytes = [], 0

    def run(self) -> Run:
        def column(name: str, kind: Any) -> NDArray[Any]:
            return np.array(self._columns[name], dtype=kind)

        labels = sorted(self._sums)
        return Run(
            order=column("order", np.uint64),
            label=column("label", np.int32),
            key=pa.array(self._columns["key"], pa.string()),
            start=column("start", np.int64),
            size=column("size", np.int32),
            original=column("original", np.int32).reshape(-1, 2),
            stored=column("stored", np.int32).reshape(-1, 2),
            content=column("content", np.uint64),
            sums=np.array([self._sums[label] for label in labels], np.uint64),
            sum_labels=np.array(labels, np.int32),
            quarantine=tuple(self._bad),
        )
