"""Weak scaling: one worker, and two with twice the batch, a core each.

    uv run benchmarks/scaling.py

Both train the same networks for the same number of steps on as many images a worker, so that two
workers do twice the work of one. What two lack to twice the network-images a second is the cost of
data-parallel training (DDP): gradients all-reduced each step, and waiting for each other. Ray's
start is left out; the sides take turns.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from raytransfer.data.manifest import demo_shards
from raytransfer.results.store import read_study

SPACE = """
from raytransfer.study.treatment import Treatment
from tune_spaces.demo import recipe

def treatments():
    yield Treatment("random:0", "B")
    for n in range(1, 8):
        yield Treatment("random:0", "B", "B", n, finetuned=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=32, help="images of a worker's step")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f}, torch {torch.__version__}"
    )
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(options.repeats):
        for workers, found in rates.items():
            found.append(rate(workers, options.steps, options.batch))
    one, two = (statistics.median(found) for found in rates.values())
    for workers, found in rates.items():
        print(
            f"{workers} worker{'s' * (workers > 1)}  {statistics.median(found):8,.0f} "
            f"network-images/s   {min(found):,.0f}-{max(found):,.0f}"
        )
    print(f"two / one {two / one:.2f} of 2; DDP and waiting take {1 - two / (2 * one):.0%}")


def rate(workers: int, steps: int, batch: int) -> float:
    """Images that networks were trained on, each network's counted, a second of training."""
    with tempfile.TemporaryDirectory() as folder:
        space, study = Path(folder, "eight.py"), Path(folder, "study")
        space.write_text(SPACE)
        words = ["run", str(space), "--data", str(demo_shards()), "--study", str(study)]
        words += ["--workers", str(workers), "--networks-per-trial", "8", "--steps", str(steps)]
        words += ["--batch", str(batch * workers), "--validate-every", str(steps)]
        command = [sys.executable, "-m", "raytransfer", *words]
        subprocess.run(command, check=True, capture_output=True)
        rows = read_study(study).networks
    # A network's seconds are its share of its cohort's.
    return len(rows) * steps * batch * workers / sum(row["seconds"] for row in rows)


if __name__ == "__main__":
    main()
