"""The paper's Figures 2 and 3 and the decomposition of the fall, one view for each reading."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

from raytransfer.report import published
from raytransfer.report.drawing import (
    LOOKS,
    Look,
    Trace,
    View,
    along_layers,
    bands,
    beside,
    line,
    named,
    numbers_of,
    overlay,
    panels,
    points,
    rounded,
)
from raytransfer.results.intervals import Estimate
from raytransfer.results.statistics import (
    SCALES,
    Group,
    Statistic,
    Summary,
    changes,
    split_groups,
    statistics_of,
    studied,
    summarise,
)
from raytransfer.results.table import SERIES, Results, series_of
from raytransfer.study.treatment import LAYERS

Row = Mapping[str, Any]

FIGURE_2_MENUS = ("networks", "score", "shown as")
DECOMPOSITION_MENUS = ("networks",)

ABSOLUTE, RELATIVE = "score", "change against the own base"

SCORES: dict[Statistic, str] = {
    "top1": "top-1, final",
    "top1_best10": "top-1, mean of the ten best",
    "top5": "top-5",
    "loss": "loss",
}

OTHERS = ("#009e73", "#8a8a00", "#5b6bd6", "#b5489a")
"""Colours of further splits in Figure 3."""

PARTS = {"co-adaptation": "#0072b2", "specificity": "#d55e00"}


@dataclass(frozen=True)
class Measure:
    """A statistic, as its own value or against the own base, with its unit."""

    statistic: Statistic
    relative: bool

    @property
    def scale(self) -> float:
        """Of the values; differences have theirs already."""
        return 1 if self.relative else SCALES[self.statistic]

    @property
    def unit(self) -> str:
        if self.statistic == "loss":
            return "nats"
        return "points" if self.relative else "%"

    @property
    def title(self) -> str:
        change = "change against the own base: " if self.relative else ""
        return f"{change}{SCORES[self.statistic]}, {self.unit}"

    def shown(self, value: float) -> str:
        digits = 4 if self.statistic == "loss" else 2
        sign = "+" if self.relative else ""
        return f"{value:{sign}.{digits}f} {self.unit}"


def figure_2(results: Results, first: Statistic) -> list[View]:
    """Every network and the means, against n: for pooled and single splits and each target, for
    each score, as such and as the change against the own base."""
    found = statistics_of(results)
    views = []
    for statistic in sorted(found, key=lambda name: name != first):
        gained = changes(results.networks, statistic)
        summary = summarise(results, statistic)
        for name, group in groups_of(results, summary).items():
            rows = finished(results, group)
            for relative in (False, True):
                if relative and not any(row["treatment"] in gained for row in rows):
                    continue
                measure = Measure(statistic, relative)
                figure, numbers = _networks_and_means(rows, group, measure, gained)
                choice = (name, SCORES[statistic], RELATIVE if relative else ABSOLUTE)
                views.append(View(choice, figure, numbers))
    return views


def groups_of(results: Results, summary: Summary) -> dict[str, Group]:
    """What a figure may be over, by name: splits pooled and apart, and each target of theirs."""
    splits = split_groups(results, summary.statistic)
    return summary.studied | (studied(splits.values()) if len(splits) > 1 else {})


def finished(results: Results, group: Group) -> list[Row]:
    ids = set(group.networks)
    return [row for row in results.networks if row["treatment"] in ids]


def decomposition(results: Results, summary: Summary) -> list[View]:
    """How much of the fall is co-adaptation (base - BnB) and how much specificity (BnB - AnB)."""
    views = []
    for name, group in groups_of(results, summary).items():
        kinds = {"co-adaptation": group.co_adaptation, "specificity": group.specificity}
        if not any(kinds.values()):
            continue
        layout = panels(["points of top-1 lost, 95 % intervals"], [1], height=440)
        along_layers(layout, base=False)
        # Bars of one n are added up, those below 0 apart from those above.
        layout |= {"barmode": "relative", "bargap": 0.45}
        layout["yaxis"]["zeroline"] = True
        data = [_bars(kind, kinds[kind], color) for kind, color in PARTS.items() if kinds[kind]]
        numbers = (
            ("part", "n", "points", "low", "high", "pairs"),
            *((kind, n, *numbers_of(e)) for kind in kinds for n, e in sorted(kinds[kind].items())),
        )
        views.append(View((name,), {"data": data, "layout": layout}, numbers))
    return views


def figure_3(results: Results, summary: Summary) -> View | None:
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
                look = Look(next(further), symbol, "dashdot")
            lines.append((f"{group.name}: {named(series)}", look, group, series))
    if len(lines) < 2 and not any(series == "RnB" for *_, series in lines):
        return None
    measure = Measure(summary.statistic, relative=True)
    layout = panels([measure.title], [1], height=480)
    along_layers(layout, base=False)
    layout["yaxis"]["zeroline"] = True
    gained = changes(results.networks, summary.statistic)
    data: list[Trace] = []
    numbers: list[tuple[Any, ...]] = [_HEADER]
    for place, (name, look, group, series) in enumerate(lines):
        meta = {"series": series} if look is LOOKS[series] else {}
        values = estimates(group, series, measure)
        rows = [row for row in finished(results, group) if series_of(row) == series]
        offset = beside(place, len(lines))
        stand = list(_standing(rows, group, measure, gained, offset))
        data += bands(name, look, values, meta=meta)
        data.append(points(name, look, stand, meta=meta, size=6) | {"showlegend": False})
        data.append(line(name, look, told_of(name, values, measure), meta=meta))
        numbers += _rows(series, stand, values, measure, split=group.name)
    if summary.statistic in ("top1", "top1_best10"):
        untrained = [100 * (top1 - published.UNTRAINED_BASE) for top1 in published.UNTRAINED]
        for series, values_2014, what in (
            ("AnB", published.CHANGES["AnB"], "random splits: AnB"),
            ("AnB", published.DISSIMILAR, "man-made and natural: AnB"),
            ("RnB", untrained, "untrained filters"),
        ):
            data.append(overlay(f"2014, {what}", LOOKS[series], dict(enumerate(values_2014, 1))))
    return View((), {"data": data, "layout": layout}, tuple(numbers))


def estimates(group: Group, series: str, measure: Measure) -> dict[int, Estimate]:
    cells = group.series[series]
    found = {n: cell.change if measure.relative else cell.score for n, cell in cells.items()}
    return {n: value for n, value in found.items() if value is not None}


_HEADER = ("what", "series", "n", "network", "value", "low", "high", "networks")


def _networks_and_means(
    rows: Sequence[Row], group: Group, measure: Measure, gained: Mapping[str, float]
) -> tuple[dict[str, Any], tuple[tuple[Any, ...], ...]]:
    titles = [f"each network: {measure.title}", f"means, 95 % intervals: {measure.title}"]
    layout = panels(titles, [0.54, 0.46], height=720)
    along_layers(layout, base=not measure.relative)
    relative = measure.relative
    shown = [s for s in SERIES if s in group.series and not (relative and s == "base")]
    data: list[Trace] = []
    numbers: list[tuple[Any, ...]] = [_HEADER]
    for place, series in enumerate(shown):
        look, name, meta = LOOKS[series], named(series), {"series": series}
        # A base has a place of its own on the axis, so only the others stand side by side.
        offset = 0.0 if series == "base" else beside(place, len(shown))
        mine = [row for row in rows if series_of(row) == series]
        stand = list(_standing(mine, group, measure, gained, offset))
        values = estimates(group, series, measure)
        mean = line(name, look, told_of(name, values, measure), meta=meta, panel=2)
        traces = [
            points(name, look, stand, meta=meta),
            *bands(name, look, values, meta=meta, panel=2, scale=measure.scale),
            mean | {"showlegend": False},
        ]
        if series == "RnB" and len(shown) > 2:
            # The paper keeps untrained filters for its Figure 3: they would flatten all the rest.
            traces = [trace | {"visible": "legendonly"} for trace in traces]
        data += traces
        numbers += _rows(series, stand, values, measure)
    data += _overlays(group, measure)
    base = group.series.get("base", {}).get(0)
    if relative:
        layout["yaxis"]["zeroline"] = layout["yaxis2"]["zeroline"] = True
    elif base:
        level = rounded(measure.scale * base.score.mean)
        layout["shapes"] = [
            {
                "type": "line",
                "xref": f"{axis} domain",
                "x0": 0,
                "x1": 1,
                "yref": f"y{axis[1:]}",
                "y0": level,
                "y1": level,
                "line": {"color": LOOKS["base"].color, "width": 1, "dash": "dot"},
            }
            for axis in ("x", "x2")
        ]
    layout["annotations"] += _absent(group, first=1 if relative else 0)
    return {"data": data, "layout": layout}, tuple(numbers)


def _standing(
    rows: Sequence[Row],
    group: Group,
    measure: Measure,
    gained: Mapping[str, float],
    offset: float,
) -> Iterator[tuple[str, float, float, str]]:
    """Networks as points: id, place, value, and what is told of each."""
    for row in rows:
        id, n, series = row["treatment"], row["n"], series_of(row)
        own = Measure(measure.statistic, relative=False)
        score = own.scale * row[measure.statistic]
        told = [f"<b>{escape(id)}</b>", f"{SCORES[measure.statistic]}: {own.shown(score)}"]
        if id in gained:
            change = replace(own, relative=True).shown(gained[id])
            told.append(f"{change} against its own base")
        elif measure.relative:
            continue
        cell = group.series[series][n].score
        of = "base" if series == "base" else f"{series}, n = {n}"
        told.append(f"{of}: mean {own.shown(own.scale * cell.mean)}, {_spread(cell, own)}")
        yield id, n + offset, gained[id] if measure.relative else score, "<br>".join(told)


def told_of(
    name: str, values: Mapping[int, Estimate], measure: Measure
) -> dict[int, tuple[float, str]]:
    """Means by n, with what is told of each."""

    def text(n: int, value: Estimate) -> str:
        of = escape(name) if n == 0 else f"{escape(name)}, n = {n}"
        lines = [f"<b>{of}</b>", f"mean {measure.shown(measure.scale * value.mean)}"]
        if value.low is not None and value.high is not None:
            low, high = (measure.shown(measure.scale * end) for end in (value.low, value.high))
            lines.append(f"95 % interval {low} to {high}")
        return "<br>".join([*lines, _spread(value, measure)])

    return {n: (measure.scale * value.mean, text(n, value)) for n, value in values.items()}


def _spread(value: Estimate, measure: Measure) -> str:
    if value.sd is None:
        return "1 network: no spread, no interval"
    spread = replace(measure, relative=True).shown(measure.scale * value.sd).lstrip("+")
    return f"{value.n} networks, sd {spread}"


def _overlays(group: Group, measure: Measure) -> Iterator[Trace]:
    """The results of 2014 that are of the same kind."""
    if measure.statistic not in ("top1", "top1_best10"):
        return
    random = all(split.startswith("random:") for split in group.splits)
    for series in group.series:
        values: Mapping[int, float] = {}
        if measure.relative and random and series in published.CHANGES:
            values = dict(enumerate(published.CHANGES[series], 1))
        elif measure.relative and series == "AnB" and not random:
            values = dict(enumerate(published.DISSIMILAR, 1))
        elif not measure.relative and random and series in published.TOP1:
            values = {n: 100 * top1 for n, top1 in enumerate(published.TOP1[series], 1)}
        elif not measure.relative and random and series == "base":
            values = {0: 100 * published.BASE}
        if values:
            yield overlay(f"2014: {series}", LOOKS[series], values, panel=2)


def _absent(group: Group, first: int) -> list[dict[str, Any]]:
    """Name, at the foot of the upper panel, the series that have no finished network there."""
    absent: dict[int, list[str]] = {}
    for missing in group.missing:
        if not missing.finished and missing.n >= first:
            absent.setdefault(missing.n, []).append(missing.series)
    return [
        {
            "x": n,
            "y": 0,
            "xref": "x",
            "yref": "y domain",
            "yanchor": "bottom",
            "text": "<i>no<br>" + "<br>".join(series) + "</i>",
            "showarrow": False,
            "font": {"size": 11},
        }
        for n, series in absent.items()
    ]


def _bars(kind: str, values: Mapping[int, Estimate], color: str) -> Trace:
    ns = [n for n in range(1, LAYERS) if n in values]
    of = {"co-adaptation": "base - BnB", "specificity": "BnB - AnB"}[kind]
    measure = Measure("top1", relative=True)
    told = told_of(f"{kind} ({of})", values, measure)
    reach = {n: e.high - e.mean if e.high is not None else 0.0 for n, e in values.items()}
    return {
        "type": "bar",
        "x": ns,
        "y": [rounded(values[n].mean) for n in ns],
        "text": [told[n][1] for n in ns],
        "textposition": "none",
        "hovertemplate": "%{text}<extra></extra>",
        "error_y": {"type": "data", "array": [rounded(reach[n]) for n in ns], "thickness": 1.4},
        "marker": {
            "color": color,
            "pattern": {"shape": "" if kind == "co-adaptation" else "/", "fgopacity": 0.6},
        },
        "name": f"{kind} ({of})",
        "legendgroup": kind,
        "meta": {},
    }


def _rows(
    series: str,
    stand: Sequence[tuple[str, float, float, str]],
    values: Mapping[int, Estimate],
    measure: Measure,
    split: str = "",
) -> Iterator[tuple[Any, ...]]:
    """What is drawn of a series, as rows under _HEADER."""
    what = f"{split}: " if split else ""
    for id, x, y, _ in stand:
        yield f"{what}network", series, round(x), id, rounded(y), "", "", ""
    for n, value in sorted(values.items()):
        yield f"{what}mean", series, n, "", *numbers_of(value, measure.scale)
