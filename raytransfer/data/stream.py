"""The stream: Ray Data reads what a worker's plans say, in their order.

One execution of Ray Data serves a worker for a whole trial: its cohorts in turn, validation
included. Its part of a packet is one item, one task, one block and one row. Every worker runs its
own execution, so that no splitter deals blocks out and none waits for another; that blocks come
as planned is checked all the same.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, astuple
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from raytransfer.data.plan import Packet, StreamPlan
from raytransfer.data.reader import MicroBatch, read_packet, unpack

if TYPE_CHECKING:
    from ray.data import DataIterator, Dataset, ExecutionOptions


def execution_options() -> "ExecutionOptions":
    """What Ray Data must be told to keep the order; Ray Train takes it as
    `DataConfig(execution_options=...)`, as its own options replace those of a data set."""
    from ray.data import ExecutionOptions

    return ExecutionOptions(preserve_order=True)


def dataset(plans: Sequence[StreamPlan], rank: int = 0, *, num_cpus: float = 1.0) -> "Dataset":
    """What worker `rank` reads for the plans, one after the other, as a Ray data set: give it to
    Ray Train, undivided, and what comes out to `batches`.

    num_cpus: cores that Ray counts for a reading task; a part of one lets it run beside others.
    """
    from ray import data

    items = [
        {**asdict(packet), "rank": rank, "plan": number}
        for number, plan in enumerate(plans)
        for packet in plan.packets()
    ]
    stream = data.from_items(items, override_num_blocks=max(1, len(items))).map_batches(
        partial(_read, plans=tuple(plans)),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=num_cpus,
    )
    stream.context.execution_options = execution_options()
    stream.context.enable_progress_bars = False
    return stream


def _read(block: pa.Table, plans: Sequence[StreamPlan]) -> pa.Table:
    """One item to one row: the item's own columns, pixels as bytes, labels."""
    (item,) = block.to_pylist()
    rank, number = item.pop("rank"), item.pop("plan")
    images, labels = read_packet(plans[number], Packet(**item), rank)
    ends = np.array([0, images.nbytes], dtype=np.int64)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(np.ascontiguousarray(images))]
    pixels = pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, buffers)
    return block.append_column("pixels", pixels).append_column(
        "labels", pa.array([labels], pa.list_(pa.int64()))
    )


def batches(
    stream: "DataIterator | Iterable[pa.Table]", plans: Sequence[StreamPlan], rank: int
) -> Iterator[MicroBatch]:
    """The micro-batches of worker `rank` from its data set, arrays read-only.

    Raises RuntimeError when blocks come in another order than planned, or too few, or too many.
    """
    blocks: Iterable[Any] = (
        stream.iter_batches(batch_size=1, batch_format="pyarrow")
        if hasattr(stream, "iter_batches")
        else stream
    )
    expected = ((number, packet) for number, plan in enumerate(plans) for packet in plan.packets())
    for block in blocks:
        number, packet = next(expected, (None, None))
        columns = block.select(["phase", "step", "first", "stop", "rank", "plan"])
        (got,) = (tuple(row.values()) for row in columns.to_pylist())
        if number is None or packet is None or got != (*astuple(packet), rank, number):
            raise RuntimeError(
                f"The stream is out of order: worker {rank} expected {packet} and got {got}."
            )
        plan = plans[number]
        pixels = block["pixels"].chunk(0)[0].as_buffer()
        images = np.frombuffer(pixels, dtype=np.uint8).reshape(-1, *plan.shape)
        labels = block["labels"].chunk(0).values.to_numpy()
        yield from unpack(plan, packet, rank, images, labels)
    if (left := next(expected, None)) is not None:
        raise RuntimeError(f"The stream ended before {left[1]} of worker {rank}.")
