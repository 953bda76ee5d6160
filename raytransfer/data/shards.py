"""Images to Parquet shards, once for all splits: `prepare`."""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raytransfer.data.convert import Fit, Form
from raytransfer.data.deal import ROW_GROUP, ShardJob, in_order, rows_of_a_shard, write_shard
from raytransfer.data.manifest import (
    MANIFEST,
    SPLITS,
    SUMS,
    UNFINISHED,
    Manifest,
    Split,
    StoredFile,
    parse_manifest,
    read_manifest,
)
from raytransfer.data.mapping import Mapper, in_turn
from raytransfer.data.runs import AGAIN, RUNS, Done, Run, RunJob, read_run, write_run
from raytransfer.data.sources.find import Layout, find_source
from raytransfer.data.sources.source import DAMAGED, Source, first_of_each
from raytransfer.errors import UserError
from raytransfer.folder import Folder
from raytransfer.lease import ATTEMPTS, kept

LICENCE = "LICENSE"

MOST_SIZE = 4096
"""Pixels a side that images are made into at most: 50 MB each, which processes still hold."""

Progress = Callable[[str, float, float], None]
"""Called with what is being done (converting, writing), how much of it is done, and of how much."""


def prepare(
    source: str | Path,
    dest: str | Path,
    *,
    format: Layout = "auto",
    size: int | None = 256,
    fit: Fit = "warp",
    quality: int = 90,
    seed: int = 0,
    train_per_class: int | None = None,
    val_per_class: int | None = None,
    class_names: Sequence[str] | None = None,
    root: str | None = None,
    licence: str | Path | None = None,
    max_bad: float = 0.001,
    mapper: Mapper = in_turn,
    tell: Callable[[Source], None] | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Write images as Parquet shards into the folder `dest`; both may be paths or URIs.

    format: layout of the source; auto finds out. size: pixels of the square that every image is
    made into; None keeps them byte by byte. fit: warp as in the paper (section 3), or crop.
    quality: of JPEG. seed: of the one random order in which all images are written.
    train_per_class, val_per_class: the first so many images of each class; None is all.
    class_names: of IDX files, in label order. root: folder of a torchvision data set. licence: a
    text file to lay beside the shards. max_bad: the share of unreadable images beyond which to
    stop; those few are named in quarantine.jsonl. mapper: who does the work. tell: called with what
    was found, before any work.

    The manifest is written last, so its presence means finished. The same call again does nothing,
    or goes on where it was interrupted. Raises UserError for a source that is not understood, a
    folder that holds something else or cannot be written, and too many unreadable images.
    """
    _check(size, quality, licence, max_bad, (train_per_class, val_per_class))
    found = find_source(str(source), format, class_names=class_names, root=root)
    if repeated := [name for name, count in Counter(found.classes).items() if count > 1]:
        raise UserError(f"{source} has more than one class {repeated[0]!r}: rename all but one.")
    if tell is not None:
        tell(found)
    if train_per_class is not None:
        found = replace(found, train=first_of_each(found, "train", train_per_class))
    if val_per_class is not None:
        found = replace(found, val=first_of_each(found, "val", val_per_class))
    form = Form(found.channels, size, fit, quality)
    settings = {
        "layout": found.layout,
        "size": size,
        "fit": fit if size is not None else None,
        "quality": quality if size is not None and found.channels == 3 else None,
        "seed": seed,
        "train_per_class": train_per_class,
        "val_per_class": val_per_class,
        "source": found.digest,
    }
    folder = Folder(dest)
    around = Folder(source)
    if f"{folder.path}/".startswith(f"{around.path}/") and folder.local == around.local:
        raise UserError(
            f"{folder} lies in the source, and would become a part of it: name another."
        )
    if (finished := _finished(folder, settings)) is not None:
        if licence is not None and folder.read(LICENCE) != Path(licence).read_bytes():
            raise UserError(
                f"{folder} holds finished shards without this licence: copy {licence} to "
                f"{LICENCE} there, and put its line into {SUMS}."
            )
        return finished
    say = progress or (lambda doing, done, of: None)
    with kept(folder) as lease:
        if (finished := _finished(folder, settings)) is not None:
            return finished  # by another process, meanwhile
        _begin(folder, settings)
        runs = _convert(folder, found, form, seed, max_bad, mapper, say)
        if not any(len(run.order) for run in runs["train"]):
            raise UserError(f"No training image in {source} can be read.")
        classes = found.classes or _numbered(runs)
        files, labels = _write_shards(folder, runs, classes, mapper, say)
        lease.check()
        return _finish(folder, found, classes, runs, files, labels, settings, licence)


def _check(
    size: int | None,
    quality: int,
    licence: str | Path | None,
    max_bad: float,
    per_class: Sequence[int | None],
) -> None:
    if size is not None and not 1 <= size <= MOST_SIZE:
        raise UserError(f"--size is 1 to {MOST_SIZE:,} pixels, not {size}.")
    if not 1 <= quality <= 95:
        raise UserError(f"--quality is 1 to 95, not {quality}.")
    if not 0 <= max_bad <= 1:
        raise UserError(f"--max-bad is a share from 0 to 1, not {max_bad:g}.")
    if licence is not None and not Path(licence).is_file():
        raise UserError(f"There is no licence file {licence}.")
    for each in per_class:
        if each is not None and each < 1:
            raise UserError(f"Images of each class are 1 or more, not {each}.")


def _finished(folder: Folder, settings: dict[str, Any]) -> Manifest | None:
    """The manifest of `folder` where it is finished with these settings.

    Raises UserError where it holds anything but the beginning of such shards.
    """
    info = folder.files.get_file_info(folder.path)
    if info.is_file:
        raise UserError(f"{folder} is a file: name a folder for the shards.")
    names = folder.names()
    if MANIFEST in names:
        manifest = read_manifest(folder.root)
        _same(folder, "finished", manifest.settings, settings)
        return manifest
    if UNFINISHED in names:
        _same(folder, "unfinished", folder.read_json(UNFINISHED), settings)
    elif set(names) - {ATTEMPTS}:
        raise UserError(f"{folder} is not empty and holds no shards: choose an empty folder.")
    return None


def _begin(folder: Folder, settings: dict[str, Any]) -> None:
    """Make the folder ready, or a killed process's ready again."""
    folder.write_json(UNFINISHED, settings)
    folder.sweep()
    folder.sweep(RUNS)


def _same(folder: Folder, state: str, there: Any, asked: dict[str, Any]) -> None:
    differing = [name for name in asked if not there or there.get(name) != asked[name]]
    if differing:
        raise UserError(
            f"{folder} holds {state} shards made otherwise ({', '.join(differing)} differ): "
            "choose another folder."
        )


def _convert(
    folder: Folder,
    source: Source,
    form: Form,
    seed: int,
    max_bad: float,
    mapper: Mapper,
    say: Progress,
) -> dict[Split, list[Run]]:
    """All parts as runs. Those that are there already are kept; but where unreadable images have
    ended the command before, not those that have any: they may have been mended."""
    classes = None if source.classes is None else len(source.classes)
    again = folder.has(AGAIN)
    jobs = [
        RunJob(folder.uri, split, number, part, form, seed, classes, again)
        for split in SPLITS
        for number, part in enumerate(source.parts(split))
    ]
    total = source.count("train") + source.count("val")
    images = 0
    bad: list[dict[str, str]] = []
    done: Done
    for done in mapper(write_run, jobs):
        images += done.images
        bad += done.bad
        # Of tars it is not known beforehand how many images they hold.
        count = max(total, images + len(bad))
        say("converting", images + len(bad), count)
        if (too_bad := _too_bad(bad, count, max_bad)) is not None:
            folder.write(AGAIN, b"")
            raise UserError(too_bad)
    return {
        split: [read_run(folder, job.split, job.number) for job in jobs if job.split == split]
        for split in SPLITS
    }


def _too_bad(bad: Sequence[dict[str, str]], count: int, max_bad: float) -> str | None:
    """Why so many unreadable images of `count` are too many; None where they are not."""
    for line in bad:
        if max_bad < 1 and DAMAGED in line["reason"]:
            return (
                f"{line['key']}: {line['reason']}. How many images are lost by that, nobody knows: "
                "fetch it again, or take those that lie before the damage with --max-bad 1."
            )
    if len(bad) <= max_bad * count:
        return None
    return (
        f"{len(bad)} of {count:,} images cannot be read, more than the share of {max_bad:g} "
        f"allowed; the first is {bad[0]['key']} ({bad[0]['reason']}): mend them, or allow more "
        "with --max-bad."
    )


def _numbered(runs: dict[Split, list[Run]]) -> tuple[str, ...]:
    """Names of classes that have none: their numbers."""
    labels = {s: np.concatenate([run.label for run in runs[s]]) for s in SPLITS}
    classes = int(labels["train"].max()) + 1
    if (unknown := labels["val"][labels["val"] >= classes]).size:
        raise UserError(f"There are validation images of class {unknown[0]}, and none to train on.")
    if lacking := sorted(set(range(classes)) - set(labels["train"].tolist())):
        raise UserError(
            f"No training image that can be read has the label {lacking[0]}, and some have "
            f"{classes - 1}: number the classes from 0 on, without gaps."
        )
    return tuple(map(str, range(classes)))


def _write_shards(
    folder: Folder,
    runs: dict[Split, list[Run]],
    classes: tuple[str, ...],
    mapper: Mapper,
    say: Progress,
) -> tuple[dict[Split, tuple[StoredFile, ...]], NDArray[np.int32]]:
    """The shards, and the labels of their rows."""
    jobs, labels = [], []
    for split in SPLITS:
        rows = in_order(runs[split])
        labels.append(rows.label)
        each = rows_of_a_shard(len(rows.label), int(rows.size.sum()))
        count = -(-len(rows.label) // each)
        for i in range(count):
            name = f"{split}-{i:05d}-of-{count:05d}.parquet"
            some = rows.some(i * each, (i + 1) * each)
            jobs.append(ShardJob(folder.uri, split, name, some, classes))
    files: list[StoredFile] = []
    for file in mapper(write_shard, jobs):
        files.append(file)
        say("writing", len(files), len(jobs))
    files.sort(key=lambda file: file.name)
    of = {s: tuple(file for file in files if file.name.startswith(f"{s}-")) for s in SPLITS}
    return of, np.concatenate(labels)


def _finish(
    folder: Folder,
    source: Source,
    classes: tuple[str, ...],
    runs: dict[Split, list[Run]],
    files: dict[Split, tuple[StoredFile, ...]],
    labels: NDArray[np.int32],
    settings: dict[str, Any],
    licence: str | Path | None,
) -> Manifest:
    """Writes what lies beside the shards, the manifest last."""
    counts = {s: _counts(runs[s], len(classes)) for s in SPLITS}
    for label in np.flatnonzero(counts["train"] == 0):
        raise UserError(f"No training image of the class {classes[label]} can be read.")
    means = _means(runs["train"], counts["train"])
    bad = [line for split in SPLITS for run in runs[split] for line in run.quarantine]
    copies = _copies([run for split in SPLITS for run in runs[split]])
    told: dict[str, bytes] = {}
    for name, lines in (("quarantine.jsonl", bad), ("duplicates.jsonl", copies)):
        if lines:
            told[name] = "".join(json.dumps(line) + "\n" for line in lines).encode()
    if licence is not None:
        told[LICENCE] = Path(licence).read_bytes()
    for name, content in told.items():
        folder.write(name, content)
    sizes = {
        tuple(size)
        for s in SPLITS
        for run in runs[s]
        for size in np.unique(run.stored, axis=0).tolist()
    }
    width, height = sizes.pop() if len(sizes) == 1 else (None, None)
    manifest = Manifest(
        folder=folder.root,
        digest="",
        classes=classes,
        train_counts=tuple(counts["train"].tolist()),
        val_counts=tuple(counts["val"].tolist()),
        channels=source.channels,
        height=height,
        width=width,
        row_group=ROW_GROUP,
        mean_colour=tuple(
            tuple(colour) for colour in means.astype(np.float64).mean(axis=(2, 3)).tolist()
        ),
        quarantined=len(bad),
        duplicates=len(copies),
        train=files["train"],
        val=files["val"],
        labels=_write_array(folder, "labels.npy", labels),
        means=_write_array(folder, "means.npy", means),
        settings=settings,
        versions={
            name: version(name)
            for name in ("raytransfer", "pyarrow", "simplejpeg", "opencv-python-headless", "pillow")
        },
    )
    text = manifest.to_json()
    told[MANIFEST] = text.encode()
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in told.items()}
    sums |= {file.name: file.sha256 for file in manifest.stored}
    folder.write(SUMS, "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode())
    folder.sweep()
    folder.write(MANIFEST, told[MANIFEST])
    folder.delete(RUNS)
    folder.delete(UNFINISHED)
    return parse_manifest(folder.root, text)


def _write_array(folder: Folder, name: str, array: NDArray[Any]) -> StoredFile:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    content = out.getvalue()
    folder.write(name, content)
    return StoredFile(name, len(array), len(content), hashlib.sha256(content).hexdigest())


def _counts(runs: Sequence[Run], classes: int) -> NDArray[np.int64]:
    return sum(
        (np.bincount(run.label, minlength=classes) for run in runs), np.zeros(classes, np.int64)
    )


def _means(runs: Sequence[Run], counts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Mean training image of each class, [class, channel, h, w]."""
    shape = next(run.sums.shape[1:] for run in runs if len(run.sums))
    sums = np.zeros((len(counts), *shape), np.uint64)
    for run in runs:
        if len(run.sums):
            sums[run.sum_labels] += run.sums
    means = (sums / counts[:, None, None, None]).astype(np.float32)
    return np.ascontiguousarray(means.transpose(0, 3, 1, 2))


def _copies(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Images that are stored as the same bytes as an earlier one: kept, but told."""
    content = np.concatenate([run.content for run in runs])
    _, first, which = np.unique(content, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[which] != np.arange(len(content)))
    keys = pa.chunked_array([run.key for run in runs], pa.string())
    return [
        {"key": keys[int(i)].as_py(), "same_as": keys[int(first[which[i]])].as_py()} for i in again
    ]
