"""Waiting for a store: a full disk may be emptied, and a lost connection may come back."""

import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from raytransfer.errors import StoreError

PATIENCE_SECONDS = 600.0
"""How long a write is tried before training gives up."""

PAUSE_SECONDS = 1.0
MOST_PAUSE_SECONDS = 15.0

P = ParamSpec("P")
R = TypeVar("R")


def patiently(write: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call `write`, again and again while the store cannot be written. Raises its StoreError in the
    end, and anything else at once."""
    began, pause = time.monotonic(), PAUSE_SECONDS
    while True:
        try:
            return write(*args, **kwargs)
        except StoreError:
            if time.monotonic() - began > PATIENCE_SECONDS:
                raise
        time.sleep(pause)
        pause = min(2 * pause, MOST_PAUSE_SECONDS)
