"""The one exception for mistakes that a user can mend."""


class UserError(Exception):
    """One sentence that says what is wrong, where, and what to do.

    Commands print it without a traceback and exit with 2; everything else is a bug and keeps its
    traceback.
    """
