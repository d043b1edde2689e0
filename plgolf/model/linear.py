"""A linear map with a float32 weight that is cast for each product."""

import torch.nn.functional as F
from torch import Tensor, nn


class CastLinear(nn.Linear):
    """A linear map without bias that computes in the dtype of its input.

    The float32 weight is the optimizer's master copy; the cast costs one pass over the weight.

    Args:
        in_features: channels of the input.
        out_features: channels of the output.
        zero_init: True if ``initialise`` sets the weight to 0.
        gain: factor on other initial values.
    """

    initial_std: float | None = None
    """Standard deviation of the initial weight, if ``initialise`` makes it normal."""

    def __init__(
        self, in_features: int, out_features: int, *, zero_init: bool = False, gain: float = 1.0
    ) -> None:
        super().__init__(in_features, out_features, bias=False)
        self.zero_init, self.gain = zero_init, gain

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """Maps (..., positions, in_features) to (..., positions, out_features), in the dtype of ``x``.

        ``scale``, float32 (out_features,), multiplies the output; None for 1.
        """
        if scale is None:
            return F.linear(x, self.weight.to(x.dtype))
        if x.size(-2) == 1:  # In generation, scaling the weight would take as long as the product.
            return scale.to(x.dtype) * F.linear(x, self.weight.to(x.dtype))
        # Scaling the weight makes the scale's gradient a sum over the weight's gradient, cheaper than a sum
        # over all positions.
        return F.linear(x, (scale[:, None] * self.weight).to(x.dtype))
