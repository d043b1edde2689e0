"""The exceptions that end with one line instead of a traceback, and checks that raise them."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from numbers import Integral, Real
from typing import Any


class UserError(ValueError):
    """A mistake in the user's configuration, files or arguments.

    The message is one line that says what is wrong and where. The command line prints it and exits
    with code 2; from Python it is an ordinary ``ValueError``.
    """


class RunError(RuntimeError):
    """A run with correct settings that cannot continue, for example after a NaN loss or a dead rank.

    The command line prints the message, one line, and exits with code 1; ``silent``: another rank prints it.
    """

    def __init__(self, message: str, *, silent: bool = False) -> None:
        super().__init__(message)
        self.silent = silent


class StoppedBySignal(SystemExit):
    """A run that a signal stopped after a whole step, on every rank.

    It is a ``SystemExit``, so a script that does not catch it exits with the code that shells expect.
    The command line prints the message, one line.

    Args:
        signum: number of the signal; the exit code is 128 more.
        message: one line: where the run stopped.
        silent: True if another rank prints the message.
    """

    code: int

    def __init__(self, signum: int, message: str, *, silent: bool = False) -> None:
        super().__init__(128 + signum)
        self.message = message
        self.silent = silent


@contextmanager
def under(path: str) -> Iterator[None]:
    """Puts the path of a group of settings before the field that a UserError names.

    >>> with under("head"):
    ...     at_least("lr", -1, 0)
    Traceback (most recent call last):
    plgolf.errors.UserError: head.lr must be at least 0, got -1
    """
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}.{error}") from error


def at_least(name: str, value: Any, least: float) -> None:
    """Raises a UserError, which names the setting, if its value is smaller, NaN, or not a number."""
    if not isinstance(value, Real) or not value >= least:  # type: ignore[operator]
        raise UserError(f"{name} must be at least {least}, got {value!r:.100}")


def whole_number(name: str, value: Any, *, least: int | None = None) -> None:
    """Raises a UserError if a setting is not an integer (numpy's included), or below ``least``.

    >>> whole_number("seed", 1.5)
    Traceback (most recent call last):
    plgolf.errors.UserError: seed must be a whole number, got 1.5
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise UserError(f"{name} must be a whole number, got {value!r:.100}")
    if least is not None:
        at_least(name, value, least)


def extra(module: str, who: str = "") -> Any:
    """Imports a module of a package that not every installation has; ``who`` needs it.

    Raises:
        UserError: the package is not installed.
    """
    package = module.partition(".")[0]
    try:
        import_module(package)
        return import_module(module)
    except ImportError as error:
        raise UserError(f"{who} needs the {package} package: pip install {package}".lstrip()) from error
