"""The one error that a user is meant to read."""


class UserError(Exception):
    """Something outside the code is wrong (a parameter, a file, the network).

    The message is one sentence that names the thing, what was expected, what was found, and what cures it. The command line prints
    it without a traceback and exits with `exit_code`.
    """

    exit_code = 2
