"""Work shared out: the same function over many jobs, in this process or through Ray Data."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa

from raytransfer.errors import UserError

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
    items = [{"job": pickle.dumps(job)} for job in jobs]
    results = data.from_items(items, override_num_blocks=len(items)).map_batches(
        partial(_call, function=function), batch_size=None, batch_format="pyarrow", num_cpus=1
    )
    results.context.enable_progress_bars = False
    # Results take no memory to speak of. Dealing it out would leave the second core idle for the
    # first second, and each core for a tenth between two jobs.
    results.context.op_resource_reservation_enabled = False
    for row in results.iter_rows():
        result, sentence = pickle.loads(row["result"])
        if sentence is not None:
            raise UserError(sentence)
        yield result


def _call(block: pa.Table, function: Callable[[Any], Any]) -> pa.Table:
    """What the function makes of a block's one job. A user's mistake travels as its sentence, for
    Ray would wrap it."""
    (packed,) = block["job"].to_pylist()
    result, sentence = None, None
    try:
        result = function(pickle.loads(packed))
    except UserError as error:
        sentence = str(error)
    return pa.table({"result": pa.array([pickle.dumps((result, sentence))], pa.binary())})
