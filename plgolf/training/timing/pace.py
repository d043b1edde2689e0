"""How fast steps go, by readings that all ranks share."""

from typing import Protocol

_MOST_STEPS = 32
_FIRST_STEPS = 10
"""That are read one by one: they are the slow ones."""


class ReadsSteps(Protocol):
    """A callback that looks at the loss of some steps: ``GolfModule.train_loss`` is theirs then."""

    def reads_step(self, step: int) -> bool:
        """Says whether it looks at the loss after optimizer step ``step``; the same on every rank."""


class Pace:
    """The time of a step between readings, and when the next reading is due.

    Args:
        seconds_apart: seconds between two; 0 for one after each step.
        start: seconds that the clock has at the start.
        end: seconds at which it must be read after each step; None for no end.
    """

    def __init__(self, seconds_apart: float = 0.0, start: float = 0.0, end: float | None = None) -> None:
        self.seconds_per_step = 0.0
        """Mean between the last two readings."""
        self._seconds_apart, self._end = seconds_apart, end
        self._read_seconds, self._read_steps = start, 0
        self._steps, self._due_step = 0, 1

    @property
    def is_due(self) -> bool:
        """Whether the next step is one to be read after."""
        return self._steps + 1 >= self._due_step

    def go_on(self) -> None:
        """Counts a step that is not read after."""
        self._steps += 1

    def read(self, seconds: float) -> int:
        """Counts a step, and takes the reading after it.

        Returns:
            Steps since the reading before.
        """
        self._steps += 1
        since = self._steps - self._read_steps
        self.seconds_per_step = (seconds - self._read_seconds) / since
        self._read_seconds, self._read_steps = seconds, self._steps
        apart = self._seconds_apart
        if self._end is not None:  # Half of what is left, so that every one of the last steps is read.
            apart = min(apart, (self._end - seconds) / 2)
        steps = apart / self.seconds_per_step if self.seconds_per_step > 0 else 0.0
        first = self._steps < _FIRST_STEPS
        self._due_step = self._steps + (1 if first else max(1, int(min(steps, _MOST_STEPS))))
        return since
