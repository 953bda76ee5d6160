"""Waiting for a store: a full disk may be emptied, and a lost connection may come back."""

import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from raytransfer.errors import StoreError

PATIENCE_SECONDS = 600.0
"""How long a store is asked again before training gives up."""

PAUSE_SECONDS = 1.0
MOST_PAUSE_SECONDS = 15.0

P = ParamSpec("P")
R = TypeVar("R")


def patiently(ask: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call `ask`, again and again while the store cannot be written or read. Raises its StoreError
    or OSError in the end, and anything else at once."""
    began, pause = time.monotonic(), PAUSE_SECONDS
    while True:
        try:
            return ask(*args, **kwargs)
        except (StoreError, OSError):
            if time.monotonic() - began > PATIENCE_SECONDS:
                raise
        time.sleep(pause)
        pause = min(2 * pause, MOST_PAUSE_SECONDS)
