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

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """Maps (..., positions, in_features) to (..., positions, out_features).

        Args:
            x: decides the dtype.
            scale: float32 (out_features,), what the result is multiplied by; None for nothing.
        """
        weight = self.weight
        if scale is None:
            return F.linear(x, weight.to(x.dtype))
        if x.size(-2) == 1:  # In generation, a pass over the weight would take as long as the product.
            return scale.to(x.dtype) * F.linear(x, weight.to(x.dtype))
        # Otherwise the scale's gradient would be a sum over products of all positions; so it is one over the
        # weight's gradient.
        return F.linear(x, (scale[:, None] * weight).to(x.dtype))
