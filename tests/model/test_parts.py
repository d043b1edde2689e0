"""The contract that every part keeps: a part that is added to the table is added to ``CASES``."""

from dataclasses import fields, replace
from typing import Any, NamedTuple

import pytest
import torch
from lively import lively

from plgolf import GPT, GPTConfig
from plgolf.artifact import read_artifact, save_artifact
from plgolf.config import config_from_dict, config_to_dict
from plgolf.errors import UserError
from plgolf.model import AttentionConfig
from plgolf.model.context import Context
from plgolf.model.depth import LanesConfig, ParallelConfig
from plgolf.model.parts import PartsConfig
from plgolf.model.parts.backout import BackoutConfig
from plgolf.model.parts.bigram_hash import LayerBigrams, signs
from plgolf.model.parts.depth_gate import DepthGateConfig
from plgolf.model.parts.exclusive import ExclusiveConfig
from plgolf.model.parts.key_offset import KeyOffsetConfig
from plgolf.model.parts.logit_rescale import LogitRescaleConfig
from plgolf.model.parts.output_gate import OutputGateConfig
from plgolf.model.parts.ports import Shape
from plgolf.model.parts.value_embedding import ValueEmbeddingConfig
from plgolf.roles import Role, parameter_roles

PLAIN = GPTConfig(
    vocab_size=64,
    dim=32,
    num_layers=3,
    compute_dtype="float32",
    attention=AttentionConfig(num_heads=4, num_kv_heads=2, rotary_dims=4),
)
SHAPE = Shape(64, 32, 3, 4, 2, 8, 4)
"""Of ``PLAIN``."""
TOKENS = torch.randint(64, (2, 12), generator=torch.Generator().manual_seed(0))
TOKENS[:, 5] = 1


class Case(NamedTuple):
    """A part to test.

    Args:
        name: its field of ``PartsConfig``.
        settings: its settings, as in a recipe.
        roles: roles of its parameters, by the ends of their names.
        transparent: True if it changes nothing at the start.
        layers: layers that have it; None for a part of the whole model.
        bad: settings that must be refused, and the message after the path.
        both: True for a part of the whole model that is in layers too.
    """

    name: str
    settings: dict[str, Any]
    roles: dict[str, Role]
    transparent: bool
    layers: set[int] | None
    bad: tuple[tuple[dict[str, Any], str], ...]
    both: bool = False


CASES = [
    Case(
        "bigram_hash",
        {"buckets": 50, "dim": 8},
        {"embedding.weight": Role.EMBEDDING, "proj.weight": Role.MATRIX, "scale": Role.SCALAR},
        True,
        None,
        (
            ({"buckets": 1}, "buckets must be from 2 to 1048576, got 1"),
            ({"dim": 33}, "dim must be from 1 to the model's width 32, got 33"),
            ({"scale": 0.0}, "scale must not be 0"),
        ),
    ),
    Case(
        "bigram_hash",
        {"buckets": 50, "dim": 32},
        {"embedding.weight": Role.EMBEDDING, "scale": Role.SCALAR},
        True,
        None,
        (),
    ),
    Case(
        "bigram_hash",
        {"buckets": 50, "dim": 8, "signs": 16, "layers": "0, 2"},
        {"embedding.weight": Role.EMBEDDING, "proj.weight": Role.MATRIX, "scale": Role.SCALAR},
        True,
        {0, 2},
        (
            ({"signs": 1}, "signs must be from 2 to 1048576, got 1"),
            ({"layer_scale": 0.0}, "layer_scale must be finite and not 0, got 0.0"),
            ({"layers": "3"}, "layers must be some of the layers 0 to 2, got '3'"),
        ),
        both=True,
    ),
    Case(
        "smear_gate",
        {"initial": -3.0},
        {"gate": Role.SCALAR},
        False,
        None,
        (({"initial": -3.0, "window": 8}, "initial must be 0 with window, got -3.0"),),
    ),
    Case(
        "smear_gate",
        {},
        {"gate": Role.SCALAR},
        False,
        None,
        (({"bos_id": 64}, "bos_id must be from 0 to 63, got 64"),),
    ),
    Case(
        "smear_gate",
        {"window": 8, "bos_id": 1},
        {"proj.weight": Role.SCALAR, "strength": Role.SCALAR},
        True,
        None,
        (({"window": 33}, "window must be from 1 to the width 32, got 33"),),
    ),
    Case(
        "value_embedding",
        {"layers": "0, 2", "dim": 8},
        {"embedding.weight": Role.EMBEDDING, "proj.weight": Role.MATRIX, "scale": Role.SCALAR},
        False,
        {0, 2},
        (
            ({"dim": 0}, "dim must be from 1 to the model's width 32, got 0"),
            ({"std": 0.0}, "std must be finite and positive, got 0.0"),
            ({"scale": 0.0}, "scale must not be 0"),
            ({"layers": "3"}, "layers must be some of the layers 0 to 2, got '3'"),
        ),
    ),
    Case(
        "value_embedding",
        {"layers": "0, 2", "dim": 8, "tables": "own", "gate_window": 6},
        {
            "table.embedding.weight": Role.EMBEDDING,
            "table.proj.weight": Role.MATRIX,
            "scale": Role.SCALAR,
            "gate.proj.weight": Role.SCALAR,
        },
        False,
        {0, 2},
        (
            ({"gate_window": 17}, "gate_window must be from 1 to the values' width 16, got 17"),
            ({"gate_factor": 0.0}, "gate_factor must be finite and positive, got 0.0"),
        ),
    ),
    Case(
        "value_embedding",
        {"layers": "1, 2", "dim": 16, "gate_window": 6, "gate_factor": 3.0},
        {"embedding.weight": Role.EMBEDDING, "scale": Role.SCALAR, "gate.proj.weight": Role.SCALAR},
        False,
        {1, 2},
        (),
    ),
    Case(
        "exclusive",
        {"layers": "last 2", "amount": "learned"},
        {"amount": Role.SCALAR},
        True,
        {1, 2},
        (({"amount": "half"}, "amount must be one of ('whole', 'learned'), got 'half'"),),
    ),
    Case(
        "exclusive",
        {"layers": "last 2"},
        {},
        False,
        {1, 2},
        (({"layers": "most"}, "layers must be like 'all'"),),
    ),
    Case(
        "output_gate",
        {"window": 8, "layers": "from 1"},
        {"proj.weight": Role.SCALAR},
        False,
        {1, 2},
        (
            ({"window": 0}, "window must be from 1 to the width 32, got 0"),
            ({"scale": 0.0}, "scale must be finite and not 0, got 0.0"),
        ),
    ),
    Case(
        "output_gate",
        {"window": 32, "scale": 1.0, "std": 0.005},
        {"proj.weight": Role.SCALAR},
        False,
        {0, 1, 2},
        (
            ({"std": -1.0}, "std must be finite and at least 0, got -1.0"),
            ({"factor": 0.0}, "factor must be finite and positive, got 0.0"),
        ),
    ),
    Case(
        "output_gate",
        {"window": 8, "scale": 1.0, "factor": 2.0},
        {"proj.weight": Role.SCALAR},
        True,
        {0, 1, 2},
        (),
    ),
    Case(
        "residual_scale",
        {"layers": "1, 2"},
        {"stream": Role.SCALAR, "restored": Role.SCALAR},
        False,
        {1, 2},
        (({"first": float("inf")}, "first must be finite, got inf"),),
    ),
    Case(
        "residual_scale",
        {"first": 1.0, "last": 1.0, "first_input": 0.0, "last_input": 0.0},
        {"stream": Role.SCALAR, "restored": Role.SCALAR},
        True,
        {0, 1, 2},
        (),
    ),
    Case(
        "depth_gate",
        {"layers": "1, 2"},
        {"proj.weight": Role.SCALAR, "bias": Role.SCALAR},
        False,
        {1, 2},
        (({"bias": float("nan")}, "bias must be finite, got nan"),),
    ),
    Case(
        "key_offset",
        {"layers": "from 1", "bos_id": 1},
        {},
        False,
        {1, 2},
        (
            (
                {"channels": 5},
                "channels must be from 1 to 4, those that do not turn with the position, got 5",
            ),
            ({"bos_id": 64}, "bos_id must be from 0 to 63, got 64"),
        ),
    ),
    Case(
        "backout",
        {},
        {"scale": Role.SCALAR},
        False,
        None,
        (
            ({"depth": 1.0}, "depth must be above 0 and below 1, got 1.0"),
            ({"scale": float("inf")}, "scale must be finite, got inf"),
        ),
    ),
    Case("backout", {"scale": 0.0}, {"scale": Role.SCALAR}, True, None, ()),
    Case(
        "logit_rescale",
        {},
        {},
        False,
        None,
        (
            ({"width": 0.0}, "width must be finite and positive, got 0.0"),
            ({"shift": float("inf")}, "shift must be finite, got inf"),
        ),
    ),
]
EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def config_with(name: str, settings: dict[str, Any]) -> GPTConfig:
    return config_from_dict(GPTConfig, {**config_to_dict(PLAIN), "parts": {name: settings}})


def config_with_all(cases: list[Case]) -> GPTConfig:
    """Returns a configuration with every part; of two cases of one part the last."""
    parts = {case.name: case.settings for case in cases}
    return config_from_dict(GPTConfig, {**config_to_dict(PLAIN), "norm_scale": "depth", "parts": parts})


def with_part(case: Case, *, new: bool = False) -> GPT:
    """Returns a lively model with the part, whose own parameters are lively too unless they are new."""
    config = config_with(case.name, case.settings)
    gpt = lively(config, noise=0.5)
    if new:
        own = {n: p for n, p in GPT(config).state_dict().items() if case.name in n or "value_source" in n}
        gpt.load_state_dict({**gpt.state_dict(), **own})
    return gpt


def without_part(gpt: GPT) -> GPT:
    plain = GPT(PLAIN).eval()
    weights = gpt.state_dict()
    plain.load_state_dict({name: weights[name] for name in plain.state_dict()})
    return plain


def own_parameters(gpt: GPT) -> dict[str, torch.nn.Parameter]:
    plain = {name for name, _ in GPT(PLAIN).named_parameters()}
    return {name: p for name, p in gpt.named_parameters() if name not in plain}


def doubles(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def dicts(module: torch.nn.Module) -> set[torch.nn.ModuleDict]:
    """Returns the ports in a module."""
    return {each for each in module.modules() if isinstance(each, torch.nn.ModuleDict)}


def test_every_part_has_a_case():
    assert {case.name for case in CASES} == {field.name for field in fields(PartsConfig)}


@EACH
def test_a_new_part_changes_nothing_where_it_says_so(case):
    gpt = with_part(case, new=True)
    difference = (gpt(TOKENS) - without_part(gpt)(TOKENS)).abs().max().item()
    assert (difference == 0) if case.transparent else (difference > 1e-4)


@EACH
def test_a_new_part_learns(case):
    gpt = with_part(case, new=True)
    gpt(TOKENS[:, :-1], TOKENS[:, 1:]).backward()
    own = own_parameters(gpt)
    assert not own or any(p.grad.any() for p in own.values())


@EACH
def test_a_part_has_an_effect_and_all_its_parameters_have_gradients(case):
    gpt = with_part(case)
    assert (gpt(TOKENS) - without_part(gpt)(TOKENS)).abs().max() > 1e-3
    gpt(TOKENS[:, :-1], TOKENS[:, 1:]).backward()
    for name, p in own_parameters(gpt).items():
        assert p.grad is not None and p.grad.any(), name


@pytest.mark.slow
@pytest.mark.parametrize(("which", "backend"), [(0, "aot_eager"), (1, "aot_eager"), (-1, "inductor")])
def test_parts_are_alive_in_one_compiled_graph(which, backend):
    """The first, the second and the last case of each part; one of them as it runs in training."""
    by_name = [[case for case in CASES if case.name == part.name] for part in fields(PartsConfig)]
    gpt = lively(config_with_all([cases[min(which, len(cases) - 1)] for cases in by_name]), noise=0.3)
    found = []
    compiled = torch.compile(gpt, fullgraph=True, dynamic=False, backend=backend)
    for model in (gpt, compiled):
        gpt.zero_grad()
        loss = model(TOKENS[:, :-1], TOKENS[:, 1:])
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in gpt.parameters())])
    for eager, other in zip(*found, strict=True):
        torch.testing.assert_close(other, eager, rtol=1e-4, atol=1e-5)
    assert all(p.grad.any() for p in own_parameters(gpt).values())


@EACH
def test_a_position_never_sees_later_positions(case):
    gpt, changed = with_part(case), TOKENS.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 64
    before, after = gpt(TOKENS), gpt(changed)
    torch.testing.assert_close(before[:, :7], after[:, :7], rtol=0, atol=0)
    assert not torch.equal(before[:, 7], after[:, 7])


@EACH
@pytest.mark.parametrize("pieces", [[1] * 12, [5, 1, 6], [12]])
def test_logits_from_memory_are_those_of_the_whole_text(case, pieces):
    gpt = with_part(case)
    memory = gpt.memory(12, batch=2)
    with torch.inference_mode():
        uncached = gpt(TOKENS)
        for text in (TOKENS.flip(0), TOKENS):
            memory.clear()
            for piece in text.split(pieces, dim=1):
                logits = gpt.next_logits(piece, memory)
                at = memory.length - 1
        torch.testing.assert_close(logits, uncached[:, at], rtol=1e-5, atol=3e-5)


@EACH
def test_a_part_survives_an_artifact_round_trip(case, tmp_path):
    gpt = with_part(case)
    save_artifact(gpt, tmp_path / "model.int8.ptz")
    artifact = read_artifact(tmp_path / "model.int8.ptz")
    assert artifact.config == gpt.config
    assert artifact.weights.keys() == gpt.state_dict().keys()
    torch.testing.assert_close(artifact.gpt()(TOKENS), gpt(TOKENS), rtol=0.02, atol=0.1)


@EACH
def test_every_parameter_of_a_part_has_its_role_and_dtype(case):
    gpt = GPT(replace(with_part(case).config, compute_dtype="bfloat16"))
    roles = parameter_roles(gpt)
    own = own_parameters(gpt)
    expected = {name: r for name in own for end, r in case.roles.items() if name.endswith(f".{end}")}
    assert {name: roles[name] for name in own} == expected
    assert {end for end in case.roles for name in own if name.endswith(f".{end}")} == set(case.roles)
    for name, p in own.items():
        assert p.dtype is (torch.bfloat16 if roles[name] is Role.EMBEDDING else torch.float32), name
    assert gpt(TOKENS).isfinite().all()


@EACH
def test_a_part_is_in_the_layers_that_its_words_choose(case):
    gpt = with_part(case)
    layers = [layer for layer, block in enumerate(gpt.blocks) if any(case.name in d for d in dicts(block))]
    assert set(layers) == (case.layers or set())
    whole = any(case.name in d for d in dicts(gpt) - dicts(gpt.blocks)) or gpt.head.part is not None
    assert whole == (case.layers is None or case.both)


@EACH
def test_settings_that_do_not_fit_are_refused_by_their_path(case):
    for changes, message in case.bad:
        with pytest.raises(UserError) as error:
            config_with(case.name, {**case.settings, **changes})
        assert str(error.value).startswith(f"config.parts.{case.name}.{message}")


def test_parts_work_together_in_a_compiled_graph():
    gpt = lively(config_with_all(CASES))
    compiled = torch.compile(gpt, fullgraph=True, dynamic=False, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(TOKENS), gpt(TOKENS))
    memory = gpt.memory(12, batch=2)
    with torch.inference_mode():
        for piece in TOKENS.split(5, dim=1):
            logits = gpt.next_logits(piece, memory)
        torch.testing.assert_close(logits, gpt(TOKENS)[:, -1], rtol=1e-5, atol=1e-5)


def test_nothing_of_the_previous_document_is_smeared_into_the_next():
    case = next(case for case in CASES if case.settings.get("bos_id") == 1)
    gpt, changed = with_part(case), TOKENS.clone()
    changed[:, 4] = (changed[:, 4] + 1) % 64
    seen = []
    gpt.input_parts["smear_gate"].register_forward_hook(lambda _m, _a, out: seen.append(out))
    gpt(TOKENS), gpt(changed)
    assert TOKENS[0, 5] == 1 and torch.equal(seen[0][:, 5:], seen[1][:, 5:])
    assert not torch.equal(seen[0][:, 4], seen[1][:, 4])


def test_an_exclusive_head_is_orthogonal_to_its_own_value():
    y, v = doubles(2, 5, 4, 8), doubles(2, 5, 2, 8)
    out = ExclusiveConfig().build(SHAPE)(y, v, y)
    along = (out.unflatten(2, (2, 2)) * v[:, :, :, None]).sum(-1)
    assert along.abs().max() < 1e-12 and (out - y).abs().max() > 0.1


def test_a_learned_share_of_a_head_is_a_tanh():
    y, v = doubles(2, 5, 4, 8), doubles(2, 5, 2, 8)
    learned, whole = ExclusiveConfig(amount="learned").build(SHAPE).double(), ExclusiveConfig().build(SHAPE)
    learned.amount.data.copy_(doubles(4))
    expected = y + learned.amount.tanh()[:, None] * (whole(y, v, y) - y)
    torch.testing.assert_close(learned(y, v, y), expected)


def test_a_gate_of_a_head_depends_on_the_input_of_its_layer():
    y, x = doubles(2, 5, 4, 8), doubles(2, 5, 32)
    gate = OutputGateConfig(window=32, scale=0.5, factor=2.0, std=0.005).build(SHAPE).double()
    expected = y * (2 / (1 + torch.exp(-0.5 * x @ gate.proj.weight.T)))[..., None]
    torch.testing.assert_close(gate(y, y, x), expected)
    block = GPT(config_with("output_gate", {"window": 32, "std": 0.005})).blocks[0]
    assert 0.004 < block.attention.head_parts["output_gate"].proj.weight.std() < 0.006


def test_a_gate_of_values_depends_on_stream_and_values():
    v, x = doubles(2, 5, 16), doubles(2, 5, 32)
    part = ValueEmbeddingConfig(gate_window=6).build(SHAPE).double()
    part.gate.proj.weight.data.copy_(doubles(2, 12))
    values = doubles(2, 5, 16)
    gate = 2 / (1 + torch.exp(-torch.cat((x[..., :6], values[..., :6]), -1) @ part.gate.proj.weight.T))
    expected = v + torch.cat((gate[..., :1] * values[..., :8], gate[..., 1:] * values[..., 8:]), -1)
    torch.testing.assert_close(part(v, Context(x, x, (x, x), values), x), expected)


def test_signs_are_even_and_tell_pairs_of_one_row_apart():
    table = signs(torch.arange(4096), 64).double()
    products = table[:512] @ table.T / 64
    products[torch.arange(512), torch.arange(512)] = 0
    assert abs(table.mean()) < 0.01 and table.mean(0).abs().max() < 0.08
    assert abs(products.std() - 1 / 8) < 0.003 and products.abs().max() < 0.75


def test_keys_come_from_the_position_before_except_where_a_document_begins():
    part = KeyOffsetConfig(bos_id=1).build(SHAPE)
    k, tokens = doubles(1, 4, 2, 8), torch.tensor([[5, 6, 1, 7]])
    out = part(k, Context(tokens, k, (k, k)), 0)
    assert torch.equal(out[..., :4], k[..., :4])
    assert torch.equal(out[..., 4:], k[:, [0, 0, 2, 2], :, 4:])


def test_factors_of_the_stream_change_linearly_over_the_layers():
    blocks = GPT(config_with("residual_scale", {})).blocks
    parts = [block.stream_parts["residual_scale"] for block in blocks]
    torch.testing.assert_close(torch.stack([part.stream for part in parts]), torch.tensor([1.15, 1.1, 1.05]))
    restored = torch.stack([part.restored for part in parts])
    torch.testing.assert_close(restored, torch.tensor([0.2, 0.125, 0.05]))


@pytest.mark.parametrize(
    "wiring",
    [
        {},
        {"parallel": ParallelConfig()},
        {"lanes": LanesConfig(layers="from 1")},
        {"lanes": LanesConfig(layers="from 1", writes="own")},
        {"lanes": LanesConfig(layers="from 1", writes="in_turn")},
    ],
)
def test_a_closed_gate_takes_a_layer_away_in_every_wiring(wiring):
    config = replace(PLAIN, **wiring, parts=PartsConfig(depth_gate=DepthGateConfig(bias=-1e4)))
    gpt, seen = lively(config, noise=0.1), {}
    gpt.head.register_forward_pre_hook(lambda _, args: seen.update(out=args[0]))
    with torch.no_grad():
        for block in gpt.blocks:
            block.residual_mix.copy_(torch.tensor([[1.0], [0.0]]).expand(2, 32))
            block.layer_parts["depth_gate"].bias.fill_(-1e4)
        gpt.skip_weights.zero_()
        gpt(TOKENS)
        x = torch.nn.functional.rms_norm(gpt.embedding(TOKENS), (32,))
    torch.testing.assert_close(seen["out"], torch.nn.functional.rms_norm(x, (32,)))


def test_the_middle_of_the_model_is_subtracted_from_its_end():
    outputs = [doubles(1, 2, 32) for _ in range(11)]
    part = BackoutConfig(scale=0.5).build(SHAPE).double()
    assert torch.equal(part(outputs[-1], outputs), outputs[-1] - 0.5 * outputs[5])


def test_logits_are_limited_by_a_shifted_sigmoid():
    z = 20 * doubles(1, 2, 64)
    torch.testing.assert_close(LogitRescaleConfig().build(SHAPE)(z), 23 / (1 + torch.exp(-(z + 5) / 7.5)))
    logits = lively(config_with("logit_rescale", {}), noise=0.5)(TOKENS)
    assert logits.min() > 0 and 23 > logits.max() > 15


def test_keys_that_turn_as_a_whole_have_nothing_to_offset():
    with pytest.raises(
        UserError, match=r"parts\.key_offset\.channels must not turn .* attention\.rotary_dims must be"
    ):
        replace(
            PLAIN, attention=AttentionConfig(num_heads=4), parts=PartsConfig(key_offset=KeyOffsetConfig())
        )


def test_values_need_their_table():
    part = ValueEmbeddingConfig().build(SHAPE)
    x = torch.zeros(1, 2, 16)
    with pytest.raises(ValueError, match="must have the values of the table"):
        part(x, Context(x, x, (x, x)), x)


def test_layers_need_the_rows_of_pairs():
    x = torch.zeros(1, 2, 16)
    with pytest.raises(ValueError, match="must have the rows of the table"):
        LayerBigrams(0.05)(x, Context(x, x, (x, x)))
