"""A summary's numbers as text: the cells, and the tables that terminal and page both show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raytransfer.results.intervals import Estimate
from raytransfer.results.statistics import STATISTICS, Boost, Group, Summary
from raytransfer.results.table import SERIES
from raytransfer.study.treatment import LAYERS

MISSING = "missing"
NOT_STUDIED = "-"


@dataclass(frozen=True)
class Table:
    """A table of text: what it shows, its header, and its rows."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def runs(ns: Sequence[int]) -> list[list[int]]:
    """Rising numbers in runs of neighbours."""
    found: list[list[int]] = []
    for n in ns:
        if found and found[-1][-1] == n - 1:
            found[-1].append(n)
        else:
            found.append([n])
    return found


def percent(value: Estimate, digits: int = 2) -> str:
    """An accuracy: "62.51 [62.05, 62.97] (8)", in per cent, with its networks."""
    return _with_interval(value, 100, "", digits)


def points(value: Estimate, digits: int = 2) -> str:
    """A difference: "+1.60 [+0.90, +2.30] (8)", in percentage points."""
    return _with_interval(value, 1, "+", digits)


def _with_interval(value: Estimate, scale: float, sign: str, digits: int) -> str:
    def number(x: float) -> str:
        # Adding 0 keeps a rounded -0.00 from showing its sign.
        return f"{round(scale * x, digits) + 0.0:{sign}.{digits}f}"

    if value.low is None or value.high is None:
        return f"{number(value.mean)} ({value.n})"
    return f"{number(value.mean)} [{number(value.low)}, {number(value.high)}] ({value.n})"


def tables(summary: Summary) -> list[Table]:
    """What `summary` says, for people: means with 95 % intervals and their number of networks."""
    shown = [_states(summary)]
    bases, groups = apart(summary)
    if bases:
        shown.append(base_scores(bases, STATISTICS[summary.statistic]))
    for group in groups:
        whole = group.studied[0]
        shown.append(scores(whole, STATISTICS[summary.statistic]))
        if any(cell.change for cells in whole.series.values() for cell in cells.values()):
            shown.append(changes(whole))
        if group.co_adaptation or group.specificity or group.over_untrained:
            shown.append(decomposition(whole))
        if group.boosts:
            shown.append(boosts(group))
    if summary.unfinished:
        shown.append(unfinished(summary))
    return shown


def apart(summary: Summary) -> tuple[list[Group], list[Group]]:
    """Groups of nothing but bases, where there are several, and all others.

    Such are the splits of reduced data: they are compared with one another, and not along n.
    """
    groups = list(summary.groups.values())
    bases = [
        group for group in groups if not group.series.keys() - {"base"} and not _planned(group)
    ]
    return (bases, [g for g in groups if g not in bases]) if len(bases) > 1 else ([], groups)


def _planned(group: Group) -> bool:
    """Whether more than bases was to be trained."""
    return any(missing.series != "base" for missing in group.missing)


def base_scores(groups: Sequence[Group], statistic: str) -> Table:
    def score(group: Group) -> str:
        cells = group.series.get("base", {})
        return percent(cells[0].score) if cells else MISSING

    return Table(
        f"Bases: {statistic}, % [95 % interval] (networks)",
        ("split", "base"),
        tuple((group.name, score(group)) for group in groups),
    )


def scores(group: Group, statistic: str) -> Table:
    columns = {
        series: {n: percent(cell.score) for n, cell in cells.items()}
        for series, cells in group.series.items()
    }
    return _by_n(
        f"{group.name}: {statistic}, % [95 % interval] (networks)", columns, group, first=0
    )


def changes(group: Group) -> Table:
    columns = {
        series: {n: points(cell.change) for n, cell in cells.items() if cell.change}
        for series, cells in group.series.items()
        if series != "base"
    }
    return _by_n(
        f"{group.name}: change against the own base, points [95 % interval] (pairs)",
        columns,
        group,
        first=1,
    )


def decomposition(group: Group) -> Table:
    def column(estimates: Mapping[int, Estimate]) -> dict[int, str]:
        return {n: points(value) for n, value in estimates.items()}

    kinds = {
        "co-adaptation": group.co_adaptation,
        "specificity": group.specificity,
        "AnB - RnB": group.over_untrained,
    }
    kinds = {name: estimates for name, estimates in kinds.items() if estimates}
    return Table(
        f"{group.name}: co-adaptation (base - BnB), specificity (BnB - AnB) and transfer over "
        "untrained filters (AnB - RnB), points [95 % interval] (pairs)",
        ("layers n", *kinds),
        tuple(
            (str(n), *(column(estimates).get(n, NOT_STUDIED) for estimates in kinds.values()))
            for n in range(1, LAYERS)
        ),
    )


def boosts(group: Group) -> Table:
    def paired(boost: Boost) -> str:
        if boost.paired is None:
            return "no pairs"
        return f"{points(boost.paired)}, {boost.bases} base{'s' * (boost.bases != 1)}"

    return Table(
        f"{group.name}: mean boost by layers, points (Table 1)",
        ("boost of", "over", "layers", "unpaired (as in the paper)", "paired"),
        tuple(
            (
                boost.series,
                boost.over,
                boost.layers,
                f"{points(boost.unpaired)} over {boost.over_n}" if boost.unpaired else NOT_STUDIED,
                paired(boost),
            )
            for boost in group.boosts
        ),
    )


def unfinished(summary: Summary) -> Table:
    return Table(
        "Not in any mean",
        ("treatment", "state", "reason"),
        tuple((one.treatment, one.state, one.reason or "") for one in summary.unfinished),
    )


def _states(summary: Summary) -> Table:
    counts = summary.counts
    return Table("Networks", tuple(counts), (tuple(str(count) for count in counts.values()),))


def _by_n(title: str, columns: dict[str, dict[int, str]], group: Group, first: int) -> Table:
    """One row an n, one column a series; a cell that should be there and is not says so."""
    absent = {
        (missing.series, missing.n): MISSING if missing.planned else NOT_STUDIED
        for missing in group.missing
        if not missing.finished
    }
    shown = columns.keys() | {series for series, n in absent if n >= first}
    names = [series for series in SERIES if series in shown]

    def cell(series: str, n: int) -> str:
        return columns.get(series, {}).get(n, absent.get((series, n), ""))

    return Table(
        title,
        ("layers n", *names),
        tuple((str(n), *(cell(series, n) for series in names)) for n in range(first, LAYERS)),
    )
