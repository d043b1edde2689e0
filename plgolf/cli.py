"""The command line ``plgolf``: its first word selects a command, and only that one is imported."""

import contextlib
import difflib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from plgolf.console import Terminal
from plgolf.errors import RunError, StoppedBySignal, UserError
from plgolf.version import __version__

_COMMANDS = {
    "fit": "train a model, export it and score the file",
    "validate": "score a checkpoint or an artifact",
    "generate": "generate text with an artifact",
    "report": "draw a run into one HTML file, or compare several",
    "data": "prepare, verify, inspect and download datasets",
}
_COMPLETION = "--print_completion"
_FAILED = 1
_INTERRUPTED = 130
_BROKEN_PIPE = 141
_LONGEST_ERROR = 2000


def main(words: list[str] | None = None) -> int:
    """Runs the words after ``plgolf``, by default those of this process.

    Returns:
        0; 1 if a dataset fails its verification or a run cannot continue; 2 after a user's mistake, which is
        printed as one line; 130 after an interruption, 143 after a request to terminate.
    """
    try:
        return _run(sys.argv[1:] if words is None else words)
    except (UserError, RunError) as error:
        if not getattr(error, "silent", False):
            _say_error(f"error: {error}")
        return 2 if isinstance(error, UserError) else _FAILED
    except StoppedBySignal as stop:
        if not stop.silent:
            _say_error(stop.message)
        return stop.code
    except BrokenPipeError:
        # The reader of our output, such as head, has closed it: discard the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        sys.stderr.write("plgolf: interrupted\n")
        return _INTERRUPTED


def _say_error(message: str) -> None:
    # Clears a job's live line first, so that the error starts a line of its own.
    Terminal(sys.stderr, prefix="plgolf: ").say(" ".join(message.split())[:_LONGEST_ERROR])


def entry() -> NoReturn:
    """Runs the ``plgolf`` script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    status = main()
    if status == _FAILED or status >= _INTERRUPTED:
        # At once: on a normal exit, a thread inside a C++ library would abort the process, and one that waits
        # for a dead rank would block it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _run(words: list[str]) -> int:
    first, *rest = words or ["--help"]
    if first in ("-h", "--help"):
        sys.stdout.write(_help())
    elif first == "--version":
        sys.stdout.write(f"plgolf {__version__}\n")
    elif first == _COMPLETION:
        sys.stdout.write(_completion(rest[0] if rest else ""))
    elif first.startswith("-"):
        raise UserError(f"the first word must be one of {', '.join(_COMMANDS)}, got {first:.100}")
    else:
        return _run_command(first, rest)
    return 0


def _run_command(command: str, words: list[str]) -> int:
    if command not in _COMMANDS:
        close = difflib.get_close_matches(command, _COMMANDS, n=1)
        meant = f" (did you mean {close[0]}?)" if close else ""
        raise UserError(f"the command must be one of {', '.join(_COMMANDS)}, got {command:.100}{meant}")
    if command == "data":
        from plgolf.corpus import cli as data  # noqa: PLC0415 (fast)

        return data.run(words)
    if command == "report":
        from plgolf.report import cli as report  # noqa: PLC0415 (fast)

        return report.run(words)
    if command == "generate":
        from plgolf.generation import cli as generation  # noqa: PLC0415 (fast)

        settings = generation.parsed(words)
        with _interrupted_at_once():
            import plgolf.generation.language_model  # noqa: F401, PLC0415 (slow)
        return generation.run(settings)
    parent_pid = os.getppid()
    with _interrupted_at_once():
        from plgolf.training.command import cli as training  # noqa: PLC0415 (slow)

        training.run([command, *words], parent_pid=parent_pid)
    return 0


def _completion(shell: str) -> str:
    """Returns the script that completes all commands; slow, since it imports each of them."""
    from plgolf.arguments.completion import completion  # noqa: PLC0415
    from plgolf.corpus import cli as data  # noqa: PLC0415
    from plgolf.generation import cli as generation  # noqa: PLC0415
    from plgolf.report import cli as report  # noqa: PLC0415
    from plgolf.training.command import cli as training  # noqa: PLC0415
    from plgolf.training.command.parser import NOT_OFFERED  # noqa: PLC0415

    others = {"generate": generation.parser(), "report": report.parser(), "data": data.parser()}
    return completion(shell, {**training.commands(), **others}, NOT_OFFERED)


@contextlib.contextmanager
def _interrupted_at_once() -> Iterator[None]:
    """Ends the process on SIGINT, because a library may swallow a KeyboardInterrupt during its import."""

    def end(signum: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
        os.write(2, b"plgolf: interrupted\n")
        os._exit(_INTERRUPTED)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _help() -> str:
    commands = "".join(f"  {name:<10} {what}\n" for name, what in _COMMANDS.items())
    return (
        "usage: plgolf COMMAND ...\n\n"
        "Train the best small language model within a byte and a time budget.\n\n"
        f"commands:\n{commands}\nplgolf COMMAND --help lists its settings.\n"
        f"plgolf {_COMPLETION} bash|zsh|fish prints a script that completes commands and keys with Tab.\n"
    )
