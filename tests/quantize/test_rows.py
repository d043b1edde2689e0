"""Codecs against a float64 reference, and against what the program of the record 2026-03-22 stored."""

import numpy as np
import pytest
import torch
from golden_records import content, golden
from hypothesis import given
from hypothesis import strategies as st

from plgolf.errors import UserError
from plgolf.quantize.clip import quantile_limits, sigma_limits
from plgolf.quantize.codec import Raw
from plgolf.quantize.rows import Rows
from plgolf.reference.rounding import dequantize_int8, quantize_int8

GOLDEN_QUANT = content("quant.json")
CHOICES = GOLDEN_QUANT["edge"]["choices"]
SEARCHED = [name for name, choice in CHOICES.items() if "percentile" in choice]
INT6 = {"bits": 6, "best_for": "matrix", "floor": 1.0}


def record(name):
    return {key: torch.from_numpy(value) for key, value in golden(name).items()}


def restored(codec, values):
    return codec.decode(codec.encode(values), tuple(values.shape), values.dtype)


@pytest.mark.parametrize("name", SEARCHED)
def test_int6_rows_are_those_of_the_record(name):
    values, stored = record("quant_edge_input")[name], record("quant_edge_stored")
    codec = Rows(**INT6)
    planes = codec.encode(values)
    assert torch.equal(planes["codes"], stored[f"{name}.q"])
    assert planes["scales"].dtype is torch.float16
    assert torch.equal(planes["scales"], stored[f"{name}.scale"])
    expected = record("quant_edge_dequantized")[name]
    assert torch.equal(codec.decode(planes, tuple(values.shape), torch.float32), expected)


@pytest.mark.parametrize("name", SEARCHED)
def test_the_search_takes_the_percentile_of_the_record(name):
    values = record("quant_edge_input")[name]
    best = restored(Rows(**INT6), values)
    alone = {}
    for percentile, expected in CHOICES[name]["mse"].items():
        found = restored(Rows(**INT6, quantiles=[float(percentile)]), values)
        alone[float(percentile)] = found
        assert float((found - values).double().square().mean()) == pytest.approx(expected, rel=1e-6)
    assert torch.equal(best, alone[CHOICES[name]["percentile"]])


def test_vectors_have_one_scale_as_in_the_record():
    values, stored = record("quant_edge_input"), record("quant_edge_stored")
    codec = Rows(bits=6, quantiles=[1.0])
    planes = codec.encode(values["blocks.1.attn.flat"])
    assert torch.equal(planes["codes"], stored["blocks.1.attn.flat.q"])
    assert torch.equal(planes["scales"], stored["blocks.1.attn.flat.scale"].view(1))
    assert not restored(codec, values["blocks.0.attn.zero_flat"]).any()


@pytest.mark.parametrize("name", [name for name, choice in CHOICES.items() if choice["kind"] == "int8"])
def test_int8_tensors_are_those_of_the_record(name):
    """The record rounds the rest to int8 as the reference program does."""
    values, stored = record("quant_edge_input")[name], record("quant_edge_stored")
    dtype = getattr(torch, GOLDEN_QUANT["edge"]["input_dtypes"][name])
    codes, scale = quantize_int8(values.to(dtype))
    assert torch.equal(codes, stored[f"{name}.q"]) and torch.equal(scale, stored[f"{name}.scale"])
    restored_values = dequantize_int8(codes, scale, dtype).float()
    assert torch.equal(restored_values, record("quant_edge_dequantized")[name])


def float64_reference(values, *, bits, limits, scale):
    """One limit per row, in numpy and float64 but for the stored scale."""
    most = 2 ** (bits - 1) - 1
    kind = {"float16": np.float16, "float32": np.float32}[scale]
    least = {"float16": 2.0**-24, "float32": np.finfo(np.float32).tiny}[scale]
    scales = np.maximum(limits.astype(np.float32) / np.float32(most), np.float32(least)).astype(kind)
    codes = np.clip(np.round(values.astype(np.float64) / scales.astype(np.float64)[:, None]), -most, most)
    return codes, scales, codes * scales.astype(np.float64)[:, None]


@given(
    bits=st.integers(2, 8),
    rows=st.integers(1, 9),
    columns=st.integers(1, 60),
    exponent=st.integers(-9, 4),
    scale=st.sampled_from(["float16", "float32"]),
    rule=st.sampled_from([{"quantiles": [1.0]}, {"quantiles": [0.9]}, {"sigmas": [2.5]}]),
    seed=st.integers(0, 2**32 - 1),
)
def test_codes_are_those_of_a_float64_reference(bits, rows, columns, exponent, scale, rule, seed):
    at = np.random.default_rng(seed)
    values = (at.standard_normal((rows, columns)) * 10.0**exponent).astype(np.float32)
    values[at.integers(rows)] *= at.integers(2)  # At times a row of zeros.
    if "sigmas" in rule:
        limits = 2.5 * values.std(1, ddof=1, dtype=np.float64) if columns > 1 else np.zeros(rows)
    else:
        limits = np.quantile(np.abs(values).astype(np.float64), rule["quantiles"][0], axis=1)
    codec = Rows(bits=bits, scale=scale, **rule)
    planes = codec.encode(torch.from_numpy(values))
    codes, scales, expected = float64_reference(values, bits=bits, limits=limits, scale=scale)
    # Limits in float32 may move a scale by a step of its dtype; the codes then follow from that scale.
    found = planes["scales"].double().numpy()
    step = np.spacing(scales).astype(np.float64)
    assert (np.abs(found - scales) <= step + 1e-6 * scales).all()
    exact = values.astype(np.float64) / found[:, None]
    most = 2 ** (bits - 1) - 1
    assert (np.abs(planes["codes"].numpy() - np.clip(exact, -most, most)) <= 0.5 + 1e-5 * most).all()
    result = codec.decode(planes, values.shape, torch.float32).double().numpy()
    np.testing.assert_allclose(result, planes["codes"].numpy() * found[:, None], rtol=1e-6)
    same = (found == scales)[:, None] & (np.abs(exact - np.floor(exact) - 0.5) > 1e-4)
    np.testing.assert_array_equal(np.where(same, planes["codes"].numpy(), 0), np.where(same, codes, 0))
    assert expected.shape == result.shape


@given(st.integers(1, 200), st.floats(0.001, 1), st.integers(0, 2**32 - 1))
def test_quantiles_are_those_of_torch(columns, quantile, seed):
    values = torch.randn(3, columns, generator=torch.Generator().manual_seed(seed))
    expected = torch.quantile(values.abs(), torch.tensor(quantile, dtype=torch.float32), dim=1)
    assert torch.equal(quantile_limits(values, quantile), expected)


def test_the_best_limit_of_a_row_is_never_worse_than_that_of_the_matrix():
    values = record("quant_edge_input")["ve_shared.proj.weight"]
    errors = {
        best: float((restored(Rows(bits=5, best_for=best), values) - values).double().square().mean())
        for best in ("row", "matrix")
    }
    singles = [
        (restored(Rows(bits=5, quantiles=[q]), values) - values).double().square().mean(1)
        for q in (0.999, 0.9995, 0.9999, 0.99999, 1.0)
    ]
    assert errors["row"] == pytest.approx(float(torch.stack(singles).amin(0).mean()), rel=1e-6)
    assert errors["matrix"] == pytest.approx(min(float(e.mean()) for e in singles), rel=1e-6)
    assert errors["row"] < errors["matrix"]


def test_sigmas_and_quantiles_compete():
    torch.manual_seed(0)
    values = torch.randn(20, 500)
    values[:10, 0] = 60.0
    both = restored(Rows(bits=6, quantiles=[1.0], sigmas=[3.0]), values)
    for rule in ({"quantiles": [1.0]}, {"sigmas": [3.0]}):
        alone = restored(Rows(bits=6, **rule), values)
        assert ((both - values).square().sum(1) <= (alone - values).square().sum(1)).all()
        assert not torch.equal(both, alone)
    assert sigma_limits(torch.ones(2, 1), 3.0).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("scale", ["float16", "float32"])
def test_rows_of_zeros_and_tiny_rows_stay_finite(scale):
    values = torch.zeros(3, 8)
    values[1] = 1e-30
    values[2, 3] = 1e-6
    codec = Rows(bits=4, scale=scale)
    planes = codec.encode(values)
    assert (planes["scales"] > 0).all() and torch.isfinite(planes["scales"]).all()
    assert not planes["codes"][0].any()
    assert (codec.decode(planes, (3, 8), torch.float32) - values).abs().max() <= 1e-6


@pytest.mark.parametrize("shape", [(), (7,), (0, 4), (2, 3, 5), (1, 1)])
@pytest.mark.parametrize("codec", [Rows(bits=8), Rows(bits=3, sigmas=[2.0]), Raw(), Raw(dtype="float16")])
def test_any_shape_comes_back(shape, codec):
    torch.manual_seed(0)
    values = torch.randn(shape)
    planes = codec.encode(values)
    expected = codec.planes(shape, torch.float32)
    assert {name: (p.dtype, tuple(p.shape)) for name, p in planes.items()} == expected
    result = codec.decode(planes, shape, torch.float32)
    assert result.shape == shape and result.dtype is torch.float32
    if codec != Rows(bits=3, sigmas=[2.0]):
        assert torch.allclose(result, values, atol=0.02, rtol=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_raw_is_exact_and_shares_no_memory(dtype):
    values = torch.randn(4, 5).to(dtype)
    planes = Raw().encode(values)
    result = Raw().decode(planes, (4, 5), dtype)
    assert torch.equal(result, values) and result.dtype is dtype
    assert result.data_ptr() != values.data_ptr()
    assert torch.equal(restored(Raw(dtype="float16"), values), values.half().to(dtype))


@pytest.mark.parametrize(
    ("codec", "values", "message"),
    [
        (Raw(), [float("nan")], "must be finite"),
        (Raw(dtype="float16"), [1e5], "must be finite"),
        (Rows(), [float("inf")], "must be finite"),
        (Rows(bits=6), [3e6], "must be at most 2.03062e\\+06 for float16 scales, got 3e\\+06"),
        (Rows(scale="float32"), [1e30], "must be at most 1e\\+18 for float32 scales, got 1e\\+30"),
        (Rows(floor=1e10), [1.0], "must be at most 8.31901e\\+06 for float16 scales, got 1e\\+10"),
    ],
)
def test_values_that_cannot_be_stored_are_refused(codec, values, message):
    with pytest.raises(UserError, match=message):
        codec.encode(torch.tensor([values]))


@pytest.mark.parametrize(
    ("planes", "message"),
    [
        ({"codes": [[32]], "scales": [1.0]}, "codes must be from -31 to 31, got 32"),
        ({"codes": [[-32]], "scales": [1.0]}, "codes must be from -31 to 31, got -32"),
        ({"codes": [[1]], "scales": [0.0]}, "scales must be positive and finite, got 0.0"),
        ({"codes": [[1]], "scales": [float("nan")]}, "scales must be positive and finite, got nan"),
        ({"codes": [[1]], "scales": [float("inf")]}, "scales must be positive and finite, got inf"),
    ],
)
def test_arrays_of_strangers_are_checked(planes, message):
    arrays = {
        "codes": torch.tensor(planes["codes"], dtype=torch.int8),
        "scales": torch.tensor(planes["scales"], dtype=torch.float16),
    }
    with pytest.raises(UserError, match=message):
        Rows(bits=6).decode(arrays, (1, 1), torch.float32)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 1}, "bits must be from 2 to 8, got 1"),
        ({"bits": 9}, "bits must be from 2 to 8, got 9"),
        ({"bits": 4.5}, "bits must be a whole number, got 4.5"),
        ({"quantiles": [0.0]}, "quantiles must be above 0 and at most 1, got 0.0"),
        ({"quantiles": [float("nan")]}, "quantiles must be above 0 and at most 1, got nan"),
        ({"sigmas": [-1.0]}, "sigmas must be positive and finite, got -1.0"),
        ({"floor": float("inf")}, "floor must be finite and at least 0, got inf"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Rows(**settings)
