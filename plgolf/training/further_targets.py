"""Callbacks that give each position further targets during training: later tokens, or shorter ones."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from plgolf.data.stream import Batch
from plgolf.data.tokenizer.base import Tokenizer
from plgolf.errors import UserError
from plgolf.model.further import Further
from plgolf.model.token_ids import IGNORED
from plgolf.training.module import GolfModule


class FurtherTargets(Callback, ABC):
    """Adds the losses of further targets to the training loss, with weights that follow the run.

    The logits are those of the next token: neither parameters nor products are added. Validation and exports
    score the next token alone, while ``train/loss`` has the sum. Several such callbacks add up.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        if _fraction(pl_module) is None:
            limits = "clock.max_seconds or trainer.max_steps"
            raise UserError(
                f"trainer.callbacks must not have {type(self).__name__} in a run without {limits}"
            )
        if type(pl_module).micro_batch_loss is not GolfModule.micro_batch_loss:
            other = "a module with a micro_batch_loss of its own"
            raise UserError(f"trainer.callbacks must not have {type(self).__name__} with {other}")

        pl_module.run.further = partial(self._added, pl_module, pl_module.run.further)

    def _added(self, module: Any, others: Callable[[Batch], Further | None], batch: Batch) -> Further:
        """Adds the further targets of a micro-batch to those of other callbacks."""
        targets = self.further_targets(batch)
        weights = torch.tensor(self.weights(_fraction(module) or 0.0)).to(targets.device, non_blocking=True)
        before = others(batch)
        if before is None:
            return Further(targets, weights)
        return Further(torch.cat((before.target_ids, targets)), torch.cat((before.weights, weights)))

    @abstractmethod
    def weights(self, fraction: float) -> list[float]:
        """Returns the weight of each kind of target, at a fraction of the run from 0 to 1."""

    @abstractmethod
    def further_targets(self, batch: Batch) -> Tensor:
        """Returns further targets, int64 (kinds, sequences, seq_len); -100 where there is none."""


class LaterTokens(FurtherTargets):
    """Predicts tokens after the next one with the same logits (parameter-free multi-token prediction).

    Weights end one after the other, the farthest first: each has an equal share of the time, in which it
    falls to 0 linearly (https://github.com/KellerJordan/modded-nanogpt). In packed rows a later token of
    another document is left out.

    Args:
        later: initial weight of each later token: of the second next, of the third next and so on.
        ends: fraction of the run at which the last weight is 0.

    Raises:
        UserError: a weight or the fraction is out of range.
    """

    def __init__(self, later: list[float] = [0.5, 0.25], ends: float = 2 / 3) -> None:  # noqa: B006 (not changed)
        if not later or not all(0 < weight < math.inf for weight in later):
            raise UserError(f"later must be finite and positive weights, got {later}")
        if not 0 < ends <= 1:
            raise UserError(f"ends must be above 0 and at most 1, got {ends}")
        self.later, self.ends = later, ends

    def weights(self, fraction: float) -> list[float]:
        share = fraction / self.ends * len(self.later)
        starts = reversed(range(len(self.later)))
        return [weight * _falling(share - start) for weight, start in zip(self.later, starts, strict=True)]

    def further_targets(self, batch: Batch) -> Tensor:
        ids = batch.target_ids.long()
        later = torch.full((len(self.later), *ids.shape), IGNORED, device=ids.device)
        document = None
        if batch.cu_seqlens is not None:
            position = torch.arange(ids.numel(), device=ids.device).view_as(ids)
            document = torch.bucketize(position, batch.cu_seqlens, right=True)
        for row, distance in zip(later, range(1, ids.size(1)), strict=False):
            row[:, :-distance] = ids[:, distance:]
            if document is not None:
                row[:, :-distance][document[:, distance:] != document[:, :-distance]] = IGNORED
        return later


class PrefixToken(FurtherTargets):
    """Predicts the longest token whose bytes begin the next token, besides the next token itself.

    Its source is https://github.com/KellerJordan/modded-nanogpt. A next token of one byte has none. Of tokens
    with the same bytes the one with the largest id is taken.

    Args:
        weight: initial weight.
        falls: fraction of the run from which the weight falls to 0 linearly.
        ends: fraction of the run at which it is 0.

    Raises:
        UserError: the weight is not positive, or the fractions are not in order.
    """

    def __init__(self, weight: float = 0.25, falls: float = 1 / 3, ends: float = 2 / 3) -> None:
        if not 0 < weight < math.inf:
            raise UserError(f"weight must be finite and positive, got {weight}")
        if not 0 <= falls < ends <= 1:
            raise UserError(f"falls must be from 0 to below ends ({ends}), which is at most 1, got {falls}")
        self.weight, self.falls, self.ends = weight, falls, ends
        self.prefixes = torch.empty(0, dtype=torch.long)
        """The token that begins each token, (vocab,); -100 where there is none."""

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        super().on_fit_start(trainer, pl_module)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self.prefixes = prefix_tokens(data.tokenizer, data.vocab_size).to(pl_module.device)

    def weights(self, fraction: float) -> list[float]:
        return [self.weight * _falling((fraction - self.falls) / (self.ends - self.falls))]

    def further_targets(self, batch: Batch) -> Tensor:
        return self.prefixes[batch.target_ids.long()].unsqueeze(0)


def prefix_tokens(tokenizer: Tokenizer, vocab_size: int) -> Tensor:
    """Returns the longest token whose bytes begin those of each token, int64 (vocab_size,); -100 for none."""
    pieces = _pieces(tokenizer, vocab_size)
    ids = {piece: index for index, piece in enumerate(pieces) if piece}
    found = (
        next((ids[piece[:end]] for end in range(len(piece) - 1, 0, -1) if piece[:end] in ids), IGNORED)
        for piece in pieces
    )
    return torch.tensor(list(found))


def _pieces(tokenizer: Tokenizer, vocab_size: int) -> list[bytes]:
    """Returns the bytes of each token after another one, with its space; none for one without text."""
    every, without_text = range(vocab_size), tokenizer.byte_counts.is_boundary
    pieces = [tokenizer.bytes_of(index) for index in every]
    open_ids = [index for index in every if pieces[index] is None and not without_text[index]]
    # Their text depends on what comes before: a token with text, which keeps spaces.
    before = next(([index] for index in open_ids if tokenizer.decode([index]).strip()), [])
    start = len(tokenizer.decode(before))
    for index in open_ids:
        pieces[index] = tokenizer.decode([*before, index])[start:].encode()
    return [piece or b"" for piece in pieces]


def _fraction(module: Any) -> float | None:
    progress = module.run.clock.progress(module.trainer.global_step, module.trainer.max_steps)
    fraction: float | None = progress.fraction
    return fraction


def _falling(share: float) -> float:
    """Returns 1 before a fall, 0 after it, and what is left at a share of it."""
    return min(max(1 - share, 0.0), 1.0)
