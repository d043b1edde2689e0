"""The MLP of each position, with squared ReLU (https://arxiv.org/abs/2109.08668)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plgolf.errors import UserError
from plgolf.model.linear import CastLinear

_MAX_HIDDEN_DIM = 2**20


@dataclass(frozen=True, kw_only=True)
class MLPConfig:
    """Settings of every MLP.

    Args:
        expansion: hidden width as a multiple of the model width.
    """

    expansion: float = 2.0

    def hidden_dim(self, dim: int) -> int:
        """Returns the hidden width at model width ``dim``, which must be a whole number from 1 to 2**20."""
        hidden = float(self.expansion * dim)
        if not (hidden.is_integer() and 1 <= hidden <= _MAX_HIDDEN_DIM):
            raise UserError(
                f"expansion must give a whole hidden width, got {self.expansion} x {dim} = {hidden}"
            )
        return int(hidden)


class MLP(nn.Module):
    """Maps each position to the hidden width, applies the squared ReLU, and maps back."""

    def __init__(self, dim: int, config: MLPConfig) -> None:
        super().__init__()
        hidden_dim = config.hidden_dim(dim)
        self.up_proj = CastLinear(dim, hidden_dim)
        self.down_proj = CastLinear(hidden_dim, dim, zero_init=True)

    def forward(self, x: Tensor, *, scale: Tensor | None = None) -> Tensor:
        """Maps the normalised stream (..., dim), keeping its dtype; ``scale`` (dim,) multiplies it."""
        y: Tensor = self.down_proj(torch.relu(self.up_proj(x)).square(), scale)
        return y
