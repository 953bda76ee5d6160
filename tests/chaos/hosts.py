"""Several hosts on this machine: network namespaces of Linux, each with an address of its own in
one network, that nothing outside reaches."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOKEN = "0123456789abcdef" * 4

PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
"""On which jobs find `raytransfer`, `ray` and `python` as this process does."""

RAY = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": TOKEN,
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "GLOO_SOCKET_IFNAME": "net0",
    # A host that is lost is noticed after three seconds, not fifteen.
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


class Hosts:
    """Hosts 1, 2, ... with the addresses 10.77.0.1, 10.77.0.2, ...; host 1 has Ray's head.

    Raises OSError where this machine lets nobody make them.
    """

    def __init__(self, count: int) -> None:
        self._name = f"rt{os.getpid()}-"
        self._made = ["hub"]
        self._started: list[subprocess.Popen[str]] = []
        self._folder = tempfile.TemporaryDirectory(prefix="rt-", dir="/tmp")
        self.environment = os.environ | RAY | {"PATH": PATH}
        self.environment.pop("RAY_ADDRESS", None)
        ip("netns", "add", self._name + "hub")
        self._inside("hub", "link", "add", "bridge", "type", "bridge")
        self._inside("hub", "link", "set", "bridge", "up")
        for i in range(1, count + 1):
            host, port = str(i), f"port{i}"
            ip("netns", "add", self._name + host)
            self._made.append(host)
            hub = self._name + "hub"
            self._inside(host, *f"link add net0 type veth peer name {port} netns {hub}".split())
            self._inside("hub", "link", "set", port, "master", "bridge", "up")
            self._inside(host, "addr", "add", f"{self.address(i)}/24", "dev", "net0")
            self._inside(host, "link", "set", "net0", "up")
            self._inside(host, "link", "set", "lo", "up")

    def __enter__(self) -> "Hosts":
        return self

    def __exit__(self, *error: object) -> None:
        for name in self._made:
            self._kill(name)
        for running in self._started:
            running.communicate()
        for name in self._made:
            ip("netns", "delete", self._name + name)
        self._folder.cleanup()

    def address(self, host: int) -> str:
        return f"10.77.0.{host}"

    @property
    def dashboard(self) -> str:
        return f"http://{self.address(1)}:8265"

    def start_ray(self, host: int, *options: str) -> None:
        """Ray's head on host 1, or one more machine of its cluster. Returns when it is there."""
        own = f"--node-ip-address={self.address(host)}"
        role = ["--head", "--port=6379", f"--dashboard-host={self.address(1)}"]
        if host != 1:
            role = [f"--address={self.address(1)}:6379"]
        folder = Path(self._folder.name, str(host))
        words = ("ray", "start", "--block", own, f"--temp-dir={folder}", *role, *options)
        with Path(self._folder.name, f"{host}.log").open("w") as log:
            self.start(host, *words, stdout=log, stderr=log)
        self._wait_for(host)

    def _wait_for(self, host: int) -> None:
        look = (
            "import ray; ray.init(address='10.77.0.1:6379', logging_level=50); "
            f"assert '{self.address(host)}' in {{n['NodeManagerAddress'] for n in ray.nodes()}}"
        )
        deadline = time.monotonic() + 60
        while self.run(1, sys.executable, "-c", look).returncode:
            assert time.monotonic() < deadline, Path(self._folder.name, f"{host}.log").read_text()
            time.sleep(0.5)

    def start(self, host: int, *words: str, **settings: object) -> subprocess.Popen[str]:
        """A command on a host."""
        entered = ["ip", "netns", "exec", self._name + str(host), *words]
        running = subprocess.Popen(entered, **{"env": self.environment, "text": True, **settings})
        self._started.append(running)
        return running

    def run(self, host: int, *words: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """A command on a host, to its end, with its output. changes: of its environment."""
        together = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        running = self.start(host, *words, env=self.environment | changes, **together)
        output, _ = running.communicate(timeout=300)
        return subprocess.CompletedProcess(words, running.returncode, output)

    def lose(self, host: int) -> None:
        """All that runs on a host ends at once."""
        self._kill(str(host))

    def _kill(self, name: str) -> None:
        for pid in ip("netns", "pids", self._name + name).split():
            os.kill(int(pid), signal.SIGKILL)

    def _inside(self, name: str, *words: str) -> None:
        ip("-n", self._name + name, *words)


def free_port() -> int:
    """A port of this machine's loopback that nothing listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(done.stderr.strip())
    return done.stdout
