"""The order of layers, recurrence, gated skips, parallel layers and two lanes."""

import ast
import inspect
from dataclasses import replace

import pytest
import torch
from lively import lively

from plgolf import GPT, GPTConfig, LanguageModel
from plgolf.artifact import read_artifact, save_artifact
from plgolf.container import Container
from plgolf.errors import UserError
from plgolf.model import AttentionConfig, depth
from plgolf.model.context import Context
from plgolf.model.depth import NEVER, LanesConfig, ParallelConfig, RecurrenceConfig, phases, visits
from plgolf.model.flops import train_flops_per_token
from plgolf.quantize.codec import Raw
from plgolf.quantize.plan import CodecConfig

PLAIN = GPTConfig(
    vocab_size=64,
    dim=32,
    num_layers=5,
    compute_dtype="float32",
    attention=AttentionConfig(num_heads=4, num_kv_heads=2),
)
DEEP = replace(PLAIN, recurrence=RecurrenceConfig(layers="1-2", times=3, starts=0.5), skips="gated")
LANES = replace(DEEP, lanes=LanesConfig(layers="from 3"))
PARALLEL = replace(PLAIN, parallel=ParallelConfig(layers="all"))
IN_TURN = replace(LANES, lanes=LanesConfig(layers="from 3", writes="in_turn"))
OWN = replace(LANES, lanes=LanesConfig(layers="from 3", writes="own", merge="learned"))
WIRED = pytest.mark.parametrize(
    "config",
    [DEEP, LANES, IN_TURN, OWN, PARALLEL],
    ids=["recurrent", "lanes", "in turn", "own lanes", "parallel"],
)
EXACT = Container({name: CodecConfig(raw=Raw()) for name in ("matrix", "embedding", "scalar")})
TOKENS = torch.randint(64, (2, 12), generator=torch.Generator().manual_seed(0))


def test_layers_recur_in_order_from_their_fraction_on():
    assert [visit.layer for visit in visits(DEEP, 0.49)] == [0, 1, 2, 3, 4]
    assert [visit.layer for visit in visits(DEEP, 0.5)] == [0, 1, 2, 1, 2, 1, 2, 3, 4]
    assert [visit.skip for visit in visits(DEEP)] == [None, None, None, None, 3, 2, 1, 0, None]
    assert phases(DEEP) == (0.0, 0.5) and phases(PLAIN) == (0.0,)
    assert phases(replace(DEEP, recurrence=RecurrenceConfig(layers="all"))) == (0.0,)


def test_the_order_of_layers_is_computed_without_torch():
    tree = ast.parse(inspect.getsource(depth))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {module for module in modules if module.startswith("torch")}


def test_a_new_model_is_at_the_end_of_a_run_and_can_be_set_back():
    gpt = lively(DEEP)
    late = gpt(TOKENS)
    early = gpt.at(0.2)(TOKENS)
    assert not torch.equal(late, early)
    assert gpt.at(1.0) is gpt and torch.equal(gpt(TOKENS), late)
    # A later use of a layer has the layer's weights.
    once = lively(replace(DEEP, recurrence=None))
    assert gpt.skip_weights.shape == (4, 32) and once.skip_weights.shape == (2, 32)
    once.load_state_dict({n: p[:2] if n.startswith("skip_") else p for n, p in gpt.state_dict().items()})
    torch.testing.assert_close(once(TOKENS), early)


def test_a_gate_at_its_start_halves_stream_and_skip():
    gpt = lively(replace(PLAIN, num_layers=2, skips="gated"))
    torch.nn.init.zeros_(gpt.skip_gates)
    inputs, outputs = [], []
    for block in gpt.blocks:
        block.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
        block.register_forward_hook(lambda _m, _a, out: outputs.append(out))
    gpt(TOKENS)
    torch.testing.assert_close(inputs[1], (outputs[0] + gpt.skip_weights[0] * outputs[0]) / 2)


def test_a_parallel_layer_feeds_attention_and_mlp_with_the_same_stream():
    gpt = lively(replace(PARALLEL, num_layers=1))
    seen = {}
    block = gpt.blocks[0]
    block.attention.register_forward_pre_hook(lambda _, args: seen.update(attention=args[0], context=args[1]))
    block.mlp.register_forward_pre_hook(lambda _, args: seen.update(mlp=args[0]))
    block.attention.register_forward_hook(lambda _m, _a, out: seen.update(attended=out))
    block.mlp.register_forward_hook(lambda _m, _a, out: seen.update(fed=out))
    gpt.head.register_forward_pre_hook(lambda _, args: seen.update(out=args[0]))
    gpt(TOKENS)
    assert torch.equal(seen["attention"], seen["mlp"])
    total = block.mix(seen["context"].x0, seen["context"]) + seen["attended"] + seen["fed"]
    torch.testing.assert_close(seen["out"], torch.nn.functional.rms_norm(total, (32,)))


@pytest.mark.parametrize("config", [IN_TURN, OWN], ids=["in turn", "own lanes"])
def test_two_lanes_write_in_the_ways_of_the_earlier_records(config):
    gpt = lively(config).double()
    block, residual, x, y = gpt.blocks[3], gpt.residual, *torch.randn(2, 2, 12, 32).double()
    context = Context(TOKENS, torch.randn(2, 12, 32).double(), gpt.rotary(12, torch.float64))
    attended = block.attend(block.mix(x, context), context, 0)
    lanes = residual(3, block, (x, y), context, 0)
    if config is OWN:
        expected = block.mix(x, context) + attended, y + block.feed(y)
    else:
        (a, b), ((p, q), (r, s)) = residual.keep[3], residual.post[3]
        x, y = a * x + p * attended, a * y + q * attended
        fed = block.feed(block.mix(y, context))
        expected = b * x + r * fed, b * y + s * fed
    torch.testing.assert_close(lanes, expected)
    share = 0.5 if config is IN_TURN else residual.share
    torch.testing.assert_close(residual.merge(lanes), share * lanes[0] + (1 - share) * lanes[1])


@pytest.mark.parametrize("config", [IN_TURN, OWN], ids=["in turn", "own lanes"])
def test_the_lanes_of_the_earlier_records_are_one_compiled_graph(config):
    lanes = replace(config.lanes, layers="last 1")
    gpt = lively(replace(config, num_layers=2, recurrence=None, skips="plain", lanes=lanes))
    torch.compiler.reset()  # Graphs of other tests count towards the limit.
    compiled = torch.compile(gpt, fullgraph=True, dynamic=False, backend="eager")
    torch.testing.assert_close(compiled(TOKENS), gpt(TOKENS))


def test_new_lanes_keep_a_little_more_than_they_have():
    assert GPT(LANES).residual.keep.eq(1.1).all() and GPT(OWN).residual.share == 0.5
    torch.testing.assert_close(GPT(IN_TURN).residual.keep.square(), torch.full((5, 2), 1.1))


@WIRED
def test_every_parameter_is_alive(config):
    gpt = lively(config)
    assert (gpt(TOKENS) - lively(PLAIN)(TOKENS)).abs().max() > 1e-3
    gpt(TOKENS[:, :-1], TOKENS[:, 1:]).backward()
    assert all(p.grad is not None and p.grad.any() for p in gpt.parameters())


@WIRED
@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_logits_from_memory_are_those_of_the_whole_text(config, fraction):
    gpt = lively(config).at(fraction)
    memory = gpt.memory(12, batch=2)
    assert len(memory.slots) == len(gpt.visits)
    with torch.inference_mode():
        for piece in TOKENS.split([5, 1, 6], dim=1):
            logits = gpt.next_logits(piece, memory)
        torch.testing.assert_close(logits, gpt(TOKENS)[:, -1], rtol=1e-5, atol=1e-5)


@WIRED
def test_a_position_never_sees_later_positions(config):
    gpt, changed = lively(config), TOKENS.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 64
    before, after = gpt(TOKENS), gpt(changed)
    torch.testing.assert_close(before[:, :7], after[:, :7], rtol=0, atol=0)
    assert not torch.equal(before[:, 7], after[:, 7])


@pytest.mark.slow
@pytest.mark.parametrize("config", [LANES, PARALLEL], ids=["lanes", "parallel"])
def test_each_order_of_layers_is_one_compiled_graph(config):
    gpt = lively(config)
    compiled = torch.compile(gpt, fullgraph=True, dynamic=False, backend="aot_eager")
    for fraction in (0.0, 1.0, 0.0):
        gpt.at(fraction)
        torch.testing.assert_close(compiled(TOKENS), gpt(TOKENS))


@WIRED
@pytest.mark.parametrize("fraction", [0.0, 1.0])
@pytest.mark.parametrize("form", [None, EXACT], ids=["reference", "container"])
def test_an_artifact_runs_like_the_end_of_training(config, fraction, form, tmp_path):
    gpt, path = lively(config).at(fraction), tmp_path / "model.ptz"
    save_artifact(gpt, path, format=form)
    artifact = read_artifact(path)
    assert (artifact.config == config) is (gpt.visits == visits(config, 1.0))
    again = artifact.gpt()
    assert again.visits == gpt.visits and again.at(0.9).visits == gpt.visits
    rounded = {"rtol": 0.02, "atol": 0.15} if form is None else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(again(TOKENS), gpt(TOKENS), **rounded)


def test_the_file_of_a_model_whose_layers_run_once_says_so(tmp_path):
    save_artifact(lively(DEEP).at(0.0), tmp_path / "model.ptz")
    config = read_artifact(tmp_path / "model.ptz").config
    assert config == replace(DEEP, recurrence=replace(DEEP.recurrence, starts=NEVER))
    assert phases(config) == (0.0,) and visits(config, 1.0) == visits(DEEP, 0.0)
    with pytest.raises(UserError, match="recurrence.layers must be neighbours, got '1, 3'"):
        replace(config, recurrence=replace(config.recurrence, layers="1, 3"))


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_generation_runs_a_model_in_the_order_that_it_has(fraction):
    gpt = lively(replace(DEEP, compute_dtype="bfloat16")).at(fraction)
    assert LanguageModel(gpt)._fast_gpt.visits == gpt.visits


def test_a_document_in_a_packed_row_has_the_losses_of_a_document_alone():
    gpt = lively(PLAIN)
    row, borders = TOKENS[:1], torch.tensor([0, 5, 12, 12], dtype=torch.int32)
    packed = gpt(row, row.roll(-1, 1), reduction="none", cu_seqlens=borders)
    for first, end in ((0, 5), (5, 12)):
        alone = gpt(row[:, first:end], row.roll(-1, 1)[:, first:end], reduction="none")
        # Positions of the rotary embedding are those of the row, which changes nothing inside a document.
        torch.testing.assert_close(packed[:, first:end], alone, rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match="must rise from 0 to the 24 tokens"):
        gpt(TOKENS, cu_seqlens=borders)


def test_operations_are_counted_for_every_use_of_a_layer():
    deep, plain = (train_flops_per_token(config, 9) for config in (DEEP, PLAIN))
    layer = (plain - 6 * 32 * 64) // 5
    assert deep - plain == 4 * layer


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RecurrenceConfig(layers="1", times=0), "times must be at least 1, got 0"),
        (lambda: RecurrenceConfig(layers="1", times=17), "times must be at most 16, got 17"),
        (
            lambda: RecurrenceConfig(layers="1", starts=1.5),
            "starts must be from 0 to 1, or 2 for never, got 1.5",
        ),
        (
            lambda: replace(PLAIN, recurrence=RecurrenceConfig(layers="1, 3")),
            "recurrence.layers must be neighbours, got '1, 3'",
        ),
        (
            lambda: replace(PLAIN, recurrence=RecurrenceConfig(layers="9")),
            "recurrence.layers must be some of the layers 0 to 4, got '9'",
        ),
        (
            lambda: replace(PLAIN, lanes=LanesConfig(layers="first 2")),
            "lanes.layers must be the last to run, got 'first 2'",
        ),
        (
            lambda: replace(DEEP, lanes=LanesConfig(layers="from 2")),
            "lanes.layers must be the last to run, got 'from 2'",
        ),
        (
            lambda: replace(PARALLEL, lanes=LanesConfig(layers="last 1")),
            "lanes.layers must not be in parallel.layers, got 'last 1'",
        ),
    ],
)
def test_orders_that_do_not_fit_are_refused(build, message):
    with pytest.raises(UserError) as error:
        build()
    assert str(error.value) == message


def test_models_without_new_settings_have_the_names_of_before():
    names = GPT(PLAIN).state_dict().keys()
    assert not [name for name in names if "residual." in name or "gates" in name or "parts" in name]
    assert len(names) == 2 + 5 * 10
