"""Errors that are the user's to mend: the command line prints them without a traceback and exits with code 2."""


class UserError(ValueError):
    """Input the program cannot use; the message names the value received, what was expected and the remedy."""
