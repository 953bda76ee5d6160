"""Looking at a study's folder now and then, while something else is done."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from raytransfer.errors import UserError


@contextmanager
def meanwhile(look: Callable[[], None], seconds: float) -> Iterator[None]:
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
