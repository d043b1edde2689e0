import json
import math
import pickle

import pytest
import torch
import torch.distributed as dist
from golden_data import GOLDEN, MODELS, TOKENIZER, VOCAB_SIZE, golden_gpt, meta
from hypothesis import given
from hypothesis import strategies as st
from processes import ranks, succeed
from torchmetrics.utilities.distributed import gather_all_tensors

from plgolf import BitsPerByte, reference
from plgolf.artifact import load_gpt
from plgolf.data.shards import ShardReader, find_shards
from plgolf.data.stream import ValidationSplit
from plgolf.data.tokenizer import load_tokenizer
from plgolf.evaluate import bits_per_byte


def score(gpt, name):
    """Validates batch by batch, and counts the bytes with numpy."""
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
def test_the_golden_weights_have_the_references_score(name):
    metric, expected = score(golden_gpt(name), name), meta(name)["eval"]
    assert metric.loss().item() == pytest.approx(expected["val_loss"], rel=1e-5)
    assert metric.compute().item() == pytest.approx(expected["val_bpb"], rel=1e-5)
    assert metric.totals()[1] == expected["tokens"]


@MODELS
def test_the_references_trained_artifact_has_its_score(name):
    config = reference.gpt_config_from_reference(meta(name)["config"], compute_dtype="float32")
    metric = score(load_gpt(GOLDEN / name / "trained.int8.ptz", config=config), name)
    expected = meta(name)["roundtrip"]
    assert metric.loss().item() == pytest.approx(expected["val_loss"], rel=1e-5)
    assert metric.compute().item() == pytest.approx(expected["val_bpb"], rel=1e-5)


@given(st.lists(st.tuples(st.floats(0, 1e4), st.integers(1, 99), st.integers(1, 999)), min_size=1))
def test_the_metric_is_one_division_of_sums_for_any_batches(rows):
    metric = BitsPerByte()
    for nats, tokens, num_bytes in rows:
        metric.update(torch.tensor(nats, dtype=torch.float64), tokens, num_bytes)
    nats, tokens, num_bytes = (math.fsum(column) for column in zip(*rows, strict=True))
    assert metric.compute().item() == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-12)
    assert metric.loss().item() == pytest.approx(nats / tokens, rel=1e-12)
    assert bits_per_byte(torch.tensor(nats), torch.tensor(num_bytes)).dtype is torch.float64


@pytest.mark.parametrize(
    "cast",
    [
        lambda module: module.to(torch.bfloat16),
        lambda module: module.to("cpu", torch.float16),
        torch.nn.Module.half,
        torch.nn.Module.float,
        lambda module: pickle.loads(pickle.dumps(module)),
    ],
)
def test_casts_and_copies_of_the_module_keep_the_sums_exact(cast):
    module = torch.nn.ModuleDict({"bpb": BitsPerByte()})
    module["bpb"].update(torch.tensor(1 + 2**-40, dtype=torch.float64), 1, 1)
    metric = cast(module)["bpb"]
    metric.update(torch.tensor(2**-41, dtype=torch.float64), 0, 0)
    assert metric.loss().item() == 1 + 2**-40 + 2**-41
    metric.reset()
    assert metric.sums.dtype is torch.float64 and not metric.sums.any()
    assert not module.state_dict()


def test_calling_the_metric_scores_a_batch_and_adds_it():
    metric = BitsPerByte()
    for nats in (1.0, 3.0):
        assert metric(torch.tensor(nats), 1, 8).item() == pytest.approx(nats / math.log(2) / 8)
    assert metric.totals().tolist() == [4.0, 2.0, 16.0, 0.0]


def sum_up(folder):
    """Adds up on this rank, and records the collectives that this takes."""
    dist.init_process_group("gloo")
    called, rank = [], dist.get_rank()

    def recording(name):
        collective = getattr(dist, name)

        def recorded(*args, **kwargs):
            called.append(name)
            return collective(*args, **kwargs)

        return recorded

    for name in ("all_reduce", "all_gather", "all_gather_into_tensor", "barrier", "broadcast"):
        setattr(dist, name, recording(name))
    metric = BitsPerByte()
    metric.update(torch.tensor([1.0, rank]), 2 + rank, 10 * (rank + 1), rank)
    found = [metric.totals().tolist(), list(called), metric.compute().item(), metric.sums.tolist()]
    gathered = BitsPerByte(dist_sync_fn=gather_all_tensors)  # As torchmetrics does by default.
    gathered.update(torch.tensor([1.0, rank]), 2 + rank, 10 * (rank + 1), rank)
    assert gathered.totals().tolist() == found[0] and gathered.compute().item() == found[2]
    (folder / f"{rank}.json").write_text(json.dumps(found))


@pytest.mark.slow
def test_ranks_add_up_in_one_collective_and_keep_their_own_sums(tmp_path):
    succeed(ranks(sum_up, 2, tmp_path, folder=tmp_path))
    for rank in range(2):
        totals, called, bpb, own = json.loads((tmp_path / f"{rank}.json").read_text())
        assert totals == [3.0, 5.0, 30.0, 1.0] and called == ["all_reduce"]
        assert bpb == pytest.approx(3 / (30 * math.log(2)))
        assert own == [1.0 + rank, 2.0 + rank, 10.0 * (rank + 1), rank]


def sum_up_in_a_group(folder):
    dist.init_process_group("gloo")
    group, rank = dist.new_group([0, 1]), dist.get_rank()
    if rank < 2:
        metric = BitsPerByte(process_group=group)
        metric.update(torch.tensor([1.0]), 1, 1)
        (folder / f"{rank}.json").write_text(json.dumps(metric.totals().tolist()))


def test_a_process_group_adds_up_its_own_ranks_only(tmp_path):
    succeed(ranks(sum_up_in_a_group, 3, tmp_path, folder=tmp_path))
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)] == [[2, 2, 2, 0]] * 2
