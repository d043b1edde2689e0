"""A gate on what a layer adds to the stream (an option of record 2026-03-22)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plgolf.errors import UserError
from plgolf.model.linear import CastLinear
from plgolf.model.parts.ports import LayerPart, PartConfig, Shape
from plgolf.roles import Role


@dataclass(frozen=True, kw_only=True)
class DepthGateConfig(PartConfig):
    """Settings of the gate on a layer.

    Args:
        layers: layers that have it.
        bias: initial input of the gate's sigmoid, whatever the position: 2 lets 0.88 of the layer through.
    """

    layers: str = "all"
    bias: float = 2.0

    def check(self, shape: Shape) -> None:
        if not math.isfinite(self.bias):
            raise UserError(f"bias must be finite, got {self.bias}")

    def build(self, shape: Shape) -> "DepthGate":
        return DepthGate(shape.dim, self.bias)


class DepthGate(LayerPart):
    """Multiplies what a layer adds by a factor, from 0 to 1, that depends on the position's input.

    The gate learns, but the input does not learn from the gate.
    """

    role = Role.SCALAR

    def __init__(self, dim: int, bias: float) -> None:
        super().__init__()
        self.proj = CastLinear(dim, 1, zero_init=True)
        self.bias = nn.Parameter(torch.tensor([bias]))

    def forward(self, out: Tensor, x: Tensor) -> Tensor:
        return torch.lerp(x, out, torch.sigmoid(self.proj(x.detach()) + self.bias.to(x.dtype)))
