"""The table of all networks in the page, and what they cost."""

from collections.abc import Mapping
from html import escape
from statistics import median
from typing import Any

from raytransfer.report import html
from raytransfer.results import text
from raytransfer.results.table import COLUMNS, SERIES, STATES, Results, csv_text, series_of

_PERCENT = ("top1", "top5", "top1_best10")
_IDENTITY = ("label", "split", "source", "target", "kind", "n", "finetuned", "seed")
"""Columns that the treatment's id already says."""


def networks_section(results: Results) -> str:
    """Every network with a row that can be sorted, filtered and picked; and all as CSV."""
    shown = [
        column
        for column in COLUMNS
        if column.name not in _IDENTITY
        and not column.name.startswith("moved")
        and any(row[column.name] is not None for row in results.networks)
    ]
    # What a reader looks for stands first, and what is long and rare last.
    places = {"treatment": 0, "state": 1, "reason": 9}
    shown.sort(key=lambda column: places.get(column.name, 5))
    header = "".join(
        f'<th scope="col" class="{"sha256" if _is_hash(column.name) else column.type}" '
        f'aria-sort="none" title="{escape(column.meaning)}">'
        f'<button type="button" class="sort">{_heading(column.name)}</button></th>'
        for column in shown
    )
    rows = "".join(
        f'<tr class="{escape(row["state"])}" data-id="{escape(row["treatment"])}" '
        f'data-state="{escape(row["state"])}">'
        + "".join(_cell(column.name, row[column.name]) for column in shown)
        + "</tr>"
        for row in results.networks
    )
    failed = [row for row in results.networks if row["state"] == "failed"]
    said = f"All {len(results.networks)} networks, accuracies in per cent of the validation images"
    said += f"; {len(failed)} failed. " if failed else "; none failed. "
    said += "A name picks its network in the figures and curves; a point or curve picks its row."
    present = [state for state in STATES if any(row["state"] == state for row in results.networks)]
    states = "".join(f"<option>{state}</option>" for state in present)
    body = (
        '<div class="controls"><label>names with <input type="search" id="filter" '
        'placeholder="A3B or random:1" autocomplete="off" spellcheck="false"></label>'
        f'<label>state <select id="state"><option value="">any</option>{states}</select></label>'
        f'<output id="count">{len(results.networks)} networks</output>'
        '<span class="downloads"><button type="button" id="results-csv" '
        'aria-label="All results as CSV">CSV</button></span></div>'
        '<div class="scroll tall" tabindex="0" role="region" aria-label="All networks">'
        f'<table id="all-networks"><thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table>'
        f'</div><script type="application/gzip" id="results">{html.packed(csv_text(results))}'
        "</script>"
    )
    return html.section("networks", "Networks", said, body)


def _is_hash(name: str) -> bool:
    return name.endswith("sha256")


def _heading(name: str) -> str:
    names = {"top1_best10": "top-1, ten best", "images_per_second": "images/s"}
    shown = names.get(name, name.removesuffix("_sha256").replace("_", " "))
    return shown.replace("top1", "top-1").replace("top5", "top-5")


def _cell(name: str, value: Any) -> str:
    if value is None:
        return '<td class="sha256"></td>' if _is_hash(name) else "<td></td>"
    if name == "treatment":
        return (
            '<th scope="row"><button type="button" class="pick" aria-pressed="false">'
            f"{escape(value)}</button></th>"
        )
    if name == "state":
        return f'<td><span class="state">{escape(value)}</span></td>'
    if _is_hash(name):
        return f'<td class="sha256"><code class="hash">{escape(value)}</code></td>'
    if name in _PERCENT:
        return f'<td class="number">{100 * value:.2f}</td>'
    if name in ("loss", "train_loss"):
        return f'<td class="number">{value:.4f}</td>'
    if isinstance(value, (int, float)):
        digits = 1 if isinstance(value, float) and value < 100 else 0
        return f'<td class="number">{value:,.{digits}f}</td>'
    return f'<td class="words">{escape(str(value))}</td>'


def cost_section(results: Results) -> str:
    """What the finished networks cost, by series."""
    title = "Cost"
    rows = [row for row in results.networks if row["state"] == "finished"]
    timed = [row for row in rows if row["seconds"] is not None]
    if not timed:
        return html.section("cost", title, "No finished network says how long it trained.")
    layout = results.provenance.get("layout")
    layout = layout if isinstance(layout, Mapping) else {}
    devices = _count(layout, "workers")
    kind = "device"
    if layout.get("device") == "cuda":
        kind = "GPU"
    elif layout.get("device") == "cpu":
        kind, devices = "core", devices * _count(layout, "threads")
    data = results.provenance.get("data")
    images = data.get("training_images") if isinstance(data, Mapping) else None
    header = ["series", "networks", f"{kind}-hours", "images seen"]
    header += ["passes over all training images"] if images else []
    header += ["images/s of a network, median"]

    def line(name: str, mine: list[dict[str, Any]]) -> tuple[str, ...]:
        hours = devices * sum(row["seconds"] for row in mine) / 3600
        seen = sum(row["images"] or 0 for row in mine)
        rates = [row["images_per_second"] for row in mine if row["images_per_second"]]
        passes = [f"{seen / images:,.1f}"] if images else []
        rate = f"{median(rates):,.0f}" if rates else text.NOT_STUDIED
        return (name, str(len(mine)), f"{hours:,.3g}", f"{seen:,}", *passes, rate)

    by_series = {name: [row for row in timed if series_of(row) == name] for name in SERIES}
    lines = [line(name, mine) for name, mine in by_series.items() if mine]
    whole = line("all", timed)
    shown = text.Table("Training by series", tuple(header), (*lines, whole))
    said = (
        f"{whole[1]} finished networks took {whole[2]} {kind}-hours of training. Networks that "
        "train together share one pass over the images: each is counted with its share of the "
        "time, and with all images that it saw."
    )
    return html.section("cost", title, said, html.table(shown))


def _count(layout: Mapping[str, Any], name: str) -> int:
    value = layout.get(name)
    return value if isinstance(value, int) and value > 0 else 1
