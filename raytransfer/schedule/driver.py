"""A study from its space to its last row: plan it, hold its lease, run its waves."""

import platform
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from raytransfer import __version__
from raytransfer.data.decoding import IN_TRAINING, Decoding
from raytransfer.data.manifest import Manifest, read_manifest
from raytransfer.data.order import check_batch
from raytransfer.data.plan import plan_stream
from raytransfer.errors import UserError
from raytransfer.nets.architecture import architecture
from raytransfer.results.store import HEARTBEAT_SECONDS, StudyFolder, read_study
from raytransfer.results.table import Results
from raytransfer.schedule.cluster import (
    Device,
    Layout,
    Machine,
    check_decoding,
    layout_for,
    process_memory,
    this_machine,
)
from raytransfer.schedule.cost import relative_costs
from raytransfer.schedule.memory import cohort_memory, networks_that_fit
from raytransfer.schedule.progress import Watch, display
from raytransfer.schedule.session import ray_session
from raytransfer.schedule.trials import StudyJob, run_wave
from raytransfer.study.plan import Plan, make_plan
from raytransfer.study.recipe import Recipe
from raytransfer.study.space import Space, with_parents
from raytransfer.study.split import Split, make_split
from raytransfer.study.treatment import Treatment


@dataclass(frozen=True)
class Prepared:
    """A study that is ready to run: every setting checked, nothing started, nothing written."""

    space: Space
    recipe: Recipe
    manifest: Manifest
    splits: dict[str, Split]
    machine: Machine
    workers: int | None
    """As asked for; None for one."""
    layout: Layout
    plan: Plan


def prepare_study(
    space: Space,
    data: str | Path,
    recipe: Recipe | None = None,
    *,
    workers: int | None = None,
    networks_per_trial: int | None = None,
    device: Device = "auto",
    machine: Machine | None = None,
) -> Prepared:
    """Check everything that a study needs and plan it. Raises UserError for what cannot be.

    recipe: the space's own if None. workers: processes that share each batch; None for one.
    networks_per_trial: None for as many as memory holds and cores or GPUs can share out. machine:
    where the study is to run; None for here, on `device`.
    """
    recipe = recipe or space.recipe
    manifest = read_manifest(data)
    names = dict.fromkeys(treatment.split for treatment in space.treatments)
    splits = {name: make_split(name, manifest.classes, space.splits) for name in names}
    _check_images(manifest, recipe, splits, space)
    where = machine or this_machine(device)
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
    show: bool = True,
) -> Results:
    """Train every network of the study that is not finished yet, and return all results.

    root: the study's folder, a path or URI. The same call again trains only what is left. show:
    whether to draw a progress display on the terminal. Raises UserError when the folder holds
    another study, is being written by another driver, or a trial fails for good.
    """
    folder = StudyFolder(root)
    _claim(folder, prepared)
    job = StudyJob(
        study=folder.uri,
        shards=_absolute(prepared.manifest.folder),
        recipe=prepared.recipe,
        splits=prepared.splits,
        layout=prepared.layout,
        deterministic=deterministic,
        decoding=decoding,
    )
    with _lease(folder):
        waves = [[t for t in wave if _left(folder, t.treatments)] for wave in prepared.plan.waves]
        if any(waves):
            watch = Watch(folder, prepared.plan, job, prepared.manifest.channels)
            with display(watch, show), ray_session():
                check_decoding(decoding)
                for wave in filter(None, waves):
                    run_wave(wave, job)
    return read_study(root)


def _left(folder: StudyFolder, treatments: Any) -> bool:
    return any(folder.done(treatment) is None for treatment in treatments)


def _absolute(shards: str) -> str:
    return shards if "://" in shards else str(Path(shards).resolve())


@contextmanager
def _lease(folder: StudyFolder) -> Iterator[None]:
    """Hold the study while the block runs."""
    folder.acquire()
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT_SECONDS):
            folder.heartbeat()

    beating = threading.Thread(target=beat, daemon=True)
    beating.start()
    try:
        yield
    finally:
        ended.set()
        beating.join()
        folder.release()


def _claim(folder: StudyFolder, prepared: Prepared) -> None:
    """Write what the study is, or check that the folder holds this one. Raises UserError if not."""
    new = _description(prepared)
    old = folder.read_json("study.json")
    if old is None:
        if folder.names(""):
            raise UserError(
                f"{folder} is not empty and holds no study; name a new folder for --study."
            )
        folder.write_json("study.json", new)
        return
    for key in ("treatments", "recipe", "splits", "data"):
        if old.get(key) != new[key]:
            raise UserError(
                f"{folder} holds a study with {_difference(key, old.get(key), new[key])}; "
                "name another folder for --study."
            )


def _difference(key: str, old: Any, new: Any) -> str:
    """What differs, in a few words."""
    if key == "treatments":
        return f"other treatments ({len(old)} there, {len(new)} asked for)"
    changed = [
        f"{name} {old.get(name)!r} there, {new.get(name)!r} asked for"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    return f"another {key}: {'; '.join(changed)[:300]}"


def _description(prepared: Prepared) -> dict[str, Any]:
    """study.json: all that the study is made from."""
    manifest = prepared.manifest
    return {
        "space": prepared.space.name,
        "treatments": [treatment.id for treatment in prepared.plan.treatments],
        "recipe": prepared.recipe.to_json(),
        "splits": {
            name: {
                "sha256": split.sha256,
                "images_per_class": split.images_per_class,
                "A": [manifest.classes[index] for index in split.a],
                "B": [manifest.classes[index] for index in split.b],
            }
            for name, split in prepared.splits.items()
        },
        "data": {
            "manifest_sha256": manifest.digest,
            "classes": len(manifest.classes),
            "training_images": sum(manifest.train_counts),
            "validation_images": sum(manifest.val_counts),
            "image": [manifest.channels, manifest.height, manifest.width],
        },
        "layout": {
            "device": prepared.layout.device,
            "workers": prepared.layout.workers,
            "lanes": prepared.layout.lanes,
            "threads": prepared.layout.threads,
        },
        "versions": {
            "raytransfer": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "ray", "pyarrow", "numpy")},
        },
        "git_revision": _git_revision(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def _git_revision() -> str | None:
    """The revision of the source tree that this runs from; None for an installed package."""
    tree = Path(__file__).resolve().parents[2]
    if not (tree / ".git").exists():
        return None
    answer = subprocess.run(
        ["git", "-C", str(tree), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout.strip() or None
