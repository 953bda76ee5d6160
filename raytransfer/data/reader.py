"""From a plan to encoded images: a task's rows found without decoding, or copying, the others."""

import math
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet as pq

from raytransfer.data.manifest import Manifest, Split, read_labels, read_manifest
from raytransfer.data.order import WHOLE, WINDOW, Sequence
from raytransfer.data.pixels import Buffers, channel_first, channel_last, decode
from raytransfer.data.plan import Packet, Share, StreamPlan
from raytransfer.errors import UserError
from raytransfer.folder import READERS, Folder, check_reached

ENCODED_BYTES = 256 * 2**20
"""Row groups that are kept for a while; WINDOW of them at least, as an epoch mixes so many."""

OPEN_FILES = 256
"""Shards that are kept open, as an object store takes three requests to open one."""


@dataclass(frozen=True)
class MicroBatch:
    """The images of one worker for one step."""

    phase: Split
    step: int
    """Of training: the step, from 0. Of validation: the steps done before it."""
    epoch: int
    """Of training: where the global batch begins. Of validation: the last one trained in."""
    images: NDArray[np.uint8]
    """[b, channel, height, width], channels last in memory; b may be 0 in validation."""
    labels: NDArray[np.int64]
    """[b], 0..k-1 in the task's class order."""
    positions: NDArray[np.int64]
    """[b], places in the training sequence (see `order.uniforms`), or among validation images."""
    last: bool
    """Whether a validation ends with it."""


@dataclass(frozen=True)
class Contents:
    """The images and labels of a worker's part of a packet, its shares one after another."""

    data: NDArray[np.uint8]
    """Encoded images, one after another; or pixels [n, height, width, channel], flat."""
    ends: NDArray[np.int64] | None
    """[n + 1]: encoded image i is data[ends[i]:ends[i + 1]]. None: data are pixels."""
    labels: NDArray[np.int64]
    """[n]."""


_Encoded = tuple[NDArray[np.uint8], NDArray[np.int32]]
"""Encoded images as Arrow has them: bytes, and the offsets of each."""


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
        encoded = sum(file.bytes for file in manifest.files(split)) / sum(sizes)
        self.whole = min(WHOLE, int(ENCODED_BYTES // (manifest.row_group * encoded)))
        """Row groups that may be mixed as one, as so many are kept."""
        self.groups_read = 0
        """Row groups read so far, those read again included."""
        self._groups_before = groups_before
        self._row_in_group = row_in_file % manifest.row_group
        self._opened: OrderedDict[int, pq.ParquetFile] = OrderedDict()
        self._readers = ThreadPoolExecutor(READERS, "read")
        self._recent: OrderedDict[int, _Encoded] = OrderedDict()
        self._recent_bytes = 0
        self._buffers = Buffers()
        assert manifest.height is not None
        assert manifest.width is not None
        self.shape = (manifest.height, manifest.width, manifest.channels)
        self._pixels: NDArray[np.uint8] | None = None
        self._decoded = np.zeros(0, dtype=bool)

    def encoded(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Encoded images, one after another, and where each ends: data and ends of `Contents`."""
        groups = self._row_groups(np.unique(self.groups[rows]).tolist())
        found = []
        for group, row in zip(
            self.groups[rows].tolist(), self._row_in_group[rows].tolist(), strict=True
        ):
            images, offsets = groups[group]
            found.append(images[offsets[row] : offsets[row + 1]])
        ends = np.cumsum([0] + [len(image) for image in found])
        data = self._buffers.take((int(ends[-1]),))
        np.concatenate(found, out=data)
        return data, ends

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Pixels, [len(rows), channel, height, width], channels last in memory. Each image is
        decoded once and kept."""
        if self._pixels is None:
            self._pixels = np.empty((len(self.labels), *self.shape), np.uint8)
            self._decoded = np.zeros(len(self.labels), dtype=bool)
        missing = np.unique(rows[~self._decoded[rows]])
        if len(missing):
            data, ends = self.encoded(missing)
            for i, row in enumerate(missing.tolist()):
                try:
                    decode(data[ends[i] : ends[i + 1]].data, self._pixels[row])
                except Exception as error:  # a decoder may raise anything at a broken image
                    raise self.undecodable(row, error) from error
            self._decoded[missing] = True
        return channel_first(self._pixels[rows])

    def undecodable(self, row: int, error: Exception) -> UserError:
        """What to say of an image that cannot be decoded."""
        file, group = self._place(int(self.groups[row]))
        keys = self._open(file).read_row_group(group, columns=["key"])["key"]
        inside = int(self._row_in_group[row])
        number = group * self.manifest.row_group + inside
        stored = self.manifest.files(self.split)[file].name
        return UserError(
            f"The image {keys[inside].as_py()}, row {number} of {stored} in "
            f"{self.manifest.folder}, cannot be decoded ({error}): prepare the shards again."
        )

    def _row_groups(self, groups: list[int]) -> dict[int, _Encoded]:
        """The images of some row groups, of all classes. Those that were not read of late are read
        now, several shards at a time."""
        found = {}
        missing = defaultdict(list)
        for group in groups:
            if group in self._recent:
                self._recent.move_to_end(group)
                found[group] = self._recent[group]
            else:
                missing[self._place(group)[0]].append(group)
        for some in self._readers.map(self._read, missing.items()):
            self.groups_read += len(some)
            found |= some
            self._recent |= some
            self._recent_bytes += sum(len(data) for data, _ in some.values())
        while self._recent_bytes > ENCODED_BYTES and len(self._recent) > WINDOW:
            self._recent_bytes -= len(self._recent.popitem(last=False)[1][0])
        while len(self._opened) > OPEN_FILES:
            self._opened.popitem(last=False)
        return found

    def _read(self, of_file: tuple[int, list[int]]) -> dict[int, _Encoded]:
        """Some row groups of one file, which no other thread reads meanwhile."""
        file, groups = of_file
        places = [self._place(group)[1] for group in groups]
        try:
            opened = self._open(file)
            column = opened.read_row_groups(places, columns=["image"])["image"]
        except MemoryError:
            raise
        except (pa.ArrowException, OSError) as error:
            check_reached(error)
            stored = self.manifest.files(self.split)[file].name
            raise UserError(
                f"{stored} in {self.manifest.folder} is damaged ({' '.join(str(error).split())}): "
                "copy it again, or prepare the shards again."
            ) from error
        found, first = {}, 0
        for group, place in zip(groups, places, strict=True):
            rows = opened.metadata.row_group(place).num_rows
            some = column.slice(first, rows)
            images = some.combine_chunks() if some.num_chunks > 1 else some.chunk(0)
            _, offsets, data = images.buffers()
            found[group] = (
                np.frombuffer(data, np.uint8),
                np.frombuffer(offsets, np.int32)[images.offset : images.offset + rows + 1],
            )
            first += rows
        return found

    def _place(self, group: int) -> tuple[int, int]:
        """File of a row group, and its number in there."""
        file = int(np.searchsorted(self._groups_before, group, side="right")) - 1
        return file, group - int(self._groups_before[file])

    def _open(self, file: int) -> pq.ParquetFile:
        if file not in self._opened:
            folder = Folder(self.manifest.folder)
            name = self.manifest.files(self.split)[file].name
            # Buffered before, all that is asked for at once is fetched at once.
            self._opened[file] = pq.ParquetFile(folder.open(name), pre_buffer=True)
        self._opened.move_to_end(file)
        return self._opened[file]


def among_first(labels: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
    """Whether each label is one of the first `count` of its class: [n]."""
    by_class = np.argsort(labels, kind="stable")
    ordered = labels[by_class]
    among = np.empty(len(labels), dtype=bool)
    among[by_class] = np.arange(len(labels)) - np.searchsorted(ordered, ordered) < count
    return among


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
    return images, Sequence(seed, images.groups, images.whole)


def _rows(plan: StreamPlan, packet: Packet, rank: int) -> tuple[Images, NDArray[np.int64]]:
    """The rows of a worker's shares of a packet, one share after another."""
    # Validation is always whole.
    per_class = plan.per_class if packet.phase == "train" else None
    images, sequence = _images(
        plan.shards, plan.digest, packet.phase, plan.classes, plan.seed, per_class
    )
    shares = plan.shares(packet, rank)
    if packet.phase == "train":
        return images, np.concatenate([sequence.rows(each.start, each.stop) for each in shares])
    return images, np.concatenate([each.positions for each in shares])


def read_packet(plan: StreamPlan, packet: Packet, rank: int) -> Contents:
    """A worker's part of a packet: pixels where the plan keeps them, else encoded images."""
    images, rows = _rows(plan, packet, rank)
    if plan.kept(packet.phase):
        return Contents(channel_last(images.read(rows)).reshape(-1), None, images.labels[rows])
    return Contents(*images.encoded(rows), images.labels[rows])


def decode_part(
    plan: StreamPlan,
    packet: Packet,
    rank: int,
    contents: Contents,
    first: int,
    out: NDArray[np.uint8],
) -> None:
    """Pixels of images first, first + 1, ... of a packet, into out [n, height, width, channel].

    Raises UserError that names the image when one cannot be decoded.
    """
    if contents.ends is None:
        size = math.prod(out.shape[1:])
        part = contents.data[first * size : (first + len(out)) * size]
        np.copyto(out, part.reshape(out.shape))
        return
    data, ends = contents.data.data, contents.ends[first : first + len(out) + 1].tolist()
    for i, (start, stop) in enumerate(pairwise(ends)):
        try:
            decode(data[start:stop], out[i])
        except Exception as error:  # a decoder may raise anything at a broken image
            images, rows = _rows(plan, packet, rank)
            raise images.undecodable(int(rows[first + i]), error) from error


def read_locally(plan: StreamPlan, rank: int = 0) -> Iterator[MicroBatch]:
    """What worker `rank` gets from the stream, read in this process, without Ray."""
    channels, height, width = plan.shape
    for item in plan.items():
        for packet in plan.packets(*item):
            contents = read_packet(plan, packet, rank)
            start = 0
            for share in plan.shares(packet, rank):
                stop = start + share.stop - share.start
                pixels = np.empty((stop - start, height, width, channels), np.uint8)
                decode_part(plan, packet, rank, contents, start, pixels)
                yield micro_batch(share, pixels, contents.labels[start:stop])
                start = stop


def micro_batch(share: Share, pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> MicroBatch:
    """A share with its pixels [b, height, width, channel] and labels [b]."""
    images = channel_first(pixels)
    return MicroBatch(
        share.phase, share.step, share.epoch, images, labels, share.positions, share.last
    )
