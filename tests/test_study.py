"""The whole road through Ray, on a few small networks: what runs, runs once, and comes right."""

import json
import subprocess
import sys
from pathlib import Path

import corpus
import pytest
from PIL import Image

from raytransfer.data.manifest import demo_shards, read_manifest
from raytransfer.results.store import StudyFolder, read_study
from raytransfer.study.treatment import Treatment

SPACE = """
from raytransfer.study.recipe import Recipe
from raytransfer.study.treatment import Treatment

recipe = Recipe(network="small", steps=40, batch=32, validate_every=20, learning_rate=0.02)


def treatments():
    yield Treatment("random:0", "B", "A", 3)
    yield Treatment("random:0", "B", "A", 7)
    yield Treatment("random:0", "B", "B", 2, finetuned=True)
"""


def run(space: Path, study: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The command as a user gives it."""
    return raytransfer("run", space, "--data", demo_shards(), "--study", study, *options)


def raytransfer(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "raytransfer", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("space") / "few.py"
    path.write_text(SPACE)
    return path


@pytest.fixture(scope="module")
def packed(space: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    study = space.parent / "packed"
    return study, run(space, study, "--deterministic")


def hashes(study: Path) -> dict[str, str]:
    return {row["treatment"]: row["weights_sha256"] for row in read_study(study).networks}


def test_every_network_finishes_and_frozen_layers_do_not_move(packed):
    study, done = packed
    assert done.returncode == 0, done.stderr
    networks = {row["treatment"]: row for row in read_study(study).networks}
    assert len(networks) == 5, "two bases are added to the three networks asked for"
    assert {row["state"] for row in networks.values()} == {"finished"}
    assert all(row["steps"] == 40 and 0 < row["top1"] < 1 for row in networks.values())
    assert networks["random:0.A3B.s0"]["frozen_sha256"]
    base = networks["random:0.baseA.s0"]["weights_sha256"]
    assert networks["random:0.A3B.s0"]["parent_sha256"] == base


def test_rows_tell_each_validation(packed):
    rows = StudyFolder(packed[0]).rows(Treatment.parse("random:0.A3B.s0"))
    assert [row["step"] for row in rows] == [20, 40]
    assert [row["images"] for row in rows] == [640, 1280]


def test_the_terminal_shows_no_noise_of_the_libraries(packed):
    done = packed[1]
    for noise in ("INFO", "WARNING", "Traceback", "╭", "raylet"):
        assert noise not in done.stdout + done.stderr


def test_the_same_command_again_trains_nothing(space, packed):
    study, _ = packed
    before = {path: path.stat().st_mtime_ns for path in (study / "networks").rglob("*.*")}
    again = run(space, study, "--deterministic")
    assert again.returncode == 0, again.stderr
    after = {path: path.stat().st_mtime_ns for path in (study / "networks").rglob("*.*")}
    assert after == before


@pytest.mark.slow
def test_what_is_missing_is_trained_again_to_the_same_weights(space, packed):
    study, _ = packed
    before = hashes(study)
    (study / "networks" / "random:0.A7B.s0" / "done.json").unlink()
    again = run(space, study, "--deterministic")
    assert again.returncode == 0, again.stderr
    assert hashes(study) == before


@pytest.mark.slow
def test_a_network_alone_and_packed_has_the_same_weights(space, packed, tmp_path):
    alone = run(space, tmp_path / "alone", "--deterministic", "--networks-per-trial", "1")
    assert alone.returncode == 0, alone.stderr
    assert hashes(tmp_path / "alone") == hashes(packed[0])


@pytest.mark.slow
def test_two_workers_share_the_batch(space, packed, tmp_path):
    shared = run(space, tmp_path / "shared", "--workers", "2")
    assert shared.returncode == 0, shared.stderr
    ours = {row["treatment"]: row["loss"] for row in read_study(tmp_path / "shared").networks}
    theirs = {row["treatment"]: row["loss"] for row in read_study(packed[0]).networks}
    assert ours == pytest.approx(theirs, abs=0.05)


def test_another_recipe_in_the_same_folder_is_refused(space, packed):
    refused = run(space, packed[0], "--steps", "50")
    assert refused.returncode == 2
    assert "recipe.steps: 40 there, 50 asked for" in refused.stderr
    study = json.loads((packed[0] / "study.json").read_text())
    assert study["recipe"]["steps"] == 40


def test_photographs_in_imagenets_tars_become_a_report_of_caffenets(tmp_path):
    """The paper's network, from what ImageNet's users have downloaded to the page."""
    corpus.ilsvrc_tars(tmp_path / "tars")
    shards, study = tmp_path / "shards", tmp_path / "study"
    made = raytransfer("prepare", tmp_path / "tars", shards)
    assert made.returncode == 0, made.stderr
    (tmp_path / "one.py").write_text(
        "from raytransfer.study.treatment import Treatment\n\n\n"
        "def treatments():\n"
        '    yield Treatment("random:0", "B", "A", 3)\n'
    )
    recipe = ("--steps", 2, "--batch", 4, "--validate-every", 1, "--learning-rate", 0.001)
    done = raytransfer("run", tmp_path / "one.py", "--data", shards, "--study", study, *recipe)
    assert done.returncode == 0, done.stderr
    networks = {row["treatment"]: row for row in read_study(study).networks}
    assert networks.keys() == {"random:0.baseA.s0", "random:0.A3B.s0"}
    assert all(row["state"] == "finished" for row in networks.values())
    assert networks["random:0.A3B.s0"]["frozen_sha256"]
    told = raytransfer("report", study)
    assert told.returncode == 0, told.stderr
    assert "random:0.A3B.s0" in (study / "report.html").read_text()


def test_ray_prepares_the_same_shards_as_one_process(tmp_path):
    source = tmp_path / "source"
    for split, count in (("train", 2000), ("val", 20)):
        for name in ("cat", "owl"):
            (source / split / name).mkdir(parents=True)
            for i in range(count // 2):
                colour = (i % 256, i // 256, 100 * (name == "owl"))
                Image.new("RGB", (8, 6), colour).save(source / split / name / f"{i}.png")
    for workers in (1, 2):
        made = raytransfer("prepare", source, tmp_path / str(workers), "--workers", workers)
        assert made.returncode == 0, made.stderr
        assert "1,000" not in made.stdout
        assert "2,000" in made.stdout
        assert "INFO" not in made.stderr
    one, two = (read_manifest(tmp_path / str(workers)) for workers in (1, 2))
    assert one.digest == two.digest
