"""The MLP of each position, with squared ReLU (https://arxiv.org/abs/2109.08668)."""

from dataclasses import dataclass, replace
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from plgolf.config import newer
from plgolf.errors import UserError
from plgolf.model.linear import CastLinear

_MAX_HIDDEN_DIM = 2**20


@dataclass(frozen=True, kw_only=True)
class MLPConfig:
    """Settings of every MLP.

    Args:
        expansion: hidden width as a multiple of the model width.
        expansions: hidden widths of the layers, one number per layer; null for ``expansion`` in all.
        activation: ``relu2``, or ``leaky_relu2``, which squares a ReLU with slope 1/2 below 0.
    """

    expansion: float = 2.0
    expansions: list[float] | None = newer(None)
    activation: Literal["relu2", "leaky_relu2"] = newer("relu2")

    def of_layers(self, num_layers: int) -> list["MLPConfig"]:
        """Returns the settings of each layer; raises a UserError if ``expansions`` are not one per layer."""
        if self.expansions is None:
            return [self] * num_layers
        if len(self.expansions) != num_layers:
            raise UserError(f"expansions must be {num_layers} numbers, one per layer, got {self.expansions}")
        return [replace(self, expansion=each, expansions=None) for each in self.expansions]

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
        self.slope = 0.5 if config.activation == "leaky_relu2" else 0.0
        hidden_dim = config.hidden_dim(dim)
        self.up_proj = CastLinear(dim, hidden_dim)
        self.down_proj = CastLinear(hidden_dim, dim, zero_init=True)

    def forward(self, x: Tensor, *, scale: Tensor | None = None) -> Tensor:
        """Maps the normalised stream (..., dim), keeping its dtype; ``scale`` (dim,) multiplies it."""
        hidden = self.up_proj(x)
        hidden = F.leaky_relu(hidden, self.slope) if self.slope else F.relu(hidden)
        y: Tensor = self.down_proj(hidden.square(), scale)
        return y
