"""The loss of further targets of each position, beside the next token."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from plgolf.model.token_ids import IGNORED


class Further(NamedTuple):
    """Further targets, and what their losses weigh.

    Args:
        target_ids: token ids, int64 (kinds, batch, time); -100 to leave a position out.
        weights: weights of the kinds, float32 (kinds,). They are a tensor so that a compiled model takes new
            ones without another compilation.
    """

    target_ids: Tensor
    weights: Tensor

    def losses(self, logits: Tensor, reduction: Literal["mean", "none"]) -> Tensor:
        """Returns the weighted sum of the losses, in nats.

        Args:
            logits: float32 (batch, time, vocab).
            reduction: ``mean`` over all positions, (), or ``none``, (batch * time,).
        """
        rows, ids = logits.flatten(0, 1), self.target_ids.flatten(1).T
        losses = rows.logsumexp(-1, keepdim=True) - rows.gather(1, ids.clamp(min=0))
        each = torch.where(ids == IGNORED, 0.0, losses * self.weights).sum(-1)
        return each.mean() if reduction == "mean" else each
