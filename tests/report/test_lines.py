"""Curves: moving means and chosen points stay near what they stand for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plgolf.report.lines import _smoothed, _thinned


@given(st.integers(1, 3000), st.floats(-3, 3), st.floats(-3, 3))
def test_a_moving_mean_of_a_line_is_the_line_but_for_its_end(count, slope, offset):
    values = offset + slope * np.arange(count)
    smooth, window = _smoothed(values, is_plain=False)
    assert smooth.shape == values.shape and window >= 1
    inner = slice(0, count - window // 2)
    assert np.allclose(smooth[inner], values[inner], atol=1e-8)


def test_a_moving_mean_follows_an_early_fall_and_takes_noise_away():
    steps = np.arange(1, 401) * 50.0
    level = 2 + 5 * (1 + steps / 8) ** -0.62
    smooth, window = _smoothed(level, is_plain=False)
    assert window == 27
    assert np.abs(smooth / level - 1).max() < 0.02
    noise = np.random.default_rng(0).normal(0, 1, 400)
    assert _smoothed(noise, is_plain=False)[0][60:-30].std() < 0.35


def test_gaps_are_no_part_of_a_mean():
    values = np.ones(120)
    values[40:45] = np.nan
    assert np.nanmax(np.abs(_smoothed(values, is_plain=False)[0] - 1)) == pytest.approx(0)
    assert np.isnan(_smoothed(np.full(120, np.nan), is_plain=False)[0]).all()


@given(st.integers(1, 100_000))
def test_chosen_points_include_both_ends_and_all_early_ones(count):
    kept = _thinned(np.arange(count))
    assert kept[0] == 0 and kept[-1] == count - 1
    assert np.all(np.diff(kept) > 0) and kept.size <= 1200
    assert set(range(min(count, 10))) <= set(kept.tolist())
