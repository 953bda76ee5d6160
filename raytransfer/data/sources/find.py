"""Finds out what lies in a folder."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import Literal, get_args

from pyarrow import fs

from raytransfer.data.manifest import MANIFEST
from raytransfer.data.sources import idx, parquet, tars, tree, vision
from raytransfer.data.sources.source import Source
from raytransfer.errors import UserError
from raytransfer.folder import Folder

Layout = Literal["auto", "tree", "ilsvrc", "huggingface", "webdataset", "idx", "torchvision"]

LAYOUTS = {
    "ilsvrc": f"{tars.TRAIN_TAR} and {tars.VAL_TAR} as downloaded",
    "idx": "IDX files (train-images-idx3-ubyte, ...)",
    "huggingface": "Hugging Face's Parquet (train-*.parquet or train/*.parquet, ...)",
    "webdataset": "WebDataset tars (*train*.tar, *val*.tar)",
    "tree": "class folders (train/CLASS/*, val/CLASS/*, or val/* beside a list)",
    "torchvision": "a torchvision data set by its name (--format torchvision)",
}
"""What each layout looks like, in the order in which a folder is tried."""


def find_source(
    source: str,
    layout: Layout = "auto",
    *,
    class_names: Sequence[str] | None = None,
    root: str | None = None,
) -> Source:
    """The source in a folder (a path or URI), or a torchvision data set by its name.

    class_names: of IDX files, in label order. root: folder of a torchvision data set. Raises
    UserError for a folder that is missing, holds no layout that is known, or lacks something.
    """
    if layout not in get_args(Layout):
        raise UserError(f"format is one of {', '.join(get_args(Layout))}, not {layout!r}.")
    if layout == "torchvision":
        return vision.find(source, root or "data")
    folder = Folder(source)
    present = folder.names() if _is_folder(folder) else None
    if present is None:
        raise UserError(f"There is no folder {folder}: name the folder that holds the images.")
    if MANIFEST in present:
        raise UserError(f"{folder} holds shards already, not images: use it as --data.")
    finders: dict[str, Callable[[Folder], Source | None]] = {
        "ilsvrc": tars.find_ilsvrc,
        "idx": partial(idx.find, class_names=class_names),
        "huggingface": parquet.find,
        "webdataset": tars.find_webdataset,
        "tree": tree.find,
    }
    for name, finder in finders.items():
        if layout in ("auto", name) and (found := finder(folder)) is not None:
            if class_names is not None and name != "idx":
                raise UserError(f"The classes of {folder} have names: give no class names.")
            return found
    known = "; ".join(LAYOUTS.values() if layout == "auto" else [LAYOUTS[layout]])
    raise UserError(f"{folder} holds {_contents(present)}, which is not {known}.")


def _is_folder(folder: Folder) -> bool:
    return bool(folder.files.get_file_info(folder.path).type == fs.FileType.Directory)


def _contents(names: Sequence[str]) -> str:
    """What is in a folder, in a few words."""
    endings = Counter(PurePosixPath(name).suffix.lower() or "no ending" for name in names)
    told = ", ".join(f"{count} of {ending}" for ending, count in endings.most_common(4))
    return f"{len(names)} entries ({told})" if names else "nothing"
