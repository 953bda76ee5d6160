"""The command line: from arguments to one of the commands, and from its end to an exit status."""

import errno
import functools
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tyro.conf import DisallowNone
from tyro.extras import subcommand_cli_from_dict

from raytransfer.cli.bench import bench
from raytransfer.cli.commands import (
    demo,
    export,
    plan,
    report,
    run,
    splits,
    status,
    summary,
)
from raytransfer.cli.data_commands import prepare, show, verify
from raytransfer.cli.job_commands import submit
from raytransfer.errors import StoppedError, UserError
from raytransfer.schedule.session import set_environment
from raytransfer.study.recipe import Recipe, read_recipe
from raytransfer.study.space import load_space, space_names

CLOSED, WRONG, INTERRUPTED = 1, 2, 130
"""Exit statuses: nobody reads the output; the command was wrong; Ctrl-C. A SIGTERM or the loss of
Ray, with everything saved, has that of StoppedError."""

TRAINING = ("cv2", "ray", "safetensors", "simplejpeg", "torch", "torchvision")
"""Packages of the extra `train`."""

WITH_RECIPE = ("plan", "run", "submit")
"""Commands that take the settings of a recipe."""

GOING_ON = ("demo", "prepare", "run")
"""Commands that go on where they were stopped."""

COMMANDS: dict[str, Callable[..., int | None]] = {
    command.__name__: command
    for command in (
        *(demo, prepare, verify, show),
        *(plan, run, submit, status, summary, export, report, splits, bench),
    )
}


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status. args: those of the process if None."""
    words = list(sys.argv[1:] if args is None else args)
    _ready_streams()
    if words[:1] != ["submit"]:
        # Now, as a space may import Ray; `submit` starts no Ray, but has the token of another.
        set_environment()
    try:
        with _stopped_by_sigterm(words[:1]):
            outcome = _understand(words)()
        sys.stdout.flush()
        return outcome or 0
    except UserError as error:
        lines = [" ".join(line.split()) for line in str(error).splitlines()]
        print("raytransfer:", "\n  ".join(lines), file=sys.stderr)
        return WRONG
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in TRAINING:
            raise
        print(
            f"raytransfer: this command needs {package}, which reading results does not: "
            "install raytransfer with its extra `train`.",
            file=sys.stderr,
        )
        return WRONG
    except StoppedError as error:
        print(error.sentence, file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("raytransfer: stopped; the same command goes on from here.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _discard_output()  # nobody reads on
        return CLOSED
    except OSError as error:
        if error.errno == errno.ENOSPC:
            _discard_output()
            print(f"raytransfer: nothing more can be written: {error.strerror}.", file=sys.stderr)
            return WRONG
        # Of pyarrow's file systems: they say what they were about.
        if error.errno is not None or not (said := " ".join(str(error).split())):
            raise
        print(f"raytransfer: {said[:300]}: look whether it can be reached.", file=sys.stderr)
        return WRONG


def _ready_streams() -> None:
    """Output that was closed goes nowhere, and letters that it does not have are spelt out."""
    sys.stdout = sys.stdout or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    sys.stderr = sys.stderr or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _discard_output() -> None:
    """What could not be written goes nowhere; without this, Python would complain at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _stopped_by_sigterm(command: Sequence[str]) -> Iterator[None]:
    """While the block runs, SIGTERM raises StoppedError, for the commands of GOING_ON."""
    main = threading.current_thread() is threading.main_thread()  # only there are signals handled
    if not main or not set(command) & set(GOING_ON):
        yield
        return

    def stop(*_: object) -> None:
        raise StoppedError("stopped by SIGTERM")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _understand(args: list[str]) -> Callable[[], int | None]:
    """The command that `args` ask for, with all its settings.

    What a recipe's flags default to is known only when the space and the recipe file are: so the
    arguments are read twice.
    """
    # Help is given in the first reading; it shows the recipe of the space that is named.
    named = [arg for arg in args if args[0] in WITH_RECIPE and arg in space_names()]
    call = _parse(args, load_space(named[0]).recipe if named else Recipe())
    if "recipe_file" not in call.keywords:
        return call
    start = load_space(call.keywords["space"]).recipe
    if call.keywords["recipe_file"] is not None:
        start = read_recipe(call.keywords["recipe_file"], start)
    return _parse(args, start)


def _parse(args: list[str], start: Recipe) -> "functools.partial[int | None]":
    def deferred(command: Callable[..., int | None]) -> Callable[..., Any]:
        has_recipe = command.__name__ in WITH_RECIPE

        # tyro takes the parameters from what is wrapped.
        @functools.wraps(functools.partial(command, recipe=start) if has_recipe else command)
        def call(**settings: Any) -> functools.partial[int | None]:
            return functools.partial(command, **settings)

        call.__doc__ = command.__doc__
        return call

    found: functools.partial[int | None] = subcommand_cli_from_dict(
        {name: deferred(command) for name, command in COMMANDS.items()},
        prog="raytransfer",
        description="How transferable are the features of each layer of a network?",
        args=args,
        config=(DisallowNone,),
    )
    return found
