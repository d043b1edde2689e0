"""Weight decay of chosen weights only; imported where a recipe asks for it."""

from collections.abc import Sequence

import torch
from torch import Tensor


def decay_cautiously(params: Sequence[Tensor], updates: Sequence[Tensor], rate: float) -> None:
    """Takes a share of the weights that a step moves towards 0 as well, or leaves as they are.

    Cautious weight decay (https://arxiv.org/abs/2510.12402): p -= rate * p where update * p >= 0.

    Args:
        params: weights before the step, changed in place.
        updates: what the step will subtract, of any positive scale.
        rate: learning rate times weight decay.
    """
    for p, update in zip(params, updates, strict=True):
        p.sub_(torch.where(update * p >= 0, p, 0), alpha=rate)
