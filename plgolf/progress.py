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

    @property
    def fraction(self) -> float | None:
        """Share of the run that is done, by the limit that is nearer; None without limits.

        >>> RunProgress(step=30, elapsed_seconds=5.0, max_steps=100, max_seconds=10.0).fraction
        0.5
        """
        shares = []
        if self.max_steps is not None:
            shares.append(self.step / max(self.max_steps, 1))
        if self.max_seconds is not None:
            shares.append(self.elapsed_seconds / self.max_seconds)
        return min(max(shares), 1.0) if shares else None
