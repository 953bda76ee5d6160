"""The training of a trial's cohorts, in each of its workers."""

import os
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raytransfer.data.manifest import mean_image, read_manifest
from raytransfer.data.order import uniforms
from raytransfer.data.plan import StreamPlan
from raytransfer.data.reader import MicroBatch
from raytransfer.errors import UserError
from raytransfer.nets.architecture import Architecture, architecture
from raytransfer.nets.network import (
    Weights,
    layers_sha256,
    moved,
    transplant,
    untrained_weights,
)
from raytransfer.nets.weights import from_bytes
from raytransfer.results.store import StudyFolder
from raytransfer.study.treatment import UNTRAINED, Treatment
from raytransfer.train.cohort import CohortTrainer
from raytransfer.train.control import Control
from raytransfer.train.job import CohortJob, TrialJob
from raytransfer.train.patience import patiently
from raytransfer.train.stack import Member
from raytransfer.train.writer import GO_ON, STOP, Course, Writer, add_row

ASKED_EVERY = 10
"""Steps after which several workers of a lane agree on what to do."""

IN_FLIGHT = 2
"""Batches that may be on their way to a GPU."""


def train_trial(
    job: TrialJob, feed: Iterator[MicroBatch], device: torch.device, lane: int, rank: int
) -> None:
    """Train a lane's cohorts, stage by stage. The lane's worker of rank 0 writes to the study.

    feed: the micro-batches of this worker for all its cohorts, one after the other. Returns early,
    with a checkpoint, when the study is told to stop. Raises LeaseLostError when another driver has
    taken it over.
    """
    if job.deterministic:
        # cuBLAS asks for it, and reads it at its first use.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(job.deterministic)
    folder = StudyFolder(job.study)
    going_on = True
    with ExitStack() as until_the_end:
        control = None
        if rank == 0:
            control = Control(folder, job.id, lane, job.lease, job.recipe.steps)
            feed = until_the_end.enter_context(control).attended(feed)
        for stage in job.cohorts(lane):
            for cohort_job in stage:
                if going_on:
                    writer = Writer(folder, job, cohort_job, control) if control else None
                    going_on = train_cohort(job, cohort_job, folder, feed, device, writer)
            if torch.distributed.is_initialized():
                # The next stage copies from networks that other lanes have trained.
                torch.distributed.barrier()
                going_on = _agreed(going_on, device)


def _agreed(going_on: bool, device: torch.device) -> bool:
    """Whether all lanes go on: where one was told to stop, its networks are missing."""
    told = torch.tensor([int(going_on)], device=device)
    torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MIN)
    return bool(told.item())


def train_cohort(
    job: TrialJob,
    cohort_job: CohortJob,
    folder: StudyFolder,
    feed: Iterator[MicroBatch],
    device: torch.device,
    writer: Writer | None,
) -> bool:
    """Train one cohort to its end and write its rows and weights; False if it was told to stop."""
    recipe, stream = job.recipe, cohort_job.stream
    if writer is not None:
        writer.begin()
    trainer, courses = build(job, cohort_job, folder, device, writer)
    if trainer is None:
        next(batch for batch in feed if ends(batch, stream))
        return True
    before = cohort_job.checkpoint.seconds if cohort_job.checkpoint is not None else 0.0
    started = time.perf_counter() - before
    for batch, (images, labels, positions) in on_device(feed, device):
        if batch.phase == "train":
            draws = uniforms(recipe.seed, "crop", batch.positions, 3)
            trainer.step(batch.step, images, labels, positions, torch.from_numpy(draws).to(device))
            done = batch.step + 1
            if writer is not None:
                writer.at(done)
            if done % recipe.validate_every == 0 or done == recipe.steps:
                continue  # to its validation, which belongs to the step
        else:
            trainer.validate(images, labels)
            if not batch.last:
                continue
            done = batch.step
            trained, validated = trainer.take_sums()
            for place, member in enumerate(trainer.members):
                course = courses[member.treatment]
                add_row(course, batch, trained, validated, place, recipe, len(stream.classes))
            if writer is not None:
                writer.write_rows(courses)
        seconds = time.perf_counter() - started
        if done == recipe.steps:
            if writer is not None:
                weights = trainer.weights()
                moves = _moves(job, cohort_job, folder, weights)
                writer.finish(courses, weights, moves, seconds / len(courses))
            return True
        order = _order(writer, done, batch.last, job, device)
        if order != GO_ON:
            state = trainer.state()
            if writer is not None:
                writer.save(courses, done, seconds, state)
        if order == STOP:
            return False
    raise RuntimeError("The stream ended before its last step.")


def _order(
    writer: Writer | None, done: int, validated: bool, job: TrialJob, device: torch.device
) -> int:
    """What all workers of a lane do after a step: the first one says, and the others hear it."""
    if job.workers == 1:
        assert writer is not None
        return writer.order(done)
    if done % ASKED_EVERY and not validated:
        return GO_ON
    told = torch.tensor([writer.order(done) if writer is not None else GO_ON], device=device)
    torch.distributed.broadcast(told, 0)
    return int(told.item())


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


def build(
    job: TrialJob,
    cohort_job: CohortJob,
    folder: StudyFolder,
    device: torch.device,
    writer: Writer | None,
) -> tuple[CohortTrainer | None, dict[Treatment, Course]]:
    """The cohort's networks before training, or as their checkpoint has them, with their courses.

    A network that cannot be built fails by itself, with its reason; None where none is left.
    """
    stream, checkpoint = cohort_job.stream, cohort_job.checkpoint
    arch = architecture(job.recipe.network, len(stream.classes))
    channels = stream.shape[0]
    members, courses = [], {}
    prefixes: dict[str, Weights] = {}
    for treatment in cohort_job.cohort.treatments:
        try:
            name, weights, sha256 = _source(treatment, folder, arch, channels, prefixes)
            own = transplant(treatment, arch, channels, weights)
        except UserError as error:
            if writer is not None:
                writer.fail(treatment, str(error).rstrip("."))
            continue
        if weights is not None:
            prefixes[name] = weights
        mean = treatment.source if treatment.source in ("A", "B") else treatment.target
        members.append(Member(treatment, own, name, mean or treatment.target))
        frozen = layers_sha256(own, treatment.frozen_layers)
        courses[treatment] = Course(treatment, frozen, sha256)
    if not members:
        return None, courses
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
    if checkpoint is not None:
        trainer.restore(checkpoint.state(folder, courses))
        for treatment, course in courses.items():
            saved = checkpoint.networks[treatment.id]
            course.rows, course.reason = list(saved.rows), saved.reason
    return trainer, courses


def _moves(
    job: TrialJob, cohort_job: CohortJob, folder: StudyFolder, weights: Mapping[str, Weights]
) -> dict[Treatment, list[float]]:
    """How far each layer of each network went in training. Its start is made again for that: to
    keep all of them would double the memory."""
    stream = cohort_job.stream
    arch = architecture(job.recipe.network, len(stream.classes))
    channels = stream.shape[0]
    known: dict[str, Weights] = {}
    moves = {}
    for treatment in cohort_job.cohort.treatments:
        if treatment.id in weights:
            name, parent, _ = patiently(_source, treatment, folder, arch, channels, known)
            if parent is not None:
                known = {name: parent}
            start = transplant(treatment, arch, channels, parent)
            moves[treatment] = moved(start, weights[treatment.id], len(arch.layers))
    return moves


def _source(
    treatment: Treatment,
    folder: StudyFolder,
    arch: Architecture,
    channels: int,
    known: Mapping[str, Weights],
) -> tuple[str, Weights | None, str | None]:
    """Name, weights and sha256 of what a treatment copies from; nothing for a base.

    Raises UserError when its parent failed, or the parent's weights are not what they were.
    """
    if treatment.source == UNTRAINED:
        name = f"{treatment.split}.untrained.s{treatment.seed}"
        return name, known.get(name) or untrained_weights(treatment, arch, channels), None
    parent = treatment.parent
    if parent is None:
        return "", None, None
    done = folder.done(parent)
    if done is None:
        raise RuntimeError(f"{treatment.id} copies from {parent.id}, which is not finished.")
    if done["state"] != "finished":
        raise UserError(f"{parent} failed, which it copies from")
    sha256: str = done["weights_sha256"]
    if parent.id in known:
        return parent.id, known[parent.id], sha256
    what, content = f"The weights of {parent}, which it copies from,", folder.weights(parent)
    if content is None:
        raise UserError(
            f"{what} are missing: remove networks/{parent} and networks/{treatment} to train both "
            "anew"
        )
    return parent.id, from_bytes(content, sha256, what), sha256
