"""The table of results: written and read back, completed where possible, refused where wrong."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raytransfer.errors import UserError
from raytransfer.results.table import (
    COLUMN_NAMES,
    COLUMNS,
    Results,
    in_study_order,
    network_row,
    read_table,
    write_table,
)
from raytransfer.study.treatment import Treatment

Write = Callable[..., Path]

ROWS = in_study_order(
    [
        network_row(
            Treatment("random:0", "B", "A", 3, True),
            state="finished",
            top1=0.6426,
            top5=0.9,
            train_loss=1e20,
            steps=450_000,
            images=115_200_000,
            seconds=1.5,
            weights_sha256="ab" * 32,
        ),
        network_row(Treatment("random:0", "B"), state="finished", top1=0.1 + 0.2),
        network_row(
            Treatment("random:0", "B", "R", 7), state="failed", reason='NaN, "quoted"\nline 2'
        ),
    ]
)


@pytest.fixture
def table(tmp_path: Path) -> Write:
    def write(*lines: str) -> Path:
        path = tmp_path / "table.csv"
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_what_is_written_is_read_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"results{suffix}"
    write_table(Results(ROWS, curves={"x": []}, provenance={"space": "demo"}), path)
    assert read_table(path) == Results(ROWS)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_columns_begin_as_documented() -> None:
    assert COLUMN_NAMES[:10] == (
        *("treatment", "label", "split", "source", "target"),
        *("kind", "n", "finetuned", "seed", "top1"),
    )
    assert all(column.meaning for column in COLUMNS)


def test_a_treatment_and_a_score_are_enough(table: Write) -> None:
    row = read_table(table("top1,treatment", "0.5,random:0.A3B+.s4")).networks[0]
    assert tuple(row) == COLUMN_NAMES
    expected = Treatment("random:0", "B", "A", 3, True, 4)
    assert row == network_row(expected, top1=0.5, state="finished")


@pytest.mark.parametrize(
    ("header", "cells", "id"),
    [
        ("label,split", "B3B,random:1", "random:1.B3B.s0"),
        ("label,seed", "A7B+,2", "unnamed.A7B+.s2"),
        ("kind,n,target,finetuned", "transfer,3.0,A,yes", "unnamed.B3A+.s0"),
        ("kind,n,target,finetuned,source", "base,0,B,false,B", "unnamed.baseB.s0"),
        ("kind,n,target,source", "untrained,2,AB,random", "unnamed.R2AB.s0"),
        ("kind,target,split", "base,A,manmade-natural", "manmade-natural.baseA.s0"),
        ("treatment,kind,n,target,finetuned", "run-17,selffer,4,B,False", "unnamed.B4B.s0"),
    ],
)
def test_identity_is_derived_from_what_there_is(
    table: Write, header: str, cells: str, id: str
) -> None:
    networks = read_table(table(f"{header},top1,note", f"{cells},0.5,kept by hand")).networks
    assert [row["treatment"] for row in networks] == [id]
    assert "note" not in networks[0]


def test_state_follows_from_the_score_where_it_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "results.parquet"
    ids = ["random:0.baseA.s0", "random:0.baseB.s0", "random:0.A1B.s0"]
    pq.write_table(pa.table({"treatment": ids, "top1": [0.5, float("nan"), None]}), path)
    states = {row["treatment"]: row["state"] for row in read_table(path).networks}
    assert states == dict(zip(ids, ["finished", "pending", "pending"], strict=True))


def test_a_spreadsheet_s_byte_order_mark_is_no_part_of_the_header(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes("\ufefftop1,treatment\r\n0.5,random:0.baseB.s0\r\n".encode())
    assert read_table(path).networks[0]["top1"] == 0.5


def test_study_order_counts_and_puts_bases_first() -> None:
    ids = [
        *("random:2.baseA.s0", "random:2.A1A.s0", "random:2.B1A.s0", "random:2.B1A+.s0"),
        *("random:2.baseB.s0", "random:10.baseB.s0", "random:10.baseB.s1", "dissimilar.baseB.s0"),
    ]
    rows = [network_row(Treatment.parse(id)) for id in reversed(ids)]
    assert [row["treatment"] for row in in_study_order(rows)] == ids


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("treatment,score", "random:0.baseB.s0,0.5"), "no column top1 .* treatment, score"),
        (("treatment,top1", "random:0.baseB.s0,62.5"), "row 1: top1 is 62.5.* divide .* by 100"),
        (("treatment,top1", "random:0.baseB.s0,high"), "row 1: top1 is 'high', not a number"),
        (("kind,n,target,top1", "basis,0,B,0.5"), "row 1: kind is 'basis', not one of base"),
        (("kind,n,target,top1", "base,3,B,0.5"), "row 1: A base copies nothing"),
        (("kind,n,target,finetuned,top1", "transfer,9,B,0,0.5"), "row 1: n, .* 1 to 7, not 9"),
        (("kind,n,target,top1", "transfer,3,B,0.5"), "row 1: finetuned is empty"),
        (("label,n,top1", "A3B,4,0.5"), "row 1: n is 4, but .* unnamed.A3B.s0, whose n is 3"),
        (("label,top1", "AnB,0.5"), "row 1: label is 'AnB', but labels look like"),
        (("treatment,top1", "first,0.5"), "row 1: 'first' names no treatment"),
        (("top1", "0.5"), "row 1: a row needs treatment, label, or kind"),
        (("label,top1,n", "A3B,0.5,2.5"), "row 1: n is '2.5', not a whole number"),
        (("label,top1,finetuned", "A3B,0.5,maybe"), "row 1: finetuned is 'maybe'"),
        (("label,top1,state", "A3B,0.5,done"), "row 1: state is 'done', not one of finished"),
        (("label,top1,state", "A3B,,finished"), "row 1: state is finished, but top1 is empty"),
        (("label,top1", "A3B,0.5", "A3B,0.6"), "row 2: .* is in row 1 already; .* seeds"),
        (("label,top1,top1", "A3B,0.5,0.5"), "the column top1 twice"),
        (("label,top1", "A3B,0.5,7"), "row 1: 3 cells under a header of 2 columns"),
        (("label,top1",), "has no rows"),
        (("",), "no column top1 .* it has: none"),
    ],
)
def test_a_wrong_table_is_refused_in_one_sentence(
    table: Write, lines: tuple[str, ...], message: str
) -> None:
    path = table(*lines)
    with pytest.raises(UserError, match=message) as refused:
        read_table(path)
    assert str(refused.value).startswith(str(path))


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("loss", "inf", "loss is inf, but it is never below 0 or as large as 1e"),
        ("loss", "1e308", "loss is 1e.308, but it is never"),
        ("moved_8", "-inf", "moved_8 is -inf, but"),
        ("seconds", "-5", "seconds is -5, but it is never below 0"),
        ("steps", "1e40", "steps is 1e.40, but it is never"),
        ("steps", "9" * 30, "steps is 1e.30, but it is never"),
        ("steps", "9" * 400, "steps is '9+', not a whole number"),
        ("loss", "9" * 400, "loss is inf, but it is never"),
        ("top5", "99", "top5 is 99, but it is a fraction from 0 to 1; divide percentages by 100"),
    ],
)
def test_numbers_that_no_network_has_are_refused(table: Write, column, value, reason) -> None:
    path = table(f"label,top1,{column}", f"baseB,0.5,{value}")
    with pytest.raises(UserError, match=rf"row 1: {reason}"):
        read_table(path)


def test_a_split_that_is_none_is_not_blamed_on_the_label(table: Write) -> None:
    with pytest.raises(UserError, match=r"<b>\.baseB\.s0' names no treatment"):
        read_table(table("label,split,top1", "baseB,<b>,0.5"))


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_table_of_another_separator_is_told_so(table: Write, separator: str) -> None:
    with pytest.raises(UserError, match="save it with commas, and with points"):
        read_table(table(f"label{separator}top1", f"baseB{separator}0,5"))


@pytest.mark.parametrize("name", ["table.parquet", "table.csv"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(UserError, match="There is no file"):
        read_table(path)
    path.write_bytes(b"\xff\xfe\x00PAR1 but not really")
    with pytest.raises(UserError, match=f"{name} cannot be read as a.* table: "):
        read_table(path)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_the_largest_seeds_stay_what_they_are(tmp_path: Path, suffix: str) -> None:
    seeds = (2**53, 2**53 + 1, 2**63 - 1)
    treatments = [Treatment("random:0", "B", seed=seed) for seed in seeds]
    rows = tuple(network_row(t, state="finished", top1=0.5) for t in treatments)
    write_table(Results(rows), tmp_path / f"table{suffix}")
    found = read_table(tmp_path / f"table{suffix}").networks
    assert tuple(row["seed"] for row in found) == seeds


def test_the_case_of_a_column_does_not_matter(table: Write) -> None:
    found = read_table(table("Label,TOP1,State,Note", "baseB,0.6,failed,x", "A3B,0.5,finished,y"))
    assert [row["state"] for row in found.networks] == ["failed", "finished"]
    (row,) = read_table(table("label,top1,seed,Seed", "baseB,0.6,1,2")).networks
    assert row["seed"] == 1


def test_only_two_suffixes_are_tables(tmp_path: Path) -> None:
    for act in (read_table, lambda path: write_table(Results(ROWS), path)):
        with pytest.raises(UserError, match=r"ends in \.parquet or \.csv"):
            act(tmp_path / "results.xlsx")


def test_a_table_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        write_table(Results(ROWS), tmp_path / "nowhere" / "results.csv")
    (tmp_path / "results.csv").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        write_table(Results(ROWS), tmp_path / "results.csv")
    assert [file.name for file in tmp_path.iterdir()] == ["results.csv"]
