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
from raytransfer.errors import UserError
from raytransfer.schedule import session
from raytransfer.schedule.session import INSIDE, PREFIX, locked, own_folder


def test_folders_of_killed_processes_are_removed_and_no_others(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(session, "LONGEST_SOCKET", 1000)  # none is opened
    for name in ("dead", "alive", "new", "foreign"):
        (tmp_path / f"{PREFIX}{name}" / INSIDE).mkdir(parents=True)
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


@pytest.mark.parametrize(
    ("place", "said"),
    [("gone", "where Ray's files would lie: set"), ("x" * 90, "is too long for the sockets")],
)
def test_a_place_that_is_none_for_rays_folder_is_told(tmp_path, monkeypatch, place, said):
    if place != "gone":
        (tmp_path / place).mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / place))
    with pytest.raises(UserError, match=rf"{place},? {said}"), own_folder():
        pass


@pytest.mark.parametrize("settings_first", [True, False])
def test_a_program_makes_rays_settings_before_it_imports_ray(settings_first):
    words = (
        "import os; from raytransfer.schedule.session import ray_session, set_environment\n"
        f"{'set_environment()' if settings_first else ''}\n"
        "import ray\n"
        "with ray_session(1):\n"
        "    folder = ray._private.worker._global_node.get_session_dir_path().split('/r/')[0]\n"
        "    print(oct(os.stat(folder).st_mode), os.environ['RAY_AUTH_MODE'])\n"
    )
    environment = {n: value for n, value in os.environ.items() if not n.startswith("RAY_")}
    command = [sys.executable, "-c", words]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90)
    if settings_first:
        # Nobody else can open the folder that Ray's own lies in.
        assert ran.stdout == "0o40700 token\n", ran.stderr
    else:
        assert "UserError: Ray was imported before its settings were made" in ran.stderr


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
