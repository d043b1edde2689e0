"""The loss of further targets of each position, beside the next token."""

from typing import NamedTuple

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

    def of(self, logits: Tensor) -> Tensor:
        """Returns the weighted sum of the losses at each position, float32 (batch * time,), in nats.

        Args:
            logits: float32 (batch, time, vocab).
        """
        rows, ids = logits.flatten(0, 1), self.target_ids.flatten(1).T
        losses = rows.logsumexp(-1, keepdim=True) - rows.gather(1, ids.clamp(min=0))
        return torch.where(ids == IGNORED, 0.0, losses * self.weights).sum(-1)
