"""The first layer's weights of trained networks, read without the rest of their files."""

import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raytransfer.errors import UserError
from raytransfer.results.store import StudyFolder
from raytransfer.results.table import Results
from raytransfer.study.treatment import Treatment

FIRST = "layer1.weight"

MOST_HEADER = 2**20
"""Bytes of a weights file's list of tensors; that of eight layers has some hundreds."""

MOST_WEIGHTS = 2**22
"""Of a first layer; the paper's has 34,848."""

Filters = NDArray[np.float32]
"""[filters, channels, height, width]."""


def first_filters(folder: StudyFolder, results: Results) -> dict[str, Filters]:
    """The first layers of one network of each kind, by id: of the first target and seed, that with
    the most copied layers, and of its source's base. Networks without such a layer are left out.

    Raises UserError, naming the file, for weights that are not readable.
    """
    done = [row for row in results.networks if row["state"] == "finished"]
    if not done:
        return {}
    transferred = [row for row in done if row["kind"] == "transfer"]
    like = (transferred or done)[0]
    same = [row for row in done if (row["split"], row["seed"]) == (like["split"], like["seed"])]
    chosen: dict[tuple[Any, ...], str] = {}
    for row in same:
        if row["kind"] == "base" or row["target"] == like["target"]:
            base = row["target"] if row["kind"] == "base" else None
            # Rows are in the order of n, so the last of a kind has the most copied layers.
            chosen[row["kind"], row["finetuned"], base] = row["treatment"]
    found = {id: first_layer(folder, Treatment.parse(id)) for id in chosen.values()}
    return {id: filters for id, filters in found.items() if filters is not None}


def first_layer(folder: StudyFolder, treatment: Treatment) -> Filters | None:
    """A network's first layer; None where it is not convolutional or there are no weights."""
    name = f"networks/{treatment.id}/weights.safetensors"
    if not folder.has(name):
        return None
    broken = UserError(f"{name} in {folder} is not readable: `raytransfer verify` tells more.")
    with folder.open(name) as file:
        # The format: eight bytes of a length, so much JSON of names and places, then the numbers.
        length = int.from_bytes(file.read(8), "little")
        if length > MOST_HEADER:
            raise broken
        try:
            entry = json.loads(file.read(length))[FIRST]
            kind, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
            sound = kind == "F32" and start >= 0 and end - start == 4 * math.prod(shape)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise broken from None
        if not sound or end - start > 4 * MOST_WEIGHTS or min(shape, default=0) < 1:
            raise broken
        if len(shape) != 4:
            return None
        file.seek(8 + length + start)
        content = file.read(end - start)
    if len(content) != end - start:
        raise broken
    return np.frombuffer(content, "<f4").reshape(shape)
