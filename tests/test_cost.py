"""What a plan costs: operations by hand, memory beside PyTorch's own, hours by the schedule."""

import itertools
import json
import re
import shutil
from dataclasses import replace

import pytest
import torch

from raytransfer.cli import main
from raytransfer.data.manifest import demo_shards, read_manifest
from raytransfer.errors import UserError
from raytransfer.nets.architecture import architecture
from raytransfer.nets.network import initial_weights
from raytransfer.schedule.cluster import (
    GB,
    Layout,
    Machine,
    layout_for,
    machine_for,
    ray_cluster,
    stated_machine,
)
from raytransfer.schedule.cost import (
    TRIAL_SECONDS,
    Rate,
    assumed_rate,
    multiply_adds,
    plan_cost,
)
from raytransfer.schedule.driver import prepare_study
from raytransfer.schedule.measured import measured_rate, planned_for, read_measured
from raytransfer.schedule.memory import cohort_memory, networks_that_fit
from raytransfer.study.plan import make_plan
from raytransfer.study.recipe import Recipe
from raytransfer.study.space import load_space
from raytransfer.study.split import make_split
from raytransfer.study.treatment import Treatment
from raytransfer.train.cohort import CohortTrainer
from raytransfer.train.stack import Member

SPLITS = {"random:0": make_split("random:0", tuple(map(str, range(1000))))}
GPU = Layout("cuda", workers=1, lanes=1, threads=1, trials_at_once=2)


def networks(*labels):
    return [Treatment.parse(f"random:0.{label}.s0") for label in labels]


# Operations.

# Multiply-adds of caffenet by layer, with the 500 classes of a half.
C1, C2, C3, C4, C5, C6, C7, C8 = (
    96 * 55 * 55 * 3 * 11 * 11,
    256 * 27 * 27 * 48 * 5 * 5,
    384 * 13 * 13 * 256 * 3 * 3,
    384 * 13 * 13 * 192 * 3 * 3,
    256 * 13 * 13 * 192 * 3 * 3,
    9216 * 4096,
    4096 * 4096,
    4096 * 500,
)


def test_a_base_is_three_passes_but_for_the_gradient_of_the_images():
    (count,) = multiply_adds(networks("baseB"), Recipe(), SPLITS, 3)
    assert count == 2 * C1 + 3 * (C2 + C3 + C4 + C5 + C6 + C7 + C8)


def test_a_prefix_that_networks_share_counts_once():
    cohort = networks("A2B", "A3B", "A3B+", "B3B", "A7B")
    two, three, finetuned, other, seven = multiply_adds(cohort, Recipe(), SPLITS, 3)
    assert two == C1 + C2 + 2 * C3 + 3 * (C4 + C5 + C6 + C7 + C8)
    assert three == C3 + 2 * C4 + 3 * (C5 + C6 + C7 + C8)  # layers 1 and 2 are there
    assert finetuned == 2 * C1 + 3 * (C2 + C3 + C4 + C5 + C6 + C7 + C8)
    assert other == C1 + C2 + C3 + 2 * C4 + 3 * (C5 + C6 + C7 + C8)  # another parent
    # Dropout after layer 6 differs by network: frozen layer 7 is computed for each.
    assert seven == C4 + C5 + C6 + C7 + 2 * C8


# Memory.

HALF = [
    96 * (3 * 11 * 11 + 1),
    256 * (48 * 5 * 5 + 1),
    384 * (256 * 3 * 3 + 1),
    384 * (192 * 3 * 3 + 1),
    256 * (192 * 3 * 3 + 1),
    4096 * (9216 + 1),
    4096 * (4096 + 1),
    500 * (4096 + 1),
]


def held(*labels, recipe=None, layout=GPU):
    return cohort_memory(networks(*labels), recipe or Recipe(), SPLITS, 3, layout)


def test_weights_that_learn_take_three_numbers_frozen_ones_one_and_a_prefix_is_held_once():
    def weights(*labels):
        """What does not grow with the batch, of the last network."""
        one, two = (held(*labels, recipe=Recipe(batch=batch)) for batch in (64, 128))
        return [2 * small - large for small, large in zip(one, two, strict=True)]

    base = 4 * 3 * sum(HALF)
    assert weights("baseB") == [base]
    parent = 4 * sum(HALF)
    three = 4 * 3 * sum(HALF[3:])
    found = weights("baseB", "A3B", "A3B", "B3B")
    assert [b - a for a, b in itertools.pairwise(found)] == [
        parent + three,
        three,
        parent + three,
    ]
    seven = 4 * (3 * HALF[7] + HALF[6])
    assert weights("A7B") == [parent + seven]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_activations_are_what_autograd_saves(precision):
    """caffenet's outputs and what its layers leave for the backward pass, within a tenth."""
    recipe, batch = Recipe(batch=2, precision=precision), 2
    arch = architecture("caffenet", 500)
    weights = initial_weights(arch, 3, torch.Generator().manual_seed(0))
    (treatment,) = networks("baseB")
    means = {"B": torch.full((3, 256, 256), 120.0)}
    member = Member(treatment, weights, "", "B")
    trainer = CohortTrainer(arch, [member], {}, means, recipe)
    own = {p.untyped_storage().data_ptr() for s in trainer.stacks for p in s.parameters()}
    # Autocast's copies of weights are of these shapes; stacked, full layers have one more side.
    shapes = {w.shape for w in weights.values()} | {
        (1, *w.shape) for w in weights.values() if w.dim() == 2
    }
    saved = {}

    def save(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and tensor.shape not in shapes:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        trainer.step(
            0,
            torch.zeros(batch, 3, 256, 256, dtype=torch.uint8),
            torch.zeros(batch, dtype=torch.int64),
            torch.arange(batch),
            torch.zeros(batch, 3, dtype=torch.float64),
        )

    def grows(layers):
        """Bytes by which a network that learns the last layers grows with the batch."""
        small, large = (held(*layers, recipe=replace(recipe, batch=count))[-1] for count in (2, 4))
        return large - small

    # A second network adds what it saves, and nothing for cropping or gradients on their way.
    estimated = grows(["baseB", "baseB"]) - grows(["baseB"])
    crops = 4 * batch * 3 * 227 * 227 // (2 if precision == "bfloat16" else 1)
    assert estimated + crops == pytest.approx(sum(saved.values()), rel=0.1)


def test_shared_batches_shrink_activations_and_a_cpu_keeps_the_first_weights():
    (alone,), (shared,) = held("baseB"), held("baseB", layout=replace(GPU, workers=2))
    weights = 4 * 3 * sum(HALF)
    assert shared - weights == pytest.approx((alone - weights) / 2)
    (cpu,) = held("baseB", layout=replace(GPU, device="cpu"))
    assert cpu == alone + 4 * sum(HALF)


def test_as_many_networks_as_fit_and_one_at_least():
    totals = held("baseB", "A3B", "B3B")
    assert totals == sorted(totals)
    assert networks_that_fit(totals, totals[1]) == 2
    assert networks_that_fit(totals, totals[1] - 1) == 1
    assert networks_that_fit(totals, 0) == 1


# Hours.


def cost_of(limit, rate, trials_at_once=2):
    labels = networks("baseA", "baseB", *(f"A{n}B" for n in (1, 2, 3)))
    layout = replace(GPU, trials_at_once=trials_at_once)
    plan = make_plan(labels, networks_per_trial=limit, trials_at_once=trials_at_once)
    return plan_cost(plan, layout, Recipe(steps=10, batch=4), SPLITS, 3, rate)


def test_hours_are_operations_over_the_rate_and_a_wave_waits_for_its_last_trial():
    rate = Rate((1,), (1e9,), "")
    recipe = Recipe(steps=10, batch=4)
    alone = [
        2 * 40 * multiply_adds([t], recipe, SPLITS, 3)[0] / 1e9 / 3600
        for t in networks("baseA", "baseB", "A1B", "A2B", "A3B")
    ]
    cost = cost_of(1, rate)
    assert (cost.images, cost.network_images) == (5 * 40, 5 * 40)
    assert cost.device_hours == pytest.approx(sum(alone))
    assert cost.operations == pytest.approx(sum(alone) * 3600 * 1e9)
    start = TRIAL_SECONDS / 3600
    # Two bases side by side; then A1B beside A2B, and A3B where A2B was.
    waves = max(alone[:2]) + start, max(alone[2], alone[3] + alone[4]) + 2 * start
    assert cost.elapsed_hours == pytest.approx(sum(waves), rel=0.01)
    packed = cost_of(None, rate, trials_at_once=1)
    assert packed.images == 3 * 40
    assert packed.network_images == 5 * 40
    assert packed.device_hours < cost.device_hours


def test_a_rate_is_a_line_between_cohorts_that_were_measured():
    rate = Rate((1, 5), (10.0, 30.0), "")
    assert [rate.of(n) for n in (1, 3, 5, 50)] == [10, 20, 30, 30]


# The machine that is planned for.


def test_a_machine_may_be_stated_that_is_not_here(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert stated_machine("cuda", None, 80) == Machine("cuda", 1, 80 * GB)
    assert stated_machine("auto", 8, 141.5) == Machine("cuda", 8, int(141.5 * GB))
    assert stated_machine("cpu", None, 6).memory == 6 * GB
    assert stated_machine("auto").device == "cpu"
    for wrong, words in (
        ({"device": "cuda"}, "--device-memory 80"),
        ({"gpus": 8}, "--device-memory 80"),
        ({"gpus": 0}, "--gpus is 1 or more"),
        ({"device": "cpu", "gpus": 1}, "leave one of them out"),
        ({"memory_gb": float("nan")}, "a million, not nan"),
        ({"memory_gb": -1}, "a million, not -1"),
        ({"memory_gb": 1e300}, "a million, not 1e+300"),
    ):
        with pytest.raises(UserError) as refused:
            stated_machine(**{"device": "auto", **wrong})
        assert words in str(refused.value)


def nodes_of(*resources):
    return lambda: [{"Alive": True, "Resources": each} for each in resources]


HEAD = {"memory": 8 * GB, "node:__internal_head__": 1.0}


def test_a_clusters_gpus_are_all_used_and_others_that_are_to_come(monkeypatch):
    gpus = {"CPU": 64.0, "GPU": 8.0, "memory": 500 * GB}
    monkeypatch.setattr("ray.nodes", nodes_of(HEAD, gpus, gpus, {"CPU": 32.0, "decode": 32.0}))
    monkeypatch.setattr("raytransfer.schedule.cluster._first_gpu", lambda: (80 * GB, 3))
    assert ray_cluster("auto") == Machine("cuda", 16, 80 * GB, threads=7)
    assert ray_cluster("auto", gpus=64) == Machine("cuda", 64, 80 * GB, threads=7)
    monkeypatch.setattr("ray.nodes", nodes_of(HEAD))
    assert ray_cluster("cuda", gpus=4) == Machine("cuda", 4, 80 * GB, threads=3)
    with pytest.raises(UserError, match="--gpus to how many it grows"):
        ray_cluster("cuda")


def test_a_cluster_without_gpus_trains_on_its_cores(monkeypatch):
    workers = [{"CPU": 4.0, "memory": 8 * GB}, {"CPU": 2.0, "memory": 3 * GB}]
    monkeypatch.setattr("ray.nodes", nodes_of(HEAD, *workers))
    assert ray_cluster("auto") == Machine("cpu", 6, 9 * GB)
    monkeypatch.setattr("ray.nodes", nodes_of(HEAD))
    with pytest.raises(UserError, match="no cores to train on"):
        ray_cluster("auto")


def test_more_gpus_than_this_machine_has_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, 80 * GB))
    assert machine_for("auto", 1).units == 1
    with pytest.raises(UserError, match="--gpus 3 asks for more GPUs than the 2 that are here"):
        machine_for("auto", 3)


def test_gpus_are_shared_out_as_workers_and_trials():
    layout = layout_for(Machine("cuda", 8, 80 * GB), 2, None)
    assert (layout.workers, layout.lanes, layout.trials_at_once) == (2, 1, 4)
    with pytest.raises(UserError, match="1 to 8, the GPUs that there are, not 9"):
        layout_for(Machine("cuda", 8, 80 * GB), 9, None)


# The table.


@pytest.fixture(scope="module")
def thousand(tmp_path_factory):
    """Shards that say they hold ImageNet; none of their images is read."""
    folder = tmp_path_factory.mktemp("shards") / "thousand"
    shutil.copytree(demo_shards(), folder)
    large = replace(
        read_manifest(folder),
        classes=tuple(f"n{label:08}" for label in range(1000)),
        train_counts=(1281,) * 1000,
        val_counts=(50,) * 1000,
        channels=3,
        height=256,
        width=256,
        mean_colour=((120.0,) * 3,) * 1000,
    )
    (folder / "manifest.json").write_text(large.to_json())
    return str(folder)


def table(said):
    """The cost table: networks a trial -> its other cells."""
    block = said.split("Cost ")[1].split("\n\n")[0].splitlines()[3:]
    cells = [re.split(r" {2,}", line.strip()) for line in block]
    return {row[0]: row[1:] for row in cells}


@pytest.mark.parametrize(
    ("space", "trials", "passes"), [("balanced", 232, 16), ("paper", 136, 22), ("reduced", 12, 12)]
)
def test_plan_compares_one_four_and_all_networks_a_trial(space, trials, passes, thousand, capsys):
    asked = ["plan", space, "--data", thousand, "--gpus", "8", "--device-memory", "2000"]
    assert main(asked) == 0
    said = capsys.readouterr().out
    assert all(len(line) <= 100 for line in said.splitlines())
    assert "8 GPUs (cuda), 2,000.0 GB each, 70% of it for networks" in said
    assert "at an assumed 5e+13 operations a second of a GPU" in said
    rows = table(said)
    assert list(rows) == ["1", "4", "auto, this plan"]
    images = load_space(space).recipe.steps * 256
    assert rows["1"][:3] == [f"{trials}", f"{trials}", f"{trials * images / 1e6:,.0f} million"]
    found = prepare_study(load_space(space), thousand, machine=Machine("cuda", 8, 2000 * GB)).plan
    # Cut into lanes for eight GPUs, a target may be passed over twice, but never more often.
    assert passes <= found.passes <= 2 * passes
    assert rows["auto, this plan"][1] == str(found.passes)
    assert float(rows["1"][3]) >= float(rows["4"][3]) >= float(rows["auto, this plan"][3])


def test_a_number_that_is_asked_for_is_compared_too(thousand, capsys):
    asked = ["plan", "balanced", "--data", thousand, "--networks-per-trial", "9"]
    assert main([*asked, "--gpus", "1", "--device-memory", "40"]) == 0
    said = capsys.readouterr().out
    assert list(table(said)) == ["1", "4", "9, this plan", "auto"]
    assert "1 GPU (cuda), 40.0 GB, 70% of it" in said


def test_the_slowest_plan_fits_the_page_too(thousand, capsys):
    assert main(["plan", "balanced", "--data", thousand, "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "core-hours" in said
    assert all(len(line) <= 100 for line in said.splitlines())


def test_less_memory_makes_more_passes(thousand):
    def passes(memory):
        machine = Machine("cuda", 1, memory * GB)
        return prepare_study(load_space("balanced"), thousand, machine=machine).plan.passes

    assert passes(8) > passes(24) > passes(80) == 16


def test_a_stated_rate_counts(thousand, capsys):
    asked = ["plan", "reduced", "--data", thousand, "--gpus", "2", "--device-memory", "80"]
    assert main(asked) == 0
    assumed = float(table(capsys.readouterr().out)["1"][3])
    assert main([*asked, "--device-rate", "1e14"]) == 0
    said = capsys.readouterr().out
    assert "at a stated 1e+14 operations a second of a GPU" in said
    assert float(table(said)["1"][3]) == pytest.approx(assumed / 2, rel=0.01)


# Measured step times.


def row(**changes):
    return {
        "network": "caffenet",
        "precision": "float32",
        "compiled": False,
        "batch": 256,
        "networks": 1,
        "operations": 1e12,
        "seconds": 0.1,
    } | changes


def measured_file(path, *rows, **changes):
    content = {
        "format": 1,
        "device": "cuda",
        "name": "a GPU",
        "memory_bytes": 80 * GB,
        "threads": 1,
        "date": "2026-01-02T03:04:05+00:00",
        "rows": rows or [row()],
    }
    path.write_text(json.dumps(content | changes))
    return path


def test_the_rate_is_that_of_the_steps_most_like_the_recipes(tmp_path):
    path = measured_file(
        tmp_path / "device.json",
        row(),
        row(networks=4, operations=4e12, seconds=0.2),
        row(networks=4, seconds=0.001, compiled=True),
        row(networks=4, seconds=0.001, precision="bfloat16"),
        row(networks=4, seconds=0.001, network="small"),
        row(networks=4, seconds=0.001, batch=8),
        row(networks=8, seconds=None),
    )
    rate = measured_rate(read_measured(path), path, Recipe(), 200)
    assert (rate.networks, rate.rates) == ((1, 4), pytest.approx((1e13, 2e13)))
    assert rate.source == "from device.json: steps of 256 images, a GPU, 2026-01-02"
    assert measured_rate(read_measured(path), path, Recipe(), 100).rates == (1e15,)
    with pytest.raises(UserError, match="no steps of network small in bfloat16"):
        measured_rate(read_measured(path), path, Recipe(network="small", precision="bfloat16"), 1)


def test_a_rate_of_several_threads_is_shared_by_the_cores(tmp_path):
    path = measured_file(tmp_path / "device.json", device="cpu", threads=4)
    assert measured_rate(read_measured(path), path, Recipe(), 256).rates == (2.5e12,)


def test_plan_counts_hours_from_measured_steps(tmp_path, thousand, capsys):
    path = measured_file(tmp_path / "device.json")
    asked = ["plan", "reduced", "--data", thousand, "--measured", str(path)]
    assert main(asked) == 0
    said = capsys.readouterr().out
    assert "Cost from device.json: steps of 256 images, a GPU, 2026-01-02, without" in said
    assert "1 GPU (cuda), 80.0 GB" in said
    (base,) = multiply_adds([Treatment("random:0", "AB")], Recipe(), SPLITS, 3)
    hours = 12 * 200_000 * 256 * 2 * base / 1e13 / 3600
    assert float(table(said)["1"][3].replace(",", "")) == pytest.approx(hours, rel=0.01)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "cannot be read as step times"),
        ("[]", "cannot be read as step times"),
        ('{"format": 2}', "another format than 1"),
        ({"device": "tpu"}, "cannot be read as step times (ValueError: tpu)"),
        ({"rows": [row(seconds=0)]}, "0.0 where a number above 0 is due"),
        ({"rows": [row(batch="many")]}, "cannot be read as step times"),
        ({"rows": [{}]}, "cannot be read as step times (KeyError: 'seconds')"),
        ({"rows": [row(seconds=None)]}, "no steps of network caffenet in float32"),
        ({"threads": 0}, "0 where a number above 0 is due"),
    ],
)
def test_a_broken_file_is_refused_in_one_sentence(tmp_path, content, words, thousand, capsys):
    path = tmp_path / "device.json"
    if isinstance(content, str):
        path.write_text(content)
    else:
        measured_file(path, **content)
    assert main(["plan", "paper", "--data", thousand, "--measured", str(path)]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert str(path) in said
    assert said.count("\n") == 1


def test_settings_that_contradict_are_refused(tmp_path):
    path = measured_file(tmp_path / "device.json")
    asked = {"device": "auto", "gpus": None, "memory_gb": None, "operations": None}
    for wrong, words in (
        ({"operations": 1e12}, "Give --measured or --device-rate, not both"),
        ({"device": "cpu"}, "measured cuda and the plan is for cpu"),
        ({"measured": tmp_path / "gone.json"}, "no file of measured step times"),
        ({"measured": None, "operations": 0.0}, "above 0, not 0.0"),
    ):
        given = {"measured": path, **asked, **wrong}
        with pytest.raises(UserError) as refused:
            planned_for(**given, recipe=Recipe(), images=256)
        assert words in str(refused.value)
    cpu = measured_file(tmp_path / "cpu.json", device="cpu")
    with pytest.raises(UserError, match="measured cpu and the plan is for cuda"):
        planned_for(**{**asked, "gpus": 8}, measured=cpu, recipe=Recipe(), images=256)


def test_a_rate_that_nobody_measured_is_said_to_be_assumed():
    assert assumed_rate(Machine("cpu", 2, GB)).source.startswith("at an assumed 2e+10 operations")
    assert assumed_rate(Machine("cpu", 2, GB), 3e10).source.startswith("at a stated 3e+10")
