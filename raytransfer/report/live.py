"""The report of a study that runs, served to this machine alone, and renewed by itself.

GET /        the page, as it is now
GET /state   {"version": what the page was made from, "told": sentences on the progress}
"""

import hashlib
import json
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from raytransfer.errors import UserError
from raytransfer.report.page import page
from raytransfer.results.filters import first_filters
from raytransfer.results.pace import Pace
from raytransfer.results.sound import ENDS
from raytransfer.results.statistics import Statistic
from raytransfer.results.store import StudyFolder, read_study
from raytransfer.results.table import Results

HOST = "127.0.0.1"

LOOK_SECONDS = 3.0
"""From one look at the study to the next, at least."""

LOOK_SHARE = 0.1
"""Of the time that may go into looking: a study in a slow store is looked at less often."""

SILENT_SECONDS = 60.0
"""A lane of training that has said nothing for so long is not shown."""


class LiveReport:
    """The page of a study and how far the study is, both as of the last look."""

    def __init__(self, study: str, statistic: Statistic = "top1") -> None:
        """Raises UserError where there is no study."""
        self._folder = StudyFolder(study)
        self._statistic = statistic
        self._pace = Pace()
        self.version = ""
        self.page = ""
        self.told: list[str] = []
        self.look()

    def look(self) -> None:
        """Read the study; make the page anew where anything of it is new."""
        results = read_study(self._folder.root)
        lanes = [lane for lane in self._folder.progress() if _recent(lane)]
        steps = {id: lane["step"] / lane["steps"] for lane in lanes for id in lane["networks"]}
        self.told = _told(results, lanes, steps, self._pace)
        content = json.dumps([results.networks, results.curves], sort_keys=True)
        version = hashlib.sha256(content.encode()).hexdigest()
        if version != self.version:
            filters = first_filters(self._folder, results)
            self.page = page(results, self._statistic, filters, version)
            self.version = version

    def keep_looking(self) -> None:
        """For ever; a study that cannot be read now may at the next look."""
        while True:
            began = time.monotonic()
            try:
                self.look()
            except (UserError, OSError) as error:
                self.told = [f"The study cannot be read just now: {error}"]
            took = time.monotonic() - began
            time.sleep(max(LOOK_SECONDS, took / LOOK_SHARE))


def server(report: LiveReport, port: int) -> ThreadingHTTPServer:
    """A server of the page on loopback. Raises UserError for a port that is taken."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # Another site's page may know this address by a name of its own, and must not read it.
            if self.headers.get("Host") not in (f"{HOST}:{listening}", f"localhost:{listening}"):
                self.send_error(HTTPStatus.FORBIDDEN)
            elif self.path == "/":
                self._answer("text/html; charset=utf-8", report.page)
            elif self.path == "/state":
                state = {"version": report.version, "told": report.told}
                self._answer("application/json", json.dumps(state))
            else:
                self.send_error(HTTPStatus.NOT_FOUND)

        def _answer(self, kind: str, content: str) -> None:
            body = content.encode()
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    try:
        made = ThreadingHTTPServer((HOST, port), Handler)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--port {port} cannot be used: {reason}; 0 takes a free one.") from None
    listening = made.server_port
    return made


def watch(study: str, statistic: Statistic, port: int) -> None:
    """Serve a study's report until Ctrl-C."""
    report = LiveReport(study, statistic)
    with server(report, port) as serving:
        threading.Thread(target=report.keep_looking, daemon=True).start()
        print(f"http://{HOST}:{serving.server_port}/ shows {study}; Ctrl-C ends it.", flush=True)
        try:
            serving.serve_forever()
        except KeyboardInterrupt:
            print()


def _recent(lane: dict[str, Any]) -> bool:
    kinds = {"time": float, "step": int, "steps": int, "networks": list, "doing": str}
    if not all(isinstance(lane.get(name), kind) for name, kind in kinds.items()):
        return False
    silent: float = time.time() - lane["time"]
    return lane["steps"] > 0 and silent < SILENT_SECONDS


def _told(
    results: Results, lanes: list[dict[str, Any]], steps: dict[str, float], pace: Pace
) -> list[str]:
    total = len(results.networks)
    over = {row["treatment"] for row in results.networks if row["state"] in ENDS}
    done = len(over) + sum(share for id, share in steps.items() if id not in over)
    if len(over) == total:
        return [f"All {total} networks are over."]
    left = (pace.left(done / total) or "time left not known yet") if lanes else "nothing trains now"
    told = [f"{len(over)} of {total} networks are over, {100 * done / total:.0f} %; {left}."]
    for lane in lanes:
        names = [str(id) for id in lane["networks"] if id not in over]
        if names:
            more = f" and {len(names) - 6} more" if len(names) > 6 else ""
            shown = ", ".join(names[:6]) + more
            told.append(f"{shown}: step {lane['step']} of {lane['steps']}, {lane['doing']}")
    return told
