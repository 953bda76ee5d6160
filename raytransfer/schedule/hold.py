"""Holding a study while it runs: the lease kept up, SIGTERM heard, a takeover noticed."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from raytransfer.errors import StoppedError, StoreError, UserError
from raytransfer.folder import Folder
from raytransfer.lease import HEARTBEAT_SECONDS, Lease, LeaseLostError

GRACE_SECONDS = 25.0
"""After a SIGTERM, for checkpoints to be written; clusters commonly give 30."""


class Hold:
    """A lease that is kept up by a thread."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self._lost: LeaseLostError | None = None
        self.failure: StoppedError | None = None
        """What a thread has found to end the study for."""
        self._stopping = False
        self._give_up = False
        self._heard = False
        self._wake = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises what the main thread should end with, if anything."""
        if self._lost is not None:
            raise UserError(f"Stopped: {self._lost}; nothing that it had written was changed.")
        if self.failure is not None:
            raise self.failure
        if self._stopping:
            raise StoppedError("stopped and saved")

    def fail(self, error: StoppedError) -> None:
        """End the study with an error that a thread has found."""
        self.failure = error
        self._interrupt()

    @contextmanager
    def signals(self) -> Iterator[None]:
        """While the block runs, SIGTERM saves and ends the study; outside the main thread, where no
        signal can be handled, the block runs as it is."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, self._on_signal)
        self._heard = True
        try:
            yield
        except Exception:
            # Whatever a library made of an end that was meant.
            self.check()
            raise
        finally:
            self._heard = False
            signal.signal(signal.SIGTERM, before)

    def end(self) -> None:
        """Let another driver write."""
        self._ended = True
        self._wake.set()
        self._thread.join()
        if self._lost is None:
            try:
                self.lease.release()
            except (StoreError, OSError) as error:
                print(f"{error} The lease ends by itself.", file=sys.stderr)

    def _on_signal(self, number: int, frame: Any) -> None:
        if self._lost is not None or self.failure is not None or self._give_up:
            self.check()
        self._stopping = True
        self._wake.set()

    def _keep(self) -> None:
        told = False
        asked = 0.0
        while True:
            self._wake.wait(HEARTBEAT_SECONDS)
            self._wake.clear()
            if self._ended:
                return
            try:
                if self._stopping:
                    self.lease.stop()
                    asked += HEARTBEAT_SECONDS
                else:
                    self.lease.beat()
                told = False
            except LeaseLostError as error:
                self._lost = error
                self._interrupt()
                return
            except (StoreError, OSError) as error:
                if not told:
                    print(f"{error} Training waits, and tries again.", file=sys.stderr)
                told = True
            if asked > GRACE_SECONDS:
                self._give_up = True
                self._interrupt()
                return

    def _interrupt(self) -> None:
        """Have the main thread, which waits for Tune, look again."""
        if self._heard:
            os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def hold(folder: Folder) -> Iterator[Hold]:
    """Be the study's only writer while the block runs. Raises UserError where there is another."""
    held = Hold(Lease.acquire(folder))
    try:
        yield held
    finally:
        held.end()
