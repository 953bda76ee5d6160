"""How often 95 % intervals hold the truth: simulated studies with planted effects.

    uv run benchmarks/coverage.py

A study has one target and one seed for each of its splits. A network's accuracy is the level of its
split, which all its networks share, plus the planted effect of its treatment, plus luck of its own,
which grows with n as the spread of real networks does. The numbers are those that reports show,
from `summarise` to the intervals; each is over 1,000 studies.
"""

import argparse

import numpy as np

from raytransfer.results.statistics import Group, summarise
from raytransfer.results.table import Results, network_row
from raytransfer.study.treatment import Treatment

SPLITS = (2, 4, 8, 16, 40)
LABELS = ("baseB", *(f"{kind.format(n)}" for kind in ("A{}B", "B{}B", "A{}B+") for n in (1, 4, 7)))
EFFECTS = {"A": -0.011, "B": -0.004, "+": 0.014}
"""Of a layer, but for fine-tuning, whose effect is the same for all n."""

LEVEL, OWN = 0.02, 0.005
"""Standard deviations of splits, and of networks of one split."""


def effect(label: str) -> float:
    if label == "baseB":
        return 0.0
    return EFFECTS["+"] if label.endswith("+") else int(label[1]) * EFFECTS[label[0]]


def study(splits: int, generator: np.random.Generator) -> Results:
    rows = []
    for split in range(splits):
        level = 0.6 + LEVEL * generator.normal()
        for label in LABELS:
            treatment = Treatment.parse(f"random:{split}.{label}.s0")
            luck = OWN * (1 + treatment.n / 4) * generator.normal()
            top1 = level + effect(label) + luck
            rows.append(network_row(treatment, state="finished", top1=top1))
    return Results(tuple(rows))


def intervals(group: Group) -> dict[str, tuple[float, float, float]]:
    """What a report shows: low and high end, and the truth."""
    boost = next(b for b in group.boosts if (b.series, b.over, b.first) == ("AnB+", "base", 1))
    change = group.series["AnB"][7].change
    shown = {
        "score of AnB, n = 7": (group.series["AnB"][7].score, 0.6 + effect("A7B")),
        "change of AnB, n = 7": (change, 100 * effect("A7B")),
        "co-adaptation, n = 4": (group.co_adaptation[4], -100 * effect("B4B")),
        "specificity, n = 4": (group.specificity[4], 100 * (effect("B4B") - effect("A4B"))),
        "boost of AnB+, paired": (boost.paired, 100 * EFFECTS["+"]),
        "boost of AnB+, unpaired": (boost.unpaired, 100 * EFFECTS["+"]),
    }
    found = {}
    for name, (value, truth) in shown.items():
        assert value is not None
        assert value.low is not None
        assert value.high is not None
        found[name] = value.low, value.high, truth
    return found


def coverage(splits: int, studies: int, generator: np.random.Generator) -> dict[str, float]:
    """Share of studies whose interval holds the truth, by what it is of."""
    hits: dict[str, int] = {}
    for _ in range(studies):
        (group,) = summarise(study(splits, generator)).groups.values()
        for name, (low, high, truth) in intervals(group).items():
            hits[name] = hits.get(name, 0) + (low <= truth <= high)
    return {name: count / studies for name, count in hits.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=1000)
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    columns = {splits: coverage(splits, options.studies, generator) for splits in SPLITS}
    print(f"{'networks of a cell':26}" + "".join(f"{splits:>8}" for splits in SPLITS))
    for name in columns[SPLITS[0]]:
        shares = "".join(f"{100 * column[name]:7.1f}%" for column in columns.values())
        print(f"{name:26}{shares}")


if __name__ == "__main__":
    main()
