"""What the weights look like: the first layer as images, and how far each layer went."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raytransfer.report import html
from raytransfer.report.drawing import LOOKS, Trace, View, bands, line, named, numbers_of, panels
from raytransfer.report.figures import Row, finished
from raytransfer.results.filters import Filters
from raytransfer.results.intervals import Estimate, estimate
from raytransfer.results.statistics import Summary
from raytransfer.results.table import SERIES, Results, series_of
from raytransfer.study.treatment import LAYERS, Treatment

MOVEMENT_MENUS = ("networks", "layers copied")

GAP = 1
"""Pixels between filters."""


def filters_section(filters: Mapping[str, Filters]) -> str:
    title = "Filters of the first layer"
    if not filters:
        said = "There are no weights of a convolutional first layer here: a table has none."
        return html.section("filters", title, said)
    shown = "".join(
        f'<figure class="filters"><img src="data:image/png;base64,{_png(sheet(each))}" '
        f'alt="{len(each)} filters of {escape(id)}"><figcaption>{escape(id)}<br>'
        f"<span>{_told(Treatment.parse(id))}</span></figcaption></figure>"
        for id, each in filters.items()
    )
    said = (
        "Whether they look like Gabor filters and patches of colour, as those of networks trained "
        "on photographs do. Each filter is drawn between its own lowest and highest weight."
    )
    return html.section("filters", title, said, f'<div class="sheet">{shown}</div>')


def _told(treatment: Treatment) -> str:
    if treatment.kind == "base":
        return "trained from scratch"
    if treatment.kind == "untrained":
        return "as they were drawn"
    origin = f"copied from base{treatment.source}"
    return f"{origin}, fine-tuned" if treatment.finetuned else f"{origin}, the same"


def sheet(filters: Filters) -> NDArray[np.uint8]:
    """Filters side by side as one image, [height, width, 3]; grey for other than three channels."""
    count, channels, height, width = filters.shape
    low = filters.min(axis=(1, 2, 3), keepdims=True)
    reach = filters.max(axis=(1, 2, 3), keepdims=True) - low
    shades = (filters - low) / np.where(reach > 0, reach, 1)
    if channels != 3:
        shades = np.repeat(shades.mean(axis=1, keepdims=True), 3, axis=1)
    columns = int(np.ceil(np.sqrt(1.5 * count)))
    rows = -(-count // columns)
    image = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for place, shade in enumerate(shades):
        top, left = (place // columns) * (height + GAP), (place % columns) * (width + GAP)
        pixels = np.rint(255 * shade.transpose(1, 2, 0)).astype(np.uint8)
        image[top : top + height, left : left + width] = pixels
    return image


def _png(image: NDArray[np.uint8]) -> str:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "png", optimize=True)
    return base64.b64encode(content.getvalue()).decode()


def movement(results: Results, summary: Summary) -> list[View]:
    """How far each layer went from its start, by series, for each number of copied layers."""
    views = []
    for name, group in summary.studied.items():
        rows = [
            row
            for row in finished(results, group)
            if all(row[f"moved_{k}"] is not None for k in range(1, LAYERS + 1))
        ]
        for n in sorted({row["n"] for row in rows if row["n"]}, reverse=True):
            mine = [row for row in rows if row["n"] in (0, n)]
            views.append(_moved(name, n, mine))
    return views


def _moved(name: str, n: int, rows: Sequence[Row]) -> View:
    layout = panels(["distance from the start, over the norm of the start"], [1], height=440)
    layers = list(range(1, LAYERS + 1))
    layout["xaxis"] |= {"tickvals": layers, "range": [0.5, LAYERS + 0.5]}
    layout["xaxis"]["title"]["text"] = "layer"
    layout["yaxis"]["rangemode"] = "tozero"
    # What is copied stands on the left of the line.
    edge = {"type": "line", "x0": n + 0.5, "x1": n + 0.5, "yref": "paper", "y0": 0, "y1": 1}
    layout["shapes"] = [edge | {"line": {"color": "#8a8f98", "width": 1, "dash": "dot"}}]
    data: list[Trace] = []
    numbers: list[tuple[Any, ...]] = [("series", "layer", "moved", "low", "high", "networks")]
    for series in SERIES:
        mine = [row for row in rows if series_of(row) == series]
        found: dict[int, Estimate] = {}
        for layer in layers:
            value = estimate([row[f"moved_{layer}"] for row in mine])
            if value is not None:
                found[layer] = value
        if not found:
            continue
        told = {
            layer: (value.mean, f"<b>{named(series)}</b>, layer {layer}<br>{value.mean:.3f}")
            for layer, value in found.items()
        }
        meta = {"series": series}
        data += bands(named(series), LOOKS[series], found, meta=meta)
        data.append(line(named(series), LOOKS[series], told, meta=meta))
        for layer, value in found.items():
            numbers.append((series, layer, *numbers_of(value)))
    choice = (name, f"n = {n}")
    return View(choice, {"data": data, "layout": layout}, tuple(numbers))
