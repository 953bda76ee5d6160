"""A study from its space to its last row: plan it, hold its lease, run its waves."""

from collections.abc import Sequence
from pathlib import Path

from raytransfer.data.decoding import IN_TRAINING, Decoding
from raytransfer.data.manifest import Manifest, read_manifest
from raytransfer.data.order import check_batch
from raytransfer.data.plan import plan_stream
from raytransfer.errors import UserError
from raytransfer.nets.architecture import architecture
from raytransfer.results.sound import ENDS
from raytransfer.results.store import StudyFolder, read_study
from raytransfer.results.table import Results
from raytransfer.schedule.attempts import STUCK_SECONDS, StudyJob
from raytransfer.schedule.cluster import (
    Device,
    Machine,
    check_decoding,
    layout_for,
    machine_for,
    process_memory,
)
from raytransfer.schedule.cost import relative_costs
from raytransfer.schedule.hold import hold
from raytransfer.schedule.identity import claim, described, refuse_foreign
from raytransfer.schedule.memory import cohort_memory, networks_that_fit
from raytransfer.schedule.prepared import Prepared
from raytransfer.schedule.progress import Watch, display
from raytransfer.schedule.session import ray_session
from raytransfer.schedule.stall import ending_in_time, noticing_stalls
from raytransfer.schedule.track import Tracker, tracking
from raytransfer.schedule.trials import run_wave
from raytransfer.study.plan import make_plan
from raytransfer.study.recipe import Recipe
from raytransfer.study.space import Space, with_parents
from raytransfer.study.split import Split, make_split
from raytransfer.study.treatment import Treatment
from raytransfer.train.checkpoint import CHECKPOINTS
from raytransfer.train.interval import Interval

CHECKPOINT_EVERY = "5m"


def prepare_study(
    space: Space,
    data: str | Path,
    recipe: Recipe | None = None,
    *,
    workers: int | None = None,
    networks_per_trial: int | None = None,
    device: Device = "auto",
    gpus: int | None = None,
    machine: Machine | None = None,
) -> Prepared:
    """Check everything that a study needs and plan it. Raises UserError for what cannot be.

    recipe: the space's own if None. workers: processes that share each batch; None for one.
    networks_per_trial: None for as many as memory holds and cores or GPUs can share out. machine:
    where the study is to run; None for the cluster of RAY_ADDRESS or here, on `device`, and on so
    many of its GPUs, None for all.
    """
    recipe = recipe or space.recipe
    manifest = read_manifest(data)
    names = dict.fromkeys(treatment.split for treatment in space.treatments)
    splits = {name: make_split(name, manifest.classes, space.splits) for name in names}
    _check_images(manifest, recipe, splits, space)
    where = machine or machine_for(device, gpus)
    return _planned(space, recipe, manifest, splits, where, workers, networks_per_trial)


def with_networks_per_trial(prepared: Prepared, networks_per_trial: int | None) -> Prepared:
    """The same study, packed into trials in another way. Raises UserError for a number below 1."""
    p = prepared
    return _planned(
        p.space, p.recipe, p.manifest, p.splits, p.machine, p.workers, networks_per_trial
    )


def _planned(
    space: Space,
    recipe: Recipe,
    manifest: Manifest,
    splits: dict[str, Split],
    machine: Machine,
    workers: int | None,
    networks_per_trial: int | None,
) -> Prepared:
    if networks_per_trial is not None and networks_per_trial < 1:
        raise UserError(f"--networks-per-trial is 1 or more, or auto, not {networks_per_trial}.")
    layout = layout_for(machine, workers, networks_per_trial)
    check_batch(recipe.batch, layout.workers)

    def fitting(treatments: Sequence[Treatment]) -> int:
        held = cohort_memory(treatments, recipe, splits, manifest.channels, layout)
        return networks_that_fit(held, process_memory(machine, layout))

    plan = make_plan(
        space.treatments,
        networks_per_trial=networks_per_trial,
        fitting=fitting,
        trials_at_once=layout.trials_at_once,
        lanes=layout.lanes,
        costs=lambda networks: relative_costs(networks, recipe, splits, manifest.channels),
    )
    return Prepared(space, recipe, manifest, splits, machine, workers, layout, plan)


def _check_images(
    manifest: Manifest, recipe: Recipe, splits: dict[str, Split], space: Space
) -> None:
    """Whether every task has images that the network can take. Raises UserError if not."""
    for split, target in dict.fromkeys((t.split, t.target) for t in with_parents(space.treatments)):
        stream = plan_stream(
            manifest.folder,
            splits[split].classes(target),
            seed=recipe.seed,
            batch=recipe.batch,
            steps=recipe.steps,
            validate_every=recipe.validate_every,
        )
        _, height, width = stream.shape
        side = architecture(recipe.network, 2).side
        if min(height, width) < side:
            raise UserError(
                f"Network {recipe.network} takes images of at least {side}x{side} pixels, and "
                f"those in {manifest.folder} have {height}x{width}: set --network."
            )


def run_study(
    prepared: Prepared,
    root: str | Path,
    *,
    deterministic: bool = False,
    decoding: Decoding = IN_TRAINING,
    checkpoint_every: str = CHECKPOINT_EVERY,
    stuck_after: float = STUCK_SECONDS,
    allow_change: bool = False,
    track: Tracker | None = None,
    show: bool = True,
) -> Results:
    """Train every network of the study that is not finished yet, and return all results.

    root: the study's folder, a path or URI. The same call again trains only what is left, from the
    last checkpoints on. checkpoint_every: steps (500), a time (90s, 5m, 1h), or never. stuck_after:
    seconds without a batch after which a trial is started again. allow_change: go on where settings
    differ that do no harm. track: where to send each network's lines. show: whether to draw a
    progress display on the terminal.

    Raises UserError when the folder holds another study, is being written by another driver, or a
    trial fails for good; StoppedError when a SIGTERM or the loss of Ray ended it, with everything
    saved.
    """
    every = Interval.parse(checkpoint_every)
    if not stuck_after > 0:
        raise UserError(f"--stuck-after is a number of seconds above 0, not {stuck_after:g}.")
    folder = StudyFolder(root)
    refuse_foreign(folder)
    with hold(folder) as held:
        claim(folder, described(prepared, deterministic), allow_change)
        job = StudyJob(
            study=folder.uri,
            shards=_absolute(prepared.manifest.folder),
            recipe=prepared.recipe,
            splits=prepared.splits,
            layout=prepared.layout,
            deterministic=deterministic,
            lease=held.lease.name,
            decoding=decoding,
            every=every,
            stuck_seconds=stuck_after,
        )
        over = {t for t in prepared.plan.treatments if folder.done(t) is not None}
        waves = [
            [trial for trial in wave if not over.issuperset(trial.treatments)]
            for wave in prepared.plan.waves
        ]
        with tracking(folder, prepared.plan.treatments, track):
            if any(waves):
                watch = Watch(folder, prepared.plan, job, prepared.manifest.channels, over)
                with (
                    display(watch, show),
                    ending_in_time(held),
                    ray_session(),
                    held.signals(),
                    # A trial tells when it was stuck: both its time and one to be started again.
                    noticing_stalls(folder, held, 2 * stuck_after),
                ):
                    check_decoding(decoding, prepared.layout)
                    for wave in filter(None, waves):
                        run_wave(wave, job)
                        held.check()
        results = read_study(root)
        if all(row["state"] in ENDS for row in results.networks):
            folder.delete(CHECKPOINTS)
    return results


def _absolute(shards: str) -> str:
    return shards if "://" in shards else str(Path(shards).resolve())
