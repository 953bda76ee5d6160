"""What is read of a study is checked: a folder may come from a stranger, or a broken disk."""

import math
from collections.abc import Mapping
from typing import Any

from raytransfer.errors import UserError
from raytransfer.results.table import COLUMNS, IDENTITY, impossible

MOST_BYTES = 64 * 2**20
"""Of a file of rows or settings: a hundred times those of the longest run."""

MOST_TEXT = 2000
"""Characters of a reason or a hash."""

ENDS = ("finished", "failed")
ANEW = "remove its folder to train it anew"
"""What to do about a network whose files are broken."""

_LINE = {"step": int, "images": int, "epoch": int}
_MEASURED = ("learning_rate", "train_loss", "top1", "top5", "loss")
_TYPES = {column.name: column.type for column in COLUMNS}


def end_of(said: Any, file: str) -> dict[str, Any]:
    """A network's final row. Raises UserError, naming the file, for anything else."""
    if not isinstance(said, dict) or said.get("state") not in ENDS:
        raise UserError(f"{file} is no final row of a network: {ANEW}.")
    for name, value in said.items():
        if name not in _TYPES or name in IDENTITY:
            raise UserError(f"{file} has a column {name[:50]!r}, which does not belong: {ANEW}.")
        if value is not None and not _fits(value, _TYPES[name]):
            raise UserError(f"{name} in {file} is no {_TYPES[name]}: {ANEW}.")
        if (reason := impossible(name, value)) is not None:
            raise UserError(f"In {file} {reason}: {ANEW}.")
    if said["state"] == "finished" and said.get("top1") is None:
        raise UserError(f"{file} is of a finished network, and has no top1: {ANEW}.")
    return said


def lines_of(said: list[Any], file: str) -> list[dict[str, Any]]:
    """A network's lines. Raises UserError, naming the file and the line, for anything else."""
    for number, line in enumerate(said, 1):
        if (
            not isinstance(line, dict)
            or not all(type(line.get(name, 0)) is kind for name, kind in _LINE.items())
            or not all(
                _fits(line[name], "number") for name in _MEASURED if line.get(name) is not None
            )
            or "step" not in line
        ):
            raise UserError(f"Line {number} of {file} is no line of a network's training.")
    return said


def study_of(said: Any, file: str) -> dict[str, Any]:
    """What a study is. Raises UserError, naming the file, where it names no treatments."""
    treatments = said.get("treatments") if isinstance(said, Mapping) else None
    if not isinstance(treatments, list) or not all(isinstance(id, str) for id in treatments):
        raise UserError(f"{file} names no treatments.")
    return dict(said)


def _fits(value: Any, type_: str) -> bool:
    if type_ == "text":
        return isinstance(value, str) and len(value) <= MOST_TEXT
    if type_ == "truth":
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if type_ == "integer":
        return isinstance(value, int) and abs(value) < 2**63
    return isinstance(value, int | float) and (isinstance(value, int) or not math.isinf(value))
