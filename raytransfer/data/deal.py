"""From runs to shards: all images in their one order, cut into Parquet files."""

import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet as pq

from raytransfer.data.manifest import Split, StoredFile
from raytransfer.data.runs import Run, run_name
from raytransfer.errors import UserError
from raytransfer.folder import READERS, Folder

ROW_GROUP = 100
"""Rows of a row group, the least that is read at once: 2 MB of photographs of 20 kB. With half as
many, an object store, which takes its time for each request, gives half the images a second; with
more, no more, while what an epoch mixes takes more memory (benchmarks/store.py)."""

SHARD_BYTES = 100 * 2**20
"""Encoded images of a shard: large enough for an object store, and four processes that each hold
one stay within half a gigabyte."""

MOST_BYTES = 2**31 - 1
"""Encoded images of a shard at most, which has a whole number of row groups."""

MOST_ROWS = 10_000
"""Rows of a shard at most, as small images would make one of millions."""

SCHEMA = pa.schema(
    [
        pa.field("image", pa.binary(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("class_name", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
    ]
)
"""A row of a shard: the encoded image, and the width and height that the original had."""


@dataclass(frozen=True)
class Rows:
    """All images of a split in their order, and where each lies among the runs."""

    run: NDArray[np.int64]
    start: NDArray[np.int64]
    size: NDArray[np.int64]
    label: NDArray[np.int32]
    original: NDArray[np.int32]
    key: pa.Array

    def some(self, first: int, stop: int) -> "Rows":
        columns = {name: column[first:stop] for name, column in vars(self).items()}
        return Rows(**{**columns, "key": pa.array(columns["key"].to_pylist(), pa.string())})


@dataclass(frozen=True)
class ShardJob:
    """What a process is to do: gather the rows of one shard from the runs."""

    dest: str
    split: Split
    name: str
    rows: Rows
    classes: tuple[str, ...]


def in_order(runs: Sequence[Run]) -> Rows:
    """The rows of all runs of a split, in the order of all images."""
    number = np.repeat(np.arange(len(runs)), [len(run.order) for run in runs])
    place = np.lexsort((number, np.concatenate([run.order for run in runs])))
    keys = pa.chunked_array([run.key for run in runs], pa.string()).combine_chunks()
    return Rows(
        run=number[place],
        start=np.concatenate([run.start for run in runs])[place],
        size=np.concatenate([run.size for run in runs]).astype(np.int64)[place],
        label=np.concatenate([run.label for run in runs])[place],
        original=np.concatenate([run.original for run in runs])[place],
        key=keys.take(pa.array(place)),
    )


def rows_of_a_shard(images: int, encoded_bytes: int) -> int:
    """A whole number of row groups, of about SHARD_BYTES."""
    rows = SHARD_BYTES * images // max(1, encoded_bytes)
    return max(ROW_GROUP, min(MOST_ROWS, rows) // ROW_GROUP * ROW_GROUP)


def write_shard(job: ShardJob) -> StoredFile:
    """Write one shard, or look again at one that is there."""
    folder, rows = Folder(job.dest), job.rows
    if (content := folder.read(job.name)) is not None:
        sha256, size = hashlib.sha256(content), len(content)
    else:
        with folder.writing(job.name) as out:
            hashed = _Hashed(out)
            _write_rows(job, _images(folder, job.split, rows), hashed)
        sha256, size = hashed.sha256, hashed.size
    return StoredFile(job.name, len(rows.label), size, sha256.hexdigest())


class _Hashed(io.RawIOBase):
    """A stream that hashes what goes through it: no memory is taken for a whole file."""

    def __init__(self, out: Any) -> None:
        self.sha256 = hashlib.sha256()
        self.size = 0
        self._out = out

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self.sha256.update(content)
        self.size += len(content)
        self._out.write(content)
        return len(content)


def _write_rows(job: ShardJob, images: pa.Array, out: _Hashed) -> None:
    rows, names = job.rows, pa.array(job.classes, pa.string())
    columns = [
        images,
        pa.array(rows.label, pa.int32()),
        names.take(pa.array(rows.label)),
        rows.key,
        pa.array(rows.original[:, 0], pa.int32()),
        pa.array(rows.original[:, 1], pa.int32()),
    ]
    pq.write_table(
        pa.Table.from_arrays(columns, schema=SCHEMA),
        out,
        row_group_size=ROW_GROUP,
        compression={name: "none" if name == "image" else "zstd" for name in SCHEMA.names},
        use_dictionary=["label", "class_name"],
        write_statistics=["label"],  # of images it would copy whole ones into the footer
    )


def _images(folder: Folder, split: Split, rows: Rows) -> pa.Array:
    """The encoded images of the rows, gathered in one piece of memory."""
    ends = np.concatenate([[0], np.cumsum(rows.size)])
    if ends[-1] > MOST_BYTES:
        raise UserError(
            f"{len(rows.size)} images of {ends[-1] / len(rows.size) / 1e6:.0f} MB each are more "
            "than a shard can hold: make them smaller with --size."
        )
    images = np.empty(ends[-1], np.uint8)

    def gather(places: NDArray[np.int64]) -> None:
        """Those of one run; neighbours are read at once."""
        start = rows.start[places]
        stop = start + rows.size[places]
        firsts = np.flatnonzero(np.concatenate([[True], start[1:] != stop[:-1]]))
        with folder.open(f"{run_name(split, int(rows.run[places[0]]))}.images") as run:
            for first, last in zip(firsts, [*firsts[1:], len(places)], strict=True):
                run.seek(int(start[first]))
                together = np.frombuffer(run.read(int(stop[last - 1] - start[first])), np.uint8)
                for i in range(first, last):
                    some = together[start[i] - start[first] : stop[i] - start[first]]
                    images[ends[places[i]] : ends[places[i] + 1]] = some

    by_run = np.lexsort((rows.start, rows.run))
    runs = np.split(by_run, np.flatnonzero(np.diff(rows.run[by_run])) + 1)
    # Of this machine's own files one at a time is no slower.
    with ThreadPoolExecutor(1 if folder.local else READERS) as pool:
        for _ in pool.map(gather, runs):
            pass
    buffers = [None, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(images)]
    return pa.Array.from_buffers(pa.binary(), len(rows.size), buffers)
