"""Welch's t-test for whether one group of seeds is better than another, without scipy."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

REQUIRED_NATS = 0.005
"""Improvement of the loss that the challenge requires for a new record."""
REQUIRED_P = 0.01
"""Largest p-value that the challenge accepts for that improvement."""
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(128)


mean = statistics.fmean


def standard_deviation(values: Sequence[float]) -> float | None:
    """Returns the sample standard deviation (divisor n - 1); None for fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None


def t_survival(t: float, degrees: float) -> float:
    """Returns the probability that Student's t of at least 1 degree of freedom exceeds ``t``.

    Integrates the density by Gauss-Legendre quadrature after the substitution t = sqrt(degrees) cot(u**2),
    which leaves a smooth function on a finite interval.
    """
    end = math.sqrt(math.atan2(math.sqrt(degrees), abs(t)))
    u = end * (_NODES + 1) / 2
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(math.pi)
    tail = scale * end * float(_WEIGHTS @ (u * np.sin(u * u) ** (degrees - 1)))
    return tail if t >= 0 else 1 - tail


@dataclass(frozen=True)
class Welch:
    """One-sided test of two means whose variances may differ.

    Args:
        t: the statistic, positive if the second mean is lower.
        degrees: degrees of freedom by Welch and Satterthwaite.
        p: probability of a t at least as large if the second mean is not lower.
    """

    t: float
    degrees: float
    p: float


def welch(first: Sequence[float], second: Sequence[float], *, margin: float = 0.0) -> Welch | None:
    """Tests whether the second mean is lower than the first by more than a margin.

    B. L. Welch, "The generalization of 'Student's' problem when several different population variances are
    involved" (1947). Assumes independent, roughly normal values, not equal variances.

    Args:
        first: losses of the reference.
        second: losses of the candidate.
        margin: required improvement; the hypothesis to reject is mean(first) - mean(second) <= margin.

    Returns:
        The test; None if a group has fewer than two values or neither group varies.
    """
    spreads = standard_deviation(first), standard_deviation(second)
    if spreads[0] is None or spreads[1] is None or spreads[0] == spreads[1] == 0:
        return None
    errors = spreads[0] ** 2 / len(first), spreads[1] ** 2 / len(second)
    t = (mean(first) - mean(second) - margin) / math.sqrt(sum(errors))
    degrees = sum(errors) ** 2 / (errors[0] ** 2 / (len(first) - 1) + errors[1] ** 2 / (len(second) - 1))
    return Welch(t, degrees, t_survival(t, degrees))
