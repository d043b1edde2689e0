"""Pace of the steps, from readings that all ranks share."""

from typing import Protocol

_MOST_STEPS = 32
_FIRST_STEPS = 10
"""Steps at the start with a reading each, since they are slower than the others."""


class ReadsSteps(Protocol):
    """A callback that reads ``Run.train_loss`` after some steps."""

    def reads_step(self, step: int) -> bool:
        """Returns True if it reads the loss after optimizer step ``step``; the same on every rank."""


class Pace:
    """Estimates the time of a step between two readings, and when the next reading is due.

    Args:
        seconds_apart: seconds between two readings; 0 for one after every step.
        start: clock time at the start, in seconds.
        end: clock time at which the run ends, in seconds; None for no end.
    """

    def __init__(self, seconds_apart: float = 0.0, start: float = 0.0, end: float | None = None) -> None:
        self.seconds_per_step = 0.0
        """Mean time of a step between the last two readings."""
        self._seconds_apart, self._end = seconds_apart, end
        self._read_seconds, self._read_steps = start, 0
        self._steps, self._due_step = 0, 1

    @property
    def is_due(self) -> bool:
        """True if a reading is due after the next step."""
        return self._steps + 1 >= self._due_step

    def advance(self) -> None:
        """Counts a step without a reading."""
        self._steps += 1

    def read(self, seconds: float) -> int:
        """Counts a step with a reading.

        Returns:
            Number of steps since the reading before.
        """
        self._steps += 1
        since = self._steps - self._read_steps
        self.seconds_per_step = (seconds - self._read_seconds) / since
        self._read_seconds, self._read_steps = seconds, self._steps
        apart = self._seconds_apart
        if self._end is not None:  # At most half of the time left, so that the last steps are all read.
            apart = min(apart, (self._end - seconds) / 2)
        steps = apart / self.seconds_per_step if self.seconds_per_step > 0 else 0.0
        first = self._steps < _FIRST_STEPS
        self._due_step = self._steps + (1 if first else max(1, int(min(steps, _MOST_STEPS))))
        return since
