"""The lease of a folder: one writer at a time, on any store that lists what was written.

attempts/<number>-<chance>.json   a writer's claim: who it is, and when it last said that it lives

A claim of another machine is watched: if it is renewed, its writer lives. One that sees no live
claim writes its own, with a higher number than all there are, and looks again. Two that do so at
once are both seen by at least one of them, which then withdraws: so never do two hold the folder,
and no store need offer more than to list what was written. Whoever finds a higher number than its
own has been taken for dead, and must not write any more.
"""

import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from raytransfer.errors import StoreError, UserError
from raytransfer.folder import Folder

ATTEMPTS = "attempts"

HEARTBEAT_SECONDS = 5.0
"""How often a writer says that it lives."""

LEASE_SECONDS = 30.0
"""A writer that has been silent for so long is taken for dead."""

LOOK_SECONDS = 1.0
"""Between looks at a claim of another machine."""

TRIES = 5
"""Times that writers which start at the same moment try again."""


class LeaseLostError(Exception):
    """Another writer has taken the folder over."""


class Lease:
    """A claim on a folder; `name` is that of its file, by which other processes know it, too."""

    def __init__(self, folder: Folder, name: str) -> None:
        self._folder = folder
        self.name = name
        self._told: dict[str, Any] = {}

    @property
    def attempt(self) -> int:
        return _number(self.name)

    @classmethod
    def acquire(cls, folder: Folder) -> "Lease":
        """Become the folder's writer. Raises UserError, naming the holder, if there is one."""
        for _ in range(TRIES):
            claims = _watched(folder)
            _refuse(folder, claims)
            number = 1 + max(map(_number, claims), default=0)
            lease = cls(folder, f"{number:06d}-{secrets.token_hex(4)}.json")
            lease._told = {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "since": time.strftime("%Y-%m-%d %H:%M:%S"),
                "stopping": False,
            }
            lease._write()
            others = {name: said for name, said in _claims(folder).items() if name != lease.name}
            if not any(map(_alive, others.values())):
                for name in others:
                    folder.delete(f"{ATTEMPTS}/{name}")
                return lease
            folder.delete(f"{ATTEMPTS}/{lease.name}")
            time.sleep(random.uniform(0.1, 1.0))
        _refuse(folder, _claims(folder))
        raise UserError(f"Several runs want to write {folder} at once: start one of them again.")

    def beat(self) -> None:
        """Say that the writer lives. Raises LeaseLostError if it is no longer the writer."""
        self.check()
        self._write()

    def stop(self) -> None:
        """Tell all processes of the writer to save what they have, and to end."""
        self._told["stopping"] = True
        self.beat()

    def check(self) -> None:
        """Raises LeaseLostError if another has taken the folder over."""
        names = self._folder.names(ATTEMPTS)
        if self.name not in names or max(map(_number, names)) > self.attempt:
            raise LeaseLostError(
                f"another process has taken over the {self._folder.kind} {self._folder}"
            )

    def stopping(self) -> bool:
        """Whether the writer has told all to end."""
        said = self._folder.read_json(f"{ATTEMPTS}/{self.name}")
        return isinstance(said, dict) and said.get("stopping") is True

    def release(self) -> None:
        """Let another write; the number stays taken."""
        self._told["heartbeat"] = 0.0
        self._folder.write_json(f"{ATTEMPTS}/{self.name}", self._told)

    def _write(self) -> None:
        self._told["heartbeat"] = time.time()
        self._folder.write_json(f"{ATTEMPTS}/{self.name}", self._told)


@contextmanager
def kept(folder: Folder) -> Iterator[Lease]:
    """A lease that a thread renews while the block runs; no trace of it is left.

    Raises UserError where there is another writer, and for a lease that the block finds lost.
    """
    lease = Lease.acquire(folder)
    ended = threading.Event()

    def keep() -> None:
        while not ended.wait(HEARTBEAT_SECONDS):
            try:
                lease.beat()
            except LeaseLostError:
                return
            except (StoreError, OSError):
                continue  # it does not answer now; the next time may be in time

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    try:
        yield lease
    except LeaseLostError as error:
        raise UserError(f"Stopped: {error}.") from None
    finally:
        ended.set()
        thread.join()
        with suppress(StoreError, OSError, LeaseLostError):
            lease.check()
            folder.delete(ATTEMPTS)


def held(folder: Folder) -> bool:
    """Whether somebody writes to the folder now."""
    return any(map(_alive, _claims(folder).values()))


def _number(name: str) -> int:
    number = name.partition("-")[0]
    return int(number) if number.isdecimal() else 0


def _claims(folder: Folder) -> dict[str, Mapping[str, Any]]:
    """All claims by name. One that is not readable is nobody's."""
    claims: dict[str, Mapping[str, Any]] = {}
    for name in folder.names(ATTEMPTS):
        if not name.endswith(".json"):
            continue
        try:
            said = folder.read_json(f"{ATTEMPTS}/{name}")
        except UserError:
            said = None
        claims[name] = said if isinstance(said, dict) else {}
    return claims


def _watched(folder: Folder) -> Mapping[str, Mapping[str, Any]]:
    """All claims, once it is clear of each live one that its writer lives: it is a process of this
    machine, or it said so again."""
    first = claims = _claims(folder)
    deadline = time.monotonic() + LEASE_SECONDS
    while time.monotonic() < deadline and any(
        _alive(said) and said["host"] != socket.gethostname() and said == first.get(name)
        for name, said in claims.items()
    ):
        time.sleep(LOOK_SECONDS)
        claims = _claims(folder)
    return claims


def _refuse(folder: Folder, claims: Mapping[str, Mapping[str, Any]]) -> None:
    for said in claims.values():
        if _alive(said):
            raise UserError(
                f"The {folder.kind} {folder} is being written by process {said['pid']} on "
                f"{said['host']} since {said['since']}: wait for it or stop it."
            )


def _alive(said: Mapping[str, Any]) -> bool:
    """Whether who made a claim still writes, as far as can be told."""
    kinds = {"heartbeat": float, "pid": int, "host": str, "since": str}
    if not all(isinstance(said.get(name), kind) for name, kind in kinds.items()):
        return False
    return time.time() - said["heartbeat"] < LEASE_SECONDS and not _gone(said)


def _gone(said: Mapping[str, Any]) -> bool:
    """Whether it was a process of this machine that is no more."""
    if said["host"] != socket.gethostname() or said["pid"] == os.getpid():
        return False
    try:
        os.kill(said["pid"], 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass
    return False
