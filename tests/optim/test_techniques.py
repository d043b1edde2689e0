"""Options of MuonAdam beside their formulas, in float64 where the optimizer allows it."""

import io
from functools import partial

import pytest
import torch
import torch.distributed as dist
from processes import ranks, succeed

from plgolf import GPT, GPTConfig
from plgolf.errors import UserError
from plgolf.model import AttentionConfig
from plgolf.optim import AdamConfig, MuonAdam, MuonConfig
from plgolf.optim.cautious import decay_cautiously
from plgolf.optim.momentum import directions
from plgolf.optim.muon import direction, in_stacks
from plgolf.optim.normalize import normalized
from plgolf.optim.orthogonalize import orthogonalize
from plgolf.roles import param_groups

TINY = GPTConfig(
    vocab_size=32,
    dim=32,
    num_layers=2,
    compute_dtype="float32",
    attention=AttentionConfig(num_heads=4, num_kv_heads=2),
)
BI_MAXWELL = ((0.85, 0.4385, 0.4385), (0.98, 0.5615, 0.5615))


def randn(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def fill_gradients(model: torch.nn.Module, seed: int) -> None:
    for i, p in enumerate(model.parameters()):
        p.grad = randn(*p.shape, seed=1000 * seed + i, dtype=p.dtype)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
@pytest.mark.parametrize("by", ["rows", "shorter"])
def test_three_steps_of_normuon_follow_the_paper(shape, by):
    """Second moments of rows, or of the columns of a wide matrix; the norm of the update stays."""
    config = MuonConfig(normalize=by, normalize_beta=0.9, newton_schulz_dtype="float32")
    states = {0: {}, 1: {}}
    dim = 0 if by == "shorter" and shape == (4, 6) else 1
    moments = [torch.zeros(shape[1 - dim], dtype=torch.float64) for _ in states]
    for step in range(3):
        grads = {i: randn(*shape, seed=10 * step + i) for i in states}
        stages = direction(config, dtype=torch.float64, fused=False, states=[*states.values()])
        found = in_stacks(grads, lambda _: stages)  # noqa: B023
        for i, grad in grads.items():
            o = orthogonalize(grad, dtype=torch.float64)
            moments[i] = 0.9 * moments[i] + 0.1 * o.square().mean(dim)
            expected = o / moments[i].sqrt().unsqueeze(dim)
            expected *= o.norm() / expected.norm() * max(1, shape[0] / shape[1]) ** 0.5
            torch.testing.assert_close(found[i], expected, rtol=1e-5, atol=1e-6)
            assert (expected - o).norm() > 0.01 * o.norm()


def test_an_update_of_zeros_stays_zero():
    found, moments = normalized(torch.zeros(1, 3, 4), torch.zeros(1, 3, 1), beta=0.9)
    assert not found.any() and not moments.any()


@pytest.mark.parametrize("fused", [False, True])
def test_blocks_are_orthogonalised_as_matrices_of_their_own(fused):
    config = MuonConfig(normalize="rows")
    matrices = {0: randn(8, 6), 1: randn(8, 6, seed=1), 2: randn(4, 6, seed=2)}
    states = {i: {} for i in matrices}

    def stages_of(indices):
        chosen = [states[i] for i in indices]
        return direction(config, dtype=torch.float64, fused=fused, states=chosen)

    found = in_stacks(matrices, stages_of, {0: 2, 1: 2})
    parts = {"a": matrices[0][:4], "b": matrices[0][4:], "c": matrices[1][:4], "d": matrices[1][4:]}
    loose = {key: {} for key in (*parts, 2)}
    alone = {}
    for key, matrix in {**parts, 2: matrices[2]}.items():
        stages = direction(config, dtype=torch.float64, fused=fused, states=[loose[key]])
        alone |= in_stacks({key: matrix}, lambda _: stages)  # noqa: B023
    torch.testing.assert_close(found[0], torch.cat([alone["a"], alone["b"]]))
    torch.testing.assert_close(found[1], torch.cat([alone["c"], alone["d"]]))
    torch.testing.assert_close(found[2], alone[2])
    moments = torch.cat([loose["a"]["second_moment"], loose["b"]["second_moment"]])
    torch.testing.assert_close(states[0]["second_moment"], moments)


def test_heads_cut_queries_keys_and_values_only():
    gpt = GPT(TINY)
    whole, pairs = (
        MuonAdam(param_groups(gpt), MuonConfig(heads=heads, lr=1.0, newton_schulz_dtype="float32"))
        for heads in (None, 2)
    )
    fill_gradients(gpt, 1)
    found = []
    for optimizer in (whole, pairs):
        before = {name: p.detach().clone() for name, p in gpt.named_parameters()}
        optimizer.step()
        found.append({name: before[name] - p.detach() for name, p in gpt.named_parameters()})
        gpt.load_state_dict(before)
    for name in found[0]:
        # Two heads of keys and values are one pair: one block.
        assert torch.allclose(found[0][name], found[1][name], atol=1e-6) == ("q_proj" not in name), name
    q = "blocks.0.attention.q_proj.weight"
    grad = dict(gpt.named_parameters())[q].grad
    expected = torch.cat([orthogonalize(half, dtype=torch.float32) for half in grad.chunk(2)])
    torch.testing.assert_close(found[1][q], expected, rtol=1e-4, atol=1e-5)


def test_heads_that_blocks_do_not_share_out_are_refused():
    with pytest.raises(UserError, match="heads must divide the 4 heads of each matrix, got 3"):
        MuonAdam(param_groups(GPT(TINY)), MuonConfig(heads=3))
    with pytest.raises(UserError, match="heads must be null for a model without attention heads, got 2"):
        MuonAdam([{"params": [torch.nn.Parameter(randn(4, 4))], "role": "matrix"}], MuonConfig(heads=2))


def test_a_mixture_follows_its_formula_and_begins_as_the_momentum():
    """K averages m_k = d_k m_k + (1 - d_k) g; direction (1 - mu) g + mu sum w_k m_k."""
    config = MuonConfig(mixture=((0.5, 1.0, 0.25), (0.9, 0.0, 0.75)), mixture_start=1)
    state, buffer, averages, mu = {}, torch.zeros(3, 4, dtype=torch.float64), None, 0.8
    for step in range(5):
        grad, first = randn(3, 4, seed=step), 1.0 - step / 4
        group = {"momentum": mu, "step": step + 1, "mixture": first}
        [found] = directions([grad.float()], [state], config, group)
        if step <= 1:
            buffer = mu * buffer + grad
            expected = grad + mu * buffer
        else:
            averages = averages or [buffer * (1 - mu)] * 2
            averages = [d * m + (1 - d) * grad for d, m in zip((0.5, 0.9), averages, strict=True)]
            weights = first * 1.0 + (1 - first) * 0.25, (1 - first) * 0.75
            mean = weights[0] * averages[0] + weights[1] * averages[1]
            expected = (1 - mu) * grad + mu * mean
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    assert set(state) == {"average_0", "average_1"}


def test_a_mixture_of_one_average_is_the_momentum():
    configs, states = (MuonConfig(), MuonConfig(mixture=((0.8, 1, 1),), mixture_start=0)), ({}, {})
    for step in range(4):
        grad, group = randn(3, 4, seed=step, dtype=torch.float32), {"momentum": 0.8, "step": step + 1}
        [one], [other] = (
            directions([grad], [state], config, group) for state, config in zip(states, configs, strict=True)
        )
    torch.testing.assert_close(one / one.norm(), other / other.norm(), rtol=1e-5, atol=1e-6)


def test_cautious_decay_spares_weights_that_the_step_moves_away_from_0():
    p, update = torch.tensor([2.0, -2.0, 2.0, 3.0]), torch.tensor([1.0, -1.0, -1.0, 0.0])
    decay_cautiously([p], [update], 0.1)
    torch.testing.assert_close(p, torch.tensor([1.8, -1.8, 2.0, 2.7]))


@pytest.mark.parametrize("role", ["matrix", "scalar"])
def test_a_cautious_step_decays_where_weight_and_update_agree(role):
    p = torch.nn.Parameter(randn(6, 4, dtype=torch.float32))
    kinds = {"matrix": partial(MuonConfig, newton_schulz_dtype="float32"), "scalar": AdamConfig}
    ends = []
    for settings in ({}, {"weight_decay": 0.5, "decay": "cautious"}):
        q = torch.nn.Parameter(p.detach().clone())
        optimizer = MuonAdam([{"params": [q], "role": role}], **{role: kinds[role](lr=0.1, **settings)})
        q.grad = randn(6, 4, seed=1, dtype=torch.float32)
        optimizer.step()
        ends.append(q.detach())
    update = p.detach() - ends[0]
    expected = ends[0] - 0.1 * 0.5 * torch.where(update * p.detach() >= 0, p.detach(), 0)
    torch.testing.assert_close(ends[1], expected)
    assert 0 < (ends[0] == ends[1]).sum() < p.numel()


def test_adam_without_bias_correction_follows_the_formula():
    p = torch.nn.Parameter(torch.zeros(5))
    config = AdamConfig(lr=0.1, betas=(0.9, 0.99), bias_correction=False)
    optimizer = MuonAdam([{"params": [p], "role": "scalar"}], scalar=config)
    m = v = expected = torch.zeros(5, dtype=torch.float64)
    for step in range(3):
        grad = randn(5, seed=step)
        p.grad = grad.float()
        optimizer.step()
        m, v = 0.9 * m + 0.1 * grad, 0.99 * v + 0.01 * grad.square()
        expected = expected - 0.1 * m / (v.sqrt() + 1e-8)
        torch.testing.assert_close(p.detach().double(), expected, rtol=1e-4, atol=1e-6)


def test_adam_may_train_the_matrices_too():
    gpt, other = GPT(TINY), GPT(TINY)
    other.load_state_dict(gpt.state_dict())
    config = AdamConfig(lr=0.01, weight_decay=0.1)
    ours = MuonAdam(param_groups(gpt), embedding=config, scalar=config, head=config, matrix_adam=config)
    theirs = torch.optim.AdamW(other.parameters(), lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)
    for step in range(3):
        for model, optimizer in ((gpt, ours), (other, theirs)):
            fill_gradients(model, step)
            optimizer.step()
    for p, q in zip(gpt.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


VARIANTS = {
    "plain": {},
    "normuon": {"normalize": "rows", "heads": 2},
    "shorter": {"normalize": "shorter"},
    "mixture": {"mixture": BI_MAXWELL, "mixture_start": 1},
    "bfloat16": {"momentum_dtype": "bfloat16", "decay": "cautious", "weight_decay": 0.1},
}


def optimizer_of(gpt: GPT, name: str) -> MuonAdam:
    if name == "adam":
        return MuonAdam(param_groups(gpt), matrix_adam=AdamConfig(lr=0.01, bias_correction=False))
    return MuonAdam(param_groups(gpt), MuonConfig(**VARIANTS[name]))


@pytest.mark.parametrize("name", [*VARIANTS, "adam"])
def test_saved_state_continues_identically_to_the_bit(name):
    models = [GPT(TINY), GPT(TINY)]
    optimizers = [optimizer_of(model, name) for model in models]
    for step in range(3):
        fill_gradients(models[0], step)
        optimizers[0].step()
    file = io.BytesIO()
    torch.save(optimizers[0].state_dict(), file)
    models[1].load_state_dict(models[0].state_dict())
    optimizers[1].load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    for step in (3, 4):
        for model, optimizer in zip(models, optimizers, strict=True):
            fill_gradients(model, step)
            optimizer.step()
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("name", [*VARIANTS, "adam"])
def test_state_of_plain_muon_goes_on_with_any_option(name):
    gpt = GPT(TINY)
    plain, other = optimizer_of(gpt, "plain"), optimizer_of(gpt, name)
    fill_gradients(gpt, 0)
    plain.step()
    state = plain.state_dict()
    for group in state["param_groups"]:  # As versions before these options wrote it.
        for key in ("decay", "bias_correction", "mixture", "head_rows"):
            group.pop(key, None)
    if name == "normuon":  # The groups that this run configures override those of the checkpoint.
        state["param_groups"][1]["head_rows"] = other.param_groups[1]["head_rows"]
    if name == "adam":
        state["param_groups"][1] |= {"betas": (0.9, 0.95), "eps": 1e-8}
    other.load_state_dict(state)
    before = [p.detach().clone() for p in gpt.parameters()]
    for step in (1, 2, 3):
        fill_gradients(gpt, step)
        other.step()
    for p, old in zip(gpt.parameters(), before, strict=True):
        assert p.isfinite().all() and not torch.equal(p, old)
    owned = [other.state[p] for p in other.param_groups[1]["params"]]
    assert all(("momentum_buffer" in state) == (name != "mixture") for state in owned)


def stepped(name: str) -> tuple[GPT, MuonAdam]:
    """A model and its optimizer after four steps, with the state of all ranks."""
    torch.manual_seed(0)
    gpt = GPT(TINY)
    optimizer = optimizer_of(gpt, name)
    for step in range(4):
        fill_gradients(gpt, step)
        optimizer.step()
        if step in (0, 2, 3):  # Before and after a mixture replaces the momentum, and at the end.
            optimizer.consolidate_state_dict()
    return gpt, optimizer


def two_ranks(folder) -> None:
    """Steps of one rank of two, which have the same gradients."""
    dist.init_process_group("gloo")
    for name in (*VARIANTS, "adam"):
        gpt, optimizer = stepped(name)
        states = [optimizer.state[p] for p in optimizer.param_groups[1]["params"]]
        found = {**gpt.state_dict(), "states": states}
        torch.save(found, folder / f"{name}{dist.get_rank()}")


def test_two_ranks_step_as_one_and_gather_every_state(tmp_path):
    succeed(ranks(two_ranks, 2, tmp_path, folder=tmp_path))
    for name in (*VARIANTS, "adam"):
        gpt, optimizer = stepped(name)
        first, second = (torch.load(tmp_path / f"{name}{rank}") for rank in range(2))
        gathered = first["states"]
        for key, weight in gpt.state_dict().items():
            assert torch.equal(first[key], second[key]), (name, key)
            torch.testing.assert_close(first[key], weight, rtol=1e-5, atol=1e-6, msg=f"{name} {key}")
        for p, state in zip(optimizer.param_groups[1]["params"], gathered, strict=True):
            ours = optimizer.state[p]
            assert state.keys() == ours.keys(), name
            assert all(state[key].dtype == value.dtype for key, value in ours.items())
            assert all(torch.allclose(state[key], value, atol=1e-6) for key, value in ours.items()), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"normalize": "columns"}, "normalize must be none, rows or shorter, got 'columns'"),
        ({"normalize_beta": 1.0}, "normalize_beta must be at least 0 and below 1, got 1.0"),
        ({"heads": 0}, "heads must be at least 1, got 0"),
        ({"mixture": ((1.0, 1, 1),)}, r"mixture\.0\.0 must be at least 0 and below 1, got 1.0"),
        ({"mixture": ((0.9, 2, 1),)}, r"mixture\.0\.1 must be from 0 to 1, got 2"),
        ({"mixture": ((0.9, 0.5, 1),)}, "mixture must have weights that add up to 1, got 0.5"),
        ({"mixture_start": -1}, "mixture_start must be at least 0, got -1"),
        (
            {"mixture": BI_MAXWELL, "momentum_dtype": "bfloat16"},
            "momentum_dtype must be float32 with a mixture, got bfloat16",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        MuonConfig(**settings)
