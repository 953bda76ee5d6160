"""Exceptions that are no mistakes of ours."""


class UserError(Exception):
    """A mistake in what was asked: one sentence that names the setting or file, and what to do.

    The command line prints it without a traceback and exits with status 2.
    """


class StoppedError(Exception):
    """A study was told to stop, and has saved what it could."""


class StoreError(UserError):
    """A folder that cannot be written just now: a full disk, or a store that does not answer."""
