"""Images in: how fast shards are written and streamed, beside the codec alone and beside others.

    uv run --with webdataset --with litdata --with mosaicml-streaming benchmarks/ingest.py

Photographs of 500x375 are cut at random from scikit-learn's two sample images.

(a) `prepare` makes 256x256 shards of them, from a folder. Beside it: decoding, resizing and
    encoding alone, from memory, on as many threads as there are cores (simplejpeg and OpenCV); and
    a pool of as many processes that do the same with Pillow, from and to files.
(b) The stream brings those shards as uint8 batches into this process, through Ray Data as in a run,
    all classes. Beside it: the decoder alone, filling batches from memory on as many threads; and
    what others read the same 256x256 images with, as in their own documentation, each in its own
    format and with as many processes: Pillow or torchvision decodes there.
(c) Microseconds an image, of both, for more and more images of 64x64, in processes that have begun.

Sides take turns; medians of the repeats, and ratios. Starting up and the first seconds are not
counted in (b); in (a) everything is, but for Ray's start. Others that are not installed are named.
"""

import argparse
import io
import multiprocessing
import os
import platform
import shutil
import statistics
import sys
import tarfile
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet as pq
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.io import decode_image
from torchvision.transforms.functional import pil_to_tensor

from raytransfer.data.manifest import read_manifest
from raytransfer.data.mapping import over_ray
from raytransfer.data.plan import StreamPlan, plan_stream
from raytransfer.data.shards import prepare
from raytransfer.schedule.bench import decoder, rate, stream
from raytransfer.schedule.session import cores, ray_session

CLASSES, BATCH, QUALITY = 10, 256, 90
PEERS = {"webdataset": "webdataset", "litdata": "litdata", "streaming": "mosaicml-streaming"}
SPAWNED = multiprocessing.get_context("spawn")
SPAWN: dict[str, Any] = {"multiprocessing_context": SPAWNED, "persistent_workers": True}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=4000, help="photographs; 4000 by default")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a repeat of (b)")
    parser.add_argument(
        "--flat", type=int, nargs="*", default=[4000, 20_000, 100_000], help="images of (c)"
    )
    parser.add_argument("--no-peers", action="store_true", help="only what is ours")
    options = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {cores()} cores, load ", end="")
    print(f"{os.getloadavg()[0]:.1f} at the start; Python {platform.python_version()}, ", end="")
    print(f"torch {torch.__version__}, simplejpeg {simplejpeg.__version__}, cv2 {cv2.__version__}")
    missing = [name for module, name in PEERS.items() if find_spec(module) is None]
    if missing and not options.no_peers:
        print("not measured, not installed: " + " ".join(f"--with {name}" for name in missing))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        source = work / "photographs"
        size = write_photographs(source, options.images, 500, 375, QUALITY)
        print(f"(a) {options.images} photographs of 500x375, {size / 1000:.0f} kB each, to 256x256")
        with ray_session(cores()):
            show(preparing(source, work, options.repeats), "codec alone")
        with ray_session():
            plan = endless(work / "shards")
            kilobytes = plan.encoded_bytes / 1000
            print(f"(b) {plan.train_images} images of 256x256, {kilobytes:.0f} kB each, to batches")
            peers = {} if options.no_peers else peers_of(work)
            show(streaming(plan, peers, options.seconds, options.repeats), "decoder alone")
        if options.flat:
            print("(c) microseconds an image of 64x64")
            flatness(work, options.flat, options.seconds)


def show(sides: dict[str, list[float]], of: str) -> None:
    """Print images a second, and the ratio to one side."""
    reference = statistics.median(sides[of])
    for name, rates in sides.items():
        median = statistics.median(rates)
        spread = f"{min(rates):,.0f}-{max(rates):,.0f}"
        print(f"    {name:34} {median:8,.0f} images/s {spread:>15} {median / reference:6.2f}")


# Photographs


def write_photographs(folder: Path, count: int, width: int, height: int, quality: int) -> float:
    """A tree train/<class>/, val/<class>/ of cut-outs, one of twenty for validation; mean bytes."""
    photographs = load_sample_images().images
    random = np.random.default_rng(0)
    size = 0
    for i in range(count):
        encoded = simplejpeg.encode_jpeg(
            cut_out(random, photographs, width, height), quality, colorsubsampling="420"
        )
        size += len(encoded)
        # Every class has images of both kinds, also where there are few.
        kind, label = ("val" if i // CLASSES % 20 == 0 else "train"), i % CLASSES
        path = folder / kind / f"class{label}" / f"{i}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded)
    return size / count


def cut_out(
    random: np.random.Generator, photographs: list[NDArray[np.uint8]], width: int, height: int
) -> NDArray[np.uint8]:
    """A random part of a random photograph, mirrored or not, [height, width, 3]."""
    image = photographs[random.integers(len(photographs))]
    scale = random.uniform(0.6, 0.95) * min(image.shape[0] / height, image.shape[1] / width)
    tall, wide = int(scale * height), int(scale * width)
    top = random.integers(image.shape[0] - tall + 1)
    left = random.integers(image.shape[1] - wide + 1)
    part = image[top : top + tall, left : left + wide][:, :: random.choice([1, -1])]
    resized = cv2.resize(np.ascontiguousarray(part), (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(resized, dtype=np.uint8)


# (a) Preparing


def preparing(source: Path, work: Path, repeats: int) -> dict[str, list[float]]:
    """Images a second of each side. Leaves the shards in `work`/shards."""
    paths = sorted(source.rglob("*.JPEG"))
    images = [path.read_bytes() for path in paths]
    sides: dict[str, Callable[[], None]] = {
        "raytransfer prepare": lambda: ours(source, work / "shards", 256),
        "codec alone": lambda: codec_alone(images),
        "Pillow in processes": lambda: pillow_pool(paths, work / "pillow"),
    }
    rates: dict[str, list[float]] = defaultdict(list)
    for _ in range(repeats):
        for name, side in sides.items():
            written = {"raytransfer prepare": "shards", "Pillow in processes": "pillow"}.get(name)
            if written is not None:
                shutil.rmtree(work / written, ignore_errors=True)
            start = time.perf_counter()
            side()
            rates[name].append(len(paths) / (time.perf_counter() - start))
    return rates


def ours(source: Path, dest: Path, size: int) -> None:
    prepare(source, dest, size=size, mapper=over_ray)


def codec_alone(images: list[bytes]) -> None:
    """Decode, resize and encode from memory on all cores."""
    cv2.setNumThreads(1)

    def convert(encoded: bytes) -> int:
        pixels = simplejpeg.decode_jpeg(encoded, "RGB")
        pixels = cv2.resize(pixels, (256, 256), interpolation=cv2.INTER_LINEAR)
        return len(simplejpeg.encode_jpeg(pixels, QUALITY, colorsubsampling="420"))

    with ThreadPoolExecutor(cores()) as pool:
        assert min(pool.map(convert, images)) > 0


def pillow_pool(paths: list[Path], dest: Path) -> None:
    dest.mkdir()
    with ProcessPoolExecutor(cores()) as pool:
        jobs = [(path, dest / f"{i}.jpg") for i, path in enumerate(paths)]
        assert sum(pool.map(with_pillow, jobs, chunksize=32)) == len(paths)


def with_pillow(job: tuple[Path, Path]) -> int:
    path, dest = job
    with Image.open(path) as image:
        small = image.convert("RGB").resize((256, 256), Image.Resampling.BILINEAR)
    small.save(dest, "JPEG", quality=QUALITY)
    return 1


# (b) Streaming


def endless(shards: Path) -> StreamPlan:
    """All classes, each image decoded whenever it is used, for ever."""
    classes = tuple(range(len(read_manifest(shards).classes)))
    plan = plan_stream(str(shards), classes, seed=0, batch=BATCH, steps=10**6, validate_every=10**6)
    return replace(plan, decoded_bytes=0)


def streaming(
    plan: StreamPlan,
    peers: dict[str, Callable[[], Iterator[Any]]],
    seconds: float,
    repeats: int,
) -> dict[str, list[float]]:
    """Images a second of each side."""
    rates: dict[str, list[float]] = defaultdict(list)
    for _ in range(repeats):
        with closing(stream(plan, cores(), torch.device("cpu"))) as feed:
            rates["raytransfer stream"].append(rate(feed, seconds))
        with closing(decoder(plan, cores())) as feed:
            rates["decoder alone"].append(rate(feed, seconds))
        for name, peer in peers.items():
            rates[name].append(rate(peer(), seconds))
    return rates


def peers_of(work: Path) -> dict[str, Callable[[], Iterator[Any]]]:
    """What others read the same images with: endless batches, uint8."""
    tree = work / "tree"
    images = stored(work / "shards")
    for i, (encoded, label) in enumerate(images):
        (tree / str(label)).mkdir(parents=True, exist_ok=True)
        (tree / str(label) / f"{i:06}.jpg").write_bytes(encoded)
    peers: dict[str, Callable[[], Iterator[Any]]] = {
        "torchvision ImageFolder, DataLoader": lambda: image_folder(tree),
        "ray.data.read_images": lambda: read_images(tree),
        "ray.data.read_parquet and map": lambda: read_parquet(work / "shards"),
    }
    if find_spec("webdataset"):
        peers["WebDataset"] = web_dataset(images, work / "tars")
    if find_spec("litdata"):
        peers["LitData"] = lit_data(tree, work / "lit")
    if find_spec("streaming"):
        peers["MosaicML Streaming"] = mosaic(images, work / "mosaic")
    return peers


def stored(shards: Path) -> list[tuple[bytes, int]]:
    """The training images of some shards, encoded, with their labels."""
    manifest = read_manifest(shards)
    tables = [pq.read_table(shards / file.name) for file in manifest.train]
    rows = ((table["image"].to_pylist(), table["label"].to_pylist()) for table in tables)
    return [pair for images, labels in rows for pair in zip(images, labels, strict=True)]


def image_folder(tree: Path) -> Iterator[Any]:
    data = ImageFolder(tree, transform=pil_to_tensor)
    loader = DataLoader(data, BATCH, shuffle=True, num_workers=cores(), **SPAWN)
    return (images for images, _ in chain.from_iterable(repeat(loader)))


def read_images(tree: Path) -> Iterator[Any]:
    from ray import data

    while True:
        batches = data.read_images(str(tree), mode="RGB").iter_batches(
            batch_size=BATCH, batch_format="numpy"
        )
        yield from (batch["image"] for batch in batches)


def read_parquet(shards: Path) -> Iterator[Any]:
    from ray import data

    files = [str(shards / file.name) for file in read_manifest(shards).train]
    while True:
        decoded = data.read_parquet(files).select_columns(["image", "label"]).map(decode_row)
        batches = decoded.iter_batches(batch_size=BATCH, batch_format="numpy")
        yield from (batch["image"] for batch in batches)


def decode_row(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "image": np.asarray(Image.open(io.BytesIO(row["image"])).convert("RGB"))}


def web_dataset(images: list[tuple[bytes, int]], folder: Path) -> Callable[[], Iterator[Any]]:
    import webdataset as wds

    folder.mkdir()
    per_tar = -(-len(images) // (4 * cores()))
    names = []
    for first in range(0, len(images), per_tar):
        names.append(str(folder / f"{first:06}.tar"))
        with tarfile.open(names[-1], "w") as tar:
            for i, (encoded, label) in enumerate(images[first : first + per_tar], first):
                for ending, content in (("jpg", encoded), ("cls", str(label).encode())):
                    member = tarfile.TarInfo(f"{i:06}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))

    def feed() -> Iterator[Any]:
        data = wds.WebDataset(names, shardshuffle=len(names)).shuffle(1000)
        data = data.decode("torchrgb8").to_tuple("jpg", "cls").batched(BATCH, partial=False)
        loader = wds.WebLoader(data, batch_size=None, num_workers=cores(), **SPAWN)
        return (images for images, _ in chain.from_iterable(repeat(loader)))

    return feed


def lit_data(tree: Path, folder: Path) -> Callable[[], Iterator[Any]]:
    import litdata

    litdata.optimize(
        fn=lit_sample,
        inputs=sorted(map(str, tree.rglob("*.jpg"))),
        output_dir=str(folder),
        chunk_bytes="64MB",
        num_workers=1,
    )

    def feed() -> Iterator[Any]:
        data = litdata.StreamingDataset(str(folder), shuffle=True, drop_last=True)
        loader = litdata.StreamingDataLoader(data, batch_size=BATCH, num_workers=cores(), **SPAWN)
        return (batch["image"] for batch in chain.from_iterable(repeat(loader)))

    return feed


def lit_sample(path: str) -> dict[str, Any]:
    return {"image": Image.open(path), "label": int(Path(path).parent.name)}


def mosaic(images: list[tuple[bytes, int]], folder: Path) -> Callable[[], Iterator[Any]]:
    from streaming import MDSWriter, StreamingDataset

    with MDSWriter(out=str(folder), columns={"image": "bytes", "label": "int"}) as out:
        for encoded, label in images:
            out.write({"image": encoded, "label": label})

    def feed() -> Iterator[Any]:
        data = StreamingDataset(local=str(folder), shuffle=True, batch_size=BATCH)
        loader = DataLoader(
            data, BATCH, num_workers=cores(), collate_fn=mosaic_batch, drop_last=True, **SPAWN
        )
        return chain.from_iterable(repeat(loader))

    return feed


def mosaic_batch(samples: list[dict[str, Any]]) -> torch.Tensor:
    return torch.stack(
        [decode_image(torch.frombuffer(bytearray(s["image"]), dtype=torch.uint8)) for s in samples]
    )


# (c) Flatness


def flatness(work: Path, counts: list[int], seconds: float) -> None:
    first: tuple[float, float] | None = None
    for count in counts:
        # A process for each: the memory and threads of one are none of the next's.
        with ProcessPoolExecutor(1, SPAWNED) as process:
            prepared, streamed = process.submit(small_images, work, count, seconds).result()
        first = first or (prepared, streamed)
        print(
            f"    {count:9,} images: prepare {prepared:6.1f}, stream {streamed:6.1f}; "
            f"{(prepared + streamed) / sum(first):.2f} of the first"
        )


def small_images(work: Path, count: int, seconds: float) -> tuple[float, float]:
    """Microseconds an image of prepare and of the stream."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        few, source, dest = Path(folder, "few"), Path(folder, "small"), Path(folder, "shards")
        write_photographs(few, 1024 * cores(), 64, 64, QUALITY)
        write_photographs(source, count, 64, 64, QUALITY)
        with ray_session(cores()):
            ours(few, Path(folder, "few-shards"), 64)  # Ray's processes start
            start = time.perf_counter()
            ours(source, dest, 64)
            prepared = 1e6 * (time.perf_counter() - start) / count
            with closing(stream(endless(dest), cores(), torch.device("cpu"))) as feed:
                return prepared, 1e6 / rate(feed, seconds)


if __name__ == "__main__":
    sys.exit(main())
