"""The fast quantile and the rounding in place: to the bit what the reference's formulas give."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plgolf.reference.rounding import CLIP_QUANTILE, clip_values, quantize_int8

NAN, INF = float("nan"), float("inf")


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.int32)


def reference_int8(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The reference program's formulas, in its order."""
    values = tensor.float()
    if values.ndim == 2:
        clip = torch.quantile(values.abs(), CLIP_QUANTILE, dim=1)
        clipped = torch.maximum(torch.minimum(values, clip[:, None]), -clip[:, None])
        scale = (clip / 127.0).clamp_min(1.0 / 127.0)
        codes = torch.clamp(torch.round(clipped / scale[:, None]), -127, 127).to(torch.int8)
        return codes, scale.to(torch.float16)
    clip = torch.quantile(values.abs().flatten(), CLIP_QUANTILE)
    scale = torch.where(clip > 0, clip / 127.0, torch.ones_like(clip))
    codes = torch.clamp(torch.round(torch.clamp(values, -clip, clip) / scale), -127, 127)
    return codes.to(torch.int8), scale


def assert_same(tensor: torch.Tensor) -> None:
    before = tensor.clone()
    codes, scale = quantize_int8(tensor)
    expected_codes, expected_scale = reference_int8(tensor)
    assert torch.equal(codes, expected_codes) and codes.is_contiguous()
    assert scale.dtype is expected_scale.dtype
    assert torch.equal(bits(scale.float()), bits(expected_scale.float()))
    assert torch.equal(tensor.isnan(), before.isnan())
    assert torch.equal(tensor.nan_to_num(), before.nan_to_num())


def values_of(shape: tuple[int, ...], exponent: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * 10.0**exponent


@settings(max_examples=200, deadline=None)
@given(data=st.data(), rows=st.integers(1, 6), cols=st.integers(1, 600))
def test_quantile_is_torchs_to_the_bit(data, rows, cols):
    exponent, seed = data.draw(st.integers(-44, 38)), data.draw(st.integers(0, 2**32 - 1))
    values = values_of((rows, cols), exponent, seed)
    for special in data.draw(st.lists(st.sampled_from([NAN, INF, -INF, 0.0, 1e-45, 3e38]), max_size=4)):
        values[data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, cols - 1))] = special
    values = values.abs()
    expected = torch.quantile(values, CLIP_QUANTILE, dim=1)
    assert torch.equal(bits(clip_values(values)), bits(expected))


@pytest.mark.parametrize(
    "cols", [1, 2, 3, 511, 512, 65_536, 65_537, 312_500, 312_501, 624_999, 625_000, 625_001, 1_250_003]
)
def test_quantile_of_rows_of_any_length(cols):
    normal = values_of((cols,), 0, cols)
    two_kinds = torch.where(normal > 0, 0.3, 0.7)
    with_nan, with_inf = normal.clone(), normal.clone()
    with_nan[cols // 2], with_inf[cols // 2] = NAN, INF
    equal = [torch.zeros(cols), torch.full((cols,), 0.3)]
    rows = [normal, normal * 1e-40, two_kinds, *equal, with_nan, with_inf]
    values = torch.stack(rows).abs()
    expected = torch.quantile(values, CLIP_QUANTILE, dim=1)
    assert torch.equal(bits(clip_values(values)), bits(expected))
    assert torch.equal(bits(clip_values(normal.abs())), bits(expected[0]))


def test_rows_longer_than_torchs_quantile_takes():
    values = torch.zeros(2**24 + 1)
    values[:100] = torch.arange(100.0)
    with pytest.raises(RuntimeError, match="too large"):
        torch.quantile(values, CLIP_QUANTILE)
    # Its rank in float32 is 27 below the last.
    codes, scale = quantize_int8(values)
    assert scale == torch.tensor(72.0) / 127 and codes[:100].max() == 127


@settings(max_examples=150, deadline=None)
@given(
    shape=st.lists(st.integers(1, 24), min_size=0, max_size=4).map(tuple),
    exponent=st.integers(-44, 37),
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_codes_and_scales_are_the_references_to_the_bit(shape, exponent, seed, dtype):
    values = values_of(shape, exponent, seed).clamp(-6e4, 6e4)
    assert_same(values.to(dtype))


@pytest.mark.parametrize("std", [0.0, 1e-45, 1e-9, 1e-4, 0.007, 0.02, 0.3, 1.0, 50.0, 1e30])
@pytest.mark.parametrize(
    "shape", [(96, 256), (2, 65_537), (70_000, 1), (35_000, 2), (65_537,), (3, 150, 150)]
)
def test_codes_are_the_references_for_weights_of_any_size(shape, std):
    # Below 1/127 the scale has a floor, at which values beyond the clip must not be rounded as they are.
    assert_same(values_of(shape, 0, seed=1) * std)


def test_other_memory_layouts_are_rounded_alike():
    values = values_of((300, 300), -1, seed=2)
    assert_same(values.t())
    assert_same(values[:, ::3])
    assert_same(values[None].expand(4, 300, 300))


@pytest.mark.parametrize("special", [NAN, INF, -INF])
@pytest.mark.parametrize("shape", [(3, 40), (120,)])
def test_what_is_not_finite_is_rounded_as_ever(shape, special):
    values = values_of(shape, 0, seed=3)
    values.view(-1)[7] = special
    assert_same(values)


def test_parameters_are_rounded_as_they_are():
    values = values_of((30, 40), -1, seed=3)
    codes, scale = quantize_int8(torch.nn.Parameter(values))
    expected_codes, expected_scale = reference_int8(values)
    assert torch.equal(codes, expected_codes) and torch.equal(scale, expected_scale)
    assert not codes.requires_grad and not scale.requires_grad
