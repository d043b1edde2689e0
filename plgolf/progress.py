"""How far a run is: the one number that schedules go by."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RunProgress:
    """How far a run is, at the start of a step.

    Args:
        step: optimizer steps done.
        elapsed_seconds: training seconds done.
        max_steps: steps after which the run ends, or None.
        max_seconds: training seconds after which the run ends, or None.
    """

    step: int
    elapsed_seconds: float
    max_steps: int | None = None
    max_seconds: float | None = None
