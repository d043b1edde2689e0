"""The command line ``plgolf``: what comes after it decides which program runs, and only that is imported."""

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
    "generate": "write text with an artifact",
    "report": "draw a run into one HTML file, or compare several",
    "data": "prepare, verify, inspect and download datasets",
}
_COMPLETION = "--print_completion"
_FAILED = 1
_INTERRUPTED = 130
_BROKEN_PIPE = 141
_LONGEST_ERROR = 2000


def main(words: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        words: what comes after ``plgolf``; by default the process's own.

    Returns:
        0; 1 if a dataset fails its verification or a run cannot go on; 2 after a mistake of the user's, which
        is printed as one line; 130 after an interruption, 143 if the process was told to terminate.
    """
    try:
        return _run(sys.argv[1:] if words is None else words)
    except UserError as error:
        _say_error(f"error: {error}")
        return 2
    except RunError as error:
        if not error.silent:
            _say_error(f"error: {error}")
        return _FAILED
    except StoppedBySignal as stop:
        if not stop.silent:
            _say_error(stop.message)
        return stop.code
    except BrokenPipeError:
        # Whoever read our output, such as head, has seen enough. What is left of it goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        sys.stderr.write("plgolf: interrupted\n")
        return _INTERRUPTED


def _say_error(message: str) -> None:
    # A console clears what is left of a job's live line, which an error would be the end of.
    Terminal(sys.stderr, prefix="plgolf: ").say(" ".join(message.split())[:_LONGEST_ERROR])


def entry() -> NoReturn:
    """What the ``plgolf`` script calls."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    status = main()
    if status == _FAILED or status >= _INTERRUPTED:
        # At once: a thread that is inside a C++ library would abort an orderly end, and one that waits for a
        # rank that is gone would keep it from ending.
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
        raise UserError(f"a command must come first, got {first:.100}; there are {', '.join(_COMMANDS)}")
    else:
        return _run_command(first, rest)
    return 0


def _run_command(command: str, words: list[str]) -> int:
    if command not in _COMMANDS:
        close = difflib.get_close_matches(command, _COMMANDS, n=1)
        meant = f" (did you mean {close[0]}?)" if close else ""
        raise UserError(f"no command {command:.100}, there are {', '.join(_COMMANDS)}{meant}")
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
    """Writes the script that completes all commands in a shell; slow, since it asks each for its settings."""
    from plgolf.arguments.completion import completion  # noqa: PLC0415
    from plgolf.corpus import cli as data  # noqa: PLC0415
    from plgolf.generation import cli as generation  # noqa: PLC0415
    from plgolf.report import cli as report  # noqa: PLC0415
    from plgolf.training.command import cli as training  # noqa: PLC0415

    others = {"generate": generation.parser(), "report": report.parser(), "data": data.parser()}
    return completion(shell, {**training.commands(), **others})


@contextlib.contextmanager
def _interrupted_at_once() -> Iterator[None]:
    """Ends the process on SIGINT: a library that is being imported may swallow a KeyboardInterrupt."""

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
        f"commands:\n{commands}\nplgolf COMMAND --help says more.\n"
        f"plgolf {_COMPLETION} bash|zsh|fish prints what completes commands and keys at a Tab.\n"
    )
