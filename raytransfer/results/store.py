"""A study on disk: a local folder, NFS or an object store, written file by whole file.

study.json                          what the study is: space, recipe, splits, data, versions
attempt.json                        who is writing now
networks/<treatment id>/rows.jsonl  a line for every validation
networks/<treatment id>/weights.safetensors
networks/<treatment id>/done.json   the final row; its presence means that the network is over
trials/<trial id>/progress.json     how far a running trial is
"""

import json
import os
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from raytransfer.errors import UserError
from raytransfer.folder import Folder
from raytransfer.results.table import Results, in_study_order, network_row
from raytransfer.study.treatment import Treatment

HEARTBEAT_SECONDS = 5.0
"""How often the driver of a running study says that it lives."""

LEASE_SECONDS = 30.0
"""A driver that has been silent for so long is taken for dead."""


class StudyFolder(Folder):
    """The files of one study. `root` is a path or a URI such as s3://bucket/study."""

    kind = "study folder"

    # What is in the files.

    def done(self, treatment: Treatment) -> dict[str, Any] | None:
        """The final row of a network that is over (finished or failed); None if it is not."""
        row: dict[str, Any] | None = self.read_json(f"networks/{treatment.id}/done.json")
        return row

    def write_rows(self, treatment: Treatment, rows: Iterable[Mapping[str, Any]]) -> None:
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        self.write(f"networks/{treatment.id}/rows.jsonl", lines.encode())

    def rows(self, treatment: Treatment) -> list[dict[str, Any]]:
        """A network's lines so far, one for every validation."""
        content = self.read(f"networks/{treatment.id}/rows.jsonl") or b""
        try:
            return [json.loads(line) for line in content.splitlines()]
        except (ValueError, RecursionError):
            raise UserError(f"rows.jsonl of {treatment.id} in {self} is not readable.") from None

    def finish(self, treatment: Treatment, row: Mapping[str, Any], weights: bytes | None) -> None:
        """Write a network's final weights and, last, its final row."""
        if weights is not None:
            self.write(f"networks/{treatment.id}/weights.safetensors", weights)
        self.write_json(f"networks/{treatment.id}/done.json", dict(row))

    def weights(self, treatment: Treatment) -> bytes | None:
        return self.read(f"networks/{treatment.id}/weights.safetensors")

    def write_progress(self, trial: str, progress: Mapping[str, Any]) -> None:
        self.write_json(f"trials/{trial}/progress.json", {**progress, "time": time.time()})

    def progress(self) -> list[dict[str, Any]]:
        """What every trial last said of itself; see train.loop for its keys."""
        said = (self.read_json(f"trials/{name}/progress.json") for name in self.names("trials"))
        return [progress for progress in said if isinstance(progress, dict)]

    # The lease: one writer at a time.

    def acquire(self) -> None:
        """Become the study's writer. Raises UserError, naming the holder, if there is one."""
        lease = self.read_json("attempt.json")
        if lease and time.time() - lease["heartbeat"] < LEASE_SECONDS and not _dead(lease):
            since = time.strftime("%H:%M:%S", time.localtime(lease["since"]))
            raise UserError(
                f"The study {self} is being written by process {lease['pid']} on {lease['host']} "
                f"since {since}: wait for it or stop it."
            )
        number = 1 + (lease["attempt"] if lease else 0)
        self._lease = {
            "attempt": number,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": time.time(),
        }
        self.heartbeat()

    def heartbeat(self) -> None:
        """Say that the writer lives."""
        self.write_json("attempt.json", {**self._lease, "heartbeat": time.time()})

    def release(self) -> None:
        """Let another driver write."""
        self.write_json("attempt.json", {**self._lease, "heartbeat": 0.0})


def _dead(lease: Mapping[str, Any]) -> bool:
    """Whether the holder was a process of this machine that is no more."""
    if lease["host"] != socket.gethostname() or lease["pid"] == os.getpid():
        return False
    try:
        os.kill(lease["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def read_study(root: str | Path) -> Results:
    """A study's results so far, one row for every network that it will have.

    Raises UserError where there is no study.
    """
    folder = StudyFolder(root)
    study = folder.read_json("study.json")
    if study is None:
        raise UserError(f"There is no study in {root}: it holds no study.json.")
    if not isinstance(study, dict) or "treatments" not in study:
        raise UserError(f"study.json in the study folder {root} names no treatments.")
    lease = folder.read_json("attempt.json")
    alive = lease and time.time() - lease["heartbeat"] < LEASE_SECONDS and not _dead(lease)
    networks, curves = [], {}
    for id in study["treatments"]:
        treatment = Treatment.parse(id)
        rows = folder.rows(treatment)
        if rows:
            curves[id] = rows
        done = folder.done(treatment)
        if done is not None:
            networks.append(network_row(treatment, **done))
        else:
            state = "running" if rows and alive else "pending"
            reason = None if state == "running" or not rows else "stopped before its end"
            networks.append(network_row(treatment, state=state, reason=reason))
    return Results(in_study_order(networks), curves, study)
