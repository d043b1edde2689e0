"""Rounding in training: the record's loss and gradients, alive under the compiler, at the right step."""

import json

import numpy as np
import pytest
import torch
from golden_data import GOLDEN, ids
from golden_run import Record, golden_data, golden_module, trainer
from lively import lively
from torch._dynamo.testing import CompileCounter

from plgolf import GPT, GPTConfig
from plgolf.container import Container
from plgolf.errors import UserError
from plgolf.model.linear import CastLinear
from plgolf.optim import Warmdown
from plgolf.quantize.codec import Raw
from plgolf.quantize.gptq import Gptq
from plgolf.quantize.plan import CodecConfig
from plgolf.quantize.rows import Rows
from plgolf.reference.records import config_from_record, weights_from_record, weights_to_record
from plgolf.training import ArtifactExport
from plgolf.training.late_qat import LateQat, RoundedLinear, install, remove

MARCH = "2026-03-22"
FOLDER = GOLDEN / "records" / MARCH
INT6 = Rows(bits=6, quantiles=[1.0])
RAW = CodecConfig(raw=Raw())


def arrays(name):
    with np.load(FOLDER / f"{name}.npz") as file:
        return dict(file)


def every(gpt, rows):
    return dict.fromkeys(dict(gpt.named_parameters()), rows)


def container(rows):
    coded = CodecConfig(rows=rows)
    return Container(
        {"mlp": coded, "attention": CodecConfig(gptq=Gptq(rows=rows)), "embedding": RAW, "scalar": RAW}
    )


def test_loss_and_gradients_are_the_records():
    config = config_from_record(json.loads((FOLDER / "meta.json").read_text())["config"], MARCH)
    gpt = GPT(config)
    gpt.load_state_dict(weights_from_record(arrays("weights"), MARCH, config))
    example, expected = arrays("forward_backward"), arrays("qat_backward")
    x, y = ids(example["x"]), ids(example["y"])
    active = install(gpt, every(gpt, Rows(bits=6, quantiles=[1.0], floor=1.0, scale="float32")))
    assert gpt(x, y).item() == pytest.approx(example["loss"].item(), rel=1e-6)
    active.fill_(1.0)
    loss = gpt(x, y)
    loss.backward()
    assert loss.item() == pytest.approx(expected["loss"].item(), rel=1e-6)
    assert abs(loss.item() - example["loss"].item()) > 1e-3
    found = weights_to_record({n: p.grad for n, p in gpt.named_parameters()}, MARCH, config)
    names = [name.removeprefix("grad/") for name in expected if name.startswith("grad/")]
    assert len(names) == 4
    for name in names:
        theirs = expected[f"grad/{name}"]
        assert np.linalg.norm(found[name].numpy() - theirs) < 1e-5 * np.linalg.norm(theirs), name


@pytest.mark.parametrize(
    "rows", [INT6, Rows(bits=4, sigmas=[2.5], scale="float32"), Rows(bits=6, quantiles=[1.0], floor=1.0)]
)
def test_weights_are_rounded_as_the_artifact_rounds_them(rows):
    weights = torch.randn(9, 40, generator=torch.Generator().manual_seed(0))
    weights[4] = 0
    assert torch.equal(rows.rounded(weights), rows.decode(rows.encode(weights), (9, 40), torch.float32))


def test_a_compiled_model_is_switched_without_another_graph():
    gpt = lively(GPTConfig(vocab_size=64, dim=32, num_layers=2, compute_dtype="float32")).train()
    active, counter = install(gpt, every(gpt, Rows(bits=3, quantiles=[1.0]))), CompileCounter()
    compiled = torch.compile(gpt, backend=counter, fullgraph=True, dynamic=False)
    tokens = torch.arange(16)[None]
    losses, gradients = [], []
    for value in (0.0, 1.0):
        active.fill_(value)
        gpt.zero_grad()
        loss = compiled(tokens, tokens.roll(-1))
        loss.backward()
        losses.append(loss.item())
        gradients.append(gpt.blocks[0].mlp.up_proj.weight.grad.clone())
        assert losses[-1] == pytest.approx(gpt(tokens, tokens.roll(-1)).item(), rel=1e-6)
    assert counter.frame_count == 1 and abs(losses[1] - losses[0]) > 1e-3
    assert not torch.allclose(*gradients, rtol=1e-2)
    whole = gpt.eval()(tokens, tokens.roll(-1)).item()
    remove(gpt)
    assert whole == gpt(tokens, tokens.roll(-1)).item() == pytest.approx(losses[0], rel=1e-6)
    assert not any(isinstance(module, RoundedLinear) for module in gpt.modules())


def fit(folder, *callbacks):
    record, module = Record(), golden_module()
    module.schedule = Warmdown(fraction=1.0)
    trainer(folder, record, *callbacks, max_steps=6).fit(module, golden_data())
    return record, module


def test_a_run_rounds_from_the_step_at_which_learning_rates_are_small(tmp_path):
    rounding, form = LateQat(below=0.6), container(Rows(bits=3, quantiles=[1.0]))
    export = ArtifactExport(format=form, check_code=False)
    (plain, _), (rounded, module) = fit(tmp_path), fit(tmp_path, rounding, export)
    first = next(step for step, factor in enumerate(plain.factors) if factor < 0.6)
    assert 1 < first < 5 and rounding.state_dict() == {"from_step": first}
    assert rounded.losses[:first] == pytest.approx(plain.losses[:first], rel=1e-6)
    assert all(abs(a - b) > 1e-3 for a, b in zip(rounded.losses[first:], plain.losses[first:], strict=True))
    assert export.result["rounded_from_step"] == first
    assert export.result["roundtrip_val_bpb"] == pytest.approx(export.result["val_bpb"], rel=0.05)
    # Validation is of the weights as they are.
    assert type(module.gpt.blocks[0].mlp.up_proj) is CastLinear
    again = LateQat(below=0.6)
    again.load_state_dict(rounding.state_dict())
    assert again.from_step == first


def test_what_cannot_be_done_is_refused(tmp_path):
    for form, message in (
        (None, "export.format must have a codec with rows"),
        (
            container(Rows(bits=6)),
            "export.format.quantize: blocks.0.attention.q_proj.weight.rows must have one limit",
        ),
    ):
        with pytest.raises(UserError, match=message):
            fit(tmp_path, LateQat(), ArtifactExport(format=form))
    with pytest.raises(UserError, match="below must be above 0 and at most 2, got 0"):
        LateQat(below=0)
    with pytest.raises(UserError, match="from_step must be a step, got 'a'"):
        LateQat().load_state_dict({"from_step": "a"})
