"""One writer at a time: who may take a study, who must let go, and what a late writer may do."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest

from raytransfer.errors import UserError
from raytransfer.folder import Folder
from raytransfer.lease import (
    HEARTBEAT_SECONDS,
    LEASE_SECONDS,
    Lease,
    LeaseLostError,
    held,
    kept,
)


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def claims(folder):
    return {name: folder.read_json(f"attempts/{name}") for name in folder.names("attempts")}


def claim(folder, number=3, **fields):
    content = {
        "host": socket.gethostname(),
        "pid": os.getppid(),
        "since": "2026-01-02 03:04:05",
        "heartbeat": time.time(),
        "stopping": False,
        **fields,
    }
    folder.write_json(f"attempts/{number:06d}-abcd.json", content)


def until(true):
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_second_writer_is_told_who_holds_the_study_and_since_when(folder):
    Lease.acquire(folder)
    words = rf"process {os.getpid()} on {socket.gethostname()} since \d{{4}}-\d\d-\d\d \d\d:\d\d"
    with pytest.raises(UserError, match=words):
        Lease.acquire(folder)


def test_a_living_writer_of_this_machine_is_left_alone(folder):
    claim(folder)
    before = claims(folder)
    with pytest.raises(UserError, match="since 2026-01-02 03:04:05"):
        Lease.acquire(folder)
    assert claims(folder) == before


def test_a_writer_of_another_machine_is_left_alone_once_it_says_again_that_it_lives(folder):
    claim(folder, host="elsewhere", pid=1)
    again = threading.Timer(1.5, claim, [folder], {"host": "elsewhere", "pid": 1})
    again.start()
    with pytest.raises(UserError, match="by process 1 on elsewhere since 2026-01-02 03:04:05"):
        Lease.acquire(folder)
    assert again.finished.is_set()
    assert len(claims(folder)) == 1


def test_a_writer_of_another_machine_that_falls_silent_is_waited_for(folder, monkeypatch):
    """As when a cluster's head is lost, and the next one goes on at once."""
    monkeypatch.setattr("raytransfer.lease.LEASE_SECONDS", 3.0)
    claim(folder, host="elsewhere", pid=1, heartbeat=time.time())
    started = time.monotonic()
    assert Lease.acquire(folder).attempt == 4
    assert time.monotonic() - started > 2
    assert held(folder)


def test_a_dead_writers_study_is_taken_over_at_once(folder):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    claim(folder, pid=child.pid)
    assert not held(folder)
    lease = Lease.acquire(folder)
    assert lease.attempt == 4
    assert list(claims(folder)) == [lease.name]


def test_a_silent_writers_study_is_taken_over(folder):
    claim(folder, host="elsewhere", heartbeat=time.time() - LEASE_SECONDS - 1)
    assert Lease.acquire(folder).attempt == 4


def test_a_released_study_is_free_and_its_number_stays_taken(folder):
    Lease.acquire(folder).release()
    assert Lease.acquire(folder).attempt == 2


def test_a_kept_lease_is_renewed_and_leaves_no_trace(folder, monkeypatch):
    monkeypatch.setattr("raytransfer.lease.HEARTBEAT_SECONDS", 0.05)
    claim(folder, heartbeat=0.0)
    with kept(folder) as lease:
        first = claims(folder)[lease.name]["heartbeat"]
        until(lambda: claims(folder)[lease.name]["heartbeat"] > first)
        with pytest.raises(UserError, match=rf"The folder .* is being written by .* {os.getpid()}"):
            Lease.acquire(folder)
    assert folder.names() == []


def test_a_kept_lease_that_was_lost_ends_the_block_and_leaves_the_other_alone(folder):
    told = pytest.raises(UserError, match="Stopped: another process has taken over the folder")
    with told, kept(folder) as lease:
        claim(folder, number=7)
        lease.check()
    assert "000007-abcd.json" in claims(folder)


def test_a_heartbeat_keeps_the_lease(folder):
    lease = Lease.acquire(folder)
    old = claims(folder)[lease.name]
    lease.beat()
    new = claims(folder)[lease.name]
    assert new["heartbeat"] >= old["heartbeat"]
    assert {**new, "heartbeat": 0} == {**old, "heartbeat": 0}
    assert HEARTBEAT_SECONDS * 3 < LEASE_SECONDS


def test_who_was_taken_for_dead_may_not_write(folder, monkeypatch):
    paused = Lease.acquire(folder)
    other = Folder(folder.root)
    with monkeypatch.context() as later:
        later.setattr(time, "time", lambda: float(2**31))
        taken = Lease.acquire(other)
    for write in (paused.beat, paused.check, paused.stop):
        with pytest.raises(LeaseLostError, match="another process has taken over the folder"):
            write()
    taken.beat()
    assert list(claims(folder)) == [taken.name]


def test_a_claim_that_comes_back_after_the_takeover_takes_nothing(folder, monkeypatch):
    """A driver is paused between its look and its write."""
    paused = Lease.acquire(folder)
    with monkeypatch.context() as later:
        later.setattr(time, "time", lambda: float(2**31))
        taken = Lease.acquire(folder)
    paused._write()
    taken.beat()
    with pytest.raises(LeaseLostError):
        paused.beat()


def test_the_writer_tells_all_processes_to_stop(folder):
    lease = Lease.acquire(folder)
    elsewhere = Lease(Folder(folder.root), lease.name)
    assert not elsewhere.stopping()
    lease.stop()
    assert elsewhere.stopping()
    elsewhere.check()


def test_of_many_at_once_never_two_hold_a_study(tmp_path, monkeypatch):
    """Every interleaving of a few threads that look and write as slowly as a store does."""
    monkeypatch.setattr("raytransfer.lease.time.sleep", lambda seconds: None)
    for round in range(20):
        root, got = tmp_path / str(round), []

        def start(root=root, got=got):
            with suppress(UserError):
                got.append(Lease.acquire(Folder(root)))

        threads = [threading.Thread(target=start) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) <= 1


@pytest.mark.parametrize(
    "content",
    [b"[]", b"{", b"3", b'{"heartbeat": "now"}', b"[" * 100_000, b'{"pid": 1e999, "heartbeat": 1}'],
)
def test_a_claim_that_makes_no_sense_is_nobodys(folder, content):
    folder.write("attempts/000007-abcd.json", content)
    assert Lease.acquire(folder).attempt == 8


HOLDER = """
import sys, time
from raytransfer.folder import Folder
from raytransfer.lease import Lease, LeaseLostError
lease = Lease.acquire(Folder(sys.argv[1]))
print("held", flush=True)
try:
    while True:
        time.sleep(0.05)
        lease.beat()
except LeaseLostError:
    print("lost", flush=True)
"""


def test_a_paused_process_that_wakes_after_a_takeover_lets_go(tmp_path, monkeypatch):
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "held\n"
    child.send_signal(signal.SIGSTOP)
    monkeypatch.setattr("raytransfer.lease.LEASE_SECONDS", 0.5)
    time.sleep(0.6)
    lease = Lease.acquire(Folder(tmp_path))
    child.send_signal(signal.SIGCONT)
    assert child.communicate(timeout=20)[0] == "lost\n"
    lease.check()
    names = [json.loads(path.read_text())["pid"] for path in (tmp_path / "attempts").iterdir()]
    assert names == [os.getpid()]
