"""The failure drill: machines of a cluster are lost while a study runs on it.

    uv run benchmarks/drill.py        as root, on Linux

Four hosts of network namespaces: Ray's head, one that trains, one that decodes, and one that
takes the place of what is lost. The demo's study, shortened, is sent as a job, once for each loss,
and once for none. When the head is lost, so is the cluster with its job: it is started anew, and
given the same command. Printed: the longest pause between two steps that were seen, the time from
the loss to the study's end, and what differs from the study without a loss.
"""

import platform
import subprocess
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path

import ray

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "chaos"))
from faults import outcome
from hosts import Hosts

from raytransfer.data.manifest import demo_shards
from raytransfer.results.store import StudyFolder

SECONDS = 600
"""That a study may take."""

HEAD, TRAINS, DECODES, SPARE = 1, 2, 3, 4
OFFERS = {
    HEAD: ["--num-cpus=0"],
    TRAINS: ["--num-cpus=1"],
    DECODES: ["--num-cpus=0", '--resources={"decode": 2}'],
}
LOSSES = {
    "none": None,
    "the machine that decodes": DECODES,
    "the machine that trains": TRAINS,
    "the head": HEAD,
}
STUDY = [
    *("--data", str(demo_shards()), "--deterministic"),
    *("--decode", "tasks", "--decode-resource", "decode"),
    *("--steps", "200", "--validate-every", "100", "--checkpoint-every", "10"),
]


def main() -> None:
    print(f"{platform.machine()}; Python {platform.python_version()}, Ray {ray.__version__}")
    print("  what is lost                longest pause   from loss to end   networks that differ")
    undisturbed = None
    for name, host in LOSSES.items():
        with tempfile.TemporaryDirectory() as folder:
            study = Path(folder, "study")
            pause, left = drill(study, host)
            found = outcome(study)
            undisturbed = undisturbed or found
            differ = sum(found.get(network) != told for network, told in undisturbed.items())
            print(f"  {name:27} {pause:11.1f} s {left:16.1f} s {differ:15} of {len(undisturbed)}")


def drill(study: Path, host: int | None) -> tuple[float, float]:
    """Seconds of the longest pause, and from the loss (or the study's middle) to the end."""
    with Hosts(4) as hosts:
        start(hosts)
        watched = Watched(StudyFolder(study))
        job = submit(hosts, study)
        while not watched.is_in_the_middle:
            assert job.poll() is None, job.communicate(timeout=SECONDS)[0]
            time.sleep(0.1)
        lost = time.monotonic()
        if host is not None:
            hosts.lose(host)
        if host == HEAD:
            for each in (TRAINS, DECODES):
                hosts.lose(each)  # their Ray ends without a head
            job.communicate(timeout=SECONDS)
            start(hosts)
            job = submit(hosts, study)
        elif host is not None:
            hosts.start_ray(SPARE, *OFFERS[host])
        said, _ = job.communicate(timeout=SECONDS)
        assert job.returncode == 0, said
        return watched.longest_pause(), time.monotonic() - lost


def start(hosts: Hosts) -> None:
    for host, offer in OFFERS.items():
        hosts.start_ray(host, *offer)


def submit(hosts: Hosts, study: Path) -> "subprocess.Popen[str]":
    words = ["ray", "job", "submit", "--address", hosts.dashboard, "--"]
    words += ["raytransfer", "run", "demo", "--study", str(study), *STUDY]
    return hosts.start(HEAD, *words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


class Watched:
    """When a study's steps were seen to go on."""

    def __init__(self, folder: StudyFolder) -> None:
        self._folder = folder
        self._seen: list[float] = []
        self._last: object = []
        self.is_in_the_middle = False
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            lanes = self._folder.progress()
            now = [(lane["networks"], lane["step"]) for lane in lanes]
            if now != self._last:
                self._last = now
                self._seen.append(time.monotonic())
            self.is_in_the_middle = any(len(n) > 20 and 60 < step < 100 for n, step in now)
            time.sleep(0.05)

    def longest_pause(self) -> float:
        return max(after - before for before, after in pairwise(self._seen))


if __name__ == "__main__":
    main()
