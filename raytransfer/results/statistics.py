"""What a study's networks say: means with intervals, paired changes, and the paper's Table 1.

The unit is the network, never the image. Accuracies are fractions from 0 to 1; changes, boosts
and differences are percentage points. An interval is Student's t at 95 %; one network has none.
A network is paired with its own base (same split, target and seed), a transfer network with the
selffer of the same split, target, seed and n: what these share cancels in the difference. What
networks of one base have in common does not: they count as one in an interval.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from raytransfer.errors import UserError
from raytransfer.results.intervals import CONFIDENCE, Estimate, clustered, difference
from raytransfer.results.table import SERIES, STATES, Results, series_of
from raytransfer.study.treatment import LAYERS

Statistic = Literal["top1", "top1_best10", "top5", "loss"]
STATISTICS: dict[str, str] = {
    "top1": "final validation top-1",
    "top1_best10": "mean of the ten highest validation top-1 (the paper's statistic)",
    "top5": "final validation top-5",
    "loss": "final validation loss",
}
SCALES: dict[str, float] = {"top1": 100, "top1_best10": 100, "top5": 100, "loss": 1}
"""What a statistic is multiplied by in differences: those of accuracies are percentage points, and
those of losses are nats."""

ALL_CLASSES = ", all classes"
POOLED = ("random", f"random{ALL_CLASSES}")
"""The groups of several splits: those drawn at random."""

RANGES = ((1, 7), (3, 7), (5, 7))
"""The layers that Table 1 averages over, first and last n (paper, table 1)."""

COMPARISONS = (("AnB+", "base"), ("AnB+", "BnB+"), ("BnB+", "base"))
"""Table 1's two rows, and a third that shows what its unpaired numbers confound."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """The networks of one series and n."""

    score: Estimate
    """Top-1 by the chosen statistic, fraction."""
    change: Estimate | None
    """Against each network's own base, points; None for bases, and where no base is finished."""


@dataclass(frozen=True)
class Boost:
    """How much better `series` does than `over`, for n from `first` to `last`; points."""

    series: str
    over: str
    first: int
    last: int
    unpaired: Estimate | None
    """Difference of plain means over networks, Welch's interval (the paper's recipe); its n
    counts the networks of `series`, `over_n` those of `over`."""
    over_n: int
    paired: Estimate | None
    """Mean difference from its own counterpart: the own base, or the BnB+ of the same n. Its
    interval is over `bases`, as networks of several n share one base."""
    bases: int

    @property
    def layers(self) -> str:
        return f"{self.first}-{self.last}"


@dataclass(frozen=True)
class Missing:
    """A series and n with no finished network, or with fewer than planned."""

    series: str
    n: int
    finished: int
    planned: int
    unfinished: tuple[str, ...]
    """Ids of the planned networks that are not finished."""


@dataclass(frozen=True)
class Group:
    """Networks that may be averaged: those of random splits, or those of one other split."""

    name: str
    """For people, such as "random splits, target B"."""
    splits: tuple[str, ...]
    networks: tuple[str, ...]
    """Ids of the finished networks: all that its means are over."""
    series: dict[str, dict[int, Cell]]
    co_adaptation: dict[int, Estimate]
    """base - BnB by n, paired, points (paper, section 4.1)."""
    specificity: dict[int, Estimate]
    """BnB - AnB by n, paired, points (paper, section 4.1)."""
    over_untrained: dict[int, Estimate]
    """AnB - RnB by n, paired, points (paper, section 4.3)."""
    boosts: tuple[Boost, ...]
    missing: tuple[Missing, ...]
    targets: "dict[str, Group]"
    """The same for each target alone, where the group has several: a mean over bases of A and B
    is no yardstick for networks of B only."""

    @property
    def studied(self) -> "tuple[Group, ...]":
        """The groups in which all series are of the same targets, the widest first.

        This group itself unless only bases have its other targets, then each target that has
        more than bases.
        """
        parts = [part for part in self.targets.values() if part.series.keys() - {"base"}]
        whole = [self] if len(parts) != 1 else []
        return (*whole, *parts)


@dataclass(frozen=True)
class Unfinished:
    """A network that is counted and named, and in no mean."""

    treatment: str
    state: str
    reason: str | None


@dataclass(frozen=True)
class Summary:
    """Everything that `summarise` finds."""

    statistic: Statistic
    counts: dict[str, int]
    """Networks by state."""
    unfinished: tuple[Unfinished, ...]
    groups: dict[str, Group]

    @property
    def studied(self) -> dict[str, Group]:
        """What a figure may be over, by name: groups and targets with finished networks."""
        return studied(self.groups.values())

    def to_json(self) -> dict[str, Any]:
        """Plain data for json.dumps; intervals of one network are null.

        {statistic, unit, interval, units, counts: {state: networks},
         unfinished: [{treatment, state, reason}],
         groups: {group: {splits,
           series: {"AnB+": {"3": {top1: estimate, change_points: estimate or null}}},
           co_adaptation: {"3": estimate}, specificity: ..., over_untrained: ...,
           boosts: [{series, over, layers, unpaired, over_n, paired, bases}],
           missing: [{series, n, finished, planned, unfinished}],
           targets: {"A": the same for this target alone}}}}
        with estimate = {mean, low, high, n, sd}. A base's n is "0".
        """
        return {
            "statistic": self.statistic,
            "unit": "network",
            "interval": f"{CONFIDENCE:.0%} Student t over networks",
            "units": {
                "top1": "fraction",
                "change_points": "percentage points, paired with each network's own base",
                "co_adaptation": "percentage points, base - BnB, paired",
                "specificity": "percentage points, BnB - AnB, paired",
                "over_untrained": "percentage points, AnB - RnB, paired",
                "boosts": "percentage points",
            },
            "counts": self.counts,
            "unfinished": [asdict(network) for network in self.unfinished],
            "groups": {name: _group_json(group) for name, group in self.groups.items()},
        }


def studied(groups: Iterable[Group]) -> dict[str, Group]:
    """Those of `groups`, and of their targets, that are to be looked at and have networks."""
    return {part.name: part for group in groups for part in group.studied if part.networks}


def group_of(row: Row) -> str:
    """The group a network is averaged in. Random splits pool; every other split stands alone.

    Networks of all classes (target AB) have more ways to be wrong than those of one task, so
    they are never averaged with them.
    """
    name = "random" if row["split"].startswith("random:") else str(row["split"])
    return f"{name}{ALL_CLASSES}" if row["target"] == "AB" else name


def changes(rows: Sequence[Row], statistic: Statistic = "top1") -> dict[str, float]:
    """Points against the own base by treatment id, of finished networks whose base is finished."""
    done = [row for row in rows if row["state"] == "finished"]
    bases = {_own_base(row): row[statistic] for row in done if row["kind"] == "base"}
    return {
        row["treatment"]: SCALES[statistic] * (row[statistic] - bases[_own_base(row)])
        for row in done
        if row["kind"] != "base" and _own_base(row) in bases
    }


def summarise(results: Results, statistic: Statistic = "top1") -> Summary:
    """The statistics of a study, over its finished networks.

    Raises UserError for an unknown statistic, or where a finished network lacks it.
    """
    if statistic not in STATISTICS:
        raise UserError(f"statistic is one of {', '.join(STATISTICS)}, not {statistic!r}.")
    for row in results.networks:
        if row["state"] == "finished" and row[statistic] is None:
            raise UserError(f"{row['treatment']} has no {statistic}; use another statistic.")
    counts = Counter(row["state"] for row in results.networks)
    groups: dict[str, list[Row]] = {}
    for row in results.networks:
        groups.setdefault(group_of(row), []).append(row)
    return Summary(
        statistic=statistic,
        counts={state: counts[state] for state in STATES},
        unfinished=tuple(
            Unfinished(row["treatment"], row["state"], row["reason"])
            for row in results.networks
            if row["state"] != "finished"
        ),
        groups={key: _group(_title(key), rows, statistic) for key, rows in groups.items()},
    )


def split_groups(results: Results, statistic: Statistic = "top1") -> dict[str, Group]:
    """The groups of single splits, by the split's name: those that `summarise` pools, apart."""
    rows: dict[str, list[Row]] = {}
    for row in results.networks:
        if group_of(row) == "random":
            rows.setdefault(row["split"], []).append(row)
    return {split: _group(split, mine, statistic) for split, mine in rows.items()}


def statistics_of(results: Results) -> list[Statistic]:
    """The statistics that all finished networks have."""
    done = [row for row in results.networks if row["state"] == "finished"]
    names: tuple[Statistic, ...] = get_args(Statistic)
    return [name for name in names if done and all(row[name] is not None for row in done)]


def _title(key: str) -> str:
    return key.replace("random", "random splits", 1) if key in POOLED else key


def _own_base(row: Row) -> tuple[Any, ...]:
    return row["split"], row["target"], row["seed"]


def _group(name: str, rows: Sequence[Row], statistic: Statistic) -> Group:
    targets = sorted({row["target"] for row in rows})
    scale = SCALES[statistic]
    # Bases of a target that nothing else is trained on are no yardstick for the others.
    compared = {row["target"] for row in rows if row["kind"] != "base"} or set(targets)
    done = [row for row in rows if row["state"] == "finished" and row["target"] in compared]
    scores: dict[tuple[Any, ...], float] = {
        (series_of(row), row["n"], *_own_base(row)): row[statistic] for row in done
    }
    by_cell: dict[str, dict[int, list[Row]]] = {}
    for series in SERIES:
        mine = [row for row in done if series_of(row) == series]
        for n in sorted({row["n"] for row in mine}):
            by_cell.setdefault(series, {})[n] = [row for row in mine if row["n"] == n]

    def against(row: Row, other: str) -> float | None:
        """Points by which a network beats its counterpart of another series."""
        counterpart = scores.get((other, 0 if other == "base" else row["n"], *_own_base(row)))
        return None if counterpart is None else scale * (row[statistic] - counterpart)

    def paired(rows: Sequence[Row], other: str) -> list[tuple[float, Hashable]]:
        pairs = [(against(row, other), _own_base(row)) for row in rows]
        return [(points, base) for points, base in pairs if points is not None]

    def mean_by_n(series: str, other: str, sign: int) -> dict[int, Estimate]:
        found = {
            n: _by_base([(sign * points, base) for points, base in paired(rows, other)])
            for n, rows in by_cell.get(series, {}).items()
        }
        return {n: value for n, value in found.items() if value is not None}

    def boost(series: str, over: str, first: int, last: int) -> Boost:
        def within(series: str) -> list[Row]:
            cells = by_cell.get(series, {})
            return [
                row for n, rows in cells.items() if n == 0 or first <= n <= last for row in rows
            ]

        ours, theirs = within(series), within(over)
        pairs = paired(ours, over)
        return Boost(
            series,
            over,
            first,
            last,
            unpaired=difference(
                [scale * row[statistic] for row in ours], [scale * row[statistic] for row in theirs]
            ),
            over_n=len(theirs),
            paired=_by_base(pairs),
            bases=len({base for _, base in pairs}),
        )

    def cell(series: str, rows: Sequence[Row]) -> Cell:
        score = _by_base([(row[statistic], _own_base(row)) for row in rows])
        assert score is not None  # by_cell holds no empty cell
        return Cell(score, None if series == "base" else _by_base(paired(rows, "base")))

    return Group(
        name=name,
        splits=tuple(dict.fromkeys(row["split"] for row in rows)),
        networks=tuple(row["treatment"] for row in done),
        series={
            series: {n: cell(series, rows) for n, rows in cells.items()}
            for series, cells in by_cell.items()
        },
        co_adaptation=mean_by_n("BnB", "base", sign=-1),
        specificity=mean_by_n("AnB", "BnB", sign=-1),
        over_untrained=mean_by_n("AnB", "RnB", sign=1),
        boosts=tuple(
            boost(series, over, first, last)
            for series, over in COMPARISONS
            if series in by_cell and over in by_cell
            for first, last in RANGES
        ),
        missing=_missing(rows),
        targets={
            target: _group(
                f"{name}, target {target}",
                [row for row in rows if row["target"] == target],
                statistic,
            )
            for target in targets
            if len(targets) > 1
        },
    )


def _by_base(values: Sequence[tuple[float, Hashable]]) -> Estimate | None:
    """The mean of values, each with the base that its network goes with."""
    return clustered([value for value, _ in values], [base for _, base in values])


def _missing(rows: Sequence[Row]) -> tuple[Missing, ...]:
    """What a reader of the group's figure would look for and not find; bases always belong."""
    present = {"base"} | {series_of(row) for row in rows}
    found = []
    for series in (series for series in SERIES if series in present):
        for n in (0,) if series == "base" else range(1, LAYERS):
            planned = [row for row in rows if series_of(row) == series and row["n"] == n]
            unfinished = [row["treatment"] for row in planned if row["state"] != "finished"]
            finished = len(planned) - len(unfinished)
            if unfinished or not finished:
                found.append(Missing(series, n, finished, len(planned), tuple(unfinished)))
    return tuple(found)


def _group_json(group: Group) -> dict[str, Any]:
    def by_n(estimates: Mapping[int, Estimate]) -> dict[str, Any]:
        return {str(n): asdict(value) for n, value in estimates.items()}

    def cell_json(cell: Cell) -> dict[str, Any]:
        change = cell.change and asdict(cell.change)
        return {"top1": asdict(cell.score), "change_points": change}

    def boost_json(boost: Boost) -> dict[str, Any]:
        plain = asdict(boost)
        del plain["first"], plain["last"]
        return plain | {"layers": boost.layers}

    return {
        "splits": list(group.splits),
        "series": {
            series: {str(n): cell_json(cell) for n, cell in cells.items()}
            for series, cells in group.series.items()
        },
        "co_adaptation": by_n(group.co_adaptation),
        "specificity": by_n(group.specificity),
        "over_untrained": by_n(group.over_untrained),
        "boosts": [boost_json(boost) for boost in group.boosts],
        "missing": [asdict(missing) for missing in group.missing],
        "targets": {target: _group_json(part) for target, part in group.targets.items()},
    }
