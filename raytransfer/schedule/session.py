"""Ray: one of this machine's own, or the cluster that RAY_ADDRESS names."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


@contextmanager
def ray_session(cpus: int | None = None) -> Iterator[None]:
    """Ray, quietly: the cluster of RAY_ADDRESS, or one of this machine's that ends with the block.

    cpus: that Ray counts where it is this machine's own; None for a study, which needs more than
    there are: trials' drivers and the stream's readers run beside training, and Ray Data waits for
    ever for a core that training does not leave.
    """
    # A driver under `uv run` would make every worker run uv again.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # Tune's new output prints boxes even where it is told to print nothing.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # Ctrl-C ends a study; Tune would take it for the end of one wave.
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    # A trial's end is noticed at the next look at its workers: every 2 seconds otherwise.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    # glibc gives freed tensors back to the kernel, which then clears their pages anew each step.
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(256 * 2**20))
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(32 * 2**20))
    import ray

    if "RAY_ADDRESS" in os.environ:
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    else:
        ray.init(
            address="local",
            num_cpus=cpus or 2 * cores() + 1,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    # Ray's libraries set up loggers as they are imported; what a user needs to know, we say.
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        ray.shutdown()
