"""The one exception that is the user's to mend."""


class UserError(Exception):
    """A mistake in what was asked: one sentence that names the setting or file, and what to do.

    The command line prints it without a traceback and exits with status 2.
    """
