"""Work shared out: the same function over many jobs, in this process or through Ray Data."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa

from raytransfer.errors import UserError

TOGETHER = 4
"""Jobs of a task, at most: between two tasks Ray Data leaves a core idle for 0.1 seconds."""

FEWEST_TASKS = 8
"""Fewer tasks than these are not put together, as all cores should have some."""

Job = TypeVar("Job")
Result = TypeVar("Result")

Mapper = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]
"""Yields what a function makes of each job, as the jobs end, in any order."""


def in_turn(function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[Result]:
    """One job after the other, here."""
    return map(function, jobs)


def over_ray(function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[Result]:
    """A Ray Data job on all cores that Ray has; Ray must run. A lost process's job is done again.

    Raises UserError where the function does.
    """
    from ray import data

    if not jobs:
        return
    size = max(1, min(TOGETHER, len(jobs) // FEWEST_TASKS))
    lots = [list(jobs[i : i + size]) for i in range(0, len(jobs), size)]
    items = [{"jobs": pickle.dumps(lot)} for lot in lots]
    results = data.from_items(items, override_num_blocks=len(items)).map_batches(
        partial(_call, function=function), batch_size=None, batch_format="pyarrow", num_cpus=1
    )
    results.context.enable_progress_bars = False
    for row in results.iter_rows():
        done, sentence = pickle.loads(row["result"])
        yield from done
        if sentence is not None:
            raise UserError(sentence)


def _call(block: pa.Table, function: Callable[[Any], Any]) -> pa.Table:
    """The jobs of one block, in turn. A user's mistake travels as its sentence, for Ray would wrap
    it."""
    (packed,) = block["jobs"].to_pylist()
    done: list[Any] = []
    sentence = None
    try:
        done += map(function, pickle.loads(packed))
    except UserError as error:
        sentence = str(error)
    return pa.table({"result": pa.array([pickle.dumps((done, sentence))], pa.binary())})
