"""A command as a job of a Ray cluster elsewhere: sent, followed to its end, or left to itself."""

import asyncio
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from raytransfer.errors import StoppedError, UserError
from raytransfer.schedule.session import first_line, silent

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

QUIET_SECONDS = 30.0
"""Without a line of the log, the job's state is asked for: a connection may be dead and not say."""

LOST_SECONDS = 600.0
"""That a cluster which no longer answers is asked again."""

LOOK_SECONDS = 1.0
"""Between looks at a job whose log has ended, or whose cluster does not answer."""

NEW_SECONDS = 60.0
"""That a cluster which has just begun is asked to take a job."""

REFUSED = "No available agent"
"""Of what Ray says where it has not taken a job, as its machines have only begun."""

UNKNOWN = "status code 404"
"""Of what Ray says of a job that it does not know."""

ADDRESS = "RAY_API_SERVER_ADDRESS"

FAILED = 1
"""Exit status of a job that has none of its own: it was stopped, or lost with its cluster."""


class Job:
    """A job of the cluster whose dashboard is at an address such as http://127.0.0.1:8265.

    address: None for that of RAY_API_SERVER_ADDRESS or RAY_ADDRESS, or for a cluster of this
    machine. Raises UserError where there is no cluster, or it asks for another token.
    """

    def __init__(self, address: str | None) -> None:
        from ray.exceptions import AuthenticationError, RayError
        from ray.job_submission import JobSubmissionClient

        self._answered = time.monotonic()
        self._printed = 0
        self.id = ""
        self.address = address
        named = {"--address": address} | {n: os.environ.get(n) for n in (ADDRESS, "RAY_ADDRESS")}
        source, where = next(((n, a) for n, a in named.items() if a), ("--address", None))
        # Of RAY_ADDRESS Ray makes the dashboard's, which takes long where nobody answers.
        if where and source != "RAY_ADDRESS" and not where.startswith(("http://", "https://")):
            raise UserError(f"{source} is a URL such as http://127.0.0.1:8265, not {where!r}.")
        try:
            with _address(where):
                self._client = JobSubmissionClient(where)
        except AuthenticationError as error:
            raise UserError(
                f"The Ray cluster at {where} asks for its token ({first_line(error)}): set "
                "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) to this "
                "cluster's."
            ) from None
        except (ConnectionError, RuntimeError, ValueError, RayError) as error:
            raise UserError(
                f"No dashboard of a Ray cluster answers{f' at {where}' if where else ''} "
                f"({first_line(error)}): {'correct' if where else 'give'} {source}, such as "
                "http://127.0.0.1:8265."
            ) from None

    def submit(self, words: Sequence[str], files: Sequence[Path] = ()) -> None:
        """Start a command there. files: sent along, to lie in the folder that it runs in.

        Raises UserError where the cluster does not take it.
        """
        with tempfile.TemporaryDirectory() as folder, silent():
            for file in files:
                shutil.copy(file, folder)
            deadline = time.monotonic() + NEW_SECONDS
            while not self.id:
                try:
                    self.id = self._client.submit_job(
                        entrypoint=shlex.join(words),
                        runtime_env={"working_dir": folder} if files else None,
                    )
                except (OSError, RuntimeError) as error:
                    if REFUSED in str(error) and time.monotonic() < deadline:
                        time.sleep(LOOK_SECONDS)
                        continue
                    raise UserError(
                        f"The cluster did not answer to the job ({first_line(error)}): look with "
                        "`ray job list` whether it has it, or send it again."
                    ) from None

    def follow(self) -> int:
        """Print the job's log until it ends; its exit status, which is that of its command.

        Raises StoppedError where the cluster does not answer for ten minutes; the job may go on.
        """
        with silent():
            return asyncio.run(self._follow())

    def told(self) -> str:
        """How to come back to the job, and how to stop it."""
        where = f"--address {self.address} " if self.address else ""
        return (
            f"To come back: ray job logs {where}--follow {self.id}\n"
            f"To stop it: ray job stop {where}{self.id}"
        )

    async def _follow(self) -> int:
        from aiohttp import ClientError

        broken, told = (OSError, RuntimeError, ClientError), False
        while True:
            with suppress(*broken):
                async for text in self._log():
                    print(text, end="", flush=True)
            # However the log ended: only the job's state tells whether the job has.
            try:
                ended = self._ended()
                if ended is not None:
                    print(self._client.get_job_logs(self.id)[self._printed :], end="", flush=True)
                    if ended.status == "STOPPED":
                        print("The job was stopped; the same command goes on.", file=sys.stderr)
                    code = ended.driver_exit_code
                    return code if code is not None else int(ended.status != "SUCCEEDED") * FAILED
            except broken as error:
                if UNKNOWN in str(error):
                    raise StoppedError(
                        f"the cluster knows no job {self.id} any more: it has lost its head"
                    ) from None
                quiet = time.monotonic() - self._answered
                if not told and quiet > QUIET_SECONDS:
                    told = True
                    print("The cluster does not answer; it is asked again.", file=sys.stderr)
                if quiet > LOST_SECONDS:
                    raise StoppedError(
                        f"the cluster has not answered for {LOST_SECONDS / 60:.0f} minutes "
                        f"({first_line(error)}); the job may go on.\n{self.told()}"
                    ) from None
            await asyncio.sleep(LOOK_SECONDS)

    def _ended(self) -> "JobDetails | None":
        """What Ray knows of the job; None while it goes on."""
        info = self._client.get_job_info(self.id)
        self._answered = time.monotonic()
        return info if info.status.is_terminal() else None

    async def _log(self) -> AsyncIterator[str]:
        """What the log says beyond what was printed: it comes from its beginning each time."""
        passed = 0
        async with aclosing(self._client.tail_job_logs(self.id)) as chunks:  # type: ignore[type-var]
            while True:
                coming = asyncio.ensure_future(anext(chunks, None))
                try:
                    while not (await asyncio.wait({coming}, timeout=QUIET_SECONDS))[0]:
                        if self._ended() is not None:
                            return
                finally:
                    # Whatever ends the wait, Ctrl-C too: what is still asked cannot be closed.
                    coming.cancel()
                    await asyncio.wait({coming})
                chunk = coming.result()
                if chunk is None:
                    return
                self._answered = time.monotonic()
                new = chunk[max(0, self._printed - passed) :]
                passed += len(chunk)
                self._printed = max(self._printed, passed)
                if new:
                    yield new


@contextmanager
def _address(address: str | None) -> Iterator[None]:
    """Ray takes its variable for more than the address that it is given; here what was asked for
    counts."""
    before = os.environ.get(ADDRESS)
    if address is not None:
        os.environ[ADDRESS] = address
    try:
        yield
    finally:
        if before is not None:
            os.environ[ADDRESS] = before
        else:
            os.environ.pop(ADDRESS, None)
