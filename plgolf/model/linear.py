"""A linear map whose weight stays float32 and is cast at use."""

import torch.nn.functional as F
from torch import Tensor, nn


class CastLinear(nn.Linear):
    """A bias-free linear map that computes in the dtype of its input.

    The float32 weight is the optimizer's master copy; the cast costs one pass over the weight.
    """

    def __init__(self, in_features: int, out_features: int, *, zero_init: bool = False) -> None:
        super().__init__(in_features, out_features, bias=False)
        if zero_init:
            nn.init.zeros_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))
