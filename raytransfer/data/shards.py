"""Images to Parquet shards, once for all splits: `prepare`."""

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pyarrow import parquet as pq

from raytransfer.data.manifest import (
    MANIFEST,
    SPLITS,
    UNFINISHED,
    Manifest,
    Split,
    StoredFile,
    parse_manifest,
    read_manifest,
)
from raytransfer.data.order import permutation
from raytransfer.data.sources import Source, encode_png, read_source
from raytransfer.errors import UserError

ROW_GROUP = 100
"""Rows of a row group, the least that is read at once: 2 MB of photographs of 20 kB, enough for one
request to an object store, and few enough that mixing rows of 32 groups fits in memory."""

SHARD = 10_000
"""Images of a shard: 200 MB of such photographs."""

QUALITY = 90
"""JPEG quality of warped photographs, of 95 at most."""

MEAN_SIDE = 32
"""Mean images are kept at this height and width at most: 12 MB for 1,000 classes of colour."""

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

Progress = Callable[[int, int], None]
"""Called with the images done and the images in all."""


@dataclass(frozen=True)
class Converted:
    """An image as it goes into a shard."""

    image: bytes
    original: tuple[int, int]
    """Width and height, as those of `stored`."""
    stored: tuple[int, int]
    reduced: NDArray[np.uint8]
    """[channel, h, w] at no more than MEAN_SIDE a side, for the mean image."""


@dataclass
class _Tally:
    """What is summed up while shards are written."""

    classes: int
    counts: dict[Split, NDArray[np.int64]] = field(default_factory=dict)
    sums: NDArray[np.float64] | None = None
    sizes: set[tuple[int, int]] = field(default_factory=set)
    quarantine: list[dict[str, str]] = field(default_factory=list)
    done: int = 0

    def add(self, split: Split, label: int, image: Converted) -> None:
        self.counts[split][label] += 1
        self.sizes.add(image.stored)
        if split == "train":
            if self.sums is None:
                self.sums = np.zeros((self.classes, *image.reduced.shape))
            self.sums[label] += image.reduced


def prepare(
    source: str | Path,
    dest: str | Path,
    *,
    size: int | None = None,
    seed: int = 0,
    train_per_class: int | None = None,
    val_per_class: int | None = None,
    class_names: Sequence[str] | None = None,
    licence: str | Path | None = None,
    max_bad: float = 0.001,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Writes the images of a local folder as Parquet shards into the local folder `dest`.

    size: pixels of the square that every image is warped to (paper, section 3: the aspect ratio is
    not kept); None keeps them as they are. seed: of the one random order in which all images are
    written. train_per_class, val_per_class: the first so many images of each class; None is all.
    class_names: of IDX files, in label order. licence: a text file to lay beside the shards.
    max_bad: the share of unreadable images beyond which to stop; those few are named in
    quarantine.jsonl. threads: None is one a core.

    The manifest is written last, so its presence means finished. The same call again does nothing,
    or begins anew where it had been interrupted. Raises UserError for a source that is not
    understood, a folder that holds something else, and too many unreadable images.
    """
    if size is not None and size < 1:
        raise UserError(f"size is 1 pixel or more, not {size}.")
    if licence is not None and not Path(licence).is_file():
        raise UserError(f"There is no licence file {licence}.")
    for each in (train_per_class, val_per_class):
        if each is not None and each < 1:
            raise UserError(f"Images of each class are 1 or more, not {each}.")
    found = read_source(source, class_names)
    if train_per_class is not None:
        found = replace(found, train=found.train.first(train_per_class, found.classes))
    if val_per_class is not None:
        found = replace(found, val=found.val.first(val_per_class, found.classes))
    settings = {
        "layout": found.layout,
        "size": size,
        "seed": seed,
        "train_per_class": train_per_class,
        "val_per_class": val_per_class,
        "quality": None if size is None or found.channels == 1 else QUALITY,
        "source": _digest(found),
    }
    folder = Path(dest)
    if (finished := _claim(folder, settings)) is not None:
        return finished

    tally = _Tally(len(found.classes))
    total = len(found.train.keys) + len(found.val.keys)

    def account() -> None:
        if len(tally.quarantine) > max_bad * total:
            first = tally.quarantine[0]
            raise UserError(
                f"{len(tally.quarantine)} of {total} images in {source} cannot be read, more than "
                f"the share of {max_bad:g} allowed; the first is {first['key']}: {first['reason']}."
            )
        if progress is not None:
            progress(tally.done, total)

    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        train, val = (
            list(_write_split(folder, found, split, size, seed, tally, pool, account))
            for split in SPLITS
        )
    return _finish(folder, found, tally, train, val, settings, licence)


def _digest(source: Source) -> str:
    """sha256 of what makes two sources the same to us: classes, keys and labels."""
    told = hashlib.sha256(json.dumps(source.classes).encode())
    for listing in (source.train, source.val):
        told.update(json.dumps(list(listing.keys)).encode())
        told.update(listing.labels.astype("<i8").tobytes())
    return told.hexdigest()


def _claim(folder: Path, settings: dict[str, Any]) -> Manifest | None:
    """The manifest of `folder` where it is finished with these settings; else makes it ready."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: name a folder for the shards.")
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if MANIFEST in names:
        manifest = read_manifest(folder)
        if manifest.settings == settings:
            return manifest
        differing = [name for name in settings if manifest.settings.get(name) != settings[name]]
        raise UserError(
            f"{folder} holds finished shards made otherwise ({', '.join(differing)} differ): "
            "choose another folder."
        )
    if names and UNFINISHED not in names:
        raise UserError(f"{folder} is not empty and holds no shards: choose an empty folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / UNFINISHED, json.dumps(settings).encode())
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}.") from error
    for pattern in ("train-*.parquet*", "val-*.parquet*"):
        for left in folder.glob(pattern):
            left.unlink()
    return None


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file so that it is there whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(path)


def _write_split(
    folder: Path,
    source: Source,
    split: Split,
    size: int | None,
    seed: int,
    tally: _Tally,
    pool: ThreadPoolExecutor,
    account: Callable[[], None],
) -> Iterator[StoredFile]:
    """Writes the shards of one split. Which image goes into which shard is known beforehand: an
    unreadable one only makes its shard shorter."""
    listing = source.listing(split)
    tally.counts[split] = np.zeros(len(source.classes), dtype=np.int64)
    order = permutation(seed, f"shards of {split}", len(listing.keys))
    shards = -(-len(order) // SHARD)

    def convert_one(i: int) -> Converted | str:
        try:
            return convert(listing.load(listing.keys[i]), source.channels, size)
        except UnidentifiedImageError:
            return "not an image"
        except Exception as error:  # a decoder may raise anything at a broken file
            return f"{type(error).__name__}: {error}"

    def rows(part: NDArray[np.int64]) -> Iterator[dict[str, Any]]:
        for start in range(0, len(part), ROW_GROUP):
            some = part[start : start + ROW_GROUP].tolist()
            for i, image in zip(some, pool.map(convert_one, some), strict=True):
                label = int(listing.labels[i])
                tally.done += 1
                if isinstance(image, str):
                    tally.quarantine.append({"key": listing.keys[i], "reason": image})
                    continue
                tally.add(split, label, image)
                yield {
                    "image": image.image,
                    "label": label,
                    "class_name": source.classes[label],
                    "key": listing.keys[i],
                    "width": image.original[0],
                    "height": image.original[1],
                }
            account()

    for shard in range(shards):
        name = f"{split}-{shard:05d}-of-{shards:05d}.parquet"
        yield _write_shard(folder / name, rows(order[shard * SHARD : (shard + 1) * SHARD]))


def _write_shard(path: Path, rows: Iterator[dict[str, Any]]) -> StoredFile:
    partial = path.with_name(path.name + ".partial")
    written = 0
    with pq.ParquetWriter(
        partial,
        SCHEMA,
        compression={name: "none" if name == "image" else "zstd" for name in SCHEMA.names},
        use_dictionary=["label", "class_name"],
        write_statistics=["label"],  # of images it would copy whole ones into the footer
    ) as writer:
        group: list[dict[str, Any]] = []
        for row in rows:
            group.append(row)
            if len(group) == ROW_GROUP:
                writer.write_table(pa.Table.from_pylist(group, SCHEMA))
                written += len(group)
                group = []
        if group:
            writer.write_table(pa.Table.from_pylist(group, SCHEMA))
            written += len(group)
    with partial.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    partial.replace(path)
    return StoredFile(path.name, written, path.stat().st_size, sha256)


def convert(encoded: bytes, channels: int, size: int | None) -> Converted:
    """Decodes an image, to be sure that it can be, and warps it to `size` x `size` pixels.

    Raises what Pillow raises for a broken image.
    """
    with Image.open(io.BytesIO(encoded)) as opened:
        image = opened.convert("L" if channels == 1 else "RGB")
    original = image.size
    if size is not None:
        image = image.resize((size, size), Image.Resampling.BILINEAR)
        if channels == 1:
            encoded = encode_png(np.asarray(image))
        else:
            out = io.BytesIO()
            image.save(out, "JPEG", quality=QUALITY)
            encoded = out.getvalue()
    # Kept images of a tree may differ in size; their means must not.
    exact = max(image.size) <= MEAN_SIDE and (size is not None or channels == 1)
    small = image.size if exact else (MEAN_SIDE, MEAN_SIDE)
    reduced = np.asarray(image.resize(small, Image.Resampling.BOX))
    planes = reduced[None] if channels == 1 else reduced.transpose(2, 0, 1)
    return Converted(encoded, original, image.size, planes)


def _finish(
    folder: Path,
    source: Source,
    tally: _Tally,
    train: list[StoredFile],
    val: list[StoredFile],
    settings: dict[str, Any],
    licence: str | Path | None,
) -> Manifest:
    """Writes what lies beside the shards, the manifest last."""
    counts = tally.counts["train"]
    for label in np.flatnonzero(counts == 0):
        raise UserError(f"No training image of the class {source.classes[label]} can be read.")
    assert tally.sums is not None
    means = (tally.sums / counts[:, None, None, None]).astype(np.float32)
    out = io.BytesIO()
    np.save(out, means, allow_pickle=False)
    write_whole(folder / "means.npy", out.getvalue())
    if tally.quarantine:
        lines = "".join(json.dumps(bad) + "\n" for bad in tally.quarantine)
        write_whole(folder / "quarantine.jsonl", lines.encode())
    if licence is not None:
        write_whole(folder / "LICENSE", Path(licence).read_bytes())
    width, height = tally.sizes.pop() if len(tally.sizes) == 1 else (None, None)
    manifest = Manifest(
        folder=str(folder),
        digest="",
        classes=source.classes,
        train_counts=tuple(counts.tolist()),
        val_counts=tuple(tally.counts["val"].tolist()),
        channels=source.channels,
        height=height,
        width=width,
        row_group=ROW_GROUP,
        mean_colour=tuple(
            tuple(colour) for colour in means.astype(np.float64).mean(axis=(2, 3)).tolist()
        ),
        quarantined=len(tally.quarantine),
        train=tuple(train),
        val=tuple(val),
        means=StoredFile(
            "means.npy",
            len(means),
            len(out.getvalue()),
            hashlib.sha256(out.getvalue()).hexdigest(),
        ),
        settings=settings,
        versions={name: version(name) for name in ("raytransfer", "pyarrow", "pillow", "numpy")},
    )
    text = manifest.to_json()
    write_whole(folder / MANIFEST, text.encode())
    (folder / UNFINISHED).unlink()
    return parse_manifest(str(folder), text)
