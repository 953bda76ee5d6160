"""A contact sheet: one HTML page with images of each class, which opens without a network."""

import base64
import hashlib
import io
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ImageOps
from pyarrow import parquet as pq

from raytransfer.data.manifest import Manifest, Split, read_manifest
from raytransfer.data.pixels import opened
from raytransfer.errors import UserError
from raytransfer.folder import PAGE, Folder, written_whole

SIDE = 160
"""Pixels of the longer side of a shown image: 400 of them make a page of 4 MB."""

QUALITY = 80
"""JPEG quality of an image that is made smaller for the page."""

SMALL = 64
"""Images up to this side are shown pixel by pixel."""


@dataclass(frozen=True)
class Shown:
    """An image on the sheet."""

    data: str
    """As a data: URI; empty when it cannot be decoded."""
    key: str
    size: tuple[int, int]
    """Width and height of the original."""
    small: bool


def write_sheet(
    shards: str | Path,
    out_path: str | Path,
    *,
    per_class: int = 8,
    classes: int = 50,
    split: Split = "train",
) -> None:
    """Writes the sheet to one local .html file, whole or not at all; the same shards, the same
    bytes.

    Of each class the first `per_class` images in the shards are shown; when there are more than
    `classes` classes, evenly spread ones. Raises UserError for what are no whole shards, and where
    the file cannot be written.
    """
    for name, value in (("per-class", per_class), ("classes", classes)):
        if value < 1:
            raise UserError(f"--{name} is 1 or more, not {value}.")
    manifest = read_manifest(shards)
    all_ = len(manifest.classes)
    chosen = np.unique(np.arange(min(classes, all_)) * all_ // min(classes, all_)).tolist()
    samples = _samples(manifest, split, chosen, per_class)
    html = _page(manifest, split, samples).encode("utf-8", errors="replace")
    with written_whole(Path(out_path), *PAGE) as part:
        part.write_bytes(html)


def _samples(
    manifest: Manifest, split: Split, chosen: list[int], per_class: int
) -> dict[int, list[Shown]]:
    """The first images of the chosen classes. Reads no further than it must, and only those row
    groups whole in which some of them lie."""
    counts = _counts(manifest, split)
    missing = np.zeros(len(manifest.classes), dtype=np.int64)
    missing[chosen] = np.minimum(counts[chosen], per_class)
    samples: dict[int, list[Shown]] = {label: [] for label in chosen}
    folder = Folder(manifest.folder)
    for stored in manifest.files(split):
        if not missing.any():
            break
        with folder.open(stored.name) as opened:
            file = pq.ParquetFile(opened)
            for group in range(file.num_row_groups):
                labels = file.read_row_group(group, columns=["label"])["label"].to_numpy()
                if not missing[labels].any():
                    continue
                table = file.read_row_group(group, columns=["image", "key", "width", "height"])
                for row in np.flatnonzero(missing[labels]).tolist():
                    label = int(labels[row])
                    if missing[label]:
                        missing[label] -= 1
                        (found,) = table.slice(row, 1).to_pylist()
                        size = (found["width"], found["height"])
                        samples[label].append(_shown(found["image"], found["key"], size))
                if not missing.any():
                    break
    return samples


def _counts(manifest: Manifest, split: Split) -> NDArray[np.int64]:
    told = manifest.train_counts if split == "train" else manifest.val_counts
    return np.asarray(told, dtype=np.int64)


def _shown(encoded: bytes, key: str, size: tuple[int, int]) -> Shown:
    try:
        with opened(encoded) as stored:
            image = ImageOps.exif_transpose(stored).convert("RGB")
    except Exception:  # a decoder may raise anything at a broken image
        return Shown("", key, size, small=False)
    small = max(image.size) <= SMALL
    image.thumbnail((SIDE, SIDE))
    out = io.BytesIO()
    if small:
        image.save(out, "PNG", optimize=True)
    else:
        image.save(out, "JPEG", quality=QUALITY)
    kind = "png" if small else "jpeg"
    data = f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"
    return Shown(data, key, size, small)


def _page(manifest: Manifest, split: Split, samples: dict[int, list[Shown]]) -> str:
    counts = _counts(manifest, split)
    style = files("raytransfer.data").joinpath("sheet.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = "; ".join(
        (
            "default-src 'none'",
            f"style-src 'sha256-{digest}'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    folder = Path(manifest.folder).name or manifest.folder
    kind = "training" if split == "train" else "validation"
    all_ = len(manifest.classes)
    least, most = counts.min(), counts.max()
    spread = f"{least:,} each" if least == most else f"{least:,} to {most:,} each"
    lead = f"{counts.sum():,} {kind} images in {all_:,} classes, {spread}, {_stored(manifest)}. "
    if len(samples) < all_:
        lead += f"Shown are {len(samples):,} classes, evenly spread. "
    lead += "Of each class these are the first in the shards, which have a random order."
    if manifest.quarantined:
        lead += f" {manifest.quarantined:,} images could not be read: quarantine.jsonl names them."
    sections = "".join(
        _section(label, manifest.classes[label], int(counts[label]), images)
        for label, images in samples.items()
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(folder)}: {kind} images</title>
<style>{style}</style>
</head>
<body>
<main>
<h1><bdi>{escape(folder)}</bdi></h1>
<p class="lead">{escape(lead)}</p>
{sections}{_table(manifest)}</main>
</body>
</html>
"""


def _stored(manifest: Manifest) -> str:
    colour = "in grey" if manifest.channels == 1 else "in colour"
    if manifest.width is None:
        return f"stored {colour} at sizes of their own"
    return f"stored {colour} at {manifest.width}x{manifest.height} pixels"


def _section(label: int, name: str, count: int, images: list[Shown]) -> str:
    items = "".join(f"<li>{_image(image, name)}</li>" for image in images)
    return f"""<section>
<h2><bdi>{escape(name)}</bdi> <span>class {label}, {count:,} images</span></h2>
<ul>{items}</ul>
</section>
"""


def _image(image: Shown, name: str) -> str:
    width, height = image.size
    title = escape(f"{image.key}\n{width}x{height} pixels originally")
    if not image.data:
        return f'<span class="broken" title="{title}">cannot be decoded: {escape(image.key)}</span>'
    small = ' class="small"' if image.small else ""
    return f'<img{small} src="{image.data}" alt="{escape(name)}" title="{title}" decoding="async">'


def _table(manifest: Manifest) -> str:
    rows = "".join(
        f"<tr><td>{label}</td><th><bdi>{escape(name)}</bdi></th>"
        f"<td>{train:,}</td><td>{val:,}</td></tr>\n"
        for label, (name, train, val) in enumerate(
            zip(manifest.classes, manifest.train_counts, manifest.val_counts, strict=True)
        )
    )
    header = "<th>class</th><th>name</th><th>training images</th><th>validation images</th>"
    return f"""<details>
<summary>All {len(manifest.classes):,} classes and their images</summary>
<div class="scroll" tabindex="0" role="region" aria-label="All classes"><table>
<thead><tr>{header}</tr></thead>
<tbody>
{rows}</tbody>
</table></div>
</details>
"""
