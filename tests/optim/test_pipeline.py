"""Muon's pipeline as the record of 2026-04-27 has it: rows, polynomials, weight decay."""

from functools import partial

import numpy as np
import pytest
import torch
from golden_data import GOLDEN

from plgolf import GPT, GPTConfig
from plgolf.errors import UserError
from plgolf.optim import AdamConfig, MuonAdam, MuonConfig
from plgolf.optim.equalize import equalized
from plgolf.optim.muon import direction, in_stacks
from plgolf.optim.orthogonalize import orthogonalize
from plgolf.optim.polynomials import POLYNOMIALS, polynomial_settings
from plgolf.roles import param_groups, parameter_roles

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
    found = in_stacks(grads, lambda _: direction(POLAR, dtype=torch.float64, fused=fused))
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


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_four_steps_of_a_bank_are_the_records(name):
    """The record keeps gradients and momentum in bfloat16."""
    golden = np.load(RECORD / "muon_steps.npz")
    params = [torch.nn.Parameter(torch.from_numpy(p.copy())) for p in golden["p"]]
    dtype = {"fp32": "float32", "bf16": "bfloat16"}[name]
    config = MuonConfig(
        momentum=0.95,
        momentum_start=0.92,
        momentum_warmup_steps=3,
        momentum_dtype=dtype,
        newton_schulz_dtype=dtype,
        polynomial="polar_express",
        equalize="rows",
        weight_decay=0.095,
    )
    optimizer = MuonAdam([{"params": params, "role": "matrix"}], matrix=config)
    for t in range(4):
        for p, g in zip(params, golden[f"grad{t}"], strict=True):
            p.grad = torch.from_numpy(g)
        optimizer.param_groups[0]["lr"] = 0.026 * (1 - 0.2 * t)
        optimizer.step()
        assert optimizer.param_groups[0]["momentum"] == pytest.approx(0.92 + 0.01 * t)
        expected = golden[f"{name}_p{t + 1}"]
        error = np.linalg.norm(torch.stack(params).detach().numpy() - expected)
        if name == "bf16":
            assert error <= 2e-2 * np.linalg.norm(expected - golden["p"]), t
        else:
            assert error <= 1e-5 * np.linalg.norm(expected), t


def test_adam_with_weight_decay_steps_as_torch_adamw_does():
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(8, 4, generator=generator)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    optimizer = MuonAdam(
        [{"params": [ours], "role": "embedding"}], embedding=AdamConfig(lr=0.03, weight_decay=0.5)
    )
    reference = torch.optim.AdamW([theirs], lr=0.03, betas=(0.9, 0.95), weight_decay=0.5)
    for lr in (0.03, 0.02, 0.01):  # The decay follows the scheduled rate.
        for group in (*optimizer.param_groups, *reference.param_groups):
            group["lr"] = lr
        ours.grad = torch.randn(8, 4, generator=generator)
        theirs.grad = ours.grad.clone()
        optimizer.step()
        reference.step()
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    assert (ours - start).abs().max() > 0.03


def test_each_role_decays_by_its_own_weight_decay_and_a_skipped_step_decays_nothing():
    gpt = GPT(GPTConfig(vocab_size=64, dim=32, num_layers=2, compute_dtype="float32"))
    roles = parameter_roles(gpt)
    decays = {"matrix": 0.1, "embedding": 0.2, "head": 0.3, "scalar": 0.4}
    kinds = {role: MuonConfig if role == "matrix" else AdamConfig for role in decays}
    optimizer = MuonAdam(
        param_groups(gpt), **{role: kinds[role](lr=0.5, weight_decay=wd) for role, wd in decays.items()}
    )
    before = {name: p.detach().clone() for name, p in gpt.named_parameters()}
    optimizer.step()
    assert all(torch.equal(p, before[name]) for name, p in gpt.named_parameters())
    for p in gpt.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in gpt.named_parameters():
        expected = before[name] * (1 - 0.5 * decays[roles[name].value])
        torch.testing.assert_close(p.detach(), expected, msg=name)


@pytest.mark.parametrize("kind", [MuonConfig, partial(AdamConfig, lr=0.1)])
def test_a_negative_weight_decay_is_refused(kind):
    with pytest.raises(UserError, match="weight_decay .*must be finite and at least 0, got -0.1"):
        kind(weight_decay=-0.1)


def test_state_from_before_weight_decay_existed_loads_and_does_not_decay():
    p = torch.nn.Parameter(torch.ones(4, 4))
    optimizer = MuonAdam([{"params": [p], "role": "scalar"}], scalar=AdamConfig(lr=0.1, weight_decay=1.0))
    state = optimizer.state_dict()
    del state["param_groups"][0]["weight_decay"]
    optimizer.load_state_dict(state)
    p.grad = torch.zeros(4, 4)
    optimizer.step()
    assert torch.equal(p, torch.ones(4, 4))
