"""The results of a study as one table, one row a network, and its files (.parquet, .csv)."""

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from raytransfer.errors import UserError
from raytransfer.folder import written_whole
from raytransfer.study.treatment import KINDS, LAYERS, UNTRAINED, Treatment

Type = Literal["text", "integer", "number", "truth"]


@dataclass(frozen=True)
class Column:
    """One column of the table: its name, what its cells are, and what they mean."""

    name: str
    type: Type
    meaning: str


COLUMNS: tuple[Column, ...] = (
    Column("treatment", "text", "id of the network, such as random:0.A3B+.s0"),
    Column("label", "text", "the paper's notation: baseB, B3B, B3B+, A3B, A3B+; R3B: untrained"),
    Column("split", "text", "name of the split of the classes into A and B, such as random:0"),
    Column("source", "text", "whose layers were copied: A, B, or R for random weights"),
    Column("target", "text", "task trained and scored on: A, B, or AB for all classes"),
    Column("kind", "text", "base, selffer, transfer or untrained"),
    Column("n", "integer", "layers copied, 1 to 7; 0 for a base"),
    Column("finetuned", "truth", "whether the copied layers learned"),
    Column("seed", "integer", "seed of the network's own initialisation and dropout"),
    Column("top1", "number", "final validation top-1 accuracy, 0 to 1"),
    Column("top5", "number", "final validation top-5 accuracy, 0 to 1"),
    Column("top1_best10", "number", "mean of the ten highest validations (the paper's statistic)"),
    Column("loss", "number", "final validation loss, nats an image"),
    Column("train_loss", "number", "last training loss, nats an image"),
    Column("steps", "integer", "optimiser steps taken"),
    Column("images", "integer", "training images seen, repeats counted"),
    Column("seconds", "number", "training time, seconds"),
    Column("images_per_second", "number", "training images a second"),
    Column("state", "text", "finished, running, pending or failed"),
    Column("reason", "text", "why the network is not finished"),
    Column("weights_sha256", "text", "hash of the final weights"),
    Column("frozen_sha256", "text", "hash of the frozen tensors, the same before and after"),
    Column("parent_sha256", "text", "hash of the weights that the layers were copied from"),
    *(
        Column(
            f"moved_{layer}", "number", f"distance of layer {layer} from its start, over its norm"
        )
        for layer in range(1, LAYERS + 1)
    ),
)
COLUMN_NAMES = tuple(column.name for column in COLUMNS)
STATES = ("finished", "running", "pending", "failed")
SERIES = ("base", "BnB", "BnB+", "AnB", "AnB+", "RnB")
"""The paper's treatments with the target called B, whichever task it is."""

UNNAMED_SPLIT = "unnamed"
"""The split of every row of a table that has no split column."""

MOST = {"integer": 2.0**63, "number": 1e100}
"""No number of a network is as large; a diverged one's loss may be any that float32 has."""

IDENTITY = ("treatment", "label", "split", "source", "target", "kind", "n", "finetuned", "seed")
"""Columns that say which network it is: its id, and attributes of its treatment."""

_TYPES = {c.name: c.type for c in COLUMNS}
_ARROW = {"text": pa.string(), "integer": pa.int64(), "number": pa.float64(), "truth": pa.bool_()}
_FRACTIONS = ("top1", "top5", "top1_best10")
_NOTHING = {"", "nan", "null", "none", "na", "n/a"}
_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Results:
    """What a study found: its networks, their training curves, and what it was made from."""

    networks: tuple[dict[str, Any], ...]
    """One row a network with every column of COLUMNS, None where unknown; in study order."""
    curves: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Rows of step, images, epoch, learning_rate, train_loss, top1, top5 and loss by treatment
    id; empty for an exported table."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """The study's own description (recipe, splits, data, versions); empty for a table."""


def network_row(treatment: Treatment, **values: Any) -> dict[str, Any]:
    """A row of the table: the treatment's own columns, `values`, and None for all others."""
    unknown = sorted(values.keys() - set(COLUMN_NAMES))
    if unknown:
        raise TypeError(f"no such column: {', '.join(unknown)}")
    row: dict[str, Any] = dict.fromkeys(COLUMN_NAMES)
    return row | values | _identity(treatment)


def impossible(name: str, value: Any) -> str | None:
    """Why no network has such a value in the column `name`; None where one may."""
    if value is None or name == "seed" or _TYPES[name] not in MOST:
        return None
    if name in _FRACTIONS and not 0 <= value <= 1:
        return f"{name} is {value:g}, but it is a fraction from 0 to 1; divide percentages by 100"
    if not 0 <= value < MOST[_TYPES[name]]:
        return f"{name} is {value:g}, but it is never below 0 or as large as {MOST[_TYPES[name]]:g}"
    return None


def series_of(row: Mapping[str, Any]) -> str:
    """The series of SERIES that a row belongs to."""
    plus = "+" if row["finetuned"] else ""
    names = {"base": "base", "untrained": "RnB", "selffer": "BnB", "transfer": "AnB"}
    return names[row["kind"]] + plus


def in_study_order(rows: Iterable[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Rows sorted by split (random ones first), target, series (bases first), n and seed."""

    def place(row: dict[str, Any]) -> tuple[Any, ...]:
        split: str = row["split"]
        # Numbers inside names compare as numbers: random:2 comes before random:10.
        name = [(len(part), part) for part in re.findall(r"\d+|\D+", split)]
        series = SERIES.index(series_of(row))
        return (not split.startswith("random"), name, row["target"], series, row["n"], row["seed"])

    return tuple(sorted(rows, key=place))


def read_table(path: str | Path) -> Results:
    """The results in a .parquet or .csv file, also one made elsewhere with only some columns.

    top1 must be there, and enough to tell the treatment: its id, or label (and split), or kind, n,
    target and finetuned. What follows from those is filled in; a missing state means finished
    where there is a top1, otherwise pending. An id in another notation gives way to ours when
    the other columns tell the treatment. A column Seed is taken where there is no seed; columns
    that COLUMNS lacks are ignored.
    Raises UserError, naming file, row and column, for a table that contradicts itself.
    """
    path = Path(path)
    read = _read_parquet if _is_parquet(path) else _read_csv
    try:
        header, rows = read(path)
    except FileNotFoundError:
        raise UserError(f"There is no file {path}.") from None
    except UnicodeDecodeError:
        raise UserError(
            f"{path} cannot be read as a table: it is not UTF-8; save it in that encoding."
        ) from None
    except (OSError, pa.ArrowException, csv.Error) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} cannot be read as a {path.suffix} table: {reason}") from error
    repeated = sorted({name for name in header if name in _TYPES and header.count(name) > 1})
    if repeated:
        raise UserError(f"{path} has the column {repeated[0]} twice; keep one.")
    if "top1" not in header:
        have = ", ".join(header) or "none"
        raise UserError(
            f"{path} has no column top1 (final validation accuracy, 0 to 1); it has: {have}."
        )
    if not rows:
        raise UserError(f"{path} has no rows; a table of results has one row a network.")
    networks: dict[str, dict[str, Any]] = {}
    places: dict[str, int] = {}
    for number, raw in enumerate(rows, start=1):
        row = _network(raw, f"{path}, row {number}")
        id = row["treatment"]
        if id in networks:
            raise UserError(
                f"{path}, row {number}: treatment {id} is in row {places[id]} already; "
                "give repeated networks different seeds in the column seed."
            )
        networks[id], places[id] = row, number
    return Results(in_study_order(networks.values()))


def write_table(results: Results, path: str | Path) -> None:
    """Write the networks to a .parquet or .csv file, whole or not at all.

    Raises UserError for another suffix or a place that cannot be written.
    """
    path = Path(path)
    write = _write_parquet if _is_parquet(path) else _write_csv
    with written_whole(path) as part:
        write(results, part)


def _is_parquet(path: Path) -> bool:
    """Whether it is .parquet, otherwise .csv. Raises UserError for anything else."""
    if path.suffix.lower() not in (".parquet", ".csv"):
        raise UserError(f"{path} is no table of results: its name ends in .parquet or .csv.")
    return path.suffix.lower() == ".parquet"


def _meant(header: Iterable[str]) -> list[str]:
    """The columns that a header means: no blanks around them, and Seed where there is no seed."""
    names = [name.strip() for name in header]
    known = _TYPES.keys() - names
    return [name.lower() if name.lower() in known else name for name in names]


def _read_parquet(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    with path.open("rb") as file:
        table = pq.read_table(file)
    names = _meant(table.column_names)
    columns = [column.to_pylist() for column in table.columns]
    rows = [dict(zip(names, cells, strict=True)) for cells in zip(*columns, strict=True)]
    return names, rows


def _read_csv(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    # Spreadsheets begin their UTF-8 files with a byte-order mark, which "utf-8-sig" drops.
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = [line for line in csv.reader(file, strict=True) if line]
    if not lines:
        return [], []
    names = _meant(lines[0])
    if len(names) == 1 and re.search("[;\t]", names[0]):
        raise UserError(
            f"{path} does not separate its columns by commas: save it with commas, and with points "
            "in its numbers."
        )
    for number, line in enumerate(lines[1:], start=1):
        if len(line) != len(names):
            raise UserError(
                f"{path}, row {number}: {len(line)} cells under a header of {len(names)} columns."
            )
    return names, [dict(zip(names, line, strict=True)) for line in lines[1:]]


def _write_parquet(results: Results, path: Path) -> None:
    schema = pa.schema([(column.name, _ARROW[column.type]) for column in COLUMNS])
    pq.write_table(pa.Table.from_pylist(list(results.networks), schema=schema), path)


def _write_csv(results: Results, path: Path) -> None:
    path.write_text(csv_text(results), encoding="utf-8", newline="\n")


def csv_text(results: Results) -> str:
    """All networks as CSV, with a header."""

    def text(value: Any) -> Any:
        return str(value).lower() if isinstance(value, bool) else value

    content = io.StringIO()
    writer = csv.DictWriter(content, COLUMN_NAMES, lineterminator="\n")
    writer.writeheader()
    for row in results.networks:
        writer.writerow({name: text(row[name]) for name in COLUMN_NAMES})
    return content.getvalue()


def _network(raw: dict[str, Any], where: str) -> dict[str, Any]:
    given = {name: _value(name, raw[name], where) for name in COLUMN_NAMES if name in raw}
    try:
        treatment = _treatment(given)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    row: dict[str, Any] = dict.fromkeys(COLUMN_NAMES)
    row |= given | _identity(treatment)
    for name, value in row.items():
        if (reason := impossible(name, value)) is not None:
            raise UserError(f"{where}: {reason}.")
    if row["state"] is None:
        row["state"] = "pending" if row["top1"] is None else "finished"
    if row["state"] not in STATES:
        raise UserError(f"{where}: state is {row['state']!r}, not one of {', '.join(STATES)}.")
    if row["state"] == "finished" and row["top1"] is None:
        raise UserError(f"{where}: state is finished, but top1 is empty; fill it or say failed.")
    return row


def _value(name: str, raw: Any, where: str) -> Any:
    """A cell as its column's type; None for an empty one and for NaN."""
    if raw is None or (isinstance(raw, float) and math.isnan(raw)):
        return None
    text = str(raw).strip()
    if text.lower() in _NOTHING:
        return None
    match _TYPES[name]:
        case "text":
            return text
        case "truth":
            if (truth := _TRUTHS.get(text.lower().removesuffix(".0"))) is not None:
                return truth
            raise UserError(f"{where}: {name} is {text!r}, not true or false.")
        case "number" | "integer" as type:
            try:
                # Not by way of a float, which would round the largest seeds.
                whole = type == "integer" and re.fullmatch(r"[+-]?\d{1,30}", text)
                number = int(text) if whole else float(text)
            except ValueError:
                number = math.nan
            if math.isnan(number) or (type == "integer" and number % 1):
                wanted = "a whole number" if type == "integer" else "a number"
                raise UserError(f"{where}: {name} is {text!r}, not {wanted}.")
            return int(number) if type == "integer" else number


def _treatment(given: dict[str, Any]) -> Treatment:
    """The treatment that the cells of a row name; all of them must agree."""
    treatment = _from_id(given) or _from_label(given) or _from_fields(given)
    for name, derived in _identity(treatment).items():
        said = given.get(name)
        if said is None or said == derived or name == "treatment":
            continue
        # Tables made elsewhere give a base its task as its source, and random weights a word.
        words = (treatment.target, "random", "untrained")
        if name == "source" and treatment.kind in ("base", "untrained") and said in words:
            continue
        raise UserError(
            f"{name} is {said!r}, but the other columns name {treatment.id}, whose {name} "
            f"is {derived!r}."
        )
    return treatment


def _from_id(given: dict[str, Any]) -> Treatment | None:
    id = given.get("treatment")
    if id is None:
        return None
    try:
        return Treatment.parse(id)
    except UserError:
        if given.get("label") is None and given.get("kind") is None:
            raise
        return None


def _from_label(given: dict[str, Any]) -> Treatment | None:
    label = given.get("label")
    if label is None:
        return None
    id = f"{given.get('split') or UNNAMED_SPLIT}.{label}.s{given.get('seed') or 0}"
    try:
        return Treatment.parse(id)
    except UserError:
        if given.get("kind") is not None:
            return None
        try:
            Treatment.parse(f"{UNNAMED_SPLIT}.{label}.s0")
        except UserError:
            raise UserError(
                f"label is {label!r}, but labels look like baseB, B3B, B3B+, A3B, A3B+ or R3B."
            ) from None
        raise  # the label is one; the split or the seed is not


def _from_fields(given: dict[str, Any]) -> Treatment:
    kind, target = given.get("kind"), given.get("target")
    if kind is None:
        raise UserError("a row needs treatment, label, or kind, n, target and finetuned.")
    if kind not in KINDS:
        raise UserError(f"kind is {kind!r}, not one of {', '.join(KINDS)}.")
    copies = kind in ("selffer", "transfer")
    needed = ["target"] + ["n"] * (kind != "base") + ["finetuned"] * copies
    for name in needed:
        if given.get(name) is None:
            raise UserError(f"{name} is empty, and a network of kind {kind} needs it.")
    source: str | None
    match kind:
        case "base":
            source = None
        case "untrained":
            source = UNTRAINED
        case "selffer":
            source = target
        case _:
            source = given.get("source") or {"A": "B", "B": "A"}.get(str(target))
    return Treatment(
        split=given.get("split") or UNNAMED_SPLIT,
        target=str(target),
        source=source,
        n=given.get("n") or 0,
        finetuned=bool(given.get("finetuned")),
        seed=given.get("seed") or 0,
    )


def _identity(treatment: Treatment) -> dict[str, Any]:
    own = {name: getattr(treatment, name) for name in IDENTITY if name != "treatment"}
    return {"treatment": treatment.id, **own}
