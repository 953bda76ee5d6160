"""Looking at a study's folder now and then, while something else is done."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from raytransfer.errors import UserError


class Unchanged:
    """For how long something has been the same, as seen now and then."""

    def __init__(self) -> None:
        self._seen: Any = None
        self._since = time.monotonic()

    def seconds(self, now: Any) -> float:
        """0 where it is another than when it was last seen."""
        if now != self._seen:
            self._seen, self._since = now, time.monotonic()
        return time.monotonic() - self._since


@contextmanager
def meanwhile(look: Callable[[], object], seconds: float) -> Iterator[None]:
    """While the block runs, call `look` every so many seconds, in a thread of its own. A store that
    does not answer now may at the next look."""
    ended = threading.Event()

    def keep_looking() -> None:
        while not ended.wait(seconds):
            with suppress(OSError, UserError):
                look()

    looking = threading.Thread(target=keep_looking, daemon=True)
    looking.start()
    try:
        yield
    finally:
        ended.set()
        looking.join()
