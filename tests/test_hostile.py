"""A stranger's study folder runs no code, writes nowhere else, and breaks no report."""

import json
import os
import pickle
import re
import shutil

import pytest

from raytransfer.cli import main
from raytransfer.report.page import write_report
from raytransfer.results.store import read_study

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>"
BASE = "random:0.baseB.s0"
COMMANDS = ("status", "summary", "report", "verify")


class Bomb:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def study(tmp_path):
    """One finished network."""
    root = tmp_path / "study"
    network = root / "networks" / BASE
    network.mkdir(parents=True)
    (root / "study.json").write_text(json.dumps({"treatments": [BASE]}))
    (network / "done.json").write_text(json.dumps({"state": "finished", "top1": 0.5}))
    (network / "rows.jsonl").write_text(json.dumps({"step": 1, "top1": 0.5}) + "\n")
    return root


def told(command, study, capsys):
    """What a command says of the folder: never a traceback."""
    status = main([command, str(study)])
    assert status in (0, 1, 2)
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    return status, said.out + said.err


def named(pattern, command, study, capsys):
    """Whether a command says what is wrong with a network; those that read go on without it."""
    status, said = told(command, study, capsys)
    assert status == (command == "verify")
    if command == "report":
        said = (study / "report.html").read_text()
    return re.search(pattern, said) is not None


@pytest.mark.parametrize(
    "treatments",
    [
        ["../../../etc/passwd"],
        ["/etc/passwd"],
        ["random:0/../../x.baseB.s0"],
        [f"{SCRIPT}.baseB.s0"],
        [3],
        [None],
        [["random:0.baseB.s0"]],
        "random:0.baseB.s0",
        {},
        None,
    ],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_name_that_leads_elsewhere_is_refused(study, treatments, command, capsys):
    (study / "study.json").write_text(json.dumps({"treatments": treatments}))
    before = sorted(study.parent.rglob("*"))
    status, said = told(command, study, capsys)
    assert status != 0
    assert "names no treatment" in said
    assert sorted(study.parent.rglob("*")) == before


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"a":' * 100_000, b"\x00", b"3", b"[]", b'{"state": "x"}', b"{"]
)
@pytest.mark.parametrize("command", COMMANDS)
def test_json_that_is_deep_or_broken_is_named(study, content, command, capsys):
    path = study / "networks" / BASE / "done.json"
    whole = path.read_bytes()
    path.write_bytes(content)
    assert named("done.json", command, study, capsys)
    path.write_bytes(whole)
    (study / "study.json").write_bytes(content)
    status, said = told(command, study, capsys)
    assert status != 0
    assert "study.json" in said


@pytest.mark.parametrize(
    "row",
    [
        {"top1": "high"},
        {"top1": [0.5]},
        {"steps": 10**400},
        {"steps": True},
        {"loss": float("inf")},
        {"reason": "x" * 10**6},
        {"weights_sha256": 3},
        {"../up": 1},
        {"treatment": "random:0.A4B.s0"},
        {"top1": 99},
        {"top1": None},
        {"seconds": -5},
    ],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_row_that_is_none_is_named(study, row, command, capsys):
    path = study / "networks" / BASE / "done.json"
    path.write_text(json.dumps({"state": "finished", "top1": 0.5, **row}))
    assert named("done.json", command, study, capsys)


@pytest.mark.parametrize(
    "line", ["3", "[]", "{}", '{"step": "1"}', '{"step": 1, "loss": "x"}', "[" * 100_000, "{"]
)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_line_that_is_none_is_named(study, line, command, capsys):
    (study / "networks" / BASE / "rows.jsonl").write_text(line)
    assert named("rows.jsonl", command, study, capsys)


@pytest.mark.parametrize("command", COMMANDS)
def test_ten_gigabytes_of_rows_are_not_read(study, command, capsys):
    with open(study / "networks" / BASE / "rows.jsonl", "wb") as rows:
        rows.truncate(10 * 10**9)
    assert named(r"rows.jsonl .* has 10,000,000,000 bytes, more than", command, study, capsys)


def test_the_others_are_read_beside_a_damaged_network(study):
    other = "random:0.baseB.s1"
    shutil.copytree(study / "networks" / BASE, study / "networks" / other)
    (study / "study.json").write_text(json.dumps({"treatments": [BASE, other]}))
    (study / "networks" / other / "rows.jsonl").write_text('{"torn')
    results = read_study(study)
    assert [row["state"] for row in results.networks] == ["finished", "failed"]
    assert "rows.jsonl" in results.networks[1]["reason"]
    assert results.networks[1]["reason"].endswith("remove its folder to train it anew.")
    assert list(results.curves) == [BASE]


def test_no_pickle_is_read(study, tmp_path, capsys):
    bomb = pickle.dumps(Bomb(tmp_path / "exploded"))
    network = study / "networks" / BASE
    (network / "weights.safetensors").write_bytes(bomb)
    for name in ("rows.jsonl", "done.json"):
        kept = (network / name).read_bytes()
        (network / name).write_bytes(bomb)
        for command in COMMANDS:
            told(command, study, capsys)
        (network / name).write_bytes(kept)
    for command in COMMANDS:
        told(command, study, capsys)
    assert not (tmp_path / "exploded").exists()


def test_markup_in_names_and_reasons_stays_text(study):
    ids = [BASE, "random:0.baseA.s0"]
    (study / "study.json").write_text(
        json.dumps(
            {
                "treatments": ids,
                "space": SCRIPT,
                "command": SCRIPT,
                "splits": {"random:0": {"A": [SCRIPT], "B": [SCRIPT, "../x"], "sha256": SCRIPT}},
                "versions": {SCRIPT: SCRIPT},
                "recipe": {"network": SCRIPT, "steps": SCRIPT},
                "data": {"classes": SCRIPT},
                "git_revision": SCRIPT,
            }
        )
    )
    failed = study / "networks" / ids[1]
    failed.mkdir()
    (failed / "done.json").write_text(json.dumps({"state": "failed", "reason": SCRIPT}))
    page = study.parent / "report.html"
    write_report(read_study(study), page)
    text = page.read_text()
    assert "<img src=x" not in text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text
