"""A folder of files on this machine, NFS or an object store, written file by whole file."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pyarrow as pa
from pyarrow import fs

from raytransfer.errors import StoreError, UserError

PART = ".part"
"""Ending of files that are being written, or whose writer was killed, after its process's id."""

_PARTIAL = re.compile(r".*\.\d+" + re.escape(PART), re.DOTALL)

PAGE = (".html", ".htm")
"""Endings of a page's name."""

READERS = 16
"""Files that are read at a time: an object store takes long to answer, but answers many."""

MOST_JSON_BYTES = 256 * 2**20
"""Far more than any file of ours; a stranger's may be of any size."""


@contextmanager
def written_whole(out: Path, *endings: str) -> Iterator[Path]:
    """Where to write what is to be a local file, whole, once the block ends without an error. A
    link stays one. endings: those that its name may have; any where none is given.

    Raises UserError where it cannot be written, is something else than a file, or would be one of
    another kind by its name.
    """
    named, out = out, Path(os.path.realpath(out))
    if out.exists() and not out.is_file():
        raise UserError(f"{named} cannot be written: it is there, and is no regular file.")
    if endings and named.suffix.lower() not in endings:
        raise UserError(f"{named} is not written: the name of such a file ends in {endings[0]}.")
    part = out.with_name(f".{out.name}.{os.getpid()}{PART}")
    try:
        yield part
        os.replace(part, out)
    except OSError as error:
        raise UserError(f"{named} cannot be written: {error.strerror or error}.") from error
    finally:
        with suppress(OSError):
            part.unlink()


def check_reached(error: Exception) -> None:
    """Raises an error in reading on, where it is of the place, not of what lies there: a disk or an
    object store that does not answer."""
    of_store = "AWS Error" in str(error) or "google::cloud" in str(error)
    if of_store or getattr(error, "errno", None) is not None:
        raise error


class Folder:
    """root: a path, or a URI such as s3://bucket/images. Raises UserError for an unknown kind."""

    kind = "folder"
    """What it is called where it cannot be written."""

    def __init__(self, root: str | Path) -> None:
        self.root = str(root)
        try:
            self.root.encode()
        except UnicodeEncodeError:
            raise UserError(f"The name {self.root!a} is not UTF-8: give it another.") from None
        if "://" in self.root:
            try:
                self.files, self.path = fs.FileSystem.from_uri(self.root)
            except (pa.ArrowException, OSError) as error:
                raise UserError(f"{self} is no place that can be reached: {error}.") from None
        else:
            self.files, self.path = fs.LocalFileSystem(), str(Path(root).resolve())

    def __str__(self) -> str:
        """The root without a URI's options, which may hold a password."""
        if "://" not in self.root:
            return self.root
        parts = urlsplit(self.root)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def below(self, name: str) -> "Folder":
        """A folder inside this one."""
        if "://" not in self.root:
            return Folder(f"{self.root}/{name}")
        parts = urlsplit(self.root)
        return Folder(urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}")))

    @property
    def local(self) -> bool:
        return isinstance(self.files, fs.LocalFileSystem)

    @property
    def uri(self) -> str:
        """The root as a path or URI that means the same on every machine that shares it."""
        return self.root if "://" in self.root else self.path

    def read(self, name: str, most: int | None = None) -> bytes | None:
        """A file's bytes; None where there is no such file.

        Raises UserError, naming the file, for one of more than `most` bytes.
        """
        try:
            with self.open(name) as file:
                if most is not None and (size := file.size()) > most:
                    raise UserError(
                        f"{name} in the {self.kind} {self} has {size:,} bytes, more than the "
                        f"{most:,} that such a file may have."
                    )
                content: bytes = file.read()
                return content
        except (FileNotFoundError, NotADirectoryError):
            return None

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return bool(self.files.get_file_info(f"{self.path}/{name}").is_file)

    def open(self, name: str) -> pa.NativeFile:
        """A file for reading at any place."""
        return self.files.open_input_file(f"{self.path}/{name}")

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Write a file whole or not at all.

        Raises StoreError where the folder cannot be written.
        """
        with self.writing(name) as stream:
            stream.write(content)

    @contextmanager
    def writing(self, name: str) -> Iterator[Any]:
        """A stream whose file is there, whole, once the block ends without an error.

        Raises StoreError where the folder cannot be written.
        """
        path = f"{self.path}/{name}"
        try:
            if not self.local:
                # An object appears when its stream is closed, as a whole.
                with self.files.open_output_stream(path) as stream:
                    yield stream
                return
            os.makedirs(os.path.dirname(path), exist_ok=True)
            part = f"{path}.{os.getpid()}{PART}"
            try:
                with open(part, "wb") as stream:
                    yield stream
                os.replace(part, path)
            finally:
                if os.path.exists(part):
                    os.unlink(part)
        except (OSError, pa.ArrowException) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise StoreError(f"The {self.kind} {self} cannot be written: {reason}.") from error

    def read_json(self, name: str) -> Any:
        """A JSON file's content; None where there is no such file. Raises UserError if broken."""
        content = self.read(name, most=MOST_JSON_BYTES)
        try:
            return None if content is None else json.loads(content)
        except (ValueError, RecursionError):
            raise UserError(f"{name} in the {self.kind} {self} is not readable JSON.") from None

    def write_json(self, name: str, content: Any) -> None:
        self.write(name, (json.dumps(content, indent=1) + "\n").encode())

    def names(self, folder: str = "") -> list[str]:
        """Names of the entries of a folder; none where there is no such folder."""
        return [name for name, _ in self.entries(folder)]

    def entries(self, folder: str = "") -> list[tuple[str, fs.FileInfo]]:
        """Name and information of the entries of a folder, sorted, without files that are being
        written; none where there is no such folder."""
        return [entry for entry in self._listed(folder) if not _PARTIAL.fullmatch(entry[0])]

    def sweep(self, folder: str = "") -> None:
        """Delete what killed processes were writing in a folder. Only for its one writer."""
        for name, _ in self._listed(folder):
            if _PARTIAL.fullmatch(name):
                self.delete(f"{folder}/{name}".lstrip("/"))

    def _listed(self, folder: str) -> list[tuple[str, fs.FileInfo]]:
        selector = fs.FileSelector(f"{self.path}/{folder}", allow_not_found=True)
        infos = []
        for last in (False, False, False, False, True):
            try:
                infos = self.files.get_file_info(selector)
                break
            except FileNotFoundError:  # an entry went while they were looked at
                if last:
                    raise
        return sorted((name, info) for info in infos if (name := _name(info)) is not None)

    def delete(self, name: str) -> None:
        """Delete a file or a whole folder, where it is there."""
        info = self.files.get_file_info(f"{self.path}/{name}")
        with suppress(FileNotFoundError):  # another process was faster
            if info.type == fs.FileType.Directory:
                self.files.delete_dir(info.path)
            elif info.type == fs.FileType.File:
                self.files.delete_file(info.path)


def _name(entry: fs.FileInfo) -> str | None:
    """None for a name that is no UTF-8: none of ours, and of none that we look for."""
    try:
        return PurePosixPath(entry.path).name
    except UnicodeDecodeError:
        return None
