"""Sentences of a report: what they claim, and where they claim nothing."""

import pytest

from raytransfer.report import words
from raytransfer.report.page import page
from raytransfer.results.statistics import summarise
from raytransfer.results.table import Results, in_study_order, network_row, read_table
from raytransfer.study.treatment import Treatment

LUCK = (-0.4, -0.1, 0.1, 0.4)
"""Points by which the networks of four splits differ from what is planted; sd .337, and so half an
interval is .536."""


def study(splits=4, **planted):
    """Bases at 60 %; planted: points against it, by label, B for the target."""
    rows = []
    for split in range(splits):
        for label, points in {"baseB": 0.0, **planted}.items():
            treatment = Treatment.parse(f"random:{split}.{label}.s0")
            luck = 0.0 if label == "baseB" else LUCK[split]
            rows.append(network_row(treatment, state="finished", top1=0.6 + (points + luck) / 100))
    return Results(in_study_order(rows))


def group(**planted):
    (found,) = summarise(study(**planted)).groups.values()
    return found


def test_a_fall_is_told_from_where_it_is_known():
    said = words.transfer(group(A1B=0.0, A2B=-0.2, A4B=-2.0, A7B=-9.0))
    assert said == (
        "Up to n = 2, frozen features of another task (AnB, random splits) are not told apart from "
        "the network's own training: -0.2 [-0.7, +0.3] (4) points of top-1 at n = 2. From n = 4 on "
        "they serve worse: -2.0 [-2.5, -1.5] (4) at n = 4, and -9.0 [-9.5, -8.5] (4) at n = 7."
    )
    said = words.transfer(group(A1B=-3.0))
    assert said == (
        "From n = 1 on frozen features of another task (AnB, random splits) serve worse: "
        "-3.0 [-3.5, -2.5] (4) at n = 1."
    )


@pytest.mark.parametrize(
    ("planted", "end"),
    [
        # A loss that is not known any more at the last n is no fall.
        ({"A1B": -2.0, "A4B": -0.2}, "worse beyond the interval at n = 1; not decided at n = 4"),
        # Nor is one that follows a gain.
        ({"A1B": 2.0, "A4B": -2.0}, "worse beyond the interval at n = 4; better beyond the"),
        ({"A1B": 0.1, "A4B": 0.2}, "not decided at n = 1, 4, where the interval covers 0."),
    ],
)
def test_what_is_no_fall_is_told_cell_by_cell(planted, end):
    said = words.transfer(group(**planted))
    assert "change top-1 against the network's own base by" in said
    assert end in said


def test_one_network_decides_nothing():
    said = words.findings(summarise(study(splits=1, A1B=-1.0, A7B=-20.0, R7B=-40.0, A3B=0.0)))
    assert said[0].startswith("5 of 5 networks are finished.")
    assert "not decided at n = 1, 3, 7, with one base and so no interval." in said[1]
    assert "beat untrained filters by +20.0 (1) points, without an interval" in said[2]


def test_the_sign_of_a_comparison_is_in_its_words():
    *_, said = words.findings(summarise(study(A7B=-20.0, R7B=-40.0)))
    assert "At n = 7 (random splits) transferred features beat untrained filters by +20.0" in said
    *_, said = words.findings(summarise(study(A7B=-40.0, R7B=-20.0)))
    assert "At n = 7 (random splits) untrained filters beat another task's features by" in said
    *_, said = words.findings(summarise(study(A7B=-20.0, R7B=-20.0)))
    assert "transferred features and untrained filters differ by +0.0 [+0.0, +0.0] (4)" in said


def test_what_only_a_later_group_has_is_found(tmp_path):
    (tmp_path / "t.csv").write_text(
        "split,label,seed,top1\nrandom:0,baseB,0,0.6\nrandom:0,baseB,1,0.61\n"
        "manmade-natural,baseB,0,0.6\nmanmade-natural,baseB,1,0.61\n"
        "manmade-natural,A7B,0,0.3\nmanmade-natural,A7B,1,0.311\n"
    )
    found = summarise(read_table(tmp_path / "t.csv"))
    (_, said) = words.findings(found)
    assert "(AnB, manmade-natural) serve worse: -29.9 [-30.6, -29.3] (2) at n = 7." in said
    assert words.first(found, words.transfer, words.selffer) == said


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (("baseB",), "There are only bases so far."),
        (("baseB", "A3B+", "R3B"), "There is no frozen AnB or BnB whose own base is finished"),
        (("A3B",), "There is no frozen AnB or BnB whose own base is finished"),
    ],
)
def test_why_figure_2_tells_no_change(labels, expected):
    rows = [
        network_row(Treatment.parse(f"random:0.{label}.s0"), state="finished", top1=0.5)
        for label in labels
    ]
    assert f"<p>{expected}" in page(Results(in_study_order(rows)))


def test_selffers_do_worst_somewhere_or_cost_nothing():
    said = words.selffer(group(B1B=0.0, B4B=-2.0, B7B=-0.1))
    assert "do worst at n = 4, -2.0 [-2.5, -1.5] (4) points against the base: worse" in said
    assert "cost nothing on average at any n measured" in words.selffer(group(B1B=0.1, B4B=0.3))


def test_no_networks_no_words():
    assert words.transfer(group(B1B=0.0)) == words.selffer(group(A1B=0.0)) == ""
    assert len(words.findings(summarise(Results(())))) == 1
