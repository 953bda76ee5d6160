"""`verify STUDY` names what is not as it was written; what is right is not named."""

import json
import re
import shutil
from pathlib import Path

import pytest
import test_resume as training

from raytransfer.cli import main
from raytransfer.results.store import StudyFolder, read_study
from raytransfer.train.audit import audit

LABELS = ("baseB", "B3B", "R3B", "B3B+")
IDS = [training.treatment(label).id for label in LABELS]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A small study, trained without Ray."""
    folder = StudyFolder(tmp_path_factory.mktemp("study"))
    recipe = training.RECIPE.to_json()
    folder.write_json("study.json", {"treatments": IDS, "recipe": recipe})
    for labels in (("baseB", "R3B"), ("B3B", "B3B+")):
        training.train(training.trial_job(training.trial(labels), training.study_job(folder)))
    return Path(folder.path)


@pytest.fixture
def study(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "study"))


def problems(study):
    said = []
    found = audit(study, said.append)
    assert found.problems == len(said)
    return said


def test_a_whole_study_has_no_problem(study, capsys):
    assert problems(study) == []
    assert main(["verify", str(study)]) == 0
    assert re.search(r"4 +4 +0 +8 +0", capsys.readouterr().out)


def test_children_of_a_base_that_was_trained_anew_are_in_no_mean(study):
    edit(study / "networks" / IDS[0] / "done.json", lambda d: d.update(weights_sha256="0"))
    for row in read_study(study).networks:
        if row["kind"] == "selffer":
            assert row["state"] == "failed"
            assert row["reason"] == (
                f"it was copied from other weights of {IDS[0]} than those that are there: remove "
                "its folder to train it anew"
            )
        else:
            assert row["state"] == "finished"


def edit(path, change):
    said = json.loads(path.read_text())
    change(said)
    path.write_text(json.dumps(said))


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (
            lambda n: training.broken(n / IDS[2] / "weights.safetensors", "altered"),
            [rf"{IDS[2]}: The weights of {IDS[2]} are not those that were written"],
        ),
        (
            lambda n: (n / IDS[1] / "weights.safetensors").unlink(),
            [rf"{IDS[1]}: The weights of {IDS[1]} are missing"],
        ),
        (
            lambda n: edit(n / IDS[1] / "done.json", lambda d: d.update(frozen_sha256="0")),
            [f"{IDS[1]}: its frozen layers are not what they were before training"],
        ),
        (
            lambda n: edit(n / IDS[1] / "done.json", lambda d: d.update(parent_sha256="0")),
            [f"{IDS[1]}: it was copied from other weights of {IDS[0]}"],
        ),
        (
            lambda n: edit(n / IDS[3] / "done.json", lambda d: d.update(parent_sha256="0")),
            [rf"{re.escape(IDS[3])}: it was copied from other weights of {IDS[0]}"],
        ),
        (
            lambda n: edit(n / IDS[2] / "done.json", lambda d: d.update(top1=0.123)),
            [f"{IDS[2]}: its row says top1 is 0.123, where its lines give 0"],
        ),
        (
            lambda n: edit(
                n / IDS[2] / "done.json", lambda d: d.update(top1_best10=0.9, loss=0.1, steps=7)
            ),
            [
                f"{IDS[2]}: its row says steps is 7, where its lines give {training.STEPS}",
                f"{IDS[2]}: its row says top1_best10 is 0.9, where its lines give None",
                f"{IDS[2]}: its row says loss is 0.1, where its lines give ",
            ],
        ),
        (
            lambda n: edit(n / IDS[1] / "done.json", lambda d: d.update(moved_1=0.5)),
            [f"{IDS[1]}: its row says that layer 1 moved, which is frozen"],
        ),
        (
            lambda n: (n / IDS[0] / "done.json").unlink(),
            [
                rf"{re.escape(id)}: {IDS[0]}, which it copies from, is not finished"
                for id in (IDS[1], IDS[3])
            ],
        ),
        (
            lambda n: shutil.copytree(n / IDS[0], n / "random:0.A3B.s0"),
            ["random:0.A3B.s0: its folder is there, but the study has no such network"],
        ),
    ],
)
def test_what_is_wrong_is_named(study, capsys, spoil, expected):
    spoil(study / "networks")
    said = problems(study)
    assert len(said) == len(expected)
    for sentence, pattern in zip(said, expected, strict=True):
        assert re.match(pattern, sentence)
    assert main(["verify", str(study)]) == 1
    assert said[0] in capsys.readouterr().out


@pytest.mark.parametrize("change", [lambda rows: rows[1:], lambda rows: [rows[0], *rows]])
def test_a_line_that_is_lost_or_doubled_is_named(study, change):
    path = study / "networks" / IDS[0] / "rows.jsonl"
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))
    (sentence,) = problems(study)
    assert re.match(rf"{IDS[0]}: its lines are of [13] validations, not one for each", sentence)
