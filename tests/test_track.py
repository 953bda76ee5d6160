"""Lines of a study in experiment trackers: each network once, whole, over restarts too."""

import subprocess
import sys
from pathlib import Path

import pytest

from raytransfer.errors import UserError
from raytransfer.results.store import StudyFolder
from raytransfer.schedule import track
from raytransfer.schedule.track import OPENERS, OVER, Run, Sender, tracking
from raytransfer.study.treatment import Treatment

NETWORKS = [Treatment.parse(f"random:0.{label}.s0") for label in ("baseA", "baseB", "A3B+")]


@pytest.fixture
def folder(tmp_path):
    return StudyFolder(tmp_path / "study")


def lines(*steps):
    return [{"step": step, "images": step, "top1": step / 100, "train_loss": 1.5} for step in steps]


class Recorder:
    """A tracker that keeps what it is sent."""

    def __init__(self):
        self.opened, self.sent, self.ends = [], [], []
        self.fails = False

    def open(self, treatment, facts):
        self.opened.append((treatment.label, facts["n"]))

        def log(step, metrics):
            if self.fails:
                raise ConnectionError("no route\nto it")
            self.sent.append((treatment.label, step, metrics["top1"]))

        return Run(log, lambda done: self.ends.append((treatment.label, done["state"])))


def test_new_lines_are_sent_once_and_after_a_restart_too(folder):
    recorder = Recorder()
    folder.write_rows(NETWORKS[0], lines(10, 20))
    sender = Sender(folder, NETWORKS, recorder.open, "kept")
    sender.look()
    sender.look()
    assert recorder.sent == [("baseA", 10, 0.1), ("baseA", 20, 0.2)]
    assert recorder.opened == [("baseA", "0")]
    folder.write_rows(NETWORKS[0], lines(10, 20, 30))
    folder.finish(NETWORKS[0], {"state": "finished", "top1": 0.3}, None)
    folder.finish(NETWORKS[1], {"state": "failed", "reason": "its parent"}, None)
    again = Sender(folder, NETWORKS, recorder.open, "kept")
    again.look()
    again.look()
    assert recorder.sent[2:] == [("baseA", 30, 0.3)]
    assert recorder.ends == [("baseA", "finished"), ("baseB", "failed")]
    assert folder.read_json("tracking/kept.json") == {NETWORKS[0].id: OVER, NETWORKS[1].id: OVER}


def test_a_tracker_that_fails_is_told_of_once_and_tried_again(folder, capsys):
    recorder = Recorder()
    recorder.fails = True
    folder.write_rows(NETWORKS[0], lines(10))
    sender = Sender(folder, NETWORKS, recorder.open, "kept")
    sender.look()
    sender.look()
    assert capsys.readouterr().err == "The tracker does not take what is sent (no route).\n"
    recorder.fails = False
    sender.look()
    assert recorder.sent == [("baseA", 10, 0.1)]


def test_while_a_study_runs_only_what_trains_is_looked_at(folder):
    recorder = Recorder()
    sender = Sender(folder, NETWORKS, recorder.open, "kept")
    for treatment in NETWORKS:
        folder.write_rows(treatment, lines(10))
    folder.write_progress("trial", 0, {"networks": [NETWORKS[0].id], "step": 10})
    sender.look_at_training()
    assert recorder.sent == [("baseA", 10, 0.1)]
    # Its end is told when others train in its place.
    folder.finish(NETWORKS[0], {"state": "finished", "top1": 0.1}, None)
    folder.write_progress("trial", 0, {"networks": [NETWORKS[1].id], "step": 10})
    sender.look_at_training()
    assert recorder.sent[1:] == [("baseB", 10, 0.1)]
    assert recorder.ends == [("baseA", "finished")]


def write_study(folder):
    for treatment in NETWORKS:
        folder.write_rows(treatment, lines(10, 20, 30))
    folder.finish(NETWORKS[0], {"state": "finished", "top1": 0.3, "seconds": 2.0}, None)
    folder.finish(NETWORKS[1], {"state": "failed", "reason": "loss was not finite"}, None)


def test_tensorboards_files_hold_every_line(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write_study(folder)
    with tracking(folder, NETWORKS, "tensorboard"):
        pass
    for treatment in NETWORKS:
        read = EventAccumulator(f"{folder.path}/tensorboard/{treatment.id}")
        read.Reload()
        assert [(one.step, one.value) for one in read.Scalars("top1")] == [
            (step, pytest.approx(step / 100)) for step in (10, 20, 30)
        ]
        assert len(read.Scalars("train_loss")) == 3
    before = sorted(path.stat().st_size for path in Path(folder.path).rglob("events.*"))
    with tracking(folder, NETWORKS, "tensorboard"):
        pass
    assert sorted(path.stat().st_size for path in Path(folder.path).rglob("events.*")) == before


def test_a_local_store_of_mlflow_holds_a_run_for_each_network(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    from mlflow.tracking import MlflowClient

    write_study(folder)
    with tracking(folder, NETWORKS, "mlflow"):
        folder.write_rows(NETWORKS[2], lines(10, 20, 30, 40))
    with tracking(folder, NETWORKS, "mlflow"):
        folder.write_rows(NETWORKS[2], lines(10, 20, 30, 40, 50))
    client = MlflowClient()
    experiment = client.get_experiment_by_name(str(folder))
    runs = {run.data.tags["network"]: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {treatment.id for treatment in NETWORKS}
    states = {id: run.info.status for id, run in runs.items()}
    assert [states[t.id] for t in NETWORKS] == ["FINISHED", "FAILED", "RUNNING"]
    third = runs[NETWORKS[2].id]
    assert {
        "label": "A3B+",
        "source": "A",
        "finetuned": "true",
    }.items() <= third.data.params.items()
    history = client.get_metric_history(third.info.run_id, "top1")
    assert [(one.step, one.value) for one in history] == [
        (s, s / 100) for s in (10, 20, 30, 40, 50)
    ]
    assert runs[NETWORKS[0].id].data.metrics["final_top1"] == 0.3
    assert runs[NETWORKS[1].id].data.tags["reason"] == "loss was not finite"


@pytest.mark.parametrize(
    ("tracker", "module", "library"),
    [("wandb", "wandb", "wandb"), ("mlflow", "mlflow.entities", "mlflow-skinny")],
)
def test_a_library_that_is_missing_is_named(folder, tracker, module, library, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with (
        pytest.raises(UserError, match=rf"needs its library: pip install {library}\."),
        tracking(folder, NETWORKS, tracker),
    ):
        pass


def test_a_tracker_that_cannot_be_set_up_is_one_sentence(folder, monkeypatch):
    def broken(folder):
        raise ConnectionError("nobody there")

    monkeypatch.setitem(OPENERS, "mlflow", broken)
    with (
        pytest.raises(UserError, match="--track mlflow cannot be set up: nobody there"),
        tracking(folder, NETWORKS, "mlflow"),
    ):
        pass


class FakeWandb:
    """What of wandb is used, as its documentation has it."""

    class Settings:
        def __init__(self, silent):
            pass

    def __init__(self):
        self.runs = {}

    def init(self, *, group, name, id, config, resume, reinit, settings):
        assert (resume, reinit) == ("allow", "create_new")
        return self.runs.setdefault(id, FakeRun(group, name, config))


class FakeRun:
    def __init__(self, group, name, config):
        self.group, self.name, self.config = group, name, config
        self.lines, self.summary, self.code = [], {}, None

    def log(self, metrics, step):
        self.lines.append((step, metrics["top1"]))

    def finish(self, exit_code):
        self.code = exit_code


def test_wandb_is_asked_for_a_run_a_network_in_one_group(folder, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    write_study(folder)
    for _ in range(2):
        with tracking(folder, NETWORKS, "wandb"):
            pass
    runs = {run.name: run for run in fake.runs.values()}
    assert set(runs) == {treatment.id for treatment in NETWORKS}
    assert {run.group for run in runs.values()} == {str(folder)}
    assert [runs[t.id].code for t in NETWORKS] == [0, 1, None]
    assert runs[NETWORKS[2].id].lines == [(10, 0.1), (20, 0.2), (30, 0.3)]
    assert runs[NETWORKS[1].id].summary["reason"] == "loss was not finite"


def test_no_tracker_is_imported_where_none_is_asked_for():
    words = (
        "import sys, raytransfer.schedule.track;"
        "sys.exit(any(name in sys.modules for name in ('mlflow', 'wandb', 'tensorboard')))"
    )
    assert subprocess.run([sys.executable, "-c", words], check=False).returncode == 0
    assert set(OPENERS) == set(track.Tracker.__args__)
