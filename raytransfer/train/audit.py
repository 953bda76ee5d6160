"""Whether a study is whole: every file of every network read again and held against its row."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raytransfer.errors import UserError
from raytransfer.nets.network import Weights, layers_sha256
from raytransfer.nets.weights import from_bytes
from raytransfer.results.store import StudyFolder, of_another_parent, scores_of
from raytransfer.study.treatment import Treatment


@dataclass
class Audited:
    """What was read."""

    networks: int = 0
    """All that the study is to have."""
    finished: int = 0
    failed: int = 0
    lines: int = 0
    problems: int = 0


def audit(root: str | Path, report: Callable[[str], None]) -> Audited:
    """Reads a study, local or a URI, and reports every problem as one sentence.

    Weights must be those whose sha256 stands in the network's row; frozen layers must have the
    hashes that they had before training, and be the parent's; there must be a line for every
    validation, in order and none twice, and the row's scores must be theirs. Raises UserError where
    there is no study.
    """
    folder = StudyFolder(root)
    study = folder.study()
    found = Audited(networks=len(study["treatments"]))

    def problem(id: str, what: str) -> None:
        found.problems += 1
        text = f"{id}: {what}"
        report(text if text.isprintable() else repr(text)[1:-1])

    for name in folder.names("networks"):
        if name not in study["treatments"]:
            problem(name, "its folder is there, but the study has no such network")
    for id in study["treatments"]:
        try:
            treatment = Treatment.parse(id)
            for what in _problems(folder, treatment, study.get("recipe"), found):
                problem(id, what)
        except UserError as error:
            problem(str(id), str(error))
    return found


def _problems(
    folder: StudyFolder, treatment: Treatment, recipe: Any, found: Audited
) -> Iterator[str]:
    done = folder.done(treatment)
    rows = folder.rows(treatment)
    found.lines += len(rows)
    if done is None:
        return
    if done["state"] != "finished":
        found.failed += 1
        return
    found.finished += 1
    yield from _lines(rows, done, recipe)
    for layer in range(1, treatment.frozen_layers + 1):
        if done.get(f"moved_{layer}"):
            yield f"its row says that layer {layer} moved, which is frozen"
    frozen = layers_sha256(_weights(folder, treatment), treatment.frozen_layers)
    if treatment.frozen_layers and frozen != done.get("frozen_sha256"):
        yield "its frozen layers are not what they were before training"
    if (parent := treatment.parent) is None:
        return
    its = folder.done(parent)
    if its is None or its["state"] != "finished":
        yield f"{parent}, which it copies from, is not finished"
        return
    if (reason := of_another_parent(done, its, parent)) is not None:
        yield reason
    elif (n := treatment.frozen_layers) and frozen != layers_sha256(_weights(folder, parent), n):
        yield f"its frozen layers are not those of {parent}"


def _weights(folder: StudyFolder, treatment: Treatment) -> Weights:
    sha256 = (folder.done(treatment) or {}).get("weights_sha256") or ""
    return from_bytes(folder.weights(treatment), sha256, f"The weights of {treatment}")


def _lines(rows: list[dict[str, Any]], done: dict[str, Any], recipe: Any) -> Iterator[str]:
    """Whether there is one line for every validation, and the final row is what they give."""
    steps = [row["step"] for row in rows]
    expected: dict[str, Any] = {}
    if isinstance(recipe, dict) and all(
        isinstance(recipe.get(name), int) and recipe[name] > 0
        for name in ("steps", "validate_every")
    ):
        every, last = recipe["validate_every"], recipe["steps"]
        if steps != [*range(every, last, every), last]:
            yield f"its lines are of {len(steps)} validations, not one for each"
        expected["steps"] = last
    try:
        expected |= scores_of(rows)
    except (IndexError, KeyError, TypeError):
        yield "its lines do not tell its scores"
    for name, value in expected.items():
        if done.get(name) != value:
            yield f"its row says {name} is {done.get(name)}, where its lines give {value}"
