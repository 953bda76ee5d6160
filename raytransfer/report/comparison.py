"""Two studies side by side: two networks, two recipes, two data sets."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from raytransfer.report import html, words
from raytransfer.report.drawing import (
    LOOKS,
    Look,
    Trace,
    View,
    along_layers,
    bands,
    line,
    named,
    numbers_of,
    panels,
)
from raytransfer.report.figures import SCORES, Measure, estimates, told_of
from raytransfer.report.page import document
from raytransfer.results import text
from raytransfer.results.intervals import difference_of
from raytransfer.results.statistics import Group, Statistic, summarise
from raytransfer.results.table import SERIES, Results

MENUS = ("networks", "series", "shown as")

ASIDE = ("treatments", "command", "versions", "git_revision", "layout")
"""Parts of a study's description that are told, but make no difference to what it finds."""

MOST_SETTINGS = 60


@dataclass(frozen=True)
class Study:
    """A study with the name that the page gives it."""

    name: str
    results: Results
    groups: dict[str, Group]


def comparison(sources: Mapping[str, Results], statistic: Statistic = "top1") -> str:
    """The page of two studies, by their names."""
    first, second = (
        Study(name, results, summarise(results, statistic).studied)
        for name, results in sources.items()
    )
    views = list(_views(first, second, statistic))
    differing = list(_differing(first.results.provenance, second.results.provenance))
    return document(
        f"{first.name} and {second.name}",
        [
            _header(first, second),
            _figure(views),
            _table(first, second, statistic),
            _settings(first, second, differing),
        ],
    )


def _shared(first: Study, second: Study) -> Iterator[tuple[str, Group, Group]]:
    for name, group in first.groups.items():
        if name in second.groups:
            yield name, group, second.groups[name]


def _header(first: Study, second: Study) -> str:
    counts = " and ".join(
        f"{study.name}: {sum(row['state'] == 'finished' for row in study.results.networks)} of "
        f"{len(study.results.networks)} networks finished"
        for study in (first, second)
    )
    said = [
        f"{name}: {_deepest(group, other, second.name)}"
        for name, group, other in _shared(first, second)
        if _deepest(group, other, second.name)
    ]
    for study, other in ((first, second), (second, first)):
        if alone := [name for name in study.groups if name not in other.groups]:
            said.append(f"Only {study.name} has {', '.join(alone)}: not compared here.")
    items = "".join(f"<li>{html.minus(escape(sentence))}</li>" for sentence in said)
    return f"""<header>
<p class="kicker">{escape(counts)}</p>
<h1>{escape(first.name)} and {escape(second.name)}</h1>
<p class="lead">Differences are those of means over networks, with Welch's 95 % interval: networks
of two studies are not paired. With networks of one base in either there is no interval, and
nothing is decided.</p>
<ul class="findings">{items}</ul>
</header>
"""


def _deepest(group: Group, other: Group, name: str) -> str:
    """The frozen transfer of most layers that both have, in a sentence."""
    both = [
        n
        for n in sorted(group.series.get("AnB", {}).keys() & other.series.get("AnB", {}).keys())
        if group.series["AnB"][n].change and other.series["AnB"][n].change
    ]
    if not both:
        return ""
    ours, theirs = group.series["AnB"][both[-1]].change, other.series["AnB"][both[-1]].change
    assert ours is not None
    assert theirs is not None
    value = difference_of(theirs, ours)
    return (
        f"frozen transfer of {both[-1]} layers (AnB) changes top-1 against the own base by "
        f"{words.points(ours)} points and, in {name}, by {words.points(theirs)}: a difference of "
        f"{words.points(value)}{words.verdict(value)}."
    )


def _views(first: Study, second: Study, statistic: Statistic) -> Iterator[View]:
    for name, group, other in _shared(first, second):
        both = [s for s in SERIES if s in group.series and s in other.series]
        for relative in (True, False):
            measure = Measure(statistic, relative)
            shown = [s for s in both if not (relative and s == "base")]
            drawn: list[tuple[str, Sequence[str]]] = [("all", shown)] if len(shown) > 1 else []
            for series, chosen in [*drawn, *((s, [s]) for s in shown)]:
                view = _view((first.name, group), (second.name, other), measure, chosen)
                kind = "change against the own base" if relative else SCORES[statistic]
                yield View((name, series, kind), *view)


def _view(
    ours: tuple[str, Group], theirs: tuple[str, Group], measure: Measure, shown: Sequence[str]
) -> tuple[dict[str, Any], tuple[tuple[Any, ...], ...]]:
    layout = panels([f"means, 95 % intervals: {measure.title}"], [1], height=480)
    along_layers(layout, base=not measure.relative)
    layout["yaxis"]["zeroline"] = measure.relative
    data: list[Trace] = []
    numbers: list[tuple[Any, ...]] = [("study", "series", "n", "value", "low", "high", "networks")]
    for series in shown:
        look = LOOKS[series]
        # The second study differs from the first in its dash and its hollow markers.
        dotted = Look(look.color, f"{look.symbol}-open", "dot")
        for (study, group), own in ((ours, look), (theirs, dotted)):
            values = estimates(group, series, measure)
            name = f"{study}: {named(series)}"
            data += bands(name, own, values, meta={}, scale=measure.scale)
            data.append(line(name, own, told_of(name, values, measure), meta={}))
            for n, value in sorted(values.items()):
                numbers.append((study, series, n, *numbers_of(value, measure.scale)))
    return {"data": data, "layout": layout}, tuple(numbers)


def _figure(views: list[View]) -> str:
    title = "Accuracy against n in both studies"
    if not views:
        said = "The studies share no group of networks: there is nothing to lay side by side."
        return html.section("figure-2", title, said)
    said = "The first study is drawn with full lines and markers, the second dotted and hollow."
    return html.section("figure-2", title, said, html.figure("figure-2", title, views, MENUS))


def _table(first: Study, second: Study, statistic: Statistic) -> str:
    title = "The numbers"
    shown = []
    for name, group, other in _shared(first, second):
        rows = []
        for series in (s for s in SERIES if s != "base"):
            ours, theirs = (
                estimates(each, series, Measure(statistic, relative=True))
                if series in each.series
                else {}
                for each in (group, other)
            )
            for n in sorted(ours.keys() & theirs.keys()):
                value = difference_of(theirs[n], ours[n])
                cells = (text.points(each) for each in (ours[n], theirs[n], value))
                rows.append((series, str(n), *cells))
        if rows:
            header = ("series", "layers n", first.name, second.name, "difference")
            shown.append(
                text.Table(
                    f"{name}: change against the own base, points [95 % interval] (networks)",
                    header,
                    tuple(rows),
                )
            )
    if not shown:
        return html.section("numbers", title, "No cell is filled in both studies.")
    said = "Changes against the own base, which networks of different scores have in common."
    return html.section("numbers", title, said, "".join(map(html.table, shown)))


def _settings(first: Study, second: Study, differing: list[tuple[str, str, str]]) -> str:
    title = "What the studies were made from"
    if not first.results.provenance or not second.results.provenance:
        said = "A table of results does not say how its networks were made."
        return html.section("settings", title, said)
    if not differing:
        said = "Recipe, splits and data are the same in both."
        return html.section("settings", title, said)
    rows = differing[:MOST_SETTINGS]
    said = f"{len(differing)} settings differ." if len(differing) > 1 else "One setting differs."
    if len(rows) < len(differing):
        said = f"{len(differing)} settings differ, of which these are the first {len(rows)}."
    table = text.Table("Settings that differ", ("setting", first.name, second.name), tuple(rows))
    return html.section("settings", title, said, html.table(table))


def _differing(ours: Any, theirs: Any, place: str = "") -> Iterator[tuple[str, str, str]]:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        for key in dict.fromkeys([*ours, *theirs]):
            if place or key not in ASIDE:
                inner = f"{place}.{key}" if place else str(key)
                yield from _differing(ours.get(key), theirs.get(key), inner)
    elif ours != theirs:
        yield place, _short(ours), _short(theirs)


def _short(value: Any) -> str:
    shown = "not set" if value is None else str(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
