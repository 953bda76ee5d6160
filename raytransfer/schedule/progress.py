"""The progress of a running study: what trains now, how far it is, how long it still takes."""

import time
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from raytransfer.errors import UserError
from raytransfer.results.pace import Pace
from raytransfer.results.store import EVENTS, StudyFolder
from raytransfer.schedule.attempts import StudyJob
from raytransfer.schedule.cost import relative_costs
from raytransfer.schedule.meanwhile import Unchanged, meanwhile
from raytransfer.study.plan import Plan
from raytransfer.study.treatment import Treatment

LOOK_SECONDS = 1.0
SAY_SECONDS = 15.0

QUIET_SECONDS = 30.0
"""Without a step after which that is said: a trial begins again, or its store is full or away."""


class Watch:
    """Reads from the study folder how much of the work is done.

    Work is counted in multiply-adds, so that a cohort of thirty counts for more than a base.
    """

    def __init__(
        self,
        folder: StudyFolder,
        plan: Plan,
        job: StudyJob,
        channels: int,
        over: Set[Treatment],
    ) -> None:
        """over: networks that have ended already."""
        self._folder = folder
        self._job = job
        self._cohorts = [cohort for stage in plan.stages for cohort in stage]
        self._work = {
            cohort: sum(relative_costs(cohort.treatments, job.recipe, job.splits, channels))
            for cohort in self._cohorts
        }
        self.networks = len(plan.treatments)
        self._over = set(over)
        self._seen: set[str] = set()
        self.running: list[str] = []
        self._event = max(folder.names(EVENTS), default="")

    @property
    def finished(self) -> int:
        return len(self._over)

    def news(self) -> list[str]:
        """What happened since this was last asked, a sentence each."""
        found = list(self._folder.events(after=self._event))
        self._event = max((name for name, _ in found), default=self._event)
        return [sentence for _, sentence in found]

    def done(self, look_everywhere: bool = False) -> float:
        """Share of the study's work that is done, 0 to 1. look_everywhere: also at networks that
        have not been seen in training."""
        work = 0.0
        steps = {
            network: said["step"]
            for said in self._folder.progress()
            for network in said["networks"]
        }
        # Only those that have been seen in training can have ended since.
        self._over |= {
            t
            for cohort in self._cohorts
            for t in cohort.treatments
            if (look_everywhere or t.id in self._seen) and t not in self._over
            if self._folder.done(t) is not None
        }
        self._seen |= steps.keys()
        over = self._over
        self.running = []
        for cohort, cost in self._work.items():
            left = [t for t in cohort.treatments if t not in over]
            step = max((steps.get(t.id, 0) for t in left), default=0)
            if left and step:
                self.running.append(_names(cohort.split, [t.label for t in left]))
            share = 1 - len(left) / len(cohort.treatments) * (1 - step / self._job.recipe.steps)
            work += cost * share
        return work / sum(self._work.values())


def _names(split: str, labels: list[str]) -> str:
    shown = " ".join(labels[:4])
    return f"{split} {shown}" + (f" and {len(labels) - 4} more" if len(labels) > 4 else "")


@contextmanager
def display(watch: Watch, show: bool) -> Iterator[None]:
    """A bar for as long as the block runs; where there is no terminal, a line now and then."""
    if not show:
        yield
        return
    console = Console(stderr=True)
    progress = Progress(
        TextColumn("{task.fields[networks]}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", style="dim"),
        TextColumn("{task.fields[running]}", style="dim"),
        console=console,
        disable=not console.is_terminal,
    )
    task = progress.add_task("", total=1.0, networks="", left="starting Ray", running="")
    pace = Pace()
    said_at = share = 0.0
    standing = Unchanged()

    def tell() -> None:
        for sentence in watch.news():
            console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    def look() -> None:
        nonlocal said_at, share
        with suppress(OSError, UserError):  # of a store that is away
            share = watch.done()
            tell()
        networks = f"{watch.finished} of {watch.networks} networks"
        running = "; ".join(watch.running)
        left = pace.left(share) or "starting Ray"
        if (quiet := standing.seconds(share)) > QUIET_SECONDS and share:
            left += f", no step for {quiet:.0f} s"
        progress.update(task, completed=share, networks=networks, left=left, running=running)
        if not console.is_terminal and time.monotonic() - said_at > SAY_SECONDS:
            said_at = time.monotonic()
            console.print(f"{networks}, {100 * share:.0f} %, {left} {running}")

    with progress:
        try:
            with meanwhile(look, LOOK_SECONDS):
                yield
        finally:
            with suppress(OSError, UserError):
                share = watch.done(look_everywhere=True)
                tell()
                networks = f"{watch.finished} of {watch.networks} networks"
                progress.update(task, completed=share, networks=networks, left="", running="")
