"""The commands of shards. Each is a few calls that a Python program can make as well:

    prepare   data.shards.prepare
    verify    data.verify.verify
    show      data.sheet.write_sheet

As in `commands`, what a command needs is imported when it runs.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import Positional

from raytransfer.cli.tables import print_table

if TYPE_CHECKING:
    from rich.progress import Progress

WRONG = 1
"""Exit status when something is wrong with shards."""

Shards = Annotated[Positional[str], tyro.conf.arg(metavar="SHARDS")]


def prepare(
    source: Annotated[Positional[Path], tyro.conf.arg(metavar="SOURCE")],
    dest: Annotated[Positional[Path], tyro.conf.arg(metavar="DEST")],
    *,
    size: int | None = None,
    train_per_class: int | None = None,
    val_per_class: int | None = None,
    seed: int = 0,
    class_names: tuple[str, ...] | None = None,
    licence: Path | None = None,
) -> None:
    """Write a folder of images as Parquet shards, once for all splits.

    Args:
        source: Folder with IDX files, or with a tree train/<class>/, val/<class>/.
        dest: New folder for the shards.
        size: Pixels of the square that every image is warped to. None: kept as they are.
        train_per_class: The first so many training images of each class. None: all.
        val_per_class: The first so many validation images of each class. None: all.
        seed: Of the one random order in which the images are written.
        class_names: Names of the classes of IDX files, in label order. None: 0, 1, ...
        licence: Text file to lay beside the shards.
    """
    from rich.console import Console
    from rich.progress import Progress

    from raytransfer.data.manifest import SPLITS
    from raytransfer.data.shards import prepare as write_shards

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("images", total=None)
        manifest = write_shards(
            source,
            dest,
            size=size,
            seed=seed,
            train_per_class=train_per_class,
            val_per_class=val_per_class,
            class_names=class_names,
            licence=licence,
            progress=lambda done, all_: progress.update(task, completed=done, total=all_),
        )
    rows = []
    for split in SPLITS:
        files = manifest.files(split)
        images, size_mb = sum(f.rows for f in files), sum(f.bytes for f in files) / 1e6
        rows.append((split, f"{images:,}", str(len(files)), f"{size_mb:.1f}"))
    classes = f"{len(manifest.classes)} classes"
    print_table(f"Shards in {dest}: {classes}", ("split", "images", "files", "MB"), rows)
    if manifest.quarantined:
        print(f"{manifest.quarantined} images cannot be read; quarantine.jsonl names them.")


def verify(shards: Shards) -> int:
    """Read shards again: hashes, rows, labels, keys, and every image to its end.

    Args:
        shards: Folder of shards that `raytransfer prepare` wrote, or its URI.
    """
    from raytransfer.data.verify import verify as verify_shards

    with _image_progress() as progress:
        task = progress.add_task("images", total=None)
        found = verify_shards(
            shards,
            print,
            progress=lambda done, all_: progress.update(task, completed=done, total=all_),
        )
    numbers = {
        "files": f"{found.files:,}",
        **{f"{split} images": f"{count:,}" for split, count in found.images.items()},
        "MB": f"{found.bytes / 1e6:,.1f}",
        "images/s": f"{sum(found.images.values()) / found.seconds:,.0f}",
        "problems": f"{found.problems:,}",
    }
    print_table(f"Read again: {shards}", list(numbers), [list(numbers.values())])
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


def _image_progress() -> "Progress":
    """A bar on the terminal with images, images a second and the time that is left."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed or 0:,.0f} images/s")

    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        # What is printed goes above the bar; but where it is piped, it must not.
        redirect_stdout=sys.stdout.isatty(),
    )
