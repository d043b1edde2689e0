"""The one way to score a text: an evaluator says how, ``evaluate`` adds up and enforces the rules."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from plgolf.data.stream import Batch
from plgolf.errors import UserError
from plgolf.evaluate.metric import BitsPerByte
from plgolf.evaluate.score import Score
from plgolf.evaluate.targets import InOrder, Targets
from plgolf.model import GPT


class Scored(NamedTuple):
    """Final losses of consecutive targets from ``first`` on, in nats, float32 (targets,)."""

    first: int
    nats: Tensor


class Evaluator:
    """Computes the losses of targets; subclass it for your own way to score."""

    name: str
    """Key of its score in ``result.json``."""
    kind: str
    """``plain``: computes each token once; ``windowed``: again, as context; ``adapted``: the model learns."""
    order: type[InOrder] = InOrder
    """``InOrder``, or ``ByDocument`` to take documents in any order, and to learn from them."""

    def __call__(self, gpt: GPT, targets: Targets) -> Iterator[Scored]:
        """Yields the losses of this rank's targets, each once, in order.

        What is yielded is final. A model that learns while it is scored may then learn from these targets,
        which it gets from ``tokens_to_learn``.

        Args:
            gpt: the model, in eval mode, without gradients.
            targets: the text, and the range of targets to score.

        Raises:
            UserError: the settings do not fit the text.
        """
        raise NotImplementedError

    def computed_tokens(self, targets: Targets) -> int:
        """Returns the number of tokens that the model computes to score this rank's targets."""
        raise NotImplementedError

    def check(self, seq_len: int) -> None:
        """Raises a UserError if the settings do not fit ``seq_len`` tokens in a training sequence."""


Observer = Callable[[Scored, NDArray[Any]], None]
"""Receives all that is scored, losses and the UTF-8 bytes of their targets, int32 (targets,)."""


class Tally:
    """Adds up scored targets in float64, and checks their order.

    Args:
        targets: the text, and the range of targets that this rank scores.
        device: keeps the sum of losses.
    """

    def __init__(self, targets: Targets, device: torch.device) -> None:
        self.targets = targets
        self._metric = BitsPerByte().to(device)

    def add(self, scored: Scored) -> NDArray[Any]:
        """Adds the next targets, without waiting for the device; returns their bytes, int32 (targets,).

        Raises:
            UserError: other targets are due.
        """
        targets, first, count = self.targets, scored.first, scored.nats.numel()
        targets.scored.mark(first, first + count)
        num_bytes, raw = targets.num_bytes(first, count), targets.read_raw_bytes
        raw_bytes = raw(first + 1, count).sum() if raw else 0
        # Token by token, so that the sum does not depend on how ranks and batches cut the text.
        self._metric.update(scored.nats, count, int(num_bytes.sum()), int(raw_bytes))
        return num_bytes

    def score(self) -> Score:
        """Adds up over the ranks, in one collective that all must call together."""
        nats, *counts = self._metric.totals().tolist()
        return Score(nats, *map(int, counts))


def evaluate(
    evaluator: "Evaluator | Plain", gpt: GPT, targets: Targets, observers: Sequence[Observer] = ()
) -> Score:
    """Scores a text; all ranks must call this together, each with its own range of targets.

    The rules of https://github.com/openai/parameter-golf hold for every evaluator: each target is scored
    once, within a document in ascending order, before the model learns from it. Losses are summed in float64
    token by token and divided once, and the bytes of each target are counted with it, so that the score does
    not depend on batches and ranks.

    Args:
        evaluator: how to compute the losses.
        gpt: the model; back in its mode afterwards.
        targets: the text, and the range of targets that this rank scores.
        observers: see everything that is scored on this rank, in order.

    Returns:
        The score of the targets of all ranks.

    Raises:
        UserError: the evaluator breaks a rule, leaves a target out, or does not fit the text.
    """
    targets.scored = evaluator.order(targets)
    tally, was_training = Tally(targets, gpt.embedding.weight.device), gpt.training
    gpt.eval()
    try:
        with torch.no_grad():
            for scored in evaluator(gpt, targets):
                num_bytes = tally.add(scored)
                for observer in observers:
                    observer(scored, num_bytes)
    finally:
        gpt.train(was_training)
    score = tally.score()
    if not targets.scored.is_complete():
        raise UserError(f"{evaluator.name} must score all targets from {targets.first} to {targets.last - 1}")
    return score


class Plain:
    """Scores the batches of validation: sequences side by side, as in training.

    Args:
        batches: batches with consecutive targets, from the first one of this rank on; more than are to be
            scored are left.
    """

    name = "plain"
    order = InOrder

    def __init__(self, batches: Iterable[Batch]) -> None:
        self.batches = batches

    def __call__(self, gpt: GPT, targets: Targets) -> Iterator[Scored]:
        for batch in self.batches:
            yield score_batch(gpt, batch.to(gpt.embedding.weight.device))
            if targets.scored.is_complete():  # A limit of batches leaves out the rest.
                return


def score_batch(gpt: GPT, batch: Batch) -> Scored:
    """Scores the sequences of a batch whose targets are consecutive; the padding is not scored."""
    return Scored(batch.first, losses(gpt, batch, slice(batch.num_sequences * batch.target_ids.size(1))))


def losses(gpt: GPT, batch: Batch, places: Tensor | slice) -> Tensor:
    """Returns the losses of the targets at some places of a flattened batch, float32 (places,)."""
    borders, most = batch.cu_seqlens, batch.max_document_tokens
    nats: Tensor = gpt(batch.input_ids.long(), batch.target_ids.long(), "none", borders, most)
    return nats.flatten()[places]
