"""A treatment prints one name, which parses back; networks that cannot be are refused."""

import itertools

import pytest

from raytransfer.errors import UserError
from raytransfer.study.treatment import KINDS, TARGETS, Treatment

SPLITS = ("random:0", "random:12", "manmade-natural", "dissimilar")


def every_treatment():
    for split, target, seed in itertools.product(SPLITS, TARGETS, (0, 7, 10)):
        yield Treatment(split, target, seed=seed)
        for n in range(1, 8):
            yield Treatment(split, target, "R", n, seed=seed)
            for source, finetuned in itertools.product("AB", (False, True)):
                yield Treatment(split, target, source, n, finetuned, seed)


def test_every_id_parses_back_and_names_one_treatment_only():
    everything = list(every_treatment())
    assert len(everything) == len(SPLITS) * 3 * len(TARGETS) * (1 + 5 * 7)
    assert len({treatment.id for treatment in everything}) == len(everything)
    for treatment in everything:
        assert Treatment.parse(treatment.id) == treatment
        assert str(treatment) == treatment.id


def test_ids_are_names_of_folders_and_hold_no_path():
    for treatment in every_treatment():
        assert not set(treatment.id) & set("/\\ \n*?\"'<>|")


@pytest.mark.parametrize(
    ("treatment", "label", "kind"),
    [
        (Treatment("random:0", "B"), "baseB", "base"),
        (Treatment("random:0", "AB"), "baseAB", "base"),
        (Treatment("random:0", "B", "B", 3), "B3B", "selffer"),
        (Treatment("random:0", "B", "B", 3, finetuned=True), "B3B+", "selffer"),
        (Treatment("random:0", "B", "A", 3), "A3B", "transfer"),
        (Treatment("random:0", "B", "A", 3, finetuned=True), "A3B+", "transfer"),
        (Treatment("random:0", "A", "B", 7), "B7A", "transfer"),
        (Treatment("random:0", "B", "R", 3), "R3B", "untrained"),
        (Treatment("random:0", "AB", "R", 3), "R3AB", "untrained"),
    ],
)
def test_labels_and_kinds_are_the_papers(treatment, label, kind):
    assert treatment.label == label
    assert treatment.kind == kind
    assert treatment.id == f"random:0.{label}.s0"


def test_every_kind_has_a_treatment():
    assert {treatment.kind for treatment in every_treatment()} == set(KINDS)


def test_the_parent_is_the_sources_base_of_the_same_split_and_seed():
    for treatment in every_treatment():
        if treatment.kind in ("base", "untrained"):
            assert treatment.parent is None
        else:
            assert treatment.parent == Treatment(
                treatment.split, treatment.source, seed=treatment.seed
            )
            assert treatment.parent.kind == "base"


def test_layers_are_frozen_unless_they_are_fine_tuned():
    for treatment in every_treatment():
        assert treatment.frozen_layers == (0 if treatment.finetuned else treatment.n)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"source": "A", "n": 0}, "1 to 7, not 0"),
        ({"source": "A", "n": 8}, "1 to 7, not 8"),
        ({"source": "A", "n": -1}, "1 to 7, not -1"),
        ({"source": "A", "n": 3.0}, "n is of type int, not 3.0"),
        ({"source": "A", "n": True}, "n is of type int, not True"),
        ({"source": "A", "n": 3, "finetuned": "yes"}, "finetuned is of type bool, not 'yes'"),
        ({"source": "AB", "n": 3}, "source is A, B or R"),
        ({"source": "C", "n": 3}, "source is A, B or R"),
        ({"source": "R", "n": 3, "finetuned": True}, "Untrained filters are frozen"),
        ({"n": 3}, "A base copies nothing"),
        ({"finetuned": True}, "A base copies nothing"),
        ({"target": "C"}, "target is one of A, B, AB, not 'C'"),
        ({"target": "a"}, "target is one of A, B, AB, not 'a'"),
        ({"seed": -1}, "seed is 0 or more, and below 2**63, not -1"),
        ({"seed": 2**63}, "seed is 0 or more, and below 2**63, not 9223372036854775808"),
        ({"split": ""}, "split's name"),
        ({"split": "random.0"}, "split's name"),
        ({"split": "../up"}, "split's name"),
        ({"split": "Dissimilar"}, "split's name"),
    ],
)
def test_an_impossible_treatment_is_refused_in_a_sentence(fields, words):
    with pytest.raises(UserError, match=r".*\.$") as refused:
        Treatment(**{"split": "random:0", "target": "B", **fields})
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "id",
    [
        "",
        "random:0.baseB",
        "baseB.s0",
        "random:0.baseC.s0",
        "random:0.baseB+.s0",
        "random:0.A0B.s0",
        "random:0.A8B.s0",
        "random:0.R3B+.s0",
        "random:0.C3B.s0",
        "random:0.A3B++.s0",
        "random:0.A3B.s-1",
        "random:0.A3B.s00",
        "random:0.A3B.s\N{ARABIC-INDIC DIGIT ONE}",
        "random:0.A3B.s0\n",
        " random:0.A3B.s0",
        "networks/random:0.A3B.s0",
    ],
)
def test_a_string_that_no_treatment_prints_is_refused(id):
    with pytest.raises(UserError):
        Treatment.parse(id)
