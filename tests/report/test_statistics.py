"""Welch's t-test against closed forms, integration and published examples."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plgolf.report.statistics import mean, standard_deviation, t_survival, welch


@given(st.floats(-50, 50))
def test_student_t_matches_its_closed_forms(t):
    root = math.sqrt(2 + t * t)
    assert t_survival(t, 1) == pytest.approx(0.5 - math.atan(t) / math.pi, abs=1e-13)
    assert t_survival(t, 2) == pytest.approx(0.5 - t / (2 * root), abs=1e-13)
    cosine = math.sqrt(4 / (4 + t * t))
    assert t_survival(t, 4) == pytest.approx(
        0.5 - 0.5 * (t / math.sqrt(4 + t * t)) * (1 + cosine * cosine / 2), abs=1e-13
    )


@given(st.floats(1, 400), st.floats(0, 12))
def test_student_t_matches_the_integral_of_its_density(degrees, t):
    x = np.linspace(0, t, 20_001)
    log_scale = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - 0.5 * math.log(degrees * math.pi)
    density = np.exp(log_scale - (degrees + 1) / 2 * np.log1p(x * x / degrees))
    assert t_survival(t, degrees) == pytest.approx(0.5 - np.trapezoid(density, x), abs=2e-8)


@pytest.mark.parametrize(
    ("degrees", "p", "t"),
    # Critical values as printed in tables of Student's distribution, one-sided.
    [
        (1, 0.05, 6.314),
        (2, 0.01, 6.965),
        (4, 0.01, 3.747),
        (4, 0.005, 4.604),
        (10, 0.025, 2.228),
        (30, 0.001, 3.385),
    ],
)
def test_student_t_matches_printed_critical_values(degrees, p, t):
    assert t_survival(t, degrees) == pytest.approx(p, rel=2e-3)


@pytest.mark.parametrize(
    ("first", "second", "margin", "t", "degrees", "p"),
    # scipy 1.17.1: ttest_ind(first, second + margin, equal_var=False, alternative="greater").
    [
        (
            [2.0932, 2.0927, 2.0937],
            [2.0842, 2.0837, 2.0848],
            0,
            20.8784491415,
            3.96318136056,
            1.67168758743e-05,
        ),
        (
            [2.0932, 2.0927, 2.0937],
            [2.0842, 2.0837, 2.0848],
            0.005,
            9.2361912559,
            3.96318136056,
            0.00039889735418,
        ),
        ([2.051, 2.0533, 2.0498, 2.0521], [2.0477, 2.0502], 0, 1.7842851424, 1.77065991358, 0.11614746014),
        (
            [1.20143, 1.19945, 1.20319],
            [1.1928, 1.1941, 1.1934, 1.1939, 1.1932],
            0.005,
            2.60187733496,
            2.19192963511,
            0.0553212152749,
        ),
        (
            [27.5, 21.0, 19.0, 23.6, 17.0, 17.9, 16.9],
            [27.1, 22.0, 20.8, 23.4, 23.4, 23.5, 25.8, 22.0],
            0,
            -1.86016337549,
            8.81668524807,
            0.951763115438,
        ),
    ],
)
def test_welch_matches_scipy(first, second, margin, t, degrees, p):
    test = welch(first, second, margin=margin)
    assert test is not None
    assert (test.t, test.degrees, test.p) == pytest.approx((t, degrees, p), rel=1e-9)


@pytest.mark.parametrize(
    ("t", "degrees", "p"),
    # scipy 1.17.1: scipy.stats.t.sf.
    [
        (0.5, 3, 0.3257239824240755),
        (2.5, 3.7, 0.03591101145591339),
        (6, 2.2, 0.010589042171176946),
        (-1.3, 11.9, 0.8908911973750364),
        (25, 4, 7.598762881657867e-06),
        (3.0, 1, 0.10241638234956672),
        (0.0, 1.5, 0.5),
    ],
)
def test_student_t_matches_scipy(t, degrees, p):
    assert t_survival(t, degrees) == pytest.approx(p, rel=1e-12)


def test_a_margin_equals_a_worse_candidate():
    first, second = [2.051, 2.052, 2.0535], [2.041, 2.0425, 2.0415]
    here, there = welch(first, second, margin=0.005), welch(first, [x + 0.005 for x in second])
    assert (here.t, here.degrees, here.p) == pytest.approx((there.t, there.degrees, there.p), rel=1e-9)


def test_welch_is_none_without_spread():
    assert welch([2.0], [1.0, 1.1]) is None
    assert welch([2.0, 2.0], [1.0, 1.0]) is None
    assert welch([2.0, 2.0], [1.0, 1.1]) is not None
    assert standard_deviation([2.0]) is None


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20))
def test_mean_and_deviation_match_numpy(values):
    assert mean(values) == pytest.approx(float(np.mean(values)), abs=1e-9)
    assert standard_deviation(values) == pytest.approx(float(np.std(values, ddof=1)), abs=1e-9)


@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(2, 6), st.floats(0.1, 10))
def test_swapping_the_groups_gives_the_complement(seed, n, m, scale):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(2, 0.01, n).tolist(), rng.normal(2, 0.01 * scale, m).tolist()
    there, back = welch(first, second), welch(second, first)
    assert there is not None and back is not None
    assert there.p + back.p == pytest.approx(1, abs=1e-12)
    assert min(n, m) - 1 <= there.degrees + 1e-9 and there.degrees <= n + m - 2 + 1e-9


def test_p_is_uniform_for_equal_groups():
    """Equal groups give p < 0.05 in 5 % of the cases, and p < 0.5 in half of them."""
    rng = np.random.default_rng(5)
    ps = np.array([welch(rng.normal(0, 1, 4).tolist(), rng.normal(0, 1, 4).tolist()).p for _ in range(4000)])
    assert abs((ps < 0.05).mean() - 0.05) < 0.012
    assert abs((ps < 0.5).mean() - 0.5) < 0.03
