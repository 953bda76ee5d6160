"""One trial, tried until it is over: each try is a run of Ray Train over what is left by then."""

import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from raytransfer.data.decoding import IN_TRAINING, Decoding
from raytransfer.data.plan import plan_stream
from raytransfer.lease import Lease, LeaseLostError
from raytransfer.results.store import StudyFolder
from raytransfer.schedule.cluster import Layout
from raytransfer.schedule.meanwhile import Unchanged, meanwhile
from raytransfer.study.plan import Cohort, Lane, Trial
from raytransfer.study.recipe import Recipe
from raytransfer.study.split import Split
from raytransfer.study.treatment import Treatment
from raytransfer.train.checkpoint import Checkpoint, checkpoints, latest
from raytransfer.train.control import READING
from raytransfer.train.interval import NEVER, Interval
from raytransfer.train.job import CohortJob, TrialJob
from raytransfer.train.patience import patiently
from raytransfer.train.workers import fit

TRIES = 3
"""Times in a row that a trial may fail without a network finished or a checkpoint written."""

STUCK_SECONDS = 600.0
"""Without a batch for so long, a trial is taken for stuck."""

ANSWERS_SECONDS = 10.0
"""A training process says how far it is every second or two."""

LOOKS = 20
"""At a trial's progress, in that time."""


@dataclass(frozen=True)
class StudyJob:
    """What is the same for every trial of a study."""

    study: str
    shards: str
    recipe: Recipe
    splits: dict[str, Split]
    layout: Layout
    deterministic: bool
    lease: str
    """Name of the driver's claim on the study."""
    decoding: Decoding = IN_TRAINING
    every: Interval = NEVER
    """From one checkpoint to the next."""
    stuck_seconds: float = STUCK_SECONDS


def run_to_its_end(trial: Trial, study: StudyJob) -> str | None:
    """Train all that is left of a trial, with as many tries as bring it on. A sentence why it could
    not be brought to its end; None where it was, or where the study is told to stop."""
    folder = StudyFolder(study.study)
    lease = Lease(folder, study.lease)
    most: int | None = None
    cause = ""
    while True:
        try:
            patiently(lease.check)
        except LeaseLostError as error:
            return f"Stopped: {error}."
        if patiently(lease.stopping):
            return None
        job = patiently(trial_job, trial, study, most)
        if not job.left:
            return None
        if patiently(_tries, folder, job, study) > TRIES:
            return (
                f"A trial of {folder} failed {TRIES} times without getting on, at last: "
                f"{cause or 'its process was lost'}."
            )
        try:
            with _watched(folder, job, study.stuck_seconds):
                fit(job)
        except Exception as error:  # whatever happened to its processes, it is tried again
            cause = innermost(error)
            if _out_of_memory(error) and job.largest > 1:
                most = -(-job.largest // 2)
                folder.tell(
                    f"Memory was not enough for {job.largest} networks at a time: going on with "
                    f"{most}."
                )
            else:
                folder.tell(f"A trial was lost ({cause}): going on from what was saved.")


def trial_job(trial: Trial, study: StudyJob, most: int | None = None) -> TrialJob:
    """What is left to train of a trial: finished and failed networks are left out, and others go on
    from their checkpoints. most: networks that train together; None for as many as are planned."""
    folder = StudyFolder(study.study)
    known = checkpoints(folder)

    def lane_jobs(lane: Lane) -> Iterator[CohortJob]:
        for cohort in lane:
            left = [t for t in cohort.treatments if not folder.done(t)]
            for checkpoint, group in latest(folder, left, known):
                size = most or len(group)
                for i in range(0, len(group), size):
                    yield cohort_job(group[i : i + size], study, checkpoint)

    return TrialJob(
        id=trial.id,
        study=study.study,
        recipe=study.recipe,
        stages=tuple(tuple(tuple(lane_jobs(lane)) for lane in stage) for stage in trial.stages),
        workers=study.layout.workers,
        threads=study.layout.threads,
        gpu=study.layout.device == "cuda",
        deterministic=study.deterministic,
        decoding=study.decoding,
        every=study.every,
        lease=study.lease,
    )


def cohort_job(
    treatments: Sequence[Treatment], study: StudyJob, checkpoint: Checkpoint | None = None
) -> CohortJob:
    """A cohort with the stream of its target's images, from the step of its checkpoint on."""
    cohort = Cohort(tuple(treatments))
    split, recipe = study.splits[cohort.split], study.recipe
    stream = plan_stream(
        study.shards,
        split.classes(cohort.target),
        seed=recipe.seed,
        batch=recipe.batch,
        steps=recipe.steps,
        validate_every=recipe.validate_every,
        workers=study.layout.workers,
        start_step=checkpoint.step if checkpoint is not None else 0,
        per_class=split.images_per_class,
    )
    tasks = {target: split.classes(target) for target in ("A", "B", "AB")}
    if checkpoint is not None:
        wanted = {treatment.id for treatment in treatments}
        networks = {id: saved for id, saved in checkpoint.networks.items() if id in wanted}
        checkpoint = replace(checkpoint, networks=networks)
    return CohortJob(cohort, stream, tasks, checkpoint)


def _tries(folder: StudyFolder, job: TrialJob, study: StudyJob) -> int:
    """How many times in a row, this one included, the trial begins at the same place. Kept in the
    study, as this process may be lost with the others."""
    cohorts = [
        cohort for lane in range(job.lanes) for stage in job.cohorts(lane) for cohort in stage
    ]
    place = [
        study.lease,
        job.largest,
        sum(len(cohort.cohort.treatments) for cohort in cohorts),
        sum(cohort.stream.start_step for cohort in cohorts),
    ]
    name = f"trials/{job.id}/tries.json"
    said = folder.read_json(name)
    tries = 1
    if isinstance(said, dict) and said.get("place") == place:
        tries += int(said["tries"])
    folder.write_json(name, {"place": place, "tries": tries})
    return tries


@contextmanager
def _watched(folder: StudyFolder, job: TrialJob, stuck_seconds: float) -> Iterator[None]:
    """While the block runs, see to it that batches come. Where none does, end this process, and all
    that it has started: Tune starts it again."""
    began, progress = time.time(), Unchanged()

    def look() -> None:
        lanes = [folder.lane_progress(job.id, lane) for lane in range(job.lanes)]
        said = [lane for lane in lanes if lane is not None and lane["time"] > began]
        now = [(lane["networks"], lane["step"], lane["batches"]) for lane in said]
        if progress.seconds(now) > stuck_seconds:
            folder.tell(
                f"A trial was stuck for {stuck_seconds:.0f} seconds, and is started again: "
                f"{_why(said)}"
            )
            os.kill(os.getpid(), signal.SIGKILL)

    with meanwhile(look, stuck_seconds / LOOKS):
        yield


def _why(said: Sequence[dict[str, Any]]) -> str:
    """What a trial that is stuck last said."""
    if not said:
        return "its processes have not begun; are there cores or GPUs free for them?"
    if time.time() - min(lane["time"] for lane in said) > ANSWERS_SECONDS:
        return "a training process does not answer."
    if all(lane["doing"] == READING for lane in said):
        return "no images came; are there cores free to read them, and can the shards be reached?"
    return "a step of training did not end."


def _out_of_memory(error: BaseException) -> bool:
    """Whether a GPU's memory was not enough, or Ray killed a process as the machine's was not."""
    # Of any process that is lost, Ray says that the kernel's "OOM killer" might have been at work.
    told = "".join(f"{type(cause).__name__} {cause}" for cause in _causes(error))
    return any(sign in told for sign in ("OutOfMemoryError", "out of memory"))


def innermost(error: BaseException) -> str:
    """The innermost cause of an error of Ray's, in one line."""
    from ray.exceptions import RayActorError

    cause = list(_causes(error))[-1]
    if isinstance(cause, RayActorError):
        return "a process was lost"
    # Ray Data adds how often it has tried, and what to set to have it try more.
    said = re.split(r"\n?Failed to .* after \d+/\d+ attempts \(total backoff", str(cause))[0]
    lines = [line for line in said.splitlines() if line.strip()]
    return (lines[-1].strip() if lines else type(cause).__name__).rstrip(".")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it was raised from, of Ray Train's workers too."""
    cause: object = error
    while isinstance(cause, BaseException):
        yield cause
        failures = getattr(cause, "worker_failures", None)
        inner = next(iter(failures.values()), None) if isinstance(failures, dict) else None
        for name in ("health_check_failure", "cause", "__cause__"):
            inner = inner or getattr(cause, name, None)
        cause = inner
