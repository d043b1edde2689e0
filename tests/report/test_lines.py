"""Curves: moving means and thinned points stay near the logged values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plgolf.report.lines import smoothed, thinned


@given(st.integers(1, 3000), st.floats(-3, 3), st.floats(-3, 3))
def test_moving_mean_of_a_line_is_the_line_except_at_its_end(count, slope, offset):
    values = offset + slope * np.arange(count)
    smooth, window = smoothed(values)
    assert smooth.shape == values.shape and window >= 1
    inner = slice(0, count - window // 2)
    assert np.allclose(smooth[inner], values[inner], atol=1e-8)


def test_moving_mean_follows_an_early_fall_and_removes_noise():
    steps = np.arange(1, 401) * 50.0
    level = 2 + 5 * (1 + steps / 8) ** -0.62
    smooth, window = smoothed(level)
    assert window == 27
    assert np.abs(smooth / level - 1).max() < 0.02
    noise = np.random.default_rng(0).normal(0, 1, 400)
    assert smoothed(noise)[0][60:-30].std() < 0.35


def test_moving_mean_skips_nan():
    values = np.ones(120)
    values[40:45] = np.nan
    assert np.nanmax(np.abs(smoothed(values)[0] - 1)) == pytest.approx(0)
    assert np.isnan(smoothed(np.full(120, np.nan))[0]).all()


@given(st.integers(1, 100_000))
def test_thinned_points_include_both_ends_and_all_early_ones(count):
    kept = thinned(np.arange(count))
    assert kept[0] == 0 and kept[-1] == count - 1
    assert np.all(np.diff(kept) > 0) and kept.size <= 1200
    assert set(range(min(count, 10))) <= set(kept.tolist())
