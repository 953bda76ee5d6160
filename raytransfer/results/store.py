"""A study on disk: a local folder, NFS or an object store, written file by whole file.

study.json                          what the study is: space, recipe, splits, data, versions
attempts/                           who is writing now; see lease
networks/<treatment id>/rows.jsonl  a line for every validation
networks/<treatment id>/weights.safetensors
networks/<treatment id>/done.json   the final row; its presence means that the network is over
checkpoints/                        networks on their way; see train.checkpoint
trials/<trial id>/lane<n>.json      how far a running trial is, and in tries.json, its tries
events/<time>-<chance>.json         what happened that a user should know, a sentence each
tracking/, tensorboard/             what was sent to a tracker
ray/                                what Ray leaves; nothing of it is read
"""

import json
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from raytransfer.errors import StoreError, UserError
from raytransfer.folder import Folder
from raytransfer.lease import held
from raytransfer.results.sound import ANEW, MOST_BYTES, end_of, lines_of, study_of
from raytransfer.results.table import Results, in_study_order, network_row
from raytransfer.study.treatment import Treatment

EVENTS = "events"

BEST = 10
"""The paper's statistic of a run is the mean of so many highest validations (its logs)."""


class StudyFolder(Folder):
    """The files of one study. `root` is a path or a URI such as s3://bucket/study."""

    kind = "study folder"

    # What is in the files.

    def study(self) -> dict[str, Any]:
        """What the study is. Raises UserError where there is none, or it names no treatments."""
        said = self.read_json("study.json")
        if said is None:
            raise UserError(f"There is no study in {self}: it holds no study.json.")
        return study_of(said, f"study.json in the study folder {self}")

    def done(self, treatment: Treatment) -> dict[str, Any] | None:
        """The final row of a network that is over (finished or failed); None if it is not."""
        name = f"networks/{treatment.id}/done.json"
        try:
            said = self.read_json(name)
        except UserError as error:
            raise UserError(f"{error} {ANEW.capitalize()}.") from None
        return None if said is None else end_of(said, f"{name} in {self}")

    def write_rows(self, treatment: Treatment, rows: Iterable[Mapping[str, Any]]) -> None:
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        self.write(f"networks/{treatment.id}/rows.jsonl", lines.encode())

    def rows(self, treatment: Treatment) -> list[dict[str, Any]]:
        """A network's lines so far, one for every validation."""
        name = f"networks/{treatment.id}/rows.jsonl"
        content = self.read(name, most=MOST_BYTES) or b""
        try:
            lines = [json.loads(line) for line in content.splitlines()]
        except (ValueError, RecursionError):
            raise UserError(f"{name} in {self} is not readable: {ANEW}.") from None
        return lines_of(lines, f"{name} in {self}")

    def finish(self, treatment: Treatment, row: Mapping[str, Any], weights: bytes | None) -> None:
        """Write a network's final weights and, last, its final row."""
        if weights is not None:
            self.write(f"networks/{treatment.id}/weights.safetensors", weights)
        self.write_json(f"networks/{treatment.id}/done.json", dict(row))

    def weights(self, treatment: Treatment) -> bytes | None:
        return self.read(f"networks/{treatment.id}/weights.safetensors")

    def write_progress(self, trial: str, lane: int, progress: Mapping[str, Any]) -> None:
        said = {**progress, "time": time.time()}
        self.write_json(f"trials/{trial}/lane{lane}.json", said)

    def progress(self) -> list[dict[str, Any]]:
        """What every lane of every trial last said of itself; see train.control for its keys."""
        lanes = (
            self.read_json(f"trials/{trial}/{name}")
            for trial in self.names("trials")
            for name in self.names(f"trials/{trial}")
            if name.startswith("lane")
        )
        return [said for said in lanes if isinstance(said, dict)]

    def lane_progress(self, trial: str, lane: int) -> dict[str, Any] | None:
        said: dict[str, Any] | None = self.read_json(f"trials/{trial}/lane{lane}.json")
        return said

    def tell(self, sentence: str) -> None:
        """Keep a sentence of what happened; the driver shows it. Lost where none can be written."""
        name = f"{time.time():017.6f}-{secrets.token_hex(2)}.json"
        with suppress(StoreError):
            self.write_json(f"{EVENTS}/{name}", {"sentence": sentence})

    def events(self, after: str = "") -> Iterator[tuple[str, str]]:
        """Name and sentence of each event, in time, those after the one of that name."""
        for name in self.names(EVENTS):
            if name > after and name.endswith(".json"):
                said = self.read_json(f"{EVENTS}/{name}")
                yield name, str(said.get("sentence")) if isinstance(said, dict) else ""


def scores_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """The scores in a network's final row, by its lines: those of the last one, and the mean of the
    ten highest top-1."""
    last = rows[-1]
    best = sorted((row["top1"] for row in rows), reverse=True)[:BEST]
    return {
        "top1": last["top1"],
        "top5": last["top5"],
        "top1_best10": sum(best) / BEST if len(best) == BEST else None,
        "loss": last["loss"],
        "train_loss": last["train_loss"],
    }


def of_another_parent(
    row: Mapping[str, Any], parent_row: Mapping[str, Any], parent: Treatment
) -> str | None:
    """Why a network is no copy of the parent that is there, by the rows of both; None where it
    is."""
    if row.get("parent_sha256") == parent_row.get("weights_sha256"):
        return None
    return f"it was copied from other weights of {parent} than those that are there"


def read_study(root: str | Path) -> Results:
    """A study's results so far, one row for every network that it will have. One whose files are
    damaged, or whose parent was trained anew since, counts as failed, with that as its reason.

    Raises UserError where there is no study.
    """
    folder = StudyFolder(root)
    study = folder.study()
    alive = held(folder)
    networks: dict[Treatment, dict[str, Any]] = {}
    curves = {}
    for id in study["treatments"]:
        treatment = Treatment.parse(id)
        try:
            rows, done = folder.rows(treatment), folder.done(treatment)
        except UserError as error:
            networks[treatment] = network_row(treatment, state="failed", reason=str(error))
            continue
        if rows:
            curves[id] = rows
        if done is not None:
            networks[treatment] = network_row(treatment, **done)
        else:
            state = "running" if rows and alive else "pending"
            reason = None if state == "running" or not rows else "stopped before its end"
            networks[treatment] = network_row(treatment, state=state, reason=reason)
    for treatment, row in networks.items():
        parent = treatment.parent
        # Where both say which weights they are of.
        if row["parent_sha256"] and parent in networks and networks[parent]["weights_sha256"]:
            reason = of_another_parent(row, networks[parent], parent)
            if reason is not None:
                row |= {"state": "failed", "reason": f"{reason}: {ANEW}"}
    return Results(in_study_order(networks.values()), curves, study)
