"""Waves of trials through Ray Tune, each trial one run of Ray Train over one stream of Ray Data."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from raytransfer.data.decoding import IN_TRAINING, Decoding
from raytransfer.data.plan import plan_stream
from raytransfer.errors import UserError
from raytransfer.results.store import StudyFolder
from raytransfer.schedule.cluster import Layout
from raytransfer.study.plan import Cohort, Lane, Trial
from raytransfer.study.recipe import Recipe
from raytransfer.study.split import Split
from raytransfer.train.loop import CohortJob, TrialJob
from raytransfer.train.workers import fit

TRIES = 3
"""Times that a trial is started when its processes or machines are lost."""


@dataclass(frozen=True)
class StudyJob:
    """What is the same for every trial of a study."""

    study: str
    shards: str
    recipe: Recipe
    splits: dict[str, Split]
    layout: Layout
    deterministic: bool
    decoding: Decoding = IN_TRAINING


def trial_job(trial: Trial, study: StudyJob) -> TrialJob:
    """What is left to train of a trial: finished and failed networks are left out."""
    folder = StudyFolder(study.study)

    def lane_jobs(lane: Lane) -> tuple[CohortJob, ...]:
        left = (tuple(t for t in cohort.treatments if not folder.done(t)) for cohort in lane)
        return tuple(cohort_job(Cohort(treatments), study) for treatments in left if treatments)

    return TrialJob(
        id=trial.id,
        study=study.study,
        recipe=study.recipe,
        stages=tuple(tuple(lane_jobs(lane) for lane in stage) for stage in trial.stages),
        workers=study.layout.workers,
        threads=study.layout.threads,
        gpu=study.layout.device == "cuda",
        deterministic=study.deterministic,
        decoding=study.decoding,
    )


def cohort_job(cohort: Cohort, study: StudyJob) -> CohortJob:
    """A cohort with the stream of its target's images."""
    split, recipe = study.splits[cohort.split], study.recipe
    stream = plan_stream(
        study.shards,
        split.classes(cohort.target),
        seed=recipe.seed,
        batch=recipe.batch,
        steps=recipe.steps,
        validate_every=recipe.validate_every,
        workers=study.layout.workers,
    )
    tasks = {target: split.classes(target) for target in ("A", "B", "AB")}
    return CohortJob(cohort, stream, tasks)


def run_wave(trials: Sequence[Trial], study: StudyJob) -> None:
    """Run trials side by side, as many at once as the layout says.

    Raises UserError with the first cause when a trial could not be brought to its end.
    """
    from ray import tune

    by_id = {trial.id: trial for trial in trials}

    def trainable(config: dict[str, Any]) -> None:
        job = trial_job(by_id[config["trial"]], study)
        if job.left:
            fit(job)
        tune.report({"networks": len(by_id[config["trial"]].treatments)})

    with silent():
        tuner = tune.Tuner(
            tune.with_resources(trainable, {"CPU": 0.01}),
            param_space={"trial": tune.grid_search(sorted(by_id))},
            tune_config=tune.TuneConfig(max_concurrent_trials=study.layout.trials_at_once),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=f"{study.study}/ray",
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=TRIES - 1),
            ),
        )
        results = tuner.fit()
    for error in results.errors:
        raise UserError(
            f"A trial of {study.study} failed {TRIES} times, at last with: {_cause(error)}. "
            "The same command goes on from what is finished."
        )


def _cause(error: BaseException) -> str:
    """The innermost cause of an error of Ray's, in one line."""
    while True:
        inner = getattr(error, "cause", None) or error.__cause__
        if not isinstance(inner, BaseException):
            break
        error = inner
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


@contextmanager
def silent() -> Iterator[None]:
    """Ray's own log lines off; what a user needs to know, the study says."""
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.train", "ray.data")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
