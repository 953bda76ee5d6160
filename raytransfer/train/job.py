"""What a trial's workers are to do; travels to them."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from raytransfer.data.decoding import IN_TRAINING, Decoding
from raytransfer.data.plan import StreamPlan
from raytransfer.study.plan import Cohort
from raytransfer.study.recipe import Recipe
from raytransfer.train.checkpoint import Checkpoint
from raytransfer.train.interval import NEVER, Interval


@dataclass(frozen=True)
class CohortJob:
    """A cohort, what it reads, and the classes of the split's tasks."""

    cohort: Cohort
    stream: StreamPlan
    tasks: Mapping[str, tuple[int, ...]]
    checkpoint: Checkpoint | None = None
    """What it goes on from, at the stream's first step; None for the beginning."""


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
    every: Interval = NEVER
    """From one checkpoint to the next."""
    lease: str | None = None
    """Name of the driver's claim on the study; None where there is no driver."""

    def __post_init__(self) -> None:
        if self.lanes > 1 and self.workers > 1:
            raise ValueError("Lanes of several workers would mix their gradients.")

    @property
    def lanes(self) -> int:
        """Lanes of the widest stage."""
        return max(len(stage) for stage in self.stages)

    @property
    def mark(self) -> int:
        """Bytes, few, that each worker asks Ray for and those of no other trial do: Ray's table of
        placement groups does not tell whose they are, but what they ask for."""
        digest = hashlib.sha256(f"{self.study} {self.id}".encode()).digest()
        return 1 + int.from_bytes(digest[:3], "little")

    @property
    def left(self) -> bool:
        """Whether there is anything to train."""
        return any(lane for stage in self.stages for lane in stage)

    @property
    def largest(self) -> int:
        """Networks of the largest cohort."""
        sizes = (
            len(cohort.cohort.treatments)
            for stage in self.stages
            for lane in stage
            for cohort in lane
        )
        return max(sizes, default=0)

    def cohorts(self, lane: int) -> list[list[CohortJob]]:
        """What a lane trains, by stage."""
        return [list(stage[lane]) if lane < len(stage) else [] for stage in self.stages]
