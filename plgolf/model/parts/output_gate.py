"""A gate on the output of each attention head (https://arxiv.org/abs/2505.06708; record 2026-04-27)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from plgolf.errors import UserError
from plgolf.model.linear import CastLinear
from plgolf.model.parts.ports import HeadPart, PartConfig, Shape
from plgolf.roles import Role


@dataclass(frozen=True, kw_only=True)
class OutputGateConfig(PartConfig):
    """Settings of the gate on the heads of attention.

    Args:
        layers: layers that have it.
        window: number of first channels of the layer's input that the gates depend on.
        scale: multiplies the input of the sigmoid.
    """

    layers: str = "all"
    window: int = 12
    scale: float = 0.5

    def check(self, shape: Shape) -> None:
        if not 1 <= self.window <= shape.dim:
            raise UserError(f"window must be from 1 to the width {shape.dim}, got {self.window}")
        if not (math.isfinite(self.scale) and self.scale):
            raise UserError(f"scale must be finite and not 0, got {self.scale}")

    def build(self, shape: Shape) -> "OutputGate":
        return OutputGate(shape, self)


class OutputGate(HeadPart):
    """Multiplies each head by a factor from 0 to 1 that depends on the position's input; 1/2 at the start."""

    role = Role.SCALAR

    def __init__(self, shape: Shape, config: OutputGateConfig) -> None:
        super().__init__()
        self.window, self.scale = config.window, config.scale
        self.proj = CastLinear(config.window, shape.num_heads, zero_init=True)

    def forward(self, y: Tensor, own_v: Tensor, x: Tensor) -> Tensor:
        return y * torch.sigmoid(self.scale * self.proj(x[..., : self.window])).unsqueeze(-1)
