"""The commands: what they print, what they refuse, and that help needs neither torch nor ray."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import ray

from raytransfer.cli import COMMANDS, main
from raytransfer.cli.tables import print_table
from raytransfer.data.manifest import demo_shards
from raytransfer.errors import UserError
from raytransfer.results.store import StudyFolder, read_study
from raytransfer.results.table import Results, network_row, read_table, write_table
from raytransfer.schedule import driver
from raytransfer.study.recipe import Recipe
from raytransfer.study.space import load_space
from raytransfer.study.split import make_split
from raytransfer.study.treatment import Treatment

DATA = str(demo_shards())
SPACE = """
from raytransfer.study.recipe import Recipe
from raytransfer.study.treatment import Treatment

recipe = Recipe(network="small", steps=4, batch=4, validate_every=2)

def treatments():
    yield Treatment({split!r}, "B", "A", {n})
"""
NETWORKS = ("random:0.baseA.s0", "random:0.baseB.s0", "random:0.A1B.s0", "random:0.A2B.s0")

BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "ray"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
from raytransfer.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def no_ray(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray, "init", refuse)


@pytest.fixture
def space(tmp_path):
    """A file that yields A1B of random:0, or what the test asks for."""

    def write(n=1, split="random:0", more=""):
        path = tmp_path / "own.py"
        path.write_text(SPACE.format(n=n, split=split) + more)
        return str(path)

    return write


def fill(root, states):
    """A study of NETWORKS on disk, in the given states, without training any."""
    folder = StudyFolder(root)
    recipe = Recipe(network="small", steps=4, batch=4, validate_every=2)
    folder.write_json("study.json", {"treatments": list(NETWORKS), "recipe": recipe.to_json()})
    for i, (id, state) in enumerate(zip(NETWORKS, states, strict=True)):
        treatment = Treatment.parse(id)
        if state == "finished":
            row = {"state": state, "top1": 0.9 - i / 100, "top1_best10": 0.8, "steps": 4}
            folder.write_rows(treatment, [{"step": 4, "top1": 0.9 - i / 100}])
            folder.finish(treatment, row, None)
        elif state == "failed":
            folder.finish(treatment, {"state": state, "reason": "loss is nan at step 2"}, None)
    return str(root)


@pytest.fixture
def study(tmp_path):
    """Three networks are finished, one failed."""
    return fill(tmp_path / "study", ("finished", "finished", "failed", "finished"))


def refused(args, capsys):
    """What a wrong command says: a sentence, and where settings differ, a line each."""
    assert main(args) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("raytransfer: ")
    assert all(line.startswith("  ") for line in said.err.splitlines()[1:])
    return said.err


# What is refused, before Ray is started.


def run(*args, data=DATA, study="never"):
    return ["run", *map(str, args), "--data", str(data), "--study", str(study)]


def test_an_unknown_space_is_refused_with_the_known_ones(capsys):
    assert "no space 'nosuch': known are balanced, demo" in refused(run("nosuch"), capsys)


@pytest.mark.parametrize("n", [0, 8])
def test_n_is_1_to_7(n, space, capsys):
    assert f"is 1 to 7, not {n}" in refused(run(space(n)), capsys)


def test_a_space_that_fails_is_named(space, capsys):
    said = refused(run(space(more="\ndef treatments():\n    yield nothing\n")), capsys)
    assert "own.py fails: NameError: name 'nothing' is not defined" in said


def test_data_that_are_no_shards_are_refused(tmp_path, space, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "cat.jpg").touch()
    own = space()
    assert "There is no folder" in refused(run(own, data=tmp_path / "none"), capsys)
    assert "is empty" in refused(run(own, data=tmp_path / "empty"), capsys)
    assert "it is not shards" in refused(run(own, data=tmp_path / "other"), capsys)
    assert "is a file" in refused(run(own, data=own), capsys)
    assert "foo://x is no place" in refused(run(own, data="foo://x"), capsys)


def test_a_study_folder_that_cannot_be_written_is_refused(tmp_path, space, capsys):
    own = space()
    assert "cannot be written" in refused(run(own, study=f"{own}/below"), capsys)
    assert "cannot be written" in refused(run(own, study="/proc/x"), capsys)
    assert "foo://x is no place" in refused(run(own, study="foo://x"), capsys)
    before = sorted(tmp_path.rglob("*"))
    assert "holds no study" in refused(run(own, study=tmp_path), capsys)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_split_that_the_data_do_not_allow_is_refused(space, capsys):
    mine = "\nsplits = {'mine': {'A': ['Cat', 'Bag'], 'B': ['Coat', 'Shirt']}}\n"
    said = refused(run(space(split="mine", more=mine)), capsys)
    assert "names class 'Cat', which the data do not have" in said
    assert "no split 'nosuch'" in refused(run(space(split="nosuch")), capsys)
    assert "not for 10" in refused(run(space(split="manmade-natural")), capsys)


def test_images_too_small_for_the_network_are_refused(space, capsys):
    said = refused(run(space(), "--network", "caffenet"), capsys)
    assert "at least 227x227 pixels" in said


def test_impossible_layouts_are_refused(space, capsys, monkeypatch):
    own = space()
    assert "--workers is 1 to" in refused(run(own, "--workers", 10_000), capsys)
    assert "--workers is 1 to" in refused(run(own, "--workers", 0), capsys)
    assert "--networks-per-trial" in refused(run(own, "--networks-per-trial", 0), capsys)
    monkeypatch.setattr("raytransfer.schedule.cluster.cores", lambda: 2)
    said = refused(run(own, "--workers", 2, "--batch", 5, "--device", "cpu"), capsys)
    assert "cannot be shared evenly by 2 workers" in said


def test_wrong_recipe_settings_are_refused(tmp_path, space, capsys):
    own, file = space(), tmp_path / "recipe.toml"
    assert "steps is 1 or more, not 0" in refused(run(own, "--steps", 0), capsys)
    assert "no recipe file" in refused(run(own, "--recipe", file), capsys)
    file.write_text("stepz = 3\n")
    said = refused(run(own, "--recipe", file), capsys)
    assert "unknown setting 'stepz'; known: network, steps" in said
    with pytest.raises(SystemExit) as exit:
        main(run(own, "--stepz", 3))
    assert exit.value.code == 2
    assert "--steps" in capsys.readouterr().err


def test_a_folder_with_another_recipe_is_refused(tmp_path, space, capsys, monkeypatch):
    def stop(**job):
        raise UserError("This is as far as the test goes.")

    monkeypatch.setattr(driver, "StudyJob", stop)
    folder = tmp_path / "study"
    refused(run(space(), study=folder), capsys)
    assert "as far as" in refused(run(space(), study=folder), capsys)
    said = refused(run(space(), "--steps", 6, study=folder), capsys)
    assert "other settings; name another folder for --study.\n  recipe.steps: 4 there, 6" in said
    other = run(space(n=2), study=folder)
    said = refused(other, capsys)
    assert "other settings; add --allow-change to go on.\n  treatments: 1 there are not" in said
    assert "\n  treatments: 1 asked for are not there, such as random:0.A2B.s0" in said
    assert "as far as" in refused([*other, "--allow-change"], capsys)
    kept = json.loads((folder / "study.json").read_text())
    assert [id.split(".")[1] for id in kept["treatments"]] == ["baseA", "A2B", "A1B"]
    (change,) = kept["changes"]
    assert [line.split(",")[0] for line in change["lines"]] == [
        "treatments: 1 there are not asked for",
        "treatments: 1 asked for are not there",
    ]


def test_a_narrow_terminal_folds_numbers_and_cuts_none(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_table("", ("n", "base", "A3B"), [("0", "56.77 [35.18, 78.36] (3)", "12345.678901")])
    said = "".join(capsys.readouterr().out.split())
    assert "\u2026" not in said
    # Lines of the two columns come in turn; nothing of either may be lost.
    assert Counter(said.rpartition("\u2500")[2]) == Counter("056.77[35.18,78.36](3)12345.678901")


def test_reading_what_is_not_there_is_refused(tmp_path, capsys):
    for command in ("status", "summary", "report"):
        assert "There is no study in" in refused([command, str(tmp_path)], capsys)
    assert "There is no file" in refused(["summary", str(tmp_path / "a.csv")], capsys)
    assert "There is no study in" in refused(["export", str(tmp_path), "a.csv"], capsys)


def test_results_that_cannot_be_written_are_refused(study, capsys):
    below = f"{study}/study.json/below"
    assert "cannot be written" in refused(["report", study, "--out", f"{below}.html"], capsys)
    assert "cannot be written" in refused(["export", study, f"{below}.csv"], capsys)
    assert ".parquet or .csv" in refused(["export", study, f"{study}/results.txt"], capsys)
    before = Path(study, "study.json").read_bytes()
    said = refused(["report", study, "--out", f"{study}/study.json"], capsys)
    assert "study.json is not written: the name of such a file ends in .html." in said
    assert Path(study, "study.json").read_bytes() == before


def test_wrong_sources_and_splits_are_refused(tmp_path, capsys):
    prepare = ["prepare", str(tmp_path), str(tmp_path / "shards")]
    assert "IDX files" in refused(prepare, capsys)
    assert "no licence file" in refused([*prepare, "--licence", f"{tmp_path}/LICENSE"], capsys)
    assert "1 or more, not 0" in refused([*prepare, "--train-per-class", "0"], capsys)
    assert "no split 'nosuch'" in refused(["splits", "nosuch"], capsys)
    both = ["splits", "random:0", "--classes", "4", "--data", DATA]
    assert "not both" in refused(both, capsys)
    assert "fewer than two classes" in refused(["splits", "random:0", "--classes", "-3"], capsys)


# What is printed.


def test_plan_prints_the_plan_and_the_recipe_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "demo", "--data", DATA, "--steps", "77"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"networks +46\b", said)
    assert re.search(r"stages +2\b", said)
    assert re.search(r"steps +77\b", said)
    assert "at an assumed 2e+10 operations a second" in said
    for name in Recipe().to_json():
        assert re.search(rf"^ {name} ", said, re.MULTILINE)
    assert not list(tmp_path.iterdir())


def test_settings_come_from_the_space_then_the_file_then_the_flags(tmp_path, space, monkeypatch):
    seen = []

    def look(space, data, recipe, **others):
        seen.append(recipe)
        raise UserError("Seen.")

    monkeypatch.setattr(driver, "prepare_study", look)
    file = tmp_path / "recipe.toml"
    file.write_text("steps = 6\nbatch = 8\nmirror = false\n")
    own = space()
    main(run(own))
    main(run(own, "--recipe", file))
    main(run(own, "--recipe", file, "--batch", 16, "--learning-rate", "0.5", "--mirror"))
    start = load_space(own).recipe
    assert seen[0] == start == Recipe(network="small", steps=4, batch=4, validate_every=2)
    assert (seen[1].steps, seen[1].batch, seen[1].mirror) == (6, 8, False)
    assert (seen[2].steps, seen[2].batch, seen[2].mirror) == (6, 16, True)
    assert seen[2].learning_rate == 0.5
    assert seen[2].network == "small"


def test_run_says_what_became_of_the_networks(tmp_path, space, capsys, monkeypatch):
    folder = tmp_path / "study"

    def train(states):
        def run_study(prepared, root, **others):
            return read_study(fill(root, states))

        monkeypatch.setattr(driver, "run_study", run_study)
        own = space(
            more="    yield Treatment('random:0', 'B')\n"
            "    yield Treatment('random:0', 'B', 'A', 2)\n"
        )
        outcome = main(run(own, study=folder))
        return outcome, capsys.readouterr().out

    outcome, said = train(("finished", "finished", "finished", "pending"))
    assert "4 networks: 3 trained now, 0 finished already, 0 failed." in said
    assert "Next" not in said
    assert outcome == 130
    outcome, said = train(("finished",) * 4)
    assert "1 trained now, 3 finished already, 0 failed." in said
    assert said.endswith(f"Next: raytransfer report {folder}\n")
    assert outcome == 0
    outcome, said = train(("finished",) * 4)
    assert "Nothing was left to train." in said
    # A network of the folder that is not asked for any more is not one that was trained now.
    once = read_study(folder).networks
    monkeypatch.setattr(driver, "run_study", lambda *_, **__: Results(once))
    main(run(space(), study=folder))
    assert "4 networks: 0 trained now, 4 finished already, 0 failed." in capsys.readouterr().out
    assert outcome == 0
    outcome, said = train(("finished", "finished", "failed", "finished"))
    assert outcome == 1
    assert "loss is nan at step 2" in said


def test_demo_ends_with_the_path_of_its_report(tmp_path, capsys, monkeypatch):
    def run_study(prepared, root, **others):
        return read_study(fill(root, ("finished",) * 4))

    monkeypatch.setattr(driver, "run_study", run_study)
    assert main(["demo", "--out", str(tmp_path / "here")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("89.00 (1)" in line for line in lines)
    assert lines[-1] == str(tmp_path / "here" / "report.html")
    assert (tmp_path / "here" / "report.html").is_file()


def test_status_counts_and_gives_reasons(study, capsys):
    assert main(["status", study]) == 0
    said = capsys.readouterr().out
    assert re.search(r"finished +running +pending +failed", said)
    assert re.search(r"^ 3 +0 +0 +1 +$", said, re.MULTILINE)
    assert re.search(r"random:0\.A1B\.s0 +failed +0 +loss is nan at step 2", said)


def test_summary_shows_tables_or_json(study, capsys):
    assert main(["summary", study]) == 0
    said = capsys.readouterr().out
    assert "[95 % interval]" in said
    assert re.search(r"^ 0 +89\.00 \(1\)", said, re.MULTILINE)
    assert "random:0.A1B.s0" in said
    assert main(["summary", study, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["counts"] == {"finished": 3, "running": 0, "pending": 0, "failed": 1}
    bases = found["groups"]["random"]["series"]["base"]["0"]["top1"]
    assert bases["mean"] == pytest.approx(0.89), "baseA is no yardstick for networks of B"
    assert main(["summary", study, "--statistic", "top1_best10"]) == 0
    assert "80.00" in capsys.readouterr().out


def test_export_report_and_summary_take_each_others_files(study, tmp_path, capsys):
    for name in ("results.csv", "results.parquet"):
        table = str(tmp_path / name)
        assert main(["export", study, table]) == 0
        assert read_table(table).networks == read_study(study).networks
        assert main(["report", table]) == 0
        assert capsys.readouterr().out.endswith(f"{tmp_path / 'results.html'}\n")
        assert main(["summary", table]) == 0
    assert main(["report", study]) == 0
    assert capsys.readouterr().out.endswith(f"{study}/report.html\n")
    assert (Path(study) / "report.html").stat().st_size > 100_000


def test_splits_shows_the_classes_of_a_and_b(tmp_path, capsys):
    assert main(["splits", "random:0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    split = make_split("random:0", list(map(str, range(1000))))
    assert found == {
        "name": "random:0",
        "classes": 1000,
        "A": list(split.a),
        "B": list(split.b),
        "images_per_class": None,
        "sha256": split.sha256,
    }
    assert main(["splits", "reduced:250"]) == 0
    assert "of 1000 classes, 250 images of each, sha256" in capsys.readouterr().out
    assert main(["splits", "random:1", "--classes", "10"]) == 0
    assert "A (5): " in capsys.readouterr().out
    file = tmp_path / "mine.json"
    file.write_text('{"A": ["Bag", "Coat"], "B": [0, 1]}')
    assert main(["splits", str(file), "--data", DATA]) == 0
    assert "A (2): 4 Coat, 8 Bag\nB (2): 0 T-shirt/top, 1 Trouser" in capsys.readouterr().out


def test_prepare_ends_with_a_table(tmp_path, capsys):
    from PIL import Image

    for split, count in (("train", 3), ("val", 1)):
        for name in ("cat", "owl"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (9, 7), (40 * i, 0, 0)).save(folder / f"{i}.png")
    shards = tmp_path / "shards"
    args = ["prepare", str(tmp_path / "images"), str(shards), "--size", "8"]
    assert main([*args, "--train-per-class", "2"]) == 0
    said = capsys.readouterr().out
    assert "2 classes" in said
    assert re.search(r"train +4 +1 +0\.0", said)
    assert re.search(r"val +2 +1 +0\.0", said)
    assert main(["splits", "random:0", "--data", str(shards)]) == 2
    assert (shards / "manifest.json").is_file()


# How it ends.


def test_ctrl_c_is_one_sentence(capsys, monkeypatch):
    def interrupted(study: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(COMMANDS, "status", interrupted)
    assert main(["status", "--study", "x"]) == 130
    said = capsys.readouterr().err
    assert said.startswith("raytransfer: stopped; the same command goes on")
    assert said.count("\n") == 1


def test_a_reader_that_closes_the_pipe_is_no_error(tmp_path):
    command = f"{sys.executable} -m raytransfer splits random:0 --classes 200000 | head -c 10"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert len(done.stdout) == 10


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        ("splits random:0 > /dev/full", 2, "raytransfer: nothing more can be written: No space "),
        ("splits random:0 >&-", 0, ""),
        ("verify ünï", 2, "raytransfer: There is no folder \\xfcn\\xef: "),
    ],
)
def test_output_that_takes_nothing_or_only_ascii_is_no_traceback(words, status, told):
    command = f"PYTHONIOENCODING=ascii {sys.executable} -m raytransfer {words}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr[: len(told)]) == (status, told)
    assert done.stderr.count("\n") == (1 if told else 0)


def test_reading_needs_neither_torch_nor_ray(study, tmp_path):
    table = str(tmp_path / "results.csv")
    for args in (
        ["--help"],
        ["run", "demo", "--help"],
        ["status", study],
        ["summary", study, "--json"],
        ["export", study, table],
        ["report", study],
        ["report", table],
        ["splits", "random:0", "--data", DATA],
        ["verify", DATA],
        ["show", DATA, "--out", str(tmp_path / "sheet.html"), "--classes", "1"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", BLOCKED, *args], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), args


def test_a_command_that_trains_names_what_is_not_installed():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from raytransfer.cli import main\n"
        "sys.exit(main(['run', 'demo', '--data', 'x', '--study', 'y']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "raytransfer: this command needs torch, which reading results does not: "
        "install raytransfer with its extra `train`.\n"
    )


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom raytransfer.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'ray', 'pyarrow', 'plotly', 'scipy', 'rich'}\n"
        "sys.exit(', '.join(heavy & sys.modules.keys()) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_command_and_setting_has_help(capsys):
    for name, command in COMMANDS.items():
        assert command.__doc__
        with pytest.raises(SystemExit) as exit:
            main([name, "--help"])
        assert exit.value.code == 0
        said = capsys.readouterr().out
        assert command.__doc__.splitlines()[0].split(".")[0][:40] in " ".join(said.split())
    with pytest.raises(SystemExit):
        main(["run", "demo", "--help"])
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for setting, value in load_space("demo").recipe.to_json().items():
        assert f"--{setting.replace('_', '-')}" in said
        assert f"(default: {value})" in said


def test_a_summary_of_hand_made_results_gives_their_means(tmp_path, capsys):
    rows = [
        network_row(Treatment.parse(f"random:{seed}.{label}.s0"), state="finished", top1=top1)
        for seed in range(2)
        for label, top1 in (("baseB", 0.6 + seed / 10), ("B3B", 0.5 + seed / 10))
    ]
    table = tmp_path / "made.csv"
    write_table(Results(tuple(rows)), table)
    assert main(["summary", str(table), "--json"]) == 0
    group = json.loads(capsys.readouterr().out)["groups"]["random"]
    assert group["series"]["base"]["0"]["top1"]["mean"] == pytest.approx(0.65)
    assert group["co_adaptation"]["3"]["mean"] == pytest.approx(10)
