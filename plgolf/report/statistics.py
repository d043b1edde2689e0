"""Whether one group of seeds is better than another: Welch's t-test, without scipy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

REQUIRED_NATS = 0.005
"""What a new record must improve the loss by."""
REQUIRED_P = 0.01
"""How small the chance must be that it has not."""
_ITERATIONS = 1000
_TINY = 1e-300
_PRECISION = 1e-15


def mean(values: Sequence[float]) -> float:
    """Returns the mean."""
    return math.fsum(values) / len(values)


def standard_deviation(values: Sequence[float]) -> float | None:
    """Returns the sample standard deviation (divisor n - 1), or None of fewer than two values."""
    if len(values) < 2:
        return None
    middle = mean(values)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1))


def incomplete_beta(a: float, b: float, x: float) -> float:
    """Returns the regularised incomplete beta function I_x(a, b).

    Its continued fraction (https://dlmf.nist.gov/8.17.E22) by Lentz's method, where it converges fast, and
    the symmetry I_x(a, b) = 1 - I_{1-x}(b, a) elsewhere.

    Args:
        a: positive.
        b: positive.
        x: in 0..1.
    """
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(b, a, 1 - x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    fraction, upper, lower = 1.0, 1.0, 0.0
    for i in range(_ITERATIONS):
        m = i // 2
        if i == 0:
            numerator = 1.0
        elif i % 2 == 0:
            numerator = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            numerator = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        lower = 1 / _away_from_zero(1 + numerator * lower)
        upper = _away_from_zero(1 + numerator / upper)
        fraction *= upper * lower
        if abs(1 - upper * lower) < _PRECISION:
            break
    return math.exp(log_front) * (fraction - 1) / a


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def t_survival(t: float, degrees: float) -> float:
    """Returns the chance that Student's t exceeds a value.

    Args:
        t: the value.
        degrees: of freedom, positive, not needed to be whole.
    """
    square = t * t
    if square < 1:  # Where degrees / (degrees + square) could be so near to one that it rounds.
        tail = (1 - incomplete_beta(0.5, degrees / 2, square / (degrees + square))) / 2
    else:
        tail = incomplete_beta(degrees / 2, 0.5, degrees / (degrees + square)) / 2
    return tail if t >= 0 else 1 - tail


@dataclass(frozen=True)
class Welch:
    """A one-sided test of two means whose variances may differ.

    Args:
        t: the statistic; positive where the second group is lower.
        degrees: of freedom, by Welch and Satterthwaite.
        p: chance of a t as large if the second group were not lower.
    """

    t: float
    degrees: float
    p: float


def welch(first: Sequence[float], second: Sequence[float], *, margin: float = 0.0) -> Welch | None:
    """Tests whether the second group's mean is lower than the first's by more than a margin.

    B. L. Welch, "The generalization of 'Student's' problem when several different population variances are
    involved" (1947). Assumes independent, roughly normal values, not equal variances.

    Args:
        first: losses of the reference.
        second: losses of what may be better.
        margin: what it must be better by; the hypothesis to reject is mean(first) - mean(second) <= margin.

    Returns:
        The test, or None where there is none: a group has fewer than two values, or neither varies.
    """
    spreads = standard_deviation(first), standard_deviation(second)
    if spreads[0] is None or spreads[1] is None or spreads[0] == spreads[1] == 0:
        return None
    errors = spreads[0] ** 2 / len(first), spreads[1] ** 2 / len(second)
    t = (mean(first) - mean(second) - margin) / math.sqrt(sum(errors))
    degrees = sum(errors) ** 2 / (errors[0] ** 2 / (len(first) - 1) + errors[1] ** 2 / (len(second) - 1))
    return Welch(t, degrees, t_survival(t, degrees))
