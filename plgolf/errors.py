"""The one exception that means "the user can mend this": printed as a line, never as a traceback."""


class UserError(ValueError):
    """A mistake in the user's configuration, files or arguments.

    The message is one line that says what is wrong and where. The command line prints it and exits
    with code 2; from Python it is an ordinary ``ValueError``.
    """
