"""A cluster of several hosts with a token, as jobs of Ray see it."""

import os
import subprocess
import sys
import time

import pytest
from faults import outcome
from hosts import RAY, Hosts

from raytransfer.data.manifest import demo_shards
from raytransfer.results.store import StudyFolder

STUDY = ("--steps", "40", "--validate-every", "20", "--checkpoint-every", "10")
ALIKE = ("--data", str(demo_shards()), "--workers", "2", "--deterministic", *STUDY)
DECODED = ("--decode", "tasks", "--decode-resource", "decode")


@pytest.fixture(scope="module")
def hosts():
    """A head that trains with one core; a second host that trains with one, and decodes."""
    try:
        made = Hosts(3)
    except OSError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no network namespaces can be made here: {error}")
    with made:
        made.start_ray(1, "--num-cpus=1")
        made.start_ray(2, "--num-cpus=1", '--resources={"decode": 2}')
        yield made


@pytest.fixture(scope="module")
def alone(hosts, tmp_path_factory):
    """The study on one host with a Ray of its own: its outcome, and every address at which any of
    its processes listened."""
    study = tmp_path_factory.mktemp("alone") / "study"
    own = {name: value for name, value in hosts.environment.items() if name not in RAY}
    run = ("raytransfer", "run", "demo", "--study", str(study), *ALIKE)
    running = hosts.start(3, *run, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    listening = set()
    while running.poll() is None:
        told = hosts.run(3, "ss", "--no-header", "--listening", "--tcp", "--udp", "--numeric")
        listening |= {line.split()[4].rpartition(":")[0] for line in told.stdout.splitlines()}
        time.sleep(1)
    assert running.returncode == 0, running.communicate()[0]
    return outcome(study), listening


@pytest.fixture
def undisturbed(alone):
    return alone[0]


def test_a_workstations_own_ray_listens_on_loopback_alone(alone):
    assert alone[1] == {"127.0.0.1", "[::ffff:127.0.0.1]"}


def test_without_the_token_nobody_is_let_in(hosts):
    ask = "import urllib.request as u; u.urlopen('http://10.77.0.1:8265/api/jobs/')"
    assert "HTTP Error 401" in hosts.run(1, sys.executable, "-c", ask).stdout
    submit = ("raytransfer", "submit", "demo", "--data", "/x", "--study", "/y")
    refused = hosts.run(2, *submit, "--address", hosts.dashboard, RAY_AUTH_TOKEN="f" * 64)
    assert refused.returncode == 2
    assert "asks for its token (" in refused.stdout
    assert "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN" in refused.stdout


def test_a_study_on_two_hosts_goes_on_when_one_is_lost(hosts, undisturbed, tmp_path):
    study = tmp_path / "study"
    address = ("--address", hosts.dashboard)
    run = ("raytransfer", "run", "demo", "--study", str(study), *ALIKE, *DECODED)
    submit = ("ray", "job", "submit", *address, "--", *run)
    job = hosts.start(1, *submit, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    folder = StudyFolder(study)
    while not any(len(lane["networks"]) > 20 and lane["step"] > 10 for lane in folder.progress()):
        assert job.poll() is None, job.communicate()[0]
        time.sleep(0.2)
    hosts.lose(2)
    lost = time.monotonic()
    hosts.start_ray(3, "--num-cpus=1", '--resources={"decode": 2}')
    said, _ = job.communicate(timeout=240)
    print(f"{time.monotonic() - lost:.0f} s from the loss to the end")
    assert job.returncode == 0, said
    assert "A trial was lost" in said
    assert "46 networks: 46 trained now, 0 finished already, 0 failed." in said
    assert outcome(study) == undisturbed
