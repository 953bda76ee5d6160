"""A lane's line to the study: it says how far training is, and hears whether to go on.

In a thread of its own, so that no step waits for a store, and a step that never ends is seen.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from raytransfer.errors import UserError
from raytransfer.lease import Lease, LeaseLostError
from raytransfer.results.store import StudyFolder
from raytransfer.study.treatment import Treatment
from raytransfer.train.patience import patiently

PROGRESS_SECONDS = 1.0

READING, TRAINING = "waiting for images", "training"

T = TypeVar("T")


class Control:
    """Of the first worker of a lane. lease: the driver's, by name; None where there is none."""

    def __init__(
        self, folder: StudyFolder, trial: str, lane: int, lease: str | None, steps: int
    ) -> None:
        self._folder = folder
        self._trial = trial
        self._lane = lane
        self._lease = Lease(folder, lease) if lease is not None else None
        self._steps = steps
        self._networks: list[str] = []
        self._step = 0
        self._batches = 0
        self._doing = READING
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.stopping = False
        """Whether all is to be saved now, and training to end."""
        self.lost = False
        """Whether another driver has taken the study over: nothing may be written any more."""

    def __enter__(self) -> "Control":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def begin(self, treatments: Sequence[Treatment], step: int) -> None:
        """What trains from now on, and from which step."""
        self._networks = [treatment.id for treatment in treatments]
        self._step = step

    def at(self, step: int) -> None:
        """Steps done."""
        self._step = step

    def attended(self, feed: Iterator[T]) -> Iterator[T]:
        """The feed, as it is; whether one waits for it is known meanwhile."""
        for batch in feed:
            self._doing = TRAINING
            self._batches += 1
            yield batch
            self._doing = READING

    def check(self) -> None:
        """Before writing. Raises LeaseLostError if another driver has taken the study over."""
        if self._lease is not None:
            patiently(self._lease.check)

    def _run(self) -> None:
        while not self._ended.wait(PROGRESS_SECONDS):
            try:
                if self._lease is not None:
                    self._lease.check()
                    self.stopping = self.stopping or self._lease.stopping()
                self._folder.write_progress(
                    self._trial,
                    self._lane,
                    {
                        "networks": self._networks,
                        "step": self._step,
                        "steps": self._steps,
                        "doing": self._doing,
                        "batches": self._batches,
                    },
                )
            except LeaseLostError:
                self.lost = True
                return
            except (OSError, UserError):
                # A store that does not answer now may at the next turn.
                time.sleep(PROGRESS_SECONDS)
