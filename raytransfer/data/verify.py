"""Whether a folder of shards is whole: everything in it is read again, decoded and counted."""

import hashlib
import io
import os
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raytransfer.data.manifest import (
    MANIFEST,
    SPLITS,
    SUMS,
    Manifest,
    Split,
    StoredFile,
    malformed,
    manifest_text,
    parse_manifest,
    read_manifest,
)
from raytransfer.data.soundness import CHANGED, Digests, Problem, check_shard
from raytransfer.folder import Folder

Progress = Callable[[int, int], None]
"""Called with the images done and the images in all."""


@dataclass
class Verified:
    """What was read."""

    images: dict[Split, int] = field(default_factory=dict)
    files: int = 0
    bytes: int = 0
    problems: int = 0
    seconds: float = 0.0


def verify(
    shards: str | Path,
    report: Callable[[Problem], None],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Verified:
    """Reads a folder of shards, local or a URI, and reports every problem as it is found.

    Every file is read once, from its first byte to its last; a few row groups are in memory at a
    time. threads: that decode images; None is one a core. Raises UserError where there are no
    finished shards at all.
    """
    manifest = _open(shards)
    started, found = time.monotonic(), Verified()
    threads = threads or os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        for problem in _problems(manifest, pool, threads, found, progress):
            found.problems += 1
            report(problem)
    found.seconds = time.monotonic() - started
    return found


def _open(shards: str | Path) -> Manifest:
    """The manifest as it stands: `read_manifest` would refuse files that are missing or cut off,
    which is to be reported here."""
    folder = Folder(shards)
    if not folder.has(MANIFEST):
        return read_manifest(shards)
    return parse_manifest(str(shards), manifest_text(folder))


def _problems(
    manifest: Manifest,
    pool: ThreadPoolExecutor,
    threads: int,
    found: Verified,
    progress: Progress | None,
) -> Iterator[Problem]:
    faults = [Problem(MANIFEST, what) for what in malformed(manifest)]
    yield from faults
    if faults:
        return
    total = sum(file.rows for split in SPLITS for file in manifest.files(split))
    labels = []
    for split in SPLITS:
        found.images[split] = 0
        here = [np.empty(0, np.int64)]
        keys: list[tuple[str, int, Digests]] = []
        for file in manifest.files(split):
            for group in check_shard(manifest, file, pool, threads):
                found.files += group.bytes > 0
                found.bytes += group.bytes
                here.append(group.labels)
                keys.append((file.name, group.first, group.keys))
                found.images[split] += len(group.keys)
                yield from group.problems
                if progress is not None:
                    progress(sum(found.images.values()), total)
        labels.append(np.concatenate(here))
        known = (labels[-1] >= 0) & (labels[-1] < len(manifest.classes))
        counts = np.bincount(labels[-1][known], minlength=len(manifest.classes))
        told = manifest.train_counts if split == "train" else manifest.val_counts
        for label in np.flatnonzero(counts != np.asarray(told)).tolist():
            yield Problem(
                MANIFEST,
                f"class {label} ({manifest.classes[label]}) has {counts[label]} {split} images, "
                f"not the {told[label]} that the manifest tells",
            )
        yield from _repeated(keys)
    yield from _check_labels(manifest, np.concatenate(labels), total, found)
    yield from _check_means(manifest, found)
    yield from _check_sums(manifest, found)


def _repeated(groups: list[tuple[str, int, Digests]]) -> Iterator[Problem]:
    """Rows whose key a row before them has. groups: file, its row that is the first, digests."""
    if not groups:
        return
    digests = np.concatenate([some for _, _, some in groups])
    ends = np.cumsum([len(some) for _, _, some in groups])

    def place(i: int) -> tuple[str, int]:
        group = int(np.searchsorted(ends, i, side="right"))
        name, first, some = groups[group]
        return name, first + i - (int(ends[group]) - len(some))

    order = np.argsort(digests, kind="stable")
    same = np.flatnonzero(digests[order[1:]] == digests[order[:-1]])
    for after, before in sorted(zip(order[same + 1].tolist(), order[same].tolist(), strict=True)):
        (name, row), (other, row_before) = place(after), place(before)
        yield Problem(name, f"has the key of row {row_before} of {other}", row)


def _check_means(manifest: Manifest, found: Verified) -> Iterator[Problem]:
    """What is wrong with the mean images, and with the mean colours that come from them."""
    stored = manifest.means
    means = yield from _array(manifest, stored, found)
    if means is None:
        return
    expected = (len(manifest.classes), manifest.channels)
    if means.dtype != np.float32 or means.ndim != 4 or means.shape[:2] != expected:
        shape = "x".join(map(str, means.shape))
        what = f"holds {means.dtype} {shape}, not a float32 image of every class and channel"
        yield Problem(stored.name, what)
    elif not ((means >= 0) & (means <= 255)).all():
        yield Problem(stored.name, "holds means that are no colours from 0 to 255")
    elif means.size == 0 or not _near(manifest.mean_colour, means.mean(axis=(2, 3))):
        yield Problem(MANIFEST, f"mean_colour is not what {stored.name} gives")


def _check_labels(
    manifest: Manifest, labels: NDArray[np.int64], rows: int, found: Verified
) -> Iterator[Problem]:
    """Whether the labels beside the shards are `labels`, those that could be read of `rows`."""
    stored = yield from _array(manifest, manifest.labels, found)
    if stored is None:
        return
    if stored.dtype != np.int32 or stored.shape != (rows,):
        shape = "x".join(map(str, stored.shape))
        what = f"holds {stored.dtype} {shape}, not an int32 label of each of the {rows} images"
        yield Problem(manifest.labels.name, what)
    elif len(labels) == rows:  # else some cannot be read, and that has been said
        for row in np.flatnonzero(stored != labels)[:1].tolist():
            yield Problem(manifest.labels.name, "is not the label that the shards hold", row)


def _array(
    manifest: Manifest, stored: StoredFile, found: Verified
) -> Generator[Problem, None, NDArray[Any] | None]:
    """What is wrong with a file beside the shards; gives what it holds, where that can be read."""
    content = yield from _content(Folder(manifest.folder), stored.name, found)
    if content is None:
        return None
    if len(content) != stored.bytes:
        what = f"has {len(content)} bytes, not the {stored.bytes} that were written"
        yield Problem(stored.name, what)
    elif hashlib.sha256(content).hexdigest() != stored.sha256:
        yield Problem(stored.name, CHANGED)
    try:
        array: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, OSError, EOFError, MemoryError) as error:
        yield Problem(stored.name, f"is no array: {error}")
        return None
    return array


def _content(folder: Folder, name: str, found: Verified) -> Generator[Problem, None, bytes | None]:
    """The bytes of a file, counted; a problem where it is missing."""
    if (content := folder.read(name)) is None:
        yield Problem(name, "is missing")
    else:
        found.files += 1
        found.bytes += len(content)
    return content


def _near(told: Any, colours: NDArray[np.float32]) -> bool:
    """Whether colours are as the manifest tells, but for rounding."""
    try:
        return bool(np.allclose(np.asarray(told, dtype=np.float64), colours, rtol=0, atol=1))
    except (ValueError, TypeError):
        return False


def _check_sums(manifest: Manifest, found: Verified) -> Iterator[Problem]:
    """Whether what is not read otherwise, the manifest first of all, is what was written."""
    folder = Folder(manifest.folder)
    known = {file.name: file.sha256 for file in manifest.stored}
    for name in folder.names():
        if name.endswith(".parquet") and name not in known:
            yield Problem(name, "is none of these shards: take it away, or others will read it")
    text = folder.read(SUMS)
    if text is None:
        yield Problem(SUMS, f"is missing: nothing says whether {MANIFEST} is as it was written")
        return
    told: dict[str, str] = {}
    for number, line in enumerate(text.decode(errors="replace").splitlines(), start=1):
        sha256, mark, name = line.partition("  ")
        if mark and Path(name).name == name and name.strip("."):
            told[name] = sha256
        else:
            yield Problem(SUMS, f"has no sha256 and name of a file here in line {number}")
    for name in sorted({MANIFEST, *known, *told}):
        if name not in told:
            yield Problem(SUMS, f"does not tell the sha256 of {name}")
        elif name in known:
            if told[name] != known[name]:
                yield Problem(SUMS, f"tells another sha256 of {name} than {MANIFEST}")
        else:
            content = yield from _content(folder, name, found)
            if content is not None and hashlib.sha256(content).hexdigest() != told[name]:
                yield Problem(name, CHANGED)
