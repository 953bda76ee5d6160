"""The plan: treatments sorted into stages, cohorts and trials."""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from raytransfer.study.space import with_parents
from raytransfer.study.treatment import Treatment

HALVINGS = 20
"""How closely the dearest of the lanes is known before no better cut is sought: a millionth."""


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


Lane = tuple[Cohort, ...]
"""Cohorts that one process, or one group of data-parallel processes, trains in turn."""


@dataclass(frozen=True)
class Trial:
    """What one Ray Tune trial trains: stages in turn, the lanes of a stage side by side."""

    stages: tuple[tuple[Lane, ...], ...]

    @property
    def cohorts(self) -> tuple[Cohort, ...]:
        return tuple(cohort for stage in self.stages for lane in stage for cohort in lane)

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
    fitting: Callable[[Sequence[Treatment]], int] = len,
    trials_at_once: int = 1,
    lanes: int = 1,
    costs: Callable[[Sequence[Treatment]], Sequence[float]] = lambda networks: (
        [1.0] * len(networks)
    ),
) -> Plan:
    """Stages (bases, then those that copy from them), cohorts by target, lanes and trials.

    networks_per_trial: at most so many networks in one trial; None for as few trials as keep
        `trials_at_once` and all `lanes` of each busy, with about the same cost each.
    fitting: how many of some networks of one target, from the first on, fit in memory together; one
        at least.
    lanes: processes of one trial that train different networks side by side.
    costs: of training networks side by side, what each adds to those before it; in any unit.
    """
    stages = [_in_order(stage) for stage in _stages(with_parents(treatments))]
    if networks_per_trial is not None:
        parts = [_by_count(stage, networks_per_trial) for stage in stages]
    else:
        parts = [_by_cost(stage, trials_at_once * lanes, costs) for stage in stages]
    cohorts = [[_cohorts(part, fitting) for part in stage] for stage in parts]
    by_stage = tuple(tuple(c for lane in stage for c in lane) for stage in cohorts)
    if networks_per_trial is None and trials_at_once == 1:
        # A trial costs seconds to start: alone on the machine, one may as well run everything.
        return Plan(by_stage, ((Trial(tuple(tuple(stage) for stage in cohorts)),),))
    width = 1 if networks_per_trial is not None else lanes
    waves = tuple(
        tuple(Trial((tuple(stage[i : i + width]),)) for i in range(0, len(stage), width))
        for stage in cohorts
    )
    return Plan(by_stage, waves)


def _stages(treatments: tuple[Treatment, ...]) -> list[list[Treatment]]:
    bases = [treatment for treatment in treatments if treatment.kind == "base"]
    others = [treatment for treatment in treatments if treatment.kind != "base"]
    return [stage for stage in (bases, others) if stage]


def _in_order(stage: list[Treatment]) -> list[Treatment]:
    """By target; within it, networks that share a frozen prefix side by side."""
    targets = list(dict.fromkeys((t.split, t.target) for t in stage))
    return sorted(
        stage, key=lambda t: (targets.index((t.split, t.target)), t.source or "", t.seed, t)
    )


def _by_count(stage: list[Treatment], limit: int) -> list[list[Treatment]]:
    """Runs of at most `limit` networks of one target, or of whole targets that fit together."""
    parts: list[list[Treatment]] = []
    for _, group in itertools.groupby(stage, key=lambda t: (t.split, t.target)):
        members = list(group)
        if parts and len(parts[-1]) + len(members) <= limit:
            parts[-1] += members
        else:
            parts += [members[i : i + limit] for i in range(0, len(members), limit)]
    return parts


def _by_cost(
    stage: list[Treatment], count: int, costs: Callable[[Sequence[Treatment]], Sequence[float]]
) -> list[list[Treatment]]:
    """At most `count` runs of neighbours, of which the dearest is as cheap as can be."""

    def runs(limit: float) -> list[list[Treatment]]:
        """Runs within the limit, from the first network on; one too many where it is too low."""
        parts: list[list[Treatment]] = []
        rest = stage
        while rest and len(parts) <= count:
            within = sum(total <= limit for total in itertools.accumulate(costs(rest)))
            size = max(1, within)
            parts.append(rest[:size])
            rest = rest[size:]
        return parts

    low, high = 0.0, sum(costs(stage))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if len(runs(middle)) <= count else (middle, high)
    return runs(high)


def _cohorts(
    part: list[Treatment], fitting: Callable[[Sequence[Treatment]], int]
) -> tuple[Cohort, ...]:
    """A trial's networks by target, as many at a time as fit."""
    cohorts = []
    for _, group in itertools.groupby(part, key=lambda t: (t.split, t.target)):
        rest = tuple(group)
        while rest:
            size = fitting(rest)
            cohorts.append(Cohort(rest[:size]))
            rest = rest[size:]
    return tuple(cohorts)
