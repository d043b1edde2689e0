"""Root-mean-square normalisation without a learned gain (https://arxiv.org/abs/1910.07467)."""

import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor) -> Tensor:
    """Scales the last axis of (..., dim) to unit root mean square; keeps shape and dtype."""
    return F.rms_norm(x, (x.size(-1),))
