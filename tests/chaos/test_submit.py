"""Jobs of a cluster as `submit` sees them: sent, followed through dropped connections, left."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress

import pytest
from hosts import PATH, free_port

from raytransfer.cli import main
from raytransfer.data.manifest import demo_shards
from raytransfer.errors import StoppedError, UserError
from raytransfer.results.store import StudyFolder
from raytransfer.schedule.submission import Job

COUNT = "import time\nfor i in range(15): print('line', i, flush=True); time.sleep(0.3)\n"
"""Takes longer than a connection through `leaky` lasts."""


@pytest.fixture(scope="module")
def address():
    """The dashboard of a Ray on loopback, with a token."""
    # Not in Ray's usual folder, where others would take it for theirs; and of a short name.
    with tempfile.TemporaryDirectory(prefix="rt-", dir="/tmp", ignore_cleanup_errors=True) as own:
        yield from dashboard(own)


def dashboard(folder):
    port = free_port()
    words = ["ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", "--num-cpus=1"]
    words += [f"--port={free_port()}", f"--dashboard-port={port}", "--dashboard-host=127.0.0.1"]
    words.append(f"--temp-dir={folder}")
    environment = os.environ | {"PATH": PATH, "RAY_JOB_STOP_WAIT_TIME_S": "30"}
    quiet = subprocess.DEVNULL
    with subprocess.Popen(words, env=environment, stdout=quiet, stderr=quiet) as running:
        deadline = time.monotonic() + 60
        while True:
            try:
                Job(f"http://127.0.0.1:{port}")
                break
            except UserError:
                assert time.monotonic() < deadline
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
        # It would take half a minute to end by itself, and leave some of its processes.
        for number in with_descendants(running.pid):
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)


def with_descendants(number):
    told = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, check=True).stdout
    parent_of = dict(map(int, line.split()) for line in told.splitlines())
    found = [number]
    for one in found:
        found += [child for child, parent in parent_of.items() if parent == one]
    return found


LEAKY = """
import asyncio, sys

async def carry(source, target):
    while content := await source.read(4096):
        target.write(content)
        await target.drain()

async def serve(near_in, near_out):
    far_in, far_out = await asyncio.open_connection("127.0.0.1", sys.argv[2])
    both = [carry(near_in, far_out), carry(far_in, near_out)]
    both = [asyncio.ensure_future(each) for each in both]
    await asyncio.wait(both, timeout=2)
    for each in both:
        each.cancel()
    near_out.close()
    far_out.close()

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", sys.argv[1])
    print("serving", flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


@pytest.fixture
def leaky(address):
    """A way to the cluster on which no connection lasts longer than two seconds."""
    port = str(free_port())
    words = [sys.executable, "-c", LEAKY, port, address.rpartition(":")[2]]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as running:
        assert running.stdout.readline() == b"serving\n"
        yield f"http://127.0.0.1:{port}"
        running.kill()


@pytest.mark.filterwarnings("ignore:ssl=None is deprecated")  # in Ray's client
def test_a_job_is_followed_through_dropped_connections_to_its_exit_status(address, leaky, capsys):
    job, seen = Job(address), Job(leaky)
    job.submit(["python", "-c", COUNT + "raise SystemExit(3)"])
    seen.id = job.id
    assert seen.follow() == 3
    lines = re.findall(r"^line (\d+)$", capsys.readouterr().out, re.MULTILINE)
    assert lines == [str(i) for i in range(15)]


def following(error):
    """A job whose cluster always answers so."""

    class Cluster:
        async def tail_job_logs(self, job):
            raise error
            yield

        def get_job_info(self, job):
            raise error

    job = Job.__new__(Job)
    job.address, job.id = "http://there:8265", "raysubmit_1"
    job._client, job._answered, job._printed = Cluster(), time.monotonic(), 0
    return job


def test_a_cluster_that_answers_no_more_is_given_up_and_told_how_to_come_back(monkeypatch, capsys):
    monkeypatch.setattr("raytransfer.schedule.submission.LOST_SECONDS", 2.0)
    monkeypatch.setattr("raytransfer.schedule.submission.QUIET_SECONDS", 0.5)
    with pytest.raises(StoppedError, match="ray job logs --address http://there:8265 --follow ray"):
        following(OSError("connection refused")).follow()
    assert capsys.readouterr().err == "The cluster does not answer; it is asked again.\n"


def test_a_cluster_that_has_lost_the_job_is_not_asked_for_ever():
    unknown = RuntimeError("Request failed with status code 404: Job raysubmit_1 does not exist.")
    with pytest.raises(StoppedError, match="knows no job raysubmit_1 any more"):
        following(unknown).follow()


def test_a_cluster_that_has_just_begun_is_asked_again(monkeypatch):
    monkeypatch.setattr("raytransfer.schedule.submission.LOOK_SECONDS", 0.0)
    answers = iter([RuntimeError("500: No available agent to submit job"), "raysubmit_1"])

    class Young:
        def submit_job(self, **_):
            answer = next(answers)
            if isinstance(answer, RuntimeError):
                raise answer
            return answer

    job = Job.__new__(Job)
    job.id, job._client = "", Young()
    job.submit(["true"])
    assert job.id == "raysubmit_1"
    job.id, answers = "", iter([RuntimeError("400: no such thing"), "raysubmit_2"])
    with pytest.raises(UserError, match=r"did not answer to the job \(400: no such thing\)"):
        job.submit(["true"])


def test_the_address_that_is_given_counts(address, monkeypatch, capsys):
    """Ray's own client would take its variable for more."""
    nobody = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", nobody)
    assert Job(address).address == address
    assert os.environ["RAY_API_SERVER_ADDRESS"] == nobody
    given = ["submit", "demo", "--data", "/shards", "--study", "/study"]
    assert main(given) == 2
    assert f"No dashboard of a Ray cluster answers at {nobody}" in capsys.readouterr().err
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS")
    assert main([*given, "--address", nobody]) == 2
    assert "correct --address, such as http://127.0.0.1:8265" in capsys.readouterr().err
    assert main([*given, "--address", "127.0.0.1:8265"]) == 2
    assert "--address is a URL such as http://127.0.0.1:8265, not" in capsys.readouterr().err
    assert main([*given, "--checkpoint-every", "5x"]) == 2
    assert "5x" in capsys.readouterr().err
    assert "RAY_API_SERVER_ADDRESS" not in os.environ


def test_what_is_no_place_on_a_cluster_is_refused(capsys):
    for data, study, named in (("shards", "/s", "--data shards"), ("/s", "study", "--study study")):
        assert main(["submit", "demo", "--data", data, "--study", study]) == 2
        assert f"{named} is no place on a cluster: give a whole path" in capsys.readouterr().err


SPACE = """
from raytransfer.study.recipe import Recipe
from raytransfer.study.treatment import Treatment

recipe = Recipe(network="small", steps=100_000, batch=32, validate_every=50)


def treatments():
    yield Treatment("random:0", "B")
"""


COMMAND = """
import signal, sys
from raytransfer.cli import main

# What a shell starts in the background does not hear Ctrl-C, nor do its children.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main())
"""


def submit(address, folder, *options):
    """The command in a folder with a space of its own, and what it says from now on."""
    (folder / "my space.py").write_text(SPACE)
    data = ("--data", str(demo_shards()), "--study", str(folder / "study"))
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, "submit", "my space.py", *data, *options],
        cwd=folder,
        env=os.environ | {"RAY_API_SERVER_ADDRESS": address},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_refused_run_ends_as_it_would_here(address, tmp_path):
    with submit(address, tmp_path, "--workers", "2", "--no-mirror") as refused:
        said, _ = refused.communicate(timeout=120)
    assert "run './my space.py' --data" in said
    assert "--workers 2 --no-mirror" in said
    assert "raytransfer: --workers is 1 to 1, the cores that there are, not 2." in said
    assert refused.returncode == 2


@pytest.mark.filterwarnings("ignore:ssl=None is deprecated")
def test_ctrl_c_leaves_the_study_running_and_a_stopped_job_saves_it(address, tmp_path, capsys):
    with submit(address, tmp_path) as running:
        too_late = threading.Timer(120, running.kill)
        too_late.start()
        said = ""
        while "random:0 baseB" not in said:
            said += (line := running.stdout.readline())
            assert line, said
        too_late.cancel()
        running.send_signal(signal.SIGINT)
        said += running.communicate(timeout=60)[0]
    assert running.returncode == 130
    number = re.search(r"^Job (\S+)$", said, re.MULTILINE)[1]
    assert f"ray job logs --follow {number}\n" in said
    stop = re.search(r"^To stop it: (.*)$", said, re.MULTILINE)[1].split()
    environment = os.environ | {"PATH": PATH, "RAY_API_SERVER_ADDRESS": address}
    before = StudyFolder(tmp_path / "study").progress()
    stopped = subprocess.run(stop, env=environment, capture_output=True, text=True, check=True)
    assert "was stopped" in stopped.stdout
    job = Job(address)
    job.id = number
    assert job.follow() != 0
    assert "The job was stopped; the same command goes on." in capsys.readouterr().err
    folder = StudyFolder(tmp_path / "study")
    assert before
    assert folder.names("checkpoints")


HOLD = """
import sys, time
from pathlib import Path
import ray

@ray.remote(num_cpus=1)
def hold(until):
    Path(until).touch()
    while Path(until).exists():
        time.sleep(0.1)

ray.init()
ray.get(hold.remote(sys.argv[1]))
deadline = time.monotonic() + 30
while ray.available_resources().get("CPU") != 1:
    assert time.monotonic() < deadline
    time.sleep(0.5)
time.sleep(3)
print("free", ray.available_resources().get("CPU"))
"""


@pytest.mark.filterwarnings("ignore:ssl=None is deprecated")
def test_a_study_that_is_lost_while_it_waits_for_cores_leaves_them(address, tmp_path, capsys):
    """What Ray Train had asked for in its name was there for ever, and nobody could train."""
    holding = Job(address)
    holding.submit(["python", "-c", HOLD, str(tmp_path / "held")])
    until((tmp_path / "held").exists)
    with submit(address, tmp_path) as waiting:
        until(lambda: StudyFolder(tmp_path / "study").names("trials"))
        time.sleep(8)  # its trial asks for the core
        found = ["pgrep", "-f", f"raytransfer run .*{tmp_path}/study"]
        for number in subprocess.run(found, capture_output=True, check=True).stdout.split():
            os.kill(int(number), signal.SIGKILL)
        waiting.communicate(timeout=60)
    (tmp_path / "held").unlink()
    assert holding.follow() == 0, capsys.readouterr().out
    assert "free 1.0" in capsys.readouterr().out


def until(true, seconds=60):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)
