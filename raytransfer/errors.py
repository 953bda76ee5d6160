"""Exceptions that are no mistakes of ours."""


class UserError(Exception):
    """A mistake in what was asked: one sentence that names the setting or file, and what to do.

    The command line prints it without a traceback and exits with status 2.
    """


class StoppedError(BaseException):
    """A study ended before its time, through no mistake: the same command goes on.

    As KeyboardInterrupt, it is no Exception: a signal raises it anywhere, also where whatever a
    library raises is caught.

    The command line says why in a sentence, without its end, and exits with `status`.
    """

    status = 75
    """EX_TEMPFAIL of sysexits.h: try again."""

    @property
    def sentence(self) -> str:
        return f"raytransfer: {self}; the same command goes on."


class StoreError(UserError):
    """A folder that cannot be written just now: a full disk, or a store that does not answer."""
