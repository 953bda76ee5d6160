"""The progress of a running study: what trains now, how far it is, how long it still takes."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from raytransfer.results.store import StudyFolder
from raytransfer.schedule.cost import cohort_multiply_adds
from raytransfer.schedule.trials import StudyJob
from raytransfer.study.plan import Plan

LOOK_SECONDS = 0.5


class Watch:
    """Reads from the study folder how much of the work is done.

    Work is counted in multiply-adds, so that a cohort of thirty networks counts as more than a base.
    """

    def __init__(self, folder: StudyFolder, plan: Plan, job: StudyJob, channels: int) -> None:
        self._folder = folder
        self._job = job
        self._cohorts = [cohort for stage in plan.stages for cohort in stage]
        self._work = {
            cohort: cohort_multiply_adds(cohort, job.recipe, job.splits, channels)
            for cohort in self._cohorts
        }
        self.networks = len(plan.treatments)
        self.finished = 0
        self.running: list[str] = []

    def done(self) -> float:
        """Share of the study's work that is done, 0 to 1."""
        work = 0.0
        over = {t for t in self._all() if self._folder.done(t) is not None}
        steps = {network: said["step"] for said in self._folder.progress() for network in said["networks"]}
        self.finished, self.running = len(over), []
        for cohort, cost in self._work.items():
            left = [t for t in cohort.treatments if t not in over]
            step = max((steps.get(t.id, 0) for t in left), default=0)
            if left and step:
                self.running.append(_names(cohort.split, [t.label for t in left]))
            share = 1 - len(left) / len(cohort.treatments) * (1 - step / self._job.recipe.steps)
            work += cost * share
        return work / sum(self._work.values())

    def _all(self):
        return (t for cohort in self._cohorts for t in cohort.treatments)


def _names(split: str, labels: list[str]) -> str:
    shown = " ".join(labels[:4])
    return f"{split} {shown}" + (f" and {len(labels) - 4} more" if len(labels) > 4 else "")
