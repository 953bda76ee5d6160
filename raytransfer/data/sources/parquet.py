"""Parquet files as Hugging Face's datasets writes them: an image column and a label column."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
from pyarrow import parquet as pq

from raytransfer.data.manifest import Split
from raytransfer.data.sources.files import hidden, inside
from raytransfer.data.sources.source import PART_IMAGES, SPLIT_NAMES, Found, Source, words_of
from raytransfer.errors import UserError
from raytransfer.folder import Folder, check_reached

ROWS_AT_ONCE = 64
"""Rows in memory at a time."""

LABELS = ("label", "labels", "fine_label", "cls", "class")
"""Columns that are labels, the first that there is."""

MOST_FOLDERS = 32
"""Folders beside one another that may be configurations of a data set; more are classes."""


@dataclass(frozen=True)
class RowsPart:
    """Row groups of a Parquet file."""

    root: str
    name: str
    image: str
    label: str
    groups: tuple[int, ...]
    first_row: int
    """Number of their first row in the file."""
    images: int

    def read(self) -> Iterator[Found]:
        first = self.first_row
        with Folder(self.root).open(self.name) as opened:
            file = pq.ParquetFile(opened)
            for group in self.groups:
                rows = file.metadata.row_group(group).num_rows
                yield from self._read_group(file, group, first, rows)
                first += rows

    def _read_group(
        self, file: pq.ParquetFile, group: int, first: int, rows: int
    ) -> Iterator[Found]:
        """Rows that a damaged group has lost are each named."""
        row = first
        try:
            for batch in file.iter_batches(
                ROWS_AT_ONCE, row_groups=[group], columns=[self.image, self.label]
            ):
                images, labels = batch.column(self.image), batch.column(self.label).to_pylist()
                if pa.types.is_struct(images.type):
                    images = images.field("bytes")
                for content, label in zip(images, labels, strict=True):
                    key = f"{self.name}/{row:08d}"
                    row += 1
                    if label is None or not content.is_valid:
                        yield Found(key, -1, None, "no image or no label in this row")
                    else:
                        yield Found(key, label, content.as_py())
        except (pa.ArrowException, OSError) as error:
            check_reached(error)
            reason = f"its row group is damaged: {' '.join(str(error).split())[:150]}"
            for lost in range(row, first + rows):
                yield Found(f"{self.name}/{lost:08d}", -1, None, reason)


def find(folder: Folder) -> Source | None:
    """Files with train or validation in their names, or in folders of these names; in the folder,
    its data/, or the folder of a configuration (default/, plain_text/).

    The classes are those of the label's ClassLabel; two of one name get their number behind it.
    None where there are no such files. Raises UserError for files of other columns.
    """
    folders, _ = inside(folder, "")
    trains = [name for name in SPLIT_NAMES["train"] if name in folders]
    if any(inside(folder, name)[0] for name in trains):
        return None  # of class folders, whatever tables lie beside the images
    for place in ("", "data"):
        if (not place or place in folders) and (files := _files(folder, place)):
            return _source(folder, files)
    if trains or len(folders) > MOST_FOLDERS:
        return None
    found = {name: files for name in folders if (files := _files(folder, name))}
    if len(found) > 1:
        raise UserError(
            f"{folder} has Parquet files of several configurations ({', '.join(found)}): give one "
            "of these folders."
        )
    return next((_source(folder, files) for files in found.values()), None)


def _files(folder: Folder, place: str) -> dict[str, Split]:
    """The Parquet files of a place, by the split that their name or their folder tells."""
    found: dict[str, Split] = {}
    folders, names = inside(folder, place)
    for split, words in SPLIT_NAMES.items():
        told = [name for name in names if words_of(name) & {*words}]
        for word in (word for word in words if word in folders):
            _, below = inside(folder, f"{place}/{word}".lstrip("/"))
            told += [f"{word}/{name}" for name in below]
        for name in (n for n in told if n.endswith(".parquet") and not hidden(n)):
            if name in found:
                raise UserError(
                    f"{name} in {folder} names both splits: move it into a folder train or val."
                )
            found[name] = split
    return {f"{place}/{name}".lstrip("/"): split for name, split in found.items()}


def _source(folder: Folder, files: dict[str, Split]) -> Source:
    parts: dict[Split, list[RowsPart]] = {"train": [], "val": []}
    classes: tuple[str, ...] | None = None
    for name, split in files.items():
        try:
            with folder.open(name) as opened:
                file = pq.ParquetFile(opened)
                image, label = _columns(folder, name, file.schema_arrow)
                named = _classes(file.schema_arrow, label)
                if None not in (named, classes) and named != classes:
                    raise UserError(
                        f"{name} in {folder} numbers other classes than the files before it: "
                        "write all with the same ClassLabel."
                    )
                classes = classes or named
                sizes = [
                    file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)
                ]
        except (pa.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())[:150]
            raise UserError(f"{name} in {folder} is no whole Parquet file: {reason}.") from None
        parts[split] += _in_parts(folder, name, image, label, sizes)
    for split, found in parts.items():
        if not found:
            raise UserError(f"{folder} has Parquet files, but none of the {split} split.")
    return Source("huggingface", classes, 3, tuple(parts["train"]), tuple(parts["val"]))


def _in_parts(
    folder: Folder, name: str, image: str, label: str, sizes: list[int]
) -> Iterator[RowsPart]:
    groups: list[int] = []
    first = rows = 0
    for group, size in enumerate(sizes):
        groups.append(group)
        rows += size
        if rows >= PART_IMAGES or group == len(sizes) - 1:
            yield RowsPart(folder.uri, name, image, label, tuple(groups), first, rows)
            first, groups, rows = first + rows, [], 0


def _columns(folder: Folder, name: str, schema: pa.Schema) -> tuple[str, str]:
    """Names of the columns of images (bytes, or a struct that has them) and of labels."""

    def holds_images(field: pa.Field) -> bool:
        if pa.types.is_struct(field.type):
            return bool(field.type.get_field_index("bytes") >= 0)
        return bool(pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type))

    images = [field.name for field in schema if holds_images(field)]
    labels = [field.name for field in schema if pa.types.is_integer(field.type)]
    labels = [known for known in LABELS if known in labels]
    if len(images) != 1 or not labels:
        columns = ", ".join(f"{field.name} ({_type(field.type)})" for field in schema)
        raise UserError(
            f"{name} in {folder} has the columns {columns}: one of encoded images and one of "
            f"whole-number labels, called {' or '.join(LABELS)}, are needed."
        )
    return images[0], labels[0]


def _type(of: pa.DataType) -> str:
    return "struct" if pa.types.is_struct(of) else str(of)


def _classes(schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    """The names that datasets stores with the schema."""
    stored = (schema.metadata or {}).get(b"huggingface")
    try:
        names = json.loads(stored or b"{}")["info"]["features"][label]["names"]
        names = [str(name) for name in names]
    except (ValueError, KeyError, TypeError):
        return None
    count = Counter(names)
    return tuple(f"{n} ({i})" if count[n] > 1 else n for i, n in enumerate(names))
