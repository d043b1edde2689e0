"""Root-mean-square normalisation without a weight (https://arxiv.org/abs/1910.07467)."""

import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor) -> Tensor:
    """Scales the last axis to unit root mean square; the dtype of the input is kept."""
    return F.rms_norm(x, (x.size(-1),))
