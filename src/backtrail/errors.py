"""The errors that a user is meant to read."""


class UserError(Exception):
    """Something outside the code is wrong (a parameter, a file, the network).

    The message is one sentence that names the thing, what was expected, what was found, and what cures it. The command line prints
    it without a traceback and exits with `exit_code`.
    """

    exit_code = 2


class Interrupted(UserError):
    """The stage was told to stop, and has saved its state if it trains; a scheduler that retries on this exit code runs it on."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h
