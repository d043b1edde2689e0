import math

import pytest
import torch
from golden_data import GOLDEN, MODELS, TOKENIZER, VOCAB_SIZE, golden_gpt, meta
from hypothesis import given
from hypothesis import strategies as st

from plgolf import BitsPerByte, interop
from plgolf.artifact import load_gpt
from plgolf.data.shards import ShardReader, find_shards
from plgolf.data.stream import ValidationSplit
from plgolf.data.tokenizer import load_tokenizer
from plgolf.metrics import bits_per_byte


def score(gpt, name):
    """Validates by hand, batch by batch, with a plain Python count of the bytes."""
    shards = find_shards(GOLDEN / name, "val")
    split = ValidationSplit(
        ShardReader(shards, vocab_size=VOCAB_SIZE), seq_len=meta(name)["seq_len"], batch_sequences=5
    )
    count = load_tokenizer(TOKENIZER).byte_counts
    metric = BitsPerByte()
    for k in range(len(split)):
        batch = split.batch(k)
        x, y = (ids[: batch.num_sequences].long() for ids in batch[:2])
        with torch.no_grad():
            loss = gpt(x, y)
        metric.update(loss.double() * y.numel(), y.numel(), torch.from_numpy(count(x.numpy(), y.numpy())))
    return metric


@MODELS
def test_the_golden_weights_score_as_in_the_reference(name):
    metric, expected = score(golden_gpt(name), name), meta(name)["eval"]
    assert metric.loss().item() == pytest.approx(expected["val_loss"], rel=1e-5)
    assert metric.compute().item() == pytest.approx(expected["val_bpb"], rel=1e-5)
    assert metric.totals()[1] == expected["tokens"]


@MODELS
def test_the_references_trained_artifact_scores_as_in_the_reference(name):
    config = interop.gpt_config_from_reference(meta(name)["config"], compute_dtype="float32")
    metric = score(load_gpt(GOLDEN / name / "trained.int8.ptz", config=config), name)
    expected = meta(name)["roundtrip"]
    assert metric.loss().item() == pytest.approx(expected["val_loss"], rel=1e-5)
    assert metric.compute().item() == pytest.approx(expected["val_bpb"], rel=1e-5)


@given(st.lists(st.tuples(st.floats(0, 1e4), st.integers(1, 99), st.integers(1, 999)), min_size=1))
def test_metric_is_one_division_of_sums_however_batches_fall(rows):
    metric = BitsPerByte()
    for nats, tokens, num_bytes in rows:
        metric.update(torch.tensor(nats, dtype=torch.float64), tokens, num_bytes)
    nats, tokens, num_bytes = (math.fsum(column) for column in zip(*rows, strict=True))
    assert metric.compute().item() == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-12)
    assert metric.loss().item() == pytest.approx(nats / tokens, rel=1e-12)
    assert bits_per_byte(torch.tensor(nats), torch.tensor(num_bytes)).dtype is torch.float64


def test_casts_of_the_module_leave_the_sums_alone():
    metric = torch.nn.ModuleDict({"bpb": BitsPerByte()})
    metric["bpb"].update(torch.tensor(1 + 2**-40, dtype=torch.float64), 1, 1)
    metric.to(torch.bfloat16)
    assert metric["bpb"].loss().item() == 1 + 2**-40
    metric["bpb"].reset()
    assert metric["bpb"].sums.dtype is torch.float64 and not metric["bpb"].sums.any()
    assert not metric.state_dict()
