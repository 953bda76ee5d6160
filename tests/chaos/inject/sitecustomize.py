"""Python runs this in every process that starts with this folder on its path: see faults.py."""

import importlib.abc
import importlib.util
import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

FOLDER = Path(os.environ["RAYTRANSFER_CHAOS"])
FAULTS = json.loads((FOLDER / "faults.json").read_text())
AWAY_SECONDS = 5.0
END_SECONDS = {signal.SIGTERM: 5.0, signal.SIGKILL: 60.0}
began = time.time()
place = 0


def reached(moment):
    """A process is at a moment: what is to happen there, happens, once."""
    for i, fault in enumerate(FAULTS):
        own = fault["process"] == "worker"
        if fault["at"] != moment:
            continue
        try:
            os.close(os.open(FOLDER / f"{i}.fired", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        (FOLDER / "waiting").touch()
        if fault["action"] == "disk":
            fill(Path(os.environ["RAYTRANSFER_CHAOS_DISK"]) / "filler")
            return
        if fault["action"] == "drop":
            os.kill(pid_of("store"), signal.SIGSTOP)
            threading.Timer(AWAY_SECONDS, os.kill, (pid_of("store"), signal.SIGCONT)).start()
            return
        os.kill(os.getpid() if own else pid_of(fault["process"]), fault["action"])
        # Its end reaches this process in a while: the next fault is for the driver after it.
        if fault["process"] == "driver":
            time.sleep(END_SECONDS.get(fault["action"], 0))
        return


def fill(path):
    """To the last byte, for a while."""
    with suppress(OSError), path.open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    threading.Timer(AWAY_SECONDS, path.unlink).start()


def note(file, text):
    with (FOLDER / file).open("a") as notes:
        notes.write(f"{text}\n")


def pid_of(process):
    if (FOLDER / f"{process}.pid").exists():
        return int((FOLDER / f"{process}.pid").read_text())
    driver = (FOLDER / "driver.pid").read_text()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = path.joinpath("stat").read_text().rpartition(")")[2].split()[1]
            command = path.joinpath("cmdline").read_bytes().split(b"\0")[0].decode()
        except OSError:
            continue
        if parent == driver and Path(command).name == {"gcs": "gcs_server"}.get(process, process):
            return int(path.name)
    raise RuntimeError(f"no process {process}")


def around(owner, name):
    """Replace a function by what the decorated one makes of it."""

    def replace(wrapper):
        function = getattr(owner, name)
        setattr(owner, name, lambda *args, **settings: wrapper(function, *args, **settings))

    return replace


def in_loop(module):
    @around(module, "train_trial")
    def train_trial(function, job, feed, device, lane, rank):
        global began, place
        began, place = time.time(), rank
        reached("start")
        return function(job, feed, device, lane, rank)


def in_cohort(module):
    @around(module.CohortTrainer, "step")
    def step(function, self, number, *batch):
        reached(f"step {number}")
        reached(f"step {number} of rank {place}")
        for member in self.members:
            reached(f"step {number} of {member.treatment.label}")
        trained = function(self, number, *batch)
        with suppress(FileNotFoundError):
            # The first step of a process that began after a fault: how long it took to come to it.
            fault = (FOLDER / "waiting").stat().st_mtime
            if fault < began:
                (FOLDER / "waiting").unlink()
                note("recovered", time.time() - fault)
        return trained

    @around(module.CohortTrainer, "validate")
    def validate(function, self, *batch):
        reached("validation")
        return function(self, *batch)


def in_folder(module):
    @around(module.Folder, "write")
    def write(function, self, name, content):
        for moment in {fault["at"] for fault in FAULTS}:
            kind, _, text = moment.partition(" ")
            if kind == "write" and text in name:
                half = Path(f"{self.path}/{name}.{os.getpid()}.part")
                half.parent.mkdir(parents=True, exist_ok=True)
                half.write_bytes(content[: len(content) // 2])
                reached(moment)
                half.unlink()
        function(self, name, content)
        if name.endswith("/done.json"):
            note("ended", name)


def in_lease(module):
    if "RAYTRANSFER_CHAOS_LEASE" in os.environ:
        module.LEASE_SECONDS = float(os.environ["RAYTRANSFER_CHAOS_LEASE"])
        module.HEARTBEAT_SECONDS = module.LEASE_SECONDS / 3


def in_attempts(module):
    @around(module, "run_to_its_end")
    def run_to_its_end(function, *args):
        (FOLDER / "trial.pid").write_text(str(os.getpid()))
        return function(*args)


HOOKS = {
    "raytransfer.train.loop": in_loop,
    "raytransfer.train.cohort": in_cohort,
    "raytransfer.folder": in_folder,
    "raytransfer.schedule.attempts": in_attempts,
    "raytransfer.lease": in_lease,
}


class Finder(importlib.abc.MetaPathFinder):
    """Hooks into modules when they are imported, as most processes import none of them."""

    def find_spec(self, name, path, target=None):
        hook = HOOKS.pop(name, None)
        if hook is None:
            return None
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            hook(module)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder())
