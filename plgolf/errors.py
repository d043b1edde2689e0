"""The exceptions that are printed as a line, never as a traceback."""


class UserError(ValueError):
    """A mistake in the user's configuration, files or arguments.

    The message is one line that says what is wrong and where. The command line prints it and exits
    with code 2; from Python it is an ordinary ``ValueError``.
    """


class RunError(RuntimeError):
    """A run that cannot go on although its settings are right: a rank died, a loss is not finite.

    The command line prints the message, one line, and exits with code 1.

    Args:
        message: what happened, and where.
        silent: another rank says it, so that it is said once.
    """

    def __init__(self, message: str, *, silent: bool = False) -> None:
        super().__init__(message)
        self.silent = silent


class StoppedBySignal(SystemExit):
    """A run that a signal has ended in good order, on every rank.

    A ``SystemExit``, so that a script that does not care ends with the exit code that shells expect.
    The command line prints the message, one line.

    Args:
        signum: the signal; the exit code is 128 more.
        message: one line: where it stopped.
        silent: another rank says it.
    """

    code: int

    def __init__(self, signum: int, message: str, *, silent: bool = False) -> None:
        super().__init__(128 + signum)
        self.message = message
        self.silent = silent
