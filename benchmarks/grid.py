"""The same networks three ways, in one call: raytransfer, a plain loop, and textbook Ray.

    uv run benchmarks/grid.py

(a) `raytransfer run`, as a user gives it, Ray's start counted and not.
(b) What a researcher would write: plain PyTorch, one network after another, all cores as threads,
    images decoded in memory beforehand (not counted), the same recipe, steps, batch and
    validations.
(c) Textbook Ray: a Ray Tune trial for every network, in it a TorchTrainer over a data set that
    ray.data.read_parquet and map_batches decoded once, kept in memory by materialize(), and that
    iter_torch_batches shuffles in a buffer; two trials at a time, no validation. A few networks are
    run; their time, Ray's start and the decoding left out, is scaled to all.

By default the networks of the demo's random split: 37. Prints both sides of every ratio, and how
far the accuracies of (a) and (b) are apart.
"""

import argparse
import io
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from raytransfer.data.manifest import demo_shards, mean_image
from raytransfer.data.reader import read_locally
from raytransfer.nets.architecture import architecture
from raytransfer.nets.network import Network, transplant, untrained_weights
from raytransfer.results.store import read_study
from raytransfer.schedule.driver import Prepared, prepare_study
from raytransfer.schedule.trials import StudyJob, cohort_job
from raytransfer.study.plan import Cohort
from raytransfer.study.recipe import Recipe
from raytransfer.study.space import load_space
from raytransfer.study.treatment import UNTRAINED, Treatment

SPACE = """
from tune_spaces import demo
from tune_spaces.demo import recipe

def treatments():
    return (t for t in demo.treatments() if t.split == "random:0")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, help="steps of each network (the demo's by default)")
    parser.add_argument("--textbook", type=int, default=2, help="networks run by (c); 0 for none")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        space = Path(folder) / "grid.py"
        space.write_text(SPACE)
        loaded = load_space(str(space))
        recipe = loaded.recipe
        if options.steps:
            recipe = replace(recipe, steps=options.steps, validate_every=-(-options.steps // 5))
        prepared = prepare_study(loaded, demo_shards(), recipe)
        networks = len(prepared.plan.treatments)
        describe(recipe, networks)
        ours, training, wall = with_raytransfer(prepared, space, Path(folder) / "study")
        print(f"(a) raytransfer    {wall:8.1f} s in all, {training:.1f} s of it training")
        theirs, plain = plain_loop(prepared)
        print(f"(b) plain loop     {plain:8.1f} s")
        if options.textbook:
            seconds = textbook(prepared, options.textbook, Path(folder) / "textbook")
            scaled = seconds / options.textbook * networks
            print(
                f"(c) textbook Ray   {scaled:8.1f} s, from {seconds:.1f} s for {options.textbook}"
            )
    print(
        f"(b)/(a)            {plain / wall:8.2f} with Ray's start, {plain / training:.2f} without"
    )
    if options.textbook:
        print(f"(c)/(a)            {scaled / wall:8.2f}")
    gaps = [100 * (ours[id] - theirs[id]) for id in ours]
    print(
        f"accuracy (a) - (b) {np.mean(gaps):+8.2f} points, mean of {len(gaps)} networks; "
        f"sd of a network {np.std(gaps, ddof=1):.2f}"
    )


def describe(recipe: Recipe, networks: int) -> None:
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load ", end="")
    print(f"{os.getloadavg()[0]:.1f} at the start; Python {platform.python_version()}, ", end="")
    print(f"torch {torch.__version__}")
    print(f"{networks} networks, {recipe.steps} steps of {recipe.batch} images, {recipe.network}")


def with_raytransfer(
    prepared: Prepared, space: Path, study: Path
) -> tuple[dict[str, float], float, float]:
    """Accuracies, seconds of training, seconds in all."""
    command = [sys.executable, "-m", "raytransfer", "run", str(space), "--study", str(study)]
    command += ["--data", prepared.manifest.folder, "--steps", str(prepared.recipe.steps)]
    command += ["--validate-every", str(prepared.recipe.validate_every)]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - start
    rows = {row["treatment"]: row for row in read_study(study).networks}

    def lane_seconds(lane: tuple[Cohort, ...]) -> float:
        return sum(float(rows[t.id]["seconds"]) for cohort in lane for t in cohort.treatments)

    training = sum(
        max(lane_seconds(lane) for trial in wave for lane in stage)
        for wave in prepared.plan.waves
        for stage in zip(*(trial.stages for trial in wave), strict=True)
        for stage in stage
    )
    return {id: row["top1"] for id, row in rows.items()}, training, wall


def images_of(prepared: Prepared, treatment: Treatment) -> tuple[torch.Tensor, ...]:
    """Training and validation images (uint8) and labels of a network's target, in memory."""
    recipe = replace(prepared.recipe, steps=10**6, validate_every=10**6)
    job = StudyJob(
        "", prepared.manifest.folder, recipe, prepared.splits, prepared.layout, deterministic=False
    )
    stream = cohort_job(Cohort((treatment,)), job).stream
    parts: dict[str, list[Any]] = {"train": [], "val": []}
    count = 0
    for batch in read_locally(stream):
        if count >= stream.train_images:
            break
        parts["train"].append((batch.images, batch.labels))
        count += len(batch.labels)
    for batch in read_locally(replace(stream, start_step=stream.steps - 1)):
        if batch.phase == "val":
            parts["val"].append((batch.images, batch.labels))
    arrays = (np.concatenate([b[i] for b in parts[p]]) for p in ("train", "val") for i in (0, 1))
    return tuple(torch.from_numpy(array) for array in arrays)


def plain_loop(prepared: Prepared) -> tuple[dict[str, float], float]:
    """Accuracies, seconds."""
    torch.set_num_threads(os.cpu_count() or 1)
    recipe, manifest = prepared.recipe, prepared.manifest
    images = {t: images_of(prepared, Treatment("random:0", t)) for t in ("A", "B")}
    split = prepared.splits["random:0"]
    height, width = manifest.height or 0, manifest.width or 0
    means = {
        t: torch.from_numpy(mean_image(manifest, split.classes(t), height, width)) for t in "AB"
    }
    trained: dict[str, dict[str, torch.Tensor]] = {}
    scores = {}
    start = time.perf_counter()
    for treatment in prepared.plan.treatments:
        arch = architecture(recipe.network, len(split.classes(treatment.target)))
        if treatment.source == UNTRAINED:
            parent = untrained_weights(treatment, arch, manifest.channels)
        else:
            parent = trained[treatment.parent.id] if treatment.parent else None
        net = Network(arch, transplant(treatment, arch, manifest.channels, parent), recipe.dropout)
        mean = means[treatment.source if treatment.source in ("A", "B") else treatment.target]
        train_plain(net, treatment, recipe, images[treatment.target], mean, scores)
        if treatment.kind == "base":
            trained[treatment.id] = {k: v.detach().clone() for k, v in net.state_dict().items()}
    return scores, time.perf_counter() - start


def train_plain(
    net: Network,
    treatment: Treatment,
    recipe: Recipe,
    images: tuple[torch.Tensor, ...],
    mean: torch.Tensor,
    scores: dict[str, float],
) -> None:
    """One network, the way that a tutorial trains one."""
    x, y, val_x, val_y = images
    scale = net.architecture.scale
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(int(name[len("layer")]) > treatment.frozen_layers)
    learning = [(n, p) for n, p in net.named_parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(
        [
            {"params": [p for n, p in learning if n.endswith("weight")]},
            {"params": [p for n, p in learning if n.endswith("bias")], "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )
    order = torch.empty(0, dtype=torch.long)
    for step in range(recipe.steps):
        if len(order) < recipe.batch:
            order = torch.cat([order, torch.randperm(len(x))])
        chosen, order = order[: recipe.batch], order[recipe.batch :]
        batch = (x[chosen].float() - mean) * scale
        flip = torch.rand(len(batch)) < 0.5
        batch[flip] = batch[flip].flip(-1)
        optimiser.param_groups[0]["lr"] = recipe.rate(step)
        optimiser.param_groups[1]["lr"] = recipe.rate(step) * recipe.bias_rate
        net.train()
        optimiser.zero_grad()
        F.cross_entropy(net(batch), y[chosen]).backward()
        optimiser.step()
        if (step + 1) % recipe.validate_every == 0 or step + 1 == recipe.steps:
            net.eval()
            right = 0
            with torch.no_grad():
                for i in range(0, len(val_x), recipe.batch):
                    val = (val_x[i : i + recipe.batch].float() - mean) * scale
                    right += int((net(val).argmax(1) == val_y[i : i + recipe.batch]).sum())
            scores[treatment.id] = right / len(val_x)


def textbook(prepared: Prepared, count: int, folder: Path) -> float:
    """Seconds of `count` bases of the first split's task B, as the documentation would have it."""
    import ray
    from ray import train, tune
    from ray.train.torch import TorchTrainer

    recipe, split = prepared.recipe, prepared.splits["random:0"]
    classes = split.classes("B")
    shards, arch = prepared.manifest.folder, architecture(recipe.network, len(classes))

    def decode(batch: dict[str, Any]) -> dict[str, Any]:
        pixels = [np.asarray(Image.open(io.BytesIO(image))) for image in batch["image"]]
        labels = np.searchsorted(classes, batch["label"])
        return {"image": np.stack(pixels)[:, None], "label": labels}

    def loop(config: dict[str, Any]) -> None:
        net = train.torch.prepare_model(Network(arch, config["weights"], recipe.dropout))
        optimiser = torch.optim.SGD(net.parameters(), recipe.learning_rate, recipe.momentum)
        step, data = 0, train.get_dataset_shard("train")
        while step < recipe.steps:
            for batch in data.iter_torch_batches(
                batch_size=recipe.batch, drop_last=True, local_shuffle_buffer_size=1000
            ):
                optimiser.zero_grad()
                x = (batch["image"].float() - 70) * arch.scale
                F.cross_entropy(net(x), batch["label"]).backward()
                optimiser.step()
                step += 1
                if step == recipe.steps:
                    break
        train.report({"step": step})

    ray.init(
        address="local",
        num_cpus=6,
        log_to_driver=False,
        logging_level="ERROR",
        include_dashboard=False,
    )
    files = [f"{shards}/{file.name}" for file in prepared.manifest.train]
    images = ray.data.read_parquet(files, columns=["image", "label"])
    images = images.filter(lambda row: row["label"] in classes).map_batches(decode).materialize()

    def trial(config: dict[str, Any]) -> None:
        treatment = Treatment("random:0", "B", seed=config["seed"])
        weights = transplant(treatment, arch, prepared.manifest.channels, None)
        TorchTrainer(
            loop,
            train_loop_config={"weights": weights},
            scaling_config=train.ScalingConfig(num_workers=1),
            run_config=train.RunConfig(name=f"seed{config['seed']}", storage_path=str(folder)),
            datasets={"train": images},
        ).fit()
        tune.report({"done": 1})

    start = time.perf_counter()
    tune.Tuner(
        tune.with_resources(trial, {"CPU": 0.01}),
        param_space={"seed": tune.grid_search(list(range(count)))},
        tune_config=tune.TuneConfig(max_concurrent_trials=2),
        run_config=tune.RunConfig(name="tune", storage_path=str(folder), verbose=0),
    ).fit()
    seconds = time.perf_counter() - start
    ray.shutdown()
    return seconds


if __name__ == "__main__":
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    main()
