"""A study that no longer moves at all, as its driver sees it: an end, instead of an endless wait.

A trial that is stuck is noticed by its own process; this is for when that process is lost and Ray
does not start it again, as where its last machine is gone. This machine's own Ray is lost with its
head, too, also where a signal that was meant for this process went to all of them. (When the head
of a cluster does not answer for a minute, Ray itself ends the driver.)
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from raytransfer.errors import StoppedError
from raytransfer.results.store import EVENTS, StudyFolder
from raytransfer.schedule.hold import Hold
from raytransfer.schedule.meanwhile import Unchanged, meanwhile
from raytransfer.schedule.session import in_cluster, knock

RAY_LOOK_SECONDS = 3.0

END_SECONDS = 20.0
"""For Ray to let go of this process; it commonly takes ten."""

LOOKS = 20
"""At a study's progress, in the time in which it must move."""


@contextmanager
def ending_in_time(held: Hold) -> Iterator[None]:
    """Around all that is done with Ray: it may ask a head that is gone for a minute, where nothing
    interrupts it, and then end this process with a status of its own. So a study that is to end for
    a failure, and does not in time, is ended as the command line would."""
    failing = Unchanged()

    def look() -> None:
        if failing.seconds(held.failure) > END_SECONDS and held.failure is not None:
            print(held.failure.sentence, file=sys.stderr, flush=True)
            os._exit(held.failure.status)

    with meanwhile(look, 1.0):
        yield


@contextmanager
def noticing_stalls(folder: StudyFolder, held: Hold, seconds: float) -> Iterator[None]:
    """While the block runs, end it where this machine's own Ray is lost, or where nothing of the
    study has moved for so many seconds. `held` raises the StoppedError."""
    import ray

    progress = Unchanged()
    head = ray.get_runtime_context().gcs_address
    lost = StoppedError("Ray's processes on this machine were lost")

    def look_at_the_head() -> bool:
        try:
            knock(head, RAY_LOOK_SECONDS)
            return True
        except ConnectionRefusedError:
            held.fail(lost)
            return False

    def look_at_the_machine() -> None:
        # Ray asks a head that is gone for a minute, which keeps this thread, but not the other.
        if look_at_the_head():
            nodes = ray.nodes()  # type: ignore[no-untyped-call]
            if not any(node["Alive"] for node in nodes):
                held.fail(lost)

    def look_at_progress() -> None:
        if progress.seconds((folder.progress(), folder.names(EVENTS))) > seconds:
            held.fail(
                StoppedError(
                    f"nothing moved for {seconds:.0f} seconds, and no trial said why: Ray may have "
                    "no machine left for one"
                )
            )

    with meanwhile(look_at_progress, seconds / LOOKS):
        if in_cluster():
            # Machines of a cluster come and go.
            yield
            return
        with (
            meanwhile(look_at_the_head, RAY_LOOK_SECONDS),
            meanwhile(look_at_the_machine, RAY_LOOK_SECONDS),
        ):
            yield
