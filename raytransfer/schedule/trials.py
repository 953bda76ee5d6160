"""Waves of trials through Ray Tune."""

from collections.abc import Sequence
from typing import Any

from raytransfer.errors import UserError
from raytransfer.folder import Folder
from raytransfer.schedule.attempts import StudyJob, run_to_its_end
from raytransfer.study.plan import Trial

ON_HEAD = {"node:__internal_head__": 0.001}
"""What a trial's own process asks for. It only waits for its workers, which are lost with it: so it
is on Ray's head, which a cluster keeps on a machine that stays, and takes no core of any other."""


def run_wave(trials: Sequence[Trial], study: StudyJob) -> None:
    """Run trials side by side, as many at once as the layout says.

    Raises UserError with the first reason when a trial could not be brought to its end.
    """
    from ray import tune

    by_id = {trial.id: trial for trial in trials}

    def trainable(config: dict[str, Any]) -> None:
        reason = run_to_its_end(by_id[config["trial"]], study)
        tune.report({"reason": reason or ""})

    tuner = tune.Tuner(
        tune.with_resources(trainable, ON_HEAD),
        param_space={"trial": tune.grid_search(sorted(by_id))},
        tune_config=tune.TuneConfig(max_concurrent_trials=study.layout.trials_at_once),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=Folder(study.study).below("ray").uri,
            verbose=0,
            # Its process is lost with its machine; it counts its tries itself.
            failure_config=tune.FailureConfig(max_failures=-1),
        ),
    )
    results = tuner.fit()
    for i in range(len(results)):
        result = results[i]
        if result.error is not None:
            raise UserError(f"A trial of {study.study} cannot be run: {result.error}")
        if reason := (result.metrics or {}).get("reason"):
            raise UserError(f"{reason} The same command goes on from what is finished.")
