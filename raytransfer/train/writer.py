"""What training leaves behind: each network's lines, checkpoints, final weights and row."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from raytransfer.data.reader import MicroBatch
from raytransfer.nets.network import Weights, layers_sha256
from raytransfer.nets.weights import to_bytes
from raytransfer.results.store import StudyFolder, scores_of
from raytransfer.study.recipe import Recipe
from raytransfer.study.treatment import Treatment
from raytransfer.train.checkpoint import Checkpointer
from raytransfer.train.cohort import Sums, TrainingState
from raytransfer.train.control import Control
from raytransfer.train.job import CohortJob, TrialJob
from raytransfer.train.patience import patiently

GO_ON, SAVE, STOP = range(3)


@dataclass
class Course:
    """A network on its way: its lines so far, and why it ended before its time."""

    treatment: Treatment
    initial_frozen: str
    """Hash of its frozen layers before training."""
    parent_sha256: str | None
    rows: list[dict[str, Any]] = field(default_factory=list)
    reason: str | None = None


def add_row(
    course: Course,
    batch: MicroBatch,
    trained: Sums,
    validated: Sums,
    place: int,
    recipe: Recipe,
    classes: int,
) -> None:
    """One line of a network: what it trained since the last one, and what it scores now.

    The first loss that is not finite ends the network, with that as its reason.
    """
    if course.reason is not None:
        return
    train_loss = _ratio(trained.loss, trained.images, place)
    loss = _ratio(validated.loss, validated.images, place)
    if not (math.isfinite(train_loss) and math.isfinite(loss)):
        course.reason = f"its loss was not finite by step {batch.step}"
        return
    course.rows.append(
        {
            "step": batch.step,
            "images": batch.step * recipe.batch,
            "epoch": batch.epoch,
            "learning_rate": recipe.rate(batch.step - 1),
            "train_loss": train_loss,
            "top1": _ratio(validated.top1, validated.images, place),
            # Of five classes or fewer, the right one is always among five.
            "top5": _ratio(validated.top5, validated.images, place) if classes > 5 else None,
            "loss": loss,
        }
    )


def _ratio(sums: Tensor, counts: Tensor, place: int) -> float:
    return float(sums[place]) / float(counts[place])


class Writer:
    """Writes for a cohort: its networks' lines, checkpoints, and ends."""

    def __init__(
        self, folder: StudyFolder, job: TrialJob, cohort_job: CohortJob, control: Control
    ) -> None:
        self._folder = folder
        self._recipe = job.recipe
        self._every = job.every
        self._job = cohort_job
        self._control = control
        self._checkpointer = Checkpointer(folder, cohort_job.cohort.treatments)
        self._saved = cohort_job.stream.start_step, time.monotonic()

    def begin(self) -> None:
        self._control.begin(self._job.cohort.treatments, self._job.stream.start_step)

    def at(self, done: int) -> None:
        """Steps done."""
        self._control.at(done)

    def order(self, done: int) -> int:
        """GO_ON, SAVE or STOP, after so many steps. Raises LeaseLostError."""
        if self._control.lost:
            self._control.check()
        if self._control.stopping:
            return STOP
        step, at = self._saved
        return SAVE if self._every.over(done - step, time.monotonic() - at) else GO_ON

    def write_rows(self, courses: Mapping[Treatment, Course]) -> None:
        self._control.check()
        for treatment, course in courses.items():
            patiently(self._folder.write_rows, treatment, course.rows)

    def save(
        self, courses: Mapping[Treatment, Course], done: int, seconds: float, state: TrainingState
    ) -> None:
        """Write a checkpoint, while training goes on; when it is to stop, before it does."""
        self._control.check()
        told = {treatment.id: (course.rows, course.reason) for treatment, course in courses.items()}
        self._checkpointer.save(done, seconds, state, told)
        self._saved = done, time.monotonic()
        if self._control.stopping:
            self._checkpointer.close(finished=False)

    def fail(self, treatment: Treatment, reason: str) -> None:
        """Write a network's end without weights."""
        self._control.check()
        patiently(
            self._folder.finish, treatment, {"state": "failed", "reason": reason}, weights=None
        )

    def finish(
        self,
        courses: Mapping[Treatment, Course],
        weights: Mapping[str, Weights],
        moves: Mapping[Treatment, Sequence[float]],
        seconds: float,
    ) -> None:
        """Write every network's end: final weights and row, or the reason of its failure."""
        recipe = self._recipe
        for treatment, course in courses.items():
            own = weights[treatment.id]
            if layers_sha256(own, treatment.frozen_layers) != course.initial_frozen:
                course.reason = "its frozen layers changed in training"
            if course.reason is not None:
                self.fail(treatment, course.reason)
                continue
            self._control.check()
            content, sha256 = to_bytes(own)
            images = recipe.steps * recipe.batch
            row = {
                "state": "finished",
                **scores_of(course.rows),
                "steps": recipe.steps,
                "images": images,
                "seconds": seconds,
                "images_per_second": images / seconds,
                "weights_sha256": sha256,
                "frozen_sha256": course.initial_frozen if treatment.frozen_layers else None,
                "parent_sha256": course.parent_sha256,
                **{f"moved_{layer}": far for layer, far in enumerate(moves[treatment], 1)},
            }
            patiently(self._folder.finish, treatment, row, content)
        self._checkpointer.close(finished=True)
