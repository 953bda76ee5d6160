"""Nothing lost: a study with many random faults beside the same study with none.

    uv run benchmarks/chaos.py

Processes are killed at random moments (of a step, a validation, a write), at random places of the
study: those of the trial, the command itself, Ray's head, or the command is asked to stop. It is
started again until it is done. Printed: faults, starts, how often a network was trained to its end
more than once, lines lost or doubled, weights that differ; and the seconds from a fault to the next
step.

Then what a checkpoint costs: how long training waits for its copy, and how long the thread that
writes it takes, as a share of the default interval.
"""

import argparse
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "chaos"))
from faults import Chaos, Fault, kill, outcome, terminate

from raytransfer.data.manifest import demo_shards
from raytransfer.nets.architecture import architecture
from raytransfer.nets.network import transplant
from raytransfer.results.store import StudyFolder
from raytransfer.schedule.driver import CHECKPOINT_EVERY
from raytransfer.study.recipe import Recipe
from raytransfer.study.treatment import Treatment
from raytransfer.train.checkpoint import Checkpointer
from raytransfer.train.cohort import CohortTrainer
from raytransfer.train.interval import Interval
from raytransfer.train.stack import Member

STEPS, EVERY = 400, 20
LABELS = ("baseA", "baseB", "A2B", "A6B", "R4B", "B4B+")
"""Networks at whose steps it is hit: some of each stage."""

WEIGHTS = {"worker": 70, "trial": 14, "driver": 8, "gcs": 4, "raylet": 4}
"""How often each process is hit."""

SPACE = f"""
from raytransfer.study.recipe import Recipe
from raytransfer.study.treatment import UNTRAINED, Treatment

recipe = Recipe(
    network="small", steps={STEPS}, batch=32, validate_every=100, learning_rate=0.02,
    schedule="one-cycle", dropout=0.1, mirror=True, pad=2,
)


def treatments():
    for n in (2, 4, 6):
        yield Treatment("random:0", "B", "A", n)
        yield Treatment("random:0", "B", "B", n, finetuned=True)
        yield Treatment("random:0", "B", UNTRAINED, n)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        attack(Path(folder), random_faults(options.faults, random.Random(options.seed)))
    for network, networks in (("small", 37), ("caffenet", 2)):
        with tempfile.TemporaryDirectory() as folder:
            overhead(StudyFolder(folder), network, networks)


def random_faults(count: int, chance: random.Random) -> list[Fault]:
    """Most hit what a trial consists of; one of six the command or Ray's head."""
    faults = []
    for _ in range(count):
        step = f"step {chance.randrange(STEPS)} of {chance.choice(LABELS)}"
        moments = [step, "validation", "write checkpoints/", "start"]
        at = chance.choices(moments, [84, 7, 7, 2])[0]
        process = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        faults.append(kill(process, at))
        if process == "driver" and chance.random() < 0.5:
            faults[-1] = terminate(process, at)
    return faults


def attack(folder: Path, faults: list[Fault]) -> None:
    (folder / "some.py").write_text(SPACE)

    def command(study: Path) -> list[object]:
        every = ("--checkpoint-every", EVERY)
        return ["run", folder / "some.py", "--data", demo_shards(), "--study", study,
                "--deterministic", *every]  # fmt: skip

    words = [sys.executable, "-m", "raytransfer", *map(str, command(folder / "calm"))]
    start = time.perf_counter()
    subprocess.run(words, check=True, capture_output=True)
    calm = time.perf_counter() - start
    chaos = Chaos(folder / "chaos", command(folder / "study"), faults)
    start = time.perf_counter()
    chaos.run(starts=len(faults) + 1, seconds=3600)
    seconds = time.perf_counter() - start
    expected, found = outcome(folder / "calm"), outcome(folder / "study")
    lines = Counter()
    for id, (_, rows) in expected.items():
        steps, wanted = ([row["step"] for row in some] for some in (found[id][1], rows))
        lines["lost"] += len(set(wanted) - set(steps))
        lines["doubled"] += len(steps) - len(set(steps))
    kinds = Counter(fault.process for fault in chaos.happened)
    hit = ", ".join(f"{number} {process}" for process, number in kinds.items())
    print(f"{len(expected)} networks; {calm:.0f} s with no fault, {seconds:.0f} s with")
    print(f"faults                 {len(chaos.happened)} ({hit})")
    print(f"starts of the command  {len(chaos.outcomes)}; the last ended with {chaos.outcomes[-1]}")
    print(f"networks redone        {sum(times - 1 for times in chaos.ends.values())}")
    print(f"lines lost, doubled    {lines['lost']}, {lines['doubled']}")
    print(f"weights that differ    {sum(found[id][0] != expected[id][0] for id in expected)}")
    print(f"lines that differ      {sum(found[id][1] != expected[id][1] for id in expected)}")
    waits = chaos.recoveries
    print(
        f"fault to next step     median {statistics.median(waits):.1f} s, longest {max(waits):.1f}"
    )


def overhead(folder: StudyFolder, network: str, networks: int) -> None:
    """What one checkpoint of a cohort of bases costs, all of whose weights learn."""
    arch = architecture(network, 10)
    channels = 1 if network == "small" else 3
    treatments = [Treatment("random:0", "B", seed=seed) for seed in range(networks)]
    members = [Member(t, transplant(t, arch, channels, None), "", "B") for t in treatments]
    mean = torch.zeros(channels, arch.side, arch.side)
    trainer = CohortTrainer(arch, members, {}, {"B": mean}, Recipe(network=network, batch=2))
    images = torch.zeros(2, channels, arch.side, arch.side, dtype=torch.uint8)
    labels = torch.zeros(2, dtype=torch.int64)
    trainer.step(0, images, labels, labels, torch.zeros(2, 3, dtype=torch.float64))
    copies, writes = [], []
    for step in range(3):
        checkpointer = Checkpointer(folder, treatments)
        start = time.perf_counter()
        state = trainer.state()
        copies.append(time.perf_counter() - start)
        checkpointer.save(step, 0.0, state, {treatment.id: ((), None) for treatment in treatments})
        checkpointer.close(finished=False)
        writes.append(time.perf_counter() - start - copies[-1])
    every = Interval.parse(CHECKPOINT_EVERY).seconds
    assert every is not None
    copy, write = statistics.median(copies), statistics.median(writes)
    print(
        f"checkpoint of {networks} {network}: training waits {copy:.3f} s ({copy / every:.3%} of "
        f"{CHECKPOINT_EVERY}), its thread writes for {write:.2f} s ({write / every:.2%})"
    )


if __name__ == "__main__":
    sys.exit(main())
