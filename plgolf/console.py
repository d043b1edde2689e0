"""Console output of long jobs: lines that stay, and one progress line that is rewritten in place."""

import re
import sys
import time
from typing import Protocol, TextIO

_SHOWN_SECONDS = 0.2
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """Returns the text with control characters, which could steer a terminal, replaced by U+FFFD."""
    return _CONTROLS.sub("\ufffd", text)


class Console(Protocol):
    """Destination of progress and messages."""

    def say(self, line: str) -> None:
        """Prints a line that stays."""

    def live(self, line: str) -> None:
        """Shows a progress line, which the next call replaces."""


class Terminal:
    """Writes to a stream: a terminal rewrites its progress line, a file or pipe gets one every ten seconds.

    Args:
        stream: standard output by default.
        prefix: beginning of every line.
    """

    def __init__(self, stream: TextIO | None = None, *, prefix: str = "") -> None:
        self.stream = stream or sys.stdout
        self.prefix = prefix
        self._rewrites = self.stream.isatty()
        self._interval_seconds = 0.0 if self._rewrites else 10.0
        self._last = time.monotonic()

    def say(self, line: str) -> None:
        self.clear()
        self.stream.write(f"{self.prefix}{printable(line)}\n")
        self.stream.flush()

    def clear(self) -> None:
        """Erases the progress line of a terminal."""
        if self._rewrites:
            self.stream.write("\r\x1b[K")

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


class ProgressLine:
    """Shows the progress of a job over equal parts, and an estimate of the time left.

    Args:
        console: destination.
        label: what is being done.
        total: number of parts; 0 if unknown.
        noun: plural name of a part.
    """

    def __init__(self, console: Console, label: str, total: int, noun: str) -> None:
        self.console, self.label, self.total, self.noun = console, label, total, noun
        self._start = self._shown = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the job began."""
        return time.monotonic() - self._start

    def show(self, done: int) -> None:
        """Shows the number of finished parts, at most five times a second."""
        if self._is_due():
            of = f" of {self.total:,}" if self.total else ""
            self.console.live(f"{self.label}: {done:,}{of} {self.noun}{self._left(done)}")

    def _is_due(self) -> bool:
        now = time.monotonic()
        if now - self._shown < _SHOWN_SECONDS:
            return False
        self._shown = now
        return True

    def _left(self, done: int) -> str:
        if not self.total or not done:
            return ""
        left = self.seconds * max(self.total - done, 0) / done
        return f", {min(100 * done // self.total, 100)} %, {clock_time(left)} left"


class ByteProgress(ProgressLine):
    """Shows the progress of a job over bytes: MB/s and an estimate of the time left."""

    def __init__(self, console: Console, label: str, total_bytes: int) -> None:
        super().__init__(console, label, total_bytes, "bytes")

    def show(self, done: int, *, text_bytes: int | None = None, **counts: int) -> None:
        """Shows the progress, and numbers by name, at most five times a second.

        The speed is that of ``text_bytes`` if given, of decompressed text for example, else of ``done``.
        """
        if not self._is_due():
            return
        said = [f"{count:,} {name}" for name, count in counts.items()]
        through = done if text_bytes is None else text_bytes
        said.append(f"{through / max(self.seconds, 1e-9) / 1e6:.1f} MB/s")
        self.console.live(f"{self.label}: {', '.join(said)}{self._left(done)}")


def clock_time(seconds: float) -> str:
    """Formats seconds as hours, minutes and seconds.

    >>> clock_time(3723.4), clock_time(9)
    ('1:02:03', '0:09')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
