"""How far a run is, which is all that schedules depend on."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RunProgress:
    """How far a run is at the start of a step.

    Args:
        step: number of finished optimizer steps.
        elapsed_seconds: training time so far, in seconds.
        max_steps: the run ends after this many steps; None for no limit.
        max_seconds: the run ends after this training time, in seconds; None for no limit.
    """

    step: int
    elapsed_seconds: float
    max_steps: int | None = None
    max_seconds: float | None = None
