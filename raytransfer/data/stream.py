"""The stream: Ray Data brings what a worker's plans say, in their order; threads decode it.

One execution of Ray Data serves a worker for a whole trial: its cohorts in turn, validation
included. A reading task takes an item, many steps long, and gives its packets one after another,
each a block of one row. Every worker runs its own execution, so that no splitter deals blocks out
and none waits for another; that blocks come as planned is checked all the same.

Images travel encoded, a tenth of the bytes of their pixels, and threads of the training process
decode them straight into the batch. Where other machines have cores to spare, tasks of Ray Data
decode instead.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import astuple, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raytransfer.data.decoding import IN_TRAINING, Decoding
from raytransfer.data.pixels import Buffers
from raytransfer.data.plan import Packet, StreamPlan
from raytransfer.data.reader import Contents, MicroBatch, decode_part, micro_batch, read_packet

if TYPE_CHECKING:
    from ray.data import DataIterator, Dataset

READING_SHARE = 0.001
"""Of a decoding machine's resource that a reading task takes, so that it runs there."""

AHEAD_BYTES = 256 * 2**20
"""What Ray Data may hold for a worker: it reads ahead until this is full."""

PAUSE_SECONDS = 0.02
"""Between two looks of Ray Data at what was read; several packets wait meanwhile."""

AHEAD = 2
"""Batches decoded beyond the one in use."""

CHUNK = 16
"""Images that a thread decodes at a time."""

INLINE_BYTES = 2**20
"""Pixels that are sooner copied than handed to a thread."""


class Unhurried:
    """A pause in Ray Data's loop, which runs in the training process: where it may not read on, as
    enough waits, it would turn without rest, and take a core and Python's lock from training."""

    def before_execution_starts(self, executor: Any) -> None:
        pass

    def on_execution_step(self, executor: Any) -> None:
        time.sleep(PAUSE_SECONDS)

    def after_execution_succeeds(self, executor: Any) -> None:
        pass

    def after_execution_fails(self, executor: Any, error: Exception) -> None:
        pass


def dataset(
    plans: Sequence[StreamPlan],
    rank: int,
    node: str,
    decoding: Decoding = IN_TRAINING,
) -> "Dataset":
    """What worker `rank` reads for the plans, one after the other, as a Ray data set, made in that
    worker: give its iterator to `batches`. node: the id that Ray has for the worker's machine,
    where reading runs, too, unless other machines decode."""
    from ray import data
    from ray.data import ExecutionOptions, ExecutionResources

    items = [
        {"plan": number, "first": first, "stop": stop}
        for number, plan in enumerate(plans)
        for first, stop in plan.items()
    ]
    every = tuple(plans)
    resource = decoding.decode_resource
    # One task reads at a time: it brings more than can be decoded, and of what several brought
    # ahead of their turn, all would wait in memory. It asks for no core, as it mostly copies (7,000
    # photographs a second take a tenth of one), and Ray Data deals whole cores out to workers: with
    # more workers than cores to spare on any machine, all would wait for ever.
    stream = data.from_items(items, override_num_blocks=max(1, len(items))).map_batches(
        partial(_read, plans=every, rank=rank),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=0,
        resources={resource: READING_SHARE} if resource is not None else None,
        label_selector={"ray.io/node-id": node} if resource is None else None,
        compute=data.TaskPoolStrategy(size=1),
    )
    if decoding.decode == "tasks":
        stream = stream.map_batches(
            partial(_decode, plans=every, rank=rank),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=1 if resource is None else 0,
            resources={resource: 1} if resource is not None else None,
        )
    # Where tasks decode, there may be many at once, with pixels each: Ray's own limit holds.
    limit = AHEAD_BYTES if decoding.decode == "train" else None
    stream.context.execution_options = ExecutionOptions(
        preserve_order=True,
        resource_limits=ExecutionResources.for_limits(object_store_memory=limit),
    )
    stream.context.enable_progress_bars = False
    # A row is a block: otherwise they are put together, and copied, up to 128 MB.
    stream.context.target_max_block_size = 1
    stream.context.custom_execution_callback_classes = [Unhurried]  # type: ignore[list-item]
    return stream


def _read(block: pa.Table, plans: Sequence[StreamPlan], rank: int) -> Iterator[pa.Table]:
    """Items to packets, a row each."""
    for item in block.to_pylist():
        plan = plans[item["plan"]]
        for packet in plan.packets(item["first"], item["stop"]):
            yield _row(item["plan"], packet, rank, read_packet(plan, packet, rank))


def _decode(block: pa.Table, plans: Sequence[StreamPlan], rank: int) -> Iterator[pa.Table]:
    """Packets of encoded images to packets of pixels, which are ten times as large: of one batch
    each."""
    for row in _arrived(block):
        if row.contents.ends is None:
            yield _row(row.plan, row.packet, row.rank, row.contents)
            continue
        plan = plans[row.plan]
        channels, height, width = plan.shape
        start = 0
        shares = plan.shares(row.packet, rank)
        for batch, share in zip(row.packet.batches(), shares, strict=True):
            stop = start + share.stop - share.start
            pixels = np.empty((stop - start, height, width, channels), np.uint8)
            decode_part(plan, row.packet, rank, row.contents, start, pixels)
            decoded = Contents(pixels.reshape(-1), None, row.contents.labels[start:stop])
            yield _row(row.plan, batch, rank, decoded)
            start = stop


@dataclass(frozen=True)
class _Row:
    """What a row of a block says."""

    plan: int
    """Number of the plan among those of the stream."""
    packet: Packet
    rank: int
    contents: Contents


_COLUMNS = ("plan", "phase", "step", "first", "stop", "rank")


def _row(plan: int, packet: Packet, rank: int, contents: Contents) -> pa.Table:
    """A packet as a table of one row; images are not copied."""
    size = np.array([0, len(contents.data)], dtype=np.int64)
    buffers = [None, pa.py_buffer(size), pa.py_buffer(contents.data)]
    numbers = {
        name: [value] for name, value in zip(_COLUMNS, (plan, *astuple(packet), rank), strict=True)
    }
    return pa.table(
        {
            **numbers,
            "data": pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, buffers),
            "ends": pa.array([contents.ends], pa.list_(pa.int64())),
            "labels": pa.array([contents.labels], pa.list_(pa.int64())),
        }
    )


def _arrived(block: pa.Table) -> Iterator[_Row]:
    """The rows of a block, their arrays views of it, read-only."""
    for i in range(len(block)):
        plan, phase, step, first, stop, rank = (block[name][i].as_py() for name in _COLUMNS)
        one = block["data"].slice(i, 1).chunk(0)
        _, offsets, data = one.buffers()  # a scalar of it would be a copy
        start, end = np.frombuffer(offsets, np.int64)[one.offset : one.offset + 2]
        ends, labels = block["ends"][i].values, block["labels"][i].values
        contents = Contents(
            np.frombuffer(data, np.uint8)[start:end], ends and ends.to_numpy(), labels.to_numpy()
        )
        yield _Row(plan, Packet(phase, step, first, stop), rank, contents)


def batches(
    stream: "DataIterator | Iterable[pa.Table]",
    plans: Sequence[StreamPlan],
    rank: int,
    *,
    threads: int = 1,
    allocate: Callable[[int], NDArray[np.uint8]] | None = None,
) -> Generator[MicroBatch, None, None]:
    """The micro-batches of worker `rank` from its data set, decoded ahead by some threads.

    allocate: memory for batches, as `Buffers` takes it. An array may be kept as long as one likes.
    Raises RuntimeError when blocks come in another order than planned, or too few, or too many, and
    UserError that names an image which cannot be decoded.
    """
    buffers = Buffers(allocate)
    ahead: deque[tuple[MicroBatch, list[Future[None]]]] = deque()
    pool = ThreadPoolExecutor(threads, "decode")
    try:
        for row in _checked(stream, plans, rank):
            for batch in _filled(row, plans[row.plan], rank, buffers, pool):
                ahead.append(batch)
                del batch
                if len(ahead) > AHEAD:
                    yield _finished(*ahead.popleft())
        while ahead:
            yield _finished(*ahead.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _finished(batch: MicroBatch, work: list[Future[None]]) -> MicroBatch:
    for part in work:
        part.result()
    return batch


def _filled(
    row: _Row, plan: StreamPlan, rank: int, buffers: Buffers, pool: ThreadPoolExecutor
) -> Iterator[tuple[MicroBatch, list[Future[None]]]]:
    """The micro-batches of a row, with the work that is still to do for each."""
    channels, height, width = plan.shape
    labels = row.contents.labels.copy()
    start = 0
    for share in plan.shares(row.packet, rank):
        stop = start + share.stop - share.start
        pixels = buffers.take((stop - start, height, width, channels))
        batch = micro_batch(share, pixels, labels[start:stop])
        fill = partial(decode_part, plan, row.packet, rank, row.contents)
        if row.contents.ends is None and pixels.nbytes < INLINE_BYTES:
            fill(start, pixels)
            yield batch, []
        else:
            yield (
                batch,
                [
                    pool.submit(fill, start + i, pixels[i : i + CHUNK])
                    for i in range(0, len(pixels), CHUNK)
                ],
            )
        start = stop


def _checked(
    stream: "DataIterator | Iterable[pa.Table]", plans: Sequence[StreamPlan], rank: int
) -> Iterator[_Row]:
    """The rows of a stream, which must be those that are planned."""
    blocks: Iterable[Any] = (
        stream.iter_batches(batch_size=None, batch_format="pyarrow")  # type: ignore[arg-type]
        if hasattr(stream, "iter_batches")
        else stream
    )
    expected = (
        (number, batch, rank)
        for number, plan in enumerate(plans)
        for item in plan.items()
        for packet in plan.packets(*item)
        for batch in packet.batches()
    )
    for block in blocks:
        for row in _arrived(block):
            for batch in row.packet.batches():
                if (planned := next(expected, None)) != (row.plan, batch, row.rank):
                    raise RuntimeError(
                        f"The stream is out of order: worker {rank} expected {planned} and got "
                        f"{row.packet} of plan {row.plan} and worker {row.rank}."
                    )
            yield row
    if (left := next(expected, None)) is not None:
        raise RuntimeError(f"The stream ended before {left[1]} of worker {rank}.")
