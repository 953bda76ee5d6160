"""What a study is: the same is accepted, another refused line by line, harmless changes kept."""

import copy

import pytest

from raytransfer.errors import UserError
from raytransfer.folder import Folder
from raytransfer.schedule.identity import claim, told

STUDY = {
    "treatments": ["random:0.baseA.s0", "random:0.baseB.s0"],
    "recipe": {"steps": 40, "batch": 32},
    "splits": {"random:0": {"sha256": "aa"}},
    "data": {"manifest_sha256": "bb"},
    "deterministic": False,
    "layout": {"device": "cpu", "workers": 1, "lanes": 2, "threads": 1},
    "versions": {"raytransfer": "0.1.0", "torch": "2.15.0", "ray": "2.60.0"},
    "command": "raytransfer run",
}


def changed(**values):
    """The study with values at such places as recipe__steps."""
    study = copy.deepcopy(STUDY)
    for place, value in values.items():
        *path, name = place.split("__")
        inside = study
        for key in path:
            inside = inside[key]
        inside[name] = value
    return study


@pytest.fixture
def folder(tmp_path):
    folder = Folder(tmp_path)
    claim(folder, STUDY)
    return folder


@pytest.mark.parametrize(
    "same", [{}, {"command": "another"}, {"layout__lanes": 4}, {"versions__ray": "2.61.0"}]
)
def test_the_same_study_is_accepted_and_left_as_it_is(folder, same):
    claim(folder, changed(**same))
    assert folder.read_json("study.json") == STUDY


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize(
    ("other", "line"),
    [
        ({"recipe__steps": 50}, "recipe.steps: 40 there, 50 asked for"),
        ({"recipe__mirror": True}, "recipe.mirror: None there, True asked for"),
        ({"splits__random:0__sha256": "cc"}, "splits.random:0.sha256: 'aa' there, 'cc' asked for"),
        ({"data__manifest_sha256": "cc"}, "data.manifest_sha256: 'bb' there, 'cc' asked for"),
    ],
)
def test_what_changes_every_network_is_always_refused(folder, allowed, other, line):
    with pytest.raises(UserError, match="other settings; name another folder") as refused:
        claim(folder, changed(**other, deterministic=True), allow_change=allowed)
    assert f"\n  {line}\n  deterministic: False there, True asked for" in str(refused.value)
    assert folder.read_json("study.json") == STUDY


@pytest.mark.parametrize(
    ("other", "line"),
    [
        ({"deterministic": True}, "deterministic: False there, True asked for"),
        ({"layout__workers": 2}, "layout.workers: 1 there, 2 asked for"),
        ({"layout__device": "cuda"}, "layout.device: 'cpu' there, 'cuda' asked for"),
        ({"versions__torch": "2.16"}, "versions.torch: '2.15.0' there, '2.16' asked for"),
        ({"versions__raytransfer": "1"}, "versions.raytransfer: '0.1.0' there, '1' asked for"),
    ],
)
def test_a_harmless_change_is_allowed_when_it_is_asked_for_and_recorded(folder, other, line):
    with pytest.raises(UserError, match="add --allow-change") as refused:
        claim(folder, changed(**other))
    assert str(refused.value).endswith(f"\n  {line}")
    claim(folder, changed(**other), allow_change=True)
    now = folder.read_json("study.json")
    assert [change["lines"] for change in now.pop("changes")] == [[line]]
    assert now == changed(**other)


def test_changes_add_up_and_no_network_is_forgotten(folder):
    claim(folder, changed(treatments=["random:0.A3B.s0"]), allow_change=True)
    claim(folder, changed(treatments=["random:0.A3B.s0"], deterministic=True), allow_change=True)
    now = folder.read_json("study.json")
    assert now["treatments"] == ["random:0.A3B.s0", *STUDY["treatments"]]
    assert len(now["changes"]) == 2


def test_a_command_is_told_without_the_keys_of_its_uris():
    words = [
        "raytransfer",
        "run",
        "--data",
        "s3://key:w0rd%2F@bucket/x?region=a@b",
        "--study=gs://b",
    ]
    assert told(words) == "raytransfer run --data s3://bucket/x?region=a@b --study=gs://b"
