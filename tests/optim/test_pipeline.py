"""Muon's pipeline as the record of 2026-04-27 has it: rows, polynomials, weight decay."""

import numpy as np
import pytest
import torch
from golden_data import GOLDEN

from plgolf.errors import UserError
from plgolf.optim import MuonConfig
from plgolf.optim.equalize import equalized
from plgolf.optim.muon import direction, in_stacks
from plgolf.optim.orthogonalize import orthogonalize
from plgolf.optim.polynomials import POLYNOMIALS, polynomial_settings

RECORD = GOLDEN / "records" / "2026-04-27"
POLAR = MuonConfig(polynomial="polar_express", equalize="rows")


def distance(found: torch.Tensor, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found.double().numpy() - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(
    ("name", "dtype", "most", "fused"),
    [("bf16", "bfloat16", 2e-2, False), ("fp32", "float32", 1e-4, False), ("fp32", "float32", 1e-4, True)],
)
def test_polar_express_is_the_records(name, dtype, most, fused):
    golden = np.load(RECORD / "orthogonalise.npz")
    for i in range(6):
        g = torch.from_numpy(golden[f"g{i}"])
        stack = g if g.ndim == 3 else g[None]
        dtype_ = getattr(torch, dtype)
        found = orthogonalize(stack, **polynomial_settings("polar_express", 5), dtype=dtype_, fused=fused)
        assert distance(found.view(g.shape).float(), golden[f"{name}_{i}"]) <= most, i


def test_fewer_iterations_are_the_first():
    golden = np.load(RECORD / "orthogonalise.npz")
    g = torch.from_numpy(golden["g0"])
    found = orthogonalize(g, **polynomial_settings("polar_express", 3), steps=3, dtype=torch.float32)
    assert distance(found, golden["fp32_0_steps3"]) <= 1e-4


def test_polar_express_brings_singular_values_nearer_to_1_than_the_quintic():
    g = torch.randn(4, 64, 128, generator=torch.Generator().manual_seed(0))
    far = {
        name: (
            torch.linalg.svdvals(orthogonalize(g, **polynomial_settings(name, 5), dtype=torch.float32)) - 1
        )
        .abs()
        .max()
        for name in ("quintic", "polar_express")
    }
    assert far["polar_express"] < 0.15 < far["quintic"]


def test_equal_rows_have_norm_1_and_rows_of_zeros_stay():
    g = torch.randn(2, 6, 10, generator=torch.Generator().manual_seed(0)) * 100
    g[1, 3] = 0
    found = equalized(g, dtype=torch.float32)
    norms = found.norm(dim=-1)
    assert norms[1, 3] == 0 and found.isfinite().all()
    norms[1, 3] = 1
    torch.testing.assert_close(norms, torch.ones(2, 6))
    torch.testing.assert_close(found[0, 2] * g[0, 2].norm(), g[0, 2])


@pytest.mark.parametrize("fused", [False, True])
def test_the_stages_of_a_rows_first_step_follow_the_formula_in_float64(fused):
    shapes = [(24, 8), (8, 24), (24, 8), (8, 8)]
    generator = torch.Generator().manual_seed(0)
    grads = {i: torch.randn(s, dtype=torch.float64, generator=generator) for i, s in enumerate(shapes)}
    found = in_stacks(grads, direction(POLAR, dtype=torch.float64, fused=fused))
    for i, g in grads.items():
        x = g / g.norm(dim=1, keepdim=True)
        x = x / x.norm()
        for a, b, c in POLYNOMIALS["polar_express"].coefficients:
            gram = x @ x.mT
            x = a * x + (b * gram + c * gram @ gram) @ x
        rows, cols = g.shape
        torch.testing.assert_close(found[i].double(), x * max(1, rows / cols) ** 0.5, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"polynomial": "cubic"}, "polynomial must be one of quintic, polar_express, got 'cubic'"),
        ({"equalize": "columns"}, "equalize must be none or rows, got 'columns'"),
        (
            {"polynomial": "polar_express", "newton_schulz_steps": 6},
            "newton_schulz_steps must be at most 5 with polar_express, got 6",
        ),
    ],
)
def test_stages_that_do_not_exist_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        MuonConfig(**settings)
    assert MuonConfig(newton_schulz_steps=9).polynomial == "quintic"
