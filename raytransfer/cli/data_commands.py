"""The commands of shards. Each is a few calls that a Python program can make as well:

    prepare   data.shards.prepare
    verify    data.verify.verify, train.audit.audit
    show      data.sheet.write_sheet

As in `commands`, what a command needs is imported when it runs.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from raytransfer.cli.tables import print_table
from raytransfer.errors import UserError

SAY_SECONDS = 15.0
"""How often progress is said where there is no terminal to draw it on."""

WRONG = 1
"""Exit status when something is wrong with shards."""

FEW_JOBS = 4
"""Fewer jobs than these, of a second or less each, are done before Ray has started."""

Layout = Literal["auto", "tree", "ilsvrc", "huggingface", "webdataset", "idx", "torchvision"]
Shards = Annotated[Positional[str], tyro.conf.arg(metavar="SHARDS")]


def prepare(
    source: Annotated[Positional[str], tyro.conf.arg(metavar="SOURCE")],
    dest: Annotated[Positional[str], tyro.conf.arg(metavar="DEST")],
    *,
    format: Layout = "auto",
    size: int | Literal["keep"] = 256,
    fit: Literal["warp", "crop"] = "warp",
    quality: int = 90,
    workers: int | None = None,
    max_bad: float = 0.001,
    seed: int = 0,
    train_per_class: int | None = None,
    val_per_class: int | None = None,
    class_names: tuple[str, ...] | None = None,
    root: Path | None = None,
    licence: Path | None = None,
) -> None:
    """Write images as Parquet shards, once for all splits. The same command again goes on.

    Args:
        source: Folder of images, or its URI (s3://...); or a torchvision data set's name.
        dest: New folder for the shards, or its URI.
        format: Layout of the source; auto finds out and says what it found.
        size: Pixels of the square that every image is made into; keep: as they are, byte by byte.
        fit: warp the whole image, as in the paper, or crop the largest square in its middle.
        quality: Of JPEG, 1 to 95.
        workers: Processes, through Ray. None: all cores, or a cluster's; 1: this one, without Ray.
        max_bad: Share of unreadable images beyond which to stop; quarantine.jsonl names them.
        seed: Of the one random order in which the images are written.
        train_per_class: The first so many training images of each class. None: all.
        val_per_class: The first so many validation images of each class. None: all.
        class_names: Names of the classes of IDX files, in label order. None: 0, 1, ...
        root: Folder that holds a torchvision data set, or is to. None: data.
        licence: Text file to lay beside the shards.
    """
    from raytransfer.data.manifest import SPLITS
    from raytransfer.data.mapping import in_turn, over_ray
    from raytransfer.data.shards import prepare as write_shards
    from raytransfer.data.sources.source import Source
    from raytransfer.folder import Folder
    from raytransfer.schedule.session import cores, ray_session

    if workers is not None and workers < 1:
        raise UserError(f"--workers is 1 or more, not {workers}.")

    def tell(found: Source) -> None:
        classes = "" if found.classes is None else f"{len(found.classes):,} classes, "
        train, val = found.count("train"), found.count("val")
        counts = f"about {train:,} training and {val:,} validation images"
        print(f"{Folder(source)}: {found.layout}, {classes}{counts}.", file=sys.stderr)
        for note in found.notes:
            print(note, file=sys.stderr)

    start = time.perf_counter()
    with _image_bar() as progress, ExitStack() as until_the_end:

        @cache
        def start_ray() -> None:
            until_the_end.enter_context(ray_session(workers or cores()))

        def mapper(function: Callable[[Any], Any], jobs: Sequence[Any]) -> Iterator[Any]:
            if workers == 1 or len(jobs) < FEW_JOBS:
                return in_turn(function, jobs)
            start_ray()
            return over_ray(function, jobs)

        manifest = write_shards(
            source,
            dest,
            format=format,
            size=None if size == "keep" else size,
            fit=fit,
            quality=quality,
            seed=seed,
            train_per_class=train_per_class,
            val_per_class=val_per_class,
            class_names=class_names,
            root=str(root) if root is not None else None,
            licence=licence,
            max_bad=max_bad,
            mapper=mapper,
            tell=tell,
            progress=progress,
        )
    seconds = time.perf_counter() - start
    rows = []
    for split in SPLITS:
        files = manifest.files(split)
        images, size_mb = sum(f.rows for f in files), sum(f.bytes for f in files) / 1e6
        rows.append((split, f"{images:,}", str(len(files)), f"{size_mb:.1f}"))
    title = f"Shards in {Folder(dest)}: {len(manifest.classes):,} classes, {seconds:.0f} s"
    print_table(title, ("split", "images", "files", "MB"), rows)
    if missing := [n for n, c in zip(manifest.classes, manifest.val_counts, strict=True) if not c]:
        some = ", ".join(missing[:5]) + (" ..." if missing[5:] else "")
        print(f"Without a validation image, and not to be studied: {some} ({len(missing)})")
    if manifest.quarantined:
        print(f"Images that cannot be read, named in quarantine.jsonl: {manifest.quarantined:,}")
    if manifest.duplicates:
        print(f"Copies of other images, kept, named in duplicates.jsonl: {manifest.duplicates:,}")


def verify(
    folder: Annotated[Positional[str], tyro.conf.arg(metavar="SHARDS|STUDY")],
) -> int:
    """Read shards or a study again, to the last byte, and name what is not as it was written.

    Args:
        folder: Folder of shards: hashes, rows, labels, keys, and every image to its end. Or of a
            study: hashes of weights and of frozen layers, and a line for every validation.
    """
    from raytransfer.folder import Folder

    return _verify_study(folder) if Folder(folder).has("study.json") else _verify_shards(folder)


def _verify_study(study: str) -> int:
    from raytransfer.folder import Folder
    from raytransfer.train.audit import audit

    found = audit(study, print)
    numbers = {name: f"{number:,}" for name, number in vars(found).items()}
    print_table(f"Read again: {Folder(study)}", list(numbers), [list(numbers.values())])
    return WRONG if found.problems else 0


def _verify_shards(shards: str) -> int:
    from raytransfer.data.verify import verify as verify_shards
    from raytransfer.folder import Folder

    with _image_bar() as progress:
        found = verify_shards(shards, print, progress=partial(progress, "reading"))
    numbers = {
        "files": f"{found.files:,}",
        **{f"{split} images": f"{count:,}" for split, count in found.images.items()},
        "MB": f"{found.bytes / 1e6:,.1f}",
        "images/s": f"{sum(found.images.values()) / found.seconds:,.0f}",
        "problems": f"{found.problems:,}",
    }
    print_table(f"Read again: {Folder(shards)}", list(numbers), [list(numbers.values())])
    return WRONG if found.problems else 0


def show(
    shards: Shards,
    *,
    out: Path = Path("sheet.html"),
    per_class: int = 8,
    classes: int = 50,
    split: Literal["train", "val"] = "train",
) -> None:
    """Write a contact sheet: one HTML file with images of each class, to look at.

    Args:
        shards: Folder of shards that `raytransfer prepare` wrote, or its URI.
        out: File to write.
        per_class: Images of each class that are shown, the first in the shards.
        classes: Classes whose images are shown; of more, evenly spread ones.
        split: Which images: those to train on, or those to validate with.
    """
    from raytransfer.data.sheet import write_sheet

    write_sheet(shards, out, per_class=per_class, classes=classes, split=split)
    print(out)


@contextmanager
def _image_bar() -> Iterator[Callable[[str, float, float], None]]:
    """A bar for as long as the block runs; where there is no terminal, a line now and then."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rate]}")
    bar = Progress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        # What is printed goes above the bar; but where it is piped, it must not.
        redirect_stdout=sys.stdout.isatty(),
    )
    task = bar.add_task("starting", total=None, rate="")
    began: dict[str, tuple[float, float]] = {}
    said = time.monotonic()

    def progress(doing: str, done: float, of: float) -> None:
        nonlocal said
        now = time.monotonic()
        since, first = began.setdefault(doing, (now, done))
        rate = (done - first) / max(now - since, 1e-9)
        unit = "files" if doing == "writing" else "images"
        told = f"{done:,.0f} of {of:,.0f} {unit}, {rate:,.0f} a second" if done > first else ""
        bar.update(task, description=doing, completed=done, total=of, rate=told)
        if not console.is_terminal and now - said > SAY_SECONDS and told:
            said = now
            console.print(f"{doing}: {told}, {(of - done) / rate:,.0f} s left", highlight=False)

    with bar:
        yield progress
