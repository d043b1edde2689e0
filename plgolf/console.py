"""What long jobs say: lines that stay, and one that is rewritten in place while something is under way."""

import re
import sys
import time
from typing import Protocol, TextIO

_SHOWN_SECONDS = 0.2
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """Returns a text whose control characters, which could steer a terminal, are shown as U+FFFD."""
    return _CONTROLS.sub("\ufffd", text)


class Console(Protocol):
    """Where progress goes."""

    def say(self, line: str) -> None:
        """Prints a line that stays."""

    def live(self, line: str) -> None:
        """Shows how far something is; the next call replaces it."""


class Terminal:
    """A console on a stream: a terminal rewrites its live line, a file or pipe gets one now and then.

    Args:
        stream: by default standard output.
        prefix: what every line begins with.
    """

    def __init__(self, stream: TextIO | None = None, *, prefix: str = "") -> None:
        self.stream = stream or sys.stdout
        self.prefix = prefix
        self._rewrites = self.stream.isatty()
        self._interval_seconds = 0.0 if self._rewrites else 10.0
        self._last = time.monotonic()

    def say(self, line: str) -> None:
        clear = "\r\x1b[K" if self._rewrites else ""
        self.stream.write(f"{clear}{self.prefix}{printable(line)}\n")
        self.stream.flush()

    def live(self, line: str) -> None:
        now = time.monotonic()
        if now - self._last < self._interval_seconds:
            return
        self._last = now
        if self._rewrites:
            self.stream.write(f"\r\x1b[K{self.prefix}{printable(line)}")
            self.stream.flush()
        else:
            self.say(line)


class Progress:
    """How far a job over bytes is: MB/s and time left, by what has been done so far.

    Args:
        console: where to.
        label: what is being done.
        total_bytes: bytes to do; 0 if that is not known.
    """

    def __init__(self, console: Console, label: str, total_bytes: int) -> None:
        self.console, self.label, self.total_bytes = console, label, total_bytes
        self._start = self._shown = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the job began."""
        return time.monotonic() - self._start

    def show(self, done_bytes: int, *, text_bytes: int | None = None, **counts: int) -> None:
        """Shows a live line, unless the last one was just now.

        Args:
            done_bytes: out of the total.
            text_bytes: what the speed is of, where that is something else: text, inflated and encoded.
            counts: what else to say, by name.
        """
        now = time.monotonic()
        if now - self._shown < _SHOWN_SECONDS:
            return
        self._shown = now
        said = [f"{count:,} {name}" for name, count in counts.items()]
        through = done_bytes if text_bytes is None else text_bytes
        said.append(f"{through / max(self.seconds, 1e-9) / 1e6:.1f} MB/s")
        if self.total_bytes and done_bytes:
            left = self.seconds * max(self.total_bytes - done_bytes, 0) / done_bytes
            said.append(f"{min(100 * done_bytes // self.total_bytes, 100)} %, {_clock(left)} left")
        self.console.live(f"{self.label}: {', '.join(said)}")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
