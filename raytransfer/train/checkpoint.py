"""Checkpoints: networks in the middle of training, so that nothing done is done again.

checkpoints/<cohort>-<step>/<treatment id>.safetensors   learning weights and their velocities
checkpoints/<cohort>-<step>.json                         all else, with each file's sha256

The JSON file is written last, so its presence means that the checkpoint is whole. A network goes on
from the newest one that has it, whatever cohort it is in by then: the order of images is a function
of the step, and a network's training one of the step and the network.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from raytransfer.errors import UserError
from raytransfer.nets.network import Weights
from raytransfer.nets.weights import from_bytes, to_bytes
from raytransfer.results.store import StudyFolder
from raytransfer.study.treatment import Treatment
from raytransfer.train.cohort import TrainingState
from raytransfer.train.patience import patiently

CHECKPOINTS = "checkpoints"

KEPT = 2
"""Of a cohort: the newest, and one before it, should that be torn."""


@dataclass(frozen=True)
class Saved:
    """A network in a checkpoint."""

    sha256: str
    rows: tuple[dict[str, Any], ...]
    """Its lines so far."""
    reason: str | None
    """Why it has failed already; it trains on for the others' sake."""
    sums: list[list[float]]
    """TrainingState.sums of it."""


@dataclass(frozen=True)
class Checkpoint:
    """What the JSON file of a checkpoint says."""

    name: str
    step: int
    """Steps done; a validation after them included."""
    seconds: float
    """Of training until then."""
    rate: float
    """Learning rate of the last step."""
    networks: Mapping[str, Saved]
    """By treatment id."""

    def state(self, folder: StudyFolder, treatments: Iterable[Treatment]) -> TrainingState:
        """The state of some of its networks. Raises UserError where a file is not what it was."""
        ids = [treatment.id for treatment in treatments]
        return TrainingState(
            {id: self._weights(folder, id) for id in ids},
            {id: self.networks[id].sums for id in ids},
            self.rate,
        )

    def _weights(self, folder: StudyFolder, id: str) -> Weights:
        content = folder.read(_file(self.name, id))
        what = f"The weights of {id} in the checkpoint {self.name}"
        return from_bytes(content, self.networks[id].sha256, what)


class Checkpointer:
    """Writes one cohort's checkpoints, in a thread of its own."""

    def __init__(self, folder: StudyFolder, treatments: Sequence[Treatment]) -> None:
        ids = "\n".join(sorted(treatment.id for treatment in treatments))
        self._cohort = hashlib.sha256(ids.encode()).hexdigest()[:16]
        self._folder = folder
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None

    def save(
        self,
        step: int,
        seconds: float,
        state: TrainingState,
        told: Mapping[str, tuple[Sequence[Mapping[str, Any]], str | None]],
    ) -> None:
        """Write a checkpoint while training goes on. told: each network's rows and reason.

        Waits for the one before it, and raises what that one met.
        """
        self.wait()
        # The lists grow while the thread writes.
        now = {id: (tuple(map(dict, rows)), reason) for id, (rows, reason) in told.items()}
        self._writing = self._pool.submit(self._write, step, seconds, state, now)

    def wait(self) -> None:
        """Until the last checkpoint is whole. Raises what its writing met."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def close(self, *, finished: bool) -> None:
        """No more of them. finished: the networks are over, so that none is needed."""
        self.wait()
        self._pool.shutdown()
        if finished:
            self._drop(kept=0)

    def _write(
        self,
        step: int,
        seconds: float,
        state: TrainingState,
        told: Mapping[str, tuple[tuple[dict[str, Any], ...], str | None]],
    ) -> None:
        name = f"{self._cohort}-{step:09d}"
        networks = {}
        for id, weights in state.networks.items():
            content, sha256 = to_bytes(weights)
            patiently(self._folder.write, _file(name, id), content)
            networks[id] = Saved(sha256, *told[id], state.sums[id])
        whole = Checkpoint(name, step, seconds, state.rate, networks)
        patiently(self._folder.write_json, f"{CHECKPOINTS}/{name}.json", asdict(whole))
        self._drop(kept=KEPT)

    def _drop(self, kept: int) -> None:
        """Delete the cohort's oldest checkpoints, the JSON file first: half of one is none."""
        names = self._folder.names(CHECKPOINTS)
        mine = sorted({name.removesuffix(".json") for name in names if self._mine(name)})
        for name in mine[: len(mine) - kept]:
            self._folder.delete(f"{CHECKPOINTS}/{name}.json")
            self._folder.delete(f"{CHECKPOINTS}/{name}")

    def _mine(self, name: str) -> bool:
        return name.startswith(f"{self._cohort}-")


def _file(name: str, id: str) -> str:
    return f"{CHECKPOINTS}/{name}/{id}.safetensors"


def checkpoints(folder: StudyFolder) -> list[Checkpoint]:
    """All checkpoints that are whole, the newest step first. One that cannot be understood is
    told and passed over."""
    found = []
    for name in folder.names(CHECKPOINTS):
        if not name.endswith(".json"):
            continue
        try:
            found.append(_understood(name, folder.read_json(f"{CHECKPOINTS}/{name}")))
        except UserError as error:
            folder.tell(f"{error} That checkpoint is passed over.")
    return sorted(found, key=lambda checkpoint: -checkpoint.step)


def _understood(name: str, said: Any) -> Checkpoint:
    try:
        checkpoint = Checkpoint(
            **{**said, "networks": {id: Saved(**one) for id, one in said["networks"].items()}}
        )
    except (TypeError, KeyError, AttributeError):
        raise UserError(f"The checkpoint {name} is not one.") from None
    if f"{checkpoint.name}.json" != name:
        raise UserError(f"The checkpoint {name} says that it is another.")
    return checkpoint


def latest(
    folder: StudyFolder, treatments: Sequence[Treatment], known: Sequence[Checkpoint]
) -> list[tuple[Checkpoint | None, tuple[Treatment, ...]]]:
    """Treatments in groups that go on from the same checkpoint, or from the beginning.

    Every file is read once to see that it is what was written; a damaged one is told, and the
    checkpoint passed over. known: what `checkpoints` found.
    """
    left = list(treatments)
    groups: list[tuple[Checkpoint | None, tuple[Treatment, ...]]] = []
    for checkpoint in known:
        here = [treatment for treatment in left if treatment.id in checkpoint.networks]
        if not here:
            continue
        try:
            for treatment in here:
                checkpoint.state(folder, [treatment])
        except UserError as error:
            folder.tell(f"{error} That checkpoint is passed over.")
            continue
        groups.append((checkpoint, tuple(here)))
        left = [treatment for treatment in left if treatment not in here]
    return [*groups, *([(None, tuple(left))] if left else [])]
