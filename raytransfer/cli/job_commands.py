"""The command that runs a study on a cluster elsewhere; a Python program can do the same:

    submit    schedule.submission.Job

As in `commands`, what a command needs is imported when it runs.
"""

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import OmitArgPrefixes

from raytransfer.cli.commands import RecipeFile, Space
from raytransfer.cli.running import Flag, Running, flags
from raytransfer.data.decoding import IN_TRAINING, Decoding
from raytransfer.errors import UserError
from raytransfer.study.recipe import Recipe
from raytransfer.study.space import load_space

DETACHED = 130
"""Exit status after Ctrl-C."""


def submit(
    space: Space,
    *,
    data: str,
    study: str,
    address: Annotated[str | None, tyro.conf.arg(metavar="URL")] = None,
    detach: Flag = False,
    running: OmitArgPrefixes[Running] = Running(),  # noqa: B008
    decoding: OmitArgPrefixes[Decoding] = IN_TRAINING,
    recipe_file: RecipeFile = None,
    recipe: OmitArgPrefixes[Recipe] = Recipe(),  # noqa: B008
) -> int:
    """Run a study as a job of a Ray cluster, and follow it. Ctrl-C leaves it to itself.

    Args:
        space: Name of a space (demo, paper, ...), or the path of a .py file, which is sent along.
        data: Folder of shards that the cluster can read, or its URI.
        study: Folder for the study that the cluster can write, or its URI.
        address: Of the cluster's dashboard. None: RAY_API_SERVER_ADDRESS, RAY_ADDRESS, or a cluster
            of this machine.
        detach: Do not follow the job.
        running: How the study is run.
        decoding: Where images are decoded.
        recipe_file: File of recipe settings, sent as flags; those of the command line go before it.
        recipe: Settings whose defaults are the space's.
    """
    from raytransfer.schedule.submission import Job
    from raytransfer.train.interval import Interval

    Interval.parse(running.checkpoint_every)
    for name, place in (("--data", data), ("--study", study)):
        if "://" not in place and not Path(place).is_absolute():
            raise UserError(
                f"{name} {place} is no place on a cluster: give a whole path that all its machines "
                "have, or a URI."
            )
    own = Path(space)
    files = [own] if own.suffix == ".py" else []
    job = Job(address)
    job.submit(
        [
            *("raytransfer", "run", f"./{own.name}" if files else space),
            *("--data", data, "--study", study),
            *flags(running, Running()),
            *flags(decoding, IN_TRAINING),
            *flags(recipe, load_space(space).recipe),
        ],
        files,
    )
    print(f"Job {job.id}", flush=True)
    if detach:
        print(job.told())
        return 0
    try:
        return job.follow()
    except KeyboardInterrupt:
        print(f"\nThe job goes on.\n{job.told()}")
        return DETACHED
