"""From a plan to pixels: rows of a task found without decoding the others, each decoded once."""

import io
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet as pq

from raytransfer.data.manifest import Manifest, Split, locate, read_labels, read_manifest
from raytransfer.data.order import Sequence
from raytransfer.data.plan import Packet, StreamPlan
from raytransfer.errors import UserError

DECODED_BYTES = 128 * 2**20
"""A task whose pixels take no more is decoded once and kept, as small images cost most to unpack;
of a larger one every use is decoded, and the encoded images are kept for a while."""

ENCODED_BYTES = 256 * 2**20
"""Encoded images kept of a larger task: more than the row groups that an epoch mixes at a time."""


@dataclass(frozen=True)
class MicroBatch:
    """The images of one worker for one step. The arrays may be read-only."""

    phase: Split
    step: int
    """Of training: the step, from 0. Of validation: the steps done before it."""
    epoch: int
    """Of training: where the global batch begins. Of validation: the last one trained in."""
    images: NDArray[np.uint8]
    """[b, channel, height, width]; b may be 0 in validation."""
    labels: NDArray[np.int64]
    """[b], 0..k-1 in the task's class order."""
    positions: NDArray[np.int64]
    """[b], places in the training sequence (see `order.uniforms`), or among validation images."""
    last: bool
    """Whether a validation ends with it."""


class Images:
    """The images of one task in the train or val shards: rows 0..n-1, in the shards' order."""

    def __init__(
        self,
        manifest: Manifest,
        split: Split,
        classes: tuple[int, ...],
        per_class: int | None = None,
    ) -> None:
        """per_class: only the first so many images of each class; None for all."""
        self.manifest = manifest
        self.split = split
        labels = read_labels(manifest, split)
        sizes = [file.rows for file in manifest.files(split)]
        row_in_file = np.concatenate([np.arange(size) for size in sizes])
        file = np.repeat(np.arange(len(sizes)), sizes)
        task_label = np.full(len(manifest.classes), -1)
        task_label[list(classes)] = np.arange(len(classes))
        mine = np.flatnonzero(task_label[labels] >= 0)
        if per_class is not None:
            mine = mine[among_first(labels[mine], per_class)]
        self.labels: NDArray[np.int64] = task_label[labels[mine]]
        """[n], 0..k-1."""
        groups_before = np.cumsum([0] + [-(-size // manifest.row_group) for size in sizes])
        row_in_file, file = row_in_file[mine], file[mine]
        self.groups: NDArray[np.int64] = groups_before[file] + row_in_file // manifest.row_group
        """[n], increasing: the row group of each row, counted through all files."""
        self._groups_before = groups_before
        self._row_in_group = row_in_file % manifest.row_group
        self._first_of_group = np.searchsorted(self.groups, np.arange(groups_before[-1] + 1))
        self._opened: dict[int, pq.ParquetFile] = {}
        self._recent: OrderedDict[int, pa.ChunkedArray] = OrderedDict()
        self._recent_bytes = 0
        assert manifest.height is not None
        assert manifest.width is not None
        self.shape = (manifest.channels, manifest.height, manifest.width)
        keep = len(mine) * int(np.prod(self.shape)) <= DECODED_BYTES
        self._pixels = np.empty((len(mine), *self.shape), np.uint8) if keep else None
        self._decoded = np.zeros(len(mine) if keep else 0, dtype=bool)

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The pixels of some rows, [len(rows), channel, height, width]."""
        if self._pixels is None:
            pixels = np.empty((len(rows), *self.shape), np.uint8)
            self._decode(rows, pixels, np.arange(len(rows)))
            return pixels
        missing = np.unique(rows[~self._decoded[rows]])
        self._decode(missing, self._pixels, missing)
        self._decoded[missing] = True
        return self._pixels[rows]

    def _decode(
        self, rows: NDArray[np.int64], out: NDArray[np.uint8], places: NDArray[np.int64]
    ) -> None:
        """Decodes rows into places of `out`, row group by row group."""
        if not len(rows):
            return
        by_group = np.argsort(self.groups[rows], kind="stable")
        rows, places = rows[by_group], places[by_group]
        names, starts = np.unique(self.groups[rows], return_index=True)
        stops = np.append(starts[1:], len(rows))
        for group, start, stop in zip(names.tolist(), starts, stops, strict=True):
            encoded = self._row_group(group)
            for row, place in zip(rows[start:stop], places[start:stop], strict=True):
                image = encoded[int(row - self._first_of_group[group])].as_buffer()
                decode(image, out[place])

    def _row_group(self, group: int) -> pa.ChunkedArray:
        """The encoded images of the task in one row group."""
        if group in self._recent:
            self._recent.move_to_end(group)
            return self._recent[group]
        number = int(np.searchsorted(self._groups_before, group, side="right")) - 1
        if number not in self._opened:
            filesystem, root = locate(self.manifest.folder)
            name = self.manifest.files(self.split)[number].name
            self._opened = {number: pq.ParquetFile(filesystem.open_input_file(f"{root}/{name}"))}
        inside = group - int(self._groups_before[number])
        images = self._opened[number].read_row_group(inside, columns=["image"])["image"]
        mine = slice(self._first_of_group[group], self._first_of_group[group + 1])
        images = images.take(pa.array(self._row_in_group[mine]))
        if self._pixels is None:
            self._recent[group] = images
            self._recent_bytes += images.nbytes
            while self._recent_bytes > ENCODED_BYTES and len(self._recent) > 1:
                self._recent_bytes -= self._recent.popitem(last=False)[1].nbytes
        return images


def among_first(labels: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
    """Whether each label is one of the first `count` of its class: [n]."""
    by_class = np.argsort(labels, kind="stable")
    ordered = labels[by_class]
    among = np.empty(len(labels), dtype=bool)
    among[by_class] = np.arange(len(labels)) - np.searchsorted(ordered, ordered) < count
    return among


def decode(encoded: pa.Buffer, out: NDArray[np.uint8]) -> None:
    """Decodes an image into `out` [channel, height, width]."""
    mode = "L" if len(out) == 1 else "RGB"
    with Image.open(io.BytesIO(encoded)) as opened:
        image = opened if opened.mode == mode else opened.convert(mode)
        pixels = np.asarray(image)
    out[...] = pixels[None] if len(out) == 1 else pixels.transpose(2, 0, 1)


@lru_cache(maxsize=4)
def _images(
    shards: str,
    digest: str,
    split: Split,
    classes: tuple[int, ...],
    seed: int,
    per_class: int | None,
) -> tuple[Images, Sequence]:
    """Kept from packet to packet in the reading process, for two runs at a time."""
    manifest = read_manifest(shards)
    if manifest.digest != digest:
        raise UserError(f"The shards in {shards} were replaced since the run was planned.")
    images = Images(manifest, split, classes, per_class)
    return images, Sequence(seed, images.groups)


def read_packet(
    plan: StreamPlan, packet: Packet, rank: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels [n, channel, height, width] and labels [n] of a worker's shares, one after another."""
    # Validation is always whole.
    per_class = plan.per_class if packet.phase == "train" else None
    images, sequence = _images(
        plan.shards, plan.digest, packet.phase, plan.classes, plan.seed, per_class
    )
    shares = plan.shares(packet, rank)
    if packet.phase == "train":
        rows = np.concatenate([sequence.rows(share.start, share.stop) for share in shares])
    else:
        rows = np.concatenate([share.positions for share in shares])
    return images.read(rows), images.labels[rows]


def unpack(
    plan: StreamPlan,
    packet: Packet,
    rank: int,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
) -> Iterator[MicroBatch]:
    """The micro-batches of a packet that was read, as views of its arrays."""
    start = 0
    for share in plan.shares(packet, rank):
        stop = start + share.stop - share.start
        yield MicroBatch(
            share.phase,
            share.step,
            share.epoch,
            images[start:stop],
            labels[start:stop],
            share.positions,
            share.last,
        )
        start = stop


def read_locally(plan: StreamPlan, rank: int = 0) -> Iterator[MicroBatch]:
    """What worker `rank` gets from the stream, read in this process, without Ray."""
    for packet in plan.packets():
        yield from unpack(plan, packet, rank, *read_packet(plan, packet, rank))
