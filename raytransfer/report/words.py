"""What the data say, in sentences made from the numbers; where they do not decide, that."""

from collections.abc import Callable, Mapping

from raytransfer.results import text
from raytransfer.results.intervals import Estimate
from raytransfer.results.statistics import STATISTICS, Boost, Group, Summary

CONFOUND = (
    "The unpaired columns compare means over whatever tasks were run: where the fine-tuned "
    "networks of one kind have the easier task, its mean is higher for that reason alone. In the "
    "2014 study every AnB+ network has a B half, mostly the easiest, and every BnB+ network an A "
    "half, mostly the hardest; paired with their own bases both gain about one point. The paired "
    "column is free of this: each network is compared with its own base, or with the BnB+ of the "
    "same task, seed and n. Its interval is over bases, as networks of several n share one base."
)


METHOD = (
    "The unit is the network: an interval says how another study of as many networks might have "
    "come out, and more validation images would not narrow it. Changes are paired with the base of "
    "the same split, target and seed, and AnB with the BnB of the same n, so that what they share "
    "cancels. Intervals are Student's t over networks or pairs, of which those with the same base "
    "count as one: networks of several n in Table 1, and, trained on all classes, those copied "
    "from A and from B. The unpaired ones of Table 1 are Welch's. None "
    "is corrected for the number of n that are looked at side by side: of twenty cells in which "
    "nothing is, one is expected to leave out 0. One network has no interval."
)


def findings(summary: Summary) -> list[str]:
    """The page's first paragraph: what was measured, and each reading of the paper's, as found."""
    readings = [first(summary, of) for of in (selffer, transfer, _untrained, _finetuned)]
    return [_measured(summary), *filter(None, [*readings, dissimilar(summary)])]


def first(summary: Summary, *readings: Callable[[Group], str]) -> str:
    """The first group's sentence of which there is one, by the first reading that has one."""
    groups = [group.studied[0] for group in summary.groups.values()]
    said = (reading(group) for reading in readings for group in groups)
    return next(filter(None, said), "")


def _measured(summary: Summary) -> str:
    counts = summary.counts
    total = sum(counts.values())
    rest = [f"{counts[state]} {state}" for state in counts if counts[state] and state != "finished"]
    more = f" ({', '.join(rest)}: in no mean)" if rest else ""
    return (
        f"{counts['finished']} of {total} networks are finished{more}. Scores are the "
        f"{STATISTICS[summary.statistic]}; an interval is 95 % by Student's t over networks, and "
        "the number in parentheses counts them: networks of one base have no interval and decide "
        "nothing."
    )


def transfer(group: Group) -> str:
    """Reading 4: how far frozen features of another task serve this one."""
    changes = _changes(group, "AnB")
    if not changes:
        return ""
    first, last = min(changes), max(changes)
    fall = _fall(changes)
    if fall is not None:
        before = max((n for n in changes if n < fall), default=None)
        said = ""
        if before is not None:
            said = (
                f"Up to n = {before}, frozen features of another task (AnB, {group.name}) are not "
                f"told apart from the network's own training: {points(changes[before])} points of "
                f"top-1 at n = {before}. "
            )
        who = "they" if said else f"frozen features of another task (AnB, {group.name})"
        said += f"From n = {fall} on {who} serve worse: {points(changes[fall])} at n = {fall}"
        if last != fall:
            said += f", and {points(changes[last])} at n = {last}"
        return f"{said}."
    ends = f"{points(changes[first])} points at n = {first}"
    if last != first:
        ends += f" and {points(changes[last])} at n = {last}"
    return (
        f"Frozen features of another task (AnB, {group.name}) change top-1 against the network's "
        f"own base by {ends}: {_decided(changes)}."
    )


def selffer(group: Group) -> str:
    """Readings 2 and 3: whether freezing a network's own features costs accuracy."""
    changes = _changes(group, "BnB")
    if not changes:
        return ""
    worst = min(changes, key=lambda n: changes[n].mean)
    if changes[worst].mean >= 0:
        return (
            f"A network's own features, frozen (BnB, {group.name}), cost nothing on average at any "
            f"n measured: {_decided(changes)}."
        )
    return (
        f"A network's own features, frozen (BnB, {group.name}), do worst at n = {worst}, "
        f"{points(changes[worst])} points against the base: {_decided(changes)}."
    )


def _untrained(group: Group) -> str:
    over = group.over_untrained
    if not over:
        return ""
    last = max(over)
    value = over[last]
    who = "transferred features beat untrained filters by"
    if value.mean < 0:
        who = "untrained filters beat another task's features by"
    if round(value.mean, 1) == 0:
        who = "transferred features and untrained filters differ by"
    margin = negated(value) if value.mean < 0 else value
    return (
        f"At n = {last} ({group.name}) {who} {points(margin)} points{verdict(value)}. Transferred "
        f"against untrained, n by n: {_decided(over)}."
    )


def _finetuned(group: Group) -> str:
    whole = [boost for boost in group.boosts if (boost.first, boost.last) == (1, 7)]
    said = [
        f"over {boost.over} by {points(boost.paired)} points{verdict(boost.paired)}"
        for boost in whole
        if boost.series == "AnB+" and boost.paired
    ]
    if not said:
        return ""
    return (
        f"Fine-tuned transfer (AnB+, {group.name}, layers 1-7, paired) changes top-1 "
        f"{', and '.join(said)}."
    )


def dissimilar(summary: Summary) -> str:
    """Reading 6: the deepest transfer of each split beside that of the first group."""
    deepest = {}
    for group in summary.groups.values():
        changes = _changes(group, "AnB")
        if changes:
            deepest[group.name] = changes
    if len(deepest) < 2:
        return ""
    n = max(set.intersection(*(set(changes) for changes in deepest.values())), default=None)
    if n is None:
        return ""
    said = ", ".join(f"{points(changes[n])} for {name}" for name, changes in deepest.items())
    return f"Frozen transfer of {n} layers (AnB) changes top-1, in points, by {said}."


def no_changes(summary: Summary) -> str:
    """What there is where no frozen copy has its own base to be compared with."""
    series = {name for group in summary.groups.values() for name in group.series}
    if series <= {"base"}:
        return "There are only bases so far."
    return "There is no frozen AnB or BnB whose own base is finished: scores, but no changes by it."


def boost_sentence(boosts: tuple[Boost, ...]) -> str:
    """Table 1 in a sentence."""
    whole = next((b for b in boosts if (b.series, b.over, b.first) == ("AnB+", "base", 1)), None)
    if whole is None or whole.unpaired is None:
        return "There are no fine-tuned transfer networks to compare with a base."
    said = (
        f"Over layers 1-7, AnB+ stands {points(whole.unpaired)} points from the mean base"
        f"{verdict(whole.unpaired)}"
    )
    if whole.paired:
        said += f"; and {points(whole.paired)} from its own base{verdict(whole.paired)}"
    return said + "."


def _fall(changes: Mapping[int, Estimate]) -> int | None:
    """The n from which on every change is known to be a loss, where none before is known to be
    anything and all of them have intervals; None where the data tell no such simple story."""
    lost = {n: value.decides and value.mean < 0 for n, value in changes.items()}
    fall = min((n for n in changes if all(lost[m] for m in changes if m >= n)), default=None)
    if fall is None:
        return None
    before = [value for n, value in changes.items() if n < fall]
    plain = all(value.low is not None and not value.decides for value in before)
    return fall if plain else None


def points(value: Estimate) -> str:
    return text.points(value, digits=1)


def negated(value: Estimate) -> Estimate:
    """The same difference, taken the other way round."""
    low = None if value.high is None else -value.high
    high = None if value.low is None else -value.low
    return Estimate(-value.mean, low, high, value.n, value.sd)


def _changes(group: Group, series: str) -> dict[int, Estimate]:
    cells = group.series.get(series, {})
    return {n: cell.change for n, cell in cells.items() if cell.change}


def verdict(value: Estimate) -> str:
    if value.low is None:
        return ", without an interval, which does not decide"
    return "" if value.decides else ", an interval that covers 0 and does not decide"


def _decided(changes: Mapping[int, Estimate]) -> str:
    """At which n the sign is known, at which not, and why."""
    worse = [n for n, value in changes.items() if value.decides and value.mean < 0]
    better = [n for n, value in changes.items() if value.decides and value.mean > 0]
    alone = [n for n, value in changes.items() if value.low is None]
    open_ = [n for n, value in changes.items() if value.low is not None and not value.decides]
    said = []
    if worse:
        said.append(f"worse beyond the interval at n = {_listed(worse)}")
    if better:
        said.append(f"better beyond the interval at n = {_listed(better)}")
    if open_:
        said.append(f"not decided at n = {_listed(open_)}, where the interval covers 0")
    if alone:
        said.append(f"not decided at n = {_listed(alone)}, with one base and so no interval")
    return "; ".join(said)


def _listed(ns: list[int]) -> str:
    """1-3, 5: runs of three and more are shortened."""
    return ", ".join(
        f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in text.runs(ns)
    )
