from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_data import MODELS, arrays, golden_gpt, ids
from lively import lively
from torch.nn.attention import SDPBackend, sdpa_kernel

from plgolf import GPT, GPTConfig
from plgolf.config import config_from_dict, config_to_dict
from plgolf.errors import UserError
from plgolf.model import AttentionConfig, HeadConfig, MLPConfig
from plgolf.model.causal import causal_attention
from plgolf.model.context import Context
from plgolf.model.depth import visits
from plgolf.model.rotary import Rotary, rotate
from plgolf.reference import weight_name_from_reference
from plgolf.roles import Role, param_groups, parameter_roles

TINY = GPTConfig(
    vocab_size=64,
    dim=32,
    num_layers=3,
    compute_dtype="float32",
    attention=AttentionConfig(num_heads=4, num_kv_heads=2),
)


@MODELS
def test_loss_and_every_gradient_are_the_references(name):
    golden = arrays(name, "forward_backward")
    gpt = golden_gpt(name)
    loss = gpt(ids(golden["x"]), ids(golden["y"]))
    loss.backward()
    assert loss.item() == pytest.approx(golden["loss"].item(), rel=1e-5)
    gradients = {f"{n}": p.grad for n, p in gpt.named_parameters()}
    expected = {k.removeprefix("grad/"): v for k, v in golden.items() if k.startswith("grad/")}
    assert {weight_name_from_reference(k) for k in expected} == set(gradients)
    for key, value in expected.items():
        error = np.linalg.norm(gradients[weight_name_from_reference(key)].numpy() - value)
        assert error <= 1e-4 * np.linalg.norm(value), key


def test_the_baseline_has_the_records_parameter_count_and_dtypes():
    gpt = GPT(GPTConfig())
    assert sum(p.numel() for p in gpt.parameters()) == 17_059_912
    roles = parameter_roles(gpt)
    for name, p in gpt.named_parameters():
        expected = torch.bfloat16 if roles[name] is Role.EMBEDDING else torch.float32
        assert p.dtype is expected, name


def test_initial_values_are_the_references():
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(num_layers=2, compute_dtype="float32", head=HeadConfig(tied=False)))
    assert gpt.embedding.weight.std().item() == pytest.approx(0.005, rel=0.02)
    for name, p in gpt.named_parameters():
        if name.endswith(("out_proj.weight", "down_proj.weight")) or name.startswith("head"):
            assert not p.any(), name
        elif name.endswith("proj.weight"):
            # torch's Linear default is uniform in +-1/sqrt(fan_in).
            assert p.abs().max().item() == pytest.approx(p.size(1) ** -0.5, rel=0.01), name
    block = gpt.blocks[0]
    assert block.residual_mix.tolist() == [[1.0] * 512, [0.0] * 512]
    assert block.attention.qk_gain.tolist() == [1.5] * 8
    assert (gpt.skip_weights == 1).all()


def test_orthogonal_matrices_keep_lengths_and_leave_output_projections_at_zero():
    gpt = GPT(replace(TINY, matrix_init="orthogonal"))
    for name, p in gpt.named_parameters():
        if name.endswith(("out_proj.weight", "down_proj.weight")):
            assert not p.any(), name
        elif name.endswith("proj.weight"):
            values = torch.linalg.svdvals(p.detach())
            torch.testing.assert_close(values, torch.ones_like(values), msg=name)


def test_a_model_without_newer_settings_is_written_as_before_they_existed():
    assert config_to_dict(GPTConfig()) == {
        "vocab_size": 1024,
        "dim": 512,
        "num_layers": 9,
        "embedding_std": 0.005,
        "compute_dtype": "bfloat16",
        "attention": {"num_heads": 8, "num_kv_heads": 4, "qk_gain": 1.5, "rope_base": 10000.0},
        "mlp": {"expansion": 2.0},
        "head": {"tied": True, "softcap": 30.0},
    }
    newer = replace(TINY, norm_scale="depth", mlp=MLPConfig(activation="leaky_relu2"))
    assert config_to_dict(newer)["mlp"] == {"expansion": 2.0, "activation": "leaky_relu2"}
    assert config_from_dict(GPTConfig, config_to_dict(newer)) == newer


def test_auto_is_replaced_by_a_dtype_that_is_saved():
    config = GPTConfig(compute_dtype="auto")
    assert config.compute_dtype in ("bfloat16", "float32")
    assert config_to_dict(config)["compute_dtype"] == config.compute_dtype
    assert replace(config, dim=64).compute_dtype == config.compute_dtype


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_stream_keeps_its_dtype_at_every_block_edge(dtype):
    gpt = GPT(GPTConfig(vocab_size=64, dim=32, num_layers=3, compute_dtype=dtype))
    seen = []
    for module in gpt.modules():
        if module is not gpt and not isinstance(module, (Rotary, torch.nn.ModuleList, torch.nn.ModuleDict)):
            module.register_forward_hook(lambda m, _, out: seen.append((m, out.dtype)))
    logits = gpt(torch.zeros(2, 8, dtype=torch.long))
    assert logits.dtype is torch.float32 and logits.shape == (2, 8, 64)
    assert all(d is getattr(torch, dtype) for m, d in seen if m is not gpt.head)
    assert len(seen) > 20


def test_attention_equals_an_explicit_softmax_over_the_past():
    gpt = lively(TINY)
    attention = gpt.blocks[0].attention
    x = torch.randn(2, 7, 32)
    tables = gpt.rotary(7, torch.float32)
    context = Context(torch.zeros(2, 7), x, tables)

    def normalised(y):
        return y * (y.square().mean(-1, keepdim=True) + torch.finfo(torch.float32).eps).rsqrt()

    q = attention.q_proj(x).view(2, 7, 4, 8).transpose(1, 2)
    k = attention.k_proj(x).view(2, 7, 2, 8).transpose(1, 2).repeat_interleave(2, dim=1)
    v = attention.v_proj(x).view(2, 7, 2, 8).transpose(1, 2).repeat_interleave(2, dim=1)
    q = rotate(normalised(q), *tables) * attention.qk_gain[:, None, None]
    scores = q @ rotate(normalised(k), *tables).mT / 8**0.5
    scores = scores.masked_fill(torch.ones(7, 7).triu(1).bool(), -torch.inf)
    expected = attention.out_proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(2, 7, 32))
    with sdpa_kernel(SDPBackend.MATH):
        torch.testing.assert_close(attention(x, context), expected, rtol=1e-5, atol=1e-6)


def test_rotation_is_multiplication_by_a_unit_complex_number():
    x = torch.randn(3, 5, 8)
    rotary = Rotary(8, base=100.0)
    turned = rotate(x, *rotary(5, torch.float32))
    angle = torch.arange(5.0)[:, None] * 100.0 ** (-torch.arange(0, 8, 2) / 8)
    # x1 cos + x2 sin and -x1 sin + x2 cos turn x1 + i x2 by minus the angle.
    expected = torch.complex(x[..., :4], x[..., 4:]) * torch.polar(torch.ones(5, 4), -angle)
    torch.testing.assert_close(turned, torch.cat((expected.real, expected.imag), -1))


def test_the_rotary_tables_are_a_valid_custom_operator():
    frequencies = Rotary(8, base=100.0).inverse_frequency
    for dtype in (torch.float32, torch.bfloat16):
        torch.library.opcheck(torch.ops.plgolf.rotary_tables, (frequencies, 5, dtype))


def test_attention_gets_the_heads_of_a_position_side_by_side_in_memory(monkeypatch):
    seen = []

    def attend(*heads):
        seen.extend(heads)
        return causal_attention(*heads)

    monkeypatch.setattr("plgolf.model.attention.causal_attention", attend)
    lively(TINY)(torch.randint(64, (2, 9)))
    assert len(seen) == 9
    for heads in seen:  # Kernels return results in the queries' layout, which out_proj reads without a copy.
        assert heads.shape[::2] == (2, 9) and heads.transpose(1, 2).is_contiguous()


def test_a_position_never_sees_later_positions():
    gpt = lively(TINY)
    tokens = torch.randint(64, (1, 12))
    changed = tokens.clone()
    changed[0, 7] = (changed[0, 7] + 1) % 64
    before, after = gpt(tokens), gpt(changed)
    torch.testing.assert_close(before[:, :7], after[:, :7], rtol=0, atol=0)
    assert not torch.equal(before[:, 7:], after[:, 7:])


def test_loss_is_the_mean_over_targets_that_are_not_ignored():
    gpt = lively(TINY)
    tokens = torch.randint(64, (2, 9))
    inputs, targets = tokens[:, :-1], tokens[:, 1:].clone()
    targets[1] = -100
    expected = F.cross_entropy(gpt(inputs)[0], targets[0])
    torch.testing.assert_close(gpt(inputs, targets), expected)
    assert gpt(inputs).abs().max() < TINY.head.softcap


@pytest.mark.parametrize("layers", range(1, 8))
def test_skips_pair_layers_from_the_middle_outwards(layers):
    config = GPTConfig(num_layers=layers)
    sources = [visit.skip for visit in visits(config)]
    pairs = [(i, s) for i, s in enumerate(sources) if s is not None]
    assert len(sources) == layers and len(pairs) == layers // 2
    assert all(i + s == 2 * (layers // 2) - 1 for i, s in pairs)


def test_whole_graph_compiles_and_equals_eager():
    gpt = lively(TINY)
    tokens = torch.randint(64, (2, 9))
    eager = gpt(tokens[:, :-1], tokens[:, 1:])
    torch._dynamo.reset()
    gpt.compile(backend="aot_eager", dynamic=False, fullgraph=True)
    compiled = gpt(tokens[:, :-1], tokens[:, 1:])
    torch.testing.assert_close(compiled, eager)
    assert "embedding.weight" in gpt.state_dict()


def test_every_parameter_has_one_role_and_lands_in_one_group():
    for tied in (True, False):
        gpt = GPT(GPTConfig(vocab_size=64, dim=32, num_layers=2, head=HeadConfig(tied=tied)))
        groups = param_groups(gpt)
        assert [g["name"] for g in groups] == [
            "embedding",
            "matrix",
            *([] if tied else ["head"]),
            "scalar",
        ]
        grouped = [p for g in groups for p in g["params"]]
        assert len(grouped) == len({id(p) for p in grouped}) == len(list(gpt.parameters()))
        assert all(p.ndim == 2 for g in groups if g["role"] == "matrix" for p in g["params"])
        names = [n for n, r in parameter_roles(gpt).items() if r is Role.SCALAR]
        assert "skip_weights" in names and "blocks.1.residual_mix" in names


IDS = torch.arange(18).view(2, 9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((IDS.float(),), "input_ids must be int64 (batch, time), got float32 (2, 9)"),
        ((IDS.to(torch.uint16),), "input_ids must be int64 (batch, time), got uint16 (2, 9)"),
        ((IDS[0],), "input_ids must be int64 (batch, time), got int64 (9,)"),
        ((IDS[None],), "input_ids must be int64 (batch, time), got int64 (1, 2, 9)"),
        ((IDS[:, :0],), "input_ids must have at least one position, got (2, 0)"),
        ((IDS[:0],), "input_ids must have at least one position, got (0, 9)"),
        (([[1, 2]],), "input_ids must be a tensor, got list"),
        ((IDS + 60,), "input_ids must be from 0 to 63, got 60 to 77"),
        ((IDS - 1,), "input_ids must be from 0 to 63, got -1 to 16"),
        ((IDS, IDS.int()), "target_ids must be int64 (batch, time), got int32 (2, 9)"),
        ((IDS, IDS[:, 1:]), "target_ids must have the shape of input_ids (2, 9), got (2, 8)"),
        ((IDS, IDS + 60), "target_ids must be from 0 to 63, or -100 for none, got 60 to 77"),
        ((IDS, IDS - 5), "target_ids must be from 0 to 63, or -100 for none, got -5 to 12"),
        ((IDS, IDS, "sum"), "reduction must be mean or none, got 'sum'"),
    ],
)
def test_bad_ids_are_refused_in_one_line(arguments, message):
    with pytest.raises(UserError) as error:
        GPT(TINY)(*arguments)
    assert str(error.value) == message


def test_generation_refuses_ids_and_caches_that_do_not_fit():
    gpt = GPT(TINY)
    with pytest.raises(UserError, match=r"input_ids must be int64 \(batch, time\), got float32 \(2, 9\)"):
        gpt.next_logits(IDS.float(), gpt.memory(9, batch=2))
    with pytest.raises(UserError, match="input_ids must be from 0 to 63, got 60 to 77"):
        gpt.next_logits(IDS + 60, gpt.memory(9, batch=2))
    with pytest.raises(UserError, match="input_ids must have the memory's 3 sequences, got 2"):
        gpt.next_logits(IDS, gpt.memory(9, batch=3))
    for words, message in (
        ({"capacity": 0}, "capacity must be at least 1, got 0"),
        ({"capacity": 2.5}, "capacity must be a whole number, got 2.5"),
        ({"capacity": 4, "batch": -1}, "batch must be at least 1, got -1"),
    ):
        with pytest.raises(UserError, match=message):
            gpt.memory(**words)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: HeadConfig(softcap=0.0), r"softcap must be finite and positive, got 0\.0"),
        (lambda: AttentionConfig(num_heads=6, num_kv_heads=4), "multiple of num_kv_heads"),
        (lambda: GPTConfig(dim=100), r"multiple of attention\.num_heads \(8\), got 100"),
        (lambda: GPTConfig(dim=24), "even for rotary pairs, got 3"),
        (lambda: GPTConfig(mlp=MLPConfig(expansion=0.3)), "whole hidden width"),
        (lambda: GPTConfig(num_layers=0), "num_layers must be at least 1, got 0"),
        (lambda: GPTConfig(compute_dtype="float16"), "compute_dtype must be bfloat16, float32 or auto"),
        (lambda: AttentionConfig(num_heads=0), "num_heads must be at least 1, got 0"),
        (lambda: AttentionConfig(num_kv_heads=-1), "num_kv_heads must be at least 1, got -1"),
        (lambda: GPTConfig(dim="512"), "dim must be a whole number, got '512'"),
        (lambda: GPTConfig(num_layers=2.0), "num_layers must be a whole number, got 2.0"),
        (lambda: GPTConfig(num_layers=2000), "num_layers must be at most 512, got 2000"),
        (lambda: GPTConfig(embedding_std=-1.0), "embedding_std must be finite and at least 0, got -1"),
        (lambda: GPTConfig(mlp=MLPConfig(expansion=float("inf"))), "whole hidden width"),
        (lambda: HeadConfig(softcap=float("nan")), "softcap must be finite and positive, got nan"),
        (lambda: AttentionConfig(qk_gain=float("inf")), "qk_gain must be finite, got inf"),
        (
            lambda: GPTConfig(attention=AttentionConfig(rotary_dims=7)),
            "rotary_dims must be an even number from",
        ),
        (lambda: GPTConfig(attention=AttentionConfig(rotary_dims=66)), "from 2 to 64, got 66"),
        (lambda: AttentionConfig(rotary_dims=2, rope_length=9), "rotary_dims must be at least 4 with"),
        (lambda: AttentionConfig(rope_length=0), "rope_length must be at least 1, got 0"),
        (lambda: AttentionConfig(rope_base=0.0), "rope_base must be finite and positive"),
    ],
)
def test_impossible_shapes_are_refused_by_name_and_value(build, message):
    with pytest.raises(ValueError, match=message):
        build()
