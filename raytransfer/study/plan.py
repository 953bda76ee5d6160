"""The plan: treatments sorted into stages, cohorts and trials."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from raytransfer.study.space import with_parents
from raytransfer.study.treatment import Treatment


@dataclass(frozen=True)
class Cohort:
    """Networks trained together over one pass of the same target's images."""

    treatments: tuple[Treatment, ...]

    @property
    def split(self) -> str:
        return self.treatments[0].split

    @property
    def target(self) -> str:
        return self.treatments[0].target

    @property
    def id(self) -> str:
        """A name of the members alone: no time and no random part."""
        members = "\n".join(treatment.id for treatment in self.treatments)
        digest = hashlib.sha256(members.encode()).hexdigest()[:12]
        return f"{self.split}.{self.target}.{digest}"


@dataclass(frozen=True)
class Trial:
    """Cohorts that one Ray Tune trial trains in turn."""

    cohorts: tuple[Cohort, ...]

    @property
    def treatments(self) -> tuple[Treatment, ...]:
        return tuple(treatment for cohort in self.cohorts for treatment in cohort.treatments)

    @property
    def id(self) -> str:
        """A name of the cohorts alone: no time and no random part."""
        members = "\n".join(cohort.id for cohort in self.cohorts)
        return hashlib.sha256(members.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Plan:
    """What would run: stages of cohorts, packed into waves of trials.

    Trials of one wave may run at the same time; each wave waits for the one before.
    """

    stages: tuple[tuple[Cohort, ...], ...]
    waves: tuple[tuple[Trial, ...], ...]

    @property
    def treatments(self) -> tuple[Treatment, ...]:
        return tuple(t for stage in self.stages for cohort in stage for t in cohort.treatments)

    @property
    def passes(self) -> int:
        """How often the images of a task are streamed for all steps of a recipe."""
        return sum(len(stage) for stage in self.stages)


def make_plan(
    treatments: Iterable[Treatment],
    *,
    networks_per_trial: int | None,
    networks_per_cohort: int | None = None,
    trials_at_once: int = 1,
) -> Plan:
    """Stages (bases, then those that copy from them), cohorts by target, trials.

    networks_per_trial: at most so many networks in one trial, trained in one cohort a target; None
        packs as few trials as keep `trials_at_once` busy.
    networks_per_cohort: at most so many networks in memory at the same time; None for no limit.
    """
    stages = tuple(
        _cohorts(stage, _least(networks_per_trial, networks_per_cohort))
        for stage in _stages(with_parents(treatments))
    )
    if networks_per_trial is None and trials_at_once == 1:
        # A trial costs seconds to start: alone on the machine, one may as well run everything.
        in_turn = tuple(cohort for stage in stages for cohort in stage)
        return Plan(stages, ((Trial(in_turn),),))
    if networks_per_trial is None:
        return Plan(stages, tuple(_spread(stage, trials_at_once) for stage in stages))
    return Plan(stages, tuple(_pack(stage, networks_per_trial) for stage in stages))


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _stages(treatments: tuple[Treatment, ...]) -> list[list[Treatment]]:
    bases = [treatment for treatment in treatments if treatment.kind == "base"]
    others = [treatment for treatment in treatments if treatment.kind != "base"]
    return [stage for stage in (bases, others) if stage]


def _cohorts(stage: list[Treatment], limit: int | None) -> tuple[Cohort, ...]:
    by_target: dict[tuple[str, str], list[Treatment]] = defaultdict(list)
    for treatment in stage:
        by_target[treatment.split, treatment.target].append(treatment)
    cohorts = []
    for members in by_target.values():
        size = limit or len(members)
        # Networks that share a frozen prefix stay together.
        members.sort(key=lambda treatment: (treatment.source or "", treatment.seed, treatment))
        cohorts += [
            Cohort(tuple(members[start : start + size])) for start in range(0, len(members), size)
        ]
    return tuple(cohorts)


def _spread(stage: tuple[Cohort, ...], slots: int) -> tuple[Trial, ...]:
    """The cohorts dealt to `slots` trials, the largest first to the emptiest."""
    trials: list[list[Cohort]] = [[] for _ in range(min(slots, len(stage)))]
    for cohort in sorted(stage, key=lambda cohort: -len(cohort.treatments)):
        min(trials, key=lambda trial: sum(len(c.treatments) for c in trial)).append(cohort)
    return tuple(Trial(tuple(cohorts)) for cohorts in trials)


def _pack(stage: tuple[Cohort, ...], limit: int) -> tuple[Trial, ...]:
    """The cohorts, in order, in trials of at most `limit` networks."""
    trials: list[list[Cohort]] = []
    room = 0
    for cohort in stage:
        if len(cohort.treatments) > room:
            trials.append([])
            room = limit
        trials[-1].append(cohort)
        room -= len(cohort.treatments)
    return tuple(Trial(tuple(cohorts)) for cohorts in trials)
