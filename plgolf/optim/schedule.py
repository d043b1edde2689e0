"""Learning rate, weight decay and momentum over a run, as pure functions of a run's progress."""

from abc import ABC, abstractmethod

from plgolf.errors import UserError, at_least
from plgolf.progress import RunProgress


class Schedule(ABC):
    """Multiplies a number of every group, such as the learning rate; subclass it for your own schedule."""

    @abstractmethod
    def factor(self, progress: RunProgress) -> float:
        """Returns the factor of the step that starts, from finished steps and seconds and their limits."""


class Constant(Schedule):
    """Keeps the base values."""

    def factor(self, progress: RunProgress) -> float:  # noqa: ARG002
        return 1.0


class Warmdown(Schedule):
    """Constant, then linear to 0 at the end of the run (https://github.com/openai/parameter-golf).

    With a time limit the warm-down starts when the time left equals the time of ``steps`` steps at the mean
    pace so far; without one, ``steps`` steps before the last. With both limits only the time counts: a run
    that reaches its last step first ends before or during its warm-down.

    Args:
        steps: length of the warm-down in optimizer steps; 0 for none.
        fraction: length as a share of the run instead, by whichever limit is nearer: 1 for the whole run, so
            that it is independent of the machine's speed; null for ``steps``.
        floor: smallest factor, at which the warm-down ends.

    Raises:
        UserError: the length is negative, the share not between 0 and 1, or the floor not.

    >>> [
    ...     Warmdown(4).factor(RunProgress(step=step, elapsed_seconds=0.0, max_steps=10))
    ...     for step in (5, 6, 8, 9)
    ... ]
    [1.0, 1.0, 0.5, 0.25]
    >>> Warmdown(4).factor(RunProgress(step=90, elapsed_seconds=90.0, max_seconds=92.0))
    0.5
    >>> Warmdown(fraction=0.5).factor(RunProgress(step=9, elapsed_seconds=75.0, max_seconds=100.0))
    0.5
    >>> Warmdown(4, floor=0.4).factor(RunProgress(step=9, elapsed_seconds=0.0, max_steps=10))
    0.4
    """

    def __init__(self, steps: int = 3000, fraction: float | None = None, floor: float = 0.0) -> None:
        at_least("steps", steps, 0)
        if fraction is not None and not 0 < fraction <= 1:
            raise UserError(f"fraction must be above 0 and at most 1, got {fraction}")
        if not 0 <= floor <= 1:
            raise UserError(f"floor must be at least 0 and at most 1, got {floor}")
        self.steps, self.fraction, self.floor = steps, fraction, floor

    def factor(self, progress: RunProgress) -> float:
        return max(self._linear(progress), self.floor)

    def _linear(self, progress: RunProgress) -> float:
        if self.fraction is not None:
            return min((1.0 - (progress.fraction or 0.0)) / self.fraction, 1.0)
        if self.steps <= 0 or (progress.max_seconds is None and progress.max_steps is None):
            return 1.0
        if progress.max_seconds is not None:
            step_seconds = progress.elapsed_seconds / max(progress.step, 1)
            warmdown_seconds = self.steps * step_seconds
            left_seconds = max(progress.max_seconds - progress.elapsed_seconds, 0.0)
            if left_seconds > warmdown_seconds:
                return 1.0
            return left_seconds / max(warmdown_seconds, 1e-12)
        assert progress.max_steps is not None
        if not max(progress.max_steps - self.steps, 0) <= progress.step < progress.max_steps:
            return 1.0
        return (progress.max_steps - progress.step) / self.steps


def momentum_at(step: int, *, start: float, end: float, warmup_steps: int) -> float:
    """Returns the momentum after ``step`` steps, which rises linearly from ``start`` to ``end``."""
    fraction = min(step / warmup_steps, 1.0) if warmup_steps > 0 else 1.0
    return (1.0 - fraction) * start + fraction * end
