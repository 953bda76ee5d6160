"""Parts of figures, as the plain data that plotly.js draws: panels, points, lines, bands.

Whatever belongs to a series carries its name in `meta`, by which the page changes its look; points
of networks carry the networks' ids in `customdata`, by which the page finds their rows.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from raytransfer.results.intervals import Estimate
from raytransfer.results.text import runs
from raytransfer.study.treatment import LAYERS

Trace = dict[str, Any]

DIGITS = 4
"""Of a number in a figure, after the point."""


@dataclass(frozen=True)
class Look:
    """How a series is drawn; shape and dash tell series apart where colour does not."""

    color: str
    symbol: str
    dash: str


@dataclass(frozen=True)
class View:
    """One choice of a figure's menus, one value for each of them."""

    choice: tuple[str, ...]
    figure: dict[str, Any]
    """What plotly.js takes: data and layout."""
    numbers: tuple[tuple[Any, ...], ...] = ()
    """What is drawn, as a table with its header."""


LOOKS: dict[str, Look] = {
    "base": Look("#6b7280", "circle", "solid"),
    "BnB": Look("#0072b2", "square", "solid"),
    "BnB+": Look("#56b4e9", "diamond", "dash"),
    "AnB": Look("#d55e00", "triangle-up", "solid"),
    "AnB+": Look("#e69f00", "triangle-down", "dash"),
    "RnB": Look("#b86a9a", "x", "dot"),
}
"""Colours that people with any kind of colour vision tell apart (Okabe and Ito, 2008)."""

PAPER_LOOKS: dict[str, Look] = {
    "base": Look("#6b7280", "circle-open", "solid"),
    "BnB": Look("#15158c", "circle", "solid"),
    "BnB+": Look("#8095e8", "circle", "solid"),
    "AnB": Look("#8c1515", "diamond", "solid"),
    "AnB+": Look("#ee8d85", "diamond", "solid"),
    "RnB": Look("#111111", "x", "dot"),
}
"""Dark where layers are frozen, pale where they are fine-tuned, as in the paper's Figure 2."""

MEANINGS = {
    "base": "trained from scratch",
    "BnB": "selffer, frozen",
    "BnB+": "selffer, fine-tuned",
    "AnB": "transfer, frozen",
    "AnB+": "transfer, fine-tuned",
    "RnB": "untrained filters",
}


def named(series: str) -> str:
    return series if series == "base" else f"{series} ({MEANINGS[series]})"


def panels(titles: Sequence[str], heights: Sequence[float], height: int) -> dict[str, Any]:
    """A layout of panels below one another that share their x axis. heights: shares of all."""
    gap = 0.09 if len(titles) > 1 else 0.0
    room = (1 - gap * (len(titles) - 1)) / sum(heights)
    layout: dict[str, Any] = {
        "height": height,
        "margin": {"l": 50, "r": 14, "t": 34, "b": 48},
        "hovermode": "closest",
        "hoverlabel": {"align": "left"},
        "legend": {"orientation": "h", "x": 0, "y": -68 / (height - 180), "yanchor": "top"},
        "annotations": [],
    }
    top = 1.0
    for place, (title, share) in enumerate(zip(titles, heights, strict=True), 1):
        bottom = max(0.0, top - share * room)
        number = "" if place == 1 else str(place)
        lowest = place == len(titles)
        layout[f"xaxis{number}"] = {
            "anchor": f"y{number}",
            "showgrid": False,
            "zeroline": False,
            "ticks": "outside",
            "ticklen": 4,
            **({} if place == 1 else {"matches": "x"}),
            **({"title": {"font": {"size": 13}, "standoff": 8}} if lowest else {}),
        }
        layout[f"yaxis{number}"] = {
            "anchor": f"x{number}",
            "domain": [round(bottom, DIGITS), round(top, DIGITS)],
            "automargin": True,
            "nticks": 8,
            "zeroline": False,
            "zerolinewidth": 1.5,
        }
        layout["annotations"].append(
            {
                "text": title,
                "x": 0,
                "y": round(top, DIGITS),
                "xref": "paper",
                "yref": "paper",
                "xanchor": "left",
                "yanchor": "bottom",
                "showarrow": False,
                "font": {"size": 13},
            }
        )
        top = bottom - gap
    return layout


def along_layers(layout: dict[str, Any], base: bool) -> None:
    """Have all x axes show n. base: whether networks of no copied layers have a place, too."""
    ns = list(range(0 if base else 1, LAYERS))
    axes = [name for name in layout if name.startswith("xaxis")]
    for name in axes:
        layout[name] |= {
            "tickvals": ns,
            "ticktext": ["base" if n == 0 else str(n) for n in ns],
            "range": [ns[0] - 0.5, ns[-1] + 0.5],
        }
    layout[axes[-1]]["title"]["text"] = "n, the layers copied"


def points(
    name: str,
    look: Look,
    networks: Iterable[tuple[str, float, float, str]],
    *,
    meta: Mapping[str, Any],
    panel: int = 1,
    size: int = 8,
) -> Trace:
    """A marker for each network: its id, where it stands, and what is told of it."""
    found = list(networks)
    return {
        "type": "scatter",
        "mode": "markers",
        **_on(panel),
        "x": [rounded(x) for _, x, _, _ in found],
        "y": [rounded(y) for _, _, y, _ in found],
        "text": [text for *_, text in found],
        "customdata": [id for id, *_ in found],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {"color": look.color, "symbol": look.symbol, "size": size, "opacity": 0.7},
        "name": name,
        "legendgroup": name,
        "meta": dict(meta),
    }


def line(
    name: str,
    look: Look,
    cells: Mapping[int, tuple[float, str]],
    *,
    meta: Mapping[str, Any],
    panel: int = 1,
) -> Trace:
    """Values by n, with what is told of each. An n without one breaks the line: nobody measured
    what would be drawn there."""
    ns = list(range(min(cells), max(cells) + 1)) if cells else []
    return {
        "type": "scatter",
        "mode": "lines+markers",
        **_on(panel),
        "x": ns,
        "y": [rounded(cells[n][0]) if n in cells else None for n in ns],
        "text": [cells[n][1] if n in cells else "" for n in ns],
        "hovertemplate": "%{text}<extra></extra>",
        "line": {"color": look.color, "width": 2.2, "dash": look.dash},
        "marker": {"color": look.color, "symbol": look.symbol, "size": 8},
        "connectgaps": False,
        "name": name,
        "legendgroup": name,
        "meta": dict(meta),
    }


def bands(
    name: str,
    look: Look,
    cells: Mapping[int, Estimate],
    *,
    meta: Mapping[str, Any],
    panel: int = 1,
    scale: float = 1,
) -> list[Trace]:
    """The intervals, one band for each run of neighbouring n; a lone n gets an error bar."""
    known = {
        n: (rounded(scale * e.low), rounded(scale * e.high))
        for n, e in cells.items()
        if e.low is not None and e.high is not None
    }
    traces = []
    for run in runs(sorted(known)):
        low, high = [known[n][0] for n in run], [known[n][1] for n in run]
        alone = len(run) == 1
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                **_on(panel),
                "x": [run[0], run[0]] if alone else run + run[::-1],
                "y": low + high if alone else high + low[::-1],
                "line": {"width": 2 if alone else 0, "color": look.color},
                "hoverinfo": "skip",
                "legendgroup": name,
                "showlegend": False,
                "name": name,
                "meta": dict(meta),
                **({} if alone else {"fill": "toself", "fillcolor": faint(look.color)}),
            }
        )
    return traces


def overlay(name: str, look: Look, values: Mapping[int, float], panel: int = 1) -> Trace:
    """What was published, hollow and dotted; the page shows it where it is asked to."""
    cells = {
        n: (value, f"<b>{escape(name)}</b>, n = {n}<br>{value:.2f}") for n, value in values.items()
    }
    trace = line(name, look, cells, meta={"overlay": True}, panel=panel)
    trace["line"] |= {"dash": "dot", "width": 1.6}
    trace["marker"] |= {"symbol": f"{look.symbol}-open", "size": 9}
    return trace | {"visible": False}


def faint(color: str) -> str:
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, 0.14)"


def beside(place: int, count: int) -> float:
    """Where a series stands beside its n, so that points of equal height stay apart."""
    return round(0.09 * (place - (count - 1) / 2), 3)


def numbers_of(value: Estimate, scale: float = 1) -> tuple[Any, ...]:
    """Mean, the ends of its interval (empty where there is none) and its networks."""
    ends = ("" if end is None else rounded(scale * end) for end in (value.low, value.high))
    return (rounded(scale * value.mean), *ends, value.n)


def rounded(value: float) -> float:
    return round(value, DIGITS)


def _on(panel: int) -> dict[str, str]:
    number = "" if panel == 1 else str(panel)
    return {"xaxis": f"x{number}", "yaxis": f"y{number}"}
