"""A study that is ready to run."""

from dataclasses import dataclass

from raytransfer.data.manifest import Manifest
from raytransfer.schedule.cluster import Layout, Machine
from raytransfer.study.plan import Plan
from raytransfer.study.recipe import Recipe
from raytransfer.study.space import Space
from raytransfer.study.split import Split


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
