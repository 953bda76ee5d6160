"""The paper's Figures 2 and 3, as plotly figures with one view for each reading of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from raytransfer.results import text
from raytransfer.results.intervals import Estimate
from raytransfer.results.statistics import Cell, Group, Summary, changes
from raytransfer.results.table import SERIES, Results, series_of
from raytransfer.study.treatment import LAYERS

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Look:
    """How a series is drawn; shape and dash tell series apart where colour does not."""

    color: str
    symbol: str
    dash: str
    meaning: str


LOOKS: dict[str, Look] = {
    "base": Look("#7a828e", "circle", "solid", "trained from scratch"),
    "BnB": Look("#2563c9", "square", "solid", "selffer, frozen"),
    "BnB+": Look("#3ea3e8", "diamond", "dash", "selffer, fine-tuned"),
    "AnB": Look("#cf3f2e", "triangle-up", "solid", "transfer, frozen"),
    "AnB+": Look("#e8952e", "triangle-down", "dash", "transfer, fine-tuned"),
    "RnB": Look("#8e5bd0", "x", "dot", "untrained filters"),
}
OTHERS = ("#0f9d84", "#b5489a", "#7d8a1c", "#5b6bd6")
"""Colours of further splits in Figure 3."""


@dataclass(frozen=True)
class View:
    """One choice of a figure's menu."""

    name: str
    figure: go.Figure


def figure_2(results: Results, summary: Summary) -> list[View]:
    """Every network and the means, against n: top-1, and the change against the own base."""
    views = []
    for group in summary.groups.values():
        for part in (part for part in group.studied if part.networks):
            rows = _finished(results, part)
            for relative in (False, True):
                if relative and not any(c.change for c in _cells(part)):
                    continue
                measure = "change against the own base" if relative else "top-1 accuracy"
                figure = _networks_and_means(rows, part, summary, relative)
                views.append(View(f"{part.name}: {measure}", figure))
    return views


def figure_3(results: Results, summary: Summary) -> go.Figure | None:
    """Transfer in every group, and untrained filters, relative to the own base.

    None where there are neither several splits to compare nor untrained filters.
    """
    lines: list[tuple[str, Look, Group, str]] = []
    further = iter(OTHERS * (1 + len(summary.groups)))
    for group in summary.groups.values():
        for series in ("AnB", "RnB"):
            cells = group.series.get(series, {})
            if not any(cell.change for cell in cells.values()):
                continue
            look = LOOKS[series]
            if any(series == other for *_, other in lines):
                symbol = {"AnB": "star-triangle-up", "RnB": "cross"}[series]
                look = Look(next(further), symbol, "dashdot", look.meaning)
            lines.append((f"{group.name}: {look.meaning} ({series})", look, group, series))
    if len(lines) < 2 and not any(series == "RnB" for *_, series in lines):
        return None
    title = "change against the own base, points"
    figure = make_subplots(rows=1, cols=1, subplot_titles=(title,))
    gained = changes(results.networks, summary.statistic)
    for place, (name, look, group, series) in enumerate(lines):
        changed = _estimates(group, series, relative=True)
        rows = [
            row
            for row in _finished(results, group)
            if series_of(row) == series and row["treatment"] in gained
        ]
        offset = _offset(place, len(lines))
        _add_band(figure, changed, look, name)
        figure.add_trace(
            go.Scatter(
                x=[row["n"] + offset for row in rows],
                y=[gained[row["treatment"]] for row in rows],
                text=[_network_hover(row, group, gained, summary) for row in rows],
                mode="markers",
                marker=_marker(look, size=6, opacity=0.55),
                hovertemplate="%{text}<extra></extra>",
                name=name,
                legendgroup=name,
                showlegend=False,
            )
        )
        figure.add_trace(_means(changed, look, name, name, relative=True))
    _finish(figure, height=480)
    figure.update_xaxes(_layers_axis(base=False))
    figure.update_yaxes(zeroline=True)
    return figure


def _networks_and_means(
    rows: Sequence[Row], group: Group, summary: Summary, relative: bool
) -> go.Figure:
    measure = "change against the own base, points" if relative else "top-1, %"
    figure = make_subplots(
        rows=2,
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.09,
        row_heights=[0.54, 0.46],
        subplot_titles=(f"each network: {measure}", f"means, 95 % intervals: {measure}"),
    )
    gained = changes(rows, summary.statistic)
    shown = [s for s in SERIES if s in group.series and not (relative and s == "base")]
    for place, series in enumerate(shown):
        look = LOOKS[series]
        # A base has a place of its own on the axis, so only the others stand side by side.
        offset = 0.0 if series == "base" else _offset(place, len(shown))
        mine = [
            row
            for row in rows
            if series_of(row) == series and (not relative or row["treatment"] in gained)
        ]
        name = f"{series} ({look.meaning})" if series != "base" else "base"
        # The paper keeps untrained filters for its Figure 3: they would flatten all the rest.
        visible = "legendonly" if series == "RnB" and len(shown) > 2 else True
        figure.add_trace(
            go.Scatter(
                x=[row["n"] + offset for row in mine],
                y=[
                    gained[row["treatment"]] if relative else 100 * row[summary.statistic]
                    for row in mine
                ],
                text=[_network_hover(row, group, gained, summary) for row in mine],
                mode="markers",
                marker=_marker(look, size=8, opacity=0.7),
                hovertemplate="%{text}<extra></extra>",
                name=name,
                legendgroup=series,
                showlegend=True,
            ),
            row=1,
            col=1,
        )
        cells = _estimates(group, series, relative)
        _add_band(figure, cells, look, series, row=2, scale=1 if relative else 100)
        figure.add_trace(_means(cells, look, name, series, relative), row=2, col=1)
        figure.data[-1].showlegend = False
        figure.update_traces(visible=visible, selector={"legendgroup": series})
    base = group.series.get("base", {}).get(0)
    if base and not relative:
        for row_number in (1, 2):
            figure.add_hline(
                y=100 * base.score.mean,
                line={"color": LOOKS["base"].color, "width": 1, "dash": "dot"},
                row=row_number,
                col=1,
            )
    _mark_missing(figure, group, first=1 if relative else 0)
    _finish(figure, height=720)
    figure.update_xaxes(_layers_axis(base=not relative))
    figure.update_xaxes(title_text=None, showticklabels=True, row=1)
    figure.update_yaxes(zeroline=relative)
    return figure


def _cells(group: Group) -> list[Cell]:
    return [cell for cells in group.series.values() for cell in cells.values()]


def _estimates(group: Group, series: str, relative: bool) -> dict[int, Estimate]:
    found = {n: c.change if relative else c.score for n, c in group.series[series].items()}
    return {n: value for n, value in found.items() if value is not None}


def _finished(results: Results, group: Group) -> list[Row]:
    ids = set(group.networks)
    return [row for row in results.networks if row["treatment"] in ids]


def _offset(place: int, count: int) -> float:
    """Where a series stands beside its n, so that points of equal height stay apart."""
    return round(0.09 * (place - (count - 1) / 2), 3)


def _marker(look: Look, size: int, opacity: float) -> dict[str, Any]:
    return {"color": look.color, "symbol": look.symbol, "size": size, "opacity": opacity}


def _means(
    cells: Mapping[int, Estimate], look: Look, name: str, group: str, relative: bool
) -> go.Scatter:
    # An n without networks breaks the line: nobody measured what would be drawn there.
    ns = list(range(min(cells), max(cells) + 1)) if cells else []
    scale = 1 if relative else 100
    return go.Scatter(
        x=ns,
        y=[scale * cells[n].mean if n in cells else None for n in ns],
        text=[_mean_hover(name, n, cells[n], relative) if n in cells else "" for n in ns],
        mode="lines+markers",
        line={"color": look.color, "width": 2.2, "dash": look.dash},
        marker=_marker(look, size=8, opacity=1),
        hovertemplate="%{text}<extra></extra>",
        connectgaps=False,
        name=name,
        legendgroup=group,
    )


def _add_band(
    figure: go.Figure,
    cells: Mapping[int, Estimate],
    look: Look,
    group: str,
    row: int | None = None,
    scale: float = 1,
) -> None:
    """The intervals as bands, one for each run of neighbouring n; a lone n gets an error bar."""
    known = {n: (e.low, e.high) for n, e in cells.items() if e.low is not None}
    runs: list[list[int]] = []
    for n in sorted(known):
        if runs and runs[-1][-1] == n - 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    where = {} if row is None else {"row": row, "col": 1}
    for run in runs:
        low = [scale * (known[n][0] or 0) for n in run]
        high = [scale * (known[n][1] or 0) for n in run]
        alone = len(run) == 1
        figure.add_trace(
            go.Scatter(
                x=[run[0], run[0]] if alone else run + run[::-1],
                y=low + high if alone else high + low[::-1],
                mode="lines",
                line={"width": 2 if alone else 0, "color": look.color},
                fill=None if alone else "toself",
                fillcolor=_faint(look.color),
                hoverinfo="skip",
                legendgroup=group,
                showlegend=False,
            ),
            **where,
        )


def _faint(color: str) -> str:
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, 0.14)"


def _mark_missing(figure: go.Figure, group: Group, first: int) -> None:
    """Name, at the foot of the upper panel, the series that have no finished network there."""
    absent: dict[int, list[str]] = {}
    for missing in group.missing:
        if not missing.finished and missing.n >= first:
            absent.setdefault(missing.n, []).append(missing.series)
    for n, series in absent.items():
        figure.add_annotation(
            x=n,
            y=0,
            xref="x",
            yref="y domain",
            yanchor="bottom",
            text="<i>no<br>" + "<br>".join(series) + "</i>",
            showarrow=False,
            font={"size": 11, "color": "#8a8f98"},
        )


def _network_hover(row: Row, group: Group, gained: Mapping[str, float], summary: Summary) -> str:
    series, n, id = series_of(row), row["n"], row["treatment"]
    lines = [f"<b>{escape(id)}</b>", f"top-1 {100 * row[summary.statistic]:.2f} %"]
    if id in gained:
        lines.append(f"{gained[id]:+.2f} points against its own base")
    cell = group.series[series][n]
    of = "base" if series == "base" else f"{series}, n = {n}"
    lines.append(f"{of}: mean {text.percent(cell.score)}")
    lines.append(_spread(cell.score, 100))
    return "<br>".join(lines)


def _mean_hover(name: str, n: int, estimate: Estimate, relative: bool) -> str:
    shown = f"{text.points(estimate)} points" if relative else f"{text.percent(estimate)} %"
    of = escape(name) if n == 0 else f"{escape(name)}, n = {n}"
    return f"<b>{of}</b><br>mean {shown}<br>{_spread(estimate, 1 if relative else 100)}"


def _spread(estimate: Estimate, scale: float) -> str:
    if estimate.sd is None:
        return "1 network: no spread, no interval"
    return f"{estimate.n} networks, sd {scale * estimate.sd:.2f} points"


def _layers_axis(base: bool) -> dict[str, Any]:
    ns = list(range(0 if base else 1, LAYERS))
    return {
        "title_text": "n, the layers copied",
        "tickvals": ns,
        "ticktext": ["base" if n == 0 else str(n) for n in ns],
        "range": [ns[0] - 0.5, ns[-1] + 0.5],
    }


def _finish(figure: go.Figure, height: int) -> None:
    """What all figures share; the page sets the colours that depend on light or dark."""
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 46, "r": 14, "t": 34, "b": 48},
        hovermode="closest",
        hoverlabel={"align": "left"},
        legend={"orientation": "h", "x": 0, "y": -68 / (height - 180), "yanchor": "top"},
    )
    figure.update_xaxes(title_font_size=13, title_standoff=8)
    figure.update_xaxes(zeroline=False, showgrid=False, ticks="outside", ticklen=4)
    figure.update_yaxes(automargin=True, nticks=8, zerolinewidth=1.5)
    for annotation in figure.layout.annotations:
        if annotation.yref == "paper":
            annotation.update(x=0, xanchor="left", font={"size": 13})
