"""Parts of a source whose images are files of their own."""

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from pyarrow import fs

from raytransfer.data.sources.source import PART_IMAGES, Found, printable
from raytransfer.folder import Folder, check_reached


@dataclass(frozen=True)
class FilesPart:
    root: str
    """Path or URI of the folder that the names begin in."""
    names: tuple[str, ...]
    labels: tuple[int, ...]

    @property
    def images(self) -> int:
        return len(self.names)

    def read(self) -> Iterator[Found]:
        folder = Folder(self.root)
        for name, label in zip(self.names, self.labels, strict=True):
            try:
                content = (
                    _read_regular(f"{folder.path}/{name}") if folder.local else folder.read(name)
                )
                yield Found(printable(name), label, content, "" if content is not None else "gone")
            except OSError as error:
                if not folder.local:
                    check_reached(error)
                reason = error.strerror or str(error)
                if os.path.islink(f"{folder.path}/{name}"):
                    reason = f"a link that cannot be followed: {reason}"
                yield Found(printable(name), label, None, reason)


def _read_regular(path: str) -> bytes:
    """A file's bytes. Raises OSError for what is no regular file, as a pipe would never end."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(None, "not a regular file")
        return file.read()


def in_parts(root: str, named: Iterable[tuple[str, int]]) -> tuple[FilesPart, ...]:
    """Names and labels, cut into parts."""
    items = list(named)
    lots = [items[i : i + PART_IMAGES] for i in range(0, len(items), PART_IMAGES)]
    return tuple(
        FilesPart(root, tuple(name for name, _ in lot), tuple(label for _, label in lot))
        for lot in lots
    )


def inside(folder: Folder, name: str) -> tuple[list[str], list[str]]:
    """Names of the folders inside a folder, and of all else there, hidden folders too; sorted."""
    if folder.local:
        with os.scandir(f"{folder.path}/{name}") as entries:
            found = [(entry.name, _is_folder(entry)) for entry in entries]
    else:
        infos = folder.entries(name)
        found = [(entry, info.type == fs.FileType.Directory) for entry, info in infos]
    folders = {entry for entry, is_folder in found if is_folder and not hidden(entry)}
    return sorted(folders), sorted(entry for entry, _ in found if entry not in folders)


def hidden(name: str) -> bool:
    """Whether a name, from the root on, is of something hidden."""
    return "/." in f"/{name}"


def files_below(folder: Folder, name: str) -> list[str]:
    """Names, from the root on, of all files below a folder, sorted; with hidden ones, but nothing
    that lies in a hidden folder of this machine.

    Links to folders are followed, but never into a folder that holds them.
    """
    if not folder.local:
        selector = fs.FileSelector(f"{folder.path}/{name}", recursive=True)
        start = len(folder.path) + 1
        infos = folder.files.get_file_info(selector)
        return sorted(info.path[start:] for info in infos if info.type == fs.FileType.File)
    here = PurePosixPath(os.path.realpath(f"{folder.path}/{name}"))
    return sorted(_walk(folder.path, name, frozenset(map(str, here.parents))))


def _walk(root: str, name: str, above: frozenset[str]) -> Iterator[str]:
    real = os.path.realpath(f"{root}/{name}")
    if real in above:
        return
    with os.scandir(f"{root}/{name}") as entries:
        for entry in entries:
            if _is_folder(entry) and not hidden(entry.name):
                yield from _walk(root, f"{name}/{entry.name}", above | {real})
            else:
                yield f"{name}/{entry.name}"


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself; reading it will say so
        return False
