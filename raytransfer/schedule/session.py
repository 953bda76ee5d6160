"""Ray: one of this machine's own, or the cluster that RAY_ADDRESS names."""

import logging
import os
import re
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from raytransfer.errors import StoppedError, UserError

SETTINGS = {
    # A driver under `uv run` would make every worker run uv again.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # Tune's new output prints boxes even where it is told to print nothing.
    "RAY_AIR_NEW_OUTPUT": "0",
    # Ctrl-C ends a study; Tune would take it for the end of one wave.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # A trial's end is noticed at the next look at its workers: every 2 seconds otherwise.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # glibc gives freed tensors back to the kernel, which then clears their pages anew each step.
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
}

ALONE = {
    # A Ray that may have other machines listens for them. (It has the name of the systems that
    # cannot.)
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
    # Nobody takes this machine away with notice; the process that would look takes a second.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Its processes share the cores with other users' as this one does; Ray would give way to them
    # until next to nothing is left.
    "RAY_worker_niceness": "0",
}
"""Settings of a Ray of this machine's own, which nobody else is to reach."""

SHORT_FOLDER = "/tmp"
"""Ray's sockets lie in its folder, and the name of a socket has at most 107 characters."""

PREFIX = "raytransfer-ray-"
"""Of the names of folders of ours for Ray."""

INSIDE = "r"
"""Ray's own folder in one, all that is there: Ray lets everybody write into its."""

LONGEST_SOCKET = 107
"""Bytes of the path of a socket."""

REACH_SECONDS = 10.0
"""For a cluster's head to listen, which may be starting again."""

NEW_SECONDS = 60.0
"""A folder younger than this may be one that its process has yet to lock."""


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def in_cluster() -> bool:
    """Whether RAY_ADDRESS names a cluster, as it does in each of Ray's jobs."""
    return bool(os.environ.get("RAY_ADDRESS"))


def set_environment() -> None:
    """Settings of Ray's, but for those that the user has made. Ray reads some when it is imported:
    call this before."""
    settings = SETTINGS if in_cluster() else SETTINGS | ALONE
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    if not in_cluster() and "RAY_AUTH_MODE" not in os.environ:
        # Other users of the machine reach loopback, too.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


@contextmanager
def ray_session(cpus: int | None = None) -> Iterator[None]:
    """Ray, quietly: the cluster of RAY_ADDRESS, or one of this machine's that ends with the block.

    cpus: that Ray counts where it is this machine's own; None for a study, which may need more than
    there are: tasks that decode run beside training. Raises UserError where the cluster does not
    let us in, or Ray was imported without the settings of its own one; StoppedError where a SIGTERM
    or the loss of Ray ends its start.
    """
    if "ray" in sys.modules and "RAY_AUTH_MODE" not in os.environ and not in_cluster():
        raise UserError(
            "Ray was imported before its settings were made, as a space with a param_space does: "
            "call raytransfer.schedule.session.set_environment() at the program's start."
        )
    set_environment()
    if in_cluster():
        with _quiet():
            _join()
            yield
        return
    with own_folder() as folder, _quiet():
        import ray
        from ray.exceptions import RaySystemError

        try:
            with _sigterm_kept():
                ray.init(
                    address="local",
                    num_cpus=cpus or 2 * cores() + 1,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    _temp_dir=f"{folder}/{INSIDE}",
                )
        except RaySystemError as error:
            raise StoppedError(f"Ray was lost as it started ({first_line(error)})") from None
        yield


@contextmanager
def own_folder() -> Iterator[str]:
    """A folder for Ray, that nobody else can open and that ends with the block. Its lock tells it
    from those of killed processes, which are removed.

    Raises UserError where RAY_TMPDIR is no place for one.
    """
    place = os.environ.get("RAY_TMPDIR") or SHORT_FOLDER
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(
            f"Nothing can be written in {place}, where Ray's files would lie: set RAY_TMPDIR to a "
            "folder of yours with a short path."
        )
    session = f"{INSIDE}/session_2000-01-01_00-00-00_000000_{os.getpid()}/sockets/plasma_store"
    most = LONGEST_SOCKET - len(f"/{PREFIX}{8 * '_'}/{session}")
    if len(os.fsencode(os.path.abspath(place))) > most:
        raise UserError(
            f"RAY_TMPDIR={place} is too long for the sockets in it: name a folder of at most "
            f"{most} bytes, or unset it."
        )
    for old in Path(place).glob(f"{PREFIX}*"):
        with suppress(OSError):
            if {*os.listdir(old)} <= {INSIDE} and time.time() - old.stat().st_mtime > NEW_SECONDS:
                with locked(old):
                    shutil.rmtree(old, ignore_errors=True)
    with (
        tempfile.TemporaryDirectory(prefix=PREFIX, dir=place, ignore_cleanup_errors=True) as folder,
        locked(folder),
    ):
        yield folder


@contextmanager
def locked(folder: Path | str) -> Iterator[None]:
    """A folder's lock, which ends with its process. Raises BlockingIOError where another has it."""
    import fcntl  # not on all systems on which results are read

    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(number)


def _join() -> None:
    import ray
    from ray.exceptions import AuthenticationError

    address = os.environ["RAY_ADDRESS"]
    _reach(address)
    try:
        with _sigterm_kept():
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
    except (AuthenticationError, ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"RAY_ADDRESS={address} leads to no Ray cluster that lets us in ({first_line(error)}): "
            "correct or unset it; one with a token needs RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, "
            "too."
        ) from None


def knock(address: str, seconds: float) -> None:
    """Raises OSError where nobody listens at HOST:PORT within so many seconds."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), seconds).close()


def _reach(address: str) -> None:
    """Raises UserError where nobody listens at HOST:PORT; Ray would ask there for ever."""
    if not re.fullmatch(r"[^/]+:\d+", address):
        return None  # auto, or a URL
    deadline = time.monotonic() + REACH_SECONDS
    while True:
        try:
            return knock(address, REACH_SECONDS)
        except (OSError, OverflowError) as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"RAY_ADDRESS={address} leads to no Ray cluster ({error}): correct or unset it."
                ) from None
            time.sleep(1)


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """What a SIGTERM does is the same after the block, in which Ray makes an exit with 15 of it.

    Raises StoppedError for one in the block.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:
        raise StoppedError("stopped by SIGTERM") from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Whatever happens in the block, Ray is left at its end."""
    import ray

    try:
        with silent():
            yield
    finally:
        ray.shutdown()


@contextmanager
def silent() -> Iterator[None]:
    """While the block runs, no logger of Ray's libraries, which set them up as they are imported,
    says anything: what a user needs to know, we say."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def first_line(error: Exception) -> str:
    """What an error of Ray's says first, to stand in a sentence of ours."""
    return str(error).strip().partition("\n")[0].rstrip(".")
