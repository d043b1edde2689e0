"""A whole model of the record 2026-03-22: what its program stored, and the loss of what it restored."""

import io

import pytest
import torch
import zstandard
from golden_data import TOKENIZER, ids
from golden_records import MARCH, RECORDS, content, golden, shards

from plgolf import GPT
from plgolf.artifact import load_gpt, read_artifact, save_artifact
from plgolf.container import Container
from plgolf.data.stream import ValidationSplit
from plgolf.data.tokenizer import load_tokenizer
from plgolf.evaluate import Windows, evaluate, split_targets
from plgolf.quantize.codec import Raw
from plgolf.quantize.plan import CodecConfig
from plgolf.quantize.rows import Rows
from plgolf.reference.records import config_from_record, weights_from_record, weights_to_record

CONTENT = content("quant.json")
FLOAT16 = CodecConfig(raw=Raw(dtype="float16"))
RULES = {
    # The program keeps matrices of at most 65,536 values.
    "matrix": FLOAT16,
    "embedding": FLOAT16,
    "scalar": FLOAT16,
    "mlp": CodecConfig(rows=Rows(bits=6, best_for="matrix", floor=1.0)),
}


def test_a_model_is_stored_and_restored_as_by_the_record(tmp_path):
    config = config_from_record(CONTENT["config"], MARCH)
    gpt = GPT(config)
    gpt.load_state_dict(weights_from_record(golden("quant_model_weights"), MARCH, config))
    save_artifact(gpt, tmp_path / "model.plgolf", format=Container(RULES, "zlib"))
    found, restored = read_artifact(tmp_path / "model.plgolf").stored, load_gpt(tmp_path / "model.plgolf")
    data = zstandard.decompress((RECORDS / MARCH / "quant_model.int6.ptz").read_bytes())
    expected = torch.load(io.BytesIO(data), weights_only=True)["w"]
    # Names come back by way of a tensor of each: the codes of a matrix, or its values.
    payloads = weights_to_record({name: each.payload[0] for name, each in found.items()}, MARCH, config)
    scales = weights_to_record({name: each.payload[-1] for name, each in found.items()}, MARCH, config)
    assert sum(name.endswith(".q") for name in expected) == 4
    for name, codes in payloads.items():
        whole = name in expected
        assert torch.equal(codes, expected[name if whole else f"{name}.q"]), name
        assert whole or torch.equal(scales[name], expected[f"{name}.scale"]), name
    theirs = weights_to_record(restored.state_dict(), MARCH, config)
    for name, norm in CONTENT["model"]["dequantized_norms"].items():
        assert float(theirs[name].double().norm()) == pytest.approx(norm, rel=1e-6), name
    example = golden("forward_backward")
    # The program cuts the split to whole sequences of its longer evaluation.
    split = ValidationSplit(shards("val"), seq_len=content("meta.json")["eval_seq_len"], batch_sequences=8)
    targets = split_targets(split, load_tokenizer(TOKENIZER))
    for model, when in ((gpt, "before"), (restored, "after")):
        with torch.no_grad():
            loss = model(ids(example["x"]), ids(example["y"]))
        assert loss.item() == pytest.approx(CONTENT["model"][f"loss_{when}"], rel=1e-6)
        score, expected_score = evaluate(Windows(64), model, targets), CONTENT["model"][f"val_{when}"]
        assert score.loss == pytest.approx(expected_score["val_loss"], rel=1e-6)
        assert score.bpb == pytest.approx(expected_score["val_bpb"], rel=1e-6)
