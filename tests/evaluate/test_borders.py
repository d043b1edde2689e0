"""Evaluation where attention stops at documents: document by document, and as the record of April scores."""

from dataclasses import replace
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pytest
import torch
from golden_data import VOCAB_SIZE, golden_gpt
from golden_records import APRIL, april, content, score_of_april
from golden_run import golden_data, golden_module, trainer

from plgolf.data.borders import NUM_BORDERS, Borders
from plgolf.data.stream import Batch
from plgolf.data.streams import StreamConfig
from plgolf.errors import UserError
from plgolf.evaluate import Scored, Targets, Windows, evaluate

BOS, LENGTH = 1, 32
LENGTHS = [5, 1, 90, 33, 2, 61]


@pytest.fixture(scope="module")
def gpt():
    return golden_gpt("tied").eval()


def text(**settings) -> Targets:
    """Documents of several lengths, of which targets are split into sequences."""
    tokens = np.random.default_rng(0).integers(2, VOCAB_SIZE, sum(LENGTHS) + 1).astype(np.uint16)
    tokens[np.cumsum([0, *LENGTHS])] = BOS
    targets = Targets(
        lambda start, count: tokens[start : start + count], 192, 0, 192, LENGTH, 4, borders=Borders(BOS)
    )
    return replace(targets, **settings)


def losses_of(evaluator, gpt, targets) -> np.ndarray:
    seen: list[Scored] = []
    evaluate(evaluator, gpt, targets, [lambda scored, _: seen.append(scored)])
    return torch.cat([scored.nats for scored in seen]).numpy()


def document_by_document(gpt, targets, seq_len: int, stride: int, most: int) -> np.ndarray:
    """Takes each window apart into its documents, which the model sees alone."""
    found, done = np.full(targets.num_tokens, np.nan), 0
    for start in range(0, targets.num_tokens, stride):
        end = min(start + seq_len, targets.num_tokens)
        tokens = torch.from_numpy(targets.read(start, end - start + 1).astype(np.int64))
        edges = sorted({0, *np.flatnonzero(tokens[:-1].numpy() == BOS).tolist(), end - start})
        pieces = [piece for edge in pairwise(edges) for piece in range(*edge, most)]
        for first, last in pairwise([*pieces, end - start]):
            with torch.no_grad():
                alone = gpt(tokens[None, first:last], tokens[None, first + 1 : last + 1], reduction="none")
            fresh = max(done - start - first, 0)
            found[start + first + fresh : start + last] = alone[0, fresh:]
        done = end
        if end == targets.num_tokens:
            break
    return found


@pytest.mark.parametrize(("stride", "most"), [(None, None), (12, None), (None, 7), (20, 9)])
def test_windows_score_each_document_as_if_it_were_alone(stride, most, gpt):
    targets = text(borders=Borders(BOS, most))
    expected = document_by_document(gpt, targets, LENGTH, stride or LENGTH, most or LENGTH)
    found = losses_of(Windows(stride=stride), gpt, targets)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    across = losses_of(Windows(stride=stride), gpt, text(borders=None))
    assert np.abs(across - expected).max() > 0.1


def test_no_batch_and_no_rank_changes_the_losses_of_documents(gpt):
    whole = losses_of(Windows(), gpt, text())
    parts = [
        losses_of(Windows(), gpt, text(first=a, last=b, batch_sequences=1)) for a, b in ((0, 64), (64, 192))
    ]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", content("eval_plain.json", APRIL))
def test_plain_evaluation_has_the_scores_of_the_record_of_april(name):
    """A row of the record is a sequence here, so that the end of the split is left out as it is there."""
    expected = content("eval_plain.json", APRIL)[name]
    sequences = {"rows_of_4": 4, "rows_of_1": 1, "one_row": 13}
    [count] = [number for key, number in sequences.items() if key in name]
    score = score_of_april(april().at(float("loop_on" in name)), sequences=count)
    assert score.num_tokens == expected["sequences_scored"] * 24
    assert score.loss == pytest.approx(expected["val_loss"], rel=1e-6)
    assert score.bpb_raw == pytest.approx(expected["val_bpb"], rel=1e-6)


def test_validation_and_windows_of_a_run_stop_at_documents_as_its_training_does(tmp_path):
    losses = {}
    for kind in ("spans", "packed"):
        most = 16 if kind == "packed" else None
        module = golden_module()
        fit = trainer(tmp_path, limit_val_batches=2)
        data = golden_data(stream=StreamConfig(kind=kind, max_document_tokens=most), val_batch_sequences=3)
        fit.validate(module, data, verbose=False)
        targets = module.targets(fit.num_val_batches)
        losses[kind] = module.run.val_score.loss
        assert evaluate(Windows(), module.gpt, targets).loss == losses[kind]
    assert losses["packed"] != losses["spans"]


class Noted(Borders):
    """Keeps the borders of every batch."""

    seen: ClassVar[list[list[int]]] = []

    def mark(self, batch, number=NUM_BORDERS):
        marked = super().mark(batch, number)
        self.seen.append(marked.cu_seqlens.tolist())
        return marked


def test_padding_has_no_documents_where_id_0_begins_one(gpt):
    """Else a padded batch would have a border for each token of its padding, and need a graph of its own."""
    tokens, rows = np.full(401, 5, dtype=np.uint16), torch.zeros(4, 160, dtype=torch.uint16)
    targets = text(bos_id=0, borders=Noted(0), num_tokens=400, last=400, seq_len=160)
    evaluate(Windows(), gpt, replace(targets, read=lambda start, count: tokens[start : start + count]))
    rows[:3] = 5
    Noted(0).mark(Batch(rows, rows, 3))
    assert Noted.seen == [[0, 160, 320, 480, *[640] * 60]] * 2


class Understated(Borders):
    """Gives batches a longest document of one token."""

    def mark(self, batch, number=NUM_BORDERS):
        return super().mark(batch, number)._replace(max_document_tokens=1)


def test_the_longest_document_of_a_batch_reaches_the_model(gpt):
    with pytest.raises(UserError, match="max_document_tokens must be at least 5, got 1"):
        evaluate(Windows(), gpt, text(borders=Understated(BOS)))
