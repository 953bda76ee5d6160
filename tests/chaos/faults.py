"""A small language for faults: what happens to which process at which moment of a study.

    kill("worker", at="step 25")       SIGKILL, as a vanishing machine does
    terminate("driver", at="step 15")  SIGTERM, as a preemption does
    pause("worker", at="step 30")      SIGSTOP: it hangs
    fill_disk(at="step 25")            the study's disk is full, for five seconds
    drop_store(at="step 25")           the object store does not answer, for five seconds

Processes: worker (whichever comes there first), trial (Tune's process of the trial), driver (the
command), raylet, gcs (Ray's head), and those whose number a test writes to NAME.pid.
Moments: start; step N; step N of LABEL, a network of the study; step N of rank R; validation; write
TEXT (half of a file with TEXT in its name is there).

A moment is reached inside a process of Ray's, which `inject/sitecustomize.py` sees to; each fault
happens once, however often a study comes to that moment.
"""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from raytransfer.results.store import StudyFolder, read_study
from raytransfer.study.treatment import Treatment

INJECT = Path(__file__).with_name("inject")


@dataclass(frozen=True)
class Fault:
    process: str
    action: int | str
    """A signal, disk or drop."""
    at: str


def kill(process: str, at: str) -> Fault:
    return Fault(process, signal.SIGKILL, at)


def terminate(process: str, at: str) -> Fault:
    return Fault(process, signal.SIGTERM, at)


def pause(process: str, at: str) -> Fault:
    return Fault(process, signal.SIGSTOP, at)


def fill_disk(at: str) -> Fault:
    return Fault("worker", "disk", at)


def drop_store(at: str) -> Fault:
    return Fault("store", "drop", at)


def tear(path: Path) -> None:
    """Half of a file is lost."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path, bit: int) -> None:
    """One bit of a file is another."""
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


class Chaos:
    """A command that is started again until it is done, while faults happen to it."""

    def __init__(
        self,
        folder: Path,
        command: Sequence[object],
        faults: Sequence[Fault],
        **environment: str,
    ) -> None:
        self.folder = folder
        paths = [str(INJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environment = {
            "PYTHONPATH": os.pathsep.join(paths),
            "RAYTRANSFER_CHAOS": str(self.folder),
            **environment,
        }
        self.command = [sys.executable, "-m", "raytransfer", *map(str, command)]
        self.faults = list(faults)
        self.outcomes: list[int] = []
        """Exit status of every start."""
        self.said = ""
        folder.mkdir()
        (folder / "faults.json").write_text(json.dumps([asdict(fault) for fault in self.faults]))

    @property
    def happened(self) -> list[Fault]:
        fired = {int(path.stem) for path in self.folder.glob("*.fired")}
        return [fault for i, fault in enumerate(self.faults) if i in fired]

    @property
    def recoveries(self) -> list[float]:
        """Seconds from a fault to the next step of training."""
        return [float(line) for line in self._notes("recovered")]

    @property
    def ends(self) -> Counter[str]:
        """How many times each network's end was written."""
        return Counter(self._notes("ended"))

    def _notes(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def start(self) -> subprocess.Popen[str]:
        """The command, once."""
        running = subprocess.Popen(
            self.command,
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Its signals are not for us.
            start_new_session=True,
        )
        (self.folder / "driver.pid").write_text(str(running.pid))
        return running

    def end(self, running: subprocess.Popen[str], seconds: float = 240) -> int:
        try:
            self.said += running.communicate(timeout=seconds)[0]
        except subprocess.TimeoutExpired:
            running.kill()
            self.said += running.communicate()[0]
            raise
        self.outcomes.append(running.returncode)
        return running.returncode

    def run(self, starts: int = 1, seconds: float = 240) -> None:
        """Start the command until it ends well, so many times at most."""
        for _ in range(starts):
            if self.end(self.start(), seconds) == 0:
                return


def outcome(study: Path | str) -> dict[str, tuple[str | None, list[dict[str, object]]]]:
    """What a study came to: every network's hash of its weights, and its lines."""
    folder = StudyFolder(study)
    return {
        row["treatment"]: (row["weights_sha256"], folder.rows(Treatment.parse(row["treatment"])))
        for row in read_study(study).networks
    }
