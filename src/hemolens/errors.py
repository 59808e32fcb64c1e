"""Errors that a user can act on. This module imports nothing, so every floor may use it."""


class UserError(Exception):
    """Bad input, with the file or key and the remedy in the message.

    The command line prints it as one line; ``exit_code`` 2 means wrong usage (key, path, choice),
    1 means that a started run could not go on.
    """

    def __init__(self, message: str, *, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code
