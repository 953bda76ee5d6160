"""The statistics: known answers by hand, the 2014 tables, and the coverage of the intervals."""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from raytransfer.errors import UserError
from raytransfer.results.intervals import Estimate, clustered, difference, estimate
from raytransfer.results.statistics import (
    Boost,
    Group,
    Summary,
    split_groups,
    statistics_of,
    summarise,
)
from raytransfer.results.table import Results, network_row
from raytransfer.results.text import percent, points, tables
from raytransfer.study.treatment import Treatment

LOGS = {
    "BnB+": (0.6177, 0.6215, 0.6313, 0.6287, 0.6301, 0.6276, 0.6266),
    "AnB+": (0.6373, 0.6358, 0.6426, 0.6398, 0.6446, 0.6460, 0.6465),
}
"""Mean top-1 for n = 1..7 (authors' logs). Ten networks each: two at n = 3, 5, 6 for BnB+ and at
n = 2, 3, 4 for AnB+, as the changes against the own base tell; one at the other n."""
BASES = {
    "random:0.baseA.s0": 0.6151,
    "random:1.baseA.s0": 0.6231,
    "random:0.baseB.s0": 0.6341,
    "random:1.baseB.s0": 0.6249,
    **{f"random:{s}.base{target}.s0": 0.6259 for s in (2, 3) for target in "AB"},
}
"""Eight bases of mean .6251, with the halves that the fine-tuned networks were made from."""


def study(scores: dict[str, float | None], **more: Any) -> Results:
    """Networks by treatment id, finished where they have a top-1, otherwise failed."""
    return Results(
        tuple(
            network_row(
                Treatment.parse(id),
                top1=top1,
                state="failed" if top1 is None else "finished",
                **more,
            )
            for id, top1 in scores.items()
        )
    )


def published() -> Results:
    """Networks whose means, numbers and tasks are those of the authors' logs."""
    scores: dict[str, float | None] = dict(BASES)
    for name, target, twice in (("A{}A+", "A", (3, 5, 6)), ("A{}B+", "B", (2, 3, 4))):
        means = LOGS["BnB+" if target == "A" else "AnB+"]
        own, other = BASES[f"random:0.base{target}.s0"], BASES[f"random:1.base{target}.s0"]
        for n, mean in enumerate(means, start=1):
            # Two networks of one gain over their own bases have the mean of the logs.
            spread = (own - other) / 2 if n in twice else 0.0
            scores[f"random:0.{name.format(n)}.s0"] = mean + spread
            if n in twice:
                scores[f"random:1.{name.format(n)}.s0"] = mean - spread
    return study(scores)


def boosts_of(group: Group, series: str, over: str) -> list[Boost]:
    return [boost for boost in group.boosts if (boost.series, boost.over) == (series, over)]


def means(estimates: Iterable[Estimate | None]) -> list[float]:
    return [round(one.mean, 1) for one in estimates if one]


def test_interval_of_four_values_by_hand() -> None:
    # Mean 3, variance 10 / 3; t(.975, 3) = 3.182446; 3.182446 * sqrt(10 / 3 / 4) = 2.905163.
    found = estimate([1.0, 2.0, 4.0, 5.0])
    assert found is not None
    assert (found.mean, found.n) == (3.0, 4)
    assert found.sd == pytest.approx((10 / 3) ** 0.5)
    assert (found.low, found.high) == pytest.approx((3 - 2.905163, 3 + 2.905163), abs=1e-5)


def test_one_value_has_no_interval_and_none_no_estimate() -> None:
    assert estimate([0.5]) == Estimate(0.5, None, None, 1, None)
    assert estimate([]) is None
    assert not Estimate(0.5, None, None, 1, None).decides


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert estimate([0.5, 0.5]) == Estimate(0.5, 0.5, 0.5, 2, 0.0)
    assert difference([2.0, 2.0], [1.0, 1.0]) == Estimate(1.0, 1.0, 1.0, 2, 0.0)


def test_clusters_of_equal_size_are_as_good_as_their_means() -> None:
    found = clustered([1.0, 3.0, 4.0, 6.0, 2.0, 2.0], ["x", "x", "y", "y", "z", "z"])
    wanted = estimate([2.0, 5.0, 2.0])
    assert found is not None
    assert wanted is not None
    assert (found.mean, found.low, found.high) == pytest.approx(
        (wanted.mean, wanted.low, wanted.high)
    )
    assert found.n == 6
    alone = clustered([1.0, 3.0], ["x", "x"])
    assert alone is not None
    assert alone.low is None


def test_welch_interval_by_hand() -> None:
    # Variances 1 and 4 over 3 values: error 1.290994, 2.941176 degrees, t(.975) = 3.218758.
    found = difference([1.0, 2.0, 3.0], [2.0, 4.0, 6.0])
    assert found is not None
    assert found.mean == -2.0
    assert (found.low, found.high) == pytest.approx((-6.155400, 2.155400), abs=1e-5)
    one_sided = difference([1.0, 2.0], [1.0])
    assert one_sided is not None
    assert one_sided.low is None


def test_intervals_cover_what_they_should() -> None:
    """Simulated studies with a planted effect: networks of several n share their base's luck."""
    generator = np.random.default_rng(0)
    studies, effect = 1000, 1.2
    hits = {"estimate": 0, "clustered": 0, "difference": 0}
    for _ in range(studies):
        luck = generator.normal(0, 1, (6, 1))
        changes = effect + luck + generator.normal(0, 0.5, (6, 5))
        bases = [base for base in range(6) for _ in range(5)]
        first, second = generator.normal(effect, 1, 8), generator.normal(0, 3, 5)
        found = {
            "estimate": estimate(changes[:, 0].tolist()),
            "clustered": clustered(changes.ravel().tolist(), bases),
            "difference": difference(first.tolist(), second.tolist()),
        }
        for name, one in found.items():
            assert one is not None
            assert one.low is not None
            assert one.high is not None
            hits[name] += one.low <= effect <= one.high
    coverage = {name: count / studies for name, count in hits.items()}
    assert all(0.93 <= share <= 0.97 for share in coverage.values()), coverage


def test_a_hand_made_study_gives_its_means() -> None:
    group = summarise(
        study(
            {
                "random:0.baseB.s0": 0.60,
                "random:1.baseB.s0": 0.64,
                "random:0.B4B.s0": 0.58,
                "random:1.B4B.s0": 0.63,
                "random:0.A4B.s0": 0.55,
                "random:1.A4B.s0": 0.61,
                "random:0.R4B.s0": 0.40,
                "random:0.A4B+.s0": 0.62,
            }
        )
    ).groups["random"]
    found = {(s, n): c.score.mean for s, cells in group.series.items() for n, c in cells.items()}
    assert found == pytest.approx(
        {
            ("base", 0): 0.62,
            ("BnB", 4): 0.605,
            ("AnB", 4): 0.58,
            ("AnB+", 4): 0.62,
            ("RnB", 4): 0.40,
        },
        abs=1e-12,
    )
    changes = {s: cells[4].change for s, cells in group.series.items() if s != "base"}
    assert means(changes.values()) == [-1.5, -4.0, 2.0, -20.0]
    assert group.series["base"][0].change is None
    assert means([group.co_adaptation[4], group.specificity[4]]) == [1.5, 2.5]
    assert means([group.over_untrained[4]]) == [15.0]
    boost = boosts_of(group, "AnB+", "base")[0]
    assert means([boost.unpaired, boost.paired]) == [0.0, 2.0]
    assert (boost.over_n, boost.bases) == (2, 1)


def test_published_means_give_the_published_table_1() -> None:
    group = summarise(published()).groups["random"]
    over_base, over_selffer = boosts_of(group, "AnB+", "base"), boosts_of(group, "AnB+", "BnB+")
    assert [boost.layers for boost in over_base] == ["1-7", "3-7", "5-7"]
    assert means(boost.unpaired for boost in over_base) == [1.6, 1.8, 2.1]
    assert means(boost.unpaired for boost in over_selffer) == [1.4, 1.4, 1.7]
    assert group.series["base"][0].score.mean == pytest.approx(0.6251)


def test_published_boosts_are_about_a_point_when_paired() -> None:
    """The confound: AnB+ has the easy halves, BnB+ the hard ones, and both gain the same."""
    group = summarise(published()).groups["random"]
    for series in ("AnB+", "BnB+"):
        paired = boosts_of(group, series, "base")[0].paired
        assert paired is not None
        assert paired.n == 10
        assert paired.mean == pytest.approx(1.0, abs=0.05)
    assert boosts_of(group, "AnB+", "BnB+")[0].paired is None


def test_only_random_splits_are_pooled() -> None:
    groups = summarise(
        study(
            {
                "random:0.baseB.s0": 0.6,
                "random:3.baseB.s0": 0.7,
                "dissimilar.baseB.s0": 0.5,
                "manmade-natural.baseB.s0": 0.4,
                "random:0.baseAB.s0": 0.3,
            }
        )
    ).groups
    assert {name: group.series["base"][0].score.mean for name, group in groups.items()} == {
        "random": pytest.approx(0.65),
        "dissimilar": 0.5,
        "manmade-natural": 0.4,
        "random, all classes": 0.3,
    }


def test_a_network_is_paired_with_its_own_base_only() -> None:
    group = summarise(
        study(
            {
                "random:0.baseA.s0": 0.9,
                "random:0.baseB.s0": 0.6,
                "random:0.baseB.s1": 0.5,
                "random:0.B2B.s1": 0.51,
                "random:0.B2B.s2": 0.99,
            }
        )
    ).groups["random"]
    cell = group.series["BnB"][2]
    assert cell.score.n == 2
    assert cell.change is not None
    assert (round(cell.change.mean, 9), cell.change.n) == (1.0, 1)
    # Only B is studied: A's base must not raise the base that readers compare with.
    assert [part.name for part in group.studied] == ["random splits, target B"]
    assert group.studied[0].series["base"][0].score.mean == pytest.approx(0.55)


def test_unfinished_networks_are_named_and_never_averaged() -> None:
    summary = summarise(study({"random:0.baseB.s0": 0.6, "random:0.A3B.s0": None}, reason="NaN"))
    group = summary.groups["random"]
    assert summary.counts == {"finished": 1, "running": 0, "pending": 0, "failed": 1}
    assert [(one.treatment, one.reason) for one in summary.unfinished] == [
        ("random:0.A3B.s0", "NaN")
    ]
    assert "AnB" not in group.series
    assert [(m.series, m.n, m.planned) for m in group.missing] == [
        ("AnB", n, int(n == 3)) for n in range(1, 8)
    ]
    assert group.missing[2].unfinished == ("random:0.A3B.s0",)


def test_the_statistic_can_be_the_paper_s() -> None:
    results = study({"random:0.baseB.s0": 0.6}, top1_best10=0.65)
    assert summarise(results, "top1_best10").groups["random"].series["base"][0].score.mean == 0.65
    with pytest.raises(UserError, match=r"random:0.baseB.s0 has no top1_best10"):
        summarise(study({"random:0.baseB.s0": 0.6}), "top1_best10")
    with pytest.raises(UserError, match="statistic is one of top1, top1_best10"):
        summarise(results, "top2")


def test_losses_differ_in_nats() -> None:
    networks = {"random:0.baseB.s0": 0.6, "random:0.A3B.s0": 0.5}
    rows = study(networks).networks
    losses = Results(tuple(row | {"loss": 2 - row["top1"]} for row in rows))
    change = summarise(losses, "loss").groups["random"].series["AnB"][3].change
    assert change is not None
    assert change.mean == pytest.approx(0.1)
    assert statistics_of(losses) == ["top1", "loss"]


def test_random_splits_are_pooled_and_apart() -> None:
    names = ("random:0.baseB.s0", "random:1.baseB.s0", "manmade-natural.baseB.s0")
    results = study(dict(zip(names, (0.6, 0.7, 0.4), strict=True)))
    apart = split_groups(results)
    assert {name: group.networks for name, group in apart.items()} == {
        "random:0": names[:1],
        "random:1": names[1:2],
    }
    assert summarise(results).groups["random"].networks == names[:2]


def test_json_is_plain_and_shaped_as_documented() -> None:
    plain = json.loads(json.dumps(summarise(published()).to_json(), allow_nan=False))
    assert set(plain) == {
        *("statistic", "unit", "interval", "units", "counts", "unfinished", "groups"),
    }
    group = plain["groups"]["random"]
    assert set(group) == {
        *("splits", "series", "co_adaptation", "specificity", "over_untrained"),
        *("boosts", "missing", "targets"),
    }
    assert set(group["series"]["base"]["0"]["top1"]) == {"mean", "low", "high", "n", "sd"}
    assert group["series"]["AnB+"]["1"]["change_points"]["mean"] == pytest.approx(0.32)
    assert set(group["boosts"][0]) == {
        *("series", "over", "layers", "unpaired", "over_n", "paired", "bases"),
    }
    assert set(group["targets"]) == {"A", "B"}


def test_nothing_and_one_network_are_summarised_too() -> None:
    assert summarise(Results(())).groups == {}
    lone = summarise(study({"random:0.A3B.s0": 0.5}))
    assert lone.groups["random"].series["AnB"][3].change is None
    assert ("base", 0) in {(m.series, m.n) for m in lone.groups["random"].missing}
    assert tables(lone)


def test_numbers_as_text_carry_interval_and_n() -> None:
    assert percent(Estimate(0.62514, 0.62, 0.63, 8, 0.01)) == "62.51 [62.00, 63.00] (8)"
    assert points(Estimate(-0.001, None, None, 1, None)) == "+0.00 (1)"
    assert points(Estimate(1.25, -0.5, 3.0, 2, 1.0), digits=1) == "+1.2 [-0.5, +3.0] (2)"


def test_tables_show_every_series_and_mark_what_is_missing() -> None:
    summary: Summary = summarise(published())
    scores = next(table for table in tables(summary) if "base" in table.header)
    assert scores.header == ("layers n", "base", "BnB+", "AnB+")
    assert scores.rows[0][0] == "0"
    assert scores.rows[0][1].startswith("62.51 [")
    assert scores.rows[1][3] == "63.73 (1)"
    gap = summarise(study({"random:0.baseB.s0": 0.6, "random:0.A3B.s0": 0.5}))
    assert tables(gap)[1].rows[2] == ("2", "", "-")
    planned = {"random:0.baseB.s0": 0.6, "random:0.A3B.s0": 0.5, "random:0.A2B.s0": None}
    gap = summarise(study(planned))
    assert tables(gap)[1].rows[2] == ("2", "", "missing")


def test_networks_of_one_base_count_as_one_in_an_interval() -> None:
    labels = {"baseAB": 0.5, "A3AB": 0.47, "B3AB": 0.471, "A3AB+": 0.53, "B3AB+": 0.531}
    labels["R3AB"] = 0.3
    scores = {f"random:0.{label}.s0": top1 for label, top1 in labels.items()}
    (group,) = summarise(study(scores)).groups.values()
    cell = group.series["AnB"][3]
    assert cell.change is not None
    (boost,) = (b for b in group.boosts if (b.over, b.layers) == ("base", "1-7"))
    for value in (cell.score, cell.change, group.over_untrained[3], boost.paired):
        assert value is not None
        assert (value.low, value.n) == (None, 2)
    scores |= {f"random:0.{label}.s1": top1 + 0.01 for label, top1 in labels.items()}
    scores["random:0.A3AB.s1"] += 0.004
    (group,) = summarise(study(scores)).groups.values()
    change = group.series["AnB"][3].change
    # By each base: -2.95 and -2.75; Student's t over these two.
    expected = estimate([-2.95, -2.75])
    assert change is not None
    assert expected is not None
    assert (change.n, change.mean) == (4, pytest.approx(-2.85))
    assert (change.low, change.high) == pytest.approx((expected.low, expected.high))


def test_a_split_called_like_the_random_ones_is_not_pooled_with_them() -> None:
    names = ("random:0", "random:1", "randomized-trees")
    summary = summarise(study({f"{name}.baseB.s0": 0.5 for name in names}))
    assert [group.name for group in summary.groups.values()] == ["random splits", names[2]]


def test_bases_of_reduced_data_stand_together_each_split_by_itself():
    ids = [f"{split}.baseAB.s{seed}" for split in ("reduced:250", "random:0") for seed in (0, 1)]
    summary = summarise(study(dict(zip(ids, (0.38, 0.4, 0.55, 0.57), strict=True))))
    assert list(summary.groups) == ["reduced:250, all classes", "random, all classes"]
    (_, bases) = tables(summary)
    assert bases.header == ("split", "base")
    assert [(name, score[:5], score[-3:]) for name, score in bases.rows] == [
        ("reduced:250, all classes", "39.00", "(2)"),
        ("random splits, all classes", "56.00", "(2)"),
    ]
    scores = {f"reduced:{k}.{label}.s0": 0.4 for k in (5, 250) for label in ("baseA", "A3A")}
    assert not [table for table in tables(summarise(study(scores))) if table.header[0] == "split"]
