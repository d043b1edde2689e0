import json
import math
import pickle
from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from golden_data import GOLDEN, arrays
from hypothesis import given, settings
from hypothesis import strategies as st

from plgolf import GPT, GPTConfig, MuonAdam
from plgolf.errors import UserError
from plgolf.model import HeadConfig
from plgolf.optim import AdamConfig, Constant, MuonConfig, Warmdown
from plgolf.optim.muon import direction, in_stacks, muon_updates, nesterov
from plgolf.optim.orthogonalize import orthogonalize
from plgolf.optim.ownership import assign_owners
from plgolf.optim.schedule import momentum_at
from plgolf.progress import RunProgress
from plgolf.roles import Role, param_groups, parameter_roles

SMALL = GPTConfig(vocab_size=64, dim=32, num_layers=2, compute_dtype="float32", head=HeadConfig(tied=False))


def test_newton_schulz_is_the_references():
    golden = arrays("tied", "newton_schulz")
    for i in range(4):
        result = orthogonalize(torch.from_numpy(golden[f"g{i}"])).float().numpy()
        error = np.linalg.norm(result - golden[f"ns{i}"])
        assert error <= 2e-2 * np.linalg.norm(golden[f"ns{i}"])
        # Equal to the bit on the type of processor that made the data; others may round differently.


@pytest.mark.parametrize("shape", [(32, 32), (16, 48), (48, 16)])
def test_orthogonalize_keeps_singular_vectors_and_levels_singular_values(shape):
    torch.manual_seed(0)
    g = torch.randn(shape)
    u, _, vh = torch.linalg.svd(g, full_matrices=False)
    result = orthogonalize(g, dtype=torch.float32)
    rotated = u.mT @ result @ vh.mT
    values = rotated.diagonal()
    assert values.min() > 0.3 and values.max() < 1.25
    assert (rotated - torch.diag(values)).abs().max() < 0.05


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_stack_and_loop_agree_to_the_bit_on_cpu(dtype):
    torch.manual_seed(0)
    shapes = [(64, 64), (32, 64), (64, 128), (128, 64)] * 3
    matrices = {i: torch.randn(s) * 10.0 ** (i - 6) for i, s in enumerate(shapes)}
    loop = {i: orthogonalize(x, dtype=dtype) for i, x in matrices.items()}
    stack = in_stacks(matrices, lambda _: [partial(orthogonalize, dtype=dtype)])
    assert set(loop) == set(stack) == set(matrices)
    assert all(torch.equal(loop[i], stack[i]) for i in matrices)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("shape", [(3, 8, 20), (1, 16, 16), (2, 20, 8)])
def test_an_iteration_is_the_polynomial_in_either_form(shape, fused):
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = orthogonalize(x, steps=1, dtype=torch.float64, fused=fused)
    x = x / torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
    gram = x @ x.mT
    expected = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)  # The norm has 1e-7 added.


def test_the_fused_form_rounds_less_in_bfloat16():
    x = torch.randn(4, 64, 128, generator=torch.Generator().manual_seed(0)).bfloat16()
    exact = orthogonalize(x, steps=1, dtype=torch.float64)
    error, error_of_plain = (
        (orthogonalize(x, steps=1, fused=fused).double() - exact).norm() / exact.norm()
        for fused in (True, False)
    )
    assert error < error_of_plain < 0.01


@given(steps=st.integers(0, 50), max_steps=st.integers(1, 100), step=st.integers(0, 100))
def test_warmdown_falls_until_the_last_step(steps, max_steps, step):
    schedule = Warmdown(steps=steps)

    def factor(s):
        return schedule.factor(RunProgress(step=s, elapsed_seconds=0.0, max_steps=max_steps))

    step = min(step, max_steps - 1)
    assert 0.0 < factor(step) <= factor(max(step - 1, 0)) <= 1.0
    if steps:
        assert factor(max_steps - 1) == pytest.approx(1 / steps)


def test_a_schedule_without_an_end_stays_at_1():
    assert Warmdown(10).factor(RunProgress(step=10**9, elapsed_seconds=1e9)) == 1.0
    assert Constant().factor(RunProgress(step=3, elapsed_seconds=1.0, max_steps=3)) == 1.0
    with pytest.raises(ValueError, match="at least 0, got -1"):
        Warmdown(-1)


def test_momentum_rises_as_in_the_reference():
    golden = json.loads((GOLDEN / "tied" / "trajectory.json").read_text())["plain"]
    for step, expected in enumerate(golden["muon_momentum"]):
        assert momentum_at(step, start=0.92, end=0.99, warmup_steps=6) == pytest.approx(expected)


def test_adam_groups_step_as_torch_adam_does():
    torch.manual_seed(0)
    ours, theirs = GPT(SMALL), GPT(SMALL)
    theirs.load_state_dict(ours.state_dict())
    lrs = {"embedding": 0.03, "head": 0.008, "scalar": 0.02}
    optimizer = MuonAdam(param_groups(ours))
    reference = torch.optim.Adam(
        [{**g, "lr": lrs[g["role"]]} for g in param_groups(theirs) if g["role"] in lrs],
        betas=(0.9, 0.95),
    )
    for _ in range(4):
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        optimizer.step()
        reference.step()
    roles, their_weights = parameter_roles(ours), dict(theirs.named_parameters())
    assert set(roles.values()) == set(Role)
    for name, p in ours.named_parameters():
        if roles[name] is not Role.MATRIX:
            torch.testing.assert_close(p, their_weights[name], rtol=1e-5, atol=1e-7)


def test_muon_step_follows_the_formula():
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.randn(24, 8))
    config = MuonConfig(lr=0.1, momentum=0.95, momentum_start=0.9, momentum_warmup_steps=2)
    optimizer = MuonAdam([{"params": [p], "role": "matrix"}], matrix=config)
    expected, buffer = p.detach().clone(), torch.zeros(24, 8)
    for momentum in (0.9, 0.925, 0.95, 0.95):
        p.grad = torch.randn(24, 8)
        optimizer.step()
        buffer = momentum * buffer + p.grad
        direction = (orthogonalize(p.grad + momentum * buffer) * 3**0.5).float()
        expected = expected - 0.1 * direction
        assert optimizer.param_groups[0]["momentum"] == pytest.approx(momentum)
        torch.testing.assert_close(p.detach(), expected)


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 5), momentum=st.floats(0.0, 1.0), seed=st.integers(0, 99))
def test_momentum_of_all_matrices_together_is_that_of_each_to_the_bit(count, momentum, seed):
    generator = torch.Generator().manual_seed(seed)
    grads, buffers = ([torch.randn(3, 5, generator=generator) for _ in range(count)] for _ in range(2))
    kept = [buffer.clone() for buffer in buffers]
    together = nesterov(grads, buffers, momentum)
    pairs = zip(grads, kept, strict=True)
    each = [grad.add(buffer.mul_(momentum).add_(grad), alpha=momentum) for grad, buffer in pairs]
    for ours, theirs in zip((*together, *buffers), (*each, *kept), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("fused", [False, True])
def test_the_updates_of_many_matrices_follow_the_formula(fused):
    """Three steps in float64; the optimizer fuses on a GPU only, and this runs both forms on any machine."""
    shapes, momentum = [(24, 8), (8, 24), (24, 8), (8, 8)], 0.9
    generator = torch.Generator().manual_seed(0)
    buffers = {i: torch.zeros(shape, dtype=torch.float64) for i, shape in enumerate(shapes)}
    expected_buffers = [buffer.clone() for buffer in buffers.values()]
    for _ in range(3):
        grads = {
            i: torch.randn(shape, dtype=torch.float64, generator=generator) for i, shape in enumerate(shapes)
        }
        stages = direction(MuonConfig(), dtype=torch.float64, fused=fused)
        directions = nesterov([*grads.values()], [*buffers.values()], momentum)
        updates = in_stacks(dict(enumerate(directions)), lambda _: stages)  # noqa: B023
        for i, (rows, cols) in enumerate(shapes):
            expected_buffers[i] = momentum * expected_buffers[i] + grads[i]
            x = grads[i] + momentum * expected_buffers[i]
            x = x / x.norm()
            for _ in range(5):
                gram = x @ x.mT
                x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
            torch.testing.assert_close(buffers[i], expected_buffers[i])
            expected = x * max(1, rows / cols) ** 0.5
            torch.testing.assert_close(updates[i].double(), expected, rtol=1e-5, atol=1e-6)


def test_fused_updates_have_the_dtype_and_layout_of_the_parameters():
    """One kernel then applies all of them; others would take a kernel each."""
    params = {i: torch.randn(shape) for i, shape in enumerate([(48, 16), (16, 48), (48, 16)])}
    states = {i: {} for i in params}
    config = MuonConfig(newton_schulz_steps=2)
    updates = muon_updates(params, states, config, {"momentum": 0.9}, fused=True)
    for i, p in params.items():
        assert (updates[i].dtype, updates[i].shape, updates[i].stride()) == (p.dtype, p.shape, p.stride())


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_auto_is_the_dtype_that_is_fast_on_this_machine(dtype, monkeypatch):
    monkeypatch.setattr("plgolf.hardware.fast_dtype", lambda: dtype)
    assert MuonConfig(newton_schulz_dtype="auto") == MuonConfig(newton_schulz_dtype=dtype)
    weights = []
    for given_dtype in ("auto", dtype):
        torch.manual_seed(0)
        p = torch.nn.Parameter(torch.randn(48, 32))
        p.grad = torch.randn(48, 32)
        MuonAdam([{"role": "matrix", "params": [p]}], MuonConfig(newton_schulz_dtype=given_dtype)).step()
        weights.append(p.detach())
    assert torch.equal(*weights)


def test_other_dtypes_of_newton_schulz_are_refused():
    with pytest.raises(UserError, match="newton_schulz_dtype must be bfloat16, float32 or auto, got float64"):
        MuonConfig(newton_schulz_dtype="float64")


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"lr": -0.1}, "lr must be finite and at least 0, got -0.1"),
        ({"lr": math.nan}, "lr must be finite and at least 0, got nan"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1, got 1.0"),
        ({"momentum_start": -0.5}, "momentum_start must be at least 0 and below 1, got -0.5"),
        ({"momentum_warmup_steps": -5}, "momentum_warmup_steps must be at least 0, got -5"),
        ({"newton_schulz_steps": 0}, "newton_schulz_steps must be at least 1, got 0"),
        ({"newton_schulz_steps": 2.5}, "newton_schulz_steps must be a whole number, got 2.5"),
        (
            {"lr": math.inf, "betas": (0.9, 0.95)},
            "lr must be finite and at least 0, got inf",
        ),
        (
            {"lr": 0.1, "betas": (1.0, 0.95)},
            r"betas\.0 must be at least 0 and below 1, got 1.0",
        ),
        (
            {"lr": 0.1, "betas": (0.9, math.nan)},
            r"betas\.1 must be at least 0 and below 1, got nan",
        ),
        (
            {"lr": 0.1, "eps": -1e-8},
            "eps must be finite and at least 0, got -1e-08",
        ),
    ],
)
def test_settings_out_of_range_are_refused(settings_, message):
    kind = AdamConfig if settings_.keys() & {"betas", "eps"} else MuonConfig
    with pytest.raises(UserError, match=message):
        kind(**settings_)


@pytest.mark.parametrize("copied", [deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copied_optimizer_continues_identically(copied):
    gpt = GPT(SMALL)
    pair = gpt, MuonAdam(param_groups(gpt), matrix=MuonConfig(lr=0.3, newton_schulz_dtype="float32"))

    def step(model, optimizer, seed):
        generator = torch.Generator().manual_seed(seed)
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()

    step(*pair, 1)
    other = copied(pair)
    for each in (pair, other):
        step(*each, 2)
    for p, q in zip(gpt.parameters(), other[0].parameters(), strict=True):
        assert p is not q and torch.equal(p, q)


def test_saved_state_continues_identically():
    torch.manual_seed(0)
    models = [GPT(SMALL), GPT(SMALL)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [MuonAdam(param_groups(m)) for m in models]

    def steps(which, seed, count):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(count):
            for p in models[which].parameters():
                p.grad = torch.randn(p.shape, generator=generator)
            optimizers[which].step()

    steps(0, 1, 3)
    models[1].load_state_dict(models[0].state_dict())
    optimizers[1].load_state_dict(deepcopy(optimizers[0].state_dict()))
    steps(0, 2, 3)
    steps(1, 2, 3)
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(p, q)


def test_parameters_without_gradients_do_not_change():
    gpt = GPT(SMALL)
    before = {n: p.detach().clone() for n, p in gpt.named_parameters()}
    optimizer = MuonAdam(param_groups(gpt))
    assert optimizer.step(lambda: 7) == 7
    assert all(torch.equal(p, before[n]) for n, p in gpt.named_parameters())


def test_groups_need_roles_and_suit_other_optimizers():
    gpt = GPT(SMALL)
    with pytest.raises(ValueError, match="groups with a role"):
        MuonAdam(gpt.parameters())
    with pytest.raises(UserError, match="role must be one of embedding, matrix, head, scalar, got 'matrx'"):
        MuonAdam([{"params": list(gpt.parameters()), "role": "matrx"}])
    optimizer = torch.optim.AdamW(param_groups(gpt), lr=1e-3)
    assert [g["role"] for g in optimizer.param_groups] == ["embedding", "matrix", "head", "scalar"]
    settings_ = MuonAdam(param_groups(gpt), embedding=AdamConfig(lr=0.5, betas=(0.8, 0.9)))
    assert settings_.param_groups[0]["lr"] == 0.5
    assert settings_.param_groups[0]["betas"] == (0.8, 0.9)


@settings(max_examples=50)
@given(
    shapes=st.lists(
        st.tuples(st.sampled_from([64, 256, 512]), st.sampled_from([64, 512, 1024])), max_size=40
    ),
    world_size=st.integers(1, 9),
)
def test_work_is_shared_evenly(shapes, world_size):
    owners = assign_owners(tuple(map(torch.Size, shapes)), world_size)
    assert len(owners) == len(shapes) and set(owners) <= set(range(world_size))
    costs = [min(s) ** 2 * (2 * max(s) + min(s)) for s in shapes]
    load = [sum(c for c, o in zip(costs, owners, strict=True) if o == r) for r in range(world_size)]
    assert max(load) - min(load) <= max(costs, default=0)


def test_auto_is_float32_on_a_gpu_that_emulates_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for native, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(
            torch.cuda,
            "is_bf16_supported",
            lambda including_emulation=True, native=native: native or including_emulation,
        )
        assert MuonConfig(newton_schulz_dtype="auto").newton_schulz_dtype == expected


def test_old_names_say_the_new_ones():
    with pytest.raises(ImportError, match="must be imported as plgolf.progress.RunProgress"):
        from plgolf.optim import Progress  # noqa: F401
    with pytest.raises(ImportError, match="must be imported as plgolf.evaluate.BitsPerByte"):
        from plgolf.metrics import BitsPerByte  # noqa: F401
