"""This machine's own Ray: what a signal does as it starts, and what killed processes leave."""

import os
import signal
import subprocess
import sys
import time

import pytest
from hosts import free_port

from raytransfer.cli import main
from raytransfer.data.manifest import demo_shards
from raytransfer.schedule import session
from raytransfer.schedule.session import PREFIX, locked, own_folder


def test_folders_of_killed_processes_are_removed_and_no_others(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    for name in ("dead", "alive", "new", "foreign"):
        (tmp_path / f"{PREFIX}{name}" / "session_1").mkdir(parents=True)
    (tmp_path / f"{PREFIX}foreign" / "thesis.tex").write_text("")
    (tmp_path / "raytransfer-demo").mkdir()
    for folder in tmp_path.iterdir():
        if not folder.name.endswith("new"):
            os.utime(folder, (0, 0))
    with locked(tmp_path / f"{PREFIX}alive"), own_folder() as own:
        with pytest.raises(BlockingIOError), locked(own):
            pass
        left = {folder.name for folder in tmp_path.iterdir()} - {os.path.basename(own)}
    assert left == {f"{PREFIX}alive", f"{PREFIX}new", f"{PREFIX}foreign", "raytransfer-demo"}
    assert not os.path.exists(own)


@pytest.mark.parametrize("seconds", [0, 2])
def test_sigterm_as_ray_starts_is_told(tmp_path, seconds):
    study = tmp_path / "study"
    command = [sys.executable, "-m", "raytransfer", "run", "demo", "--data", str(demo_shards())]
    running = subprocess.Popen(
        [*command, "--study", str(study)], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not (study / "study.json").exists():
        assert running.poll() is None
        time.sleep(0.01)
    time.sleep(seconds)
    running.send_signal(signal.SIGTERM)
    assert "stopped by SIGTERM; the same command goes on." in running.communicate(timeout=60)[1]
    assert running.returncode == 75


def test_a_cluster_at_which_nobody_listens_is_told(monkeypatch, capsys):
    monkeypatch.setattr(session, "REACH_SECONDS", 0.5)
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    assert main(["plan", "demo", "--data", str(demo_shards())]) == 2
    said = capsys.readouterr().err
    assert "leads to no Ray cluster ([Errno 111] Connection refused): correct or unset it." in said
