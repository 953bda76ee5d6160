"""Work shared out: the same function over many jobs, in this process or through Ray Data."""

import pickle
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa

from raytransfer.errors import StoppedError, UserError

Job = TypeVar("Job")
Result = TypeVar("Result")

LOSSES = 5
"""Times that a job may lose its process and is done again; a machine that vanishes is one."""

Mapper = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]
"""Yields what a function makes of each job, as the jobs end, in any order."""


def in_turn(function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[Result]:
    """One job after the other, here."""
    return map(function, jobs)


def over_ray(function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[Result]:
    """A Ray Data job on all cores that Ray has; Ray must run. A lost process's job is done again.

    Raises UserError where the function does, and for a job that ends one process after another;
    StoppedError where Ray is lost.
    """
    from ray import data
    from ray.exceptions import (
        NodeDiedError,
        OutOfMemoryError,
        RayError,
        RayTaskError,
        WorkerCrashedError,
    )

    if not jobs:
        return
    items = [{"job": pickle.dumps(job)} for job in jobs]
    packed = data.from_items(items, override_num_blocks=len(items))
    with warnings.catch_warnings():
        # Ray gives notice of this argument, and has no other yet that ends its trying for ever.
        warnings.simplefilter("ignore", DeprecationWarning)
        results = packed.map_batches(
            partial(_call, function=function),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=1,
            ray_remote_args_fn=lambda: {"max_retries": LOSSES},
        )
    results.context.enable_progress_bars = False
    # Results take no memory to speak of. Dealing it out would leave the second core idle for the
    # first second, and each core for a tenth between two jobs.
    results.context.op_resource_reservation_enabled = False
    try:
        for row in results.iter_rows():
            result, sentence = pickle.loads(row["result"])
            if sentence is not None:
                raise UserError(sentence)
            yield result
    except (WorkerCrashedError, NodeDiedError, OutOfMemoryError):
        raise UserError(
            f"The same work has lost its process {LOSSES + 1} times, for want of memory or by an "
            "image that ends its decoder: what is done is kept, and the same command goes on; "
            "give it more memory, or fewer --workers."
        ) from None
    except RayTaskError:
        raise  # a fault in the function
    except RayError as error:
        raise StoppedError(f"Ray was lost ({str(error).partition('.')[0]})") from None


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
