"""``evaluate``: every window, every rule, whatever the batches and the ranks."""

import json
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from golden_data import GOLDEN, TOKENIZER, VOCAB_SIZE, golden_gpt
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import ranks, succeed
from torch import Tensor

from plgolf import GPT
from plgolf.data.shards import ShardReader, find_shards
from plgolf.data.stream import ValidationSplit
from plgolf.data.tokenizer import load_tokenizer
from plgolf.errors import UserError
from plgolf.evaluate import (
    ByDocument,
    Evaluator,
    Plain,
    Scored,
    Targets,
    Windows,
    evaluate,
    split_targets,
    tokens_to_learn,
)
from plgolf.reference.records import config_from_record, weights_from_record

RECORD = GOLDEN / "records" / "2026-03-22"
GOLDEN_EVAL = json.loads((RECORD / "eval.json").read_text())
GOLDEN_SCORES = GOLDEN_EVAL["sliding"]
BOS = 1


@pytest.fixture(scope="module")
def gpt():
    return golden_gpt("tied").eval()


def targets_of(seq_len: int = 96, *, batch_sequences: int = 4, rank: int = 0, world_size: int = 1) -> Targets:
    split = ValidationSplit(
        ShardReader(find_shards(RECORD, "val"), vocab_size=VOCAB_SIZE),
        seq_len=seq_len,
        batch_sequences=batch_sequences,
        rank=rank,
        world_size=world_size,
    )
    return split_targets(split, load_tokenizer(TOKENIZER))


def losses_of(gpt, targets: Targets, seq_len: int, stride: int) -> Tensor:
    """Enumerates windows one at a time, and takes from each the targets that are new; float64 (targets,)."""
    tokens = torch.from_numpy(targets.read(0, targets.num_tokens + 1).astype(np.int64))
    losses = torch.full((targets.num_tokens,), math.nan, dtype=torch.float64)
    done = 0
    for start in range(0, targets.num_tokens, stride):
        end = min(start + seq_len, targets.num_tokens)
        with torch.no_grad():
            found = gpt(tokens[None, start:end])[0].double().log_softmax(1)
        losses[done:end] = -found.gather(1, tokens[start + 1 : end + 1, None])[done - start :, 0]
        done = end
        if end == targets.num_tokens:
            return losses
    raise AssertionError("some target was never scored")


class Seen:
    """Keeps everything that is scored."""

    def __init__(self) -> None:
        self.first: list[int] = []
        self.nats: list[Tensor] = []
        self.num_bytes: list[np.ndarray] = []

    def __call__(self, scored, num_bytes):
        self.first.append(scored.first)
        self.nats.append(scored.nats)
        self.num_bytes.append(num_bytes)


@pytest.mark.parametrize(
    "golden", GOLDEN_SCORES, ids=lambda golden: f"{golden['seq_len']}-{golden['stride']}"
)
def test_sliding_windows_score_each_token_once_as_the_golden_counts_say(golden, gpt):
    seq_len, stride, once = golden["seq_len"], golden["stride"], golden["each_token_once"]
    windows, targets, seen = Windows(seq_len, stride), targets_of(), Seen()
    score = evaluate(windows, gpt, targets, [seen])
    assert windows.computed_tokens(targets) == once["windows"] * seq_len
    assert (score.num_tokens, score.num_bytes) == (once["tokens"], once["bytes"])
    expected = losses_of(gpt, targets, seq_len, stride)
    torch.testing.assert_close(torch.cat(seen.nats).double(), expected, rtol=1e-4, atol=1e-5)
    assert score.loss == pytest.approx(expected.mean().item(), rel=1e-6)
    assert score.bpb == pytest.approx(expected.sum().item() / math.log(2) / once["bytes"], rel=1e-6)


@pytest.fixture(scope="module")
def record():
    """The model that computed ``eval.json``."""
    settings = json.loads((RECORD / "meta.json").read_text())["config"]
    config = config_from_record(settings, "2026-03-22")
    gpt = GPT(config)
    with np.load(RECORD / "weights.npz") as weights:
        gpt.load_state_dict(weights_from_record(dict(weights), "2026-03-22", config))
    return gpt.eval()


@pytest.mark.parametrize("golden", GOLDEN_SCORES, ids=lambda g: f"{g['seq_len']}-{g['stride']}")
def test_sliding_windows_have_the_losses_of_the_record(golden, record):
    score = evaluate(Windows(golden["seq_len"], golden["stride"]), record, targets_of())
    once = golden["each_token_once"]
    assert score.loss == pytest.approx(once["val_loss"], rel=1e-6)
    assert score.bpb == pytest.approx(once["val_bpb"], rel=1e-6)


@pytest.mark.parametrize("golden", GOLDEN_EVAL["plain"], ids=lambda g: str(g["seq_len"]))
def test_windows_side_by_side_have_the_losses_of_the_record(golden, record):
    score = evaluate(Windows(golden["seq_len"]), record, targets_of())
    assert score.num_tokens == golden["tokens"]
    assert score.loss == pytest.approx(golden["val_loss"], rel=1e-6)
    assert score.bpb == pytest.approx(golden["val_bpb"], rel=1e-6)


@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_no_batch_and_no_rank_changes_a_score(gpt, data):
    seq_len = data.draw(st.integers(24, 130))
    stride = data.draw(st.integers(20, seq_len))
    one = Seen()
    whole = evaluate(Windows(seq_len, stride), gpt, targets_of(), [one])
    world_size, batch_sequences = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 7))
    parts, scores = Seen(), []
    for rank in range(world_size):
        mine = targets_of(batch_sequences=batch_sequences, rank=rank, world_size=world_size)
        scores.append(evaluate(Windows(seq_len, stride), gpt, mine, [parts]))
    torch.testing.assert_close(torch.cat(parts.nats), torch.cat(one.nats), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(np.concatenate(parts.num_bytes), np.concatenate(one.num_bytes))
    assert sum(score.num_tokens for score in scores) == whole.num_tokens == 1920
    assert sum(score.num_bytes for score in scores) == whole.num_bytes == 3008
    assert sum(score.nats for score in scores) == pytest.approx(whole.nats, rel=1e-6)


def test_windows_side_by_side_are_the_batches_of_validation(gpt):
    split = ValidationSplit(
        ShardReader(find_shards(RECORD, "val"), vocab_size=VOCAB_SIZE), seq_len=64, batch_sequences=7
    )
    targets, plain, windows = split_targets(split, load_tokenizer(TOKENIZER)), Seen(), Seen()
    batches = [split.batch(index) for index in range(len(split))]
    scores = [evaluate(Plain(batches), gpt, targets, [plain]), evaluate(Windows(), gpt, targets, [windows])]
    assert scores[0] == scores[1]  # To the last digit.
    assert plain.first == windows.first == [batch.first for batch in batches]
    assert all(map(torch.equal, plain.nats, windows.nats))


def test_all_windows_have_one_shape(gpt):
    shapes = set()
    hook = gpt.register_forward_hook(lambda _, args, out: shapes.add(tuple(args[0].shape)))
    evaluate(Windows(stride=40), gpt, targets_of())
    assert shapes == {(4, 96)}  # That of validation: nothing is compiled again.
    shapes.clear()
    evaluate(Windows(192, 40), gpt, targets_of())
    assert shapes == {(2, 192)}
    hook.remove()


def test_bytes_of_the_text_before_tokenization_are_counted_too(gpt):
    targets, raw = targets_of(), np.arange(2000, dtype=np.uint16)
    targets = replace(targets, read_raw_bytes=lambda start, count: raw[start : start + count])
    for evaluator in (Windows(), Windows(stride=40)):
        score = evaluate(evaluator, gpt, targets)
        assert score.num_raw_bytes == sum(range(1, 1921))
        assert score.bpb_raw == pytest.approx(score.nats / math.log(2) / score.num_raw_bytes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((0,), "seq_len must be at least 1, got 0"),
        ((96, 0), "stride must be at least 1, got 0"),
        ((96, 97), "stride must be at most the 96 tokens of a window, got 97"),
        ((96, 1.5), "stride must be a whole number, got 1.5"),
    ],
)
def test_bad_lengths_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Windows(*settings)


def test_a_stride_longer_than_the_training_sequence_is_refused(gpt):
    with pytest.raises(UserError, match="stride must be at most the 96 tokens of a window, got 97"):
        evaluate(Windows(stride=97), gpt, targets_of())


@pytest.mark.parametrize(
    ("evaluator", "name", "kind"),
    [
        (Windows(), "plain", "plain"),
        (Windows(stride=64), "stride_64", "windowed"),
        (Windows(2048), "length_2048", "plain"),
        (Windows(2048, 64), "length_2048_stride_64", "windowed"),
        (Windows(64, 64), "length_64_stride_64", "plain"),
    ],
)
def test_names_and_classes_of_windows(evaluator, name, kind):
    assert (evaluator.name, evaluator.kind) == (name, kind)


@dataclass(frozen=True)
class Parts(Evaluator):
    """Yields what it is told to: pairs of the first and the end of a range."""

    ranges: tuple[tuple[int, int], ...]
    name = "parts"
    kind = "plain"
    order = ByDocument

    def __call__(self, gpt, targets):
        for first, end in self.ranges:
            yield Scored(first, torch.ones(max(end - first, 0)))


TEXT = np.full(21, 7)
TEXT[[0, 8, 15]] = BOS  # Targets 7 and 14 begin documents.


def text(**settings) -> Targets:
    defaults = {"num_tokens": 20, "first": 0, "last": 20, "seq_len": 5, "batch_sequences": 2, "bos_id": BOS}
    return Targets(read=lambda start, count: TEXT[start : start + count], **{**defaults, **settings})


@pytest.mark.parametrize(
    "ranges",
    [
        [(0, 20)],
        [(0, 3), (3, 20)],
        [(7, 14), (0, 7), (14, 20)],  # Documents in any order.
        [(14, 20), (7, 14), (0, 7)],
        [(0, 3), (7, 9), (14, 20), (3, 7), (9, 14)],  # Documents taken in turn.
    ],
)
def test_documents_may_come_in_any_order_each_from_its_start(ranges, gpt):
    score = evaluate(Parts(tuple(ranges)), gpt, text())
    assert (score.nats, score.num_tokens) == (20.0, 20)


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ([(0, 20), (5, 6)], "once, got 5 to 5 again"),
        ([(0, 8), (7, 20)], "once, got 7 to 19 again"),
        ([(4, 8), (2, 5)], "once, got 2 to 4 again"),
        ([(0, 3), (4, 7), (3, 4), (7, 20)], "in order, got 3 to 3 after 4"),
        ([(10, 20), (0, 10)], "in order, got 0 to 9 after 10"),
        ([(0, 21)], "must be 0 to 19, got 0 to 20"),
        ([(-1, 20)], "must be 0 to 19, got -1 to 19"),
        ([(0, 0), (0, 20)], "must be 0 to 19, got 0 to -1"),
        ([(0, 19)], "parts must score all targets from 0 to 19"),
        ([(0, 7), (8, 20)], "parts must score all targets from 0 to 19"),
        ([], "parts must score all targets from 0 to 19"),
    ],
)
def test_targets_scored_again_out_of_order_or_not_at_all_are_refused(ranges, message, gpt):
    with pytest.raises(UserError, match=message):
        evaluate(Parts(tuple(ranges)), gpt, text())


def test_out_of_order_within_one_document_is_refused_where_documents_are_unknown(gpt):
    with pytest.raises(UserError, match="in order"):
        evaluate(Parts(((7, 20), (0, 7))), gpt, text(bos_id=None))


class InOneGo(Parts):
    order = Evaluator.order


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ([(0, 3), (2, 20)], "once and in order, got 2 to 19 where 3 is next"),
        ([(0, 3), (4, 20)], "once and in order, got 4 to 19 where 3 is next"),
        ([(7, 20), (0, 7)], "once and in order, got 7 to 19 where 0 is next"),
        ([(0, 20), (20, 21)], "once and in order, got 20 to 20 where 20 is next"),
        ([(0, 19)], "parts must score all targets from 0 to 19"),
    ],
)
def test_any_other_order_is_refused_unless_an_evaluator_asks_for_documents(ranges, message, gpt):
    with pytest.raises(UserError, match=message):
        evaluate(InOneGo(tuple(ranges)), gpt, text())


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 8)), max_size=12))
def test_what_is_scored_is_a_set(parts):
    targets = text(num_tokens=40, last=40)
    targets.read = lambda start, count: np.full(count, BOS)  # A document starts at each token.
    order, members = ByDocument(targets), set()
    for first, size in parts:
        new = set(range(first, first + size))
        assert order.contains(first, first + size) == (new <= members)
        if new & members:
            with pytest.raises(UserError, match=f"once, got {first} to {first + size - 1} again"):
                order.mark(first, first + size)
        else:
            order.mark(first, first + size)
            members |= new
    assert [order.contains(index, index + 1) for index in range(40)] == [i in members for i in range(40)]
    assert order.is_complete() == (members == set(range(40)))


@dataclass(frozen=True)
class Learning(Evaluator):
    """Trains on each sequence by SGD, after it is scored or, with a lead, before."""

    lead: int = 0
    name = "learning"
    kind = "adapted"
    order = ByDocument

    def __call__(self, gpt, targets):
        size = targets.seq_len
        optimizer = torch.optim.SGD(gpt.parameters(), lr=0.05)
        for first in range(targets.first, targets.last, size):
            tokens = torch.from_numpy(targets.read(first, size + 1).astype(np.int64))[None]
            yield Scored(first, gpt(tokens[:, :-1], tokens[:, 1:], reduction="none")[0])
            if first + size + self.lead > targets.last:
                return
            known = tokens_to_learn(targets, first + self.lead, first + size + self.lead)
            known = torch.from_numpy(known.astype(np.int64))[None]
            with torch.enable_grad():
                gpt(known[:, :-1], known[:, 1:]).backward()
            optimizer.step()
            optimizer.zero_grad()


def test_an_evaluator_may_learn_from_what_it_has_scored_and_gains_by_it():
    targets = replace(targets_of(), num_tokens=480, last=480)
    plain = evaluate(Windows(), golden_gpt("tied"), targets)
    adapted = evaluate(Learning(), golden_gpt("tied"), targets)
    assert adapted.num_tokens == plain.num_tokens == 480
    assert adapted.loss < plain.loss - 0.05


@pytest.mark.parametrize("lead", [1, 96])
def test_learning_from_targets_that_are_not_scored_yet_is_refused(lead):
    with pytest.raises(UserError, match=f"scored before they are learned, got {lead} to {95 + lead}"):
        evaluate(Learning(lead), golden_gpt("tied"), targets_of())


def test_the_model_is_in_its_mode_and_without_gradients_afterwards(gpt):
    gpt.train()
    evaluate(Windows(), gpt, targets_of())
    assert gpt.training
    gpt.eval()
    assert all(parameter.grad is None for parameter in gpt.parameters())


def score_together(folder):
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    gpt = golden_gpt("tied")
    scores = [
        evaluate(evaluator, gpt, targets_of(rank=rank, world_size=2))
        for evaluator in (Windows(), Windows(stride=40))
    ]
    (folder / f"{rank}.json").write_text(json.dumps([score.nats for score in scores]))


@pytest.mark.slow
def test_ranks_have_the_same_score_as_one(gpt, tmp_path):
    succeed(ranks(score_together, 2, tmp_path, folder=tmp_path))
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert found[0] == found[1]
    alone = [evaluate(evaluator, gpt, targets_of()).nats for evaluator in (Windows(), Windows(stride=40))]
    assert found[0] == pytest.approx(alone, rel=1e-7)
