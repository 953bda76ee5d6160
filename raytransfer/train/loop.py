"""The training of a trial's cohorts, in each of its workers."""

import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raytransfer.data.decoding import IN_TRAINING, Decoding
from raytransfer.data.manifest import mean_image, read_manifest
from raytransfer.data.order import uniforms
from raytransfer.data.plan import StreamPlan
from raytransfer.data.reader import MicroBatch
from raytransfer.nets.architecture import Architecture, architecture
from raytransfer.nets.network import Weights, layers_sha256, transplant, untrained_weights
from raytransfer.nets.weights import from_bytes, to_bytes
from raytransfer.results.store import StudyFolder
from raytransfer.study.plan import Cohort
from raytransfer.study.recipe import Recipe
from raytransfer.study.treatment import UNTRAINED, Treatment
from raytransfer.train.cohort import CohortTrainer, Sums
from raytransfer.train.stack import Member

PROGRESS_SECONDS = 1.0
"""How often the first worker says how far it is."""

IN_FLIGHT = 2
"""Batches that may be on their way to a GPU."""

BEST = 10
"""The paper's statistic of a run is the mean of so many highest validations (its logs)."""


@dataclass(frozen=True)
class CohortJob:
    """A cohort, what it reads, and the classes of the split's tasks."""

    cohort: Cohort
    stream: StreamPlan
    tasks: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class TrialJob:
    """All that a worker needs to train a trial's cohorts in turn."""

    id: str
    study: str
    """Root of the study folder."""
    recipe: Recipe
    stages: tuple[tuple[tuple[CohortJob, ...], ...], ...]
    """Stages in turn; in each, lanes side by side; in each, cohorts in turn."""
    workers: int
    """Processes of a lane; each takes its share of every batch."""
    threads: int
    """Threads of a training process."""
    gpu: bool
    deterministic: bool
    decoding: Decoding = IN_TRAINING

    def __post_init__(self) -> None:
        if self.lanes > 1 and self.workers > 1:
            raise ValueError("Lanes of several workers would mix their gradients.")

    @property
    def lanes(self) -> int:
        """Lanes of the widest stage."""
        return max(len(stage) for stage in self.stages)

    @property
    def left(self) -> bool:
        """Whether there is anything to train."""
        return any(lane for stage in self.stages for lane in stage)

    def cohorts(self, lane: int) -> list[list[CohortJob]]:
        """What a lane trains, by stage."""
        return [list(stage[lane]) if lane < len(stage) else [] for stage in self.stages]


@dataclass
class Course:
    """A network on its way: its lines so far, and why it ended before its time."""

    treatment: Treatment
    initial_frozen: str
    """Hash of its frozen layers before training."""
    parent_sha256: str | None
    rows: list[dict[str, Any]] = field(default_factory=list)
    reason: str | None = None


def train_trial(
    job: TrialJob, feed: Iterator[MicroBatch], device: torch.device, lane: int, rank: int
) -> None:
    """Train a lane's cohorts, stage by stage. The lane's worker of rank 0 writes to the study.

    feed: the micro-batches of this worker for all its cohorts, one after the other.
    """
    torch.use_deterministic_algorithms(job.deterministic)
    folder = StudyFolder(job.study)
    for stage in job.cohorts(lane):
        for cohort_job in stage:
            writer = Writer(folder, job, lane, cohort_job.cohort) if rank == 0 else None
            train_cohort(job, cohort_job, folder, feed, device, writer)
        if torch.distributed.is_initialized():
            # The next stage copies from networks that other lanes have trained.
            torch.distributed.barrier()


def train_cohort(
    job: TrialJob,
    cohort_job: CohortJob,
    folder: StudyFolder,
    feed: Iterator[MicroBatch],
    device: torch.device,
    writer: "Writer | None",
) -> None:
    """Train one cohort to its end and write its rows and weights."""
    recipe, stream = job.recipe, cohort_job.stream
    treatments = [t for t in cohort_job.cohort.treatments if not orphaned(t, folder, writer)]
    if not treatments:
        next(batch for batch in feed if ends(batch, stream))
        return
    trainer, courses = build(job, cohort_job, treatments, folder, device)
    started = time.perf_counter()
    for batch, (images, labels, positions) in on_device(feed, device):
        if batch.phase == "train":
            draws = uniforms(recipe.seed, "crop", batch.positions, 3)
            trainer.step(batch.step, images, labels, positions, torch.from_numpy(draws).to(device))
            if writer is not None:
                writer.tell(batch.step + 1)
            continue
        trainer.validate(images, labels)
        if not batch.last:
            continue
        trained, validated = trainer.take_sums()
        seconds = time.perf_counter() - started
        for place, member in enumerate(trainer.members):
            course = courses[member.treatment]
            add_row(course, batch, trained, validated, place, recipe, len(stream.classes))
            if writer is not None:
                folder.write_rows(course.treatment, course.rows)
        if ends(batch, stream):
            if writer is not None:
                writer.finish(courses, trainer.weights(), seconds / len(courses))
            return


def ends(batch: MicroBatch, stream: StreamPlan) -> bool:
    """Whether a cohort's stream ends with this micro-batch: with the last of its validations."""
    return batch.last and batch.step == stream.steps


def on_device(
    feed: Iterator[MicroBatch], device: torch.device
) -> Iterator[tuple[MicroBatch, list[Tensor]]]:
    """Batches with their images, labels and positions on the device, without a copy on a CPU."""
    # From pinned memory a GPU copies by itself; until it has, the batch is held.
    held: deque[tuple[MicroBatch, torch.cuda.Event]] = deque()
    for batch in feed:
        arrays = (batch.images, batch.labels, batch.positions)
        tensors = [torch.from_numpy(array).to(device, non_blocking=True) for array in arrays]
        if device.type == "cuda":
            held.append((batch, torch.cuda.current_stream(device).record_event()))
            if len(held) > IN_FLIGHT:
                held.popleft()[1].synchronize()
        yield batch, tensors


def pinned(size: int) -> NDArray[np.uint8]:
    """Memory of a batch from which a GPU copies by itself."""
    memory: NDArray[np.uint8] = torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()
    return memory


def orphaned(treatment: Treatment, folder: StudyFolder, writer: "Writer | None") -> bool:
    """Whether a network's parent failed; then the network fails, too, with that reason."""
    parent = treatment.parent
    done = folder.done(parent) if parent is not None else None
    if done is None or done["state"] == "finished":
        return False
    if writer is not None:
        reason = f"{parent} failed, which it copies from"
        folder.finish(treatment, {"state": "failed", "reason": reason}, weights=None)
    return True


def build(
    job: TrialJob,
    cohort_job: CohortJob,
    treatments: Sequence[Treatment],
    folder: StudyFolder,
    device: torch.device,
) -> tuple[CohortTrainer, dict[Treatment, Course]]:
    """The cohort's networks before training, with their courses."""
    stream = cohort_job.stream
    arch = architecture(job.recipe.network, len(stream.classes))
    channels = stream.shape[0]
    members, courses = [], {}
    prefixes: dict[str, Weights] = {}
    for treatment in treatments:
        name, weights, sha256 = _source(treatment, folder, arch, channels, prefixes)
        if weights is not None:
            prefixes[name] = weights
        own = transplant(treatment, arch, channels, weights)
        mean = treatment.source if treatment.source in ("A", "B") else treatment.target
        members.append(Member(treatment, own, name, mean or treatment.target))
        frozen = layers_sha256(own, treatment.frozen_layers)
        courses[treatment] = Course(treatment, frozen, sha256)
    manifest = read_manifest(stream.shards)
    means = {
        task: torch.from_numpy(mean_image(manifest, classes, *stream.shape[1:]))
        for task, classes in cohort_job.tasks.items()
    }
    trainer = CohortTrainer(
        arch,
        members,
        prefixes,
        means,
        job.recipe,
        device=device,
        deterministic=job.deterministic,
        data_parallel=job.workers > 1,
    )
    return trainer, courses


def _source(
    treatment: Treatment,
    folder: StudyFolder,
    arch: Architecture,
    channels: int,
    known: Mapping[str, Weights],
) -> tuple[str, Weights | None, str | None]:
    """Name, weights and sha256 of what a treatment copies from; nothing for a base."""
    if treatment.source == UNTRAINED:
        name = f"{treatment.split}.untrained.s{treatment.seed}"
        return name, known.get(name) or untrained_weights(treatment, arch, channels), None
    parent = treatment.parent
    if parent is None:
        return "", None, None
    done = folder.done(parent)
    if done is None:
        raise RuntimeError(f"{treatment.id} copies from {parent.id}, which is not finished.")
    sha256: str = done["weights_sha256"]
    if parent.id in known:
        return parent.id, known[parent.id], sha256
    return parent.id, from_bytes(folder.weights(parent), sha256, parent.id), sha256


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
    """Writes for the trial: progress now and then, networks when they are over."""

    def __init__(self, folder: StudyFolder, job: TrialJob, lane: int, cohort: Cohort) -> None:
        self._folder = folder
        self._job = job
        self._name = f"{job.id}-{lane}"
        self._cohort = cohort
        self._told = 0.0

    def tell(self, step: int) -> None:
        """Say how far the trial is, if it is a while since it was said."""
        if time.monotonic() - self._told < PROGRESS_SECONDS:
            return
        self._told = time.monotonic()
        self._folder.write_progress(
            self._name,
            {
                "networks": [treatment.id for treatment in self._cohort.treatments],
                "step": step,
                "steps": self._job.recipe.steps,
            },
        )

    def finish(
        self, courses: Mapping[Treatment, Course], weights: Mapping[str, Weights], seconds: float
    ) -> None:
        """Write every network's end: final weights and row, or the reason of its failure."""
        recipe = self._job.recipe
        for treatment, course in courses.items():
            own = weights[treatment.id]
            if layers_sha256(own, treatment.frozen_layers) != course.initial_frozen:
                course.reason = "its frozen layers changed in training"
            if course.reason is not None:
                self._folder.finish(
                    treatment, {"state": "failed", "reason": course.reason}, weights=None
                )
                continue
            content, sha256 = to_bytes(own)
            last = course.rows[-1]
            images = recipe.steps * recipe.batch
            best = sorted((row["top1"] for row in course.rows), reverse=True)[:BEST]
            row = {
                "state": "finished",
                "top1": last["top1"],
                "top5": last["top5"],
                "top1_best10": sum(best) / BEST if len(best) == BEST else None,
                "loss": last["loss"],
                "train_loss": last["train_loss"],
                "steps": recipe.steps,
                "images": images,
                "seconds": seconds,
                "images_per_second": images / seconds,
                "weights_sha256": sha256,
                "frozen_sha256": course.initial_frozen if treatment.frozen_layers else None,
                "parent_sha256": course.parent_sha256,
            }
            self._folder.finish(treatment, row, content)
