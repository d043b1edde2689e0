"""Sums over the inputs of matrices against those of the record 2026-04-27."""

import json

import numpy as np
import pytest
import torch
from golden_data import GOLDEN

from plgolf import GPT, GPTConfig
from plgolf.errors import UserError
from plgolf.model import HeadConfig
from plgolf.model.parts import PartsConfig
from plgolf.model.parts.bigram_hash import BigramHashConfig
from plgolf.quantize.calibration import Calibration, check_inputs, input_sums, written_text
from plgolf.reference.records import config_from_record, weights_from_record
from plgolf.roles import Role, parameter_roles

APRIL = "2026-04-27"
FOLDER = GOLDEN / "records" / APRIL


def arrays(name):
    with np.load(FOLDER / f"{name}.npz") as file:
        return dict(file)


def matrices(gpt):
    return [n for n, role in parameter_roles(gpt).items() if role in (Role.MATRIX, Role.EMBEDDING)]


@pytest.fixture(scope="module")
def gpt():
    config = config_from_record(json.loads((FOLDER / "meta.json").read_text())["model"], APRIL)
    made = GPT(config).eval()
    made.load_state_dict(weights_from_record(arrays("weights"), APRIL, config))
    return made


@pytest.fixture(scope="module")
def texts():
    ids = torch.from_numpy(arrays("quant_hessians")["calib_x"].astype(np.int64))
    return [(batch, None) for batch in ids]


def test_sums_are_the_records_over_all_uses_of_a_layer(gpt, texts):
    expected = arrays("quant_hessians")
    del expected["calib_x"]
    for name in [name for name in expected if ".c_q." in name]:
        expected |= {name.replace("c_q", other): expected[name] for other in ("c_k", "c_v")}
    expected = weights_from_record(expected, APRIL, gpt.config)
    sums = input_sums(gpt, matrices(gpt), texts)
    assert sums.keys() == expected.keys() and len(sums) == 43
    for name, theirs in expected.items():
        ours = sums[name] / len(texts)  # The record divides by the number of batches.
        assert (ours - theirs).norm() < 1e-6 * theirs.double().norm(), name
    assert not any(module._forward_pre_hooks for module in gpt.modules())


def test_ranks_that_share_the_batches_get_the_same_sums(gpt, texts):
    names = matrices(gpt)
    whole = input_sums(gpt, names, texts)
    first, second, third = (input_sums(gpt, names, part) for part in (texts[::2], texts[1:2], []))
    for name in names:
        shared = third[name] + second[name] + first[name]
        assert torch.equal(shared.float(), whole[name].float()) and whole[name].norm() > 0


def test_packed_rows_are_read_with_their_borders(gpt, texts):
    names, ids = matrices(gpt), texts[0][0]
    row = (ids.reshape(1, -1), torch.arange(0, ids.numel() + 1, ids.size(1), dtype=torch.int32))
    packed, whole = (input_sums(gpt, names, [text]) for text in (row, (row[0], None)))
    assert all(torch.isfinite(packed[name]).all() for name in names)
    at = "blocks.0.attention.out_proj.weight"
    assert (packed[at] - whole[at]).norm() > 0.01 * whole[at].norm()


def test_products_are_whole_float32_where_a_run_allows_less(gpt, texts):
    torch.set_float32_matmul_precision("high")
    seen = []
    hook = gpt.head.register_forward_hook(lambda *_: seen.append(torch.get_float32_matmul_precision()))
    try:
        input_sums(gpt, ["embedding.weight"], texts[:1])
        assert (seen, torch.get_float32_matmul_precision()) == (["highest"], "high")
    finally:
        hook.remove()
        torch.set_float32_matmul_precision("highest")


def test_a_tensor_that_is_looked_up_or_multiplied_otherwise_is_refused():
    parts = PartsConfig(bigram_hash=BigramHashConfig(buckets=8, dim=8))
    made = GPT(GPTConfig(vocab_size=16, dim=32, num_layers=1, head=HeadConfig(tied=False), parts=parts))
    check_inputs(made, ["head.proj.weight", "input_parts.bigram_hash.proj.weight"])
    tables = ["embedding.weight", "input_parts.bigram_hash.embedding.weight", "blocks.0.attention.qk_gain"]
    for name in tables:
        with pytest.raises(UserError, match=f"a codec without calibration for {name}, which has no inputs"):
            check_inputs(made, [name])


def test_a_model_writes_the_same_text_again_and_it_is_likely(gpt):
    ids, segments = written_text(gpt, 3, sequences=4, length=12)
    again, other = (written_text(gpt, index, sequences=4, length=12)[0] for index in (3, 4))
    assert segments is None and ids.shape == (4, 12)
    assert torch.equal(again, ids) and not torch.equal(other, ids)
    with torch.no_grad():
        written, random = (gpt(x[:, :-1], x[:, 1:]) for x in (ids, torch.randint(160, (4, 12))))
    assert written < random - 0.5


def test_validation_text_is_refused():
    with pytest.raises(UserError, match="text must be training or model, got 'validation'"):
        Calibration(text="validation")
    with pytest.raises(UserError, match="batches must be at least 1, got 0"):
        Calibration(batches=0)
