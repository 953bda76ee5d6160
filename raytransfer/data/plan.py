"""What a run reads, in order: a pure function of a few numbers, known before anything is read."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raytransfer.data.manifest import Split, read_manifest
from raytransfer.data.order import check_batch, share
from raytransfer.errors import UserError

DECODED_BYTES = 128 * 2**20
"""A task whose pixels take no more is decoded once and kept by the process that reads it, as small
images cost most to unpack; of a larger one every use is decoded anew."""

PACKET_BYTES = 32 * 2**20
"""What travels together, at most (one micro-batch at least): so much that the five milliseconds
that Ray takes do not count, so little that several fit in memory."""

ITEM_BYTES = 256 * 2**20
"""What one reading task brings, at least, packet after packet: starting one costs milliseconds, and
the images that were being mixed are read again."""

MOST_ITEMS = 1000
"""Reading tasks of a run, about: each costs the start of it 2 ms and some kB."""


@dataclass(frozen=True)
class Share:
    """One worker's part of one global batch."""

    phase: Split
    step: int
    """Of training: the step, from 0. Of validation: the steps done before it."""
    epoch: int
    """Of the batch's first training image; of validation, of the last image trained on."""
    start: int
    """Positions start..stop-1: in the training sequence, or among the validation images."""
    stop: int
    last: bool
    """Whether this is the last batch of a validation; of training, always False."""

    @property
    def positions(self) -> NDArray[np.int64]:
        return np.arange(self.start, self.stop)


@dataclass(frozen=True)
class Packet:
    """Consecutive batches of one phase, which travel together: batches first..stop-1.

    A training batch is counted by its step; a validation batch from the start of its validation,
    which comes after `step` steps.
    """

    phase: Split
    step: int
    first: int
    stop: int

    def batches(self) -> "Iterator[Packet]":
        """The same as packets of one batch."""
        for i in range(self.first, self.stop):
            yield Packet(self.phase, i if self.phase == "train" else self.step, i, i + 1)


@dataclass(frozen=True)
class StreamPlan:
    """The micro-batches of a run: training, and after every `validate_every` steps and at the end
    all validation images. Made by `plan_stream`; holds numbers only, so it travels anywhere."""

    shards: str
    digest: str
    """Of the shards' manifest: other shards in the same place are refused."""
    classes: tuple[int, ...]
    """Labels in the shards, increasing; an image's label in the task is its class's place here."""
    seed: int
    """Of the order of the training images."""
    batch: int
    """Images of a global batch, of all workers together; in validation too."""
    steps: int
    """Training steps of the whole run."""
    validate_every: int
    """Steps from one validation to the next; there is one after the last step, too."""
    workers: int
    start_step: int
    """Steps done already, validation after them included: the run resumes with this step."""
    train_images: int
    val_images: int
    shape: tuple[int, int, int]
    """Channels, height, width."""
    encoded_bytes: int
    """Of an encoded image, the mean of all in the shards."""
    packet_bytes: int
    """PACKET_BYTES, as it was where the plan was made: all processes must cut alike."""
    decoded_bytes: int
    """DECODED_BYTES, likewise."""
    per_class: int | None = None
    """Training images of each class, the first in the shards; None for all."""

    @property
    def val_batches(self) -> int:
        """Global batches of one validation."""
        return -(-self.val_images // self.batch)

    def kept(self, phase: Split) -> bool:
        """Whether the pixels of the task are kept where they are read, and travel as pixels."""
        images = self.train_images if phase == "train" else self.val_images
        return images * math.prod(self.shape) <= self.decoded_bytes

    def batches_per_packet(self, phase: Split) -> int:
        images = self.batch // self.workers
        image = math.prod(self.shape) if self.kept(phase) else self.encoded_bytes
        return max(1, self.packet_bytes // (images * image))

    def items(self) -> Iterator[tuple[int, int]]:
        """What is left to read, cut for reading tasks: steps first..stop-1, and the validations
        after them. However long the run, they are few."""
        image = math.prod(self.shape) if self.kept("train") else self.encoded_bytes
        steps = -(-ITEM_BYTES // (self.batch // self.workers * image))
        steps = max(steps, -(-(self.steps - self.start_step) // MOST_ITEMS))
        for first in range(self.start_step, self.steps, steps):
            yield first, min(first + steps, self.steps)

    def packets(self, first: int, stop: int) -> Iterator[Packet]:
        """The packets of an item, in order: the same for every worker."""
        train, val = self.batches_per_packet("train"), self.batches_per_packet("val")
        while first < stop:
            end = min(stop, (first // self.validate_every + 1) * self.validate_every)
            for i in range(first, end, train):
                yield Packet("train", i, i, min(i + train, end))
            if end % self.validate_every == 0 or end == self.steps:
                for i in range(0, self.val_batches, val):
                    yield Packet("val", end, i, min(i + val, self.val_batches))
            first = end

    def shares(self, packet: Packet, rank: int) -> list[Share]:
        """What worker `rank` gets of a packet, batch by batch; validation shares may be empty."""
        shares = []
        for i in range(packet.first, packet.stop):
            start, stop = i * self.batch, (i + 1) * self.batch
            if packet.phase == "train":
                step, epoch, last = i, start // self.train_images, False
            else:
                stop = min(stop, self.val_images)
                step, epoch = packet.step, (packet.step * self.batch - 1) // self.train_images
                last = i == self.val_batches - 1
            start, stop = share(start, stop, rank, self.workers)
            shares.append(Share(packet.phase, step, epoch, start, stop, last))
        return shares


def plan_stream(
    shards: str,
    classes: tuple[int, ...],
    *,
    seed: int,
    batch: int,
    steps: int,
    validate_every: int,
    workers: int = 1,
    start_step: int = 0,
    per_class: int | None = None,
) -> StreamPlan:
    """Plans what a run on the task of `classes` reads from a folder of shards, local or a URI.

    per_class: only the first so many training images of each class, in the shards' order; a class
    with fewer gives what it has. Validation is always whole. Raises UserError when the shards are
    not whole, lack a class or hold images of several sizes, when the batch cannot be shared by the
    workers, and for numbers that make no run.
    """
    manifest = read_manifest(shards)
    check_batch(batch, workers)
    if steps < 1 or validate_every < 1:
        raise UserError(
            f"steps and validate_every are 1 or more, not {steps} and {validate_every}."
        )
    if not 0 <= start_step <= steps:
        raise UserError(f"start_step is 0 to steps ({steps}), not {start_step}.")
    if per_class is not None and per_class < 1:
        raise UserError(f"Images of each class are 1 or more, not {per_class}.")
    if not classes or list(classes) != sorted(set(classes)):
        raise UserError("The classes of a task are labels in increasing order, each once.")
    if classes[0] < 0 or classes[-1] >= len(manifest.classes):
        missing = classes[0] if classes[0] < 0 else classes[-1]
        raise UserError(
            f"There is no class {missing} in {shards}, which holds classes 0 to "
            f"{len(manifest.classes) - 1}."
        )
    for label in classes:
        if not manifest.train_counts[label] or not manifest.val_counts[label]:
            raise UserError(
                f"The class {manifest.classes[label]} has no images to train or to validate on "
                f"in {shards}."
            )
    if manifest.height is None or manifest.width is None:
        raise UserError(
            f"The images in {shards} differ in size: prepare them again with a size, such as 256."
        )
    files = (*manifest.train, *manifest.val)
    return StreamPlan(
        shards=str(shards),
        digest=manifest.digest,
        classes=tuple(classes),
        seed=seed,
        batch=batch,
        steps=steps,
        validate_every=validate_every,
        workers=workers,
        start_step=start_step,
        train_images=sum(
            min(manifest.train_counts[label], per_class or manifest.train_counts[label])
            for label in classes
        ),
        val_images=sum(manifest.val_counts[label] for label in classes),
        shape=(manifest.channels, manifest.height, manifest.width),
        encoded_bytes=max(1, sum(f.bytes for f in files) // sum(f.rows for f in files)),
        packet_bytes=PACKET_BYTES,
        decoded_bytes=DECODED_BYTES,
        per_class=per_class,
    )


@dataclass(frozen=True)
class Traffic:
    """Encoded bytes of an epoch's training images, of all workers together."""

    read: int
    used: int

    @property
    def thrown_away(self) -> int:
        """Images of other tasks, which share row groups with this one's; and what each of several
        workers reads for the others."""
        return self.read - self.used


def epoch_traffic(plan: StreamPlan) -> Traffic:
    """What an epoch reads, and what it uses of that: expected, as images lie in random order.

    A row group is read whole, once by each worker that needs an image of it.
    """
    manifest = read_manifest(plan.shards)
    rows = sum(file.rows for file in manifest.train)
    size = sum(file.bytes for file in manifest.train)
    share = plan.train_images / rows
    touched = 1 - (1 - share / plan.workers) ** manifest.row_group
    return Traffic(read=round(size * touched * plan.workers), used=round(size * share))
