"""How fast images come: the stream, beside its decoder alone and a plain PyTorch loader."""

import statistics
import threading
import time
from collections import defaultdict, deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain, cycle, repeat

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_image

from raytransfer.data.decoding import IN_TRAINING, Decoding
from raytransfer.data.manifest import read_manifest
from raytransfer.data.pixels import Buffers, channel_first, decode
from raytransfer.data.plan import Packet, StreamPlan, plan_stream
from raytransfer.data.reader import Contents, read_packet
from raytransfer.data.stream import AHEAD, CHUNK, batches, dataset
from raytransfer.schedule.cluster import Device, Layout, check_decoding, this_machine
from raytransfer.schedule.session import cores, ray_session
from raytransfer.study.split import make_split
from raytransfer.train.loop import on_device, pinned

WARM_SECONDS = 3.0
"""Of each side before it is timed: its processes start, and what is read ahead fills up."""

THREAD_SECONDS = 0.5
"""That are left to a thread of Ray Data to end; it takes a tenth."""

IN_MEMORY = 4096
"""Encoded images, about, that the decoder alone and the PyTorch loader have in memory."""


@dataclass(frozen=True)
class Side:
    """What was timed."""

    name: str
    rates: tuple[float, ...]
    """Images a second, of each repeat."""

    @property
    def median(self) -> float:
        return statistics.median(self.rates)


def stream_plan(shards: str, batch: int) -> StreamPlan:
    """A run on half A of a random split, without end; on all classes if there are few."""
    classes = read_manifest(shards).classes
    labels = make_split("random:0", classes).a if len(classes) > 3 else range(len(classes))
    forever = 10**6
    return plan_stream(
        shards, tuple(labels), seed=0, batch=batch, steps=forever, validate_every=forever
    )


def bench_stream(
    plan: StreamPlan,
    *,
    seconds: float = 5.0,
    repeats: int = 3,
    threads: int | None = None,
    device: Device = "auto",
    decoding: Decoding = IN_TRAINING,
    loader: bool = True,
) -> list[Side]:
    """Images a second on the device: by the stream, by its decoder alone, by a PyTorch loader.

    The sides take turns, so that another load on the machine meets all of them. threads: of each
    side; None for one a core.
    """
    threads = threads or cores()
    machine = this_machine(device)
    on = torch.device(machine.device)
    rates: dict[str, list[float]] = defaultdict(list)
    with ray_session(), _loader(plan, threads) if loader else nullcontext() as plain:
        check_decoding(decoding, Layout(machine.device, 1, 1, 1, 1))
        for _ in range(repeats):
            with closing(stream(plan, threads, on, decoding)) as feed:
                rates["stream"].append(rate(feed, seconds))
            with closing(decoder(plan, threads)) as feed:
                rates["decoder alone"].append(rate(feed, seconds))
            if plain is not None:
                on_it = (images.to(on) for images in plain)
                rates["PyTorch DataLoader"].append(rate(on_it, seconds))
    return [Side(name, tuple(found)) for name, found in rates.items()]


def rate(feed: Iterator[Tensor], seconds: float, warm: float = WARM_SECONDS) -> float:
    """Images a second of an endless feed, after its start."""
    next(feed)
    start = time.perf_counter()
    while time.perf_counter() - start < warm:
        next(feed)
    count, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        count += len(next(feed))
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return count / passed


def stream(
    plan: StreamPlan, threads: int, device: torch.device, decoding: Decoding = IN_TRAINING
) -> Generator[Tensor, None, None]:
    """Shards to the device through Ray Data, as in a run."""
    import ray

    allocate = pinned if device.type == "cuda" else None
    bringing = dataset([plan], 0, ray.get_runtime_context().get_node_id(), decoding).iterator()
    others = set(threading.enumerate())
    try:
        with closing(batches(bringing, [plan], 0, threads=threads, allocate=allocate)) as feed:
            for _, (images, *_) in on_device(feed, device):
                yield images
    finally:
        # Ray Data does not wait for its threads, and Ray ends a process one of whose threads asks
        # for an object when Ray has shut down. One that only waits to be asked never ends.
        for thread in set(threading.enumerate()) - others:
            thread.join(THREAD_SECONDS)


def _in_memory(plan: StreamPlan) -> list[Contents]:
    """Encoded images of the first steps, also where a run would keep the pixels."""
    plan = replace(plan, decoded_bytes=0)
    steps = range(-(-IN_MEMORY // plan.batch))
    return [read_packet(plan, Packet("train", i, i, i + 1), 0) for i in steps]


def decoder(plan: StreamPlan, threads: int) -> Generator[Tensor, None, None]:
    """The same decoder on as many threads fills batches from memory."""
    channels, height, width = plan.shape
    buffers, filling = Buffers(), deque[tuple[NDArray[np.uint8], list[Future[None]]]]()

    def fill(contents: Contents, first: int, out: NDArray[np.uint8]) -> None:
        assert contents.ends is not None
        for i, pixels in enumerate(out, first):
            decode(contents.data[contents.ends[i] : contents.ends[i + 1]].data, pixels)

    pool = ThreadPoolExecutor(threads)
    try:
        for contents in cycle(_in_memory(plan)):
            batch = buffers.take((plan.batch, height, width, channels))
            starts = range(0, plan.batch, CHUNK)
            work = [pool.submit(fill, contents, i, batch[i : i + CHUNK]) for i in starts]
            filling.append((batch, work))
            del batch
            if len(filling) > AHEAD:
                batch, work = filling.popleft()
                wait(work)
                yield torch.from_numpy(channel_first(batch))
                del batch
    finally:
        pool.shutdown(cancel_futures=True)


class EncodedImages(Dataset[Tensor]):
    """Encoded images in memory, as a plain PyTorch data set that decodes them."""

    def __init__(self, images: list[NDArray[np.uint8]], channels: int) -> None:
        # One tensor, as each is handed to the loader's processes by itself.
        self.data = torch.from_numpy(np.concatenate(images))
        self.ends = np.cumsum([0, *map(len, images)])
        self.mode = ImageReadMode.GRAY if channels == 1 else ImageReadMode.RGB

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: int) -> Tensor:
        encoded = self.data[self.ends[index] : self.ends[index + 1]]
        image: Tensor = decode_image(encoded, self.mode)
        return image


@contextmanager
def _loader(plan: StreamPlan, processes: int) -> Iterator[Iterator[Tensor]]:
    """What a PyTorch user would write, with the images read beforehand."""
    images: list[NDArray[np.uint8]] = []
    for contents in _in_memory(plan):
        assert contents.ends is not None
        images += np.split(contents.data, contents.ends[1:-1])
    loader = DataLoader(
        EncodedImages(images, plan.shape[0]),
        plan.batch,
        shuffle=True,
        num_workers=processes,
        multiprocessing_context="spawn",
        persistent_workers=True,
    )
    yield chain.from_iterable(repeat(loader))
