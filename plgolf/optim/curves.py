"""Further schedules, as functions of the share of a run that is done; packed where a recipe names one."""

import math
from typing import Literal

from plgolf.errors import UserError
from plgolf.optim.schedule import Schedule
from plgolf.progress import RunProgress


class Points(Schedule):
    """Straight lines between points, such as ``[[0.7, 1.0], [1.0, 0.5]]`` for a taper to half.

    Args:
        points: share of the run that is done, by the limit that is nearer, and factor, in order. Before the
            first point and after the last the factor stays; a run without limits stays at the first.

    Raises:
        UserError: there are no points, a share is outside 0 to 1 or not after the one before, or a factor is
            negative.

    >>> taper = Points([(0.7, 1.0), (1.0, 0.5)])
    >>> [taper.factor(RunProgress(step=k, elapsed_seconds=0.0, max_steps=20)) for k in (7, 14, 17, 20)]
    [1.0, 1.0, 0.75, 0.5]
    """

    def __init__(self, points: list[tuple[float, float]]) -> None:
        if not points:
            raise UserError("points must have at least one point, got none")
        before = -1.0
        for i, (share, factor) in enumerate(points):
            if not before < share <= 1 or share < 0:
                raise UserError(f"points.{i}.0 must be from 0 to 1 and after the one before, got {share}")
            if not 0 <= factor < math.inf:
                raise UserError(f"points.{i}.1 must be finite and at least 0, got {factor}")
            before = share
        self.points = points

    def factor(self, progress: RunProgress) -> float:
        at, (left, low) = progress.fraction or 0.0, self.points[0]
        for right, high in self.points:
            if at < right:
                return low if right == left else low + (high - low) * (at - left) / (right - left)
            left, low = right, high
        return low


class Cooldown(Schedule):
    """Constant, then down to the end of the run along a curve, as a share of the run.

    With x from 1 to 0 over the cool-down, ``power`` is x ** power, ``cosine`` (1 - cos(pi x)) / 2, and
    ``sqrt`` 1 - sqrt(1 - x), which falls fast at first (https://arxiv.org/abs/2405.18392).

    Args:
        fraction: length as a share of the run; 1 for the whole run.
        shape: the curve.
        power: exponent of ``power``: 1 for a straight line, more for a curve that is low for long, as in
            https://github.com/KellerJordan/modded-nanogpt/pull/328, which has 1.2.
        beyond: share of the run after its end at which the curve would reach 0.
        floor: smallest factor.

    Raises:
        UserError: a share or the floor is not between 0 and 1, or the exponent is not positive.

    >>> half_way = RunProgress(step=8, elapsed_seconds=0.0, max_steps=10)
    >>> [round(Cooldown(0.4, shape).factor(half_way), 4) for shape in ("power", "cosine", "sqrt")]
    [0.5, 0.5, 0.2929]
    """

    def __init__(
        self,
        fraction: float = 0.4,
        shape: Literal["power", "cosine", "sqrt"] = "power",
        power: float = 1.0,
        beyond: float = 0.0,
        floor: float = 0.0,
    ) -> None:
        if not 0 < fraction <= 1:
            raise UserError(f"fraction must be above 0 and at most 1, got {fraction}")
        if shape not in ("power", "cosine", "sqrt"):
            raise UserError(f"shape must be power, cosine or sqrt, got {shape!r:.100}")
        if not 0 < power < math.inf:
            raise UserError(f"power must be finite and positive, got {power}")
        for name, share in (("beyond", beyond), ("floor", floor)):
            if not 0 <= share <= 1:
                raise UserError(f"{name} must be at least 0 and at most 1, got {share}")
        self.fraction, self.shape, self.power = fraction, shape, power
        self.beyond, self.floor = beyond, floor

    def factor(self, progress: RunProgress) -> float:
        left = 1.0 - (progress.fraction or 0.0) + self.beyond
        return max(self._curve(min(left / (self.fraction + self.beyond), 1.0)), self.floor)

    def _curve(self, x: float) -> float:
        if self.shape == "cosine":
            return (1.0 - math.cos(math.pi * x)) / 2.0
        return 1.0 - math.sqrt(1.0 - x) if self.shape == "sqrt" else float(x**self.power)
